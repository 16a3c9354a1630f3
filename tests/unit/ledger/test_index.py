"""The index: from anchors and manifests to records; what is false or absent never becomes an entry."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

from medprov_ledger import _index_sync, cid, eip712, manifest, merkle
from medprov_ledger.chain import Chain
from medprov_ledger.errors import ChainError, RecordError, StoreError, UnreachableError
from medprov_ledger.federation import Federation
from medprov_ledger.index import Entry, RecordIndex
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
    limit: int = 0
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
        self.limit = limit
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


@dataclass
class Clock:
    """Stands for the module `time`."""

    now: float = 1e9

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(_index_sync, "time", made)
    return made


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


def test_a_file_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not usable"):
        RecordIndex(tmp_path, DOMAIN)


def false_manifests() -> dict[str, tuple[Manifest | bytes, dict[str, object]]]:
    good = batch(1, 2)
    thief = signed(2, STRANGER)
    forged = SignedRecord(good.records[1].record, eip712.sign(good.leaves[1], B))
    other_domain = eip712.domain(1, REGISTRY)
    return {
        "is not JSON": (b"noise", {}),
        "is not a manifest": (b"{}", {}),
        "version 2 is unknown": (good.to_bytes().replace(b'"version":1', b'"version":2'), {"count": 2}),
        "must hold 1 to 131072": (good, {"count": 2**32 - 1}),
        "larger than 1344 bytes": (good, {"count": 1}),
        "brackets and commas": (b"[" + b",".join([b"[]"] * 400) + b"]", {}),
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
    for _ in range(4):
        report = index.sync(world, world, world)
        assert report.problems[0].state == "missing" and "no such folder" in report.problems[0].reason
    with pytest.raises(UnreachableError):
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
    assert registry.verify(member.address, entry.root, entry.leaf, list(entry.proof))
    assert not registry.verify(member.address, entry.root, digest("other"), list(entry.proof))


def test_who_anchors_another_s_root_takes_nothing_from_its_owner(world: World, index: RecordIndex) -> None:
    made = batch(1, 2)
    world.add(made, B)
    anchor = world.add(made, A)
    report = index.sync(world, world, world, KEY)
    assert [(problem.owner, problem.state) for problem in report.problems] == [(B.address, "bad")]
    assert [entry.anchor for entry in index.by_key(digest("key 1"))] == [anchor]
    assert index.sync(world, world, world).problems == () and len(index) == 2


# hostile manifests


def test_no_more_is_fetched_than_the_anchor_s_count_allows(world: World, index: RecordIndex) -> None:
    for numbers in ((1,), (2, 3, 4)):
        world.add(batch(*numbers))
        index.sync(world, world, world)
        assert world.limit == manifest.largest(len(numbers)) < 4096
    world.add(batch(5), count=manifest.MAX_RECORDS + 1)
    fetched = world.fetched
    assert index.sync(world, world, world).problems[0].state == "bad" and world.fetched == fetched


def test_a_manifest_of_a_gigabyte_is_not_fetched_twice(world: World, index: RecordIndex) -> None:
    world.add(bytes(1 << 20))
    assert index.sync(world, world, world).problems[0].state == "bad"
    assert index.sync(world, world, world).problems == () and world.fetched == 1


# missing manifests


def test_a_missing_manifest_is_tried_less_and_less_but_always_reported(
    world: World, index: RecordIndex, clock: Clock
) -> None:
    lost = world.add(batch(1))
    (file,) = [path for path in world.store.path.rglob("*") if path.is_file()]
    file.rename(file.with_name("elsewhere"))
    tried = []
    for _ in range(2 * 24 * 60):
        before = world.fetched
        report = index.sync(world, world, world)
        assert [(problem.root, problem.state) for problem in report.problems] == [(lost.root, "missing")]
        assert "no such block" in report.problems[0].reason
        if world.fetched > before:
            tried.append(clock.now)
        clock.now += 60
    pauses = [after - before for before, after in pairwise(tried)]
    assert pauses == sorted(pauses) and pauses[0] == 60 and pauses[-1] == 3600 and len(tried) < 60
    file.with_name("elsewhere").rename(file)
    clock.now += 3600
    assert index.sync(world, world, world).problems == () and len(index) == 1


def test_the_first_retry_comes_at_once(world: World, index: RecordIndex, clock: Clock) -> None:
    world.add(batch(1), cid=cid.of(b"nothing"))
    for fetched in (1, 2, 2, 2):
        assert len(index.sync(world, world, world).problems) == 1 and world.fetched == fetched


def test_pauses_outlive_the_process_and_a_clock_that_is_set_back(world: World, tmp_path: Path, clock: Clock) -> None:
    world.add(batch(1), cid=cid.of(b"nothing"))
    for _ in range(4):
        index = RecordIndex(tmp_path / "index.sqlite", DOMAIN)
        assert len(index.sync(world, world, world).problems) == 1
        index.close()
    assert world.fetched == 2
    clock.now -= 1e6
    RecordIndex(tmp_path / "index.sqlite", DOMAIN).sync(world, world, world)
    assert world.fetched == 3


def test_one_sync_loses_only_so_much_time(
    world: World, index: RecordIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty manifests of a member never come, each after ten seconds; another member's is not held up by them."""
    for number in range(20):
        world.add(batch(number, account=B), B, cid=cid.of(b"nothing %d" % number))
    world.add(batch(77))
    real = world.store.get

    def slow(name: str, limit: int) -> bytes:
        try:
            return real(name, limit)
        except StoreError:
            clock.now += 10
            raise

    monkeypatch.setattr(world.store, "get", slow)
    begun = clock.now
    report = index.sync(world, world, world)
    assert clock.now - begun <= _index_sync.PATIENCE + 10
    assert report.added == 1 and len(index.by_key(digest("key 77"))) == 1
    assert len(report.problems) == 20 and {problem.state for problem in report.problems} == {"missing"}
    assert sum("verify again" in problem.reason for problem in report.problems) == 17
    # the next syncs go on with those that were not tried yet
    for _ in range(6):
        assert len(index.sync(world, world, world).problems) == 20
    assert len(index.problems()) == 20


def test_false_manifests_use_up_the_patience_too(
    world: World, index: RecordIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        world.add(batch(number), count=2)
    real = manifest.verify

    def slow(*arguments: Any) -> None:
        clock.now += 15
        real(*arguments)

    monkeypatch.setattr(manifest, "verify", slow)
    states = [problem.state for problem in index.sync(world, world, world).problems]
    assert sorted(states) == ["bad", "bad", "missing", "missing", "missing"]


def test_a_store_that_is_away_leaves_no_pauses_behind(world: World, index: RecordIndex, clock: Clock) -> None:
    for number in range(3):
        world.add(batch(number))
    world.store.path.rename(world.store.path.with_name("elsewhere"))
    for _ in range(5):
        report = index.sync(world, world, world)
        assert [problem.state for problem in report.problems] == ["missing"] * 3
    assert world.fetched == 5, "where the store is away, one question tells"
    world.store.path.with_name("elsewhere").rename(world.store.path)
    assert index.sync(world, world, world).added == 3


# damage


def written(world: World, file: Path) -> list[Entry]:
    """An index with two batches, closed; gives what it holds of one record."""
    world.add(batch(*range(20)))
    world.add(batch(*range(20, 40)))
    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, world, KEY)
    entries = index.by_key(digest("key 7"))
    index.close()
    return entries


def test_what_is_no_database_is_set_aside(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "index.sqlite"
    text = b"not a database, but long enough to be read as a header" * 50
    file.write_bytes(text)
    assert written(world, file) == RecordIndex(file, DOMAIN).by_key(digest("key 7")) != []
    # a path may have been mistyped: nothing is deleted that this package cannot read
    assert (tmp_path / "index.sqlite.damaged").read_bytes() == text
    assert "index.sqlite" in caplog.text and "damaged" in caplog.text


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_in_the_file_stop_nobody(world: World, tmp_path: Path, seed: int) -> None:
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    rng = random.Random(seed)
    data = bytearray(file.read_bytes())
    pages = len(data) // 4096
    assert pages >= 15
    if seed % 3 == 0:
        data[4096 * (seed // 3) :] = rng.randbytes(len(data) - 4096 * (seed // 3))  # page 0 holds the schema
    elif seed == 1:
        # SQLite quotes the word that it does not know, and Python cannot decode that
        data = data.replace(b"INDEX by_leaf ON", b"INDEX by_leaf \xff\xff")
    elif seed % 3 == 1:
        del data[rng.randrange(100, len(data)) :]
    else:
        page = rng.randrange(pages)
        data[4096 * page : 4096 * (page + 1)] = rng.randbytes(4096)
    file.write_bytes(data)
    index = RecordIndex(file, DOMAIN)
    assert index.sync(world, world, world, KEY).problems == ()
    assert index.by_key(digest("key 7")) == entries
    assert len(index.payloads()) == len(index) == 40 and index.problems() == []


JUNK = [
    "UPDATE records SET record = '{'",
    "UPDATE records SET record = '{}'",
    "UPDATE records SET record = 'null'",
    "UPDATE records SET record = 7",
    "UPDATE records SET record = x'ff'",
    "UPDATE records SET record = CAST(x'ff80' AS TEXT)",
    f"UPDATE records SET record = '{'[' * 100_000}'",
    "UPDATE records SET signature = 'text'",
    "UPDATE records SET proof = x'00'",
    "UPDATE records SET proof = 3",
    "UPDATE records SET leaf = 'text'",
    "UPDATE records SET payload = 'text'",
    "DELETE FROM records WHERE position = 7",
    "DELETE FROM records",
    "DROP TABLE records",
    "DROP TABLE batches",
    "DELETE FROM domain",
    "UPDATE batches SET root = 'text' WHERE id = 1",
    "UPDATE batches SET owner = x'00'",
    "UPDATE batches SET count = 'many'",
    "UPDATE batches SET tx_hash = 8",
    "UPDATE batches SET state = 'strange'",
    "UPDATE batches SET state = x'00'",
    "UPDATE batches SET state = 'missing', failures = 'many'",
    "UPDATE batches SET state = 'missing', failures = -9",
    "UPDATE batches SET state = 'missing', next_try = 'never'",
    "UPDATE batches SET state = 'missing', next_try = 9e99",
    "UPDATE batches SET reason = x'00'",
]


@pytest.mark.parametrize("junk", JUNK, ids=[junk[:60] for junk in JUNK])
def test_junk_in_the_rows_stops_nobody(world: World, tmp_path: Path, junk: str) -> None:
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    with sqlite3.connect(file) as db:
        db.execute(junk)
    index = RecordIndex(file, DOMAIN)
    assert index.sync(world, world, world, KEY).problems == ()
    assert index.by_key(digest("key 7")) == entries
    assert len(index.payloads()) == len(index) == 40


def test_damage_under_an_open_index_is_repaired_by_the_look_up(world: World, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, world, KEY)
    for question in (index.payloads, lambda: index.near(payload(7)[:8], 0), lambda: index.by_leaf(entries[0].leaf)):
        with sqlite3.connect(file) as db:
            db.execute("UPDATE records SET payload = 'x', record = '{'")
        question()
        assert index.by_key(digest("key 7")) == entries


def test_a_look_up_in_a_damaged_file_says_when_it_cannot_be_built_again(world: World, tmp_path: Path) -> None:
    """An empty answer would be taken for proof that there is no record."""
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, world, KEY)

    def spoil() -> None:
        with sqlite3.connect(file) as db:
            db.execute("UPDATE records SET record = '{'")

    spoil()
    world.down = True
    for _ in range(2):
        with pytest.raises(ChainError, match=r"not whole again.*does not answer"):
            index.by_key(digest("key 7"))
    world.down = False
    index.sync(world, world, world, KEY)
    assert index.by_key(digest("key 7")) == entries
    spoil()
    world.store.path.rename(tmp_path / "elsewhere")
    with pytest.raises(ChainError, match=r"not whole again.*no such folder"):
        index.by_key(digest("key 7"))
    # from now on the reports say it
    assert [problem.state for problem in index.sync(world, world, world, KEY).problems] == ["missing"] * 2
    assert index.by_key(digest("key 7")) == []


def test_what_was_missing_before_the_damage_is_no_new_trouble(world: World, tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "index.sqlite"
    world.add(batch(99, account=B), B, cid=cid.of(b"nothing"))
    entries = written(world, file)
    index = RecordIndex(file, DOMAIN)
    assert len(index.sync(world, world, world, KEY).problems) == 1
    with sqlite3.connect(file) as db:
        db.execute("UPDATE records SET record = '{'")
    assert index.by_key(digest("key 7")) == entries and index.by_key(digest("key 99")) == []


def test_a_damaged_file_that_was_never_synced_is_an_empty_index(world: World, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    written(world, file)
    with sqlite3.connect(file) as db:
        db.execute("UPDATE records SET record = '{'")
    assert RecordIndex(file, DOMAIN).by_key(digest("key 7")) == []


def test_where_the_file_cannot_be_replaced_the_index_stays_in_memory(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    spoiled = file.read_bytes()[:5000] + bytes(1000)
    file.write_bytes(spoiled)

    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", closed)
    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, world, KEY)
    assert index.by_key(digest("key 7")) == entries
    assert "in memory" in caplog.text and file.read_bytes() == spoiled


def test_a_locked_file_is_not_taken_for_a_damaged_one(world: World, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    written(world, file)
    index = RecordIndex(file, DOMAIN)
    index._file._db.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(file) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(RecordError, match=r"not usable .*locked"):
            index.sync(world, world, world)
    assert not (tmp_path / "index.sqlite.damaged").exists()
    assert index.sync(world, world, world).problems == () and len(index) == 40


def test_threads_that_meet_damage_build_the_index_once(world: World, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    entries = written(world, file)
    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, world, KEY)
    with sqlite3.connect(file) as db:
        db.execute("UPDATE records SET record = '{'")
    fetched, found = world.fetched, []
    threads = [threading.Thread(target=lambda: found.append(index.by_key(digest("key 7")))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [entries] * 6 and world.fetched == fetched + 2
