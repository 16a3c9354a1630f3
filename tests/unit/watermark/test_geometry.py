"""The eight orientations, and warps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medprov_watermark.geometry import ALL, Geometry, Matrix, Warp, compose, inverse, unit_matrix


def test_there_are_eight_and_the_first_is_upright() -> None:
    assert len(set(ALL)) == 8
    assert ALL[0] == Geometry()
    assert [g.identity for g in ALL] == [True] + [False] * 7


@pytest.mark.parametrize("geometry", ALL, ids=str)
@pytest.mark.parametrize("shape", [(5, 8), (4, 4), (3, 7, 3)])
def test_undo_undoes_apply_and_the_other_way_round(geometry: Geometry, shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    for back in (geometry.undo(geometry.apply(image)), geometry.apply(geometry.undo(image))):
        np.testing.assert_array_equal(back, image)
        assert back.flags.c_contiguous
        assert back.dtype == image.dtype


def test_orientations_differ_on_a_picture_without_symmetry() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(3, 3)
    assert len({g.apply(image).tobytes() for g in ALL}) == 8


def test_first_mirrored_left_to_right_then_turned_counter_clockwise() -> None:
    image = np.array([[1, 2], [3, 4]], np.uint8)
    np.testing.assert_array_equal(Geometry(0, True).apply(image), [[2, 1], [4, 3]])
    np.testing.assert_array_equal(Geometry(1, False).apply(image), [[2, 4], [1, 3]])
    np.testing.assert_array_equal(Geometry(1, True).apply(image), [[1, 3], [2, 4]])


def test_the_result_is_a_copy_even_when_upright() -> None:
    image = np.zeros((4, 4), np.uint8)
    Geometry().undo(image)[0, 0] = 9
    Geometry().apply(image)[0, 0] = 9
    assert not image.any()


def test_names() -> None:
    assert str(Geometry()) == "upright"
    assert str(Geometry(2, False)) == "turned 180 degrees"
    assert str(Geometry(0, True)) == "mirrored"
    assert str(Geometry(3, True)) == "mirrored, turned 270 degrees"


def turn(degrees: float, cover: tuple[int, int], canvas: tuple[int, int], scale: float = 1.0) -> Matrix:
    """From a cover's pixels to those of a canvas on which it lies turned counter-clockwise about the common centre."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    about: Matrix = (c, s, 0.0, -s, c, 0.0)
    to_centre: Matrix = (1.0, 0.0, -cover[1] / 2, 0.0, 1.0, -cover[0] / 2)
    return compose((1.0, 0.0, canvas[1] / 2, 0.0, 1.0, canvas[0] / 2), compose(about, to_centre))


def smooth(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.rint(120 + 80 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)


MAPS = st.tuples(*[st.floats(-3, 3)] * 6).filter(lambda m: abs(m[0] * m[4] - m[1] * m[3]) > 0.01)


@settings(deadline=None)
@given(MAPS, MAPS, st.floats(-9, 9), st.floats(-9, 9))
def test_maps_are_composed_and_inverted(first: Matrix, second: Matrix, x: float, y: float) -> None:
    def moved(m: Matrix, x: float, y: float) -> tuple[float, float]:
        return m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]

    assert moved(compose(first, second), x, y) == pytest.approx(moved(first, *moved(second, x, y)), abs=1e-9)
    assert moved(inverse(first), *moved(first, x, y)) == pytest.approx((x, y), abs=1e-6)


@pytest.mark.parametrize("geometry", ALL, ids=str)
@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (5, 8, 3)])
def test_a_warp_can_do_what_an_orientation_does(geometry: Geometry, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    given = geometry.apply(image)
    height, width = shape[:2]
    pixels: Matrix = (given.shape[1], 0.0, 0.0, 0.0, given.shape[0], 0.0)
    matrix = compose(pixels, compose(unit_matrix(geometry), (1 / width, 0.0, 0.0, 0.0, 1 / height, 0.0)))
    warped = Geometry(warp=Warp(matrix, height, width))
    np.testing.assert_array_equal(warped.undo(given), image)
    assert warped.undo(given).dtype == image.dtype and warped.shown(*given.shape[:2]).all()
    described = str(geometry) if not geometry.identity else "cut out or moved"
    if not geometry.flipped:
        assert str(warped).replace(".0", "") == described
    assert ("mirrored" in str(warped)) == geometry.flipped


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", [False, True])
def test_a_window_comes_back_into_its_place_and_the_rest_is_black(kind: type, colour: bool) -> None:
    image = smooth().astype(kind)
    image = np.stack([image, image // 2, image // 3], axis=2) if colour else image
    geometry = Geometry(warp=Warp((1.0, 0.0, -20.0, 0.0, 1.0, -10.0), 60, 80))
    back, shown = geometry.undo(image[10:50, 20:70]), geometry.shown(40, 50)
    inside = np.zeros((60, 80), bool)
    inside[10:50, 20:70] = True
    np.testing.assert_array_equal(shown, inside)
    np.testing.assert_array_equal(back[inside], image[inside])
    assert not back[~inside].any() and back.dtype == image.dtype


@pytest.mark.parametrize("degrees", [12.0, -33.0, 100.0])
def test_a_turned_picture_comes_back(degrees: float) -> None:
    image = smooth()
    turned = np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC))
    geometry = Geometry(warp=Warp(turn(degrees, image.shape, turned.shape), *image.shape))
    back, shown = geometry.undo(turned), geometry.shown(*turned.shape)
    assert geometry.warp is not None and geometry.warp.degrees == pytest.approx(degrees)
    assert 0.4 < shown.mean() < 0.95 and not back[~shown].any()
    # at the very edge bicubic turning has mixed in black
    inner = shown[1:-1, 1:-1] & shown[:-2, 1:-1] & shown[2:, 1:-1] & shown[1:-1, :-2] & shown[1:-1, 2:]
    assert np.abs(back[1:-1, 1:-1].astype(int) - image[1:-1, 1:-1])[inner].max() <= 12


@pytest.mark.parametrize(
    ("matrix", "scale", "degrees", "text"),
    [
        ((1.0, 0.0, -20.0, 0.0, 1.0, -10.0), 1.0, 0.0, "cut out or moved"),
        ((0.5, 0.0, 0.0, 0.0, 0.5, 0.0), 0.5, 0.0, "cut out or moved"),
        (turn(12, (60, 80), (60, 80)), 1.0, 12.0, "turned 12.0 degrees"),
        (turn(-12.3, (60, 80), (60, 80), 2), 2.0, -12.3, "turned 347.7 degrees"),
        (turn(0.3, (60, 80), (60, 80)), 1.0, 0.3, "cut out or moved"),
        (
            compose(turn(12, (60, 80), (60, 80)), (-1.0, 0.0, 80.0, 0.0, 1.0, 0.0)),
            1.0,
            12.0,
            "mirrored, turned 12.0 degrees",
        ),
    ],
)
def test_a_warp_says_how_the_picture_lies(matrix: Matrix, scale: float, degrees: float, text: str) -> None:
    geometry = Geometry(warp=Warp(matrix, 60, 80))
    assert geometry.warp is not None and not geometry.identity
    assert geometry.warp.scale == pytest.approx(scale)
    assert geometry.warp.degrees == pytest.approx(degrees, abs=1e-9)
    assert str(geometry) == text


def test_a_warp_is_undone_and_never_applied() -> None:
    with pytest.raises(ValueError, match="warp"):
        Geometry(warp=Warp((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 4, 4)).apply(np.zeros((4, 4), np.uint8))
