"""The outbox: every step of a picture's way to the chain is a durable row before its result is used.

A crash at any point resumes there, and a step done twice gives the same result, because a retry sends the stored bytes:
sealing again would change the CID, and drawing again would change the mark.

States of a picture: ``drawn`` (serial, nonces and time exist), ``marked``, ``bundled`` (evidence and bundle are
sealed, the record is signed), ``stored`` (both lie in the store), ``anchored`` (in a batch with a transaction),
``confirmed``. States of a batch: ``built``, ``anchored``, ``confirmed``; its manifest goes into the store between the
last two, because nobody may read a record before its anchor stands.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import merkle, sealing
from ._durable import DurableFile
from .errors import RecordError
from .manifest import SignedRecord
from .record import Record

STATES = ("drawn", "marked", "bundled", "stored", "anchored", "confirmed")
BATCH_STATES = ("built", "anchored", "confirmed")
FILE = "outbox.sqlite"
"""Name in a hospital's state folder."""
_APPLICATION = 0x4D504F42
_TABLES = (
    """CREATE TABLE items (
    job TEXT PRIMARY KEY, state TEXT NOT NULL, serial BLOB NOT NULL UNIQUE, salt BLOB NOT NULL,
    evidence_nonce BLOB NOT NULL, bundle_nonce BLOB NOT NULL, time INTEGER NOT NULL, payload BLOB, marked_hash BLOB,
    released_hash BLOB, record TEXT, signature BLOB, evidence BLOB, bundle BLOB, root BLOB REFERENCES batches)""",
    """CREATE TABLE batches (
    root BLOB PRIMARY KEY, state TEXT NOT NULL, manifest BLOB NOT NULL, cid TEXT NOT NULL, count INTEGER NOT NULL,
    tx_hash TEXT, block INTEGER)""",
    "CREATE INDEX by_state ON items (state)",
    "CREATE INDEX by_root ON items (root)",
)
_SECOND = (
    """CREATE TABLE deliveries (
    job TEXT PRIMARY KEY REFERENCES items, source TEXT NOT NULL, target TEXT NOT NULL, queued INTEGER NOT NULL,
    done INTEGER)""",
    "CREATE INDEX by_done ON deliveries (done, queued)",
    "CREATE INDEX by_target ON deliveries (target)",
    # the salt of the cover's hash is drawn where the picture is marked
    "ALTER TABLE items DROP COLUMN salt",
)
"""What version 2 changed."""


@dataclass(frozen=True)
class Item:
    """One picture.

    Parameters
    ----------
    job : str
        The caller's name of the work, the same whenever the same picture is marked again.
    state : str
        One of :data:`STATES`.
    serial : bytes
        4 bytes, unique in this outbox.
    evidence_nonce, bundle_nonce : bytes
        12 bytes each.
    time : int
        Seconds since 1970, for the record.
    payload : bytes or None
        12 bytes, once marked.
    marked_hash, released_hash : bytes or None
        32 bytes, once marked.
    signed : SignedRecord or None
        Once bundled.
    evidence, bundle : bytes or None
        Sealed, once bundled. The bundle is empty where the record names none.
    root : bytes or None
        32 bytes, of the batch it is in.
    """

    job: str
    state: str
    serial: bytes
    evidence_nonce: bytes = field(repr=False)
    bundle_nonce: bytes = field(repr=False)
    time: int
    payload: bytes | None = field(repr=False)
    marked_hash: bytes | None
    released_hash: bytes | None
    signed: SignedRecord | None
    evidence: bytes | None = field(repr=False)
    bundle: bytes | None = field(repr=False)
    root: bytes | None


@dataclass(frozen=True)
class Batch:
    """One batch.

    Parameters
    ----------
    root : bytes
        32 bytes.
    state : str
        One of :data:`BATCH_STATES`.
    manifest : bytes
        What is stored in IPFS once the anchor stands.
    cid : str
    count : int
    tx_hash : str or None
    block : int or None
        Both once anchored.
    """

    root: bytes
    state: str
    manifest: bytes = field(repr=False)
    cid: str
    count: int
    tx_hash: str | None
    block: int | None


@dataclass(frozen=True)
class Delivery:
    """A marked picture that waits in the hospital's state folder for its anchor.

    Parameters
    ----------
    job : str
    source, target : str
        Absolute paths of the picture that was marked and of the output.
    queued : int
        Seconds since 1970.
    done : int or None
        When the output was written.
    """

    job: str
    source: str
    target: str
    queued: int
    done: int | None


class Outbox(DurableFile):
    """A hospital's outbox: one SQLite file, write-ahead log, every commit synced to the disk.

    Parameters
    ----------
    path : Path or str
        A file in the hospital's state folder; it holds payloads, so keep it private.

    Raises
    ------
    RecordError
        Not an outbox, of another version, or it cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        super().__init__(
            self.path, "outbox", RecordError, _APPLICATION, (_TABLES, _SECOND), "name another file for the outbox"
        )
        self._db.row_factory = sqlite3.Row

    def draw(self, job: str, now: int | None = None) -> Item:
        """The picture's row; a new job gets serial and nonces at random, an old one keeps its own.

        Parameters
        ----------
        job : str
            For example the hexadecimal content hash of the cover.
        now : int or None
            Seconds since 1970; None asks the clock.
        """
        with self._write():
            if self._row(job) is None:
                moment = int(time.time()) if now is None else now
                drawn = (self._new_serial(), sealing.new_nonce(), sealing.new_nonce(), moment)
                columns = "job, state, serial, evidence_nonce, bundle_nonce, time"
                self._db.execute(f"INSERT INTO items ({columns}) VALUES (?, 'drawn', ?, ?, ?, ?)", (job, *drawn))
        return self.item(job)

    def set_marked(self, job: str, payload: bytes, marked_hash: bytes, released_hash: bytes) -> Item:
        """Keep what marking gave; to be called before the marked picture is written anywhere.

        Raises
        ------
        RecordError
            Another result was kept before, or the payload does not hold the drawn serial.
        """
        item = self.item(job)
        if len(payload) != sealing.PAYLOAD_SIZE or payload[8:] != item.serial:
            raise RecordError(f"{self.path}: job {job}: the payload does not hold the serial that was drawn for it")
        values = {"payload": payload, "marked_hash": marked_hash, "released_hash": released_hash}
        return self._advance(job, "marked", values)

    def set_bundled(self, job: str, signed: SignedRecord, evidence: bytes, bundle: bytes) -> Item:
        """Keep the sealed evidence and bundle and the signed record; to be called before any of them is sent.

        Raises
        ------
        RecordError
            Other bytes were kept before: send those, never seal again.
        """
        values: dict[str, bytes | str] = {
            "record": json.dumps(signed.record.to_json(), sort_keys=True),
            "signature": signed.signature,
            "evidence": evidence,
            "bundle": bundle,
        }
        return self._advance(job, "bundled", values)

    def set_stored(self, job: str) -> Item:
        """Note that the store has evidence and bundle."""
        return self._advance(job, "stored", {})

    def add_batch(self, root: bytes, manifest: bytes, cid: str, jobs: Sequence[str]) -> Batch:
        """Keep a batch's manifest and the pictures in it; to be called before its root is anchored.

        Parameters
        ----------
        root : bytes
            32 bytes.
        manifest : bytes
        cid : str
        jobs : sequence of str
            All stored, in no other batch.

        Raises
        ------
        RecordError
        """
        if len(root) != 32 or not 1 <= len(jobs) <= merkle.MAX_LEAVES or len(set(jobs)) != len(jobs):
            raise RecordError(f"{self.path}: a batch needs a root of 32 bytes and at least one job, each once")
        with self._write():
            known = self._db.execute("SELECT manifest FROM batches WHERE root = ?", (root,)).fetchone()
            if known is None:
                self._db.execute(
                    "INSERT INTO batches (root, state, manifest, cid, count) VALUES (?, 'built', ?, ?, ?)",
                    (root, manifest, cid, len(jobs)),
                )
                for job in jobs:
                    changed = self._db.execute(
                        "UPDATE items SET root = ? WHERE job = ? AND state = 'stored' AND root IS NULL", (root, job)
                    ).rowcount
                    if changed != 1:
                        raise RecordError(f"{self.path}: job {job}: not stored, or in another batch already")
            elif known["manifest"] != manifest:
                raise RecordError(f"{self.path}: batch 0x{root.hex()} was built with another manifest; send that one")
        return self.batch(root)

    def set_anchored(self, root: bytes, tx_hash: str, block: int) -> Batch:
        """Note the transaction that anchored the batch; its pictures are anchored with it."""
        return self._advance_batch(root, "anchored", {"tx_hash": tx_hash, "block": block})

    def set_unanchored(self, root: bytes) -> Batch:
        """Take an anchor back that a reorganisation removed before it was confirmed; the batch must be sent again."""
        with self._write():
            assignments = "state = 'built', tx_hash = NULL, block = NULL"
            changed = self._db.execute(
                f"UPDATE batches SET {assignments} WHERE root = ? AND state = 'anchored'", (root,)
            ).rowcount
            if changed:
                self._db.execute("UPDATE items SET state = 'stored' WHERE root = ?", (root,))
            elif self.batch(root).state == "confirmed":
                raise RecordError(f"{self.path}: batch 0x{root.hex()} is confirmed and stays so")
        return self.batch(root)

    def set_confirmed(self, root: bytes) -> Batch:
        """Note that the anchor is deep enough and the store has the manifest: the pictures may leave the hospital."""
        return self._advance_batch(root, "confirmed", {})

    def set_lost(self, root: bytes) -> Batch:
        """Take back a confirmed batch that the chain no longer has; it must be sent again, the same as it was."""
        with self._write():
            batch = self.batch(root)
            if batch.state != "confirmed":
                raise RecordError(
                    f"{self.path}: batch 0x{root.hex()} is {batch.state}; only a confirmed one can be lost"
                )
            self._db.execute("UPDATE batches SET state = 'built', tx_hash = NULL, block = NULL WHERE root = ?", (root,))
            self._db.execute("UPDATE items SET state = 'stored' WHERE root = ?", (root,))
        return self.batch(root)

    def enqueue(self, job: str, source: str, target: str, now: int | None = None) -> Delivery:
        """Note where a bundled picture is to be written once its anchor is confirmed. Twice is once.

        Parameters
        ----------
        job : str
        source, target : str
            Absolute paths.
        now : int or None
            Seconds since 1970; None asks the clock.

        Raises
        ------
        RecordError
            Not bundled, queued for another output before, or another picture waits for this output.
        """
        with self._write():
            row = self._row(job)
            if row is None or STATES.index(row["state"]) < STATES.index("bundled"):
                raise RecordError(f"{self.path}: job {job}: has no signed record yet and cannot be queued")
            known = self._db.execute("SELECT target FROM deliveries WHERE job = ?", (job,)).fetchone()
            if known is not None and known["target"] != target:
                raise RecordError(f"{self.path}: job {job}: was queued for {known['target']} and not for {target}")
            if known is None:
                rival = self._db.execute("SELECT source FROM deliveries WHERE target = ? AND done IS NULL", (target,))
                for other in rival.fetchall():
                    raise RecordError(
                        f"{target}: the marked form of {other['source']} waits for this name; take another"
                    )
                moment = int(time.time()) if now is None else now
                self._db.execute(
                    "INSERT INTO deliveries (job, source, target, queued) VALUES (?, ?, ?, ?)",
                    (job, source, target, moment),
                )
        return self.delivery(job)

    def set_delivered(self, job: str, now: int | None = None) -> Delivery:
        """Note that the output is written; the picture's batch must be confirmed.

        Raises
        ------
        RecordError
        """
        with self._write():
            row = self._row(job)
            if row is None or row["state"] != "confirmed":
                raise RecordError(f"{self.path}: job {job}: is not confirmed and must not leave")
            moment = int(time.time()) if now is None else now
            self._db.execute("UPDATE deliveries SET done = ? WHERE job = ? AND done IS NULL", (moment, job))
        return self.delivery(job)

    def delivery(self, job: str) -> Delivery:
        """Where a picture is to be written.

        Raises
        ------
        RecordError
            It was not queued.
        """
        with self._errors():
            row = self._db.execute("SELECT * FROM deliveries WHERE job = ?", (job,)).fetchone()
        if row is None:
            raise RecordError(f"{self.path}: job {job} is not in the queue")
        return Delivery(**dict(row))

    def deliveries(self, state: str | None = None, limit: int = -1) -> list[Delivery]:
        """What waits to be written, longest waiting first.

        Parameters
        ----------
        state : str or None
            Only pictures in this state; of those that are ``stored``, only the ones in no batch.
        limit : int
            At most so many; -1 gives all.
        """
        query = "SELECT d.* FROM deliveries d JOIN items i ON i.job = d.job WHERE d.done IS NULL"
        values: list[Any] = []
        if state is not None:
            query, values = query + " AND i.state = ?", [state]
        if state == "stored":
            query += " AND i.root IS NULL"
        with self._errors():
            rows = self._db.execute(query + " ORDER BY d.queued, d.rowid LIMIT ?", (*values, limit)).fetchall()
        return [Delivery(**dict(row)) for row in rows]

    def delivered_to(self, target: str) -> list[Delivery]:
        """Pictures that were written under this absolute path, the latest first."""
        query = "SELECT * FROM deliveries WHERE target = ? AND done IS NOT NULL ORDER BY rowid DESC"
        with self._errors():
            return [Delivery(**dict(row)) for row in self._db.execute(query, (target,)).fetchall()]

    def waiting(self) -> int:
        """How many pictures wait to be written."""
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM deliveries WHERE done IS NULL").fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Number of pictures in each of :data:`STATES`."""
        with self._errors():
            found = dict(self._db.execute("SELECT state, count(*) FROM items GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def item(self, job: str) -> Item:
        """One picture's row.

        Raises
        ------
        RecordError
            Unknown job.
        """
        with self._errors():
            row = self._row(job)
        if row is None:
            raise RecordError(f"{self.path}: no job {job}; draw it first")
        return _item(row)

    def items(self, *states: str, root: bytes | None = None) -> list[Item]:
        """Pictures in these states (all where none is named), oldest first; with `root`, only those of one batch."""
        wanted = states or STATES
        marks = ", ".join("?" * len(wanted))
        where, values = (f"state IN ({marks})", list[Any](wanted))
        if root is not None:
            where, values = (where + " AND root = ?", [*values, root])
        with self._errors():
            return [_item(row) for row in self._db.execute(f"SELECT * FROM items WHERE {where} ORDER BY rowid", values)]

    def unbatched(self) -> list[Item]:
        """Stored pictures that are in no batch yet, oldest first."""
        return [item for item in self.items("stored") if item.root is None]

    def batch(self, root: bytes) -> Batch:
        """One batch's row.

        Raises
        ------
        RecordError
            Unknown root.
        """
        with self._errors():
            row = self._db.execute("SELECT * FROM batches WHERE root = ?", (root,)).fetchone()
        if row is None:
            raise RecordError(f"{self.path}: no batch 0x{root.hex()}")
        return Batch(**dict(row))

    def batches(self, *states: str) -> list[Batch]:
        """Batches in these states (all where none is named), oldest first."""
        wanted = states or BATCH_STATES
        marks = ", ".join("?" * len(wanted))
        with self._errors():
            rows = self._db.execute(f"SELECT * FROM batches WHERE state IN ({marks}) ORDER BY rowid", wanted).fetchall()
        return [Batch(**dict(row)) for row in rows]

    def jobs(self) -> list[str]:
        """Names of all jobs, oldest first."""
        with self._errors():
            return [row["job"] for row in self._db.execute("SELECT job FROM items ORDER BY rowid")]

    def roots(self, *states: str) -> list[bytes]:
        """Roots of the batches in these states (all where none is named), oldest first."""
        wanted = states or BATCH_STATES
        marks = ", ".join("?" * len(wanted))
        with self._errors():
            rows = self._db.execute(
                f"SELECT root FROM batches WHERE state IN ({marks}) ORDER BY rowid", wanted
            ).fetchall()
        return [bytes(row["root"]) for row in rows]

    def newest(self) -> bytes | None:
        """Root of the confirmed batch in the highest block."""
        with self._errors():
            row = self._db.execute(
                "SELECT root FROM batches WHERE state = 'confirmed' ORDER BY block DESC LIMIT 1"
            ).fetchone()
        return None if row is None else bytes(row["root"])

    def _advance(self, job: str, state: str, values: Mapping[str, bytes | str]) -> Item:
        """One step forward; a step already taken changes nothing, but must have had the same result."""
        with self._write():
            row = self._row(job)
            if row is None:
                raise RecordError(f"{self.path}: no job {job}; draw it first")
            _step(f"{self.path}: job {job}", STATES, row, state, values)
            if row["state"] == STATES[STATES.index(state) - 1]:
                columns = "".join(f", {name} = ?" for name in values)
                self._db.execute(f"UPDATE items SET state = ?{columns} WHERE job = ?", (state, *values.values(), job))
        return self.item(job)

    def _advance_batch(self, root: bytes, state: str, values: dict[str, Any]) -> Batch:
        with self._write():
            row = self._db.execute("SELECT * FROM batches WHERE root = ?", (root,)).fetchone()
            if row is None:
                raise RecordError(f"{self.path}: no batch 0x{root.hex()}")
            _step(f"{self.path}: batch 0x{root.hex()}", BATCH_STATES, row, state, values)
            if row["state"] == BATCH_STATES[BATCH_STATES.index(state) - 1]:
                columns = "".join(f", {name} = ?" for name in values)
                parameters = (state, *values.values(), root)
                self._db.execute(f"UPDATE batches SET state = ?{columns} WHERE root = ?", parameters)
                self._db.execute("UPDATE items SET state = ? WHERE root = ?", (state, root))
        return self.batch(root)

    def _row(self, job: str) -> Any:
        return self._db.execute("SELECT * FROM items WHERE job = ?", (job,)).fetchone()

    def _new_serial(self) -> bytes:
        while True:
            serial = secrets.token_bytes(4)
            if self._db.execute("SELECT 1 FROM items WHERE serial = ?", (serial,)).fetchone() is None:
                return serial


def _step(what: str, order: Sequence[str], row: Any, state: str, values: Mapping[str, Any]) -> None:
    now, then = order.index(row["state"]), order.index(state)
    if now < then - 1:
        raise RecordError(f"{what}: is {row['state']}, cannot become {state} before {order[then - 1]}")
    if now >= then and any(row[name] != value for name, value in values.items()):
        raise RecordError(f"{what}: was {state} before with another result; use the stored one")


def _item(row: Any) -> Item:
    values = dict(row)
    record, signature = values.pop("record"), values.pop("signature")
    signed = None if record is None else SignedRecord(Record.from_json(json.loads(record)), signature)
    return Item(signed=signed, **values)
