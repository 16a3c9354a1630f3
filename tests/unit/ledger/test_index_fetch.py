"""Fetching manifests: several at a time, bounded, and nobody's missing ones hold up the others'."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from medprov_ledger import _index_fetch, manifest
from medprov_ledger._index_fetch import WORKERS, Fetches
from medprov_ledger.errors import RecordError, StoreError
from medprov_ledger.registry import Anchor
from tests.unit.ledger.index_world import A, B


@dataclass(frozen=True)
class One:
    anchor: Anchor


def one(name: str, owner: str = A.address, count: int = 1) -> One:
    return One(Anchor(name.encode().rjust(32), owner, 1, 1, count, name))


@dataclass
class Slow:
    """A store whose answers wait until `together` questions are there, or a moment has passed."""

    together: int = 1
    answers: Callable[[str], bytes] = str.encode
    running: int = 0
    most: int = 0
    bytes_most: int = 0
    bytes_running: int = 0
    asked: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def get(self, name: str, limit: int = 0) -> bytes:
        with self.changed:
            self.asked.append(name)
            self.running += 1
            self.bytes_running += limit
            self.most, self.bytes_most = max(self.most, self.running), max(self.bytes_most, self.bytes_running)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.together, timeout=0.05)
        try:
            return self.answers(name)
        finally:
            with self.changed:
                self.running -= 1
                self.bytes_running -= limit


def everybody(_: One) -> bool:
    return True


def run(fetches: Fetches[One]) -> dict[str, bytes | Exception]:
    """All answers, counting what came as the index does."""
    found: dict[str, bytes | Exception] = {}
    for fetched in fetches:
        found[fetched.wanted.anchor.cid] = fetched.answer
        if isinstance(fetched.answer, Exception):
            fetches.failing.add(fetched.wanted.anchor.owner)
        else:
            fetches.came += 1
    return found


def test_all_come_several_at_a_time_and_never_more_than_the_bound() -> None:
    store = Slow(WORKERS)
    found = run(Fetches(store, [one(f"m{n}") for n in range(100)], everybody))
    assert found == {f"m{n}": f"m{n}".encode() for n in range(100)}
    assert store.most == WORKERS and sorted(store.asked) == sorted(found)


def test_large_manifests_are_not_fetched_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow(3)
    run(Fetches(store, [one(f"m{n}", count=manifest.MAX_RECORDS) for n in range(12)], everybody))
    assert store.most == 2 and store.bytes_most <= _index_fetch.IN_FLIGHT


def test_a_count_that_no_batch_has_is_an_answer_like_others() -> None:
    store = Slow()
    found = run(Fetches(store, [one("m", count=0), one("n", count=1 << 32), one("o")], everybody))
    assert isinstance(found["m"], RecordError) and isinstance(found["n"], RecordError) and store.asked == ["o"]


def test_owners_take_turns_and_the_failing_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(name: str) -> bytes:
        if name.startswith("b"):
            raise StoreError(name)
        return b"x"

    monkeypatch.setattr(_index_fetch, "WORKERS", 1)
    store = Slow(answers=answers)
    wanted = [*(one(f"b{n}", B.address) for n in range(3)), *(one(f"a{n}") for n in range(3))]
    run(Fetches(store, wanted, everybody))
    assert store.asked == ["b0", "a0", "a1", "a2", "b1", "b2"]
    store.answers, store.asked = str.encode, []
    run(Fetches(store, wanted, everybody))
    assert store.asked == ["b0", "a0", "b1", "a1", "b2", "a2"]


def test_the_slow_do_not_take_all_places() -> None:
    """One owner's manifests come only when all of the other's have."""
    left, over = threading.Semaphore(0), threading.Event()

    def answers(name: str) -> bytes:
        if name.startswith("b"):
            assert over.wait(10)
        else:
            left.release()
        return b"x"

    def watch() -> None:
        for _ in range(60):
            left.acquire()
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    wanted = [*(one(f"b{n}", B.address) for n in range(30)), *(one(f"a{n}") for n in range(60))]
    found = run(Fetches(Slow(answers=answers), wanted, everybody))
    watcher.join()
    assert set(found.values()) == {b"x"} and len(found) == 90


def test_what_is_not_allowed_is_left_out_and_stopping_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_index_fetch, "WORKERS", 1)
    store = Slow()
    fetches = Fetches(store, [one("a"), one("b"), one("c"), one("d")], lambda item: item.anchor.cid != "b")
    seen = []
    for fetched in fetches:
        seen.append(fetched.wanted.anchor.cid)
        if seen == ["a", "c"]:
            fetches.stop()
    assert seen == store.asked == ["a", "c"] and [item.anchor.cid for item in fetches.left()] == ["d"]


def test_an_error_of_no_kind_that_a_store_has_is_an_answer_too() -> None:
    def broken(name: str) -> bytes:
        raise ZeroDivisionError(name)

    (answer,) = run(Fetches(Slow(answers=broken), [one("a")], everybody)).values()
    assert isinstance(answer, ZeroDivisionError)
