from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medprov_ledger import bundle, cid, eip712, evidence, manifest, sealing
from medprov_ledger.errors import ChainError, RecordError, StoreError
from medprov_ledger.index import RecordIndex
from medprov_ledger.keys import load_account, load_reader_key
from medprov_ledger.outbox import FILE, Outbox
from medprov_ledger.registry import Registry
from medprov_ledger.store import BlockStore
from medprov_node import mark, preparing
from medprov_node.errors import MarkedBeforeError, MarkError, NotAllowedError, OutputError, StateError
from medprov_node.held import HeldFolder, exclusive
from medprov_node.mark import mark_files
from medprov_watermark import features, media
from medprov_watermark.errors import EmbedError
from medprov_watermark.hashing import content_hash, perceptual_hash
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import salted


class Crash(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


def keys_of(done, result):
    return sealing.payload_keys(bytes.fromhex(result.payload), done.house.config.federation_id)


def entry_of(done, result):
    house = done.house
    index = RecordIndex(":memory:", house.ledger.domain)
    report = index.sync(house.ledger.registry, house.ledger.federation, house.ledger.store, house.config.directory_key)
    assert report.problems == ()
    (entry,) = index.by_key(keys_of(done, result).record_key)
    return entry


def hospital_a(house):
    return house.config.hospital("hospital-a")


def items(house):
    outbox = Outbox(hospital_a(house).state / FILE)
    try:
        return outbox.items()
    finally:
        outbox.close()


def quickly(house, quick, jobs, **more):
    return mark_files(jobs, "hospital-a", house.config, watermarker=quick, ledger=house.ledger, **more)


# what marking gives


@pytest.mark.parametrize("name", ["png", "dicom"])
def test_the_marked_picture_carries_the_payload_and_the_hospitals_signature(done, watermarker, name) -> None:
    result = getattr(done, name)
    found = watermarker.extract(media.read(result.output).array)
    assert found.payload is not None and found.payload.data.hex() == result.payload
    assert found.integrity.state == "intact"
    signer = eip712.recover_image_mark(found.integrity.image_mark, found.integrity.signature, done.house.ledger.domain)
    assert signer == result.owner == done.house.config.hospital("hospital-a").address
    assert result.psnr > 30


@pytest.mark.parametrize("name", ["png", "dicom"])
def test_the_record_is_anchored_and_says_what_the_result_says(done, name) -> None:
    result = getattr(done, name)
    entry = entry_of(done, result)
    assert "0x" + entry.leaf.hex() == result.record_id
    assert done.house.ledger.registry.verify(result.owner, entry.root, entry.leaf, list(entry.proof))
    assert entry.record.released_hash == content_hash(media.read(result.output).array)
    assert (entry.record.evidence_cid, entry.record.bundle_cid) == (result.evidence_cid, result.bundle_cid)
    assert (entry.anchor.tx_hash, entry.anchor.block, entry.anchor.cid) == (
        result.transaction,
        result.block,
        result.manifest_cid,
    )
    assert entry.payload is not None and entry.payload.hex() == result.payload


def test_all_pictures_of_a_call_are_one_batch(done) -> None:
    assert done.png.transaction == done.dicom.transaction
    assert done.png.root == done.dicom.root
    assert done.png.record_id != done.dicom.record_id


@pytest.mark.parametrize("name", ["png", "dicom"])
def test_the_evidence_opens_with_the_payload_and_fits_the_released_picture(done, name) -> None:
    result = getattr(done, name)
    opened = evidence.open(done.house.ledger.store.get(result.evidence_cid), keys_of(done, result))
    pixels = media.read(result.output)
    assert features.compare_exact(opened.grid, pixels.array, opened.block).equal
    assert not features.compare(opened.features, pixels.array).differs.any()
    assert (opened.height, opened.width, opened.bits) == (*pixels.array.shape[:2], pixels.bits)


def test_the_evidence_shows_which_attribute_was_changed(done) -> None:
    keys = keys_of(done, done.dicom)
    macs = evidence.open(done.house.ledger.store.get(done.dicom.evidence_cid), keys).attribute_macs
    found = media.attributes(media.read(done.dicom.output))
    assert set(macs) == set(found)
    assert evidence.differing_attributes(keys.evidence_key, macs, found) == []
    found |= {"PatientID": "somebody else", "Laterality": "L"}
    assert evidence.differing_attributes(keys.evidence_key, macs, found) == ["Laterality", "PatientID"]


def test_the_bundle_opens_for_the_hospital_and_proves_the_cover(done) -> None:
    hospital = done.house.config.hospital("hospital-a")
    wraps = bundle.WrapFolder(hospital.state / bundle.FOLDER).load(done.dicom.bundle_cid)
    opened = bundle.open(done.house.ledger.store.get(done.dicom.bundle_cid), wraps, load_reader_key(hospital))
    cover = media.read(done.dicom.input).array
    assert salted(opened.salt, content_hash(cover)) == entry_of(done, done.dicom).record.cover_hash
    assert opened.metadata["00100020"]["Value"] == ["1CT1"]
    assert opened.notes["file"] == done.dicom.input.name


def test_nothing_personal_lies_in_the_store_in_clear(done) -> None:
    blocks = [file.read_bytes() for file in done.house.config.store.path.rglob("*") if file.is_file()]
    assert len(blocks) >= 5
    for secret in (b"CompressedSamples", b"1CT1", b"CT_small", bytes.fromhex(done.dicom.payload)):
        assert not any(secret in block for block in blocks)


def test_the_manifest_has_a_directory_for_members(done) -> None:
    found = manifest.parse(done.house.ledger.store.get(done.png.manifest_cid))
    payloads = manifest.open_directory(found, done.house.config.directory_key)
    assert [payload.hex() for payload in payloads] == [done.png.payload, done.dicom.payload]


def test_only_the_mark_changes_the_dicom_file(done) -> None:
    before, after = pydicom.dcmread(done.dicom.input), pydicom.dcmread(done.dicom.output)
    assert before.PixelData != after.PixelData
    del before.PixelData, after.PixelData
    assert before == after


def test_the_result_is_json(done) -> None:
    found = done.png.to_json()
    assert found["output"] == str(done.png.output)
    assert set(found["milliseconds"]) == {"read", "region", "mark", "seal", "store", "anchor", "write"}


def test_nothing_is_held_after_release(done) -> None:
    state = done.house.config.hospital("hospital-a").state
    assert list((state / preparing.HELD).iterdir()) == []
    marked = [item for item in items(done.house) if item.payload is not None]
    assert [item.state for item in marked] == ["confirmed", "confirmed"]


# marked already


def test_a_marked_picture_is_refused_and_its_owner_named(done, watermarker, tmp_path) -> None:
    before = done.house.anchors()
    job = (done.png.output, tmp_path / "twice.png")
    with pytest.raises(MarkedBeforeError) as refused:
        mark_files([job], "hospital-b", done.house.config, watermarker=watermarker, ledger=done.house.ledger)
    text = str(refused.value)
    assert "marked already by hospital-a" in text and done.png.record_id in text and str(done.png.output) in text
    assert not job[1].exists() and done.house.anchors() == before


def test_a_mark_without_a_record_is_named_by_its_signature(done, watermarker, phantom, tmp_path) -> None:
    house = done.house
    account = load_account(house.config.hospital("hospital-b"))
    cover = phantom(seed=8)

    def sign(statement):
        return eip712.sign_image_mark(statement, house.ledger.domain, account)

    marked = watermarker.mark(cover, Payload(perceptual_hash(cover), b"abcd"), signer=sign).image
    Image.fromarray(marked).save(tmp_path / "signed.png")
    job = (tmp_path / "signed.png", tmp_path / "twice.png")
    with pytest.raises(MarkedBeforeError, match=r"signed by hospital-b .*a member; no record"):
        mark_files([job], "hospital-a", house.config, watermarker=watermarker, ledger=house.ledger)


# one after the other: crashes and failures


STEPS = [
    (HeldFolder, "save"),
    (Outbox, "set_marked"),
    (Outbox, "set_bundled"),
    (BlockStore, "put"),
    (Outbox, "set_stored"),
    (Outbox, "add_batch"),
    (Registry, "anchor_batch"),
    (Outbox, "set_anchored"),
    (Outbox, "set_confirmed"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_crash_at_any_step_goes_on_with_one_record(house, quick, picture, monkeypatch, kind, name, after) -> None:
    target = picture.with_name("out.png")
    real = getattr(kind, name)

    def cut(self, *arguments, **more):
        # the probe of the store is not a step of the picture
        if arguments and arguments[0] == mark.connect.PROBE:
            return real(self, *arguments, **more)
        if after:
            real(self, *arguments, **more)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(kind, name, cut)
        with pytest.raises(Crash):
            quickly(house, quick, [(picture, target)])
    assert not target.exists()
    left = items(house)
    (result,) = quickly(house, quick, [(picture, target)])
    assert content_hash(media.read(target).array).hex() == result.released_hash[2:]
    (item,) = items(house)
    assert house.anchors() == 1
    assert quick.marked <= 2 and (quick.marked == 1 or (name, after) == ("save", False))
    assert item.serial == left[0].serial
    if left[0].signed is not None:
        assert (item.signed, item.evidence, item.bundle) == (left[0].signed, left[0].evidence, left[0].bundle)
    assert house.ledger.registry.anchor(result.owner, item.root).tx_hash == result.transaction


def interrupt_at(monkeypatch, number) -> None:
    """Crash before the output with this number is written."""
    real, calls = media.write, iter(range(100))

    def cut(*arguments, **more) -> None:
        if next(calls) == number:
            raise Crash
        real(*arguments, **more)

    monkeypatch.setattr(media, "write", cut)


@pytest.fixture
def three(phantom, tmp_path):
    """Three jobs."""
    for seed in range(3):
        Image.fromarray(phantom(seed=seed)).save(tmp_path / f"{seed}.png")
    return [(tmp_path / f"{seed}.png", tmp_path / f"out{seed}.png") for seed in range(3)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_same_command_goes_on_after_a_crash_while_writing(house, quick, three, monkeypatch, number) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, number)
        with pytest.raises(Crash):
            quickly(house, quick, three)
    assert [target.exists() for _, target in three] == [place < number for place in range(3)]
    before = {target: (target.read_bytes(), target.stat().st_mtime_ns) for _, target in three[:number]}
    results = quickly(house, quick, three)
    for result, (_, target) in zip(results, three, strict=True):
        assert "0x" + content_hash(media.read(target).array).hex() == result.released_hash
    assert {target: (target.read_bytes(), target.stat().st_mtime_ns) for target in before} == before
    assert quick.marked == 3 and house.anchors() == 1 and len(items(house)) == 3


def test_a_picture_twice_goes_on_after_a_crash_while_writing(house, quick, picture, monkeypatch) -> None:
    jobs = [(picture, picture.with_name(name)) for name in ("one.png", "two.png")]
    with monkeypatch.context() as patched:
        interrupt_at(patched, 1)
        with pytest.raises(Crash):
            quickly(house, quick, jobs)
    quickly(house, quick, jobs)
    assert quick.marked == 2 and house.anchors() == 1


def test_after_a_crash_no_other_file_is_taken_for_the_output(house, quick, three, phantom, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, 1)
        with pytest.raises(Crash):
            quickly(house, quick, three)
    (_, first), (_, second), _ = three
    released = first.read_bytes()
    for other in (b"mine", three[0][0].read_bytes()):
        first.write_bytes(other)
        with pytest.raises(OutputError, match=r"out0\.png: the file exists already"):
            quickly(house, quick, three)
        assert first.read_bytes() == other
    first.unlink()
    first.symlink_to(second)
    with pytest.raises(OutputError, match=r"out0\.png: the file exists already"):
        quickly(house, quick, three)
    # another job's picture is noticed before anything is anchored for this one
    first.unlink()
    second.write_bytes(released)
    Image.fromarray(phantom(seed=8)).save(three[1][0])
    with pytest.raises(OutputError, match=r"out1\.png: the file exists already"):
        quickly(house, quick, three)
    assert house.anchors() == 1 and second.read_bytes() == released


# the manifest waits for the anchor


def is_manifest(data) -> bool:
    return data.startswith(b'{"chain_id"')


def manifests(house) -> list[str]:
    return [
        file.name for file in house.config.store.path.rglob("*") if file.is_file() and is_manifest(file.read_bytes())
    ]


def test_nobody_can_read_a_record_before_it_is_anchored(house, quick, picture, monkeypatch) -> None:
    before, real, seen = set(manifests(house)), Registry.anchor_batch, []

    def watched(self, root, count, cid, account):
        seen.append((cid, house.ledger.store.has(cid), set(manifests(house)) - before))
        return real(self, root, count, cid, account)

    monkeypatch.setattr(Registry, "anchor_batch", watched)
    (result,) = quickly(house, quick, [(picture, picture.with_name("out.png"))])
    assert seen == [(result.manifest_cid, False, set())]
    assert house.ledger.store.has(result.manifest_cid)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_between_anchor_and_manifest_is_made_good(house, quick, phantom, picture, monkeypatch, after) -> None:
    target, real = picture.with_name("out.png"), BlockStore.put

    def cut(self, data):
        if is_manifest(data):
            if after:
                real(self, data)
            raise Crash
        return real(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(BlockStore, "put", cut)
        with pytest.raises(Crash):
            quickly(house, quick, [(picture, target)])
    assert house.anchors() == 1 and not target.exists()
    # marking anything else does it, and the picture itself is ready then
    other = picture.with_name("other.png")
    Image.fromarray(phantom(seed=4)).save(other)
    quickly(house, quick, [(other, picture.with_name("other-out.png"))])
    (anchor, _) = house.ledger.registry.anchors(house.since)
    assert house.ledger.store.has(anchor.cid)
    (result,) = quickly(house, quick, [(picture, target)])
    assert (result.manifest_cid, house.anchors(), quick.marked) == (anchor.cid, 2, 2)


@pytest.mark.parametrize("what", [is_manifest, lambda data: data == mark.connect.PROBE], ids=["after", "before"])
def test_a_store_that_goes_away_around_the_anchor(house, quick, picture, monkeypatch, what) -> None:
    target, real, calls = picture.with_name("out.png"), BlockStore.put, iter(range(100))

    def away(self, data):
        # the first question to the store was before marking
        if what(data) and (is_manifest(data) or next(calls) > 0):
            raise StoreError("blocks: cannot store a block (No space left on device)")
        return real(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(BlockStore, "put", away)
        with pytest.raises(StoreError, match="No space left"):
            quickly(house, quick, [(picture, target)])
    assert not target.exists() and quick.marked == 1
    assert house.anchors() == (1 if what is is_manifest else 0)
    quickly(house, quick, [(picture, target)])
    assert target.exists() and quick.marked == 1 and house.anchors() == 1


def test_a_manifest_that_the_store_lost_is_put_there_again(house, quick, picture, monkeypatch) -> None:
    target = picture.with_name("out.png")
    with monkeypatch.context() as patched:
        interrupt_at(patched, 0)
        with pytest.raises(Crash):
            quickly(house, quick, [(picture, target)])
    (anchor,) = house.ledger.registry.anchors(house.since)
    house.ledger.store._file(cid.parse(anchor.cid)).unlink()
    quickly(house, quick, [(picture, target)])
    assert target.exists() and house.ledger.store.has(anchor.cid)


def test_a_chain_that_goes_away_keeps_the_picture_in_the_hospital(house, quick, picture, monkeypatch) -> None:
    target = picture.with_name("out.png")

    def gone(*_, **__):
        raise ChainError("http://somewhere: no chain answers there")

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "anchor_batch", gone)
        with pytest.raises(ChainError, match="no chain answers"):
            quickly(house, quick, [(picture, target)])
    assert not target.exists()


def test_an_anchor_of_somebody_else_stops_nobody(house, quick, picture, monkeypatch) -> None:
    thief = load_account(house.config.hospital("hospital-b"))
    real = Registry.anchor_batch

    def racing(self, root, count, cid, account):
        real(self, root, count, cid, thief)
        return real(self, root, count, cid, account)

    monkeypatch.setattr(Registry, "anchor_batch", racing)
    for number in range(2):
        (result,) = quickly(house, quick, [(picture, picture.with_name(f"{number}.png"))])
        index = RecordIndex(":memory:", house.ledger.domain)
        index.sync(house.ledger.registry, house.ledger.federation, house.ledger.store, house.config.directory_key)
        (entry,) = index.by_released_hash(bytes.fromhex(result.released_hash[2:]))
        assert (entry.anchor.owner, entry.anchor.tx_hash) == (result.owner, result.transaction)


def test_another_anchor_with_the_hospital_s_own_key_stops_the_release(house, quick, picture, monkeypatch) -> None:
    target = picture.with_name("out.png")
    real = Registry.anchor_batch
    monkeypatch.setattr(
        Registry,
        "anchor_batch",
        lambda self, root, count, _, account: real(self, root, count, cid.of(b"other"), account),
    )
    with pytest.raises(RecordError, match="who else has this hospital's key, its pictures must not be released"):
        quickly(house, quick, [(picture, target)])
    assert not target.exists()


def test_a_manifest_that_the_store_lost_stops_the_release(house, quick, picture, monkeypatch) -> None:
    target = picture.with_name("out.png")
    real = BlockStore.put

    def forgetful(self, data):
        name = real(self, data)
        if data.startswith(b"{"):
            self._file(cid.parse(name)).unlink()
        return name

    monkeypatch.setattr(BlockStore, "put", forgetful)
    with pytest.raises(StoreError, match="no such block"):
        quickly(house, quick, [(picture, target)])
    assert not target.exists()


def test_a_failure_in_the_middle_leaves_no_output_and_no_anchor(house, quick, phantom, tmp_path, monkeypatch) -> None:
    jobs = []
    for seed in range(3):
        Image.fromarray(phantom(seed=seed)).save(tmp_path / f"{seed}.png")
        jobs.append((tmp_path / f"{seed}.png", tmp_path / f"out{seed}.png"))
    real, bad = quick.mark, phantom(seed=1)

    def mostly(image, *arguments, **more):
        if np.array_equal(image, bad):
            raise EmbedError("too flat")
        return real(image, *arguments, **more)

    monkeypatch.setattr(quick, "mark", mostly)
    with pytest.raises(MarkError, match=r"1\.png: too flat"):
        quickly(house, quick, jobs)
    assert not any(target.exists() for _, target in jobs)
    assert house.anchors() == 0
    # without the bad one the others go on where they were
    quickly(house, quick, [jobs[0], jobs[2]])
    assert quick.marked == 2 and house.anchors() == 1


def test_an_output_that_appears_meanwhile_is_not_overwritten(house, quick, picture) -> None:
    target = picture.with_name("out.png")

    def progress(stage, done, total) -> None:
        if stage == "anchor":
            target.write_bytes(b"mine")

    with pytest.raises(MarkError, match=r"out\.png: the file exists already.*its record is anchored.*another output"):
        quickly(house, quick, [(picture, target)], progress=progress)
    assert target.read_bytes() == b"mine"
    other = picture.with_name("other.png")
    quickly(house, quick, [(picture, other)])
    assert other.is_file() and (quick.marked, house.anchors()) == (1, 1), "the same command with another output goes on"


def test_an_input_that_changes_meanwhile_is_refused(house, quick, phantom, picture) -> None:
    target = picture.with_name("out.png")

    def progress(stage, done, total) -> None:
        if stage == "anchor":
            Image.fromarray(phantom(seed=9)).save(picture)

    with pytest.raises(MarkError, match=r"scan\.png: was changed"):
        quickly(house, quick, [(picture, target)], progress=progress)
    assert not target.exists()


def test_a_damaged_held_picture_is_said(house, quick, picture, monkeypatch) -> None:
    target = picture.with_name("out.png")
    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "set_bundled", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            quickly(house, quick, [(picture, target)])
    (held,) = (hospital_a(house).state / preparing.HELD).iterdir()
    held.write_bytes(held.read_bytes()[:-40])
    with pytest.raises(StateError, match="damaged"):
        quickly(house, quick, [(picture, target)])
    held.unlink()
    quickly(house, quick, [(picture, target)])
    assert target.exists()


# the same picture


def test_the_same_picture_gets_a_record_of_its_own_each_time(house, quick, picture) -> None:
    one, two, three = (picture.with_name(name) for name in ("1.png", "2.png", "3.png"))
    first, second = quickly(house, quick, [(picture, one), (picture, two)])
    (third,) = quickly(house, quick, [(picture, three)])
    assert len({first.payload, second.payload, third.payload}) == 3
    assert len({first.record_id, second.record_id, third.record_id}) == 3
    assert house.anchors() == 2


def test_pictures_that_differ_in_metadata_only_are_two_jobs(house, quick, tmp_path) -> None:
    shutil.copy(pydicom.data.get_testdata_file("CT_small.dcm"), tmp_path / "a.dcm")
    other = pydicom.dcmread(tmp_path / "a.dcm")
    other.PatientID = "2"
    other.save_as(tmp_path / "b.dcm")
    jobs = [(tmp_path / f"{name}.dcm", tmp_path / f"{name}-out.dcm") for name in "ab"]
    quickly(house, quick, jobs)
    assert len({item.job.split("-")[0] for item in items(house)}) == 2


# refused before any work


def test_no_jobs_no_work(house) -> None:
    assert mark_files([], "hospital-a", house.config) == []


def test_a_hospital_that_is_no_member_is_refused(make_house, quick, picture) -> None:
    house = make_house(members=("hospital-a",))
    with pytest.raises(NotAllowedError, match=r"hospital-b .* no member"):
        mark_files(
            [(picture, picture.with_name("o.png"))], "hospital-b", house.config, watermarker=quick, ledger=house.ledger
        )
    assert quick.marked == 0


def test_weights_that_were_not_released_are_refused_with_advice(make_house, quick, picture) -> None:
    house = make_house(release=False)
    with pytest.raises(NotAllowedError, match=rf"medprov-ledger up .*--model {quick.model.hex()}"):
        quickly(house, quick, [(picture, picture.with_name("o.png"))])
    assert quick.marked == 0 and not hospital_a(house).state.exists()


def test_a_store_that_takes_nothing_is_noticed_before_marking(house, quick, picture, monkeypatch) -> None:
    def full(self, data):
        raise StoreError("blocks: cannot store a block (No space left on device)")

    monkeypatch.setattr(BlockStore, "put", full)
    with pytest.raises(StoreError, match="No space left"):
        quickly(house, quick, [(picture, picture.with_name("o.png"))])
    assert quick.marked == 0


def test_two_inputs_for_one_output_are_refused(house, quick, picture) -> None:
    other = picture.with_name("other.png")
    shutil.copy(picture, other)
    target = picture.with_name("o.png")
    with pytest.raises(OutputError, match="both"):
        quickly(house, quick, [(picture, target), (other, Path(f"{picture.parent}/./o.png"))])


def test_one_marking_at_a_time(tmp_path) -> None:
    with exclusive(tmp_path), pytest.raises(StateError, match="another command"), exclusive(tmp_path, timeout=0.0):
        pass
    with exclusive(tmp_path, timeout=0.0):
        pass


def test_a_wait_for_another_marking_is_said_once(tmp_path) -> None:
    said: list[str] = []

    def waiting() -> None:
        said.append("waiting")

    with exclusive(tmp_path, waiting=waiting):
        assert said == []
        with pytest.raises(StateError), exclusive(tmp_path, timeout=0.25, waiting=waiting):
            pass
    assert said == ["waiting"]
