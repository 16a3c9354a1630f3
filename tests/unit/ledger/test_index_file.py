"""The index file: damage stops nobody."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from pathlib import Path

import pytest

from medprov_ledger import cid, eip712
from medprov_ledger.errors import ChainError, RecordError
from medprov_ledger.index import Entry, RecordIndex
from tests.unit.ledger.index_world import (
    DOMAIN,
    KEY,
    REGISTRY,
    B,
    Clock,
    World,
    batch,
    digest,
    payload,
)


def test_another_registry_or_schema_empties_the_index(world: World, tmp_path: Path) -> None:
    world.add(batch(1))
    file = tmp_path / "index.sqlite"
    RecordIndex(file, DOMAIN).sync(world, world, world)
    assert len(RecordIndex(file, DOMAIN)) == 1
    assert len(RecordIndex(file, eip712.domain(1, REGISTRY))) == 0
    RecordIndex(file, DOMAIN).sync(world, world, world)
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 2")
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


SPOIL = "UPDATE records SET model = 'x'"


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
    "UPDATE records SET model = x'00'",
    "UPDATE records SET cover_hash = 'text'",
    "UPDATE records SET evidence_cid = x'ff'",
    "UPDATE records SET evidence_cid = CAST(x'ff80' AS TEXT)",
    f"UPDATE records SET bundle_cid = '{'b' * 100_000}'",
    "UPDATE records SET sealed_at = 'never'",
    "UPDATE records SET sealed_at = -1",
    "UPDATE records SET format = 9",
    "UPDATE records SET signature = 'text'",
    "UPDATE records SET place = 999999",
    "UPDATE records SET place = 'here'",
    "UPDATE records SET leaf = 'text'",
    "DELETE FROM records WHERE position = 7",
    "DELETE FROM records",
    "DROP TABLE records",
    "DROP TABLE batches",
    "DROP TABLE blocks",
    "DELETE FROM domain",
    "DELETE FROM owners",
    "UPDATE owners SET address = 'nobody'",
    "DELETE FROM trees",
    "UPDATE trees SET nodes = x'00'",
    "UPDATE trees SET nodes = 3",
    "UPDATE directories SET payloads = 'text'",
    "UPDATE directories SET payloads = x'00'",
    "UPDATE batches SET root = 'text' WHERE id = (SELECT max(id) FROM batches)",
    "UPDATE batches SET root = x'00' WHERE id = (SELECT max(id) FROM batches)",
    "UPDATE batches SET owner = 99",
    "UPDATE batches SET count = 'many'",
    "UPDATE batches SET block = 3",
    "UPDATE batches SET tx_hash = 8",
    "UPDATE batches SET seal = 'text'",
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
    near = (lambda: index.near(payload(7)[:8], 0), "UPDATE directories SET payloads = 'x'")
    for question, spoil in (
        (index.payloads, "UPDATE directories SET payloads = 'x'"),
        near,
        (lambda: index.by_leaf(entries[0].leaf), SPOIL),
        (lambda: index.by_leaf(entries[0].leaf), "UPDATE trees SET nodes = x'00'"),
    ):
        with sqlite3.connect(file) as db:
            db.execute(spoil)
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
            db.execute(SPOIL)

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
        db.execute(SPOIL)
    assert index.by_key(digest("key 7")) == entries and index.by_key(digest("key 99")) == []


def test_a_damaged_file_that_was_never_synced_is_an_empty_index(world: World, tmp_path: Path) -> None:
    file = tmp_path / "index.sqlite"
    written(world, file)
    with sqlite3.connect(file) as db:
        db.execute(SPOIL)
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
        db.execute(SPOIL)
    fetched, found = world.fetched, []
    threads = [threading.Thread(target=lambda: found.append(index.by_key(digest("key 7")))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [entries] * 6 and world.fetched == fetched + 2
