"""The command ``medprov-coordinator anchor``: anchors the rounds of a folder that wait, and trains nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medprov_ledger import terminal

if TYPE_CHECKING:
    from medprov_coordinator.checkpoint import PendingAnchor, State
    from medprov_coordinator.round import Services

NAME = "anchor"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line's parser."""
    anchor = commands.add_parser(NAME, help="anchor the rounds of a run that wait for it; trains nothing")
    anchor.add_argument("--dir", type=Path, required=True, help="folder of the run")
    anchor.add_argument("--config", type=Path, required=True, help="medprov.toml of the federation")
    anchor.add_argument("--anchor-as", default="", help="hospital whose account anchors (the first in the file)")


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises
    ------
    PendingError
        Some rounds still wait.
    CoordinatorError, LedgerError
    """
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from medprov_coordinator.connect import connect

    numbers = anchor_waiting(options.dir, connect(str(options.config), options.anchor_as))
    terminal.say(f"anchored  {', '.join(map(str, numbers))}" if numbers else "no round waits for its anchor")


def anchor_waiting(path: Path, services: Services) -> list[int]:
    """Anchor the rounds of a folder that wait; gives their numbers.

    Parameters
    ----------
    path : Path
        Folder of the run.
    services : Services
        Chain and store.

    Raises
    ------
    SettingsError
        No run in this folder.
    PendingError
        Some rounds still wait.
    CheckpointError
        As for `resume.find_start`; a coordinator works in the folder.
    """
    from medprov_coordinator.anchoring import settle, waiting_text
    from medprov_coordinator.audit_log import FILE, AuditLog
    from medprov_coordinator.checkpoint import CheckpointFolder
    from medprov_coordinator.errors import PendingError, SettingsError
    from medprov_coordinator.resume import reconcile

    folder = CheckpointFolder(path)
    if not path.is_dir() or (state := folder.load_state()) is None:
        raise SettingsError(f"{path}: no run in this folder; name the --dir of a run")
    anchored: list[int] = []
    with folder.held():
        # read again: a coordinator may just have ended
        state = reconcile(folder.load_state() or state, services, folder)
        log = AuditLog(path / FILE)

        def done(new: State, entry: PendingAnchor, transaction: str | None) -> None:
            folder.save_state(new)
            text = f"round {entry.number} anchored: {transaction or 'it was on the chain already'}"
            figures = {"transaction": transaction}
            body = {"number": entry.number, "attempt": new.attempts, "text": text, "figures": figures}
            log.append("anchored", body)
            anchored.append(entry.number)

        settled = settle(state, services, folder.model_bytes, done, folder)
        folder.save_state(settled.state)
    if settled.state.pending:
        raise PendingError(waiting_text([entry.number for entry in settled.state.pending], settled.trouble, path))
    return anchored
