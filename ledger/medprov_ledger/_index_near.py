"""Nearest perceptual hashes: all of them in memory, compared one by one.

Eight bytes per record and one pass over them cost the same for every distance and however the hashes lie. An index by
parts of the hash is faster where they are spread evenly, and slower by orders of magnitude where many are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import _index_rows as rows
from ._index_file import IndexFile

_CHUNK = 1 << 15
"""Hashes compared at a time; they and what comes of them stay in the processor's cache."""
_PAYLOAD = np.dtype([("hash", ">u8"), ("serial", "V4")])


@dataclass(frozen=True)
class Near:
    """A record with a near hash.

    Parameters
    ----------
    bits : int
        In which its hash differs.
    batch, position : int
    """

    bits: int
    batch: int
    position: int


@dataclass(frozen=True)
class _Owner:
    """One owner's hashes in the order of the chain."""

    batches: tuple[tuple[int, bytes], ...]
    """Number and root of each batch."""
    ends: NDArray[np.int64]
    """Where each batch ends."""
    hashes: NDArray[np.uint64]


class HashTable:
    """The perceptual hashes of an index file; it reads what is new at each question."""

    def __init__(self) -> None:
        self._version: tuple[int, int, int] | None = None
        self._owners: dict[int, _Owner] = {}

    def near(self, file: IndexFile, wanted: bytes, distance: int, most: int) -> list[Near]:
        """Records whose hash differs in at most `distance` bits; nearest first, then earliest.

        Parameters
        ----------
        file : IndexFile
        wanted : bytes
            8 bytes.
        distance : int
        most : int
            Of one owner.
        """
        value = np.uint64(int.from_bytes(wanted, "big"))
        found = [one for owner in self._refreshed(file) for one in _nearest(owner, value, distance, most)]
        return sorted(found, key=lambda one: (one.bits, one.batch, one.position))

    def _refreshed(self, file: IndexFile) -> list[_Owner]:
        with file.lock:
            version = file.version()
            if version != self._version:
                self._read(file)
                self._version = version
            return list(self._owners.values())

    def _read(self, file: IndexFile) -> None:
        query = """
        SELECT b.owner, b.id, b.root FROM directories d JOIN batches b ON b.id = d.batch ORDER BY b.owner, b.id
        """
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for owner, number, root in file.read(query):
            wanted.setdefault(owner, []).append((number, root))
        kept = self._owners
        self._owners = {number: _grown(file, kept.get(number), batches) for number, batches in wanted.items()}


def _grown(file: IndexFile, held: _Owner | None, batches: Sequence[tuple[int, bytes]]) -> _Owner:
    """An owner's hashes; those that are held are not read again where the new ones only come after them."""
    if held is not None and tuple(batches[: len(held.batches)]) == held.batches:
        if len(batches) == len(held.batches):
            return held
        parts, ends, count = [held.hashes], list(held.ends), len(held.batches)
    else:
        parts, ends, count = [], [], 0
    for number, _ in batches[count:]:
        (row,) = file.read("SELECT payloads FROM directories WHERE batch = ?", (number,)) or [(None,)]
        hashes = np.frombuffer(rows.payloads(file.path, row[0]), _PAYLOAD)["hash"]
        parts.append(hashes.astype(np.uint64))
        ends.append((ends[-1] if ends else 0) + len(hashes))
    return _Owner(tuple(batches), np.array(ends, np.int64), np.concatenate(parts))


def _nearest(owner: _Owner, wanted: np.uint64, distance: int, most: int) -> list[Near]:
    bits = distances(owner.hashes, wanted)
    near = np.flatnonzero(bits <= distance)
    bits = bits[near]
    found: list[Near] = []
    # by counting, not by sorting: where a million pictures are alike, only the first of them are needed
    for different in range(min(distance, 64) + 1):
        for index in near[np.flatnonzero(bits == different)[: most - len(found)]]:
            batch = int(np.searchsorted(owner.ends, index, side="right"))
            start = int(owner.ends[batch - 1]) if batch else 0
            found.append(Near(different, owner.batches[batch][0], int(index) - start))
        if len(found) >= most:
            break
    return found


def distances(hashes: NDArray[np.uint64], wanted: np.uint64) -> NDArray[np.uint8]:
    """Bits in which each hash differs from `wanted`."""
    bits = np.empty(len(hashes), np.uint8)
    different = np.empty(min(_CHUNK, len(hashes)), np.uint64)
    for start in range(0, len(hashes), _CHUNK):
        part = hashes[start : start + _CHUNK]
        np.bitwise_xor(part, wanted, out=different[: len(part)])
        np.bitwise_count(different[: len(part)], out=bits[start : start + len(part)])
    return bits
