"""What waits in a hospital's queue goes to the store, in batches onto the chain, and then where it was to be written.

Store, chain and outputs fail apart: what one of them holds up waits, with the reason, and the rest goes on. Every step
may be repeated, so a pass that was killed anywhere is made good by the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import LedgerError, RecordError, StoreError
from medprov_ledger.keys import load_signer
from medprov_ledger.manifest import MAX_RECORDS
from medprov_ledger.outbox import FILE, Delivery, Item, Outbox
from medprov_ledger.signer import Account
from medprov_ledger.store import open_store
from medprov_node import batch, connect, outputs, queueing
from medprov_node.connect import Ledger
from medprov_node.errors import NodeError, NotAllowedError
from medprov_node.held import ANCHORING, exclusive
from medprov_watermark.errors import MediaError
from medprov_watermark.media.files import load, store

AT_ONCE = 500
"""Pictures of one step that are looked up together, which bounds the memory of a pass."""
TOGETHER = 32
"""Batches that are sent together."""
PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two passes of :func:`watch`; after failures they double up to the second."""


@dataclass(frozen=True)
class Rule:
    """When a batch is sent: as soon as it has so many pictures, or one has waited for so long.

    Parameters
    ----------
    count : int
        Also the most that a batch takes.
    age : float
        Seconds; 0 sends all at once.
    """

    count: int = 1024
    age: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_RECORDS or self.age < 0:
            raise RecordError(f"batches: count must be 1 to {MAX_RECORDS} and age not negative")


@dataclass(frozen=True)
class Pass:
    """What one pass did.

    Parameters
    ----------
    stored, delivered : int
        Pictures.
    anchored : int
        Batches that are confirmed now.
    lost : int
        Batches that were confirmed, that the chain no longer has, and that are sent again.
    waiting : int
        Pictures still in the queue.
    problems : tuple of str
        What holds them up, one line each; empty where they only wait for their batch.
    """

    stored: int
    anchored: int
    delivered: int
    lost: int
    waiting: int
    problems: tuple[str, ...]


def flush(
    hospital: HospitalConfig,
    config: Config,
    rule: Rule | None = None,
    *,
    ledger: Ledger | None = None,
    look_back: bool = True,
    now: Callable[[], float] = time.time,
) -> Pass:
    """One pass over a hospital's queue.

    Parameters
    ----------
    hospital : HospitalConfig
    config : Config
    rule : Rule or None
        None sends everything.
    ledger : Ledger or None
        None connects to what `config` names.
    look_back : bool
        Ask the chain for all batches that were confirmed before, and not only for the newest.
    now : callable
        The clock, seconds since 1970.

    Raises
    ------
    NodeError, LedgerError
        The state folder or the keys cannot be used. A chain or a store that is away is no error, but a problem in the
        result.
    """
    account = load_signer(hospital)
    with exclusive(hospital.state, name=ANCHORING):
        outbox = Outbox(hospital.state / FILE)
        try:
            return _Run(hospital, config, account, outbox, ledger).go(rule or Rule(MAX_RECORDS, 0.0), look_back, now())
        finally:
            outbox.close()


def watch(
    hospital: HospitalConfig,
    config: Config,
    rule: Rule,
    stop: threading.Event,
    tell: Callable[[Pass], None],
    *,
    ledger: Ledger | None = None,
) -> None:
    """Flush again and again until `stop` is set; `tell` hears of every pass.

    Raises
    ------
    NodeError, LedgerError
        As for :func:`flush`.
    """
    pause, look_back = PAUSE, True
    while not stop.is_set():
        done = flush(hospital, config, rule, ledger=ledger, look_back=look_back)
        tell(done)
        # a chain that was away may have come back without its last blocks
        look_back = bool(done.problems)
        pause = min(LONGEST_PAUSE, 2 * pause) if done.problems else PAUSE
        stop.wait(pause)


class _Run:
    """One pass."""

    def __init__(
        self, hospital: HospitalConfig, config: Config, account: Account, outbox: Outbox, ledger: Ledger | None
    ) -> None:
        self.hospital, self.config, self.account, self.outbox = hospital, config, account, outbox
        self.problems: list[str] = []
        self.ledger = ledger or self._connected()

    def go(self, rule: Rule, look_back: bool, now: float) -> Pass:
        stored, anchored, lost = self._store(), 0, 0
        if self.ledger is not None:
            try:
                if look_back or self._newest_is_gone(self.ledger):
                    lost = self._lost(self.ledger)
                anchored = self._anchor(self.ledger, rule, now)
            except (LedgerError, NotAllowedError) as error:
                self._note(error)
        delivered = self._deliver(now)
        return Pass(stored, anchored, delivered, lost, self.outbox.waiting(), tuple(self.problems))

    def _connected(self) -> Ledger | None:
        try:
            return connect.connect(self.config)
        except LedgerError as error:
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def _store(self) -> int:
        done = 0
        place = self.ledger.store if self.ledger is not None else open_store(self.config)
        while waiting := self.outbox.deliveries("bundled", AT_ONCE):
            for delivery in waiting:
                try:
                    batch.store(self.outbox, place, self.outbox.item(delivery.job))
                except StoreError as error:
                    self._note(error)
                    return done
                done += 1
        return done

    def _newest_is_gone(self, ledger: Ledger) -> bool:
        """What a chain forgets are its last blocks, so the newest batch tells of all."""
        newest = self.outbox.newest()
        return newest is not None and ledger.registry.anchor(self.account.address, newest, confirmed=False) is None

    def _lost(self, ledger: Ledger) -> int:
        """Batches whose confirmed anchor is gone: a development chain that was killed forgets its last second."""
        confirmed = self.outbox.roots("confirmed")
        if not confirmed:
            return 0
        standing = {anchor.root for anchor in ledger.registry.anchors()}
        gone = [root for root in confirmed if root not in standing and batch.is_ours(self.outbox.batch(root), ledger)]
        for root in gone:
            self.outbox.set_lost(root)
        return len(gone)

    def _anchor(self, ledger: Ledger, rule: Rule, now: float) -> int:
        done = batch.resume(self.outbox, ledger, self.account)
        checked: set[bytes] = set()
        while roots := self._built(ledger, rule, now, checked):
            batch.send(self.outbox, ledger, roots, self.account)
            for root in roots:
                batch.finish(self.outbox, ledger, root, self.account)
            done += len(roots)
        return done

    def _built(self, ledger: Ledger, rule: Rule, now: float, checked: set[bytes]) -> list[bytes]:
        """Batches that are due, some at a time: their pictures are in memory while they are built."""
        roots: list[bytes] = []
        while len(roots) < TOGETHER and (due := self._due(rule, now)):
            items = [self.outbox.item(delivery.job) for delivery in due]
            for model in {_model(item) for item in items} - checked:
                connect.check(ledger, self.hospital, model)
                checked.add(model)
            roots.append(batch.build(self.outbox, ledger, items).root)
        return roots

    def _due(self, rule: Rule, now: float) -> Sequence[Delivery]:
        waiting = self.outbox.deliveries("stored", rule.count)
        if len(waiting) == rule.count:
            return waiting
        # one from the future was queued before the clock was set back: it must not wait until then
        old = any(not now - rule.age < delivery.queued <= now for delivery in waiting)
        return waiting if old else []

    def _deliver(self, now: float) -> int:
        done = 0
        for delivery in self.outbox.deliveries("confirmed"):
            try:
                self._write(delivery)
            except (NodeError, MediaError) as error:
                self._note(error)
                continue
            self.outbox.set_delivered(delivery.job, int(now))
            queueing.clear(self.hospital, delivery.job)
            done += 1
        return done

    def _write(self, delivery: Delivery) -> None:
        item, target = self.outbox.item(delivery.job), Path(delivery.target)
        hashes = (item.released_hash or b"",)
        outputs.check_vacant(target, hashes)
        if outputs.holds(target, hashes):
            return
        source = queueing.finished(self.hospital, delivery)
        if not outputs.holds(source, hashes):
            raise NodeError(
                f"{source}: the marked form of {delivery.source} is damaged or gone; restore it from a backup, "
                "otherwise mark that picture again"
            )
        outputs.make_folder(target.parent)
        try:
            store(target, load(source), False)
        except MediaError as error:
            raise MediaError(f"{target}: {error}") from None


def _model(item: Item) -> bytes:
    return item.signed.record.model if item.signed is not None else b""
