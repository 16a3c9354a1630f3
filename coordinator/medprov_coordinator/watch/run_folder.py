"""A run's folder as a watcher sees it: records of rounds, state, audit log, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medprov_coordinator.audit_log import FILE, Entry
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.watch.history import History, HistoryReader
from medprov_coordinator.watch.records import DEPTH, LIMIT, NAME, WHOLE, Figures, RoundRecord, parse_record
from medprov_coordinator.watch.regular_file import open_regular
from medprov_ledger import nesting

Stamp = tuple[int, int, int]


@dataclass
class Member:
    """What the rounds tell about one member.

    Attributes
    ----------
    node : int
        Its last node id.
    signer : str
        Chain address; empty where updates are not signed.
    accepted, rejected : int
        Replies in accepted rounds.
    last_round : int
        Last round that its update went into.
    figures : mapping of str to float
        Of that round.
    reason : str
        Why its last rejected reply was not used.
    """

    node: int
    signer: str = ""
    accepted: int = 0
    rejected: int = 0
    last_round: int = 0
    figures: Figures = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """A run at one moment.

    Parameters
    ----------
    path : Path
    rounds : tuple of RoundRecord
        Accepted rounds that have a good record, by number.
    problems : tuple of str
        One line per damaged or foreign file.
    history : History
    fresh : tuple of Entry
        Lines of the log that the former look did not show.
    pending : frozenset of int
        Rounds that are written and wait for their anchor, as far as the folder knows.
    attempts : int or None
        As in ``state.json``.
    stands_at : int or None
        Accepted rounds as in ``state.json``.
    local : bool
        The run has no chain: nothing is ever anchored.
    """

    path: Path
    rounds: tuple[RoundRecord, ...]
    problems: tuple[str, ...]
    history: History
    fresh: tuple[Entry, ...] = ()
    pending: frozenset[int] = frozenset()
    attempts: int | None = None
    stands_at: int | None = None
    local: bool = True

    @property
    def members(self) -> list[Member]:
        """Everybody who ever replied, by node id; a member that came back with another node id is one row."""
        signers: dict[int, str] = {}
        for record in self.rounds:
            signers.update({row.node: row.signer for row in record.updates if row.signer})
        found: dict[str, Member] = {}

        def row_of(node: int) -> Member:
            signer = signers.get(node, "")
            row = found.setdefault(signer or str(node), Member(node, signer))
            row.node = node
            return row

        for record in self.rounds:
            figures = record.site_figures()
            for update in record.updates:
                row = row_of(update.node)
                row.accepted += 1
                row.last_round, row.figures = record.number, figures.get(update.node, {})
            for gone in record.rejected:
                row = row_of(gone.node)
                row.rejected += 1
                row.reason = f"{gone.code}: {gone.detail}"
        for refusal in self.history.refusals:
            for node, code in refusal.rejected:
                row = row_of(node)
                row.rejected += 1
                row.reason = row.reason or code
        return sorted(found.values(), key=lambda row: (row.signer.lower(), row.node))

    @property
    def rejections(self) -> Counter[str]:
        """Rejected replies by code, in accepted rounds and refused attempts."""
        counted = Counter(self.history.rejected)
        for record in self.rounds:
            counted.update(gone.code for gone in record.rejected)
        return counted


class RunFolder:
    """Reads a run's folder again and again, each time only what has changed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    SettingsError
        There is no such folder, or nothing in it is a run's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise SettingsError(f"{path}: no such folder; name the --dir of a run")
        if not any((path / name).exists() for name in ("rounds", "state.json", FILE)):
            raise SettingsError(f"{path}: no run in this folder; name the --dir of a run")
        self._history = HistoryReader(path / FILE)
        self._records: dict[str, tuple[Stamp, RoundRecord | str]] = {}

    def refresh(self) -> Run:
        """Read what has changed."""
        history, fresh = self._history.refresh()
        problems: list[str] = []
        records = self._read_records(problems)
        state = self._read_state(problems)
        if history.broken_line:
            problems.append(f"{FILE}: line {history.broken_line} {history.broken_why}")
        anchored = set(history.transactions) | set(history.anchored_at)
        pending = set(_whole_numbers(state.get("pending")))
        return Run(
            path=self.path,
            rounds=tuple(records[number] for number in sorted(records)),
            problems=tuple(problems),
            history=history,
            fresh=tuple(fresh),
            pending=frozenset(pending),
            attempts=_count(state.get("attempts")),
            stands_at=_count(state.get("number")),
            local=not (anchored or pending or any(record.cid for record in records.values())),
        )

    def _read_records(self, problems: list[str]) -> dict[int, RoundRecord]:
        found: dict[int, RoundRecord] = {}
        kept: dict[str, tuple[Stamp, RoundRecord | str]] = {}
        try:
            files = sorted(os.scandir(self.path / "rounds"), key=lambda file: file.name)
        except FileNotFoundError:
            files = []
        except OSError as error:
            problems.append(f"rounds: cannot be read: {error.strerror or error}")
            files = []
        for file in files:
            # a file that is just being written
            if file.name.startswith("."):
                continue
            read = kept[file.name] = self._read_record(file)
            if isinstance(read[1], str):
                problems.append(f"rounds/{file.name}: {read[1]}")
            else:
                found[read[1].number] = read[1]
        self._records = kept
        return found

    def _read_record(self, file: os.DirEntry[str]) -> tuple[Stamp, RoundRecord | str]:
        nowhere: Stamp = (0, 0, 0)
        if not NAME.fullmatch(file.name):
            return nowhere, "no record of a round; it is left out"
        try:
            status = file.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if (known := self._records.get(file.name)) is not None and known[0] == stamp:
                return known
            with open_regular(file.path) as stream:
                data = stream.read(LIMIT + 1)
            if len(data) > LIMIT:
                return stamp, f"larger than {LIMIT // 2**20} MiB; it is left out"
            record = parse_record(data)
            if file.name != f"{record.number:06d}.json":
                return stamp, f"holds round {record.number}; it is left out"
            return stamp, record
        except OSError as error:
            return nowhere, f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            return stamp, f"damaged: {error}; restore it from a backup"

    def _read_state(self, problems: list[str]) -> Mapping[str, Any]:
        try:
            with open_regular(self.path / "state.json") as stream:
                data = stream.read()
            nesting.check(data, DEPTH)
            value = json.loads(data.decode("utf-8"))
            if isinstance(value, dict):
                return value
            problems.append("state.json: damaged: is not a JSON object")
        except FileNotFoundError:
            pass
        except OSError as error:
            problems.append(f"state.json: cannot be read: {error.strerror or error}")
        except (ValueError, RecursionError):
            problems.append("state.json: damaged: is not JSON")
        return {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < WHOLE else None


def _whole_numbers(value: Any) -> list[int]:
    """Round numbers from a list of numbers or of objects with a field ``number``."""
    found = [
        item.get("number") if isinstance(item, dict) else item for item in (value if isinstance(value, list) else [])
    ]
    return [item for item in found if type(item) is int]
