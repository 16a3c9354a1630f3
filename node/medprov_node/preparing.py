"""A picture's way to its signed record: read, draw, mark, seal. Needs neither chain nor store.

Every step is a row in the hospital's outbox before its result is used, and the marked picture waits in the hospital's
state folder, so doing it again after a crash goes on where it stopped: nothing is drawn or sealed twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from Crypto.PublicKey.ECC import EccKey

from medprov_ledger import bundle, cid, eip712, evidence, sealing
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import ChainError
from medprov_ledger.keys import load_reader_key, load_signer, reader_public
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.outbox import FILE, Item, Outbox
from medprov_ledger.record import Record
from medprov_ledger.signer import Account
from medprov_node import outputs
from medprov_node.attributes import Description, describe
from medprov_node.claims import marked_by
from medprov_node.connect import Ledger
from medprov_node.errors import MarkedBeforeError, MarkError, RegionError, StateError
from medprov_node.held import Held, HeldFolder, exclusive
from medprov_node.region import Chooser, Chosen, Order
from medprov_watermark import features, media
from medprov_watermark.errors import AlreadyMarkedError, EmbedError
from medprov_watermark.hashing import content_hash, perceptual_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.key_file import read_key
from medprov_watermark.payload import Payload
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import STRICT, DualWatermarker

HELD = "held"
"""Folder in a hospital's state folder."""


@dataclass(frozen=True)
class Desk:
    """All that marking needs.

    Parameters
    ----------
    config : Config
    hospital : HospitalConfig
    account : LocalAccount or Signer
    reader : EccKey
    domain : Domain
        What signatures are bound to.
    ledger : Ledger or None
        None where the chain is away: then nobody can say whose mark a picture carries already.
    watermarker : DualWatermarker
    outbox : Outbox
    held : HeldFolder
    wraps : WrapFolder
    policy : mapping
    regions : Chooser
    quick : bool
    """

    config: Config
    hospital: HospitalConfig
    account: Account
    reader: EccKey
    domain: eip712.Domain
    ledger: Ledger | None
    watermarker: DualWatermarker
    outbox: Outbox
    held: HeldFolder
    wraps: bundle.WrapFolder
    policy: Mapping[str, Any]
    regions: Chooser
    quick: bool


@dataclass(frozen=True)
class Prepared:
    """A picture whose evidence and bundle are sealed and whose record is signed.

    Parameters
    ----------
    source, target : Path
    cover : bytes
        32 bytes, content hash of the cover.
    item : Item
        Its row in the outbox.
    pixels_bits : int
    region : Chosen
    milliseconds : dict of str to float
    """

    source: Path
    target: Path
    cover: bytes
    item: Item
    pixels_bits: int
    region: Chosen
    milliseconds: dict[str, float]


def load_watermarker(config: Config) -> DualWatermarker:
    """The weights that ship, with the consortium's key if the configuration names one."""
    return DualWatermarker.load(key=read_key(config.key_file)) if config.key_file else DualWatermarker.load()


@contextmanager
def open_desk(
    config: Config,
    hospital: HospitalConfig,
    ledger: Ledger | None,
    watermarker: DualWatermarker,
    policy: Mapping[str, Any] | None = None,
    roi: Order | None = None,
    *,
    quick: bool = False,
    waiting: Callable[[], None] | None = None,
) -> Iterator[Desk]:
    """A hospital's desk, for one marking command at a time.

    Parameters
    ----------
    config : Config
    hospital : HospitalConfig
    ledger : Ledger or None
    watermarker : DualWatermarker
    policy, roi, quick
        As for :func:`medprov_node.mark.mark_files`.
    waiting : callable or None
        Called once where another command is marking.

    Raises
    ------
    NodeError, LedgerError
    """
    account, reader = load_signer(hospital), load_reader_key(hospital)
    with exclusive(hospital.state, waiting=waiting):
        outbox = Outbox(hospital.state / FILE)
        try:
            yield Desk(
                config=config,
                hospital=hospital,
                account=account,
                reader=reader,
                domain=eip712.domain(config.chain_id, config.registry_address),
                ledger=ledger,
                watermarker=watermarker,
                outbox=outbox,
                held=HeldFolder(hospital.state / HELD),
                wraps=bundle.WrapFolder(hospital.state / bundle.FOLDER),
                policy=dict(policy or {}),
                regions=Chooser(roi or Order()),
                quick=quick,
            )
        finally:
            outbox.close()


def prepare(desk: Desk, source: Path, target: Path, taken: Collection[str]) -> Prepared:
    """Take one picture to the point where its record is signed and waits for store and chain.

    Parameters
    ----------
    desk : Desk
    source, target : Path
    taken : collection of str
        Jobs that are not to be gone on with: the same picture is then marked anew.

    Raises
    ------
    NodeError, WatermarkError, LedgerError
    """
    spent: dict[str, float] = {}
    with timed(spent, "read"):
        pixels = media.read(source)
        about = describe(source, pixels)
        cover = content_hash(pixels.array)
    with timed(spent, "region"):
        region = desk.regions.choose(source, pixels)
    item, held = _claim(desk, _name(desk, cover, about, region), taken)
    with timed(spent, "mark"):
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
    with timed(spent, "seal"):
        if item.state == "marked":
            item = _seal(desk, item, pixels, held, payload, about)
    return Prepared(source, target, cover, item, pixels.bits, region, spent)


def job_name(desk: Desk, source: Path) -> str:
    """What all jobs of this picture, marked in this way, begin with.

    Raises
    ------
    NodeError, WatermarkError
    """
    pixels = media.read(source)
    about, region = describe(source, pixels), desk.regions.choose(source, pixels)
    return _name(desk, content_hash(pixels.array), about, region)


def _name(desk: Desk, cover: bytes, about: Description, region: Chosen) -> str:
    identity: tuple[bytes, ...] = (desk.config.federation_id, desk.domain.separator, desk.watermarker.model, cover)
    # a picture that waits with another region or key is another job: it must not leave in place of this one
    identity += (about.digest, region.digest, desk.watermarker.key_id)
    return hashlib.sha3_256(b"".join(identity)).hexdigest()


def _claim(desk: Desk, name: str, taken: Collection[str]) -> tuple[Item, Held | None]:
    """The outbox's row for a picture: the one an interrupted call left, otherwise a new one.

    The same picture may be marked any number of times; each time is a record of its own.
    """
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


def _mark(desk: Desk, source: Path, pixels: Pixels, item: Item, region: Chosen) -> Held:
    def sign(mark: ImageMark) -> bytes:
        return eip712.sign_image_mark(mark, desk.domain, desk.account)

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
        who = _marked_by(desk, pixels)
        if desk.watermarker.integrity(pixels.array).state == "intact":
            advice = "to mark it anew, restore its cover first ('medprov-node restore')"
        else:
            advice = "it was changed since, so its cover cannot be restored: mark the picture it was made from"
        raise MarkedBeforeError(f"{source}: marked already {who}; {advice}") from None
    except EmbedError as error:
        kind = RegionError if region.mode == STRICT else MarkError
        raise kind(f"{source}: {error}") from error
    return Held.of(marked)


def _marked_by(desk: Desk, pixels: Pixels) -> str:
    if desk.ledger is not None:
        try:
            return marked_by(pixels.array, desk.watermarker, desk.ledger, desk.config)
        except ChainError:
            pass
    return "(by whom, the chain can say, which does not answer now)"


def _seal(desk: Desk, item: Item, pixels: Pixels, held: Held, payload: Payload, about: Description) -> Item:
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
    signed = SignedRecord(record, eip712.sign_record(record, desk.domain, desk.account))
    return desk.outbox.set_bundled(item.job, signed, sealed_evidence, sealed_bundle)


def milliseconds(started: float) -> float:
    """Since a value of ``time.perf_counter``."""
    return round(1000 * (time.perf_counter() - started), 1)


@contextmanager
def timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the block takes."""
    started = time.perf_counter()
    yield
    spent[stage] = milliseconds(started)
