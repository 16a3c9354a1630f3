"""The index: from anchors and manifests to records; what is false or absent never becomes an entry."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from medprov_ledger import cid, eip712, manifest, merkle
from medprov_ledger.chain import Chain
from medprov_ledger.errors import ChainError, RecordError, StoreError
from medprov_ledger.federation import Federation
from medprov_ledger.index import RecordIndex
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, Registry
from medprov_ledger.store import BlockStore

A, B, STRANGER = (Account.from_key(bytes([n]) * 32) for n in (1, 2, 3))
REGISTRY = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = eip712.domain(31337, REGISTRY)
KEY = b"\x31" * 32


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def payload(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"\xaa\xbb\xcc\xdd"


def signed(number: int, account: LocalAccount, domain: eip712.Domain = DOMAIN) -> SignedRecord:
    hashes = [digest(f"{name} {number}") for name in ("key", "cover", "marked", "released")]
    evidence = cid.of(b"e%d" % number)
    record = Record(*hashes, evidence, "", account.address, digest("model"), number)  # type: ignore[call-arg,arg-type]
    return SignedRecord(record, eip712.sign_record(record, domain, account))


@dataclass
class World:
    """A chain of anchors, a membership list and a store, all in memory but the blocks."""

    store: BlockStore
    chain: list[Anchor] = field(default_factory=list)
    members: dict[str, int] = field(default_factory=lambda: {A.address: 0, B.address: 0})
    fetched: int = 0
    down: bool = False

    def anchors(self, from_block: int = 0) -> list[Anchor]:
        if self.down:
            raise ChainError("http://127.0.0.1:1: does not answer")
        return [anchor for anchor in self.chain if anchor.block >= from_block]

    def is_member(self, address: str, block: int | None = None) -> bool:
        assert block is not None
        return address in self.members and self.members[address] <= block

    def put(self, data: bytes) -> str:
        return self.store.put(data)

    def has(self, name: str) -> bool:
        return self.store.has(name)

    def get(self, name: str, limit: int = 0) -> bytes:
        self.fetched += 1
        return self.store.get(name, limit)

    def add(self, made: Manifest | bytes, account: LocalAccount = A, **changes: object) -> Anchor:
        data = made if isinstance(made, bytes) else made.to_bytes()
        block = len(self.chain) + 1
        values = {"root": digest(f"root {block}"), "count": 1}
        if isinstance(made, Manifest):
            values = {"root": made.root, "count": len(made.records)}
        values |= {
            "owner": account.address,
            "block": block,
            "time": 1000 + block,
            "cid": self.put(data),
            "tx_hash": "0x1",
        }
        self.chain.append(Anchor(**(values | changes)))  # type: ignore[arg-type]
        return self.chain[-1]


def batch(*numbers: int, account: LocalAccount = A, key: bytes | None = KEY) -> Manifest:
    return manifest.build([signed(n, account) for n in numbers], DOMAIN, [payload(n) for n in numbers], key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(BlockStore(tmp_path / "blocks"))


@pytest.fixture
def index() -> RecordIndex:
    return RecordIndex(":memory:", DOMAIN)


def test_records_are_found_with_their_proof(world: World, index: RecordIndex) -> None:
    anchor = world.add(batch(1, 2, 3))
    assert (index.sync(world, world, world, KEY).added, len(index)) == (1, 3)
    (entry,) = index.by_key(digest("key 2"))
    assert entry.record == signed(2, A).record and entry.signature == signed(2, A).signature
    assert entry.anchor == anchor and entry.root == anchor.root and entry.payload == payload(2)
    assert merkle.verify(anchor.root, entry.leaf, entry.proof) and entry.leaf == entry.record.leaf(DOMAIN)
    assert index.by_released_hash(digest("released 2")) == [entry] == index.by_leaf(entry.leaf)
    assert index.by_key(digest("other")) == index.by_released_hash(b"") == []


def test_a_second_sync_fetches_only_what_is_new(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    index.sync(world, world, world)
    world.add(batch(2))
    report = index.sync(world, world, world)
    assert (report.added, report.removed, report.problems, world.fetched) == (1, 0, (), 2)
    assert index.sync(world, world, world).added == 0 and len(index) == 2


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


def test_another_registry_or_schema_empties_the_index(world: World, tmp_path: Path) -> None:
    world.add(batch(1))
    file = tmp_path / "index.sqlite"
    RecordIndex(file, DOMAIN).sync(world, world, world)
    assert len(RecordIndex(file, DOMAIN)) == 1
    assert len(RecordIndex(file, eip712.domain(1, REGISTRY))) == 0
    RecordIndex(file, DOMAIN).sync(world, world, world)
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    assert len(RecordIndex(file, DOMAIN)) == 0


def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "patients.sqlite"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE records (name TEXT)")
        db.execute("INSERT INTO records VALUES ('x')")
    with pytest.raises(RecordError, match="another program's"):
        RecordIndex(file, DOMAIN)
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT * FROM records").fetchall() == [("x",)]


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    file.write_bytes(b"not a database, but long enough to be read as a header" * 50)
    with pytest.raises(RecordError, match="delete the file"):
        RecordIndex(file, DOMAIN)


def false_manifests() -> dict[str, tuple[Manifest | bytes, dict[str, object]]]:
    good = batch(1, 2)
    thief = signed(2, STRANGER)
    forged = SignedRecord(good.records[1].record, eip712.sign(good.leaves[1], B))
    other_domain = eip712.domain(1, REGISTRY)
    return {
        "is not JSON": (b"noise", {}),
        "is not a manifest": (b"{}", {}),
        "version 2 is unknown": (good.to_bytes().replace(b'"version":1', b'"version":2'), {}),
        "anchored root": (good, {"root": digest("another")}),
        "the anchor says 3": (good, {"count": 3}),
        "record 0: belongs to": (good, {"owner": B.address}),
        "record 1: signed by": (replace(good, records=(good.records[0], forged)), {}),
        "record 1: belongs to": (replace(good, records=(good.records[0], thief)), {}),
        "twice": (replace(good, records=(good.records[0], good.records[0])), {}),
        "not for this one": (manifest.build([signed(1, A, other_domain)], other_domain), {}),
        "not a member": (good, {"owner": STRANGER.address}),
        "not a CID": (good, {"cid": "../../etc/passwd"}),
    }


@pytest.mark.parametrize("why", false_manifests())
def test_false_manifests_are_recorded_and_skipped(world: World, index: RecordIndex, why: str) -> None:
    made, changes = false_manifests()[why]
    world.add(made, **changes)  # type: ignore[arg-type]
    world.add(batch(7))
    report = index.sync(world, world, world, KEY)
    assert [(problem.state, why in problem.reason) for problem in report.problems] == [("bad", True)]
    assert index.problems() == list(report.problems)
    assert report.added == len(index) == 1
    fetched = world.fetched
    assert index.sync(world, world, world, KEY).problems == () and world.fetched == fetched


def test_membership_counts_at_the_anchor_s_block(world: World, index: RecordIndex) -> None:
    world.members[B.address] = 2
    world.add(batch(1, account=B), B)
    world.add(batch(2, account=B), B)
    report = index.sync(world, world, world)
    assert report.added == 1 and "not a member at block 1" in report.problems[0].reason
    assert index.by_key(digest("key 1")) == [] and len(index.by_key(digest("key 2"))) == 1


def test_a_manifest_that_cannot_be_read_is_tried_again(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    file = next(path for path in world.store.path.rglob("*") if path.is_file())
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    report = index.sync(world, world, world)
    assert [problem.state for problem in report.problems] == ["missing"] and len(index) == 0
    file.write_bytes(data)
    assert index.sync(world, world, world).added == 1
    assert index.problems() == [] and len(index) == 1


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


def test_a_silent_chain_leaves_the_index_as_it_was(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    index.sync(world, world, world)
    world.down = True
    with pytest.raises(ChainError):
        index.sync(world, world, world)
    assert len(index) == 1


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
    assert [found for found, _ in index.payloads()] == [payload(1)] and world.fetched == fetched


def test_a_damaged_directory_does_not_take_the_records_away(world: World, index: RecordIndex) -> None:
    made = batch(1)
    assert made.directory is not None
    spoiled = replace(made.directory, sealed=made.directory.sealed[:-1] + bytes([made.directory.sealed[-1] ^ 1]))
    world.add(replace(made, directory=spoiled))
    assert index.sync(world, world, world, KEY).added == 1
    assert len(index) == 1 and index.payloads() == []


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


def test_a_store_without_the_blocks_is_not_an_empty_federation(
    world: World, index: RecordIndex, tmp_path: Path
) -> None:
    world.add(batch(1))
    world.store = BlockStore(tmp_path / "empty")
    report = index.sync(world, world, world)
    assert report.problems[0].state == "missing" and "no such block" in report.problems[0].reason
    with pytest.raises(StoreError):
        world.get(report.problems[0].cid, 100)


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
    assert registry.verify(entry.root, entry.leaf, list(entry.proof))
    assert not registry.verify(entry.root, digest("other"), list(entry.proof))
