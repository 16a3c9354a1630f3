"""The stores against a real IPFS daemon (:mod:`benchmarks.js_ipfs`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import js_ipfs
from benchmarks.js_ipfs import Daemon, UnavailableError
from medprov_ledger import cid
from medprov_ledger.errors import StoreError, UnreachableError
from medprov_ledger.ipfs_store import IpfsStore
from medprov_ledger.replicated_store import ReplicatedStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def program() -> list[str]:
    """The daemon's command line."""
    try:
        return js_ipfs.program()
    except UnavailableError as error:
        pytest.skip(str(error))


Start = Callable[[], Daemon]


@pytest.fixture
def start(program: list[str], tmp_path: Path) -> Iterator[Start]:
    started: list[Daemon] = []

    def one() -> Daemon:
        started.append(Daemon(program, tmp_path / f"repository{len(started)}"))
        return started[-1].start()

    yield one
    for daemon in started:
        daemon.kill()


def test_a_real_daemon(start: Start) -> None:
    """Its CIDs are ours, and what it confirmed survives a hard kill."""
    daemon = start()
    store = IpfsStore(daemon.api, timeout=20)
    files = [os.urandom(size) for size in (0, 1, 1000, cid.CHUNK, cid.CHUNK + 1, 3_000_000, cid.CHUNK * cid.WIDTH + 5)]
    # blocks that are the same are stored once, and named once more in the node
    files.append(bytes(2 * cid.CHUNK))
    names = [store.put(data) for data in files]
    assert names == [cid.of(data) for data in files]
    assert all(store.has(name) and store.holds(name) for name in names)
    assert [store.get(name) for name in names] == files
    absent = cid.of(os.urandom(10))
    assert not store.has(absent) and not store.holds(absent)
    store.unpin(names[2])
    store.unpin(names[2])
    assert not store.has(names[2])
    daemon.kill()
    with pytest.raises(UnreachableError, match="no IPFS daemon answers"):
        store.get(names[0])
    daemon.start()
    daemon.collect()
    names.pop(2), files.pop(2)
    assert all(store.holds(name) for name in names)
    assert [store.get(name) for name in names] == files
    # one that is absent is waited for by js-ipfs; we do not
    with pytest.raises(StoreError, match="within 1 s"):
        IpfsStore(daemon.api, timeout=1).get(absent)


def test_what_was_confirmed_survives_kills_at_any_time(start: Start) -> None:
    daemon = start()
    store, confirmed = IpfsStore(daemon.api, timeout=20), dict[str, bytes]()
    for wait in (0.3, 0.9, 1.7):
        over = threading.Event()

        def write(over: threading.Event = over) -> None:
            while not over.is_set():
                data = os.urandom(3000) if len(confirmed) % 4 else os.urandom(cid.CHUNK + 3000)
                try:
                    confirmed[store.put(data)] = data
                except StoreError:
                    over.wait(0.05)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(wait)
        daemon.kill()
        over.set()
        writer.join()
        daemon.start()
    assert len(confirmed) > 5
    for name, data in confirmed.items():
        assert store.holds(name) and store.get(name) == data


def test_two_daemons_and_one_dies(start: Start) -> None:
    first, second = start(), start()
    store = ReplicatedStore([IpfsStore(first.api, 20), IpfsStore(second.api, 20)], copies=2)
    data, later = os.urandom(700_000), os.urandom(5000)
    name = store.put(data)
    assert store.status(name).holders == (first.api, second.api)
    first.kill()
    assert store.get(name) == data and store.has(name)
    with pytest.raises(StoreError, match="1 of 2 copies confirmed") as caught:
        store.put(later)
    assert f"({second.api})" in str(caught.value) and f"{first.api}: no IPFS daemon answers" in str(caught.value)
    found = store.status(cid.of(later))
    assert not found.enough and found.holders == (second.api,)
    first.start()
    assert store.repair(cid.of(later)).enough
    # a copy that its daemon has given up
    IpfsStore(second.api, 20).unpin(name)
    second.collect()
    assert store.status(name).holders == (first.api,)
    assert store.repair(name).enough
    first.kill()
    assert store.get(name) == data and store.get(cid.of(later)) == later
