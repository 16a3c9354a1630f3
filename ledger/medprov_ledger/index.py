"""The local index: from a record key, an image hash or a perceptual hash to records, without asking anybody.

Everything in it comes from the chain's anchors and their manifests; it may be deleted and is built again. A manifest is
taken as a whole or not at all (:func:`medprov_ledger.manifest.verify`, and the owner a member at the anchor's block).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import eip712, manifest, sealing
from .errors import RecordError, SealError, StoreError
from .record import Record
from .registry import Anchor
from .store import Store

SCHEMA = 1
"""Raise it when a new version of manifest or record becomes readable: batches refused before are then read again."""
_APPLICATION = 0x4D505249
_TABLES = """
CREATE TABLE domain (chain_id TEXT NOT NULL, registry TEXT NOT NULL);
CREATE TABLE batches (
    root BLOB PRIMARY KEY, owner TEXT NOT NULL, block INTEGER NOT NULL, time INTEGER NOT NULL, count INTEGER NOT NULL,
    cid TEXT NOT NULL, tx_hash TEXT, state TEXT NOT NULL, reason TEXT NOT NULL, key_id BLOB, directory BLOB);
CREATE TABLE records (
    leaf BLOB NOT NULL, root BLOB NOT NULL REFERENCES batches ON DELETE CASCADE, position INTEGER NOT NULL,
    key BLOB NOT NULL, released_hash BLOB NOT NULL, record TEXT NOT NULL, signature BLOB NOT NULL, proof BLOB NOT NULL,
    payload BLOB, PRIMARY KEY (root, position)) WITHOUT ROWID;
CREATE INDEX by_leaf ON records (leaf);
CREATE INDEX by_key ON records (key);
CREATE INDEX by_released_hash ON records (released_hash);
"""
_SELECT = """
SELECT r.record, r.signature, r.leaf, r.proof, r.payload, b.root, b.owner, b.block, b.time, b.count, b.cid, b.tx_hash
FROM records r JOIN batches b USING (root)
"""
_ORDER = " ORDER BY b.block, b.root, r.position"


class AnchorSource(Protocol):
    """What the index needs of :class:`medprov_ledger.registry.Registry`."""

    def anchors(self, from_block: int = 0) -> list[Anchor]:
        """All confirmed anchors, oldest first."""


class Membership(Protocol):
    """What the index needs of :class:`medprov_ledger.federation.Federation`."""

    def is_member(self, address: str, block: int | None = None) -> bool:
        """Whether `address` was an active member at `block`."""


@dataclass(frozen=True)
class Entry:
    """A record that its anchor proves.

    Parameters
    ----------
    record : Record
    signature : bytes
        65 bytes, by the record's owner.
    leaf : bytes
        32 bytes, the record's id.
    proof : tuple of bytes
        From the leaf to the root, 32 bytes each.
    root : bytes
        32 bytes.
    anchor : Anchor
    payload : bytes or None
        12 bytes as the owner states them in the directory, where it could be opened.
    """

    record: Record
    signature: bytes
    leaf: bytes
    proof: tuple[bytes, ...]
    root: bytes
    anchor: Anchor
    payload: bytes | None = None


@dataclass(frozen=True)
class Problem:
    """A batch that is anchored but not in the index.

    Parameters
    ----------
    root : bytes
    cid : str
    state : str
        ``"bad"``: the manifest is false, for ever. ``"missing"``: it could not be fetched; the next sync tries again.
    reason : str
    """

    root: bytes
    cid: str
    state: str
    reason: str


@dataclass(frozen=True)
class SyncReport:
    """What one sync did: batches taken in, batches that the chain no longer has, problems of this run."""

    added: int
    removed: int
    problems: tuple[Problem, ...]


class RecordIndex:
    """The index of one registry; safe to share between threads.

    Parameters
    ----------
    path : Path, str
        A file, or ``":memory:"``. An index of another format or registry is emptied and built anew.
    domain : Domain
        The registry whose anchors it holds.

    Raises
    ------
    RecordError
        The file is not an index or cannot be opened.
    """

    def __init__(self, path: Path | str, domain: eip712.Domain) -> None:
        self.path, self.domain = str(path), domain
        self._lock = threading.RLock()
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._prepare()

    def close(self) -> None:
        """Close the file; the index cannot be used any more."""
        self._db.close()

    def sync(
        self, registry: AnchorSource, federation: Membership, store: Store, directory_key: bytes | None = None
    ) -> SyncReport:
        """Bring the index to the state of the chain.

        Reads all anchors, drops the batches that a reorganisation took away, fetches the manifests of the new ones.

        Parameters
        ----------
        registry : AnchorSource
        federation : Membership
        store : Store
        directory_key : bytes or None
            32 bytes; opens the directories that were sealed with it.

        Raises
        ------
        ChainError
            The chain does not answer; batches taken before that stay, the next sync goes on from there.
        """
        anchors = {anchor.root: anchor for anchor in registry.anchors()}
        removed = self._drop_absent(anchors)
        with self._errors():
            settled = {row[0] for row in self._db.execute("SELECT root FROM batches WHERE state IN ('good', 'bad')")}
        added = 0
        problems = []
        for anchor in anchors.values():
            if anchor.root in settled:
                continue
            problem = self._take(anchor, federation, store)
            if problem is None:
                added += 1
            else:
                problems.append(problem)
        if directory_key is not None:
            self._open_directories(directory_key)
        return SyncReport(added, removed, tuple(problems))

    def by_key(self, record_key: bytes) -> list[Entry]:
        """All records of a record key (32 bytes), earliest anchor first; two owners may claim one key."""
        return self._entries("WHERE r.key = ?", (record_key,))

    def by_released_hash(self, released_hash: bytes) -> list[Entry]:
        """All records of a released picture's content hash (32 bytes), earliest anchor first."""
        return self._entries("WHERE r.released_hash = ?", (released_hash,))

    def by_leaf(self, leaf: bytes) -> list[Entry]:
        """The record with this id (32 bytes), once per batch that holds it, earliest anchor first."""
        return self._entries("WHERE r.leaf = ?", (leaf,))

    def near(self, perceptual_hash: bytes, distance: int) -> list[Entry]:
        """Records whose payload's perceptual hash (8 bytes) differs in at most `distance` bits; nearest first.

        Only batches whose directory was opened can be found.
        """
        if len(perceptual_hash) != 8:
            raise RecordError("perceptual hash: must be 8 bytes")
        wanted = int.from_bytes(perceptual_hash, "big")
        found: dict[bytes, int] = {}
        for payload, leaf in self.payloads():
            bits = (int.from_bytes(payload[:8], "big") ^ wanted).bit_count()
            if bits <= distance:
                found[leaf] = min(bits, found.get(leaf, bits))
        return [entry for leaf, _ in sorted(found.items(), key=lambda item: item[1]) for entry in self.by_leaf(leaf)]

    def payloads(self) -> list[tuple[bytes, bytes]]:
        """Payload (12 bytes) and leaf of every record whose directory was opened; for list decoding."""
        with self._errors():
            rows = self._db.execute("SELECT payload, leaf FROM records WHERE payload IS NOT NULL ORDER BY leaf")
            return rows.fetchall()

    def problems(self) -> list[Problem]:
        """Anchored batches that are not in the index, and why."""
        with self._errors():
            rows = self._db.execute("SELECT root, cid, state, reason FROM batches WHERE state != 'good' ORDER BY block")
            return [Problem(*row) for row in rows]

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM records").fetchone()[0])

    def _take(self, anchor: Anchor, federation: Membership, store: Store) -> Problem | None:
        try:
            # the chain is asked first: a manifest of a stranger is not even fetched
            if not federation.is_member(anchor.owner, anchor.block):
                raise RecordError(f"anchor of {anchor.owner}: not a member at block {anchor.block}")
            found = manifest.parse(store.get(anchor.cid, manifest.MAX_SIZE))
            manifest.verify(found, anchor, self.domain)
        except StoreError as error:
            return self._reject(anchor, "missing", str(error))
        except RecordError as error:
            return self._reject(anchor, "bad", str(error))
        rows = []
        for position, signed in enumerate(found.records):
            record = signed.record
            keys = (found.leaves[position], anchor.root, position, record.key, record.released_hash)
            proof = b"".join(found.tree.proofs[position])
            rows.append((*keys, json.dumps(record.to_json()), signed.signature, proof))
        with self._write():
            self._batch(anchor, "good", "", found.directory)
            self._db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)
        return None

    def _reject(self, anchor: Anchor, state: str, reason: str) -> Problem:
        with self._write():
            self._batch(anchor, state, reason, None)
        return Problem(anchor.root, anchor.cid, state, reason)

    def _batch(self, anchor: Anchor, state: str, reason: str, directory: manifest.SealedDirectory | None) -> None:
        sealed = (None, None) if directory is None else (directory.key_id, directory.sealed)
        self._db.execute("DELETE FROM batches WHERE root = ?", (anchor.root,))
        a = anchor
        row = (a.root, a.owner, a.block, a.time, a.count, a.cid, a.tx_hash, state, reason, *sealed)
        self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _open_directories(self, key: bytes) -> None:
        with self._errors():
            rows = self._db.execute(
                "SELECT root, count, key_id, directory FROM batches WHERE key_id = ? AND directory IS NOT NULL",
                (sealing.key_id(key),),
            ).fetchall()
        for root, count, key_id, sealed in rows:
            reason = ""
            payloads: Sequence[bytes] = ()
            try:
                payloads = manifest.unseal_directory(manifest.SealedDirectory(key_id, sealed), key, root, count)
            except (SealError, RecordError) as error:
                # the records stand without it: their proofs do not depend on the directory
                reason = f"directory: {error}"
            with self._write():
                self._db.execute("UPDATE batches SET directory = NULL, reason = ? WHERE root = ?", (reason, root))
                self._db.executemany(
                    "UPDATE records SET payload = ? WHERE root = ? AND position = ?",
                    [(payload, root, position) for position, payload in enumerate(payloads)],
                )

    def _drop_absent(self, anchors: dict[bytes, Anchor]) -> int:
        with self._write():
            rows = self._db.execute("SELECT root, owner, block, cid FROM batches").fetchall()
            standing = {(anchor.root, anchor.owner, anchor.block, anchor.cid) for anchor in anchors.values()}
            gone = [(row[0],) for row in rows if row not in standing]
            self._db.executemany("DELETE FROM batches WHERE root = ?", gone)
        return len(gone)

    def _entries(self, where: str, values: Iterable[bytes]) -> list[Entry]:
        with self._errors():
            return [_entry(row) for row in self._db.execute(f"{_SELECT} {where} {_ORDER}", tuple(values)).fetchall()]

    def _prepare(self) -> None:
        wanted = (str(self.domain.chain_id), self.domain.registry)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        ours = self._db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION
        if not ours and self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise RecordError(f"{self.path}: is another program's database; name a file of its own for the index")
        current = self._db.execute("SELECT * FROM domain").fetchone() if version == SCHEMA else None
        if current == wanted:
            return
        with self._write():
            for table in ("records", "batches", "domain"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _TABLES.split(";\n")[:-1]:
                self._db.execute(statement)
            self._db.execute("INSERT INTO domain VALUES (?, ?)", wanted)
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")

    @contextmanager
    def _write(self) -> Iterator[None]:
        """One transaction: all of it or nothing."""
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
            raise RecordError(f"{self.path}: index not usable ({error}); delete the file, it is built again") from None


def _entry(row: Sequence[Any]) -> Entry:
    text, signature, leaf, proof, payload, root, owner, block, time, count, cid, tx_hash = row
    nodes = tuple(proof[start : start + 32] for start in range(0, len(proof), 32))
    anchor = Anchor(root, owner, block, time, count, cid, tx_hash)
    return Entry(Record.from_json(json.loads(text)), signature, leaf, nodes, root, anchor, payload)
