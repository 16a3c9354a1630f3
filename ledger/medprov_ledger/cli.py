"""Command line ``medprov-ledger``: the development federation up, down, and how it is; what a store keeps."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from . import audit_command, model_commands, store_commands, terminal, title_commands
from .errors import LedgerError

if TYPE_CHECKING:
    from .development import Status
    from .embedded import Embedded

DEFAULT_FOLDER = Path(".medprov")
_STOPPED = "stopped; its state is kept"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 done (``status``: the chain is up), 1 not (one line on standard error), 2 wrong usage.
    """
    terminal.prepare()
    try:
        return _run(terminal.parse(_parser(), arguments))
    except LedgerError as error:
        terminal.complain(f"medprov-ledger: {error}")
        return 1
    except KeyboardInterrupt:
        terminal.complain("medprov-ledger: interrupted")
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.command in store_commands.NAMES:
        return store_commands.run(options)
    if options.command == audit_command.NAME:
        return audit_command.run(options)
    if options.command == title_commands.NAME:
        return title_commands.run(options)
    if options.command == model_commands.NAME:
        return model_commands.run(options)
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from . import development

    try:
        if options.command == "up":
            if not options.wait:
                return _up(options.dir, options.model, options.ipfs)
            with _stop_signals() as stopped:
                return _up(options.dir, options.model, options.ipfs) or _wait(options.dir, stopped)
        if options.command == "down":
            return _down(options.dir)
        _show(development.status(options.dir))
    except OSError as error:
        raise LedgerError(f"{error.filename or options.dir}: {error.strerror or error}") from error
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medprov-ledger", description="A development federation on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "up": "start the chain; the first time also deploy the contracts and make three hospitals",
        "down": "stop the chain and keep its state",
        "status": "show chain, contracts, members and counts; exit status 1 where it is down",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--dir", type=Path, default=DEFAULT_FOLDER, help="folder of the federation (default: %(default)s)"
        )
        if name == "up":
            command.add_argument(
                "--model",
                type=_hash,
                metavar="HASH",
                help="release this model only: SHA-256 of a weights file, 64 hexadecimal digits "
                "(default: every model that an installed package brings along)",
            )
            command.add_argument(
                "--ipfs",
                metavar="MULTIADDR",
                help="a new federation's store is this IPFS daemon, /ip4/HOST/tcp/PORT/http (default: a folder)",
            )
            command.add_argument(
                "--wait", action="store_true", help="stay until SIGTERM or SIGINT, then take it down (for containers)"
            )
    store_commands.add_to(commands)
    audit_command.add_to(commands)
    title_commands.add_to(commands)
    model_commands.add_to(commands)
    return parser


def _hash(text: str) -> bytes:
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text) or not int(text, 16):
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits, not all zero")
    return bytes.fromhex(text.removeprefix("0x"))


def _up(folder: Path, model: bytes | None, ipfs: str | None) -> int:
    from . import development, models

    released, problems = ([model], []) if model is not None else models.offered()
    # a federation without a released model is still good for training one
    for problem in problems:
        terminal.complain(f"medprov-ledger: {problem}")
    done = development.up(folder, released, ipfs)
    said = {"running": "already running", "restarted": "started on its saved state", "created": "created"}
    lines = [f"{folder}: {said[done.state]}", _chain_line(done.chain)]
    lines.append(f"configuration  {done.config.path} (verifiers: {done.config.path.with_name(development.VERIFIER)})")
    lines += [f"model          {one.hex()} is released" for one in released]
    terminal.say("\n".join(lines), done="the federation is up")
    return 0


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT came; neither ends the process meanwhile, not even while the chain is started."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(folder: Path, stopped: Callable[[], bool]) -> int:
    from . import development

    terminal.say(f"{folder}: waiting for SIGTERM or SIGINT", done="the federation is up")
    ours = development.wait(folder, stopped)
    terminal.say(f"{folder}: {_STOPPED if ours else 'was stopped by another command'}", done="the chain is stopped")
    return 0


def _down(folder: Path) -> int:
    from . import development

    stopped = development.down(folder)
    terminal.say(f"{folder}: {_STOPPED if stopped else 'was not running'}", done="the chain is stopped")
    return 0


def _show(found: Status) -> None:
    store = found.config.store
    place = f"{store.path} ({found.blocks} files)" if store.kind == "blocks" else ", ".join(store.daemons)
    lines = [
        _chain_line(found.chain),
        f"block          {found.block}",
        f"federation     {found.config.federation_address} ({found.config.federation_name})",
        f"registry       {found.config.registry_address}",
        f"members        {len(found.members)}, {found.threshold} must agree",
    ]
    for address, name in found.members.items():
        lines.append(f"  {name:<12} {address}" if name != address else f"  {address}")
    lines += [
        f"store          {store.kind}, {place}",
        f"records        {found.records} in {found.batches} batches, {found.registrations} single",
        f"rounds         {found.rounds}",
        f"models         {found.models} released",
    ]
    terminal.say("\n".join(lines))


def _chain_line(chain: Embedded) -> str:
    from .embedded import CHAIN_ID

    return f"chain          {chain.kind}, {chain.rpc}, chain id {CHAIN_ID}, process {chain.pid}"


if __name__ == "__main__":
    sys.exit(main())
