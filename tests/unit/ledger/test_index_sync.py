"""Bringing the index up to date: what is false or absent never becomes an entry."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from medprov_ledger import _index_fetch, _index_sync, cid, eip712, manifest
from medprov_ledger.errors import ChainError, StoreError, UnreachableError
from medprov_ledger.index import RecordIndex
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.store import BlockStore
from tests.unit.ledger.index_world import (
    DOMAIN,
    KEY,
    REGISTRY,
    STRANGER,
    A,
    B,
    Clock,
    World,
    batch,
    digest,
    signed,
)


def test_a_second_sync_fetches_only_what_is_new(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    index.sync(world, world, world)
    world.add(batch(2))
    report = index.sync(world, world, world)
    assert (report.added, report.removed, report.problems, world.fetched) == (1, 0, (), 2)
    assert index.sync(world, world, world).added == 0 and len(index) == 2


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
    file = next(path for path in world.store.path.rglob("baf*") if not path.suffix)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    report = index.sync(world, world, world)
    assert [problem.state for problem in report.problems] == ["missing"] and len(index) == 0
    file.write_bytes(data)
    assert index.sync(world, world, world).added == 1
    assert index.problems() == [] and len(index) == 1


def test_a_silent_chain_leaves_the_index_as_it_was(world: World, index: RecordIndex) -> None:
    world.add(batch(1))
    index.sync(world, world, world)
    world.down = True
    with pytest.raises(ChainError):
        index.sync(world, world, world)
    assert len(index) == 1


def test_a_damaged_directory_does_not_take_the_records_away(world: World, index: RecordIndex) -> None:
    made = batch(1)
    assert made.directory is not None
    spoiled = replace(made.directory, sealed=made.directory.sealed[:-1] + bytes([made.directory.sealed[-1] ^ 1]))
    world.add(replace(made, directory=spoiled))
    assert index.sync(world, world, world, KEY).added == 1
    assert len(index) == 1 and index.payloads() == []


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


def test_who_anchors_another_s_root_takes_nothing_from_its_owner(world: World, index: RecordIndex) -> None:
    made = batch(1, 2)
    world.add(made, B)
    anchor = world.add(made, A)
    report = index.sync(world, world, world, KEY)
    assert [(problem.owner, problem.state) for problem in report.problems] == [(B.address, "bad")]
    assert [entry.anchor for entry in index.by_key(digest("key 1"))] == [anchor]
    assert index.sync(world, world, world).problems == () and len(index) == 2


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


def test_a_missing_manifest_is_tried_less_and_less_but_always_reported(
    world: World, index: RecordIndex, clock: Clock
) -> None:
    lost = world.add(batch(1))
    (file,) = [path for path in world.store.path.rglob("baf*") if not path.suffix]
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
    # one at a time: the clock is everybody's
    monkeypatch.setattr(_index_fetch, "WORKERS", 1)
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
    for number in range(9):
        world.add(batch(number))
    world.store.path.rename(world.store.path.with_name("elsewhere"))
    for _ in range(5):
        report = index.sync(world, world, world)
        assert [problem.state for problem in report.problems] == ["missing"] * 9
    assert world.fetched <= 5 * _index_fetch.FIRST, "where the store is away, few questions tell"
    world.store.path.with_name("elsewhere").rename(world.store.path)
    assert index.sync(world, world, world).added == 9


def test_manifests_come_several_at_a_time_and_the_slow_hold_up_nobody(world: World, index: RecordIndex) -> None:
    """One manifest does not come before all others are in the index."""
    slow = world.add(batch(0))
    for number in range(1, 20):
        world.add(batch(number, account=B), B)

    class Waiting(World):
        def get(self, name: str, limit: int = 0) -> bytes:
            if name == slow.cid:
                for _ in range(1000):
                    if len(index) == 19:
                        break
                    threading.Event().wait(0.01)
                else:
                    raise StoreError("nobody else came")
            return self.store.get(name, limit)

    assert index.sync(world, world, Waiting(world.store)).added == 20


@pytest.mark.parametrize("moves", [False, True])
def test_two_processes_on_one_file_end_with_the_same(world: World, tmp_path: Path, moves: bool) -> None:
    """Another process syncs while this one has a manifest on its way; the chain may have moved on by then."""
    file = tmp_path / "index.sqlite"
    for number in range(3):
        world.add(batch(number))
    other, begun = RecordIndex(file, DOMAIN), threading.Lock()

    class Meanwhile(World):
        def get(self, name: str, limit: int = 0) -> bytes:
            if begun.acquire(blocking=False):
                if moves:
                    world.chain[0] = replace(world.chain[0], block=9)
                    del world.chain[1]
                other.sync(world, world, world, KEY)
            return world.get(name, limit)

    index = RecordIndex(file, DOMAIN)
    index.sync(world, world, Meanwhile(world.store), KEY)
    anew = RecordIndex(":memory:", DOMAIN)
    anew.sync(world, world, world, KEY)
    assert len(index) == len(anew) == (2 if moves else 3)
    for number in range(3):
        assert index.by_key(digest(f"key {number}")) == anew.by_key(digest(f"key {number}"))
    assert index.payloads() == anew.payloads() and not (tmp_path / "index.sqlite.damaged").exists()


_SYNC = """
import os, signal, sys
from pathlib import Path
from medprov_ledger import _index_file
from medprov_ledger.index import RecordIndex
from tests.unit.ledger.index_world import A, B, DOMAIN, KEY, World, batch
from medprov_ledger.block_store import BlockStore
left = int(sys.argv[2])
world = World(BlockStore(Path(sys.argv[1]) / "blocks"))
for number in range(6):
    world.add(batch(2 * number, 2 * number + 1))
def trace(statement):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
index = RecordIndex(Path(sys.argv[1]) / "index.sqlite", DOMAIN)
index._file._db.set_trace_callback(trace)
report = index.sync(world, world, world, KEY)
print(report.added, len(index), left)
"""


@pytest.mark.slow
def test_a_first_sync_that_is_killed_goes_on(tmp_path: Path) -> None:
    """Killed at any statement, again and again, it comes to its end and has the same in it."""
    script, kills, taken = tmp_path / "sync.py", 0, 0
    script.write_text(_SYNC)
    for statements in (9, 23, 37, 48, 61, 10_000):
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path), str(statements)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode != 0
        with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
            try:
                now = db.execute("SELECT count(*) FROM batches WHERE state = 'good'").fetchone()[0]
            except sqlite3.OperationalError:
                now = 0
            # what was taken in stays
            assert now >= taken
            taken = now
    assert kills >= 4 and taken == 6
    index = RecordIndex(tmp_path / "index.sqlite", DOMAIN)
    assert len(index) == len(index.payloads()) == 12
    assert all(len(index.by_key(digest(f"key {number}"))) == 1 for number in range(12))
