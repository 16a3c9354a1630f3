"""Records as rows of the index, and back; what does not come back as a record is damage."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Any

from . import _canonical, sealing
from ._index_file import DamagedError, IndexFile
from .errors import RecordError
from .record import Record
from .registry import Anchor

RECORD = "leaf, key, cover_hash, marked_hash, released_hash, evidence_cid, bundle_cid, model, sealed_at, format, owner"
"""The columns that :func:`of_record` gives, in its order, and the number of the owner, see :func:`owner`."""
WIDTH = 11


def of_record(record: Record, leaf: bytes) -> tuple[Any, ...]:
    """A record's columns but for the last, its owner.

    Parameters
    ----------
    record : Record
    leaf : bytes
        32 bytes.
    """
    r = record
    hashes = (leaf, r.key, r.cover_hash, r.marked_hash, r.released_hash)
    return (*hashes, r.evidence_cid, r.bundle_cid, r.model, r.time, r.format)


def to_record(path: str, row: Sequence[Any], address: str) -> tuple[bytes, Record]:
    """Leaf and record of a row.

    Parameters
    ----------
    path : str
        Of the index, for the message.
    row : sequence
        The columns :data:`RECORD`.
    address : str
        The owner's.

    Raises
    ------
    DamagedError
    """
    leaf, key, cover, marked, released, evidence, bundle, model, moment, version, _ = row
    try:
        record = Record(key, cover, marked, released, evidence, bundle, address, model, moment, version)
        return _canonical.fixed(leaf, 32, "leaf"), record
    except (RecordError, TypeError, ValueError, AttributeError):
        raise DamagedError(path, "a record cannot be read") from None


def owner(db: sqlite3.Connection, address: str) -> int:
    """Number of an owner; a new one where it has none."""
    db.execute("INSERT OR IGNORE INTO owners (address) VALUES (?)", (address,))
    return int(db.execute("SELECT id FROM owners WHERE address = ?", (address,)).fetchone()[0])


def owners_of(file: IndexFile, table: str, column: str, value: bytes) -> list[int]:
    """Numbers of all owners that have a row with this value; costs a look-up each, however many rows there are."""
    found: list[int] = []
    query = f"SELECT min(owner) FROM {table} WHERE {column} = ? AND owner > ?"
    while (number := file.read(query, (value, found[-1] if found else -1))[0][0]) is not None:
        if not isinstance(number, int):
            raise DamagedError(file.path, "an owner cannot be read")
        found.append(number)
    return found


def payloads(path: str, packed: object) -> bytes:
    """What a row of the directories holds, whole payloads.

    Raises
    ------
    DamagedError
    """
    if not isinstance(packed, bytes) or len(packed) % sealing.PAYLOAD_SIZE:
        raise DamagedError(path, "a directory cannot be read")
    return packed


def seal(anchor: Anchor) -> bytes:
    """What shows that a batch's row is as it was written, 8 bytes.

    The chain is not read again from the start, so nothing else would show a changed one.
    """
    a = anchor
    text = repr((a.owner, a.root, a.block, a.time, a.count, a.cid, a.tx_hash))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()[:8]
