"""Mark pictures: read, mark, seal, store, anchor as one batch, and only then let the marked pictures out.

Every step is a row in the hospital's outbox before its result is used, and the marked picture waits in the hospital's
state folder until the anchor is confirmed. Running the same command again after a crash goes on where it stopped:
nothing is drawn, sealed or anchored twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from Crypto.PublicKey.ECC import EccKey
from eth_account.signers.local import LocalAccount

from medprov_ledger import bundle, cid, eip712, evidence, sealing
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import RecordError
from medprov_ledger.keys import load_account, load_reader_key, reader_public
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.outbox import Item, Outbox
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor
from medprov_node import batch, connect, outputs
from medprov_node.attributes import Description, describe
from medprov_node.claims import marked_by
from medprov_node.connect import Ledger
from medprov_node.errors import MarkedBeforeError, MarkError, RegionError, StateError
from medprov_node.held import Held, HeldFolder, exclusive, held_hashes
from medprov_node.mark_result import MarkResult
from medprov_node.outputs import Job
from medprov_node.region import Chooser, Chosen, Order
from medprov_watermark import features, media
from medprov_watermark.errors import AlreadyMarkedError, EmbedError, MediaError
from medprov_watermark.hashing import content_hash, perceptual_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.key_file import read_key
from medprov_watermark.payload import Payload
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import STRICT, DualWatermarker

__all__ = ["MarkResult", "Order", "Progress", "Refused", "mark_files"]

OUTBOX, HELD, WRAPS = "outbox.sqlite", "held", "wraps"
"""Names in a hospital's state folder."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, pictures done and pictures in all. The stages are ``"check"``, ``"wait"`` (only where another
command is marking for the hospital), ``"mark"``, ``"anchor"`` and ``"write"``."""

Refused = Callable[[RegionError], None]
"""Called with what is wrong with a picture that is left out because of its region of interest."""


@dataclass(frozen=True)
class _Desk:
    """All that marking needs."""

    config: Config
    hospital: HospitalConfig
    account: LocalAccount
    reader: EccKey
    ledger: Ledger
    watermarker: DualWatermarker
    outbox: Outbox
    held: HeldFolder
    wraps: bundle.WrapFolder
    policy: Mapping[str, Any]
    regions: Chooser
    quick: bool


@dataclass(frozen=True)
class _Prepared:
    """A picture whose evidence and bundle are stored."""

    source: Path
    target: Path
    cover: bytes
    item: Item
    pixels_bits: int
    region: Chosen
    milliseconds: dict[str, float]


def mark_files(
    jobs: Sequence[Job],
    hospital: HospitalConfig | str | None,
    config: Config,
    progress: Progress | None = None,
    *,
    watermarker: DualWatermarker | None = None,
    ledger: Ledger | None = None,
    policy: Mapping[str, Any] | None = None,
    make_folders: bool = False,
    roi: Order | None = None,
    refused: Refused | None = None,
    quick: bool = False,
) -> list[MarkResult]:
    """Mark pictures for one hospital as one batch.

    Outputs, chain, store, membership and model are checked before any work. The outputs appear after the batch's anchor
    is confirmed and was read back; when anything fails before that, there is no output at all. An output that is there
    already is refused, unless it is the very picture that an interrupted call wrote for this job.

    Parameters
    ----------
    jobs : sequence of (Path, Path)
        Input and output of each picture.
    hospital : HospitalConfig, str or None
        Whose pictures; a name in `config`, or None where there is only one.
    config : Config
    progress : callable or None
    watermarker : DualWatermarker or None
        None loads the weights that ship, with the key that `config` names.
    ledger : Ledger or None
        None connects to what `config` names.
    policy : mapping or None
        JSON object for the evidence: what the hospital says about use. No personal data.
    make_folders : bool
        Make missing folders of outputs.
    roi : Order or None
        Regions of interest; None leaves them out of account.
    refused : callable or None
        Takes each picture whose region of interest is refused; the others are marked. None: the first one stops all.
    quick : bool
        Tune the marks in less time, see :meth:`medprov_watermark.watermarker.DualWatermarker.mark`.

    Returns
    -------
    list of MarkResult
        In the order of `jobs`, without those refused.

    Raises
    ------
    NodeError, WatermarkError, LedgerError
        One line that names the file or address, the reason, and what to do. Calling again goes on.
    """
    if not jobs:
        return []
    say = progress or (lambda stage, done, total: None)
    house = hospital if isinstance(hospital, HospitalConfig) else config.hospital(hospital)
    say("check", 0, len(jobs))
    outputs.check(jobs, make_folders=make_folders, written=held_hashes(house.state / HELD))
    ledger = ledger or connect.connect(config)
    watermarker = watermarker or _loaded(config)
    connect.check(ledger, house, watermarker.model)
    account, reader = load_account(house), load_reader_key(house)
    with exclusive(house.state, waiting=lambda: say("wait", 0, len(jobs))):
        outbox = Outbox(house.state / OUTBOX)
        try:
            held, wraps = HeldFolder(house.state / HELD), bundle.WrapFolder(house.state / WRAPS)
            regions = Chooser(roi or Order())
            about = dict(policy or {})
            parts = (config, house, account, reader, ledger, watermarker, outbox, held, wraps, about, regions, quick)
            desk = _Desk(*parts)
            return _mark_all(desk, jobs, say, make_folders, refused)
        finally:
            outbox.close()


def _loaded(config: Config) -> DualWatermarker:
    """The weights that ship, with the consortium's key if the configuration names one."""
    return DualWatermarker.load(key=read_key(config.key_file)) if config.key_file else DualWatermarker.load()


def _mark_all(
    desk: _Desk, jobs: Sequence[Job], say: Progress, make_folders: bool, refused: Refused | None
) -> list[MarkResult]:
    total = len(jobs)
    batch.resume(desk.outbox, desk.ledger, desk.account)
    prepared: list[_Prepared] = []
    for number, (source, target) in enumerate(jobs):
        say("mark", number, total)
        try:
            prepared.append(_prepare(desk, source, target, {done.item.job for done in prepared}))
        except RegionError as error:
            if refused is None:
                raise
            refused(error)
    if not prepared:
        return []
    say("anchor", 0, total)
    started = time.perf_counter()
    waiting = [one.item for one in prepared if one.item.root is None]
    if waiting:
        batch.finish(desk.outbox, desk.ledger, batch.build(desk.outbox, desk.ledger, waiting).root, desk.account)
    anchors: dict[bytes, Anchor] = {}
    for one in prepared:
        root = desk.outbox.item(one.item.job).root
        if root is not None and root not in anchors:
            # also those that an interrupted call anchored: the chain is asked again before anything leaves
            anchors[root] = batch.finish(desk.outbox, desk.ledger, root, desk.account)
    spent = _milliseconds(started)
    results = []
    for number, one in enumerate(prepared):
        say("write", number, total)
        item = desk.outbox.item(one.item.job)
        if item.root is None or item.state != "confirmed":
            raise StateError(f"{desk.outbox.path}: job {item.job} is {item.state} after anchoring; please report this")
        one.milliseconds["anchor"] = spent
        results.append(_release(desk, one, item, anchors[item.root], make_folders))
    # only now: a failure above must find every picture when the command is run again
    for one in prepared:
        desk.held.remove(one.item.job)
    say("write", total, total)
    return results


def _prepare(desk: _Desk, source: Path, target: Path, taken: set[str]) -> _Prepared:
    """Take one picture to the point where the store has its evidence and bundle."""
    spent: dict[str, float] = {}
    with _timed(spent, "read"):
        pixels = media.read(source)
        about = describe(source, pixels)
        cover = content_hash(pixels.array)
    with _timed(spent, "region"):
        region = desk.regions.choose(source, pixels)
    item, held = _claim(desk, cover, about, region, taken)
    with _timed(spent, "mark"):
        if held is None:
            held = _mark(desk, source, pixels, item, region)
            desk.held.save(item.job, held)
        payload = _payload(pixels, item)
        if item.state == "drawn":
            item = desk.outbox.set_marked(item.job, payload.data, held.marked_hash, held.released_hash)
    if item.released_hash != held.released_hash:
        raise StateError(f"{desk.held.path}: job {item.job} holds another picture than its record; remove it there")
    # before the anchor: another held picture's output was accepted so far
    outputs.check_vacant(target, (held.released_hash,))
    with _timed(spent, "seal"):
        if item.state == "marked":
            item = _seal(desk, item, pixels, held, payload, about)
    with _timed(spent, "store"):
        if item.state == "bundled":
            item = _store(desk, item)
    return _Prepared(source, target, cover, item, pixels.bits, region, spent)


def _claim(desk: _Desk, cover: bytes, about: Description, region: Chosen, taken: set[str]) -> tuple[Item, Held | None]:
    """The outbox's row for a picture: the one an interrupted call left, otherwise a new one.

    The same picture may be marked any number of times; each time is a record of its own.
    """
    identity: tuple[bytes, ...] = (
        desk.config.federation_id,
        desk.ledger.domain.separator,
        desk.watermarker.model,
        cover,
    )
    # a picture that waits with another region or key is another job: it must not leave in place of this one
    identity += (about.digest, region.digest, desk.watermarker.key_id)
    name = hashlib.sha3_256(b"".join(identity)).hexdigest()
    for generation in count(1):
        job = f"{name}-{generation}"
        if job in taken:
            continue
        item = desk.outbox.draw(job)
        # without its picture, a row beyond "drawn" is either done or given up
        if item.state == "drawn" or desk.held.has(job):
            return item, desk.held.load(job)
    raise AssertionError("count() does not end")


def _payload(pixels: Pixels, item: Item) -> Payload:
    return Payload(perceptual_hash(pixels.array), item.serial)


def _mark(desk: _Desk, source: Path, pixels: Pixels, item: Item, region: Chosen) -> Held:
    def sign(mark: ImageMark) -> bytes:
        return eip712.sign_image_mark(mark, desk.ledger.domain, desk.account)

    try:
        marked = desk.watermarker.mark(
            pixels.array,
            _payload(pixels, item),
            signer=sign,
            value_range=pixels.value_range,
            padding=pixels.padding,
            roi=region.mask,
            roi_mode=region.mode,
            quick=desk.quick,
        )
    except AlreadyMarkedError:
        who = marked_by(pixels.array, desk.watermarker, desk.ledger, desk.config)
        if desk.watermarker.integrity(pixels.array).state == "intact":
            advice = "to mark it anew, restore its cover first ('medprov-node restore')"
        else:
            advice = "it was changed since, so its cover cannot be restored: mark the picture it was made from"
        raise MarkedBeforeError(f"{source}: marked already {who}; {advice}") from None
    except EmbedError as error:
        kind = RegionError if region.mode == STRICT else MarkError
        raise kind(f"{source}: {error}") from error
    return Held.of(marked)


def _seal(desk: _Desk, item: Item, pixels: Pixels, held: Held, payload: Payload, about: Description) -> Item:
    """Seal evidence and bundle and sign the record, once."""
    keys = sealing.payload_keys(payload.data, desk.config.federation_id)
    height, width = held.image.shape[:2]
    proof = evidence.Evidence(
        height=height,
        width=width,
        channels=1 if held.image.ndim == 2 else 3,
        bits=pixels.bits,
        block=features.BLOCK,
        grid=features.exact_grid(held.image),
        features=features.ordinal_features(held.image),
        feature_version=features.VERSION,
        attribute_macs=evidence.attribute_macs(keys.evidence_key, about.attributes),
        policy=desk.policy,
    )
    sealed_evidence = evidence.seal(proof, keys, item.evidence_nonce)
    private = bundle.Bundle(held.salt, about.metadata, about.notes)
    readers = [reader_public(desk.reader)]
    sealed_bundle, wraps = bundle.seal(private, keys.record_key, readers, item.bundle_nonce)
    bundle_cid = cid.of(sealed_bundle)
    desk.wraps.save(bundle_cid, wraps)
    record = Record(
        key=keys.record_key,
        cover_hash=held.cover_hash,
        marked_hash=held.marked_hash,
        released_hash=held.released_hash,
        evidence_cid=cid.of(sealed_evidence),
        bundle_cid=bundle_cid,
        owner=desk.account.address,
        model=desk.watermarker.model,
        time=item.time,
    )
    signed = SignedRecord(record, eip712.sign_record(record, desk.ledger.domain, desk.account))
    return desk.outbox.set_bundled(item.job, signed, sealed_evidence, sealed_bundle)


def _store(desk: _Desk, item: Item) -> Item:
    if item.signed is None or item.evidence is None or item.bundle is None:
        raise StateError(f"{desk.outbox.path}: job {item.job} is incomplete; please report this")
    record = item.signed.record
    for data, name in ((item.evidence, record.evidence_cid), (item.bundle, record.bundle_cid)):
        stored = desk.ledger.store.put(data)
        if stored != name:
            raise RecordError(f"object {name}: the store calls it {stored}; check the store's settings")
    return desk.outbox.set_stored(item.job)


def _release(desk: _Desk, one: _Prepared, item: Item, anchor: Anchor, make_folders: bool) -> MarkResult:
    """Write a picture whose anchor is confirmed, and read it back; not again where an interrupted call did it."""
    held = desk.held.load(item.job)
    if held is None or item.signed is None or item.payload is None or anchor.tx_hash is None:
        raise StateError(f"{desk.held.path}: job {item.job} has lost its picture; mark it again")
    with _timed(one.milliseconds, "write"):
        pixels = media.read(one.source)
        if content_hash(pixels.array) != one.cover:
            raise MarkError(f"{one.source}: was changed while it was being marked; mark it again")
        if make_folders:
            _make_folder(one.target.parent)
        if not outputs.holds(one.target, (held.released_hash,)):
            try:
                media.write(one.target, held.image, pixels)
            except MediaError as error:
                raise MarkError(
                    f"{error}; its record is anchored and the marked picture kept, so the same command with another "
                    "output goes on"
                ) from error
            if not outputs.holds(one.target, (held.released_hash,)):
                one.target.unlink(missing_ok=True)
                raise MarkError(
                    f"{one.target}: did not keep every sample of the marked picture; write it as .png or .tif"
                )
    record = item.signed.record
    height, width = held.image.shape[:2]
    return MarkResult(
        input=one.source,
        output=one.target,
        hospital=desk.hospital.name,
        owner=record.owner,
        payload=item.payload.hex(),
        record_id="0x" + record.leaf(desk.ledger.domain).hex(),
        record_key="0x" + record.key.hex(),
        released_hash="0x" + record.released_hash.hex(),
        model="0x" + record.model.hex(),
        evidence_cid=record.evidence_cid,
        bundle_cid=record.bundle_cid,
        manifest_cid=anchor.cid,
        root="0x" + anchor.root.hex(),
        transaction=anchor.tx_hash,
        block=anchor.block,
        time=anchor.time,
        height=height,
        width=width,
        channels=1 if held.image.ndim == 2 else 3,
        bits=one.pixels_bits,
        psnr=held.psnr,
        gain=held.gain,
        short=held.short,
        roi_mode=held.roi_mode,
        roi_source=one.region.source,
        roi_share=round(held.roi_share, 4),
        milliseconds=one.milliseconds,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarkError(f"{folder}: cannot be made ({error.strerror}); choose another place") from None


def _milliseconds(started: float) -> float:
    return round(1000 * (time.perf_counter() - started), 1)


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent[stage] = _milliseconds(started)
