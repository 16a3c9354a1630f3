"""The journal of an account's transactions: what was signed is on the disk before it is sent.

So a process that dies, or never hears the node's answer, leaves behind what the next one needs: it sends the same bytes
again, never another transaction for the same purpose, and leaves no gap in the nonces. A row is ``open`` until its
result was told to whoever asked for it, then ``done``. Done rows are kept a while, so that a reorganisation deeper than
the confirmations can be repaired: what it throws out is ``lost`` until it is mined again. Processes take turns by a
lock on a file beside the journal.
"""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ._durable import DurableFile
from .errors import ChainError
from .merkle import keccak256

NAME = "transactions.sqlite"
"""In a hospital's state folder."""
PATIENCE = 180.0
"""Seconds to wait for another process, which may be waiting for its signer."""
_APPLICATION = 0x4D505458
_TABLES = (
    """CREATE TABLE transactions (
    id INTEGER PRIMARY KEY, chain TEXT NOT NULL, sender TEXT NOT NULL, nonce INTEGER NOT NULL,
    purpose BLOB NOT NULL, state TEXT NOT NULL, block INTEGER, block_hash BLOB, UNIQUE (chain, sender, nonce))""",
    """CREATE TABLE variants (
    hash BLOB PRIMARY KEY, id INTEGER NOT NULL REFERENCES transactions ON DELETE CASCADE, fields TEXT NOT NULL,
    raw BLOB NOT NULL, time REAL NOT NULL)""",
    "CREATE INDEX by_id ON variants (id)",
    "CREATE INDEX by_state ON transactions (chain, sender, state, block)",
)


@dataclass(frozen=True)
class Variant:
    """One signed form of a transaction; the variants of one differ in their fees.

    Parameters
    ----------
    tx_hash : bytes
        32 bytes.
    fields : dict
        What was signed; data and addresses are texts.
    raw : bytes
        As it is sent.
    time : float
        When it was signed, seconds since 1970.
    """

    tx_hash: bytes
    fields: dict[str, Any]
    raw: bytes
    time: float


@dataclass(frozen=True)
class Entry:
    """One transaction.

    Parameters
    ----------
    number : int
        Its row.
    nonce : int
    purpose : bytes
        32 bytes, hash of what it does.
    state : str
        ``"open"``, ``"done"`` or ``"lost"``.
    variants : tuple of Variant
        Oldest first; not empty.
    """

    number: int
    nonce: int
    purpose: bytes
    state: str
    variants: tuple[Variant, ...]

    @property
    def newest(self) -> Variant:
        """The variant that offers most."""
        return self.variants[-1]


class Journal(DurableFile):
    """The transactions of one account on one chain.

    Parameters
    ----------
    path : Path or None
        SQLite file, made if absent; several accounts may share it. None keeps the journal in memory: then it serves
        the threads of one process.
    chain : str
        Name of the chain; one that begins anew under the old number is another.
    sender : str
        Checksummed address.

    Raises
    ------
    ChainError
        Not such a file, of another version, or it cannot be opened.
    """

    def __init__(self, path: Path | None, chain: str, sender: str) -> None:
        self.path, self.chain, self.sender = path, chain, sender
        self._turn = threading.Lock()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise ChainError(f"{path.parent}: cannot be made ({error.strerror}); check its place") from None
        place = ":memory:" if path is None else str(path)
        super().__init__(place, "journal of transactions", ChainError, _APPLICATION, (_TABLES,), "move it away")

    @property
    def lasting(self) -> bool:
        """Whether it outlives the process."""
        return self.path is not None

    @contextmanager
    def turn(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the account alone, among threads and processes; False where `wait` is and another holds it.

        Raises
        ------
        ChainError
            Another one holds it for too long.
        """
        if not self._turn.acquire(timeout=PATIENCE if wait else 0):
            if wait:
                raise self._taken()
            yield False
            return
        try:
            if self.path is None:
                yield True
                return
            with self._locked(self.path, wait) as held:
                yield held
        finally:
            self._turn.release()

    @contextmanager
    def _locked(self, path: Path, wait: bool) -> Iterator[bool]:
        try:
            file = path.with_name(path.name + ".lock").open("w")
        except OSError as error:
            raise ChainError(f"{path}.lock: cannot be used ({error.strerror}); check space and rights") from None
        with file:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not wait:
                        yield False
                        return
                    if time.monotonic() > deadline:
                        raise self._taken() from None
                    time.sleep(0.02)
                else:
                    break
            yield True

    def _taken(self) -> ChainError:
        return ChainError(
            f"{self.path or 'journal'}: another process has been sending for {self.sender} for {PATIENCE:g} s; "
            "is its signer waiting for somebody?"
        )

    def entries(self, *states: str) -> list[Entry]:
        """The transactions in these states, in the order of their nonces."""
        return self._entries(f"AND state IN ({', '.join('?' * len(states))})", states)

    def entry(self, number: int) -> Entry | None:
        """One transaction; None where it was removed."""
        found = self._entries("AND t.id = ?", (number,))
        return found[0] if found else None

    def find(self, purpose: bytes) -> Entry | None:
        """The newest transaction of a purpose whose result nobody was told, or was told in vain."""
        found = self._entries("AND state <> 'done' AND purpose = ?", (purpose,))
        return found[-1] if found else None

    def has_done_after(self, nonce: int) -> bool:
        """Whether the result of a later transaction was told."""
        with self._errors():
            row = self._db.execute(
                "SELECT 1 FROM transactions WHERE chain = ? AND sender = ? AND state = 'done' AND nonce > ? LIMIT 1",
                (self.chain, self.sender, nonce),
            ).fetchone()
        return row is not None

    def newest_done(self) -> tuple[int, bytes] | None:
        """Number and hash of the newest block that a done transaction is in; None where there is none."""
        with self._errors():
            row = self._db.execute(
                "SELECT block, block_hash FROM transactions WHERE chain = ? AND sender = ? AND state = 'done' "
                "ORDER BY block DESC LIMIT 1",
                (self.chain, self.sender),
            ).fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def nonces_from(self, first: int) -> set[int]:
        """Nonces in use here, from `first` on."""
        with self._errors():
            rows = self._db.execute(
                "SELECT nonce FROM transactions WHERE chain = ? AND sender = ? AND nonce >= ?",
                (self.chain, self.sender, first),
            ).fetchall()
        return {int(row[0]) for row in rows}

    def add(self, signed: Sequence[tuple[bytes, Mapping[str, Any], bytes]]) -> list[Entry]:
        """Keep signed transactions; they are on the disk when this returns.

        Parameters
        ----------
        signed : sequence of (bytes, mapping, bytes)
            Purpose, fields and raw form of each.
        """
        if not signed:
            return []
        numbers = []
        with self._write():
            for purpose, fields, raw in signed:
                cursor = self._db.execute(
                    "INSERT INTO transactions (chain, sender, nonce, purpose, state) VALUES (?, ?, ?, ?, 'open')",
                    (self.chain, self.sender, fields["nonce"], purpose),
                )
                numbers.append(int(cursor.lastrowid or 0))
                self._insert(numbers[-1], fields, raw)
        found = {entry.number: entry for entry in self.entries("open")}
        return [found[number] for number in numbers]

    def add_variant(self, number: int, fields: Mapping[str, Any], raw: bytes) -> None:
        """Keep another form of a transaction."""
        with self._write():
            self._insert(number, fields, raw)

    def set_done(self, places: Mapping[int, tuple[int, bytes]]) -> None:
        """Note where transactions were mined (block and its hash), and that their results may be told."""
        if not places:
            return
        with self._write():
            self._db.executemany(
                "UPDATE transactions SET state = 'done', block = ?, block_hash = ? WHERE id = ?",
                [(block, block_hash, number) for number, (block, block_hash) in places.items()],
            )

    def set_lost(self, numbers: Sequence[int]) -> None:
        """Take back what was told of transactions that a reorganisation has thrown out."""
        if not numbers:
            return
        with self._write():
            self._db.executemany(
                "UPDATE transactions SET state = 'lost', block = NULL, block_hash = NULL WHERE id = ?",
                [(number,) for number in numbers],
            )

    def remove(self, *numbers: int) -> None:
        """Forget transactions that no node has, or that can never be mined."""
        if not numbers:
            return
        with self._write():
            self._db.executemany("DELETE FROM transactions WHERE id = ?", [(number,) for number in numbers])

    def forget_before(self, block: int) -> None:
        """Forget what was done before a block."""
        where = "chain = ? AND sender = ? AND state = 'done' AND block < ?"
        values = (self.chain, self.sender, block)
        with self._errors():
            old = self._db.execute(f"SELECT 1 FROM transactions WHERE {where} LIMIT 1", values).fetchone()
        if old:
            with self._write():
                self._db.execute(f"DELETE FROM transactions WHERE {where}", values)

    def _insert(self, number: int, fields: Mapping[str, Any], raw: bytes) -> None:
        values = (keccak256(raw), number, json.dumps(dict(fields), sort_keys=True), raw, time.time())
        self._db.execute("INSERT INTO variants (hash, id, fields, raw, time) VALUES (?, ?, ?, ?, ?)", values)

    def _entries(self, where: str, values: tuple[Any, ...]) -> list[Entry]:
        with self._errors():
            rows = self._db.execute(
                "SELECT t.id, nonce, purpose, state, hash, fields, raw, time "
                "FROM transactions t JOIN variants v ON t.id = v.id "
                f"WHERE chain = ? AND sender = ? {where} ORDER BY nonce, v.rowid",
                (self.chain, self.sender, *values),
            ).fetchall()
        found: list[Entry] = []
        for number, group in groupby(rows, lambda row: row[0]):
            lines = list(group)
            _, nonce, purpose, state = lines[0][:4]
            variants = tuple(Variant(tx_hash, json.loads(fields), raw, at) for *_, tx_hash, fields, raw, at in lines)
            found.append(Entry(number, nonce, purpose, state, variants))
        return found
