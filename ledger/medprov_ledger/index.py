"""The local index: from a record key, an image hash or a perceptual hash to records, without asking anybody.

Everything in it comes from the chain's anchors and their manifests; it may be deleted and is built again, which also
happens by itself where its file is damaged. A manifest is taken as a whole or not at all
(:func:`medprov_ledger.manifest.verify`, and the owner a member at the anchor's block).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import _canonical, eip712, sealing
from ._index_file import DamagedError, IndexFile
from ._index_sync import AnchorSource, Membership, Problem, Sources, SyncReport, sync
from .errors import ChainError, LedgerError, RecordError
from .record import Record
from .registry import Anchor
from .store import Store

__all__ = ["AnchorSource", "Entry", "Membership", "Problem", "RecordIndex", "SyncReport"]

_SELECT = """
SELECT r.record, r.signature, r.leaf, r.proof, r.payload, b.root, b.owner, b.block, b.time, b.count, b.cid, b.tx_hash
FROM records r JOIN batches b ON b.id = r.batch
"""
_ORDER = " ORDER BY b.block, b.root, b.owner, r.position"
_LONGEST = 4096
"""A record's JSON has a fifth of this."""
_Answer = TypeVar("_Answer")


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
        self._reported: dict[tuple[str, bytes], str] = {}
        self._trouble = ""

    def close(self) -> None:
        """Close the file; the index cannot be used any more."""
        self._file.close()

    def sync(
        self, registry: AnchorSource, federation: Membership, store: Store, directory_key: bytes | None = None
    ) -> SyncReport:
        """Bring the index to the state of the chain.

        Reads all anchors, drops the batches that a reorganisation took away, fetches the manifests of the new ones. A
        manifest that does not come is tried again after a pause that grows, and a sync gives up on such ones after a
        while; all that are missing are in the report.

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
        with self._syncing:
            sources = Sources(registry, federation, store, directory_key)
            self._sources, self._trouble = sources, ""
            try:
                report = sync(self._file, sources)
            except DamagedError as damage:
                report = self._build_anew(damage, sources)
            self._reported = _missing(report)
            return report

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
        query = "SELECT payload, leaf FROM records WHERE payload IS NOT NULL ORDER BY leaf"
        return self._ask(lambda: [self._payload(row) for row in self._file.read(query)])

    def problems(self) -> list[Problem]:
        """Anchored batches that were looked at and are not in the index, and why."""
        query = "SELECT owner, root, cid, state, reason FROM batches WHERE state != 'good' ORDER BY block"
        return self._ask(lambda: [Problem(*row) for row in self._file.read(query)])

    def __len__(self) -> int:
        return self._ask(lambda: int(self._file.read("SELECT count(*) FROM records")[0][0]))

    def _entries(self, where: str, values: Iterable[bytes]) -> list[Entry]:
        query = f"{_SELECT} {where} {_ORDER}"
        found = self._ask(lambda: [self._entry(row) for row in self._file.read(query, tuple(values))])
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

    def _entry(self, row: Sequence[Any]) -> Entry:
        text, signature, leaf, proof, payload, root, owner, block, moment, count, cid, tx_hash = row
        try:
            record = Record.from_json(_canonical.loads(_canonical.text(text, _LONGEST, "record").encode(), "record"))
            nodes = tuple(
                _canonical.fixed(proof[start : start + 32], 32, "proof") for start in range(0, len(proof), 32)
            )
            if payload is not None:
                _canonical.fixed(payload, sealing.PAYLOAD_SIZE, "payload")
            return Entry(
                record=record,
                signature=_canonical.fixed(signature, 65, "signature"),
                leaf=_canonical.fixed(leaf, 32, "leaf"),
                proof=nodes,
                root=_canonical.fixed(root, 32, "root"),
                anchor=Anchor(root, owner, block, moment, count, cid, tx_hash),
                payload=payload,
            )
        except (RecordError, TypeError):
            raise DamagedError(self.path, "a record cannot be read") from None

    def _payload(self, row: Sequence[Any]) -> tuple[bytes, bytes]:
        try:
            payload = _canonical.fixed(row[0], sealing.PAYLOAD_SIZE, "payload")
            return payload, _canonical.fixed(row[1], 32, "leaf")
        except RecordError:
            raise DamagedError(self.path, "a payload cannot be read") from None


def _missing(report: SyncReport) -> dict[tuple[str, bytes], str]:
    return {(one.owner, one.root): one.reason for one in report.problems if one.state == "missing"}
