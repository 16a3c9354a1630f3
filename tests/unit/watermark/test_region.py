"""The region map as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark import region
from medprov_watermark.integrity import blocks
from medprov_watermark.region import RegionError


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Noise, rectangles and lines, never empty."""
    side = draw(st.sampled_from(region.SIDES))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cells = random.random((side, side)) < draw(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.95, 1.0]))
    top, bottom, left, right = np.sort(random.integers(0, side, (2, 2)), axis=1).ravel()
    cells[top : bottom + 1, left : right + 1] = draw(st.booleans())
    cells[draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))] = True
    return cells


@settings(max_examples=80, deadline=None)
@given(maps(), st.binary(max_size=5), st.binary(max_size=5))
def test_round_trip(cells: NDArray[np.bool_], before: bytes, after: bytes) -> None:
    packed = region.pack(cells)
    found, place = region.unpack(before + packed + after, len(before))
    np.testing.assert_array_equal(found, cells)
    assert place == len(before) + len(packed)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0, 15, 16, 32, 64, 255]), st.integers(0, 40), st.binary(max_size=40))
def test_hostile_bytes_give_the_one_map_that_is_coded_so_or_an_error(side: int, length: int, rest: bytes) -> None:
    data = bytes([side]) + length.to_bytes(2, "big") + rest
    try:
        found, place = region.unpack(data, 0)
    except RegionError:
        return
    assert region.pack(found) == data[:place]


@pytest.mark.parametrize("side", region.SIDES)
def test_every_truncation_is_refused(side: int) -> None:
    packed = region.pack(np.random.default_rng(0).random((side, side)) < 0.3)
    for length in range(len(packed)):
        with pytest.raises(RegionError, match="cut off"):
            region.unpack(packed[:length], 0)


@pytest.mark.parametrize("data", [b"\x10\x00\x00", b"\x40\x00\x01\x00", b"\x10\x00\x02\x80\x00"])
def test_empty_maps_and_loose_ends_are_refused(data: bytes) -> None:
    with pytest.raises(RegionError, match="empty or not"):
        region.unpack(data, 0)


def test_the_bytes_are_those_of_the_format() -> None:
    cells = np.zeros((16, 16), np.bool_)
    cells[3:6, 4:9] = True
    assert region.pack(cells).hex() == "10000513f3ce0284"


def test_a_line_costs_less_than_its_quadtree() -> None:
    cells = np.zeros((64, 64), np.bool_)
    cells[np.arange(64), np.arange(64) // 2 + 10] = True
    assert 8 * len(region.pack(cells)) < 450


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 300), st.integers(64, 300), st.sampled_from(region.SIDES), st.integers(0, 2**32 - 1))
def test_a_map_covers_its_mask_and_agrees_with_the_block_map(height: int, width: int, side: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((height, width)) < random.choice([0.0005, 0.01, 0.3])
    mask[random.integers(height), random.integers(width)] = True
    cells = region.from_mask(mask, side)
    wide = region.to_mask(cells, mask.shape)
    assert wide.shape == mask.shape
    assert wide[mask].all()
    np.testing.assert_array_equal(region.from_mask(wide, side), cells)
    assert region.block_map(cells) == blocks.from_mask(mask) == blocks.from_mask(wide)


@pytest.mark.parametrize(
    ("shape", "side"), [((64, 64), 16), ((255, 900), 16), ((256, 256), 32), ((511, 600), 32), ((512, 512), 64)]
)
def test_cells_are_not_smaller_than_eight_pixels(shape: tuple[int, int], side: int) -> None:
    assert region.side_for(shape) == side
