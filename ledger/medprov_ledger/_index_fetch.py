"""Manifests from the store, several at a time, in an order that lets nobody's missing ones hold up the others'."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from . import manifest
from .errors import RecordError
from .registry import Anchor

WORKERS, FIRST = 8, 4
"""Most fetches at a time, and how many before any manifest has come: few questions tell that a store is away."""
IN_FLIGHT = 1 << 28
"""Most bytes that the manifests which are being fetched may have together."""


class ManifestSource(Protocol):
    """What the index needs of :class:`medprov_ledger.store.Store`."""

    def get(self, name: str, limit: int) -> bytes:
        """The bytes that a CID names, at most `limit`; asked from several threads."""


class Wanted(Protocol):
    """A manifest to fetch."""

    @property
    def anchor(self) -> Anchor:
        """Names it."""


_Wanted = TypeVar("_Wanted", bound=Wanted)


@dataclass(frozen=True)
class Fetched(Generic[_Wanted]):
    """What came of one fetch.

    Parameters
    ----------
    wanted : Wanted
    answer : bytes or Exception
        The manifest's bytes, which nobody has looked at, or what the store raised.
    """

    wanted: _Wanted
    answer: bytes | Exception


class Fetches(Generic[_Wanted]):
    """Fetches manifests, for every owner as many at a time; those of an owner who is named in `failing` come last.

    Parameters
    ----------
    store : ManifestSource
    wanted : collection
        In the order in which each owner's are fetched.
    allow : callable
        Asked before each fetch, in the caller's thread; False leaves it out.
    """

    def __init__(self, store: ManifestSource, wanted: Collection[_Wanted], allow: Callable[[_Wanted], bool]) -> None:
        self._store, self._allow = store, allow
        self._queues: dict[str, deque[_Wanted]] = {}
        for one in wanted:
            self._queues.setdefault(one.anchor.owner, deque()).append(one)
        self._stopped = False
        self.failing: set[str] = set()
        self.came = 0
        """Manifests that were good; the caller counts them."""

    def __iter__(self) -> Iterator[Fetched[_Wanted]]:
        """One result after another, as they come."""
        running: dict[Future[bytes], _Wanted] = {}
        with ThreadPoolExecutor(WORKERS, "manifests") as pool:
            while True:
                while len(running) < min(WORKERS, FIRST + self.came) and self._room(running.values()):
                    one = self._next(running.values())
                    if not self._allow(one):
                        continue
                    running[pool.submit(self._get, one.anchor)] = one
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    one = running.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield Fetched(one, future.result() if error is None else error)

    def stop(self) -> None:
        """Begin nothing more; what is on its way still comes."""
        self._stopped = True

    def left(self) -> list[_Wanted]:
        """What was not begun."""
        return [one for queue in self._queues.values() for one in queue]

    def _get(self, anchor: Anchor) -> bytes:
        return self._store.get(anchor.cid, manifest.largest(anchor.count))

    def _next(self, running: Collection[_Wanted]) -> _Wanted:
        held = Counter(one.anchor.owner for one in running)
        waiting = [owner for owner, queue in self._queues.items() if queue]
        willing = [owner for owner in waiting if owner not in self.failing] or waiting
        # whose manifests are slow has all its places taken by them, and nobody else's
        owner = min(willing, key=lambda one: held[one])
        queue = self._queues.pop(owner)
        self._queues[owner] = queue
        return queue.popleft()

    def _room(self, running: Collection[_Wanted]) -> bool:
        if self._stopped or not any(self._queues.values()):
            return False
        return sum(_size(one.anchor) for one in running) <= IN_FLIGHT - manifest.MAX_SIZE


def _size(anchor: Anchor) -> int:
    try:
        return manifest.largest(anchor.count)
    except RecordError:
        # refused before anything is fetched
        return 0
