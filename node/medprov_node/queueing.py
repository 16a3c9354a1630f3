"""The hospital's queue: pictures are marked and sealed now, and anchored and written once chain and store answer.

Marking for the queue needs neither chain nor store. The finished output waits in the hospital's state folder, so the
input may go away meanwhile; :mod:`medprov_node.flush` takes it from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import ChainAwayError, StoreError
from medprov_ledger.outbox import Delivery
from medprov_node import connect, outputs
from medprov_node.connect import Ledger
from medprov_node.errors import MarkError, OutputError, RegionError, StateError
from medprov_node.held import held_hashes, make_private
from medprov_node.mark import Progress, Refused
from medprov_node.outputs import Job
from medprov_node.preparing import HELD, Desk, Prepared, job_name, load_watermarker, open_desk, prepare
from medprov_node.region import Order
from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.hashing import content_hash
from medprov_watermark.watermarker import DualWatermarker

WAITING = "waiting"
"""Folder in a hospital's state folder: finished outputs, each in a folder named after its job."""


def queue_files(
    jobs: Sequence[Job],
    hospital: HospitalConfig,
    config: Config,
    progress: Progress | None = None,
    *,
    watermarker: DualWatermarker | None = None,
    ledger: Ledger | None = None,
    policy: Mapping[str, Any] | None = None,
    roi: Order | None = None,
    refused: Refused | None = None,
    quick: bool = False,
) -> list[Delivery]:
    """Mark pictures and queue them; doing it again changes nothing and goes on where a crash stopped it.

    Membership and model are checked where the chain answers, and in any case before anything is anchored.

    Parameters
    ----------
    jobs : sequence of (Path, Path)
        Input and output of each picture. Folders of outputs are made when the outputs are written.
    hospital : HospitalConfig
    config : Config
    progress, watermarker, policy, roi, refused, quick
        As for :func:`medprov_node.mark.mark_files`.
    ledger : Ledger or None
        None tries to connect to what `config` names, and does without where it does not answer.

    Returns
    -------
    list of Delivery
        In the order of `jobs`, without those refused.

    Raises
    ------
    NodeError, WatermarkError, LedgerError
        One line. What was queued before stays so.
    """
    say = progress or (lambda stage, done, total: None)
    watermarker = watermarker or load_watermarker(config)
    ledger = ledger or _reached(config)
    if ledger is not None:
        ledger = _checked(ledger, hospital, watermarker.model)

    def waiting() -> None:
        say("wait", 0, len(jobs))

    with open_desk(config, hospital, ledger, watermarker, policy, roi, quick=quick, waiting=waiting) as desk:
        say("check", 0, len(jobs))
        make_private(hospital.state / WAITING)
        promised = {delivery.target: delivery for delivery in desk.outbox.deliveries()}
        for delivery in promised.values():
            # a crash may have come between the queue's row and this
            desk.held.remove(delivery.job)
        done = {job: _done(desk, job, promised) for job in jobs}
        fresh = [job for job, delivery in done.items() if delivery is None]
        outputs.check(fresh, make_folders=True, written=held_hashes(hospital.state / HELD))
        taken = {delivery.job for delivery in promised.values()}
        for number, job in enumerate(fresh):
            say("mark", number, len(fresh))
            try:
                delivery = _enqueue(desk, prepare(desk, *job, taken))
            except RegionError as error:
                if refused is None:
                    raise
                refused(error)
                continue
            taken.add(delivery.job)
            done[job] = delivery
    say("write", len(jobs), len(jobs))
    return [delivery for delivery in done.values() if delivery is not None]


def finished(hospital: HospitalConfig, delivery: Delivery) -> Path:
    """Where a queued picture's output waits."""
    return hospital.state / WAITING / delivery.job / Path(delivery.target).name


def clear(hospital: HospitalConfig, job: str) -> None:
    """Remove a picture's waiting output, once it was written where it belongs; twice is once."""
    with suppress(FileNotFoundError):
        try:
            shutil.rmtree(hospital.state / WAITING / job)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StateError(f"{error.filename}: cannot be removed ({error.strerror}); remove it by hand") from None


def _reached(config: Config) -> Ledger | None:
    try:
        return connect.connect(config)
    except ChainAwayError:
        return None


def _checked(ledger: Ledger, hospital: HospitalConfig, model: bytes) -> Ledger | None:
    """The ledger, or None where it goes away meanwhile; a store that is away is no matter here."""
    try:
        connect.check(ledger, hospital, model)
    except StoreError:
        return ledger
    except ChainAwayError:
        return None
    return ledger


def _done(desk: Desk, job: Job, promised: Mapping[str, Delivery]) -> Delivery | None:
    """The delivery that an earlier call has made for this picture and this output, whether it waits or is written."""
    source, target = job
    name = os.path.abspath(target)
    before = promised.get(name)
    if before is not None:
        if before.job.rpartition("-")[0] != job_name(desk, source):
            raise OutputError(
                f"{target}: the marked form of {before.source} waits for this name; choose another output for {source}"
            )
        return before
    for past in desk.outbox.delivered_to(name) if target.exists() else ():
        item = desk.outbox.item(past.job)
        if past.job.rpartition("-")[0] == job_name(desk, source) and outputs.holds(
            target, (item.released_hash or b"",)
        ):
            return past
    return None


def _enqueue(desk: Desk, one: Prepared) -> Delivery:
    """Write the finished output into the state folder, read it back, then give it its row."""
    held = desk.held.load(one.item.job)
    if held is None:
        raise StateError(f"{desk.held.path}: job {one.item.job} has lost its picture; mark it again")
    folder = desk.hospital.state / WAITING / one.item.job
    make_private(folder)
    file = folder / one.target.name
    if not outputs.holds(file, (held.released_hash,)):
        pixels = media.read(one.source)
        if content_hash(pixels.array) != one.cover:
            raise MarkError(f"{one.source}: was changed while it was being marked; mark it again")
        try:
            media.write(file, held.image, pixels, overwrite=True)
        except MediaError as error:
            raise MarkError(f"{error}; the marked picture is kept, the same command goes on") from error
        if not outputs.holds(file, (held.released_hash,)):
            raise MarkError(f"{one.target}: does not keep every sample of the marked picture; write .png or .tif")
    delivery = desk.outbox.enqueue(one.item.job, os.path.abspath(one.source), os.path.abspath(one.target))
    desk.held.remove(one.item.job)
    return delivery
