"""SQLite files that this package writes: every commit is on the disk, and a stamp and a version say whose they are."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .errors import LedgerError


class DurableFile:
    """One SQLite file, write-ahead log, every commit synced; safe between threads and processes.

    Parameters
    ----------
    place : str
        A file, or ``":memory:"``.
    what : str
        What it is, for messages.
    error : LedgerError class
        Raised by everything here.
    stamp : int
        SQLite's ``application_id``.
    versions : sequence of sequences of str
        The statements that each version added to the one before; older files are brought up to date.
    advice : str
        What to do where the file is another program's.

    Raises
    ------
    LedgerError
        Another program's file, of a newer version, or it cannot be opened.
    """

    def __init__(
        self,
        place: str,
        what: str,
        error: type[LedgerError],
        stamp: int,
        versions: Sequence[Sequence[str]],
        advice: str,
    ) -> None:
        self._place, self._what, self._error = place, what, error
        self._lock = threading.RLock()
        with self._errors():
            self._db = sqlite3.connect(place, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
        with self._write():
            self._bring_up_to_date(stamp, versions, advice)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _bring_up_to_date(self, stamp: int, versions: Sequence[Sequence[str]], advice: str) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        ours = self._db.execute("PRAGMA application_id").fetchone()[0] == stamp
        if not ours and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise self._error(f"{self._place}: is another program's database; {advice}")
        if ours and not 1 <= found <= len(versions):
            raise self._error(
                f"{self._place}: version {found} is unknown, this release reads {len(versions)}; update medprov"
            )
        if ours and found == len(versions):
            return
        for statements in versions[found if ours else 0 :]:
            for statement in statements:
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {len(versions)}")
        self._db.execute(f"PRAGMA application_id = {stamp}")

    @contextmanager
    def _write(self) -> Iterator[None]:
        """One transaction: all of it or nothing, on the disk when it returns."""
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise self._error(f"{self._place}: {self._what} not usable ({error}); check space and rights") from None
