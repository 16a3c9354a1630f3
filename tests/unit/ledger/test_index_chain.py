"""Following the chain: nothing is read twice, nothing missed, whatever is reorganised."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import _index_chain
from medprov_ledger._index_chain import AnchorSource, place
from medprov_ledger.errors import ChainError, StoreError
from medprov_ledger.index import RecordIndex
from medprov_ledger.registry import Anchor, Registration
from medprov_ledger.store import BlockStore
from tests.unit.ledger.index_world import DOMAIN, KEY, A, B, World, batch, digest, registration


def content(index: RecordIndex) -> dict[str, list[Any]]:
    """All that an index holds, in one order; numbers that only tell what came first are left out."""
    queries = {
        "batches": """SELECT b.id, o.address, root, block, time, count, cid, tx_hash, seal, state, reason, key_id,
            directory FROM batches b JOIN owners o ON o.id = b.owner""",
        "records": """SELECT batch, position, leaf, key, cover_hash, marked_hash, released_hash, evidence_cid,
            bundle_cid, model, sealed_at, format, o.address, signature, place
            FROM records r JOIN owners o ON o.id = r.owner""",
        "trees": "SELECT batch, nodes FROM trees",
        "directories": "SELECT batch, payloads FROM directories",
        "registrations": """SELECT r.id, leaf, key, released_hash, o.address, block, time, tx_hash
            FROM registrations r JOIN owners o ON o.id = r.owner""",
        "owners": "SELECT DISTINCT o.address FROM owners o JOIN batches b ON b.owner = o.id",
    }
    return {name: sorted(index._file.read(query)) for name, query in queries.items()}


def test_a_reorganisation_takes_records_away(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    world.add(batch(2))
    index.sync(world, world, world)
    world.chain[1] = replace(world.chain[1], block=9)
    report = index.sync(world, world, world)
    assert (report.removed, report.added) == (1, 1)
    assert index.by_key(digest("key 2"))[0].anchor.block == 9
    world.chain.clear()
    assert index.sync(world, world, world).removed == 2
    assert len(index) == 0 and index.payloads() == []


def test_only_new_blocks_are_read(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    for head in (10, 10, 11, 40):
        world.head = head
        index.sync(world, world, world)
    assert world.read == [(0, 10), (11, 11), (12, 40)]
    # a reorganisation of two blocks: read again from the newest block that stands
    world.head = 41
    world.add(batch(2), block=40)
    index.sync(world, world, world)
    assert world.read[3:] == [(12, 41)]
    assert len(index.by_key(digest("key 2"))) == 1


def test_far_back_fewer_blocks_are_kept_but_a_deep_reorganisation_is_found(world: World, index: RecordIndex) -> None:
    world.add(batch(1), block=1)
    for head in range(200):
        world.head = head
        index.sync(world, world, world)
    kept = [row[0] for row in index._file.read("SELECT number FROM blocks ORDER BY number DESC")]
    assert kept[0] == 199 and kept[-1] == 0 and 8 <= len(kept) <= 16
    assert all(199 - earlier <= 2 * (199 - later) + 2 for later, earlier in pairwise(kept))
    world.read.clear()
    world.add(batch(2), block=150)
    index.sync(world, world, world)
    (bounds,) = world.read
    assert 100 - 1 <= bounds[0] <= 150 and len(index.by_key(digest("key 2"))) == 1


def test_a_shorter_chain_takes_what_lay_beyond_its_end(world: World, index: RecordIndex) -> None:
    world.add(batch(1), block=5)
    world.add(batch(2), block=50)
    world.registered.append(registration(3, A, 60))
    world.head = 40
    index.sync(world, world, world)
    world.head = 100
    index.sync(world, world, world)
    assert len(index) == 2 and index.registered_by_key(digest("key 3")) != []
    for head, left in ((45, 1), (2, 0), (-1, 0), (100, 2)):
        world.head = head
        index.sync(world, world, world)
        assert len(index) == left and bool(index.registered_by_key(digest("key 3"))) == (head == 100)


def test_a_batch_that_moves_to_an_earlier_block_is_held_once(world: World, index: RecordIndex) -> None:
    world.add(batch(1), block=60)
    index.sync(world, world, world)
    world.chain[0] = replace(world.chain[0], block=20)
    index.sync(world, world, world)
    assert [entry.anchor.block for entry in index.by_key(digest("key 1"))] == [20]


def test_what_a_reorganisation_leaves_alone_is_not_fetched_again(world: World, index: RecordIndex) -> None:
    for number in range(4):
        world.add(batch(number), block=10 + number)
    index.sync(world, world, world)
    world.fork = 1
    report = index.sync(world, world, world)
    assert (report.added, report.removed, world.fetched) == (0, 0, 4) and world.read == [(0, 100)] * 2


def test_a_long_chain_is_read_and_kept_in_spans(
    world: World, index: RecordIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_index_chain, "SPAN", 30)
    world.add(batch(1), block=5)
    world.add(batch(2), block=95)
    real, asked = World.anchors, 0

    def breaks(self: World, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise ChainError("http://127.0.0.1:1: does not answer")
        return real(self, from_block, to_block)

    monkeypatch.setattr(World, "anchors", breaks)
    with pytest.raises(ChainError):
        index.sync(world, world, world)
    index.sync(world, world, world)
    assert world.read == [(0, 29), (30, 59), (60, 89), (90, 100)]
    assert len(index) == 2


@dataclass
class Moving:
    """A source whose chain is reorganised during a question."""

    world: World
    moments: list[str]
    """The questions at which it happens."""
    made: list[Anchor] = field(default_factory=list)

    def _moves(self, name: str) -> None:
        if name in self.moments:
            self.moments.remove(name)
            self.world.chain[:] = [replace(anchor, block=anchor.block + 1) for anchor in self.world.chain]
            self.world.fork += 1

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        self._moves("before")
        found = self.world.anchors(from_block, to_block)
        self._moves("after")
        return found

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        return self.world.registrations(from_block, to_block)

    def confirmed_head(self) -> int:
        return self.world.confirmed_head()

    def block_hash(self, block: int) -> bytes | None:
        found = self.world.block_hash(block)
        self._moves(f"hash {block}")
        return found


@pytest.mark.parametrize(
    "moments", [["before"], ["after"], ["hash 50"], ["hash 80"], ["after", "hash 50", "hash 80"]], ids=str
)
def test_a_chain_that_moves_while_it_is_read_is_read_anew(world: World, index: RecordIndex, moments: list[str]) -> None:
    world.add(batch(1), block=20)
    world.add(batch(2), block=70)
    world.head = 50
    index.sync(world, world, world)
    world.head = 80
    source: AnchorSource = Moving(world, list(moments))
    index.sync(source, world, world)
    anew = RecordIndex(":memory:", DOMAIN)
    anew.sync(world, world, world)
    assert content(index) == content(anew) and len(index) == 2


def test_a_chain_that_never_stands_still_is_given_up(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    with pytest.raises(ChainError, match="reorganised 5 times"):
        index.sync(Moving(world, ["after"] * 9), world, world)


def test_a_source_that_answers_beyond_the_question_is_not_believed(world: World, index: RecordIndex) -> None:
    class Talkative(World):
        def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
            return self.chain

    talkative = Talkative(world.store)
    talkative.add(batch(1), block=5)
    talkative.add(batch(2), block=500)
    index.sync(talkative, world, world)
    assert len(index) == 1


def test_places_grow_along_the_chain_and_have_an_end() -> None:
    assert place(1, 0) < place(1, 1) < place(2, 0) == place(1, (1 << 20) - 1) + 1
    with pytest.raises(ChainError, match="block 7"):
        place(7, 1 << 20)


def test_registrations_are_found_and_follow_the_chain(world: World, index: RecordIndex) -> None:
    mine, other = registration(1, A, 7), registration(1, B, 3)
    world.registered += [mine, other]
    index.sync(world, world, world)
    assert index.registered_by_key(digest("key 1")) == [other, mine]
    assert index.registered_by_released_hash(digest("released 1")) == [other, mine]
    assert index.registered_by_leaf(mine.record_id) == [mine]
    assert index.by_key(digest("key 1")) == [] and index.registered_by_key(digest("key 2")) == []
    world.registered.remove(other)
    index.sync(world, world, world)
    assert index.registered_by_key(digest("key 1")) == [mine]


# following and building anew


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, list[tuple[int, int, str]]]]:
    """Steps of a chain: how many blocks are taken back, how many come, and what stands in which of the new ones."""
    item = st.tuples(st.integers(0, 9), st.integers(0, 5), st.sampled_from(["batch", "single"]))
    step = st.tuples(st.integers(0, 12), st.integers(0, 12), st.lists(item, max_size=5))
    return draw(st.lists(step, min_size=1, max_size=6))


MADE = [batch(*range(3 * n, 3 * n + 1 + n % 3), account=(A, B)[n % 2]) for n in range(10)]
SINGLE = [registration(100 + n, (A, B)[n % 2], 0) for n in range(10)]


class Late:
    """A store in which some manifests are not there yet."""

    def __init__(self, store: BlockStore, absent: set[str]) -> None:
        self.store, self.absent = store, absent

    def get(self, name: str, limit: int = 0) -> bytes:
        if name in self.absent:
            raise StoreError(f"{name}: no such block")
        return self.store.get(name, limit)


@settings(max_examples=25, deadline=None)
@given(history=histories(), data=st.data())
def test_following_a_chain_gives_what_building_anew_gives(
    history: list[tuple[int, int, list[tuple[int, int, str]]]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_index_chain, "SPAN", data.draw(st.integers(1, 40), "span"))
        world = World(BlockStore(Path(folder) / "blocks"))
        world.head = 0
        names = [world.put(made.to_bytes()) for made in MADE]
        file = Path(folder) / "index.sqlite"
        followed = RecordIndex(file, DOMAIN)
        for back, on, items in history:
            end = max(0, world.head - back)
            world.chain[:] = [anchor for anchor in world.chain if anchor.block <= end]
            world.registered[:] = [one for one in world.registered if one.block <= end]
            world.head, world.fork = end + on, world.fork + (back > 0)
            for number, after, kind in items if on else []:
                block = min(end + 1 + after, world.head)
                account, made = (A, B)[number % 2], MADE[number]
                if kind == "single":
                    world.registered.append(replace(SINGLE[number], block=block, time=block))
                elif all(anchor.root != made.root for anchor in world.chain):
                    cid = names[number]
                    count = len(made.records)
                    anchor = Anchor(made.root, account.address, block, 1000 + block, count, cid, f"0x{block:x}")
                    world.chain.append(anchor)
            # reads come in the order of the chain, whatever was appended when
            world.chain.sort(key=lambda anchor: anchor.block)
            world.registered.sort(key=lambda one: one.block)
            absent = set(data.draw(st.lists(st.sampled_from(names)), "absent"))
            if data.draw(st.booleans(), "reopen"):
                followed.close()
                followed = RecordIndex(file, DOMAIN)
            followed.sync(world, world, Late(world.store, absent), *data.draw(st.sampled_from([(), (KEY,)]), "key"))
        with sqlite3.connect(file) as db:
            # pauses are over
            db.execute("UPDATE batches SET next_try = 0")
        followed.sync(world, world, world.store, KEY)
        anew = RecordIndex(":memory:", DOMAIN)
        anew.sync(world, world, world.store, KEY)
        assert content(followed) == content(anew)
        assert len(followed) == sum(anchor.count for anchor in world.chain)
        followed.close()
