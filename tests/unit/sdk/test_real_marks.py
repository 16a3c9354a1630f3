"""The verifier with the real watermarker, on one marked picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_ledger import eip712
from medprov_sdk import Reason, Verdict, Verifier
from medprov_watermark.detection import FALSE_ALARM, THRESHOLD
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.watermarker import DualWatermarker, Marked


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
    copy = world.jpeg(made.image, 90)
    found = [Verifier(one, world.verifier.ledger).verify(copy) for one in (keyed, watermarker, other)]
    assert [one.verdict for one in found] == [Verdict.AUTHENTIC_DERIVED, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert all(one.payload is None and one.presence < THRESHOLD for one in found[1:])
    # the integrity mark is everybody's, and names the record
    assert Verifier(watermarker, world.verifier.ledger).verify(made.image).verdict is Verdict.AUTHENTIC


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
