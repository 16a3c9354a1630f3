"""Chain against manifests, store, outboxes and wrapped keys: does every part say the same?

Nothing is changed. What is still on its way is no difference; what ought to be there and is not, or says something
else, is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from Crypto.PublicKey.ECC import EccKey

from . import _canonical, bundle, eip712, manifest
from .config import HospitalConfig
from .errors import LedgerError, RecordError, SealError, StoreError
from .federation import Federation
from .index import RecordIndex
from .keys import load_reader_key
from .manifest import SignedRecord
from .outbox import FILE, Batch, Outbox
from .registry import Anchor, Registry
from .store import Store


@dataclass(frozen=True)
class Difference:
    """Two parts that do not agree.

    Parameters
    ----------
    where : str
        ``"chain"``, ``"manifest"``, ``"outbox"``, ``"store"`` or ``"bundle"``.
    what : str
        One line with the name of the batch, job or object.
    """

    where: str
    what: str


@dataclass(frozen=True)
class Audit:
    """What an audit saw.

    Parameters
    ----------
    anchors, records : int
        On the chain and in its manifests, of all members.
    confirmed, waiting : int
        Pictures of the hospitals here that have arrived, and that are on their way.
    opened : int
        Bundles that the hospitals' reader keys opened.
    erased : int
        Bundles for which no wrapped key is left here.
    differences : tuple of Difference
    """

    anchors: int
    records: int
    confirmed: int
    waiting: int
    opened: int
    erased: int
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return asdict(self)


def audit(registry: Registry, federation: Federation, store: Store, hospitals: Sequence[HospitalConfig]) -> Audit:
    """Compare everything that can be seen from here.

    Every manifest is fetched and checked against its anchor, every object that a hospital here has a record of is
    fetched and checked against its name, and every bundle is opened with the hospital's own reader key.

    Parameters
    ----------
    registry : Registry
    federation : Federation
    store : Store
    hospitals : sequence of HospitalConfig
        Those whose state folders are here.

    Raises
    ------
    LedgerError
        The chain does not answer, or an outbox or a reader key cannot be used: then nothing can be said.
    """
    anchors = registry.anchors()
    config = registry.chain.config
    domain = eip712.domain(config.chain_id, registry.address)
    index = RecordIndex(":memory:", domain)
    try:
        report = index.sync(registry, federation, store, *config.directory_keys)
        problems = [
            Difference("manifest", f"batch 0x{one.root.hex()} of {one.owner}: {one.state}: {one.reason}")
            for one in report.problems
        ]
        audits = [_Hospital(one, domain, store, index, anchors) for one in hospitals]
        for one in audits:
            problems += one.run()
        return Audit(
            anchors=len(anchors),
            records=len(index),
            confirmed=sum(one.confirmed for one in audits),
            waiting=sum(one.waiting for one in audits),
            opened=sum(one.opened for one in audits),
            erased=sum(one.erased for one in audits),
            differences=tuple(problems),
        )
    finally:
        index.close()


class _Hospital:
    """One hospital's outbox, wraps and objects."""

    def __init__(
        self,
        hospital: HospitalConfig,
        domain: eip712.Domain,
        store: Store,
        index: RecordIndex,
        anchors: Sequence[Anchor],
    ) -> None:
        self.hospital, self.domain, self.store, self.index = hospital, domain, store, index
        self.anchors = {one.root: one for one in anchors if one.owner.lower() == hospital.address.lower()}
        self.wraps = bundle.WrapFolder(hospital.state / bundle.FOLDER)
        self.confirmed = self.waiting = self.opened = self.erased = 0

    def run(self) -> list[Difference]:
        file = self.hospital.state / FILE
        if not file.exists():
            return [Difference("outbox", f"{file}: {self._unknown(one)}") for one in self.anchors.values()]
        outbox = Outbox(file)
        try:
            return [*self._batches(outbox), *self._pictures(outbox)]
        finally:
            outbox.close()

    def _batches(self, outbox: Outbox) -> Iterator[Difference]:
        known = set()
        for root in outbox.roots():
            known.add(root)
            batch = outbox.batch(root)
            if manifest.parse(batch.manifest).domain != self.domain:
                continue
            anchor = self.anchors.get(root)
            if batch.state == "confirmed" and anchor is None:
                yield Difference("chain", f"batch 0x{root.hex()}: confirmed in block {batch.block}, not on the chain")
            elif batch.state == "confirmed" and anchor is not None and _anchor_of(batch) != _seen(anchor):
                yield Difference("chain", f"batch 0x{root.hex()}: {_anchor_of(batch)} here, {_seen(anchor)} there")
        for root, anchor in self.anchors.items():
            if root not in known:
                yield Difference("outbox", f"{outbox.path}: {self._unknown(anchor)}")

    def _pictures(self, outbox: Outbox) -> Iterator[Difference]:
        reader = load_reader_key(self.hospital)
        seen: Counter[bytes] = Counter()
        for job in outbox.jobs():
            item = outbox.item(job)
            if item.state != "confirmed":
                self.waiting += 1
                continue
            if item.signed is None or item.released_hash is None:
                yield Difference("outbox", f"job {job}: confirmed without a record")
                continue
            self.confirmed += 1
            seen[item.released_hash] += 1
            yield from self._record(job, item.signed)
            yield from self._objects(job, item.signed, reader)
        for released, times in seen.items():
            if times > 1:
                yield Difference("outbox", f"released picture 0x{released.hex()}: {times} records")

    def _record(self, job: str, signed: SignedRecord) -> Iterator[Difference]:
        leaf = signed.record.leaf(self.domain)
        found = [one for one in self.index.by_leaf(leaf) if one.anchor.owner == signed.record.owner]
        if len(found) != 1:
            yield Difference("chain", f"job {job}: record 0x{leaf.hex()} is anchored {len(found)} times, not once")
        elif found[0].signature != signed.signature:
            yield Difference("manifest", f"job {job}: record 0x{leaf.hex()} has another signature there")

    def _objects(self, job: str, signed: SignedRecord, reader: EccKey) -> Iterator[Difference]:
        record = signed.record
        try:
            self.store.get(record.evidence_cid)
            sealed = self.store.get(record.bundle_cid) if record.bundle_cid else b""
        except StoreError as error:
            yield Difference("store", f"job {job}: {error}")
            return
        if not sealed:
            return
        try:
            wraps = self.wraps.load(record.bundle_cid)
        except SealError:
            self.erased += 1
            return
        except RecordError as error:
            yield Difference("bundle", f"job {job}: {error}")
            return
        try:
            bundle.open(sealed, wraps, reader)
        except LedgerError as error:
            yield Difference("bundle", f"job {job}: {error}")
            return
        self.opened += 1

    def _unknown(self, anchor: Anchor) -> str:
        return (
            f"{self.hospital.name} has anchored batch {_canonical.to_hex(anchor.root)} in block {anchor.block}, of "
            "which it knows nothing: was the state folder restored from a backup, or has somebody else its key?"
        )


def _anchor_of(batch: Batch) -> tuple[str, int, str | None, int | None]:
    return batch.cid, batch.count, batch.tx_hash, batch.block


def _seen(anchor: Anchor) -> tuple[str, int, str | None, int]:
    return anchor.cid, anchor.count, anchor.tx_hash, anchor.block
