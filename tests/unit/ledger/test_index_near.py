"""Nearest perceptual hashes, against a plain comparison of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import _index_near
from medprov_ledger._index_file import DamagedError, IndexFile
from medprov_ledger._index_near import HashTable, Near, distances
from tests.unit.ledger.index_world import DOMAIN

Batch = tuple[int, int, list[int]]
"""Owner, block, hashes."""
HASHES = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 15), st.integers(0, 3).map(lambda n: n << 62))
BATCHES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.lists(HASHES, min_size=1, max_size=9)), max_size=8
)


def put(file: IndexFile, number: int, owner: int, hashes: list[int]) -> None:
    with file.write() as db:
        db.execute("INSERT OR IGNORE INTO owners VALUES (?, ?)", (owner, str(owner)))
        values = (number, owner, number.to_bytes(32, "big"), number, 0, len(hashes), "", None, b"", "good")
        db.execute(f"INSERT INTO batches VALUES ({'?, ' * len(values)}'', 0, 0, NULL, NULL)", values)
        payloads = b"".join(value.to_bytes(8, "big") + b"abcd" for value in hashes)
        db.execute("INSERT INTO directories VALUES (?, ?)", (number, payloads))


def plainly(batches: dict[int, tuple[int, list[int]]], wanted: int, distance: int, most: int) -> list[Near]:
    found = sorted(
        ((value ^ wanted).bit_count(), number, position, owner)
        for number, (owner, hashes) in batches.items()
        for position, value in enumerate(hashes)
    )
    near, of = [], dict.fromkeys(range(10), 0)
    for bits, number, position, owner in found:
        if bits <= distance and of[owner] < most:
            of[owner] += 1
            near.append(Near(bits, number, position))
    return near


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES, wanted=HASHES, distance=st.integers(0, 70), most=st.integers(1, 6), data=st.data())
def test_all_that_are_near_are_found_while_batches_come_and_go(
    batches: list[Batch], wanted: int, distance: int, most: int, data: st.DataObject
) -> None:
    file, table, held = IndexFile(":memory:", DOMAIN), HashTable(), {}
    for order, (owner, block, hashes) in enumerate(batches):
        number = (block << 20) + order
        put(file, number, owner, hashes)
        held[number] = (owner, hashes)
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(held)))
            del held[gone]
            with file.write() as db:
                db.execute("DELETE FROM batches WHERE id = ?", (gone,))
        if data.draw(st.booleans()):
            found = table.near(file, wanted.to_bytes(8, "big"), distance, most)
            assert found == plainly(held, wanted, distance, most)
    assert table.near(file, wanted.to_bytes(8, "big"), distance, most) == plainly(held, wanted, distance, most)


def test_another_batch_in_the_same_place_is_read_anew() -> None:
    file, table = IndexFile(":memory:", DOMAIN), HashTable()
    put(file, 1, 1, [0])
    assert table.near(file, bytes(8), 0, 9) == [Near(0, 1, 0)]
    with file.write() as db:
        db.execute("DELETE FROM batches")
    put(file, 1, 1, [255])
    with file.write() as db:
        db.execute("UPDATE batches SET root = x'01'")
    assert table.near(file, bytes(8), 8, 9) == [Near(8, 1, 0)]


def test_distances_over_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 100_003, dtype=np.uint64)
    monkeypatch.setattr(_index_near, "_CHUNK", 1000)
    wanted = hashes[77]
    found = distances(hashes, wanted)
    assert found.tolist() == [(int(value) ^ int(wanted)).bit_count() for value in hashes]


def test_a_file_that_others_write_is_read_again(tmp_path: object) -> None:
    path = f"{tmp_path}/index.sqlite"
    mine, other, table = IndexFile(path, DOMAIN), IndexFile(path, DOMAIN), HashTable()
    assert table.near(mine, bytes(8), 64, 9) == []
    put(other, 5, 1, [1])
    assert table.near(mine, bytes(8), 64, 9) == [Near(1, 5, 0)]


def test_a_directory_that_is_no_row_of_payloads_is_damage() -> None:
    file = IndexFile(":memory:", DOMAIN)
    put(file, 1, 1, [0])
    with file.write() as db:
        db.execute("UPDATE directories SET payloads = x'00'")
    with pytest.raises(DamagedError):
        HashTable().near(file, bytes(8), 0, 9)
