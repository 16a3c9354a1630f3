from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprov_ledger.errors import RecordError
from medprov_ledger.outbox import FILE, Outbox
from medprov_node import mark, preparing, queueing
from medprov_node.errors import MarkError, NotAllowedError, OutputError, RegionError
from medprov_node.flush import flush
from medprov_node.preparing import HELD
from medprov_node.queueing import WAITING, clear, finished, queue_files
from medprov_node.region import Order
from medprov_watermark import media
from medprov_watermark.hashing import content_hash


class Crash(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


def hospital_a(house):
    return house.config.hospital("hospital-a")


def queue(house, quick, jobs, **more):
    more.setdefault("ledger", house.ledger)
    return queue_files(jobs, hospital_a(house), house.config, watermarker=quick, **more)


def outbox(house):
    return Outbox(hospital_a(house).state / FILE)


def test_a_queued_picture_is_marked_and_signed_but_neither_anchored_nor_written(
    house, quick, picture, tmp_path
) -> None:
    target = tmp_path / "out" / "scan.png"
    (queued,) = queue(house, quick, [(picture, target)])
    assert (queued.source, queued.target, queued.done) == (str(picture), str(target), None)
    assert not target.parent.exists() and house.anchors() == 0
    item = outbox(house).item(queued.job)
    assert item.state == "bundled" and item.signed is not None
    waiting = finished(hospital_a(house), queued)
    assert content_hash(media.read(waiting).array) == item.released_hash
    assert list((hospital_a(house).state / HELD).iterdir()) == []


def test_neither_chain_nor_store_need_answer(house, quick, picture, tmp_path) -> None:
    # the configuration of these tests names a port on which nothing listens
    store = replace(house.config.store, path=Path("/proc/no such folder"))
    config = replace(house.config, store=store)
    jobs = [(picture, tmp_path / "out.png")]
    (queued,) = queue_files(jobs, hospital_a(house), config, watermarker=quick)
    assert outbox(house).item(queued.job).state == "bundled"


def test_a_store_that_is_away_does_not_stop_marking_where_the_chain_answers(house, quick, picture, tmp_path) -> None:
    store = type(house.ledger.store)(Path("/proc/no such folder"))
    ledger = replace(house.ledger, store=store)
    assert len(queue(house, quick, [(picture, tmp_path / "out.png")], ledger=ledger)) == 1


def test_a_model_that_is_not_released_is_refused_where_the_chain_answers(house, quick, picture, tmp_path) -> None:
    quick.model = bytes(32)
    with pytest.raises(NotAllowedError, match="not released"):
        queue(house, quick, [(picture, tmp_path / "out.png")])
    assert quick.marked == 0


def test_queueing_twice_is_queueing_once(house, quick, picture, tmp_path) -> None:
    jobs = [(picture, tmp_path / "out.png")]
    assert queue(house, quick, jobs) == queue(house, quick, jobs)
    assert quick.marked == 1


def test_the_same_command_after_its_output_was_written_changes_nothing(house, quick, picture, tmp_path) -> None:
    jobs = [(picture, tmp_path / "out.png")]
    (queued,) = queue(house, quick, jobs)
    flush(hospital_a(house), house.config, ledger=house.ledger)
    (again,) = queue(house, quick, jobs)
    assert again.job == queued.job and again.done is not None and quick.marked == 1


def test_an_output_that_is_something_else_by_now_is_refused(house, quick, picture, tmp_path) -> None:
    jobs = [(picture, tmp_path / "out.png")]
    queue(house, quick, jobs)
    flush(hospital_a(house), house.config, ledger=house.ledger)
    (tmp_path / "out.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        queue(house, quick, jobs)


def test_the_same_picture_for_two_outputs_is_marked_twice(house, quick, picture, tmp_path) -> None:
    (one,) = queue(house, quick, [(picture, tmp_path / "a.png")])
    (two,) = queue(house, quick, [(picture, tmp_path / "b.png")])
    assert one.job != two.job and quick.marked == 2


def test_another_picture_for_a_name_that_is_promised_is_refused(house, quick, picture, tmp_path, phantom) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(phantom(seed=9)).save(other)
    queue(house, quick, [(picture, tmp_path / "out.png")])
    with pytest.raises(OutputError, match=r"scan\.png waits for this name"):
        queue(house, quick, [(other, tmp_path / "out.png")])
    assert quick.marked == 1


def test_a_picture_that_waits_is_not_what_a_later_mark_writes(house, quick, picture, tmp_path) -> None:
    (queued,) = queue(house, quick, [(picture, tmp_path / "later.png")])
    (done,) = mark.mark_files(
        [(picture, tmp_path / "now.png")], hospital_a(house), house.config, watermarker=quick, ledger=house.ledger
    )
    assert (tmp_path / "now.png").exists() and not (tmp_path / "later.png").exists()
    assert outbox(house).item(queued.job).state == "bundled"
    assert done.released_hash != "0x" + outbox(house).item(queued.job).released_hash.hex()


def test_the_input_may_go_away_once_it_is_queued(house, quick, picture, tmp_path) -> None:
    queue(house, quick, [(picture, tmp_path / "out.png")])
    picture.unlink()
    assert flush(hospital_a(house), house.config, ledger=house.ledger).delivered == 1


@pytest.mark.parametrize("step", ["set_marked", "set_bundled", "enqueue"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_after_a_crash_the_same_command_goes_on(house, quick, picture, tmp_path, monkeypatch, step, after) -> None:
    real = getattr(Outbox, step)

    def crash(self, *arguments):
        if after:
            real(self, *arguments)
        raise Crash

    jobs = [(picture, tmp_path / "out.png")]
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, step, crash)
        with pytest.raises(Crash):
            queue(house, quick, jobs)
    assert len(queue(house, quick, jobs)) == 1
    assert quick.marked == 1 and len(outbox(house).items()) == 1
    assert list((hospital_a(house).state / HELD).iterdir()) == []
    done = flush(hospital_a(house), house.config, ledger=house.ledger)
    assert (done.delivered, done.waiting, done.problems) == (1, 0, ())


def test_a_full_disk_stops_with_the_file_s_name_and_the_same_command_goes_on(
    house, quick, picture, tmp_path, monkeypatch
) -> None:
    def full(path, *_, **__):
        raise queueing.MediaError(f"{path}: it cannot be written (no space left on device)")

    jobs = [(picture, tmp_path / "out.png")]
    with monkeypatch.context() as patch:
        patch.setattr(media, "write", full)
        with pytest.raises(MarkError, match=r"no space left on device.*same command goes on"):
            queue(house, quick, jobs)
    assert outbox(house).deliveries() == []
    queue(house, quick, jobs)
    assert quick.marked == 1


def test_a_picture_that_changes_meanwhile_is_refused(house, quick, picture, tmp_path, monkeypatch, phantom) -> None:
    real = queueing.prepare

    def prepare(desk, source, target, taken):
        done = real(desk, source, target, taken)
        Image.fromarray(phantom(seed=3)).save(source)
        return done

    monkeypatch.setattr(queueing, "prepare", prepare)
    with pytest.raises(MarkError, match="was changed while it was being marked"):
        queue(house, quick, [(picture, tmp_path / "out.png")])
    assert outbox(house).deliveries() == []


def test_a_refused_region_leaves_the_others(house, quick, picture, tmp_path, phantom) -> None:
    whole = tmp_path / "mask.png"
    Image.fromarray(np.full((128, 128), 255, np.uint8)).save(whole)
    refused: list[RegionError] = []
    queued = queue(house, quick, [(picture, tmp_path / "out.png")], roi=Order("strict", whole), refused=refused.append)
    assert queued == [] and "covers" in str(refused[0])


def test_clearing_twice_is_clearing_once(house, quick, picture, tmp_path) -> None:
    (queued,) = queue(house, quick, [(picture, tmp_path / "out.png")])
    for _ in range(2):
        clear(hospital_a(house), queued.job)
    assert list((hospital_a(house).state / WAITING).iterdir()) == []


def test_a_job_cannot_be_queued_before_it_is_signed(house) -> None:
    box = outbox_with_drawn(house)
    with pytest.raises(RecordError, match="no signed record"):
        box.enqueue("job", "/a", "/b")


def outbox_with_drawn(house):
    state = hospital_a(house).state
    preparing.HeldFolder(state / HELD)
    box = Outbox(state / FILE)
    box.draw("job")
    return box
