"""The index's SQLite file. Nothing in it is worth keeping: a damaged one is set aside and an empty one begun."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from . import eip712
from .errors import RecordError

SCHEMA = 2
"""Raise it when a new version of manifest or record becomes readable: batches refused before are then read again."""
MEMORY = ":memory:"
_log = logging.getLogger(__name__)
_APPLICATION = 0x4D505249
_TABLES = (
    "CREATE TABLE domain (chain_id TEXT NOT NULL, registry TEXT NOT NULL)",
    """CREATE TABLE batches (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, root BLOB NOT NULL, block INTEGER NOT NULL, time INTEGER NOT NULL,
    count INTEGER NOT NULL, cid TEXT NOT NULL, tx_hash TEXT, state TEXT NOT NULL, reason TEXT NOT NULL,
    failures INTEGER NOT NULL, next_try REAL NOT NULL, key_id BLOB, directory BLOB, UNIQUE (owner, root))""",
    """CREATE TABLE records (
    batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE, position INTEGER NOT NULL, leaf BLOB NOT NULL,
    key BLOB NOT NULL, released_hash BLOB NOT NULL, record TEXT NOT NULL, signature BLOB NOT NULL, proof BLOB NOT NULL,
    payload BLOB, PRIMARY KEY (batch, position)) WITHOUT ROWID""",
    "CREATE INDEX by_batch ON records (batch)",
    "CREATE INDEX by_leaf ON records (leaf)",
    "CREATE INDEX by_key ON records (key)",
    "CREATE INDEX by_released_hash ON records (released_hash)",
)
# what SQLite says of a file that is not what it wrote; all else (locked, full, read-only) is the machine's trouble
_DAMAGE = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_NOTADB,
}


class DamagedError(RecordError):
    """The file does not hold what was written into it.

    Parameters
    ----------
    path : str
    reason : object
        What shows it.
    """

    def __init__(self, path: str, reason: object) -> None:
        super().__init__(f"{path}: index damaged ({reason}); delete the file, it is built again")
        self.reason = reason


class IndexFile:
    """An open index; safe to share between threads.

    Parameters
    ----------
    path : str
        A file, or ``":memory:"``.
    domain : Domain
        The registry whose anchors it holds; an index of another schema or registry is emptied.

    Raises
    ------
    RecordError
        Another program's database, or it cannot be opened.
    """

    def __init__(self, path: str, domain: eip712.Domain) -> None:
        self.path, self.domain = path, domain
        self.generation = 0
        """Grows with every :meth:`begin_anew`."""
        self.lock = threading.RLock()
        """Held in every access; who holds it longer keeps all other threads out."""
        try:
            self._db = self._open(path)
        except DamagedError as damage:
            self._replace(damage)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        with self._errors():
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._errors(), _transaction(self._db):
            yield self._db

    def begin_anew(self, damage: DamagedError) -> None:
        """Set the file aside and start an empty one; in memory where that is not possible."""
        with self.lock:
            self._db.close()
            self.generation += 1
            self._replace(damage)

    def _replace(self, damage: DamagedError) -> None:
        _log.warning("%s: index damaged (%s), set aside and built again from the chain", self.path, damage.reason)
        try:
            if self.path != MEMORY:
                _set_aside(self.path)
            self._db = self._open(self.path)
        except (OSError, RecordError) as error:
            _log.warning("%s: no new index can be written there (%s); this run keeps it in memory", self.path, error)
            self._db = self._open(MEMORY)

    def _open(self, path: str) -> sqlite3.Connection:
        with self._errors():
            db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(db)
            except BaseException:
                db.close()
                raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        wanted = (str(self.domain.chain_id), self.domain.registry)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        ours = db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
        if not ours and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise RecordError(f"{self.path}: is another program's database; name a file of its own for the index")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA foreign_keys = ON")
        if version == SCHEMA and db.execute("SELECT * FROM domain").fetchone() == wanted:
            return
        with _transaction(db):
            for table in ("records", "batches", "domain"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _TABLES:
                db.execute(statement)
            db.execute("INSERT INTO domain VALUES (?, ?)", wanted)
            db.execute(f"PRAGMA user_version = {SCHEMA}")
            db.execute(f"PRAGMA application_id = {_APPLICATION}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self.lock:
                yield
        except UnicodeDecodeError as error:
            # SQLite's own message may quote what the file holds
            raise DamagedError(self.path, error) from None
        except sqlite3.Error as error:
            if _is_damage(error):
                raise DamagedError(self.path, error) from None
            raise RecordError(f"{self.path}: index not usable ({error}); delete the file, it is built again") from None


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    # without a code: Python could not decode a text
    return isinstance(error, sqlite3.OperationalError) if code is None else code & 0xFF in _DAMAGE


def _set_aside(path: str) -> None:
    """Rename a file that no index can be read from: what it was, nobody knows, and a path may have been mistyped."""
    # the log first: SQLite must never meet the new file with the old one's
    for suffix in ("-wal", "-shm", ""):
        if os.path.exists(path + suffix):
            os.replace(path + suffix, f"{path}.damaged{suffix}")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # some errors have ended the transaction already
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
