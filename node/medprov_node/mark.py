"""Mark pictures: read, mark, seal, store, anchor as one batch, and only then let the marked pictures out.

Every step is a row in the hospital's outbox before its result is used, and the marked picture waits in the hospital's
state folder until the anchor is confirmed. Running the same command again after a crash goes on where it stopped:
nothing is drawn, sealed or anchored twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.outbox import Item
from medprov_ledger.registry import Anchor
from medprov_node import batch, connect, outputs
from medprov_node.connect import Ledger
from medprov_node.errors import MarkError, RegionError, StateError
from medprov_node.held import ANCHORING, exclusive, held_hashes
from medprov_node.mark_result import MarkResult
from medprov_node.outputs import Job
from medprov_node.preparing import HELD, Desk, Prepared, load_watermarker, milliseconds, open_desk, prepare, timed
from medprov_node.region import Order
from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.hashing import content_hash
from medprov_watermark.watermarker import DualWatermarker

__all__ = ["MarkResult", "Order", "Progress", "Refused", "mark_files"]

Progress = Callable[[str, int, int], None]
"""Called with a stage, pictures done and pictures in all. The stages are ``"check"``, ``"wait"`` (only where another
command is marking for the hospital), ``"mark"``, ``"anchor"`` and ``"write"``."""

Refused = Callable[[RegionError], None]
"""Called with what is wrong with a picture that is left out because of its region of interest."""


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
    watermarker = watermarker or load_watermarker(config)
    connect.check(ledger, house, watermarker.model)
    waiting = lambda: say("wait", 0, len(jobs))  # noqa: E731
    with open_desk(config, house, ledger, watermarker, policy, roi, quick=quick, waiting=waiting) as desk:
        return _mark_all(desk, ledger, jobs, say, make_folders, refused)


def _mark_all(
    desk: Desk, ledger: Ledger, jobs: Sequence[Job], say: Progress, make_folders: bool, refused: Refused | None
) -> list[MarkResult]:
    total = len(jobs)
    with exclusive(desk.hospital.state, name=ANCHORING):
        batch.resume(desk.outbox, ledger, desk.account)
    # what waits in the queue for another output is not this call's
    queued = {delivery.job for delivery in desk.outbox.deliveries()}
    prepared: list[Prepared] = []
    for number, (source, target) in enumerate(jobs):
        say("mark", number, total)
        try:
            prepared.append(_stored(desk, ledger, source, target, queued | {done.item.job for done in prepared}))
        except RegionError as error:
            if refused is None:
                raise
            refused(error)
    if not prepared:
        return []
    say("anchor", 0, total)
    started = time.perf_counter()
    with exclusive(desk.hospital.state, name=ANCHORING):
        anchors = _anchor(desk, ledger, prepared)
    spent = milliseconds(started)
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


def _stored(desk: Desk, ledger: Ledger, source: Path, target: Path, taken: set[str]) -> Prepared:
    one = prepare(desk, source, target, taken)
    with timed(one.milliseconds, "store"):
        item = batch.store(desk.outbox, ledger.store, one.item) if one.item.state == "bundled" else one.item
    return replace(one, item=item)


def _anchor(desk: Desk, ledger: Ledger, prepared: Sequence[Prepared]) -> dict[bytes, Anchor]:
    waiting = [one.item for one in prepared if one.item.root is None]
    if waiting:
        batch.finish(desk.outbox, ledger, batch.build(desk.outbox, ledger, waiting).root, desk.account)
    anchors: dict[bytes, Anchor] = {}
    for one in prepared:
        root = desk.outbox.item(one.item.job).root
        if root is not None and root not in anchors:
            # also those that an interrupted call anchored: the chain is asked again before anything leaves
            anchors[root] = batch.finish(desk.outbox, ledger, root, desk.account)
    return anchors


def _release(desk: Desk, one: Prepared, item: Item, anchor: Anchor, make_folders: bool) -> MarkResult:
    """Write a picture whose anchor is confirmed, and read it back; not again where an interrupted call did it."""
    held = desk.held.load(item.job)
    if held is None or item.signed is None or item.payload is None or anchor.tx_hash is None:
        raise StateError(f"{desk.held.path}: job {item.job} has lost its picture; mark it again")
    with timed(one.milliseconds, "write"):
        pixels = media.read(one.source)
        if content_hash(pixels.array) != one.cover:
            raise MarkError(f"{one.source}: was changed while it was being marked; mark it again")
        if make_folders:
            outputs.make_folder(one.target.parent)
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
        record_id="0x" + record.leaf(desk.domain).hex(),
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
