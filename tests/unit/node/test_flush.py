from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from PIL import Image

from medprov_ledger import manifest
from medprov_ledger.errors import ChainAwayError, RecordError, StoreError
from medprov_ledger.outbox import FILE, Outbox
from medprov_ledger.registry import Registry
from medprov_ledger.store import BlockStore
from medprov_node import flush as module
from medprov_node.flush import Pass, Rule, flush, watch
from medprov_node.queueing import WAITING, finished, queue_files
from medprov_watermark import media
from medprov_watermark.hashing import content_hash


class Crash(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


def hospital_a(house):
    return house.config.hospital("hospital-a")


def outbox(house):
    return Outbox(hospital_a(house).state / FILE)


def run(house, rule=None, **more):
    return flush(hospital_a(house), house.config, rule, ledger=house.ledger, **more)


@pytest.fixture
def queued(house, quick, tmp_path, phantom):
    """Three pictures in the queue."""
    jobs = []
    for number in range(3):
        source = tmp_path / f"scan{number}.png"
        Image.fromarray(phantom(64, seed=number)).save(source)
        jobs.append((source, tmp_path / "out" / source.name))
    return queue_files(jobs, hospital_a(house), house.config, watermarker=quick, ledger=house.ledger)


def written(house, deliveries) -> list[bool]:
    box = outbox(house)
    found = []
    for one in deliveries:
        try:
            found.append(content_hash(media.read(one.target).array) == box.item(one.job).released_hash)
        except media.MediaError:
            found.append(False)
    return found


def test_everything_is_stored_anchored_as_one_batch_and_written(house, queued) -> None:
    assert run(house) == Pass(stored=3, anchored=1, delivered=3, lost=0, waiting=0, problems=())
    assert written(house, queued) == [True] * 3
    assert house.anchors() == 1
    assert list((hospital_a(house).state / WAITING).iterdir()) == []
    assert run(house) == Pass(0, 0, 0, 0, 0, ())


def test_a_batch_is_sent_when_it_is_full(house, queued) -> None:
    now = queued[0].queued
    done = run(house, Rule(count=2, age=60.0), now=lambda: now + 1)
    assert (done.anchored, done.delivered, done.waiting, done.problems) == (1, 2, 1, ())
    assert outbox(house).batches()[0].count == 2


def test_batches_that_are_due_are_sent_together(house, queued, monkeypatch) -> None:
    sent: list[int] = []
    together, alone = Registry.anchor_batches, Registry.anchor_batch
    monkeypatch.setattr(
        Registry, "anchor_batches", lambda self, some, by: sent.append(len(some)) or together(self, some, by)
    )
    monkeypatch.setattr(Registry, "anchor_batch", lambda self, *a: sent.append(1) or alone(self, *a))
    done = run(house, Rule(count=1, age=60.0))
    assert sent == [3] and (done.anchored, done.delivered, done.problems) == (3, 3, ())
    assert written(house, queued) == [True] * 3 and house.anchors() == 3


def test_what_fails_together_is_finished_alone(house, queued, monkeypatch) -> None:
    monkeypatch.setattr(Registry, "anchor_batches", lambda self, some, by: [ChainAwayError("away")] * len(some))
    done = run(house, Rule(count=1, age=60.0))
    assert (done.anchored, done.delivered, done.problems) == (3, 3, ()) and house.anchors() == 3


def test_after_a_crash_between_building_and_sending_all_are_finished(house, queued, monkeypatch) -> None:
    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "anchor_batches", crash)
        with pytest.raises(Crash):
            run(house, Rule(count=1, age=60.0))
    assert run(house).problems == () and written(house, queued) == [True] * 3 and house.anchors() == 3


@pytest.mark.parametrize(("later", "sent"), [(59, 0), (61, 1), (-1, 1)], ids=["young", "old", "clock set back"])
def test_a_batch_that_is_not_full_is_sent_by_age(house, queued, later, sent) -> None:
    now = min(one.queued for one in queued) + later
    assert run(house, Rule(count=10, age=60.0), now=lambda: now).anchored == sent


@pytest.mark.parametrize("values", [{"count": 0}, {"count": manifest.MAX_RECORDS + 1}, {"age": -1.0}])
def test_a_rule_without_sense_is_refused(values) -> None:
    with pytest.raises(RecordError):
        Rule(**values)


def test_while_the_store_is_away_everything_waits_and_the_reason_is_told(house, queued, monkeypatch) -> None:
    def away(self, data):
        raise StoreError("store: does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(BlockStore, "put", away)
        assert run(house) == Pass(0, 0, 0, 0, 3, ("store: does not answer",))
    assert run(house).delivered == 3 and house.anchors() == 1


def test_while_the_chain_is_away_pictures_are_stored_and_wait(house, queued, monkeypatch) -> None:
    def away(self, *_):
        raise ChainAwayError("chain: does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "anchor_batch", away)
        done = run(house)
        assert (done.stored, done.delivered, done.waiting, done.problems) == (3, 0, 3, ("chain: does not answer",))
    assert run(house).delivered == 3 and house.anchors() == 1


def test_without_a_connection_pictures_are_stored(house, queued) -> None:
    done = flush(hospital_a(house), house.config)
    assert (done.stored, done.delivered, done.waiting) == (3, 0, 3) and "no chain answers" in done.problems[0]
    assert outbox(house).counts()["stored"] == 3


def test_without_a_connection_what_is_confirmed_is_written_all_the_same(house, queued, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "_deliver", lambda self, now: 0)
        assert run(house).waiting == 3
    done = flush(hospital_a(house), house.config)
    assert done.delivered == 3 and "no chain answers" in done.problems[0]


@pytest.mark.parametrize("what", ["membership", "model"])
def test_nothing_is_anchored_that_the_federation_does_not_allow(house, queued, monkeypatch, what) -> None:
    federation = type(house.ledger.federation)
    name = "is_member" if what == "membership" else "is_released"
    monkeypatch.setattr(federation, name, lambda self, *_: False)
    done = run(house)
    assert done.waiting == 3 and house.anchors() == 0
    assert ("no member" if what == "membership" else "not released") in done.problems[0]


def test_an_output_whose_name_is_taken_waits_and_the_others_are_written(house, queued, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scan1.png").write_bytes(b"mine")
    done = run(house)
    assert (done.delivered, done.waiting) == (2, 1) and "scan1.png: the file exists already" in done.problems[0]
    assert (tmp_path / "out" / "scan1.png").read_bytes() == b"mine"
    (tmp_path / "out" / "scan1.png").unlink()
    assert run(house).delivered == 1
    assert written(house, queued) == [True] * 3


def test_a_waiting_output_that_was_damaged_is_not_written(house, queued) -> None:
    finished(hospital_a(house), queued[0]).write_bytes(b"noise")
    done = run(house)
    assert (done.delivered, done.waiting) == (2, 1) and "damaged or gone" in done.problems[0]
    assert written(house, queued) == [False, True, True]


STEPS = ["set_stored", "add_batch", "set_anchored", "set_confirmed", "set_delivered"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_after_a_crash_the_next_pass_goes_on(house, queued, monkeypatch, step, after) -> None:
    real = getattr(Outbox, step)

    def crash(self, *arguments):
        if after:
            real(self, *arguments)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, step, crash)
        with pytest.raises(Crash):
            run(house)
    assert run(house).problems == ()
    assert written(house, queued) == [True] * 3
    assert house.anchors() == 1 and outbox(house).waiting() == 0


def test_a_batch_that_the_chain_has_lost_is_anchored_again(house, queued, monkeypatch) -> None:
    run(house)
    real = Registry.anchors
    root = outbox(house).batches()[0].root
    sent = []
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "anchors", lambda self, *a: [one for one in real(self, *a) if one.root != root])
        patch.setattr(module.batch, "resume", lambda *_: sent.append(outbox(house).batch(root).state) or 0)
        assert run(house).lost == 1
    assert sent == ["built"]
    assert run(house).problems == () and outbox(house).batch(root).state == "confirmed"


def test_looking_back_can_be_left_out(house, queued, monkeypatch) -> None:
    run(house)
    monkeypatch.setattr(Registry, "anchors", lambda *_: pytest.fail("the chain was asked for all"))
    assert run(house, look_back=False).problems == ()


def test_without_looking_back_a_chain_that_forgot_its_newest_batch_is_noticed(house, queued, monkeypatch) -> None:
    run(house)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "anchors", lambda *_: [])
        patch.setattr(Registry, "anchor", lambda *_, **__: None)
        patch.setattr(module.batch, "resume", lambda *_: 0)
        assert run(house, look_back=False).lost == 1


def test_watching_passes_until_it_is_stopped(house, queued, monkeypatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    stop, seen = threading.Event(), []

    def tell(done: Pass) -> None:
        seen.append(done)
        if len(seen) == 3:
            stop.set()

    watch(hospital_a(house), house.config, Rule(count=3), stop, tell, ledger=house.ledger)
    assert [one.delivered for one in seen] == [3, 0, 0]


def test_watching_waits_longer_while_there_is_trouble(house, monkeypatch) -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            if len(waits) == 8:
                self.set()
            return self.is_set()

    trouble = replace(Pass(0, 0, 0, 0, 1, ("away",)))
    backs: list[bool] = []
    monkeypatch.setattr(module, "flush", lambda *_, look_back, **__: backs.append(look_back) or trouble)
    watch(hospital_a(house), house.config, Rule(), Stop(), lambda _: None)
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] and all(backs)
