"""The command ``medprov-ledger audit``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from . import terminal

if TYPE_CHECKING:
    from .audit import Audit

NAME = "audit"


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line's parser."""
    text = "compare chain, manifests, store, outboxes and wrapped keys; exit status 1 where they differ"
    command = commands.add_parser(NAME, help=text, description=text)
    command.add_argument("--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status.

    Raises
    ------
    LedgerError
    """
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from .audit import audit
    from .chain import Chain
    from .config import Config
    from .federation import Federation
    from .registry import Registry
    from .store import open_store

    config = Config.load(options.config)
    chain = Chain.connect(config)
    found = audit(Registry(chain), Federation(chain), open_store(config), list(config.hospitals.values()))
    terminal.say(json.dumps(found.to_json(), indent=1) if options.json else _text(found), done="the audit is done")
    return 1 if found.differences else 0


def _text(found: Audit) -> str:
    lines = [
        f"chain          {found.anchors} batches with {found.records} records",
        f"pictures here  {found.confirmed} confirmed, {found.waiting} on their way",
        f"bundles        {found.opened} opened, {found.erased} without a key here",
        f"differences    {len(found.differences)}",
    ]
    return "\n".join(lines + [f"  {one.where}: {one.what}" for one in found.differences])
