"""medprov_sdk.verifier"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medprov_ledger.errors import ConfigError, ModelError
from medprov_sdk import Reason, Verdict, Verifier
from medprov_watermark.detection import FALSE_ALARM
from medprov_watermark.errors import KeyFileError
from medprov_watermark.geometry import ALL, Geometry, Warp
from medprov_watermark.payload import LIST_FALSE_MATCH, Directory, Payload, encode
from medprov_watermark.watermarker import DualWatermarker, Integrity


def lesion(image: Any) -> Any:
    changed = image.astype(np.int16)
    changed[60:100, 80:124] = np.where(changed[60:100, 80:124] < 128, 230, 20)
    return changed.astype(np.uint8)


def test_authentic(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC, Reason.SIGNED_AND_ANCHORED)
    assert (result.owner, result.member, result.signer) == (world.alice.address, "alice", world.alice.address)
    assert (result.transaction, result.block) == ("0x" + "ab" * 32, 10)
    assert result.payload == world.payload.data.hex()
    assert result.evidence_cid and result.bundle_cid is None
    assert all(check.passed is not False for check in result.checks)
    assert {"read", "extract", "keys", "chain", "total"} <= set(result.milliseconds)


def test_a_seal_without_signature_is_authentic_by_the_released_hash(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, None))
    world.anchor(world.alice, world.record(image, world.alice))
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC, Reason.RELEASED_HASH)


def test_recompressed_is_derived(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES)
    assert [heat.boxes for heat in result.heat] == [()]


def test_one_changed_sample_is_tampered_and_its_block_is_named(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    changed = image.copy()
    changed[70, 40] ^= 1
    world.reader.say(changed, world.payload, Integrity("broken", payload=world.payload, reason="samples were changed"))
    result = world.verifier.verify(changed)
    assert (result.verdict, result.reason) == (Verdict.TAMPERED, Reason.BLOCKS_DIFFER)
    assert result.heat[0].boxes == ((64, 32, 96, 64),)


def test_a_lesion_under_jpeg_is_tampered_and_localised(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    changed = world.jpeg(lesion(image))
    world.reader.say(changed, world.payload)
    result = world.verifier.verify(changed)
    assert (result.verdict, result.reason) == (Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART)
    (heat,) = result.heat
    assert heat.kind == "cells" and 0 < heat.share < 0.2
    for top, left, bottom, right in heat.boxes:
        assert top < 110 and bottom > 50 and left < 134 and right > 70


def test_the_mark_on_another_picture_is_a_copied_mark(world: Any) -> None:
    world.release(world.phantom(1), world.alice)
    other = world.phantom(2)
    world.reader.say(other, world.payload)
    result = world.verifier.verify(other)
    assert (result.verdict, result.reason) == (Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS)


@pytest.mark.parametrize("geometry", ALL, ids=str)
def test_boxes_lie_on_the_picture_as_it_was_given(world: Any, geometry: Geometry) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    changed = image.copy()
    changed[70, 40] ^= 1
    turned = geometry.apply(changed)
    world.reader.say(turned, world.payload, geometry=geometry)
    ((top, left, bottom, right),) = world.verifier.verify(turned).heat[0].boxes
    inside = np.zeros(turned.shape, bool)
    inside[top:bottom, left:right] = True
    wanted = np.zeros(image.shape, bool)
    wanted[64:96, 32:64] = True
    assert np.array_equal(inside, geometry.apply(wanted))


def noisy(payload: Payload, wrong: int) -> Any:
    """Soft bits of a payload, the last ones with the wrong sign."""
    soft = encode(payload).astype(np.float32)
    soft[-wrong:] *= -1
    return soft


def test_a_payload_that_nobody_wrote_does_not_hide_the_true_one(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: [world.payload.data])
    copy = world.jpeg(image)
    world.reader.say(copy, Payload(b"wrongone", b"seri"), soft_bits=noisy(world.payload, 14))
    result = world.verifier.verify(copy)
    assert (result.verdict, result.payload) == (Verdict.AUTHENTIC_DERIVED, world.payload.data.hex())
    assert result.corrected_bits == 14


def test_a_payload_that_names_a_record_is_not_searched_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: pytest.fail("searched"))
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).verdict is Verdict.AUTHENTIC_DERIVED
    world.reader.say(copy, world.payload, world.seal(copy, world.alice))
    world.contracts.anchored.clear()
    assert world.verifier.verify(copy).reason is Reason.NO_RECORD


def test_soft_bits_whose_pilots_fall_short_are_tried_against_the_directory(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: [world.payload.data])
    turned = np.rot90(world.jpeg(image)).copy()
    geometry, soft = Geometry(1), noisy(world.payload, 14)
    world.reader.say(turned, None, geometry=geometry, soft_bits=soft, presence=5.5, present=False, false_alarm=1e-4)
    result = world.verifier.verify(turned)
    assert (result.verdict, result.payload) == (Verdict.AUTHENTIC_DERIVED, world.payload.data.hex())
    assert (result.corrected_bits, result.geometry) == (14, "turned 90 degrees")
    assert 0 < result.false_alarm.computed < LIST_FALSE_MATCH
    assert {"search", "list"} <= set(result.milliseconds)
    world.reader.say(turned, None, geometry=geometry, soft_bits=soft, presence=1.5, present=False, false_alarm=0.3)
    assert world.verifier.verify(turned).verdict is Verdict.UNKNOWN


def test_a_mark_without_pilots_is_found_in_the_directory_in_any_orientation(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    known = [world.payload.data, *(bytes([n]) * 12 for n in range(200))]
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: known)
    turned = np.rot90(world.jpeg(image)).copy()
    assert world.verifier.verify(turned).verdict is Verdict.UNKNOWN
    world.reader.ways = {Geometry(1): noisy(world.payload, 14)}
    result = world.verifier.verify(turned)
    assert (result.verdict, result.payload) == (Verdict.AUTHENTIC_DERIVED, world.payload.data.hex())
    assert (result.corrected_bits, result.geometry) == (14, "turned 90 degrees")
    assert 0 < result.false_alarm.computed < LIST_FALSE_MATCH
    world.reader.ways = {Geometry(1): noisy(world.payload, 200)}
    assert world.verifier.verify(turned).verdict is Verdict.UNKNOWN


def test_strong_pilots_are_no_evidence_for_a_payload(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [bytes([n]) * 12 for n in range(200)]
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: known)
    image = world.phantom()
    foreign = noisy(Payload(b"foreign!", b"mark"), 40)
    world.reader.say(image, None, soft_bits=foreign, presence=60.0, false_alarm=1e-180)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.MARK_UNREADABLE)
    assert any(c.detail == "none of 200 known payloads answers" for c in result.checks)


def test_the_directory_is_encoded_once_and_again_when_it_grows(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, encoded = world.phantom(), []
    world.reader.say(image, None, soft_bits=noisy(world.payload, 14))
    of = Directory.of
    monkeypatch.setattr(Directory, "of", lambda payloads: encoded.append(len(payloads)) or of(payloads))
    for known in ([b"a" * 12], [b"a" * 12], [b"a" * 12, world.payload.data]):
        monkeypatch.setattr(world.verifier.ledger, "payloads", lambda known=known: known)
        result = world.verifier.verify(image)
    assert encoded == [1, 2] and result.payload == world.payload.data.hex()


def window_of(image: Any, off: float = 0.0) -> tuple[Any, Geometry]:
    """The middle half of a picture's area, and its geometry with an error."""
    height, width = image.shape
    top, left = round(0.146 * height), round(0.146 * width)
    part = image[top : height - top, left : width - left].copy()
    return part, Geometry(warp=Warp((1.0, 0.0, -left + off, 0.0, 1.0, -top - off), height, width))


def test_half_of_the_area_is_derived_and_the_seal_is_not_tried_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    part, geometry = window_of(image, 1.0)
    world.reader.say(part, world.payload, geometry=geometry)
    monkeypatch.setattr(world.reader, "integrity", lambda _: pytest.fail("W2 was read in a warped picture"))
    result = world.verifier.verify(part)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES)
    assert (result.geometry, result.seal) == ("cut out or moved", "absent")
    assert 0.4 < result.heat[0].overlap < 0.52 and "search" in result.milliseconds
    assert any(check.name == "exact blocks" and check.passed is None for check in result.checks)


def test_a_window_with_a_pasted_object_is_tampered(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    part, geometry = window_of(lesion(image), 1.0)
    for changed in (part, world.jpeg(part, 70)):
        world.reader.say(changed, world.payload, geometry=geometry)
        result = world.verifier.verify(changed)
        assert (result.verdict, result.reason) == (Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART)
        assert 0 < len(result.heat[0].boxes) < 80


def test_a_mark_on_a_window_of_another_picture_is_a_copied_mark(world: Any) -> None:
    world.release(world.phantom(), world.alice)
    part, geometry = window_of(world.phantom(2))
    world.reader.say(part, world.payload, geometry=geometry)
    assert world.verifier.verify(part).verdict is Verdict.COPIED_MARK


def test_too_little_of_the_picture_is_said_and_not_called_a_copy(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    part = image[60:120, 70:150].copy()
    world.reader.say(
        part, world.payload, geometry=Geometry(warp=Warp((1.0, 0.0, -70.0, 0.0, 1.0, -60.0), *image.shape))
    )
    result = world.verifier.verify(part)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_NOT_COMPARED)
    assert any(check.name == "content" and "is shown here" in check.detail for check in result.checks)


def config_file(world: Any, folder: Path, more: str = "") -> Path:
    lines = [
        "[federation]",
        f'id = "0x{world.config.federation_id.hex()}"',
        'name = "test"',
        "[chain]",
        f'rpc = "{world.config.rpc}"',
        "chain_id = 31337",
        f'federation = "{world.config.federation_address}"',
        f'registry = "{world.config.registry_address}"',
        '[store]\nkind = "blocks"\npath = "blocks"',
        more,
    ]
    (folder / "verifier.toml").write_text("\n".join(lines))
    return folder / "verifier.toml"


def test_the_key_is_taken_from_the_caller_or_the_configuration(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bytes | None] = []
    monkeypatch.setattr(DualWatermarker, "load", lambda key=None: taken.append(key))
    (tmp_path / "a.key").write_bytes(b"a" * 16)
    (tmp_path / "b.key").write_bytes(b"b" * 16)
    plain = config_file(world, tmp_path)
    Verifier.from_config(plain, cache=":memory:")
    Verifier.from_config(plain, cache=":memory:", key_file=tmp_path / "b.key")
    named = config_file(world, tmp_path, '[watermark]\nkey_file = "a.key"')
    Verifier.from_config(named, cache=":memory:")
    Verifier.from_config(named, cache=":memory:", key_file=tmp_path / "b.key")
    assert taken == [None, b"b" * 16, b"a" * 16, b"b" * 16]
    (tmp_path / "a.key").unlink()
    with pytest.raises(KeyFileError, match=r"a\.key: no such key file"):
        Verifier.from_config(named, cache=":memory:")


def test_a_mark_on_a_picture_without_contrast_is_a_copied_mark(world: Any) -> None:
    world.release(world.phantom(), world.alice)
    grey = np.clip(20 + np.random.default_rng(5).normal(0, 2, (192, 224)), 0, 255).astype(np.uint8)
    grey[18:36, 21:42], grey[48:54, 56:70] = 255, 255
    world.reader.say(grey, world.payload)
    result = world.verifier.verify(grey)
    assert (result.verdict, result.reason) == (Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS)
    assert any(check.name == "content" and "this one shows it in" in check.detail for check in result.checks)


def test_evidence_of_another_payload_does_not_open(world: Any) -> None:
    image = world.phantom()
    other = world.record(image, world.alice, Payload(b"otherone", b"seri"))
    world.anchor(world.alice, world.record(image, world.alice, evidence_cid=other.evidence_cid))
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).reason is Reason.EVIDENCE_UNREADABLE


def test_a_flat_picture_is_not_compared(world: Any) -> None:
    flat = np.full((192, 224), 90, np.uint8)
    world.anchor(world.alice, world.record(flat, world.alice))
    copy = flat + np.uint8(1)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_NOT_COMPARED)


def test_unknown_states_both_bounds(world: Any) -> None:
    result = world.verifier.verify(world.phantom())
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.NOTHING_FOUND)
    assert result.false_alarm.computed == FALSE_ALARM
    assert 0 < result.false_alarm.measured < 1


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        Verifier.from_config(tmp_path / "nowhere.toml")


@pytest.fixture
def versions(world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Readers of models that the federation has released beside the loaded one, by hash; the newest is last."""
    readers = {bytes([n]) * 32: type(world.reader)(model=bytes([n]) * 32) for n in range(1, 7)}
    world.contracts.released = [*list(readers)[:3], world.reader.model, *list(readers)[3:]]
    monkeypatch.setattr(world.verifier.ledger, "model_file", lambda model: Path(model.hex()))
    asked = []

    def load(file: Path) -> Any:
        asked.append(bytes.fromhex(file.name))
        return readers[asked[-1]]

    monkeypatch.setattr(world.verifier, "_load", load)
    return readers, asked


def test_a_mark_that_another_released_version_reads(world: Any, versions: Any) -> None:
    readers, asked = versions
    image = world.phantom()
    world.anchor(world.alice, world.record(image, world.alice))
    altered = world.jpeg(image)
    readers[b"\x05" * 32].say(altered, world.payload)
    result = world.verifier.verify(altered)
    assert result.payload == world.payload.data.hex() and result.verdict is Verdict.AUTHENTIC_DERIVED
    assert result.claims and asked == [b"\x06" * 32, b"\x05" * 32]
    assert ("model of the mark", True) in [(c.name, c.passed) for c in result.checks]
    assert [c.name for c in result.checks].count("ownership mark") == 1
    # three versions were asked, so chance had three tries
    world.reader.say(altered, world.payload)
    assert result.false_alarm.computed == pytest.approx(3 * world.verifier.verify(altered).false_alarm.computed)


def test_list_decoding_with_another_version(world: Any, versions: Any) -> None:
    readers, _ = versions
    image = world.phantom()
    world.anchor(world.alice, world.record(image, world.alice))
    world.verifier.verify(image)
    altered = world.jpeg(image)
    soft = np.where(encode(world.payload) > 0, 1.0, -1.0).astype(np.float32)
    readers[b"\x06" * 32].ways = {Geometry(): 3 * soft}
    world.verifier.ledger.payloads = lambda: [world.payload.data]
    result = world.verifier.verify(altered)
    assert result.payload == world.payload.data.hex()


def test_no_more_versions_than_a_person_waits_for(world: Any, versions: Any) -> None:
    _, asked = versions
    result = world.verifier.verify(world.phantom())
    assert asked == [bytes([n]) * 32 for n in (6, 5, 4, 3)]
    said = [c.detail for c in result.checks if c.name == "other model versions"]
    assert said == ["4 that the federation released read nothing either", "2 older ones were not tried"]
    # loaded once, not for every picture
    world.verifier.verify(world.phantom(2))
    assert len(asked) == 4


def test_a_version_is_loaded_once_however_much_of_its_hash_is_named(
    world: Any, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = versions
    whole = b"\x05" * 32
    monkeypatch.setattr(world.verifier.ledger, "model_file", lambda model: Path(whole.hex()))
    assert world.verifier._version(whole[:8]) is world.verifier._version(whole)
    assert asked == [whole]


def test_a_version_that_cannot_be_had_is_named(world: Any, versions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(model: bytes) -> Path:
        raise ModelError(f"model {model.hex()[:4]}: is nowhere")

    monkeypatch.setattr(world.verifier.ledger, "model_file", away)
    result = world.verifier.verify(world.phantom())
    said = [c.detail for c in result.checks if c.name == "other model version"]
    assert said[0] == "model 0606: is nowhere; the picture is not read with it" and len(said) == 4


def test_a_picture_that_the_loaded_version_reads_asks_for_no_other(world: Any, versions: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC and versions[1] == []


def test_a_seal_of_another_released_model_is_read_with_that_model(world: Any, versions: Any) -> None:
    readers, asked = versions
    image, other = world.phantom(), b"\x05" * 32
    seal = world.seal(image, world.alice)
    world.reader.say(image, world.payload, replace(seal, image_mark=None, other_model=other))
    readers[other].say(image, world.payload, seal)
    world.anchor(world.alice, world.record(image, world.alice))
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC, Reason.SIGNED_AND_ANCHORED)
    assert (result.signer, asked) == (world.alice.address, [other])
    assert [c.passed for c in result.checks if c.name == "model of the mark"] == [True]


def test_a_seal_of_a_model_that_cannot_be_had_is_not_checked(
    world: Any, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(model: bytes) -> Path:
        raise ModelError(f"model {model.hex()[:4]}: no model that the federation released begins like that")

    image = world.phantom()
    seal = replace(world.seal(image, world.mallory), image_mark=None, other_model=b"\x05" * 32)
    world.reader.say(image, world.payload, seal)
    monkeypatch.setattr(world.verifier.ledger, "model_file", away)
    result = world.verifier.verify(image)
    said = [(c.passed, c.detail) for c in result.checks if c.name == "model of the mark"]
    assert said[0][0] is None and said[0][1].endswith("begins like that; the signature in the mark is not checked")
    assert result.signer is None and result.verdict is not Verdict.AUTHENTIC


def test_without_the_chain_no_other_version_is_known(world: Any, versions: Any) -> None:
    world.contracts.away = True
    world.verifier.verify(world.phantom())
    assert versions[1] == []
