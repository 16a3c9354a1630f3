"""``medprov-coordinator``: federated rounds, as a service for hospitals elsewhere or in one process over folders."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_coordinator import anchor_command
from medprov_coordinator.deployment import commands as deployment
from medprov_coordinator.errors import CoordinatorError, PendingError, SettingsError
from medprov_coordinator.watch import commands as watching
from medprov_ledger import terminal
from medprov_ledger.config import Config
from medprov_ledger.errors import LedgerError
from medprov_watermark.errors import WatermarkError

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from medprov_coordinator.grid import Scalar
    from medprov_coordinator.round import Event
    from medprov_coordinator.run import FederationResult

DEFAULT_CLIENT = "medprov_node.client_app:app"
SAID = {"started", "resumed", "absent", "members", "moments", "screened", "refused", "pending", "anchored", "round"}
"""Events that are shown to people."""


def load_client(name: str) -> ClientApp:
    """Import a ClientApp by ``module:attribute``; the coordinator itself knows no node code.

    Raises
    ------
    SettingsError
        No such module or attribute, or something else than a ClientApp.
    """
    from flwr.clientapp import ClientApp

    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"{name}: no ClientApp there ({error}): install medprov-node or name another") from error
    if not isinstance(found, ClientApp):
        raise SettingsError(f"{name}: a {type(found).__name__}, not a Flower ClientApp")
    return found


def node_configs(images: Sequence[str], config: Path | None) -> list[dict[str, Scalar]]:
    """Configuration of each node from the ``--images`` arguments.

    ``NAME=FOLDER`` names the hospital whose key signs; with a configuration file plain folders take the file's
    hospitals in the order of their names.

    Raises
    ------
    SettingsError
        A folder is not there, or there are more folders than hospitals.
    """
    known = sorted(Config.load(config).hospitals) if config else []
    out: list[dict[str, Scalar]] = []
    for text in images:
        name, equals, rest = text.partition("=")
        if not equals or Path(text).is_dir():
            name, rest = "", text
        folder = Path(rest)
        if not folder.is_dir():
            raise SettingsError(f"{folder}: no such folder of images")
        node: dict[str, Scalar] = {"images": str(folder.resolve())}
        if config:
            free = [k for k in known if k not in {str(n["hospital"]) for n in out}]
            if not free:
                raise SettingsError(f"{config}: keys of {len(known)} hospitals, but {len(images)} folders were given")
            node["hospital"] = name or free[0]
            node["medprov-config"] = str(config.resolve())
            if node["hospital"] not in free:
                raise SettingsError(f"{text}: hospital '{name}' has no key in {config} or was named twice")
        out.append(node)
    return out


def _parser() -> argparse.ArgumentParser:
    from medprov_coordinator.aggregation import RULES
    from medprov_watermark.training import tasks
    from medprov_watermark.training.encoding import TYPES

    parser = argparse.ArgumentParser(prog="medprov-coordinator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run or resume federated rounds on this machine")
    run.add_argument(
        "--images", action="append", required=True, metavar="[NAME=]FOLDER", help="a hospital's images; one each"
    )
    run.add_argument("--dir", type=Path, required=True, help="folder for checkpoints; goes on where it stands")
    run.add_argument("--task", choices=tasks.names(), default="watermark", help="what is trained (watermark)")
    run.add_argument("--rounds", type=int, default=3, help="rounds that the federation is to have (3)")
    run.add_argument("--steps", type=int, default=50, help="optimiser steps of each hospital in a round (50)")
    run.add_argument("--batch", type=int, default=8)
    run.add_argument("--rate", type=float, default=1e-3, help="learning rate (0.001)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--channels", type=int, default=64)
    run.add_argument("--blocks", type=int, default=3)
    run.add_argument("--extractor-blocks", type=int, default=4)
    run.add_argument("--quorum", type=int, help="fewest accepted updates (more than half of the hospitals)")
    run.add_argument("--deadline", type=float, default=3600.0, help="seconds for the replies of a round (3600)")
    run.add_argument("--rule", choices=RULES, default="mixed", help="aggregation from five hospitals on (mixed)")
    run.add_argument("--probe-pictures", type=int, default=16)
    run.add_argument(
        "--encoding", choices=sorted(TYPES), default="float32", help="how hospitals send their updates (float32)"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of the run (docs/configuration.md)",
    )
    run.add_argument("--start", type=Path, help="safetensors file to start from")
    run.add_argument(
        "--workers",
        type=int,
        default=0,
        help="hospitals that train at once, each in a process of its own (Flower's simulation engine); 0: one after the"
        " other in this process (0)",
    )
    run.add_argument("--config", type=Path, help="medprov.toml: sign updates, publish and anchor rounds")
    run.add_argument("--anchor-as", default="", help="hospital whose account anchors (the first in the file)")
    run.add_argument("--client", default=DEFAULT_CLIENT, metavar="MODULE:ATTRIBUTE")
    run.add_argument("--json", action="store_true", help="print the result as one JSON object")
    run.add_argument("-v", "--verbose", action="store_true")
    anchor_command.add(commands)
    deployment.add(commands)
    watching.add(commands)
    return parser


def _result(result: FederationResult) -> dict[str, object]:
    return {
        "rounds": result.number,
        "resumed_from": result.resumed_from,
        "model": result.model_hash.hex(),
        "checkpoint": str(result.checkpoint) if result.checkpoint else None,
        "added": [
            {
                "round": r.number,
                "model": r.model,
                "accepted": [u.node for u in r.updates],
                "rejected": [vars(x) for x in r.rejected],
                "rule": r.rule,
                "note": r.note,
                "probe": dict(r.probe),
                "train": dict(r.train),
                "evaluate": dict(r.evaluate),
                "cid": r.cid,
                "transaction": r.transaction,
            }
            for r in result.rounds
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 0 on success, 1 on an error that the user can mend, 2 on a wrong call, 3 where rounds still wait."""
    terminal.prepare()
    options = argparse.Namespace()
    try:
        options = terminal.parse(_parser(), arguments)
        if options.command in deployment.NAMES:
            return deployment.run(options)
        if options.command in watching.NAMES:
            return watching.run(options)
        if options.command == anchor_command.NAME:
            anchor_command.run(options)
        else:
            _run(options)
    except PendingError as error:
        terminal.complain(f"medprov-coordinator: {error}")
        return 3
    except (CoordinatorError, LedgerError, WatermarkError) as error:
        terminal.complain(f"medprov-coordinator: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.complain("medprov-coordinator: stopped; the same command goes on at the last round")
        if getattr(options, "workers", 0) and (engine := sys.modules.get("medprov_coordinator.simulation")):
            engine.leave(130)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    # imported here and not above: torch and Flower take seconds, in which Ctrl-C is no error either
    from medprov_coordinator.connect import connect
    from medprov_coordinator.round import Services
    from medprov_coordinator.run import run_federation
    from medprov_coordinator.run_config import RunConfig, read_settings

    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    logging.getLogger("flwr").setLevel(logging.INFO if options.verbose else logging.ERROR)

    def say(event: Event) -> None:
        if not options.json and event.kind in SAID:
            terminal.say(f"{event.kind:9} {event.text}", done="the same command goes on at the last round")

    nodes = node_configs(options.images, options.config)
    flat: dict[str, Scalar] = {
        "task": options.task,
        "rounds": options.rounds,
        "local-steps": options.steps,
        "batch": options.batch,
        "rate": options.rate,
        "seed": options.seed,
        "channels": options.channels,
        "blocks": options.blocks,
        "extractor-blocks": options.extractor_blocks,
        "quorum": options.quorum or len(nodes) // 2 + 1,
        "deadline": options.deadline,
        "rule": options.rule,
        "probe-pictures": options.probe_pictures,
        "encoding": options.encoding,
    }
    config = RunConfig.from_flat(flat | read_settings(options.set))
    client = load_client(options.client)
    services = connect(str(options.config), options.anchor_as) if options.config else Services()
    result = run_federation(
        client,
        nodes,
        config,
        folder=options.dir,
        initial=options.start,
        services=replace(services, on_event=say),
        workers=options.workers,
    )
    if options.json:
        text = json.dumps(_result(result), indent=1)
    else:
        text = f"model     {result.model_hash.hex()}\nweights   {result.checkpoint}"
    terminal.say(text, done=f"all {result.number} rounds are in {options.dir}")


if __name__ == "__main__":
    sys.exit(main())
