"""The outbox: durable rows before use, the same bytes at every retry, and no step out of order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import cid, eip712, outbox
from medprov_ledger.errors import RecordError
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.outbox import Item, Outbox
from medprov_ledger.record import Record

OWNER = Account.from_key(b"\x01" * 32)
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
ROOT = b"\x0f" * 32
PHASH = b"\xab" * 8


def signed(name: str) -> SignedRecord:
    hashes = [hashlib.sha256(f"{part} {name}".encode()).digest() for part in ("key", "cover", "marked", "released")]
    record = Record(*hashes, cid.of(b"sealed"), "", OWNER.address, b"\5" * 32, 1)  # type: ignore[call-arg,arg-type]
    return SignedRecord(record, eip712.sign_record(record, DOMAIN, OWNER))


def mark(box: Outbox, job: str) -> Item:
    record = signed(job).record
    return box.set_marked(job, PHASH + box.item(job).serial, record.marked_hash, record.released_hash)


def bring_to(box: Outbox, job: str, state: str) -> Item:
    """Take a job as far as `state`, at most to stored."""
    wanted = outbox.STATES.index(state)
    item = box.draw(job, 1)
    if wanted >= 1:
        item = mark(box, job)
    if wanted >= 2:
        item = box.set_bundled(job, signed(job), b"sealed evidence", b"sealed bundle")
    if wanted >= 3:
        item = box.set_stored(job)
    return item


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite")


def test_the_straight_way(box: Outbox) -> None:
    for job in ("a", "b"):
        assert bring_to(box, job, "stored").state == "stored"
    assert [item.job for item in box.unbatched()] == ["a", "b"]
    assert box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a", "b"]).state == "built"
    assert box.unbatched() == []
    batch = box.set_anchored(ROOT, "0xaa", 12)
    assert (batch.state, batch.tx_hash, batch.block, batch.count) == ("anchored", "0xaa", 12, 2)
    assert {item.state for item in box.items(root=ROOT)} == {"anchored"}
    assert box.set_confirmed(ROOT).state == "confirmed"
    items = box.items("confirmed")
    assert [(item.job, item.signed, item.evidence, item.bundle) for item in items] == [
        (job, signed(job), b"sealed evidence", b"sealed bundle") for job in ("a", "b")
    ]
    assert box.items("stored", "anchored") == [] and [b.root for b in box.batches("confirmed")] == [ROOT]


def test_what_was_drawn_stays(box: Outbox) -> None:
    first = box.draw("a", 5)
    assert (len(first.serial), len(first.evidence_nonce), len(first.bundle_nonce)) == (4, 12, 12)
    assert box.draw("a", 99) == first and first.time == 5
    other = box.draw("b")
    assert {first.serial, first.evidence_nonce}.isdisjoint({other.serial, other.evidence_nonce})
    assert Outbox(box.path).draw("a") == first


def test_serials_are_unique(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\1" * 4, b"\1" * 4, b"\2" * 4])
    monkeypatch.setattr("medprov_ledger.outbox.secrets.token_bytes", lambda size: next(drawn))
    monkeypatch.setattr("medprov_ledger.outbox.sealing.new_nonce", lambda: b"\0" * 12)
    assert (box.draw("a").serial, box.draw("b").serial) == (b"\1" * 4, b"\2" * 4)


def test_every_step_twice_is_once(box: Outbox) -> None:
    for _ in range(2):
        bring_to(box, "a", "stored")
        box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
        box.set_anchored(ROOT, "0xaa", 12)
        box.set_confirmed(ROOT)
    assert box.item("a").state == "confirmed" and len(box.items()) == len(box.batches()) == 1


def test_a_step_with_another_result_is_refused(box: Outbox) -> None:
    bring_to(box, "a", "stored")
    with pytest.raises(RecordError, match="marked before with another result"):
        box.set_marked("a", b"\0" * 8 + box.item("a").serial, b"\3" * 32, b"\4" * 32)
    with pytest.raises(RecordError, match="bundled before with another result"):
        box.set_bundled("a", signed("a"), b"sealed again", b"sealed bundle")
    with pytest.raises(RecordError, match="bundled before with another result"):
        box.set_bundled("a", signed("other"), b"sealed evidence", b"sealed bundle")
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    with pytest.raises(RecordError, match="another manifest"):
        box.add_batch(ROOT, b"manifest again", cid.of(b"manifest again"), ["a"])
    assert box.item("a").evidence == b"sealed evidence" and box.batch(ROOT).manifest == b"manifest"


def test_a_payload_with_another_serial_is_refused(box: Outbox) -> None:
    box.draw("a")
    for payload in (b"", b"\0" * 12, PHASH + box.item("a").serial + b"\0"):
        with pytest.raises(RecordError, match="serial"):
            box.set_marked("a", payload, b"\3" * 32, b"\4" * 32)


def test_steps_out_of_order_are_refused(box: Outbox) -> None:
    box.draw("a")
    with pytest.raises(RecordError, match="is drawn, cannot become bundled before marked"):
        box.set_bundled("a", signed("a"), b"", b"")
    with pytest.raises(RecordError, match="cannot become stored before bundled"):
        box.set_stored("a")
    with pytest.raises(RecordError, match="not stored"):
        box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    assert box.batches() == []
    bring_to(box, "a", "stored")
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    with pytest.raises(RecordError, match="is built, cannot become confirmed before anchored"):
        box.set_confirmed(ROOT)


def test_a_picture_is_in_one_batch(box: Outbox) -> None:
    bring_to(box, "a", "stored")
    bring_to(box, "b", "stored")
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    with pytest.raises(RecordError, match="job a: not stored, or in another batch"):
        box.add_batch(b"\x10" * 32, b"other", cid.of(b"other"), ["b", "a"])
    assert [item.job for item in box.unbatched()] == ["b"]


def test_what_is_unknown_is_refused(box: Outbox) -> None:
    for call in (box.item, box.set_stored):
        with pytest.raises(RecordError, match="no job x"):
            call("x")
    for call_batch in (box.batch, box.set_confirmed, box.set_unanchored):
        with pytest.raises(RecordError, match="no batch 0x0f"):
            call_batch(ROOT)
    for root, jobs in ((b"short", ["a"]), (ROOT, []), (ROOT, ["a", "a"])):
        with pytest.raises(RecordError, match="each once"):
            box.add_batch(root, b"", "", jobs)


def test_a_reorganisation_sends_the_same_batch_again(box: Outbox) -> None:
    bring_to(box, "a", "stored")
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    box.set_anchored(ROOT, "0xaa", 12)
    back = box.set_unanchored(ROOT)
    assert (back.state, back.tx_hash, back.block, back.manifest) == ("built", None, None, b"manifest")
    assert box.item("a").state == "stored" and box.unbatched() == []
    assert box.set_unanchored(ROOT) == back
    box.set_anchored(ROOT, "0xbb", 14)
    box.set_confirmed(ROOT)
    with pytest.raises(RecordError, match="is confirmed"):
        box.set_unanchored(ROOT)
    assert box.batch(ROOT).tx_hash == "0xbb" and box.item("a").state == "confirmed"


steps = st.lists(
    st.sampled_from(["draw", "mark", "bundle", "store", "batch", "anchor", "unanchor", "confirm", "reopen"]),
    max_size=25,
)


def take(box: Outbox, step: str, number: int) -> None:
    """One step; every retry offers other bytes, which must be refused once some are kept."""
    calls: dict[str, Callable[[], object]] = {
        "draw": lambda: box.draw("a"),
        "mark": lambda: mark(box, "a"),
        "bundle": lambda: box.set_bundled("a", signed("a"), b"evidence %d" % number, b""),
        "store": lambda: box.set_stored("a"),
        "batch": lambda: box.add_batch(ROOT, b"manifest %d" % number, cid.of(b"x"), ["a"]),
        "anchor": lambda: box.set_anchored(ROOT, "0xaa", 1),
        "unanchor": lambda: box.set_unanchored(ROOT),
        "confirm": lambda: box.set_confirmed(ROOT),
    }
    with contextlib.suppress(RecordError):
        calls[step]()


@settings(max_examples=40, deadline=None)
@given(steps)
def test_no_order_of_steps_changes_what_was_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    box = Outbox(tmp_path_factory.mktemp("box") / "outbox.sqlite")
    kept: dict[str, object] = {}
    for number, step in enumerate(steps):
        if step == "reopen":
            box.close()
            box = Outbox(box.path)
        else:
            take(box, step, number)
        for item in box.items():
            now = {"serial": item.serial, "evidence": item.evidence, "payload": item.payload, "root": item.root}
            assert all(kept[name] == now[name] for name in kept)
            kept |= {name: value for name, value in now.items() if value is not None}
            assert (item.evidence is not None) == (outbox.STATES.index(item.state) >= 2)
    box.close()


def test_a_killed_process_leaves_what_it_was_told(tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    program = (
        "import os, signal, sys\n"
        "from medprov_ledger.outbox import Outbox\n"
        "box = Outbox(sys.argv[1])\n"
        "print(box.draw('a').serial.hex(), flush=True)\n"
        "box._db.execute('BEGIN IMMEDIATE')\n"
        "box._db.execute('DELETE FROM items')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Outbox(file).item("a").serial.hex() == done.stdout.strip()


def test_every_commit_is_synced(box: Outbox) -> None:
    with sqlite3.connect(box.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert box._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_nothing_private_is_printed(box: Outbox) -> None:
    item = bring_to(box, "a", "bundled")
    text = repr(item)
    assert repr(item.payload) not in text and "sealed bundle" not in text
    assert replace(item) == item


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"not a database, but long enough to be read as a header" * 50)
    with pytest.raises(RecordError, match="not usable"):
        Outbox(text)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE items (x)")
    with pytest.raises(RecordError, match="another program's"):
        Outbox(tmp_path / "other")
    Outbox(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(RecordError, match="version 7 is unknown, this release reads 2"):
        Outbox(tmp_path / "newer")


def test_a_file_of_the_first_version_is_read_on(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "old")
    bring_to(box, "a", "stored")
    former = "ALTER TABLE items ADD COLUMN salt BLOB NOT NULL DEFAULT x'00'"
    for statement in ("DROP TABLE deliveries", former, "PRAGMA user_version = 1"):
        box._db.execute(statement)
    box.close()
    for _ in range(2):
        box = Outbox(tmp_path / "old")
        assert box.item("a").state == "stored"
        assert box.enqueue("a", "/in", "/out", 5).queued == 5
        box.close()


# the queue


def confirm(box: Outbox, job: str, root: bytes = ROOT, block: int = 12) -> None:
    bring_to(box, job, "stored")
    box.add_batch(root, b"manifest", cid.of(b"manifest"), [job])
    box.set_anchored(root, "0xaa", block)
    box.set_confirmed(root)


def test_a_delivery_waits_until_it_is_done(box: Outbox) -> None:
    bring_to(box, "a", "bundled")
    queued = box.enqueue("a", "/in", "/out", 5)
    assert (queued.job, queued.source, queued.target, queued.queued, queued.done) == ("a", "/in", "/out", 5, None)
    assert box.deliveries() == [queued] == [box.delivery("a")] and box.waiting() == 1
    with pytest.raises(RecordError, match="not confirmed and must not leave"):
        box.set_delivered("a", 9)
    confirm(box, "a")
    assert box.set_delivered("a", 9).done == 9 == box.set_delivered("a", 10).done
    assert box.deliveries() == [] and box.waiting() == 0
    assert box.delivered_to("/out") == [box.delivery("a")] and box.delivered_to("/other") == []


def test_queueing_twice_is_queueing_once_and_two_targets_are_refused(box: Outbox) -> None:
    bring_to(box, "a", "bundled")
    assert box.enqueue("a", "/in", "/out", 5) == box.enqueue("a", "/in", "/out", 6)
    with pytest.raises(RecordError, match="was queued for /out and not for /other"):
        box.enqueue("a", "/in", "/other")


def test_two_pictures_cannot_wait_for_one_name(box: Outbox) -> None:
    for job in ("a", "b"):
        bring_to(box, job, "bundled")
    box.enqueue("a", "/in", "/out")
    with pytest.raises(RecordError, match="the marked form of /in waits for this name"):
        box.enqueue("b", "/in2", "/out")


@pytest.mark.parametrize("state", ["drawn", "marked"])
def test_what_has_no_record_cannot_be_queued(box: Outbox, state: str) -> None:
    bring_to(box, "a", state)
    for job in ("a", "unknown"):
        with pytest.raises(RecordError, match="no signed record"):
            box.enqueue(job, "/in", "/out")


def test_deliveries_by_state_oldest_first(box: Outbox) -> None:
    for number, (job, state) in enumerate([("a", "stored"), ("b", "bundled"), ("c", "stored"), ("d", "stored")]):
        bring_to(box, job, state)
        box.enqueue(job, "/in", f"/{job}", 10 - number)
    assert [one.job for one in box.deliveries()] == ["d", "c", "b", "a"]
    assert [one.job for one in box.deliveries("stored", 2)] == ["d", "c"]
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["d"])
    assert [one.job for one in box.deliveries("stored")] == ["c", "a"]
    assert [one.job for one in box.deliveries("bundled")] == ["b"]
    assert box.counts() == {"drawn": 0, "marked": 0, "bundled": 1, "stored": 3, "anchored": 0, "confirmed": 0}
    assert box.jobs() == ["a", "b", "c", "d"]
    with pytest.raises(RecordError, match="not in the queue"):
        box.delivery("e")


def test_only_a_confirmed_batch_can_be_lost_and_is_sent_again_as_it_was(box: Outbox) -> None:
    bring_to(box, "a", "stored")
    box.add_batch(ROOT, b"manifest", cid.of(b"manifest"), ["a"])
    with pytest.raises(RecordError, match="only a confirmed one can be lost"):
        box.set_lost(ROOT)
    box.set_anchored(ROOT, "0xaa", 12)
    box.set_confirmed(ROOT)
    lost = box.set_lost(ROOT)
    assert (lost.state, lost.manifest, lost.tx_hash, lost.block) == ("built", b"manifest", None, None)
    assert (box.item("a").state, box.item("a").root) == ("stored", ROOT)
    box.set_anchored(ROOT, "0xbb", 14)
    assert box.set_confirmed(ROOT).block == 14


def test_roots_by_state_and_the_newest(box: Outbox) -> None:
    assert box.newest() is None
    roots = [bytes([number]) * 32 for number in range(3)]
    for root, block in zip(roots, (7, 9, 8), strict=True):
        confirm(box, root.hex(), root, block)
    box.set_lost(roots[0])
    assert box.roots() == roots and box.roots("confirmed") == roots[1:] and box.roots("built") == roots[:1]
    assert box.newest() == roots[1]
