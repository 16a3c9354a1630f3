"""Prediction-error expansion on one lattice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark.integrity import canvas, pee
from medprov_watermark.integrity.canvas import Rules
from medprov_watermark.integrity.header import THRESHOLDS, max_threshold

NO_CELLS = np.zeros(0, np.int64)


def picture(kind: str, shape: tuple[int, int], top: int, random: np.random.Generator) -> NDArray[np.uint16]:
    height, width = shape
    row, column = np.mgrid[:height, :width]
    if kind == "noise":
        made = random.integers(0, top + 1, shape)
    elif kind == "black":
        made = np.abs(random.normal(0, 1.5, shape))
    elif kind == "white":
        made = top - np.abs(random.normal(0, 1.5, shape))
    elif kind == "edges":
        made = top * ((row // 5 + column // 7) % 2) + random.integers(-1, 2, shape)
    elif kind == "checkerboard":
        made = top * ((row + column) % 2)
    else:
        made = top * (row + column) / (height + width) + random.normal(0, 2, shape)
    return np.clip(np.rint(made), 0, top).astype(np.uint16)


KINDS = ["noise", "black", "white", "edges", "checkerboard", "gradient"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(48, 70), st.integers(48, 70)),
    st.sampled_from([255, 4095, 65535, 254, 20]),
    st.sampled_from(THRESHOLDS),
    st.integers(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_bits_and_pixels_come_back(
    kind: str, shape: tuple[int, int], top: int, threshold: int, which: int, fill: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    threshold = min(threshold, max(step for step in THRESHOLDS if step <= max_threshold(top)))
    rules = Rules((0, top), None, False, None)
    area = canvas.build(picture(kind, shape, top, random).ravel(), shape, 40, NO_CELLS, rules)
    before = area.plane.copy()
    lattice = area.lattice(which, rules)
    room = pee.plan(lattice, threshold, 1).available
    payload = random.integers(0, 2, int(room * fill)).astype(np.uint8)
    assert pee.hide(area.plane, lattice, threshold, payload)
    assert area.plane.max() <= top
    assert np.array_equal(area.plane < 0, before < 0)
    other = area.places[1 - which]
    assert np.array_equal(area.plane[other], before[other])
    found = pee.seek(area.plane, area.lattice(which, rules), threshold, payload.size)
    assert found is not None
    assert np.array_equal(found, payload)
    assert np.array_equal(area.plane, before)
    assert not pee.hide(area.plane, lattice, threshold, np.zeros(room + 1, np.uint8))
    assert np.array_equal(area.plane, before)


def test_plan_agrees_with_the_change() -> None:
    random = np.random.default_rng(5)
    rules = Rules((0, 255), None, False, None)
    area = canvas.build(picture("gradient", (64, 64), 255, random).ravel(), (64, 64), 40, NO_CELLS, rules)
    before = area.plane.copy()
    lattice = area.lattice(0, rules)
    planned = pee.plan(lattice, 2, 300)
    assert pee.hide(area.plane, lattice, 2, random.integers(0, 2, 300).astype(np.uint8))
    change = (area.plane - before).astype(np.int64)
    assert 2 * (change * change).sum() == pytest.approx(planned.cost, rel=0.1)
    assert not change[lattice.places[planned.stop :]].any()


@pytest.mark.parametrize("level", [0, 255])
def test_saturated_picture_costs_half_a_level_per_bit(level: int) -> None:
    rules = Rules((0, 255), None, False, None)
    area = canvas.build(np.full(64 * 64, level, np.uint8), (64, 64), 40, NO_CELLS, rules)
    lattice = area.lattice(0, rules)
    planned = pee.plan(lattice, 1, 2000)
    assert planned.available == 2048
    assert planned.cost == 2000


def test_pixel_checkerboard_and_full_noise_hold_nothing() -> None:
    rules = Rules((0, 255), None, False, None)
    random = np.random.default_rng(2)
    for kind in ("checkerboard", "noise"):
        area = canvas.build(picture(kind, (64, 64), 255, random).ravel(), (64, 64), 40, NO_CELLS, rules)
        assert pee.plan(area.lattice(0, rules), 1, 100).stop == 0


def test_reader_refuses_more_bits_than_there_are_places() -> None:
    rules = Rules((0, 255), None, False, None)
    area = canvas.build(np.zeros(64 * 64, np.uint8), (64, 64), 40, NO_CELLS, rules)
    before = area.plane.copy()
    assert pee.seek(area.plane, area.lattice(0, rules), 1, 2049) is None
    assert np.array_equal(area.plane, before)


@given(st.integers(48, 90), st.integers(48, 90), st.integers(1, 60))
@settings(deadline=None)
def test_frame_is_the_pixels_near_the_border(height: int, width: int, frame: int) -> None:
    row, column = np.mgrid[:height, :width]
    depth = np.minimum(np.minimum(row, height - 1 - row), np.minimum(column, width - 1 - column))
    expected = np.flatnonzero(depth.ravel() < frame)
    assert np.array_equal(canvas.frame_pixels(height, width, frame), expected)
    assert canvas.frame_size(height, width, frame) == expected.size


@given(st.integers(0, 300), st.integers(301, 600), st.one_of(st.none(), st.integers(0, 600)))
def test_line_of_legal_samples_has_no_gap(low: int, high: int, padding: int | None) -> None:
    rules = Rules((low, high), padding, False, None)
    values = np.arange(700, dtype=np.int32)
    line = rules.to_line(values)
    legal = (values >= low) & (values <= high) & (values != padding)
    assert np.array_equal(line >= 0, legal)
    assert np.array_equal(line[legal], np.arange(rules.span + 1))
    assert np.array_equal(rules.from_line(line[legal]), values[legal])


def test_lattices_are_the_two_colours_of_a_checkerboard() -> None:
    rules = Rules((0, 255), 9, False, None)
    values = np.zeros(49 * 50, np.uint8)
    values[3] = 9
    area = canvas.build(values, (49, 50), 4, np.array([0, 1]), rules)
    for which, pixels in enumerate(area.pixels):
        assert ((pixels // 50 + pixels % 50) % 2 == which).all()
        assert not np.isin(pixels, [0, 1, 3]).any()
    assert sum(pixels.size for pixels in area.pixels) == canvas.frame_size(49, 50, 4) - 3
