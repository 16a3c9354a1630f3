"""medprov_ledger.replicated_store: several daemons, some of them away or dishonest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from medprov_ledger import cid, ipfs_rpc, replicated_store
from medprov_ledger.errors import ObjectError, RecordError, StoreError, UnreachableError
from medprov_ledger.ipfs_store import IpfsStore
from medprov_ledger.replicated_store import ReplicatedStore
from tests.unit.ledger.ipfs_daemon import Daemon

DATA = b"sealed"
NAME = cid.of(DATA)
LARGE = bytes(range(256)) * (cid.CHUNK // 256) + b"tail"
Many = Callable[[int], list[Daemon]]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Iterator[Many]:
    monkeypatch.setattr(ipfs_rpc, "PAUSE", 0.01)
    monkeypatch.setattr(replicated_store, "PATIENCE", 0.1)
    started: list[Daemon] = []

    def start(count: int) -> list[Daemon]:
        fresh = [Daemon().start() for _ in range(count)]
        started.extend(fresh)
        return fresh

    yield start
    for daemon in started:
        daemon.stop()


def store_of(daemons: list[Daemon], copies: int, timeout: float = 5) -> ReplicatedStore:
    return ReplicatedStore([IpfsStore(daemon.api, timeout) for daemon in daemons], copies)


def holders(daemons: list[Daemon]) -> list[int]:
    return [place for place, daemon in enumerate(daemons) if NAME in daemon.pins]


def test_as_many_copies_as_wanted_and_no_more(many: Many) -> None:
    daemons = many(3)
    store = store_of(daemons, 2)
    assert store.put(DATA) == NAME == store.put(DATA)
    assert holders(daemons) == [0, 1]
    assert store.has(NAME) and store.get(NAME) == DATA
    found = store.status(NAME)
    assert found.enough and found.holders == (daemons[0].api, daemons[1].api)
    assert found.problems == {daemons[2].api: "not there"}


@pytest.mark.parametrize(
    ("command", "mood"),
    [
        ("", "500"),
        ("", "html"),
        ("", "redirect"),
        ("", "endless"),
        ("", "cut"),
        ("", "hangs up"),
        ("add", "other cid"),
        ("add", "pins nothing"),
        ("block/get", "other bytes"),
        ("block/get", "truncated"),
    ],
)
def test_a_daemon_that_does_not_confirm_is_replaced_by_the_next(many: Many, command: str, mood: str) -> None:
    daemons = many(3)
    daemons[0].moods[command] = mood
    store = store_of(daemons, 2)
    assert store.put(DATA) == NAME
    found = store.status(NAME)
    assert found.holders == (daemons[1].api, daemons[2].api) and daemons[0].api in found.problems


def test_a_silent_daemon_too(many: Many) -> None:
    daemons = many(2)
    daemons[0].moods[""] = "silent"
    assert store_of(daemons, 1, timeout=0.2).put(DATA) == NAME
    assert holders(daemons) == [1]


def test_too_few_copies_say_who_failed_and_why(many: Many) -> None:
    daemons = many(3)
    daemons[0].moods[""] = "500"
    daemons[2].stop()
    with pytest.raises(StoreError, match="1 of 2 copies confirmed") as caught:
        store_of(daemons, 2).put(DATA)
    text = str(caught.value)
    assert NAME in text and f"({daemons[1].api})" in text and "disk failure" in text and "\n" not in text
    assert f"{daemons[2].api}: no IPFS daemon answers" in text
    assert not isinstance(caught.value, UnreachableError)
    daemons.pop()


def test_nobody_there(many: Many) -> None:
    daemons = [Daemon(), Daemon()]
    for daemon in daemons:
        daemon.server_close()
    store = store_of(daemons, 1, timeout=2)
    for call, argument in ((store.put, DATA), (store.get, NAME), (store.has, NAME)):
        with pytest.raises(UnreachableError) as caught:
            call(argument)  # type: ignore[operator]
        assert all(daemon.api in str(caught.value) for daemon in daemons)
    with pytest.raises(StoreError, match="still pinned"):
        store.unpin(NAME)


@pytest.mark.parametrize("data", [DATA, LARGE])
@pytest.mark.parametrize(
    ("command", "mood"),
    [
        ("block/get", "other bytes"),
        ("block/get", "truncated"),
        ("", "500"),
        ("", "bare 500"),
        ("", "html"),
        ("", "list"),
        ("", "empty"),
        ("", "endless"),
        ("", "cut"),
        ("", "cut chunked"),
        ("", "redirect"),
        ("", "hangs up"),
        ("", "silent"),
        ("", "drip"),
        ("", "drip in the head"),
        ("", "no http"),
    ],
)
def test_a_reader_passes_over_a_bad_daemon_and_names_it(
    many: Many, caplog: pytest.LogCaptureFixture, command: str, mood: str, data: bytes
) -> None:
    daemons = many(2)
    bad = daemons[0]
    for daemon in daemons:
        daemon.add(data)
    bad.moods[command] = mood
    with caplog.at_level(logging.WARNING):
        assert store_of(daemons, 1).get(cid.of(data)) == data
    assert any(bad.api in record.getMessage() for record in caplog.records)


def test_a_silent_daemon_is_not_waited_for(many: Many, caplog: pytest.LogCaptureFixture) -> None:
    daemons = many(2)
    for daemon in daemons:
        daemon.add(DATA)
    daemons[0].moods[""] = "silent"
    with caplog.at_level(logging.WARNING):
        assert store_of(daemons, 1, timeout=4).get(NAME) == DATA
    # not "within 4 s": it was still being waited for
    assert [f"{daemons[0].api}: slower than {daemons[1].api}" in line for line in caplog.messages] == [True]


def test_where_all_lie_nothing_is_returned(many: Many) -> None:
    daemons = many(3)
    for daemon, mood in zip(daemons, ("other bytes", "truncated", "html"), strict=True):
        daemon.add(DATA)
        daemon.moods["block/get"] = mood
    with pytest.raises(StoreError, match="none of 3 daemons") as caught:
        store_of(daemons, 1).get(NAME)
    assert all(daemon.api in str(caught.value) for daemon in daemons)


def test_what_is_no_object_of_ours_is_not_asked_for_again(many: Many) -> None:
    daemons = many(2)
    name = cid.of(LARGE)
    for daemon in daemons:
        daemon.add(LARGE)
    with pytest.raises(ObjectError, match="larger than 100 bytes"):
        store_of(daemons, 1).get(name, limit=100)
    assert daemons[1].asked == []


def test_the_others_are_left_in_peace_while_the_first_answers(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicated_store, "PATIENCE", 5.0)
    daemons = many(2)
    store = store_of(daemons, 2)
    store.put(DATA)
    daemons[1].asked.clear()
    assert store.get(NAME) == DATA
    assert daemons[1].asked == []


def test_who_failed_is_asked_last_for_a_while(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    daemons = many(2)
    for daemon in daemons:
        daemon.add(DATA)
    daemons[0].moods[""] = "html"
    store = store_of(daemons, 1)
    for _ in range(3):
        assert store.get(NAME) == DATA
    assert daemons[0].count("block/get") == 1
    now = replicated_store.time.monotonic() + replicated_store.ASIDE
    monkeypatch.setattr(replicated_store.time, "monotonic", lambda: now)
    assert store.get(NAME) == DATA
    assert daemons[0].count("block/get") == 2


def test_who_does_not_have_an_object_is_not_set_back(many: Many) -> None:
    daemons = many(2)
    daemons[1].add(DATA)
    store = store_of(daemons, 1)
    for _ in range(2):
        assert store.get(NAME) == DATA
    assert daemons[0].count("block/get") == 2


def test_has_needs_all_to_say_no(many: Many) -> None:
    daemons = many(2)
    store = store_of(daemons, 1)
    assert not store.has(NAME)
    daemons[0].moods[""] = "500"
    with pytest.raises(StoreError, match="not known") as caught:
        store.has(NAME)
    assert not isinstance(caught.value, UnreachableError)
    daemons[1].add(DATA)
    assert store.has(NAME)


def test_repair_adds_what_is_missing(many: Many) -> None:
    daemons = many(3)
    store = store_of(daemons, 2)
    name = store.put(LARGE)
    # one daemon has lost a block, and does not know it
    (leaf,) = [leaf for leaf, data in daemons[0].blocks.items() if data == b"tail"]
    del daemons[0].blocks[leaf]
    found = store.status(name)
    assert not found.enough and found.holders == (daemons[1].api,)
    assert store.repair(name).enough
    # storing it there again mends it; the third is not needed
    assert store.status(name).holders == (daemons[0].api, daemons[1].api)
    asked = len(daemons[2].asked)
    assert store.repair(name).enough and len(daemons[2].asked) == asked + 1


def test_repair_goes_elsewhere_where_the_first_is_gone(many: Many) -> None:
    daemons = many(3)
    store = store_of(daemons, 2)
    store.put(DATA)
    daemons[0].stop()
    found = store.repair(NAME)
    assert found.enough and found.holders == (daemons[1].api, daemons[2].api)
    assert "no IPFS daemon answers" in found.problems[daemons[0].api]


def test_a_repair_that_cannot_be_done_says_so(many: Many) -> None:
    daemons = many(2)
    store = store_of(daemons, 2)
    with pytest.raises(StoreError, match="none of 2 daemons gave it"):
        store.repair(NAME)
    store.put(DATA)
    daemons[1].pins.clear()
    daemons[1].moods["add"] = "500"
    with pytest.raises(StoreError, match=r"1 of 2 copies confirmed .*disk failure"):
        store.repair(NAME)


def test_a_repair_never_spreads_wrong_bytes(many: Many) -> None:
    daemons = many(2)
    daemons[0].add(DATA)
    daemons[0].blocks[NAME] = b"forged"
    with pytest.raises(StoreError, match="other bytes"):
        store_of(daemons, 2).repair(NAME)
    assert daemons[1].count("add") == 0


def test_unpin(many: Many) -> None:
    daemons = many(2)
    store = store_of(daemons, 2)
    store.put(DATA)
    store.unpin(NAME)
    assert holders(daemons) == [] and not store.has(NAME)


@pytest.mark.parametrize(("count", "copies"), [(0, 1), (2, 0), (2, 3)])
def test_impossible_numbers_are_refused(count: int, copies: int) -> None:
    daemons = [IpfsStore(f"/ip4/127.0.0.1/tcp/{port}") for port in range(5001, 5001 + count)]
    with pytest.raises(StoreError, match=f"{copies} copies"):
        ReplicatedStore(daemons, copies)
    with pytest.raises(StoreError, match="once each"):
        ReplicatedStore([IpfsStore("/ip4/127.0.0.1/tcp/1")] * 2, 2)


def test_too_large_objects_are_sent_to_nobody(many: Many, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cid, "MAX_SIZE", 5)
    (daemon,) = many(1)
    with pytest.raises(StoreError, match="larger than 5 bytes"):
        store_of([daemon], 1).put(DATA)
    assert daemon.asked == []


@pytest.mark.parametrize("call", ["get", "has", "unpin", "status", "repair"])
def test_hostile_names_never_reach_a_daemon(many: Many, call: str) -> None:
    (daemon,) = many(1)
    with pytest.raises(RecordError, match="CID"):
        getattr(store_of([daemon], 1), call)("../x")
    assert daemon.asked == []
