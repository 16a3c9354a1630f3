"""The cover's frame is found again from the evidence's levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from medprov_watermark import features
from medprov_watermark.geometry import Geometry, Matrix, Warp, compose
from medprov_watermark.registration import REACH, refined

Picture = NDArray[np.uint8]
SIDE = 256


def camera() -> Picture:
    return np.asarray(Image.fromarray(data.camera()).resize((SIDE, SIDE)))


def smooth() -> Picture:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return np.rint(120 + 60 * np.cos(4 * x + y) * np.sin(3 * y) + 40 * x).astype(np.uint8)


def about_the_centre(degrees: float, scale: float = 1.0, across: float = 0.0, down: float = 0.0) -> Matrix:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    half = SIDE / 2
    return compose((1, 0, half + across, 0, 1, half + down), (c, s, -half * (c + s), -s, c, -half * (c - s)))


def rotated(a: Picture, degrees: float) -> tuple[Picture, Warp]:
    turned = np.asarray(Image.fromarray(a).rotate(degrees, Image.Resampling.BICUBIC))
    return turned, Warp(about_the_centre(degrees), SIDE, SIDE)


def cut(a: Picture, top: int, left: int, height: int, width: int) -> tuple[Picture, Warp]:
    return a[top : top + height, left : left + width].copy(), Warp((1, 0, -left, 0, 1, -top), SIDE, SIDE)


def apart(first: Warp, second: Warp) -> float:
    """Largest distance of a corner of the frame, pixels."""
    corners = np.array([[0, SIDE, 0, SIDE], [0, 0, SIDE, SIDE], [1, 1, 1, 1]])
    moved = (np.reshape(first.matrix, (2, 3)) - np.reshape(second.matrix, (2, 3))) @ corners
    return float(np.hypot(*moved).max())


WRONG = {
    "turned": about_the_centre(0.4),
    "larger": about_the_centre(0, 1.012),
    "shifted": about_the_centre(0, 1, 1.5, -2),
    "all": about_the_centre(-0.3, 0.992, -1, 1.2),
    "right": about_the_centre(0),
}


@pytest.mark.parametrize("make", [camera, smooth])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    "view",
    [(rotated, -40), (cut, 20, 35, 182, 182), (cut, 60, 5, 160, 200)],
    ids=("turned", "window", "edge"),
)
@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_a_wrong_frame_is_put_right(make, wrong: str, view: tuple, exponent: float) -> None:
    image = make()
    shown, true = view[0](image, *view[1:])
    shown = np.rint(255 * (shown / 255) ** exponent).astype(np.uint8)
    released = features.ordinal_features(image)
    near = Warp(compose(true.matrix, WRONG[wrong]), SIDE, SIDE)
    found = refined(released, shown, Geometry(warp=near))
    assert found.warp is not None
    assert apart(found.warp, true) < 1
    result = features.compare(released, found.undo(shown), found.shown(*shown.shape))
    assert not result.differs.any() and result.overlap > features.MIN_OVERLAP


def test_a_changed_place_does_not_pull() -> None:
    image = camera()
    released = features.ordinal_features(image)
    shown, true = rotated(image, 12)
    shown = shown.copy()
    shown[100:150, 90:150] = 255
    found = refined(released, shown, Geometry(warp=Warp(compose(true.matrix, WRONG["all"]), SIDE, SIDE)))
    assert found.warp is not None and apart(found.warp, true) < 0.7
    assert features.compare(released, found.undo(shown), found.shown(SIDE, SIDE)).differs.any()


def test_the_frame_of_another_size_keeps_its_size() -> None:
    image = camera()
    half = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BOX))
    near = Warp(compose((0.5, 0, 0, 0, 0.5, 0), compose(WRONG["all"], (2, 0, 0, 0, 2, 0))), 128, 128)
    found = refined(features.ordinal_features(image), half, Geometry(warp=near))
    assert found.warp is not None and (found.warp.height, found.warp.width) == (128, 128)
    assert (
        apart(Warp(compose(found.warp.matrix, (0.5, 0, 0, 0, 0.5, 0)), SIDE, SIDE), Warp((0.5, 0, 0, 0, 0.5, 0), 1, 1))
        < 0.5
    )


def test_colour_and_sixteen_bits() -> None:
    image = np.rint(camera()[..., None] * np.array([200.0, 160.0, 120.0])).astype(np.uint16)
    near = Geometry(warp=Warp(WRONG["all"], SIDE, SIDE))
    found = refined(features.ordinal_features(image), image, near)
    assert found.warp is not None and apart(found.warp, Warp(WRONG["right"], SIDE, SIDE)) < 0.5


def test_another_picture_is_not_made_to_fit() -> None:
    released = features.ordinal_features(camera())
    near = Warp(about_the_centre(12), SIDE, SIDE)
    found = refined(released, smooth(), Geometry(warp=near))
    assert found.warp is not None and apart(found.warp, near) <= REACH * SIDE * math.sqrt(2)
    result = features.compare(released, found.undo(smooth()), found.shown(SIDE, SIDE))
    assert result.share >= features.COPIED_SHARE


@pytest.mark.parametrize("value", [0, 90, 255])
def test_a_flat_picture_and_one_that_shows_nothing_move_nothing(value: int) -> None:
    released = features.ordinal_features(camera())
    flat = np.full((SIDE, SIDE), value, np.uint8)
    for matrix in (WRONG["right"], (1.0, 0.0, -9999.0, 0.0, 1.0, 0.0)):
        assert refined(released, flat, Geometry(warp=Warp(matrix, SIDE, SIDE))).warp == Warp(matrix, SIDE, SIDE)


def test_without_a_warp_nothing_is_done() -> None:
    assert refined(features.ordinal_features(camera()), camera(), Geometry(1, True)) == Geometry(1, True)


def test_features_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="ordinal features"):
        refined(b"", camera(), Geometry(warp=Warp(WRONG["all"], SIDE, SIDE)))
