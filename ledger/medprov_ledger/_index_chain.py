"""How the index follows the chain: it reads on from the last block that is still the same.

The file holds some of the blocks that it was read up to, with their hashes: a block's hash stands for all blocks before
it. Where the newest of them is gone, the chain was reorganised; what was read since the newest that stands is read
again, and what is different is dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

from . import _index_rows as rows
from ._index_file import IndexFile
from .errors import ChainError
from .registry import Anchor, Registration

SPAN = 100_000
"""Blocks that are read and committed at a time; a first reading of a long chain goes on from there."""
ATTEMPTS = 5
_TURNS = 20
"""Bits of a place that tell what stands in the same block."""
_NO_BLOCK = -1
_Item = TypeVar("_Item", Anchor, Registration)


class AnchorSource(Protocol):
    """What the index needs of :class:`medprov_ledger.registry.Registry`."""

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        """All confirmed anchors in a range of blocks, both ends included, in the order of the chain."""

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        """All confirmed single registrations in a range of blocks, in the order of the chain."""

    def confirmed_head(self) -> int:
        """Number of the newest confirmed block; negative while there is none."""

    def block_hash(self, block: int) -> bytes | None:
        """Hash of the block with this number, 32 bytes; None where there is none."""


@dataclass(frozen=True)
class _Block:
    number: int
    hash: bytes | None


class _MovedError(Exception):
    """The chain was reorganised while it was read."""


def place(block: int, turn: int) -> int:
    """Number of what stands in `block` after `turn` others of its kind; grows along the chain."""
    if not 0 <= turn < 1 << _TURNS:
        raise ChainError(f"block {block}: holds more than {1 << _TURNS} anchors; is this a chain's answer?")
    return (block << _TURNS) + turn


def follow(file: IndexFile, source: AnchorSource) -> int:
    """Bring the file's batches and registrations to the state of the chain.

    New batches get the state ``new``: their manifests are fetched later. What was read is committed span by span.

    Returns
    -------
    int
        Batches dropped, because the chain no longer has them or has them elsewhere.

    Raises
    ------
    ChainError
        The chain does not answer, or does not stand still.
    """
    removed = 0
    for _ in range(ATTEMPTS):
        try:
            for dropped in _read_on(file, source):
                removed += dropped
            return removed
        except _MovedError:
            continue
    raise ChainError(f"{file.path}: the chain was reorganised {ATTEMPTS} times while it was read; try again")


def _read_on(file: IndexFile, source: AnchorSource) -> Iterator[int]:
    newest = source.confirmed_head()
    base = _standing(file, source, newest)
    while base.number < newest:
        start, end = base.number + 1, min(base.number + SPAN, newest)
        tip = _Block(end, source.block_hash(end))
        anchors = [anchor for anchor in source.anchors(start, end) if start <= anchor.block <= end]
        single = [one for one in source.registrations(start, end) if start <= one.block <= end]
        # in this order: if the tip is the same before and after, so were its ancestors in between
        if base.number != _NO_BLOCK and source.block_hash(base.number) != base.hash:
            raise _MovedError
        if tip.hash is None or source.block_hash(end) != tip.hash:
            raise _MovedError
        with file.write() as db:
            dropped = _replace(db, start, end, anchors, single)
            _mark(db, tip)
        yield dropped
        base = tip
    yield _forget_after(file, newest)


def _standing(file: IndexFile, source: AnchorSource, newest: int) -> _Block:
    """The newest block that was read and that the chain still has."""
    for number, found in file.read("SELECT number, hash FROM blocks WHERE number <= ? ORDER BY number DESC", (newest,)):
        if source.block_hash(number) == found:
            return _Block(number, found)
    return _Block(_NO_BLOCK, None)


def _forget_after(file: IndexFile, newest: int) -> int:
    values = (newest + 1, place(newest + 1, 0), place(newest + 1, 0))
    conditions = ("blocks WHERE number >= ?", "registrations WHERE id >= ?", "batches WHERE id >= ?")
    if not file.read(" UNION ALL ".join(f"SELECT 1 FROM {condition}" for condition in conditions), values):
        return 0
    with file.write() as db:
        return [
            db.execute(f"DELETE FROM {condition}", (value,)).rowcount
            for condition, value in zip(conditions, values, strict=True)
        ][-1]


def _mark(db: sqlite3.Connection, tip: _Block) -> None:
    """Note a block, and keep of the former ones fewer the further back they are.

    A block goes where the one before it is at most twice as far back as the one after it: a reorganisation costs a
    second reading of about twice its depth, and no file holds more than a few dozen blocks.
    """
    db.execute("DELETE FROM blocks WHERE number >= ?", (tip.number,))
    former = [row[0] for row in db.execute("SELECT number FROM blocks ORDER BY number DESC").fetchall()]
    after = tip.number
    for number, before in pairwise(former):
        if tip.number - before <= 2 * (tip.number - after):
            db.execute("DELETE FROM blocks WHERE number = ?", (number,))
        else:
            after = number
    db.execute("INSERT INTO blocks VALUES (?, ?)", (tip.number, tip.hash))


def _replace(
    db: sqlite3.Connection, start: int, end: int, anchors: Sequence[Anchor], single: Sequence[Registration]
) -> int:
    """Make the rows of a range of blocks those of the chain; gives the number of batches dropped."""
    bounds = (place(start, 0), place(end + 1, 0))
    # a block that was read and is gone can be on no other chain's way to this range's end
    db.execute("DELETE FROM blocks WHERE number >= ?", (start,))
    wanted = {number: (anchor, rows.seal(anchor)) for number, anchor in _placed(anchors)}
    held = dict(db.execute("SELECT id, seal FROM batches WHERE id >= ? AND id < ?", bounds).fetchall())
    gone = [number for number, seal in held.items() if number not in wanted or wanted[number][1] != seal]
    db.executemany("DELETE FROM batches WHERE id = ?", [(number,) for number in gone])
    dropped = len(gone)
    for number, (anchor, _) in wanted.items():
        if number in held and number not in gone:
            continue
        # an account anchors a root once: what stands elsewhere in the file is of a chain that is gone
        owner = rows.owner(db, anchor.owner)
        dropped += db.execute("DELETE FROM batches WHERE owner = ? AND root = ?", (owner, anchor.root)).rowcount
        insert(db, number, anchor)
    db.execute("DELETE FROM registrations WHERE id >= ? AND id < ?", bounds)
    for number, one in _placed(single):
        owner = rows.owner(db, one.record.owner)
        row = (number, *rows.of_record(one.record, one.record_id), owner, one.block, one.time, one.tx_hash)
        db.execute(f"INSERT INTO registrations VALUES (?{', ?' * (len(row) - 1)})", row)
    return dropped


def insert(db: sqlite3.Connection, number: int, anchor: Anchor) -> None:
    """Put a batch into the file whose manifest nobody has looked at yet."""
    a = anchor
    values = (number, rows.owner(db, a.owner), a.root, a.block, a.time, a.count, a.cid, a.tx_hash, rows.seal(a))
    db.execute(f"INSERT INTO batches VALUES ({'?, ' * len(values)}'new', '', 0, 0, NULL, NULL)", values)


def _placed(items: Iterable[_Item]) -> Iterator[tuple[int, _Item]]:
    turns: dict[int, int] = {}
    for item in items:
        turn = turns.get(item.block, 0)
        turns[item.block] = turn + 1
        yield place(item.block, turn), item
