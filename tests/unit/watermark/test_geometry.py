"""The eight orientations."""

from __future__ import annotations

import numpy as np
import pytest

from medprov_watermark.geometry import ALL, Geometry


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
