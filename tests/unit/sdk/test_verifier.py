import hashlib
import inspect
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image

from medprov_ledger import eip712
from medprov_ledger.config import Config
from medprov_ledger.errors import ChainError, ConfigError, RecordError, StoreError
from medprov_ledger.registry import Registration
from medprov_ledger.titles import Reason as Revocation
from medprov_ledger.titles import Title
from medprov_sdk import Reason, Verdict, Verifier
from medprov_sdk.errors import UnreadableError
from medprov_sdk.ledger_view import MOST_PROVED, cache_file
from medprov_sdk.metadata import State
from medprov_watermark import media
from medprov_watermark.detection import FALSE_ALARM, THRESHOLD
from medprov_watermark.errors import KeyFileError
from medprov_watermark.geometry import ALL, Geometry, Warp
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import LIST_FALSE_MATCH, Directory, Payload, encode
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import DualWatermarker, Integrity, Marked


def jpeg(image: Any, quality: int = 60) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


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
    copy = jpeg(image)
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
    changed = jpeg(lesion(image))
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


@pytest.mark.parametrize("geometry", ALL[1:], ids=str)
def test_turned_without_loss_is_derived_with_exact_pixels(world: Any, geometry: Geometry) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    turned = geometry.apply(image)
    world.reader.say(turned, world.payload, geometry=geometry)
    result = world.verifier.verify(turned)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.TURNED_PIXELS_EXACT)
    assert result.seal == "turned" and result.geometry == str(geometry)


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


def revoke(world: Any, record: Any, reason: Revocation = Revocation.CONSENT_WITHDRAWN) -> None:
    world.contracts.titles[record.leaf(world.domain)] = Title(record.owner, None, 1_800_000_000, reason, None)


@pytest.mark.parametrize("derived", [False, True])
def test_a_revoked_record_is_said_to_be_revoked(world: Any, derived: bool) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    revoke(world, world.record(image, world.alice))
    given = jpeg(image) if derived else image
    if derived:
        world.reader.say(given, world.payload)
    result = world.verifier.verify(given)
    assert (result.verdict, result.reason) == (Verdict.REVOKED, Reason.RECORD_REVOKED)
    assert result.owner == world.alice.address
    (check,) = [check for check in result.checks if check.name == "record stands"]
    assert check.passed is False
    assert check.detail.endswith("was revoked by its owner on 2027-01-15 08:00 UTC: consent withdrawn")


def test_a_record_that_took_the_place_of_a_revoked_one_counts(world: Any) -> None:
    image = world.phantom()
    old = world.record(image, world.alice, time=5)
    world.anchor(world.alice, old)
    world.release(image, world.alice)
    revoke(world, old, Revocation.SUPERSEDED)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    assert result.record.record["time"] == 1_700_000_000
    assert [check.passed for check in result.checks if check.name == "record stands"] == [None]


def test_a_revoked_claim_conflicts_with_nothing(world: Any) -> None:
    image = world.phantom()
    false_claim = world.record(world.phantom(3), world.bob)
    world.anchor(world.bob, false_claim)
    world.release(image, world.alice)
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).verdict is Verdict.CONFLICTING_CLAIMS
    revoke(world, false_claim, Revocation.ERRONEOUS)
    assert world.verifier.verify(copy).verdict is Verdict.AUTHENTIC_DERIVED


def test_a_new_owner_and_a_dispute_are_named(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    record = world.record(image, world.alice)
    changed = Title(world.bob.address, None, None, Revocation.NONE, b"e" * 32)
    world.contracts.titles[record.leaf(world.domain)] = changed
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    details = {check.name: check for check in result.checks}
    assert details["owner"].detail.startswith(f"now {world.bob.address}")
    assert details["uncontested"].passed is False
    assert (b"e" * 32).hex() in details["uncontested"].detail


def test_a_chain_that_goes_away_before_it_tells_of_a_revocation_proves_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)

    def away(record_id: bytes, owner: str) -> Title:
        raise ChainError("no chain answers there")

    monkeypatch.setattr(world.contracts, "title", away)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.UNVERIFIABLE
    assert result.record is None


def test_two_owners_of_one_payload_conflict_and_the_earlier_anchor_is_named(world: Any) -> None:
    image = world.phantom()
    world.anchor(world.alice, world.record(world.phantom(3), world.alice))
    world.release(image, world.bob)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.CONFLICTING_CLAIMS, Reason.SEVERAL_OWNERS)
    assert result.owner == world.alice.address
    assert [claim.owner for claim in result.claims] == [world.alice.address, world.bob.address]


@pytest.mark.parametrize("first", ["alice", "bob"])
@pytest.mark.parametrize("geometry", ALL[:2], ids=str)
def test_a_copied_record_takes_nothing_from_who_sealed_the_picture(world: Any, first: str, geometry: Geometry) -> None:
    image = world.phantom()
    given = geometry.apply(image)
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    if not geometry.identity:
        world.reader.say(given, world.payload, geometry=geometry)
    owners = [world.alice, world.bob] if first == "alice" else [world.bob, world.alice]
    for owner in owners:
        world.anchor(owner, world.record(image, owner))
    result = world.verifier.verify(given)
    assert result.verdict is (Verdict.AUTHENTIC if geometry.identity else Verdict.AUTHENTIC_DERIVED)
    assert result.owner == world.alice.address and [claim.owner for claim in result.claims] == [world.alice.address]
    (told,) = [check for check in result.checks if check.name == "another's record"]
    assert world.bob.address in told.detail and told.passed is None


def test_a_later_record_of_the_payload_takes_nothing_either(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.anchor(world.bob, world.record(image, world.bob, released_hash=b"x" * 32))
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_of_a_derived_copy_both_claims_stand(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.anchor(world.bob, world.record(image, world.bob))
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.owner) == (Verdict.CONFLICTING_CLAIMS, world.alice.address)


def test_a_seal_without_signature_settles_no_conflict(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, None))
    world.anchor(world.alice, world.record(image, world.alice))
    world.anchor(world.bob, world.record(image, world.bob))
    assert world.verifier.verify(image).verdict is Verdict.CONFLICTING_CLAIMS


def test_many_copies_of_a_record_cost_no_more_than_a_few(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    others = [world.record(image, world.bob, time=n, released_hash=bytes([n]) * 32) for n in range(30)]
    world.anchor(world.bob, *others, *(world.record(image, world.bob, time=n) for n in range(3)))
    asked: list[str] = []
    ask = world.contracts._ask
    monkeypatch.setattr(world.contracts, "_ask", lambda: (asked.append(inspect.stack()[1].function), ask()))
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    world.verifier.verify(copy)
    asked.clear()
    result = world.verifier.verify(copy)
    assert Counter(asked)["verify"] == 1 + MOST_PROVED
    assert Counter(asked)["anchor"] == Counter(asked)["is_member"] == 2
    assert len(result.claims) == 1 + MOST_PROVED
    (told,) = [check for check in result.checks if check.name == "all records looked at"]
    assert told.passed is None and told.detail.startswith(f"{33 - MOST_PROVED} left out")


def test_records_of_exactly_this_picture_are_proved_first(world: Any) -> None:
    image = world.phantom()
    others = [world.record(image, world.alice, time=n, released_hash=bytes([n]) * 32) for n in range(20)]
    world.anchor(world.alice, *others)
    world.release(image, world.alice)
    result = world.verifier.verify(image)
    assert (result.verdict, result.block) == (Verdict.AUTHENTIC, 11)


def test_many_single_registrations_are_bounded_too(world: Any) -> None:
    image = world.phantom()
    records = [world.record(image, world.bob, released_hash=bytes([n]) * 32) for n in range(20)]
    records.append(world.record(image, world.bob))
    for block, record in enumerate(records):
        one = Registration(record.leaf(world.domain), record, block, 1_700_000_050, "0x" + "cd" * 32)
        world.contracts.registered.append(one)
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert len(result.claims) == MOST_PROVED and world.verifier.ledger.left_out == 21 - MOST_PROVED


def noisy(payload: Payload, wrong: int) -> Any:
    """Soft bits of a payload, the last ones with the wrong sign."""
    soft = encode(payload).astype(np.float32)
    soft[-wrong:] *= -1
    return soft


def test_a_payload_that_nobody_wrote_does_not_hide_the_true_one(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: [world.payload.data])
    copy = jpeg(image)
    world.reader.say(copy, Payload(b"wrongone", b"seri"), soft_bits=noisy(world.payload, 14))
    result = world.verifier.verify(copy)
    assert (result.verdict, result.payload) == (Verdict.AUTHENTIC_DERIVED, world.payload.data.hex())
    assert result.corrected_bits == 14


def test_a_payload_that_names_a_record_is_not_searched_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.verifier.ledger, "payloads", lambda: pytest.fail("searched"))
    copy = jpeg(image)
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
    turned = np.rot90(jpeg(image)).copy()
    geometry, soft = Geometry(1), noisy(world.payload, 14)
    world.reader.say(turned, None, geometry=geometry, soft_bits=soft, presence=5.5, present=False, false_alarm=1e-4)
    result = world.verifier.verify(turned)
    assert (result.verdict, result.payload) == (Verdict.AUTHENTIC_DERIVED, world.payload.data.hex())
    assert (result.corrected_bits, result.geometry) == (14, "turned 90 degrees")
    assert 0 < result.false_alarm.computed < LIST_FALSE_MATCH
    assert {"search", "list"} <= set(result.milliseconds)
    world.reader.say(turned, None, geometry=geometry, soft_bits=soft, presence=1.5, present=False, false_alarm=0.3)
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


def test_other_angles_and_windows_are_searched_only_where_nothing_else_tells_of_a_mark(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    assert "search" not in world.verifier.verify(image).milliseconds
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    assert "search" not in world.verifier.verify(copy).milliseconds
    world.reader.say(copy, None, world.seal(copy, world.alice), present=False, false_alarm=2.0)
    assert world.verifier.verify(copy).seal == "intact" and world.reader.searched == 0
    assert "search" in world.verifier.verify(world.phantom(8)).milliseconds and world.reader.searched == 1


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
    for changed in (part, jpeg(part, 70)):
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


@dataclass
class Released:
    """A picture that the real watermarker marked for alice, and a verifier with it."""

    marked: Any
    verifier: Verifier
    world: Any


@pytest.fixture(scope="module")
def watermarker() -> DualWatermarker:
    return DualWatermarker.load(device="cpu", threads=1)


@pytest.fixture(scope="module")
def made() -> dict[str, Marked]:
    """What marking has given, which takes seconds."""
    return {}


@pytest.fixture
def released(world: Any, watermarker: DualWatermarker, made: dict[str, Marked]) -> Released:
    def sign(mark: ImageMark) -> bytes:
        return eip712.sign_image_mark(mark, world.domain, world.alice)

    if not made:
        made["picture"] = watermarker.mark(world.phantom(1, 256, 256), world.payload, signer=sign)
    one = made["picture"]
    hashes = {"cover_hash": one.cover_hash, "marked_hash": one.marked_hash, "model": watermarker.model}
    world.anchor(world.alice, world.record(one.image, world.alice, **hashes))
    return Released(one.image, Verifier(watermarker, world.verifier.ledger), world)


@pytest.mark.slow
def test_a_copy_of_a_keyed_mark_says_nothing_without_the_key(world: Any, watermarker: DualWatermarker) -> None:
    keyed = DualWatermarker.load(device="cpu", threads=1, key=b"k" * 32)
    other = DualWatermarker.load(device="cpu", threads=1, key=b"o" * 32)
    made = keyed.mark(world.phantom(1, 256, 256), world.payload)
    hashes = {"cover_hash": made.cover_hash, "marked_hash": made.marked_hash, "model": keyed.model}
    world.anchor(world.alice, world.record(made.image, world.alice, **hashes))
    copy = jpeg(made.image, 90)
    found = [Verifier(one, world.verifier.ledger).verify(copy) for one in (keyed, watermarker, other)]
    assert [one.verdict for one in found] == [Verdict.AUTHENTIC_DERIVED, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert all(one.payload is None and one.presence < THRESHOLD for one in found[1:])
    # the integrity mark is everybody's, and names the record
    assert Verifier(watermarker, world.verifier.ledger).verify(made.image).verdict is Verdict.AUTHENTIC


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


def spoilt(image: Any) -> Any:
    """An object pasted into the middle."""
    changed = image.copy()
    part = changed[105:145, 115:155]
    part[...] = 235 if np.median(part) < 128 else 15
    return changed


def within(result: Any, *frame: int) -> bool:
    """Whether all heat lies inside a box."""
    boxes = np.array(result.heat[0].boxes)
    return bool((boxes[:, :2] > frame[:2]).all() and (boxes[:, 2:] < frame[2:]).all())


@pytest.mark.slow
@pytest.mark.parametrize("expand", [False, True])
def test_a_picture_turned_by_twelve_degrees(released: Released, expand: bool) -> None:
    def turned(a: Any) -> Any:
        return np.asarray(Image.fromarray(a).rotate(12, Image.Resampling.BICUBIC, expand=expand))

    result = released.verifier.verify(turned(released.marked))
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES)
    assert result.payload == released.world.payload.data.hex()
    assert 11.5 < float(result.geometry.split()[1]) < 12.5
    assert result.heat[0].overlap > 0.85 and result.false_alarm.computed < 1e-9
    assert {"extract", "search"} <= set(result.milliseconds)
    result = released.verifier.verify(turned(spoilt(released.marked)))
    assert (result.verdict, result.reason) == (Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART)
    assert within(result, 80, 80, 230, 230)


@pytest.mark.slow
def test_a_window_of_sixty_per_cent(released: Released) -> None:
    result = released.verifier.verify(released.marked[38:236, 26:224].copy())
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES)
    assert result.payload == released.world.payload.data.hex()
    assert 0.45 < result.heat[0].overlap < 0.62
    result = released.verifier.verify(spoilt(released.marked)[38:236, 26:224].copy())
    assert (result.verdict, result.reason) == (Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART)
    assert within(result, 50, 70, 125, 145)


@pytest.mark.slow
def test_the_untouched_and_the_never_marked_picture(released: Released) -> None:
    assert released.verifier.verify(released.marked).verdict is Verdict.AUTHENTIC
    result = released.verifier.verify(released.world.phantom(1, 256, 256))
    assert result.verdict is Verdict.UNKNOWN and result.false_alarm.computed == FALSE_ALARM
    assert result.milliseconds["search"] > result.milliseconds["extract"]


def test_a_mark_on_a_picture_without_contrast_is_a_copied_mark(world: Any) -> None:
    world.release(world.phantom(), world.alice)
    grey = np.clip(20 + np.random.default_rng(5).normal(0, 2, (192, 224)), 0, 255).astype(np.uint8)
    grey[18:36, 21:42], grey[48:54, 56:70] = 255, 255
    world.reader.say(grey, world.payload)
    result = world.verifier.verify(grey)
    assert (result.verdict, result.reason) == (Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS)
    assert any(check.name == "content" and "this one shows it in" in check.detail for check in result.checks)


def dicom(tmp_path: Path, world: Any, **changes: Any) -> tuple[Path, Any]:
    """A DICOM file of the phantom with changed elements, and its attributes before the change."""
    made = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    image = world.phantom()
    made.Rows, made.Columns = image.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    del made.PixelPaddingValue
    made.PixelData = image.tobytes()
    made["PixelData"].VR = "OB"
    made.save_as(tmp_path / "a.dcm")
    attributes = media.attributes(media.read(tmp_path / "a.dcm"))
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    made.save_as(tmp_path / "b.dcm")
    return tmp_path / "b.dcm", attributes


def test_a_header_as_released_matches(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.MATCHES)
    assert result.metadata.compared == len(attributes) and result.metadata.differing == ()


def test_a_changed_header_is_told_beside_the_verdict(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world, PatientName="SOMEBODY^ELSE", Laterality="R", RescaleIntercept="-500")
    world.release(world.phantom(), world.alice, attributes)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.DIFFERS)
    assert result.metadata.differing == ("Laterality", "PatientName", "RescaleIntercept")
    assert "SOMEBODY" not in result.metadata.sentence and "not as released: Laterality" in result.metadata.sentence


def test_the_header_of_a_tampered_file_is_compared_too(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world, PatientID="another")
    world.release(world.phantom(), world.alice, attributes)
    pixels = media.read(file)
    changed = pixels.array.copy()
    changed[70, 40] ^= 1
    media.write(tmp_path / "c.dcm", changed, pixels)
    world.reader.say(changed, world.payload)
    result = world.verifier.verify(tmp_path / "c.dcm")
    assert (result.verdict, result.metadata.differing) == (Verdict.TAMPERED, ("PatientID",))


def test_the_same_picture_in_another_format_has_no_metadata_to_compare(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    pixels = media.read(file)
    for name in ("a.png", "a.tif"):
        media.write(tmp_path / name, pixels.array, pixels)
        result = world.verifier.verify(tmp_path / name)
        assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.NOT_AVAILABLE)


def test_the_header_of_an_authentic_file_stays_open_without_the_store(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    assert world.verifier.verify(file).metadata.state is State.MATCHES
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.NOT_AVAILABLE)
    assert "could not be fetched" in result.metadata.sentence
    assert all(check.passed is not False for check in result.checks)


def test_without_a_record_the_header_is_not_compared(world: Any, tmp_path: Path) -> None:
    file, _ = dicom(tmp_path, world)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.UNKNOWN, State.NOT_AVAILABLE)
    assert "no record" in result.metadata.sentence


def test_two_records_of_one_owner_do_not_conflict_and_the_fitting_one_counts(world: Any) -> None:
    world.anchor(world.alice, world.record(world.phantom(5), world.alice))
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert result.verdict is Verdict.AUTHENTIC_DERIVED
    assert result.block == 11


def test_a_strangers_signature_is_not_lent_a_members_name(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    again = jpeg(image, 95)
    world.reader.say(again, world.payload, world.seal(again, world.mallory))
    result = world.verifier.verify(again)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE)
    assert result.signer == world.mallory.address


def test_another_members_seal_on_a_recorded_payload_is_a_mismatch(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    again = jpeg(image, 95)
    world.reader.say(again, world.payload, world.seal(again, world.bob))
    result = world.verifier.verify(again)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.RECORD_MISMATCH)


def test_a_record_with_other_hashes_than_the_seal_is_a_mismatch(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    world.anchor(world.alice, world.record(image, world.alice, marked_hash=b"x" * 32))
    assert world.verifier.verify(image).reason is Reason.RECORD_MISMATCH


def test_sealed_but_not_yet_anchored(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.NO_RECORD)
    assert any(world.alice.address in line for line in result.proved_offline)


def test_the_anchor_of_a_stranger_counts_for_nothing(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.mallory)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE)
    assert result.claims == ()


def test_a_proof_that_the_contract_refuses_counts_for_nothing(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.contracts.forged = True
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


def test_chain_away_says_what_holds_offline_and_comes_back(make_world: Callable[..., Any], tmp_path: Path) -> None:
    world = make_world(tmp_path / "index.sqlite")
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    world.contracts.away = True
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.CHAIN_UNREACHABLE)
    assert any("no sample has changed" in line for line in result.proved_offline)
    assert any("an earlier run saw a record of exactly these pixels" in line for line in result.proved_offline)
    world.contracts.away = False
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_chain_away_does_not_make_an_unmarked_picture_suspicious(world: Any) -> None:
    world.contracts.away = True
    assert world.verifier.verify(world.phantom()).verdict is Verdict.UNKNOWN


def test_a_missing_manifest_is_the_stores_fault_and_heals(world: Any, tmp_path: Path) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.STORE_UNREACHABLE)
    (tmp_path / "elsewhere").rename(tmp_path / "blocks")
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_evidence_that_is_gone_leaves_the_content_open(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    world.verifier.verify(image)
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREACHABLE)
    # the untouched picture needs no evidence
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_store_that_cannot_be_opened_leaves_the_content_open(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    world.verifier.verify(copy)

    def closed(_: Config) -> None:
        raise StoreError("store: unusable")

    monkeypatch.setattr("medprov_ledger.store.open_store", closed)
    monkeypatch.setattr(world.verifier.ledger, "_store", None)
    assert world.verifier.verify(copy).reason is Reason.EVIDENCE_UNREACHABLE


def test_evidence_of_another_payload_does_not_open(world: Any) -> None:
    image = world.phantom()
    other = world.record(image, world.alice, Payload(b"otherone", b"seri"))
    world.anchor(world.alice, world.record(image, world.alice, evidence_cid=other.evidence_cid))
    copy = jpeg(image)
    world.reader.say(copy, world.payload)
    assert world.verifier.verify(copy).reason is Reason.EVIDENCE_UNREADABLE


def test_a_flat_picture_is_not_compared(world: Any) -> None:
    flat = np.full((192, 224), 90, np.uint8)
    world.anchor(world.alice, world.record(flat, world.alice))
    copy = flat + np.uint8(1)
    world.reader.say(copy, world.payload)
    result = world.verifier.verify(copy)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_NOT_COMPARED)


def test_a_single_registration_counts(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    registration = Registration(record.leaf(world.domain), record, 7, 1_700_000_050, "0x" + "cd" * 32)
    world.contracts.registered.append(registration)
    result = world.verifier.verify(image)
    assert result.verdict is Verdict.AUTHENTIC
    assert result.record is not None and (result.record.block, result.record.manifest) == (7, "")


def test_a_registration_under_a_false_id_is_left_out(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, world.payload, world.seal(image, world.alice))
    record = world.record(image, world.alice)
    world.contracts.registered.append(Registration(b"z" * 32, record, 7, 1_700_000_050, "0x" + "cd" * 32))
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


def test_one_malformed_registration_stops_nobody(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def malformed() -> None:
        raise RecordError("evidence_cid: not a CID")

    image = world.phantom()
    world.release(image, world.alice)
    monkeypatch.setattr(world.contracts, "registrations", malformed)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    world.reader.say(world.phantom(7), Payload(b"otherone", b"seri"))
    assert world.verifier.verify(world.phantom(7)).reason is Reason.STORE_UNREACHABLE


def test_a_mark_too_weak_to_read(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, None, presence=9.0)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.MARK_UNREADABLE)


def test_unknown_states_both_bounds(world: Any) -> None:
    result = world.verifier.verify(world.phantom())
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.NOTHING_FOUND)
    assert result.false_alarm.computed == FALSE_ALARM
    assert 0 < result.false_alarm.measured < 1


def test_path_pixels_and_array_give_the_same(world: Any, tmp_path: Path) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels = Pixels(image, 8, (0, 255), None, None, "image/png")
    results = [world.verifier.verify(given) for given in (tmp_path / "a.png", str(tmp_path / "a.png"), pixels, image)]
    assert {result.verdict for result in results} == {Verdict.AUTHENTIC}
    assert len({result.content_hash for result in results}) == 1
    assert [result.source for result in results] == ["a.png", "a.png", "pixels", "array"]


@pytest.mark.parametrize(
    "given",
    [np.zeros((4, 4), np.float64), np.zeros((4,), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_what_is_not_a_picture_is_refused(world: Any, given: Any) -> None:
    with pytest.raises(UnreadableError):
        world.verifier.verify(given)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not a picture"])
def test_a_damaged_file_is_refused_by_name(world: Any, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"bad\.png"):
        world.verifier.verify(file)


def test_the_index_is_kept_in_the_users_cache_and_does_without_it(
    make_world: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    world = make_world(None)
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    file = cache_file(world.config)
    assert file.is_file() and file.is_relative_to(tmp_path / "cache")
    assert cache_file(replace(world.config, chain_id=1)) != file
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    again = make_world(None)
    again.release(image, again.alice)
    assert again.verifier.verify(image).verdict is Verdict.AUTHENTIC


def test_a_forged_index_file_proves_nothing(make_world: Callable[..., Any], tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "index.sqlite"
    world = make_world(file)
    image = world.phantom()
    world.release(image, world.alice)
    assert world.verifier.verify(image).verdict is Verdict.AUTHENTIC
    forged = hashlib.sha3_256(b"forged").digest()
    with sqlite3.connect(file) as db:
        text = db.execute("SELECT record FROM records").fetchone()[0]
        changed = text.replace(world.record(image, world.alice).model.hex(), forged.hex())
        assert changed != text
        db.execute("UPDATE records SET record = ?", (changed,))
    assert world.verifier.verify(image).reason is Reason.NO_RECORD


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        Verifier.from_config(tmp_path / "nowhere.toml")
