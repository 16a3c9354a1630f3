"""medprov_sdk.ledger_view, as a verification meets it."""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medprov_ledger.config import Config
from medprov_ledger.errors import StoreError
from medprov_ledger.registry import Registration
from medprov_sdk import Reason, Verdict
from medprov_sdk.ledger_view import MOST_PROVED, cache_file


def test_many_copies_of_a_record_cost_no_more_than_a_few(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    others = [world.record(image, world.bob, time=n, released_hash=bytes([n]) * 32) for n in range(30)]
    world.anchor(world.bob, *others, *(world.record(image, world.bob, time=n) for n in range(3)))
    asked: list[str] = []
    ask = world.contracts._ask
    monkeypatch.setattr(world.contracts, "_ask", lambda: (asked.append(inspect.stack()[1].function), ask()))
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    world.verifier.verify(copy)
    asked.clear()
    result = world.verifier.verify(copy)
    assert Counter(asked)["verify"] == 1 + MOST_PROVED
    assert Counter(asked)["anchor"] == Counter(asked)["is_member"] == 2
    assert len(result.claims) == 1 + MOST_PROVED
    (told,) = [check for check in result.checks if check.name == "all records looked at"]
    assert told.passed is None and told.detail.startswith(f"{33 - MOST_PROVED} left out")


def test_records_of_exactly_this_picture_are_proved_first(world: Any) -> None:
    image = world.phantom()
    others = [world.record(image, world.alice, time=n, released_hash=bytes([n]) * 32) for n in range(20)]
    world.anchor(world.alice, *others)
    world.release(image, world.alice)
    result = world.verifier.verify(image)
    assert (result.verdict, result.block) == (Verdict.AUTHENTIC, 11)


def test_many_single_registrations_are_bounded_too(world: Any) -> None:
    image = world.phantom()
    records = [world.record(image, world.bob, released_hash=bytes([n]) * 32) for n in range(20)]
    records.append(world.record(image, world.bob))
    for block, record in enumerate(records):
        one = Registration(record.leaf(world.domain), record, block, 1_700_000_050, "0x" + "cd" * 32)
        world.contracts.registered.append(one)
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert len(result.claims) == MOST_PROVED and world.verifier.ledger.left_out == 21 - MOST_PROVED


def test_the_anchor_of_a_stranger_counts_for_nothing(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.mallory)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE)
    assert result.claims == ()


def test_a_proof_that_the_contract_refuses_counts_for_nothing(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.contracts.forged = True
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


def test_chain_away_says_what_holds_offline_and_comes_back(make_world: Callable[..., Any], tmp_path: Path) -> None:
    world = make_world(tmp_path / "index.sqlite")
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    world.contracts.away = True
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.CHAIN_UNREACHABLE)
    assert any("no sample has changed" in line for line in result.proved_offline)
    assert any("an earlier run saw a record of exactly these pixels" in line for line in result.proved_offline)
    world.contracts.away = False
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_chain_away_does_not_make_an_unmarked_picture_suspicious(world: Any) -> None:
    world.contracts.away = True
    assert world.verifier.verify(world.phantom()).verdict is Verdict.UNKNOWN


def test_a_missing_manifest_is_the_stores_fault_and_heals(world: Any, tmp_path: Path) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.STORE_UNREACHABLE)
    (tmp_path / "elsewhere").rename(tmp_path / "blocks")
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_evidence_that_is_gone_leaves_the_content_open(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.verifier.verify(image)
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREACHABLE)
    # the untouched picture needs no evidence
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_store_that_cannot_be_opened_leaves_the_content_open(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    world.verifier.verify(copy)

    def closed(_: Config) -> None:
        raise StoreError("store: unusable")

    monkeypatch.setattr("medprov_ledger.store.open_store", closed)
    monkeypatch.setattr(world.verifier.ledger, "_store", None)
    assert world.verifier.verify(copy).reason is Reason.EVIDENCE_UNREACHABLE


def test_a_single_registration_counts(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    registration = Registration(record.leaf(world.domain), record, 7, 1_700_000_050, "0x" + "cd" * 32)
    world.contracts.registered.append(registration)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    assert result.record is not None and (result.record.block, result.record.manifest) == (7, "")


def test_a_registration_under_a_false_id_is_left_out(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    world.contracts.registered.append(Registration(b"z" * 32, record, 7, 1_700_000_050, "0x" + "cd" * 32))
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


def test_the_index_is_kept_in_the_users_cache_and_does_without_it(
    make_world: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    world = make_world(None)
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    file = cache_file(world.config)
    assert file.is_file() and file.is_relative_to(tmp_path / "cache")
    assert cache_file(replace(world.config, chain_id=1)) != file
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    again = make_world(None)
    again.release(image, again.alice)
    assert again.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_forged_index_file_proves_nothing(make_world: Callable[..., Any], tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "index.sqlite"
    world = make_world(file)
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    forged = hashlib.sha3_256(b"forged").digest()
    with sqlite3.connect(file) as db:
        assert db.execute("UPDATE records SET model = ?", (forged,)).rowcount == 1
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


@pytest.mark.parametrize("column", ["time", "block", "tx_hash", "model"])
def test_a_forged_registration_in_the_index_file_proves_nothing(
    make_world: Callable[..., Any], tmp_path: Path, column: str
) -> None:
    import sqlite3

    world = make_world(tmp_path / "index.sqlite")
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    one = Registration(record.leaf(world.domain), record, 7, 1_700_000_050, "0x" + "cd" * 32)
    world.contracts.registered.append(one)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    forged = {"time": 1, "block": 6, "tx_hash": "0x" + "ef" * 32, "model": b"x" * 32}[column]
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        assert db.execute(f"UPDATE registrations SET {column} = ?", (forged,)).rowcount == 1
    assert world.verifier.verify(image).reason is Reason.NO_RECORD
