"""The local index: from a record key, an image hash or a perceptual hash to records, without asking anybody.

Everything in it comes from the chain's events and the batches' manifests; it may be deleted and is built again, which
also happens by itself where its file is damaged. A manifest is taken as a whole or not at all
(:func:`medprov_ledger.manifest.verify`, and the owner a member at the anchor's block).

No answer grows with what one member puts into the ledger: of each owner a look-up gives the earliest
:data:`MOST_PER_OWNER` records, a search for a perceptual hash the :data:`MOST_NEAR_PER_OWNER` nearest, and leaves out
the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import _canonical, eip712, merkle, sealing
from . import _index_rows as rows
from ._index_chain import AnchorSource
from ._index_fetch import ManifestSource
from ._index_file import DamagedError, IndexFile
from ._index_sync import Membership, Problem, Sources, SyncReport, sync, to_anchor
from .errors import ChainError, LedgerError, RecordError
from .record import Record
from .registry import Anchor, Registration

if TYPE_CHECKING:
    from ._index_near import HashTable

__all__ = [
    "MOST_NEAR_PER_OWNER",
    "MOST_PER_OWNER",
    "AnchorSource",
    "Entry",
    "ManifestSource",
    "Membership",
    "Problem",
    "RecordIndex",
    "SyncReport",
]

MOST_PER_OWNER = 64
"""Records of one owner in an answer. A hospital has one or two of a key or a picture; a batch of copies has 131 072."""
MOST_NEAR_PER_OWNER = 8
"""Records of one owner among those of a near perceptual hash."""
_ENTRY = f"""
SELECT {", ".join("r." + name for name in rows.RECORD.split(", "))}, r.signature, r.place, r.batch, r.position,
    o.address, b.root, b.block, b.time, b.count, b.cid, b.tx_hash,
    (SELECT substr(payloads, {sealing.PAYLOAD_SIZE} * r.position + 1, {sealing.PAYLOAD_SIZE})
     FROM directories d WHERE d.batch = r.batch)
FROM records r JOIN batches b ON b.id = r.batch JOIN owners o ON o.id = r.owner
"""
_REGISTRATION = f"""
SELECT {", ".join("r." + name for name in rows.RECORD.split(", "))}, o.address, r.block, r.time, r.tx_hash, r.id
FROM registrations r JOIN owners o ON o.id = r.owner
"""
_Answer = TypeVar("_Answer")
_Place = tuple[int, int]
"""A record's batch and position in it, both along the chain."""


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


class RecordIndex:
    """The index of one registry; safe to share between threads.

    A file that turns out to be damaged is set aside and built again from the sources of the last sync. Where they do
    not answer at that moment, the look-ups raise ChainError until the next sync.

    Parameters
    ----------
    path : Path, str
        A file, or ``":memory:"``. An index of another format or registry is emptied and built anew.
    domain : Domain
        The registry whose anchors it holds.

    Raises
    ------
    RecordError
        The file is another program's database or cannot be opened.
    """

    def __init__(self, path: Path | str, domain: eip712.Domain) -> None:
        self.path, self.domain = str(path), domain
        self._file = IndexFile(self.path, domain)
        # two syncs at once would fetch everything twice
        self._syncing = threading.RLock()
        self._sources: Sources | None = None
        self._hashes: HashTable | None = None
        self._reported: dict[tuple[str, bytes], str] = {}
        self._trouble = ""

    def close(self) -> None:
        """Close the file; the index cannot be used any more."""
        self._file.close()

    def sync(
        self, registry: AnchorSource, federation: Membership, store: ManifestSource, *directory_keys: bytes | None
    ) -> SyncReport:
        """Bring the index to the state of the chain.

        Reads the chain on from the last block that is still the same, drops the batches that a reorganisation took
        away, fetches the manifests of the new ones, several at a time. A manifest that does not come is tried again
        after a pause that grows, and a sync gives up on such ones after a while; all that are missing are in the
        report. What was read and taken stays, whenever the process ends.

        Parameters
        ----------
        registry : AnchorSource
        federation : Membership
        store : ManifestSource
            Asked from several threads.
        directory_keys : bytes or None
            32 bytes each; open the directories that were sealed with them. None stands for no key.

        Raises
        ------
        ChainError
            The chain does not answer; batches taken before that stay, the next sync goes on from there.
        """
        with self._syncing:
            sources = Sources(registry, federation, store, tuple(key for key in directory_keys if key is not None))
            self._sources, self._trouble = sources, ""
            try:
                report = sync(self._file, sources)
            except DamagedError as damage:
                report = self._build_anew(damage, sources)
            self._reported = _missing(report)
            return report

    def by_key(self, record_key: bytes) -> list[Entry]:
        """Records of a record key (32 bytes), earliest anchor first; two owners may claim one key."""
        return self._entries("key", record_key)

    def by_released_hash(self, released_hash: bytes) -> list[Entry]:
        """Records of a released picture's content hash (32 bytes), earliest anchor first."""
        return self._entries("released_hash", released_hash)

    def by_leaf(self, leaf: bytes) -> list[Entry]:
        """The record with this id (32 bytes), once per batch that holds it, earliest anchor first."""
        return self._entries("leaf", leaf)

    def registered_by_key(self, record_key: bytes) -> list[Registration]:
        """Records of a record key that were registered by themselves, earliest first."""
        return self._registrations("key", record_key)

    def registered_by_released_hash(self, released_hash: bytes) -> list[Registration]:
        """Records of a released picture that were registered by themselves; the contract takes one."""
        return self._registrations("released_hash", released_hash)

    def registered_by_leaf(self, leaf: bytes) -> list[Registration]:
        """The record with this id, if it was registered by itself."""
        return self._registrations("leaf", leaf)

    def near(self, perceptual_hash: bytes, distance: int) -> list[Entry]:
        """Records whose payload's perceptual hash (8 bytes) differs in at most `distance` bits; nearest first.

        Exact; of each owner the :data:`MOST_NEAR_PER_OWNER` nearest, of equally near ones the earliest. Only batches
        whose directory was opened can be found. The first question reads all hashes into memory, 8 bytes per record.
        """
        if len(perceptual_hash) != 8:
            raise RecordError("perceptual hash: must be 8 bytes")

        def search() -> list[Entry]:
            # numpy takes a while to import; a look-up of a key does not need it
            from ._index_near import HashTable

            self._hashes = self._hashes or HashTable()
            found = self._hashes.near(self._file, perceptual_hash, distance, MOST_NEAR_PER_OWNER)
            with self._file.snapshot():
                where = "WHERE r.batch = ? AND r.position = ?"
                # another process may have dropped a batch since the hashes were read
                return [entry for one in found for _, entry in self._read(where, (one.batch, one.position))]

        return self._whole(search)

    def payloads(self) -> list[bytes]:
        """All different payloads (12 bytes) of the directories that were opened, sorted; for list decoding."""
        size = sealing.PAYLOAD_SIZE

        def collect() -> list[bytes]:
            found: set[bytes] = set()
            for (row,) in self._file.read("SELECT payloads FROM directories"):
                packed = rows.payloads(self.path, row)
                found.update(packed[start : start + size] for start in range(0, len(packed), size))
            return sorted(found)

        return self._ask(collect)

    def problems(self) -> list[Problem]:
        """Anchored batches that were looked at and are not in the index, and why."""
        query = """
        SELECT o.address, b.root, b.cid, b.state, b.reason FROM batches b JOIN owners o ON o.id = b.owner
        WHERE b.state IN ('bad', 'missing') ORDER BY b.id
        """
        return self._ask(lambda: [Problem(*row) for row in self._file.read(query)])

    def __len__(self) -> int:
        query = "SELECT coalesce(sum(count), 0) FROM batches WHERE state = 'good'"
        return self._ask(lambda: int(self._file.read(query)[0][0]))

    def _entries(self, column: str, value: bytes) -> list[Entry]:
        def search() -> list[tuple[_Place, Entry]]:
            with self._file.snapshot():
                where = f"WHERE r.{column} = ? AND r.owner = ? ORDER BY r.batch, r.position LIMIT {MOST_PER_OWNER}"
                owners = rows.owners_of(self._file, "records", column, value)
                return [found for owner in owners for found in self._read(where, (value, owner))]

        return [entry for _, entry in sorted(self._whole(search), key=lambda pair: pair[0])]

    def _registrations(self, column: str, value: bytes) -> list[Registration]:
        query = f"{_REGISTRATION} WHERE r.{column} = ? AND r.owner = ? ORDER BY r.id LIMIT {MOST_PER_OWNER}"

        def search() -> list[tuple[int, Registration]]:
            with self._file.snapshot():
                owners = rows.owners_of(self._file, "registrations", column, value)
                lines = [line for owner in owners for line in self._file.read(query, (value, owner))]
                return [self._registration(line) for line in lines]

        return [one for _, one in sorted(self._whole(search), key=lambda pair: pair[0])]

    def _whole(self, search: Callable[[], _Answer]) -> _Answer:
        """The answer of a look-up, unless a part of the index could not be built again."""
        found = self._ask(search)
        if self._trouble:
            raise ChainError(f"{self.path}: the index was damaged and is not whole again: {self._trouble}")
        return found

    def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        """Answer a question; where the file proves to be damaged, build it again first."""
        generation = self._file.generation
        try:
            return question()
        except DamagedError as damage:
            with self._syncing:
                # another thread may have done it meanwhile
                if self._file.generation == generation:
                    self._rebuild(damage)
            return question()

    def _rebuild(self, damage: DamagedError) -> None:
        if self._sources is None:
            self._file.begin_anew(damage)
            return
        try:
            report = self._build_anew(damage, self._sources)
            # what was missing before, the last sync has told its caller
            lost = [reason for name, reason in _missing(report).items() if name not in self._reported]
            self._trouble = lost[0] if lost else ""
        except LedgerError as error:
            self._trouble = str(error)

    def _build_anew(self, damage: DamagedError, sources: Sources) -> SyncReport:
        # other threads must wait: half an index would tell them that there is no record
        with self._file.lock:
            self._file.begin_anew(damage)
            return sync(self._file, sources)

    def _read(self, where: str, values: Sequence[Any]) -> list[tuple[_Place, Entry]]:
        return [self._entry(line) for line in self._file.read(f"{_ENTRY} {where}", values)]

    def _entry(self, line: Sequence[Any]) -> tuple[_Place, Entry]:
        columns, line = line[: rows.WIDTH], line[rows.WIDTH :]
        signature, place, batch, position, *anchored, payload = line
        anchor = to_anchor(anchored)
        leaf, record = rows.to_record(self.path, columns, anchor.owner)
        if type(place) is not int or not 0 <= place < 2 * anchor.count - 1:
            raise DamagedError(self.path, "a record's place cannot be read")
        proof = self._file.pieces("trees", "nodes", batch, [32 * sibling for sibling in merkle.siblings(place)], 32)
        try:
            signature = _canonical.fixed(signature, 65, "signature")
            if payload is not None:
                _canonical.fixed(payload, sealing.PAYLOAD_SIZE, "payload")
        except RecordError:
            raise DamagedError(self.path, "a record cannot be read") from None
        return (batch, position), Entry(record, signature, leaf, tuple(proof), anchor.root, anchor, payload)

    def _registration(self, line: Sequence[Any]) -> tuple[int, Registration]:
        columns, (address, block, moment, tx_hash, number) = line[: rows.WIDTH], line[rows.WIDTH :]
        leaf, record = rows.to_record(self.path, columns, address)
        return number, Registration(leaf, record, block, moment, tx_hash)


def _missing(report: SyncReport) -> dict[tuple[str, bytes], str]:
    return {(one.owner, one.root): one.reason for one in report.problems if one.state == "missing"}
