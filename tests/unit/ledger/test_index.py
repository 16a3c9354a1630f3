"""Look-ups in the index: from keys, hashes and perceptual hashes to records."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medprov_ledger import eip712, manifest, merkle
from medprov_ledger import index as index_module
from medprov_ledger.chain import Chain
from medprov_ledger.errors import RecordError
from medprov_ledger.federation import Federation
from medprov_ledger.index import RecordIndex
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.registry import Registry
from medprov_ledger.store import BlockStore
from tests.unit.ledger.index_world import (
    DOMAIN,
    KEY,
    A,
    B,
    World,
    batch,
    digest,
    payload,
    signed,
)


def test_records_are_found_with_their_proof(world: World, index: RecordIndex) -> None:
    anchor = world.add(batch(1, 2, 3))
    assert (index.sync(world, world, world, KEY).added, len(index)) == (1, 3)
    (entry,) = index.by_key(digest("key 2"))
    assert entry.record == signed(2, A).record and entry.signature == signed(2, A).signature
    assert entry.anchor == anchor and entry.root == anchor.root and entry.payload == payload(2)
    assert merkle.verify(anchor.root, entry.leaf, entry.proof) and entry.leaf == entry.record.leaf(DOMAIN)
    assert index.by_released_hash(digest("released 2")) == [entry] == index.by_leaf(entry.leaf)
    assert index.by_key(digest("other")) == index.by_released_hash(b"") == []


def test_the_index_is_kept_in_its_file_and_rebuilt_without_it(world: World, tmp_path: Path) -> None:
    world.add(batch(1, 2))
    file = tmp_path / "index.sqlite"
    first = RecordIndex(file, DOMAIN)
    first.sync(world, world, world, KEY)
    entries = first.by_key(digest("key 1"))
    first.close()
    assert RecordIndex(file, DOMAIN).by_key(digest("key 1")) == entries
    anew = RecordIndex(":memory:", DOMAIN)
    anew.sync(world, world, world, KEY)
    assert anew.by_key(digest("key 1")) == entries


def test_two_owners_of_one_picture_are_both_shown_earliest_first(world: World, index: RecordIndex) -> None:
    late = world.add(batch(1, account=B), B, block=8)
    early = world.add(batch(1, account=A), A, block=3)
    index.sync(world, world, world)
    assert [entry.anchor for entry in index.by_key(digest("key 1"))] == [early, late]
    assert [entry.anchor for entry in index.by_released_hash(digest("released 1"))] == [early, late]


def test_near(world: World, index: RecordIndex) -> None:
    world.add(batch(0b0000, 0b0001, 0b0111, 0b1111))
    index.sync(world, world, world, KEY)
    found = index.near(bytes(8), 3)
    assert [entry.payload for entry in found] == [payload(0), payload(1), payload(7)]
    assert [entry.payload for entry in index.near(payload(15)[:8], 0)] == [payload(15)]
    with pytest.raises(RecordError, match="8 bytes"):
        index.near(b"short", 3)


def test_without_the_directory_key_records_but_no_payloads(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    world.add(batch(2, key=None))
    for key in (None, b"\x44" * 32):
        index.sync(world, world, world, key)
        assert len(index) == 2 and index.payloads() == [] == index.near(payload(1)[:8], 64)
        assert index.by_key(digest("key 1"))[0].payload is None
    # the key may come later, and nothing is fetched for it
    fetched = world.fetched
    index.sync(world, world, world, KEY)
    assert index.payloads() == [payload(1)] and world.fetched == fetched


def test_an_index_serves_several_threads(world: World, index: RecordIndex) -> None:
    world.add(batch(1, 2))
    index.sync(world, world, world, KEY)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(index.by_key(digest("key 1"))))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8


def test_index_and_contracts_agree(make_chain: Callable[[], Chain], people: Any, tmp_path: Path) -> None:
    """The real registry: the same leaves, root and proofs on the chain and here."""
    chain = make_chain()
    registry, federation = Registry(chain), Federation(chain)
    domain = eip712.domain(chain.config.chain_id, registry.address)
    member, store = people.members[0], BlockStore(tmp_path)
    made = manifest.build([signed(n, member, domain) for n in range(3)], domain, [payload(n) for n in range(3)], KEY)
    receipt = registry.anchor_batch(made.root, 3, store.put(made.to_bytes()), member)
    index = RecordIndex(":memory:", domain)
    report = index.sync(registry, federation, store, KEY)
    assert (report.added, report.problems) == (1, ())
    (entry,) = index.by_key(digest("key 1"))
    assert (entry.anchor.block, entry.anchor.owner) == (receipt.block, member.address)
    assert registry.verify(member.address, entry.root, entry.leaf, list(entry.proof))
    assert not registry.verify(member.address, entry.root, digest("other"), list(entry.proof))


def test_a_batch_of_copies_is_not_read_to_its_end(
    world: World, index: RecordIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile member claims one key a thousand times; its answers end, and the other owner's record is among them."""
    monkeypatch.setattr(index_module, "MOST_PER_OWNER", 5)
    monkeypatch.setattr(index_module, "MOST_NEAR_PER_OWNER", 3)
    copies = [replace(signed(n, A).record, key=digest("key 1"), released_hash=digest("released 1")) for n in range(40)]
    many = [SignedRecord(record, eip712.sign_record(record, DOMAIN, A)) for record in copies]
    for start in (20, 0):
        world.add(manifest.build(many[start : start + 20], DOMAIN, [payload(1)] * 20, KEY), block=3 if start else 9)
    late = world.add(batch(1, account=B), B, block=50)
    index.sync(world, world, world, KEY)
    for found in (index.by_key(digest("key 1")), index.by_released_hash(digest("released 1"))):
        assert [entry.record.time for entry in found] == [20, 21, 22, 23, 24, 1]
        assert [entry.anchor.block for entry in found] == [3] * 5 + [50] and found[-1].anchor == late
    assert [entry.record.owner for entry in index.near(payload(1)[:8], 3)] == [A.address] * 3 + [B.address]
    # the earliest five were read, not all and then five of them
    plan = index._file.read(
        "EXPLAIN QUERY PLAN SELECT * FROM records r WHERE r.key = ? AND r.owner = ? ORDER BY r.batch, r.position",
        (b"", 1),
    )
    assert "USING INDEX by_key" in str(plan) and "TEMP B-TREE" not in str(plan)


def test_directories_of_several_keys_are_opened(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    world.add(batch(2, key=b"\x44" * 32))
    index.sync(world, world, world, KEY, None, b"\x44" * 32)
    assert index.payloads() == [payload(1), payload(2)]


def test_proofs_hold_in_batches_of_every_size(world: World, index: RecordIndex) -> None:
    first = 0
    for count in (1, 2, 3, 5, 8, 13):
        world.add(batch(*range(first, first + count)))
        first += count
    index.sync(world, world, world)
    for number in range(first):
        (entry,) = index.by_key(digest(f"key {number}"))
        assert merkle.verify(entry.root, entry.leaf, entry.proof)
