"""``medprov-ledger gc`` and ``copies``: what the store of a configuration keeps, and how often."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import terminal
from .errors import StoreError

if TYPE_CHECKING:
    from .config import Config
    from .replicated_store import Copies

NAMES = ("gc", "copies")


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add both commands to a parser's."""
    text = "remove blocks of a store's folder that no pin keeps: what cut writes and --unpin left behind"
    collect = commands.add_parser("gc", help=text, description=text)
    collect.add_argument("--unpin", action="append", default=[], metavar="CID", help="first give up this file")
    text = "read files back from every IPFS daemon; exit status 1 where one has fewer copies than store.copies"
    copies = commands.add_parser("copies", help=text, description=text)
    copies.add_argument("cid", nargs="+", metavar="CID")
    copies.add_argument("--repair", action="store_true", help="store missing copies")
    for command in (collect, copies):
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)"
        )


def run(options: argparse.Namespace) -> int:
    """Run one of :data:`NAMES`.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    LedgerError
    """
    from .config import Config

    config = Config.load(options.config)
    if options.command == "gc":
        return _collect(config, options.unpin)
    return _copies(config, options.cid, options.repair)


def _collect(config: Config, unpin: Sequence[str]) -> int:
    from . import cid
    from .store import BlockStore, open_store

    store = open_store(config)
    for name in unpin:
        cid.parse(name)
    for name in unpin:
        store.unpin(name)
    if not isinstance(store, BlockStore):
        if not unpin:
            raise StoreError(f"{config.path}: IPFS daemons remove blocks by themselves; run 'ipfs repo gc' there")
        terminal.say(f"{len(unpin)} unpinned; 'ipfs repo gc' at each daemon removes the blocks")
        return 0
    found = store.collect()
    line = f"{store.path}: {found.blocks} blocks ({found.size} bytes) and {found.unfinished} cut writes removed"
    terminal.say(f"{line}, {found.kept} blocks of {found.pins} files kept", done="what is not pinned is removed")
    return 0


def _copies(config: Config, names: Sequence[str], repair: bool) -> int:
    from . import cid
    from .ipfs_store import IpfsStore
    from .replicated_store import ReplicatedStore

    if config.store.kind != "ipfs":
        raise StoreError(f"{config.path}: store.kind is {config.store.kind!r}; only IPFS daemons hold copies")
    daemons = [IpfsStore(api, config.timeout) for api in config.store.daemons]
    store = ReplicatedStore(daemons, config.store.copies)
    for name in names:
        cid.parse(name)
    enough = True
    for name in names:
        found = store.repair(name) if repair else store.status(name)
        enough &= found.enough
        terminal.say("\n".join(_lines(found)))
    return 0 if enough else 1


def _lines(found: Copies) -> list[str]:
    lines = [f"{found.name}  {len(found.holders)} of {found.wanted} copies"]
    lines += [f"  {api}  read back" for api in found.holders]
    return lines + [f"  {api}  {why}" for api, why in found.problems.items()]
