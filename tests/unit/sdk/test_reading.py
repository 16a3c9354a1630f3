"""medprov_sdk.reading, through the verifier."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_sdk import Reason, Verdict
from medprov_sdk.errors import UnreadableError
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.pixels import Pixels


@pytest.mark.parametrize("geometry", ALL[1:], ids=str)
def test_turned_without_loss_is_derived_with_exact_pixels(world: Any, geometry: Geometry) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    turned = geometry.apply(image)
    world.reader.say(turned, world.payload, geometry=geometry)
    result = world.verifier.verify(turned)
    assert (result.verdict, result.reason) == (Verdict.AUTHENTIC_DERIVED, Reason.TURNED_PIXELS_EXACT)
    assert result.seal == "turned" and result.geometry == str(geometry)


def test_other_angles_and_windows_are_searched_only_where_nothing_else_tells_of_a_mark(world: Any) -> None:
    image = world.phantom()
    world.release(image, world.alice)
    assert "search" not in world.verifier.verify(image).milliseconds
    copy = world.jpeg(image)
    world.reader.say(copy, world.payload)
    assert "search" not in world.verifier.verify(copy).milliseconds
    world.reader.say(copy, None, world.seal(copy, world.alice), present=False, false_alarm=2.0)
    assert world.verifier.verify(copy).seal == "intact" and world.reader.searched == 0
    assert "search" in world.verifier.verify(world.phantom(8)).milliseconds and world.reader.searched == 1


def test_a_mark_too_weak_to_read(world: Any) -> None:
    image = world.phantom()
    world.reader.say(image, None, presence=9.0)
    result = world.verifier.verify(image)
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Reason.MARK_UNREADABLE)


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
