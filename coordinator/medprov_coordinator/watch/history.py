"""What the audit log tells about a run, read on from where it was read last."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from medprov_coordinator import audit_log
from medprov_coordinator.audit_log import GENESIS, Entry, Scanner
from medprov_coordinator.watch.regular_file import open_regular

TAIL = 200
"""Lines at the end of the log that are kept for showing."""
REFUSALS = 500
"""Refused attempts that are kept for showing, the last ones."""


@dataclass(frozen=True)
class Refusal:
    """An attempt at a round that was refused.

    Parameters
    ----------
    time : str
    number, attempt : int
        The round that was tried, and the how manieth attempt of the run it was.
    text : str
        May hold what a hostile member wrote.
    rejected : tuple of (int, str)
        Node and code of each reply that was not used.
    """

    time: str
    number: int
    attempt: int
    text: str
    rejected: tuple[tuple[int, str], ...] = ()


@dataclass
class History:
    """What was read of a log so far.

    Attributes
    ----------
    entries : int
        Good lines.
    head : bytes
    torn : int
        Bytes of an unfinished last line.
    broken_line : int
        First line that is not as it was written; nothing after it is read. 0 where all are.
    broken_why : str
    absent : bool
        There is no log.
    tail : deque of Entry
    last : Entry or None
    seconds : dict of int to float
        From asking the members to the round's acceptance, by round.
    accepted_at : dict of int to str
    transactions : dict of int to str
    anchored_at : dict of int to str
    refusals : deque of Refusal
    refused, resumed, crashes : int
        Refused attempts, resumptions, unfinished lines that were cut off.
    rejected : Counter
        Rejected replies of refused attempts, by code.
    """

    entries: int = 0
    head: bytes = GENESIS
    torn: int = 0
    broken_line: int = 0
    broken_why: str = ""
    absent: bool = True
    tail: deque[Entry] = field(default_factory=lambda: deque(maxlen=TAIL))
    last: Entry | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    accepted_at: dict[int, str] = field(default_factory=dict)
    transactions: dict[int, str] = field(default_factory=dict)
    anchored_at: dict[int, str] = field(default_factory=dict)
    refusals: deque[Refusal] = field(default_factory=lambda: deque(maxlen=REFUSALS))
    refused: int = 0
    resumed: int = 0
    crashes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


class HistoryReader:
    """Follows a log that another process writes.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = (0, 0, 0)
        self._restart()

    def refresh(self) -> tuple[History, list[Entry]]:
        """Read what is new; gives all that is known and the new lines.

        A file that was replaced, cut before what was read or changed in place is read anew from its first line; an
        unfinished line may go.
        """
        try:
            with open_regular(self.path) as stream:
                status = os.fstat(stream.fileno())
                mark = (status.st_ino, status.st_size, status.st_mtime_ns)
                if mark == self._mark:
                    return self.history, []
                same_size = self._mark[:2] == mark[:2]
                # with what follows a bad line, which was not read, the line itself may have gone
                least = self._mark[1] if self.history.broken_line else self._offset
                if status.st_ino != self._mark[0] or status.st_size < least or same_size:
                    self._restart()
                self._mark = mark
                self.history.absent = False
                return self.history, self._read_on(stream.fileno())
        except FileNotFoundError:
            self._restart()
        except OSError as error:
            self._restart()
            self.history.absent = False
            self.history.broken_line, self.history.broken_why = 1, f"cannot be read: {error.strerror or error}"
        return self.history, []

    def _restart(self) -> None:
        self.history = History()
        self._scanner = Scanner()
        self._offset = 0
        self._mark = (0, 0, 0)
        self._asked: tuple[int, str] = (0, "")
        self._screened: tuple[int, tuple[tuple[int, str], ...]] = (0, ())

    def _read_on(self, descriptor: int) -> list[Entry]:
        found: list[Entry] = []
        history = self.history
        if history.broken_line:
            return found
        history.torn = 0
        with open(descriptor, "rb", closefd=False) as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    history.torn = len(line)
                    break
                try:
                    entry = self._scanner.take(line[:-1])
                except ValueError as error:
                    history.broken_line, history.broken_why = history.entries + 1, str(error)
                    break
                self._offset += len(line)
                self._take(entry)
                found.append(entry)
        return found

    def _take(self, entry: Entry) -> None:
        history = self.history
        history.entries, history.head, history.last = entry.seq, entry.hash, entry
        history.tail.append(entry)
        body = entry.body
        number, attempt = _whole(body, "number"), _whole(body, "attempt")
        figures = body.get("figures")
        figures = figures if isinstance(figures, Mapping) else {}
        match entry.kind:
            case "asked":
                self._asked = (attempt, entry.time)
            case "screened":
                self._screened = (attempt, _rejected(figures.get("rejected")))
            case "refused":
                history.refused += 1
                rejected = self._screened[1] if self._screened[0] == attempt else ()
                history.rejected.update(code for _, code in rejected)
                text = str(body.get("text", ""))
                history.refusals.append(Refusal(entry.time, number + 1, attempt, text, rejected))
            case "round":
                history.accepted_at[number] = entry.time
                if self._asked[0] == attempt and (took := _between(self._asked[1], entry.time)) is not None:
                    history.seconds[number] = took
            case "anchored":
                history.anchored_at[number] = entry.time
                if isinstance(transaction := figures.get("transaction"), str):
                    history.transactions[number] = transaction
            case "resumed":
                history.resumed += 1
            case audit_log.TORN:
                history.crashes += 1


def _whole(body: Mapping[str, Any], name: str) -> int:
    found = body.get(name)
    return found if type(found) is int else 0


def _rejected(value: Any) -> tuple[tuple[int, str], ...]:
    """Pairs of node and code, from lists of two or objects."""
    found = []
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict):
            item = [item.get("node"), item.get("code")]
        if isinstance(item, list) and len(item) >= 2 and type(item[0]) is int:
            found.append((item[0], str(item[1])))
    return tuple(found)


def _between(start: str, end: str) -> float | None:
    try:
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError):
        return None
