"""The commands of ``medprov-coordinator`` that look at a run: watch, serve, audit."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import terminal

if TYPE_CHECKING:
    from medprov_coordinator.watch.chain_view import ChainView
    from medprov_coordinator.watch.run_folder import RunFolder

NAMES = ("watch", "serve", "audit")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's parser."""
    watch = commands.add_parser("watch", help="follow a run in the terminal")
    watch.add_argument("--once", action="store_true", help="print the present state and end")
    watch.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    audit = commands.add_parser("audit", help="check the audit log against the rounds' records and the chain")
    audit.add_argument("--json", action="store_true", help="print one JSON object")
    serve = commands.add_parser("serve", help="show a run as a web page, with Prometheus metrics")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8090, help="0 takes a free one (8090)")
    serve.add_argument(
        "--explorer", default="", metavar="URL", help="a transaction's address in a block explorer, with {transaction}"
    )
    for command in (watch, serve, audit):
        command.add_argument("--dir", type=Path, required=True, help="folder of the run")
        command.add_argument("--config", type=Path, help="medprov.toml: ask the chain, name the members")


def run(options: argparse.Namespace) -> int:
    """Run one of :data:`NAMES`; gives the exit status.

    Raises
    ------
    CoordinatorError, LedgerError
    """
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from medprov_coordinator.watch.chain_view import ChainView
    from medprov_coordinator.watch.run_folder import RunFolder

    folder = RunFolder(options.dir)
    chain = ChainView.load(options.config) if options.config else None
    if options.command == "watch":
        from medprov_coordinator.watch.terminal_view import watch

        # Ctrl-C is how one stops looking, and it stops nothing else
        with contextlib.suppress(KeyboardInterrupt):
            watch(folder, chain, once=options.once, every=options.every)
        return 0
    if options.command == "serve":
        from medprov_coordinator.watch.page import serve

        with contextlib.suppress(KeyboardInterrupt):
            serve(folder, chain, options.host, options.port, options.explorer)
        return 0
    return _audit(options, folder, chain)


def _audit(options: argparse.Namespace, folder: RunFolder, chain: ChainView | None) -> int:
    from medprov_coordinator.watch.comparison import compare
    from medprov_coordinator.watch.words import clean

    found = compare(folder, chain.refresh() if chain else None)
    if options.json:
        terminal.say(json.dumps(found.to_json(), indent=1))
    else:
        lines = [f"audit log  {found.entries} lines, head {found.head}"]
        if found.crashes:
            lines.append(
                f"crashes    {found.crashes} unfinished lines were cut off, kept beside the log and noted in it"
            )
        lines.append(f"rounds     {found.rounds} records" + (f", {found.anchored} anchored" if chain else ""))
        if found.waiting:
            lines.append(f"waiting    for the anchor: {', '.join(map(str, found.waiting))}")
        lines += [f"note       {clean(note)}" for note in found.notes]
        lines += [f"differs    {clean(difference)}" for difference in found.differences]
        lines.append("everything agrees" if not found.differences else f"{len(found.differences)} differences")
        terminal.say("\n".join(lines))
    if found.differences:
        terminal.complain(f"medprov-coordinator: {clean(found.differences[0])}")
        return 1
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0.1 to 3600 seconds")
    return value
