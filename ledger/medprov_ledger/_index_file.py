"""The index's SQLite file. Nothing in it is worth keeping: a damaged one is set aside and an empty one begun."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from . import eip712
from .errors import RecordError

SCHEMA = 3
"""Raise it when a new version of manifest or record becomes readable: batches refused before are then read again."""
MEMORY = ":memory:"
_log = logging.getLogger(__name__)
_APPLICATION = 0x4D505249
_RECORD = """
    leaf BLOB NOT NULL, key BLOB NOT NULL, cover_hash BLOB NOT NULL, marked_hash BLOB NOT NULL,
    released_hash BLOB NOT NULL, evidence_cid TEXT NOT NULL, bundle_cid TEXT NOT NULL, model BLOB NOT NULL,
    sealed_at INTEGER NOT NULL, format INTEGER NOT NULL, owner INTEGER NOT NULL REFERENCES owners"""
# batches and registrations are numbered by their place on the chain (_index_chain.place): whoever reads in the order of
# the numbers reads the earliest first, and an index that was built anew has the same ones
_TABLES = {
    "domain": "CREATE TABLE domain (chain_id TEXT NOT NULL, registry TEXT NOT NULL)",
    "blocks": "CREATE TABLE blocks (number INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "owners": "CREATE TABLE owners (id INTEGER PRIMARY KEY, address TEXT NOT NULL UNIQUE)",
    "batches": """CREATE TABLE batches (
    id INTEGER PRIMARY KEY, owner INTEGER NOT NULL REFERENCES owners, root BLOB NOT NULL, block INTEGER NOT NULL,
    time INTEGER NOT NULL, count INTEGER NOT NULL, cid TEXT NOT NULL, tx_hash TEXT, seal BLOB NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, failures INTEGER NOT NULL, next_try REAL NOT NULL,
    key_id BLOB, directory BLOB, UNIQUE (owner, root))""",
    "trees": """CREATE TABLE trees (
    batch INTEGER PRIMARY KEY REFERENCES batches ON DELETE CASCADE, nodes BLOB NOT NULL)""",
    "directories": """CREATE TABLE directories (
    batch INTEGER PRIMARY KEY REFERENCES batches ON DELETE CASCADE, payloads BLOB NOT NULL)""",
    "records": f"""CREATE TABLE records (
    batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE, position INTEGER NOT NULL, {_RECORD},
    signature BLOB NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (batch, position)) WITHOUT ROWID""",
    "registrations": f"""CREATE TABLE registrations (
    id INTEGER PRIMARY KEY, {_RECORD}, block INTEGER NOT NULL, time INTEGER NOT NULL, tx_hash TEXT NOT NULL)""",
}
_INDEXES = (
    "CREATE INDEX by_leaf ON records (leaf, owner)",
    "CREATE INDEX by_key ON records (key, owner)",
    "CREATE INDEX by_released_hash ON records (released_hash, owner)",
    "CREATE INDEX registered_by_leaf ON registrations (leaf, owner)",
    "CREATE INDEX registered_by_key ON registrations (key, owner)",
    "CREATE INDEX registered_by_released_hash ON registrations (released_hash, owner)",
)
_CACHE_KIB = 65536
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
        self.checked = False
        """Set by the sync that has looked at all rows; a file is looked at once per opening."""
        self._writes = 0
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

    def pieces(self, table: str, column: str, row: int, starts: Iterable[int], size: int) -> list[bytes]:
        """Parts of one row's BLOB, `size` bytes each; the rest of it is not read."""
        found = []
        with self._errors(), self._db.blobopen(table, column, row, readonly=True) as blob:
            for start in starts:
                if start + size > len(blob):
                    raise DamagedError(self.path, "a row ends too early")
                blob.seek(start)
                found.append(blob.read(size))
        return found

    def version(self) -> tuple[int, int, int]:
        """Differs from what it was as soon as anybody has written."""
        with self._errors():
            return self.generation, self._writes, int(self._db.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read within is of one moment, whatever other processes write meanwhile."""
        with self._errors(), _transaction(self._db, "BEGIN"):
            yield

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._errors(), _transaction(self._db):
            self._writes += 1
            yield self._db

    def begin_anew(self, damage: DamagedError) -> None:
        """Set the file aside and start an empty one; in memory where that is not possible."""
        with self.lock:
            self._db.close()
            self.generation += 1
            self.checked = False
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
        # a power cut may take the last batches back, never a part of one; they are fetched again
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA foreign_keys = ON")
        if version == SCHEMA and db.execute("SELECT * FROM domain").fetchone() == wanted:
            return
        with _transaction(db):
            for table in reversed(_TABLES):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in (*_TABLES.values(), *_INDEXES):
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
def _transaction(db: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # some errors have ended the transaction already
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
