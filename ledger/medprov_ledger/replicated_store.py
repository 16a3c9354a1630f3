"""Several IPFS daemons as one store, with a required number of copies of every object."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from . import cid
from .errors import ObjectError, StoreError, UnreachableError
from .ipfs_rpc import RefusedError, Stop
from .ipfs_store import IpfsStore

PATIENCE = 1.0
"""Seconds after which the next daemon is asked as well."""
ASIDE = 30.0
"""Seconds for which a daemon that failed or was slow is asked last."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copies:
    """Where an object lies.

    Parameters
    ----------
    name : str
        Its CID.
    wanted : int
        How many daemons should hold it.
    holders : tuple of str
        The daemons that have it pinned and gave every block of it back.
    problems : mapping of str to str
        Why each of the others does not count.
    """

    name: str
    wanted: int
    holders: tuple[str, ...]
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def enough(self) -> bool:
        """Whether there are as many copies as wanted."""
        return len(self.holders) >= self.wanted


class ReplicatedStore:
    """Daemons in the order in which they are used.

    Parameters
    ----------
    daemons : sequence of IpfsStore
    copies : int
        How many of them must confirm an object.

    Raises
    ------
    StoreError
        More copies than daemons, or a daemon twice.
    """

    def __init__(self, daemons: Sequence[IpfsStore], copies: int) -> None:
        apis = [daemon.api for daemon in daemons]
        if not 1 <= copies <= len(daemons) or len(set(apis)) < len(apis):
            raise StoreError(
                f"store: {copies} copies on {', '.join(apis) or 'no daemon'}; name as many daemons, once each"
            )
        self.daemons, self.copies = tuple(daemons), copies
        self._aside: dict[str, float] = {}

    def put(self, data: bytes) -> str:
        """See :meth:`medprov_ledger.store.Store.put`; done when `copies` daemons have confirmed.

        Raises
        ------
        StoreError
            Fewer did. What did is kept: a later put or :meth:`repair` adds the rest.
        """
        if len(data) > cid.MAX_SIZE:
            raise StoreError(f"object: larger than {cid.MAX_SIZE} bytes; not an object of this format")
        name = cid.of(data)
        confirmed, failures = self._copy(data, self._ordered(), self.copies)
        if len(confirmed) < self.copies:
            raise self._short(name, confirmed, failures)
        return name

    def get(self, name: str, limit: int = cid.MAX_OBJECT) -> bytes:
        """See :meth:`medprov_ledger.store.Store.get`.

        Daemons are asked in turn, the next one also when the last is silent for :data:`PATIENCE`. Who gives nothing or
        wrong bytes is passed over and named in the log; the first right answer ends the other calls.
        """
        cid.parse(name)
        waiting = self._ordered()
        running: dict[Future[bytes], IpfsStore] = {}
        failures: dict[str, StoreError] = {}
        stop = Stop()
        pool = ThreadPoolExecutor(len(waiting), thread_name_prefix="medprov-get")
        try:
            while waiting or running:
                if waiting:
                    daemon = waiting.pop(0)
                    running[pool.submit(daemon.get, name, limit, stop)] = daemon
                done, _ = wait(running, PATIENCE if waiting else None, FIRST_COMPLETED)
                for future in done:
                    daemon = running.pop(future)
                    try:
                        data = future.result()
                    except ObjectError:
                        # every block of it was right, so no other daemon has it better
                        raise
                    except StoreError as error:
                        failures[daemon.api] = error
                        self._set_aside(daemon, error)
                        continue
                    for slow in running.values():
                        self._set_aside(slow, StoreError(f"{slow.api}: slower than {daemon.api}"))
                    return data
        finally:
            stop.now()
            # not waited for: who is still connecting ends by its own time-out
            pool.shutdown(wait=False, cancel_futures=True)
        if all(isinstance(error, UnreachableError) for error in failures.values()):
            raise UnreachableError(f"no IPFS daemon answers: {_listed(failures)}")
        raise StoreError(f"{name}: none of {len(failures)} daemons gave it: {_listed(failures)}")

    def has(self, name: str) -> bool:
        """See :meth:`medprov_ledger.store.Store.has`: whether one daemon has it pinned.

        Raises
        ------
        StoreError
            None says yes, and one did not answer.
        """
        held, failures = self._ask_all(name, IpfsStore.has)
        if held:
            return True
        if failures:
            kind = UnreachableError if len(failures) == len(self.daemons) else StoreError
            raise kind(f"{name}: not known whether it is there: {_listed(failures)}")
        return False

    def unpin(self, name: str) -> None:
        """See :meth:`medprov_ledger.store.Store.unpin`; every daemon is told.

        Raises
        ------
        StoreError
            One was not reached.
        """
        _, failures = self._ask_all(name, IpfsStore.unpin)
        if failures:
            raise StoreError(f"{name}: still pinned where the daemon was not reached: {_listed(failures)}")

    def status(self, name: str) -> Copies:
        """How many copies there are, every block read back from every daemon.

        Raises
        ------
        RecordError
            `name` is not a CID of this format.
        """
        held, failures = self._ask_all(name, IpfsStore.holds)
        problems = {daemon.api: "not there" for daemon in self.daemons if daemon.api not in held}
        problems.update({api: str(error) for api, error in failures.items()})
        return Copies(name, self.copies, held, problems)

    def repair(self, name: str) -> Copies:
        """Bring the number of copies up to what is wanted.

        Returns
        -------
        Copies
            As they are afterwards.

        Raises
        ------
        StoreError
            No daemon gives the object, or too few take it.
        """
        found = self.status(name)
        if found.enough:
            return found
        data = self.get(name, cid.MAX_SIZE)
        others = [daemon for daemon in self._ordered() if daemon.api not in found.holders]
        added, failures = self._copy(data, others, self.copies - len(found.holders))
        holders = found.holders + added
        problems = {api: why for api, why in found.problems.items() if api not in holders}
        problems.update({api: str(error) for api, error in failures.items()})
        if len(holders) < self.copies:
            raise self._short(name, holders, failures)
        return Copies(name, self.copies, holders, problems)

    def _copy(
        self, data: bytes, daemons: Iterable[IpfsStore], wanted: int
    ) -> tuple[tuple[str, ...], dict[str, StoreError]]:
        """Put on `wanted` daemons at a time; for each that fails, on the next one."""
        waiting = list(daemons)
        running: dict[Future[str], IpfsStore] = {}
        confirmed: list[str] = []
        failures: dict[str, StoreError] = {}
        with ThreadPoolExecutor(max(len(waiting), 1), thread_name_prefix="medprov-put") as pool:
            while True:
                while waiting and len(running) + len(confirmed) < wanted:
                    daemon = waiting.pop(0)
                    running[pool.submit(daemon.put, data)] = daemon
                if not running:
                    return tuple(confirmed), failures
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    daemon = running.pop(future)
                    try:
                        future.result()
                    except StoreError as error:
                        failures[daemon.api] = error
                        self._set_aside(daemon, error)
                    else:
                        confirmed.append(daemon.api)

    def _ask_all(
        self, name: str, ask: Callable[[IpfsStore, str], bool | None]
    ) -> tuple[tuple[str, ...], dict[str, StoreError]]:
        """Who says yes, and who did not answer."""
        cid.parse(name)
        with ThreadPoolExecutor(len(self.daemons), thread_name_prefix="medprov-ask") as pool:
            answers = {daemon.api: pool.submit(ask, daemon, name) for daemon in self.daemons}
        held: list[str] = []
        failures: dict[str, StoreError] = {}
        for api, answer in answers.items():
            try:
                if answer.result():
                    held.append(api)
            except StoreError as error:
                failures[api] = error
        return tuple(held), failures

    def _ordered(self) -> list[IpfsStore]:
        now = time.monotonic()
        return sorted(self.daemons, key=lambda daemon: self._aside.get(daemon.api, 0.0) > now)

    def _set_aside(self, daemon: IpfsStore, error: StoreError) -> None:
        _log.warning("passed over: %s", error)
        # a daemon that says no is as good as before: it merely does not have this object
        if not isinstance(error, RefusedError):
            self._aside[daemon.api] = time.monotonic() + ASIDE

    def _short(self, name: str, confirmed: Sequence[str], failures: Mapping[str, StoreError]) -> StoreError:
        away = not confirmed and all(isinstance(error, UnreachableError) for error in failures.values())
        kind = UnreachableError if away else StoreError
        return kind(
            f"{name}: {len(confirmed)} of {self.copies} copies confirmed ({', '.join(confirmed) or 'by no daemon'}): "
            f"{_listed(failures)}"
        )


def _listed(failures: Mapping[str, StoreError]) -> str:
    return "; ".join(str(error) for error in failures.values())
