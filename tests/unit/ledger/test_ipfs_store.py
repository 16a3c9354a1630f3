"""medprov_ledger.ipfs_store against a daemon that can be dishonest: whatever it answers, no wrong byte comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_ledger import cid, ipfs_rpc
from medprov_ledger.errors import ObjectError, RecordError, StoreError, UnreachableError
from medprov_ledger.ipfs_store import IpfsStore
from tests.unit.ledger.ipfs_daemon import MOODS, Daemon

LARGE = bytes(range(256)) * (cid.CHUNK // 256) + b"tail"


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(ipfs_rpc, "PAUSE", 0.01)
    server = Daemon().start()
    yield server
    server.stop()


@pytest.mark.parametrize("data", [b"", b"sealed", b"--\r\n\r\n--", LARGE])
def test_round_trip(daemon: Daemon, data: bytes) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = cid.of(data)
    assert not store.has(name) and not store.holds(name)
    assert store.put(data) == name == store.put(data)
    assert store.has(name) and store.holds(name)
    assert store.get(name) == data


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes(daemon: Daemon, data: bytes) -> None:
    store = IpfsStore(f"http://127.0.0.1:{daemon.port}", timeout=5)
    assert store.get(store.put(data)) == data


def test_the_right_form_is_asked_for(daemon: Daemon) -> None:
    IpfsStore(daemon.api, timeout=5).put(b"data")
    (_, added), (_, listed), (_, given) = daemon.asked
    assert added["raw-leaves"] == ["true"] and added["cid-version"] == ["1"] and added["pin"] == ["true"]
    assert added["chunker"] == ["size-262144"] and listed["type"] == ["recursive"]
    # otherwise the daemon may fetch from its neighbour what it says it has stored
    assert given["offline"] == ["true"]


def test_a_reader_lets_the_daemon_fetch_from_others(daemon: Daemon) -> None:
    IpfsStore(daemon.api, timeout=5).get(daemon.add(b"data"))
    assert "offline" not in daemon.asked[-1][1]


@pytest.mark.parametrize("data", [b"data", LARGE])
@pytest.mark.parametrize("mood", ["other bytes", "truncated"])
def test_other_bytes_are_refused(daemon: Daemon, mood: str, data: bytes) -> None:
    name = daemon.add(data)
    daemon.moods["block/get"] = mood
    with pytest.raises(StoreError, match="other bytes than") as caught:
        IpfsStore(daemon.api, timeout=5).get(name)
    assert daemon.api in str(caught.value) and not isinstance(caught.value, ObjectError)


def test_one_wrong_leaf_is_refused(daemon: Daemon) -> None:
    name = daemon.add(LARGE)
    (leaf,) = [leaf for leaf, data in daemon.blocks.items() if data == b"tail"]
    daemon.blocks[leaf] = b"lied"
    with pytest.raises(StoreError, match=f"other bytes than {leaf}"):
        IpfsStore(daemon.api, timeout=5).get(name)


def test_too_much_is_not_fetched(daemon: Daemon) -> None:
    name = daemon.add(LARGE)
    with pytest.raises(ObjectError, match="larger than 100 bytes"):
        IpfsStore(daemon.api, timeout=5).get(name, limit=100)
    assert daemon.count("block/get") == 2


def test_another_layout_is_told_from_a_lie(daemon: Daemon) -> None:
    # an empty node: its hash is right, and it is nothing of ours
    node = cid.Cid(cid.DAG_PB, hashlib.sha256(b"\x0a\x02\x08\x01").digest())
    daemon.blocks[str(node)] = b"\x0a\x02\x08\x01"
    with pytest.raises(ObjectError, match="without links"):
        IpfsStore(daemon.api, timeout=5).get(str(node))


@pytest.mark.parametrize(
    ("command", "mood", "reason"),
    [
        ("add", "other cid", "import settings"),
        ("add", "nulls", "import settings"),
        ("add", "pins nothing", "does not list its pin"),
        ("pin/ls", "lists another", "does not list its pin"),
        ("pin/ls", "nulls", "does not list its pin"),
        ("block/get", "other bytes", "other bytes than"),
        ("block/get", "truncated", "other bytes than"),
    ],
)
def test_a_put_that_is_not_confirmed_fails(daemon: Daemon, command: str, mood: str, reason: str) -> None:
    daemon.moods[command] = mood
    with pytest.raises(StoreError, match=reason):
        IpfsStore(daemon.api, timeout=5).put(LARGE)


def test_a_daemon_that_only_says_that_it_stores(daemon: Daemon) -> None:
    daemon.moods.update({"add": "keeps nothing", "pin/ls": "claims all"})
    with pytest.raises(StoreError, match="could not find"):
        IpfsStore(daemon.api, timeout=5).put(b"data")


def test_a_pin_without_its_blocks_is_no_copy(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = store.put(LARGE)
    (leaf,) = [leaf for leaf, data in daemon.blocks.items() if data == b"tail"]
    del daemon.blocks[leaf]
    with pytest.raises(StoreError, match="which it has pinned"):
        store.holds(name)


@pytest.mark.parametrize("mood", sorted(MOODS.keys() - {"hangs up"}))
@pytest.mark.parametrize("call", ["put", "get", "has", "holds", "unpin"])
def test_every_bad_answer_is_one_clear_error(daemon: Daemon, mood: str, call: str) -> None:
    slow = mood in ("silent", "drip", "drip in the head")
    store = IpfsStore(daemon.api, timeout=0.05 if slow else 2)
    name = daemon.add(b"data")
    daemon.moods[""] = mood
    if call == "unpin" and mood in ("html", "list", "empty", "deep", "nested", "nulls", "bomb"):
        return store.unpin(name)  # only whether it was refused counts
    if call in ("has", "holds") and mood == "nulls":
        assert not getattr(store, call)(name)
        return None
    with pytest.raises(StoreError) as caught:
        getattr(store, call)(b"data" if call == "put" else name)
    assert str(caught.value).startswith(daemon.api) and "\n" not in str(caught.value)
    assert not isinstance(caught.value, UnreachableError)


@pytest.mark.parametrize("call", ["put", "get", "has", "holds", "unpin"])
def test_nobody_there(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(ipfs_rpc, "PAUSE", 0.01)
    server = Daemon()
    server.server_close()
    with pytest.raises(UnreachableError, match="no IPFS daemon answers"):
        getattr(IpfsStore(server.api, timeout=2), call)(b"x" if call == "put" else cid.of(b"x"))


def test_unpin(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = store.put(b"data")
    store.unpin(name)
    store.unpin(name)
    assert not store.has(name) and daemon.pins == set()


def test_malformed_addresses_are_refused() -> None:
    with pytest.raises(StoreError, match="multiaddress"):
        IpfsStore("localhost:5001")


@pytest.mark.parametrize("call", ["get", "has", "holds", "unpin"])
def test_hostile_names_never_reach_the_daemon(daemon: Daemon, call: str) -> None:
    with pytest.raises(RecordError, match="CID"):
        getattr(IpfsStore(daemon.api), call)("x/../../y")
    assert daemon.asked == []
