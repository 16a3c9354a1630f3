"""The commands of ``medprov-node`` for the training: request, join, vote, approve-app."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medprov_ledger import terminal
from medprov_ledger.config import Config
from medprov_node.errors import JoinError

NAMES = ("request", "join", "vote", "approve-app")
_MOTIONS = ("join", "leave", "suspend", "resume")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's parser."""
    request = commands.add_parser(
        "request",
        help="make this hospital's keys and the request to take part in the training",
        description="Make node key, account and reader key, and request.json for the coordinator, which holds no "
        "secret. A hospital that is a member already names its --config and makes a node key only.",
    )
    request.add_argument("folder", type=Path, metavar="FOLDER", help="where keys and request go")
    request.add_argument("--name", metavar="NAME", help="the hospital's name, for a new member")
    join = commands.add_parser(
        "join",
        help="take part in the training until stopped",
        description="Connect to the coordinator and train on this hospital's images when asked to. The first time with "
        "--kit, --images and --home, which writes node.toml; then with that file.",
    )
    join.add_argument("--kit", type=Path, metavar="KIT", help="start kit from the coordinator")
    join.add_argument("--images", type=Path, metavar="DIR", help="folder of the images that shall train")
    join.add_argument("--home", type=Path, metavar="FOLDER", help="folder of 'medprov-node request'")
    join.add_argument("--federation", metavar="ID", help="refuse a kit for another federation than this")
    join.add_argument("--no-start", action="store_true", help="only check the kit and write node.toml")
    vote = commands.add_parser("vote", help="vote on who is a member")
    vote.add_argument("motion", choices=_MOTIONS)
    vote.add_argument("whom", metavar="WHOM", help="join: the file request.json; else a member's account or name")
    approve = commands.add_parser("approve-app", help="approve an app bundle for the training")
    approve.add_argument("hash", metavar="HASH", help="what 'medprov-coordinator bundle' prints")
    for command in (request, vote, approve):
        command.add_argument("--hospital", metavar="NAME", help="whose (default: the configuration's first)")
        command.add_argument("--config", type=Path, metavar="FILE", help="medprov.toml")
    join.add_argument(
        "--config", type=Path, metavar="FILE", help="node.toml; with --kit a former member's medprov.toml"
    )
    for command in (request, join, vote, approve):
        command.add_argument("--json", action="store_true", help="print JSON objects, one a line")


def run(options: argparse.Namespace) -> int:
    """Run one of :data:`NAMES`; gives the exit status.

    Raises
    ------
    NodeError, LedgerError, OSError
    """
    return {"request": _request, "join": _join, "vote": _vote, "approve-app": _approve}[options.command](options)


def _request(options: argparse.Namespace) -> int:
    from medprov_node.cli import choose
    from medprov_node.joining import enrolling

    if (options.name is None) == (options.config is None):
        raise JoinError("request: give --name for a new member, or --config (and --hospital) for one that has its keys")
    member = None if options.config is None else choose(Config.load(options.config), options.hospital)[0]
    made = enrolling.request(options.folder, options.name, member)
    file = options.folder / enrolling.REQUEST
    lines = [
        f"{made.name} ({made.address})",
        f"  request    {file}: send it to the coordinator; no secret is in it",
        f"  keys       {options.folder}: keep them, and back them up",
    ]
    _say(options, {"name": made.name, "address": made.address, "request": str(file)}, lines)
    return 0


def _join(options: argparse.Namespace) -> int:
    from medprov_node.joining.config import Site

    if options.kit is not None:
        site = _take(options)
    elif options.config is None:
        raise JoinError("join: name node.toml with --config, or the first time --kit, --images and --home")
    else:
        site = Site.load(options.config)
    if options.no_start:
        return 0
    # imported here and not above: it takes seconds, in which Ctrl-C is no error either
    from medprov_node.joining.join import join

    def say(kind: str, text: str) -> None:
        line = json.dumps({"kind": kind, "text": text}) if options.json else f"{kind:12} {text}"
        terminal.say(line, done="the same command joins again")

    join(site, say)
    return 0


def _take(options: argparse.Namespace) -> Any:
    from medprov_node.joining import enrolling

    if options.images is None or options.home is None:
        raise JoinError("join: --kit needs --images and --home")
    wanted = None
    if options.federation is not None:
        try:
            wanted = bytes.fromhex(options.federation.removeprefix("0x"))
        except ValueError:
            raise JoinError(f"{options.federation[:80]}: is no federation's id; 64 hexadecimal digits are") from None
    site, kit = enrolling.take(options.kit, options.home, options.images, config=options.config, federation_id=wanted)
    lines = [
        f"{site.path}: written; the next time 'medprov-node join --config {site.path}'",
        f"  federation {kit.federation_name}, 0x{kit.federation_id.hex()}",
        f"  signed by  {kit.signer}: compare both with what the coordinator says by another way",
    ]
    values = {"config": str(site.path), "federation": f"0x{kit.federation_id.hex()}", "signer": kit.signer}
    _say(options, values, lines)
    return site


def _vote(options: argparse.Namespace) -> int:
    from medprov_node.cli import choose
    from medprov_node.joining.voting import vote

    config = Config.load(options.config)
    house = choose(config, options.hospital)[0]
    address, carried, threshold = vote(options.motion, options.whom, house, config)
    told = "decided" if carried else f"voted; {threshold} votes are needed"
    values = {"motion": options.motion, "address": address, "decided": carried, "threshold": threshold}
    _say(options, values, [f"{options.motion:12} {address}: {told}"])
    return 0


def _approve(options: argparse.Namespace) -> int:
    from medprov_node.cli import choose
    from medprov_node.joining.voting import approve_app

    config = Config.load(options.config)
    house = choose(config, options.hospital)[0]
    released, threshold = approve_app(options.hash, house, config)
    told = "released" if released else f"not released; {threshold} approvals are needed"
    _say(options, {"bundle": options.hash, "released": released, "threshold": threshold}, [f"{options.hash}: {told}"])
    return 0


def _say(options: argparse.Namespace, values: dict[str, Any], lines: list[str]) -> None:
    terminal.say(json.dumps(values) if options.json else "\n".join(lines))
