"""Where the header lies: cells, pixels whose lowest bit holds one header bit each.

A reader knows nothing about a picture before it has the header, so the places are fixed by the shape of the picture
alone. There is a list of sites, because padding or a region of interest may cover some; the writer takes the first
site that is free and the reader tries them all. Padding that is scattered over the background would meet every site.
It is nearly always the smallest or largest sample, so each site is also tried without the cells that hold its smallest
or its largest value.

A cell that holds the wrong bit moves to its partner, a value that differs by 1. Partners are fixed pairs within each
unbroken run of legal values (below and above the padding value), so no cell can leave the legal range or become
padding, and the displaced bit alone undoes the step.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.integrity.header import THRESHOLDS

CELLS = 768
"""Cells per site, where the picture has so many; a header with any block map has fewer bits."""

_BOX = 24  # columns of a box site
_RING_DEPTHS = ((0, 1), (1, 16), (1, 8), (1, 4), (3, 8))  # of the shorter side


@lru_cache(maxsize=16)
def sites(height: int, width: int) -> tuple[NDArray[np.int64], ...]:
    """List the fixed places of header cells in a picture of this shape.

    Parameters
    ----------
    height, width : int
        At least 48.

    Returns
    -------
    tuple of int64 arrays
        Flat (row-major) pixel numbers in the order in which header bits are written. First rings at growing depths,
        each ring in pseudo-random order, then boxes at the corners, at the middles of the edges, at the middles
        further in, and in the centre, row by row.
    """
    side = min(height, width)
    places = [_rings(height, width, side * part // whole) for part, whole in _RING_DEPTHS]
    tall = min(CELLS // _BOX, height)
    last_row, last_column = height - tall, width - _BOX
    corners = [(0, 0), (0, last_column), (last_row, 0), (last_row, last_column)]
    middles = [
        box
        for depth in (0, side // 16, side // 8)
        for box in (
            (depth, last_column // 2),
            (last_row - depth, last_column // 2),
            (last_row // 2, depth),
            (last_row // 2, last_column - depth),
        )
    ]
    for row, column in [*corners, *middles, (last_row // 2, last_column // 2)]:
        rows, columns = np.arange(tall, dtype=np.int64) + max(row, 0), np.arange(_BOX, dtype=np.int64) + max(column, 0)
        places.append((rows[:, None] * width + columns).ravel())
    for place in places:
        place.setflags(write=False)
    return tuple(places)


def choices(values: NDArray[np.uint8 | np.uint16]) -> list[NDArray[np.bool_]]:
    """List the ways to use the cells of a site: all, without the smallest value, without the largest.

    Parameters
    ----------
    values : uint8 or uint16 array (n,)
        What the site holds.

    Returns
    -------
    list of bool arrays (n,)
    """
    return [np.ones(values.size, np.bool_), values != values.min(), values != values.max()]


def keeps(values: NDArray[np.uint8 | np.uint16], way: int, legal: tuple[int, int], padding: int | None) -> bool:
    """Tell whether a reader of the marked picture will come to the same cells as the writer.

    This holds for the second and third way when the value left out is padding, which stays, and no other sample of the
    site can pass it. A sample moves by at most the threshold.
    """
    if way == 0:
        return True
    extreme = int(values.min() if way == 1 else values.max())
    if extreme != padding:
        return False
    if extreme <= legal[0] if way == 1 else extreme >= legal[1]:
        return True
    others = values[values != extreme].astype(np.int64)
    return others.size > 0 and int(np.abs(others - extreme).min()) > THRESHOLDS[-1]


def partner(
    values: NDArray[np.int32], legal: tuple[int, int], padding: int | None, top: bool
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Find the other value of each value's pair.

    Parameters
    ----------
    values : int32 array
    legal : tuple of int
    padding : int or None
    top : bool
        Pair from the largest value of each run downwards: in a run of odd length the smallest value has no partner
        instead of the largest.

    Returns
    -------
    other : int32 array
    valid : bool array
        False where the value is padding, outside the legal range, or has no partner.
    """
    low = np.full_like(values, legal[0])
    high = np.full_like(values, legal[1])
    valid = (values >= low) & (values <= high)
    if padding is not None and legal[0] <= padding <= legal[1]:
        valid &= values != padding
        high[values < padding] = padding - 1
        low[values > padding] = padding + 1
    other = high - ((high - values) ^ 1) if top else low + ((values - low) ^ 1)
    valid &= (other >= low) & (other <= high)
    return other, valid


def _rings(height: int, width: int, depth: int) -> NDArray[np.int64]:
    """List the first cells of the rings from this depth inwards."""
    found: list[NDArray[np.int64]] = []
    count = 0
    while count < CELLS and 2 * depth < min(height, width):
        ring = ring_pixels(height, width, depth)
        ring = ring[:: max(ring.size // (2 * CELLS), 1)]  # a ring may have millions of pixels
        found.append(ring[np.argsort(_mix(ring), kind="stable")])
        count += ring.size
        depth += 1
    return np.concatenate(found)[:CELLS]


def ring_pixels(height: int, width: int, depth: int) -> NDArray[np.int64]:
    """Flat numbers of the pixels whose distance to the nearest border is `depth`, in ascending order."""
    bottom, right = height - 1 - depth, width - 1 - depth
    across = np.arange(depth, right + 1, dtype=np.int64)
    if bottom == depth:
        return depth * width + across
    down = np.arange(depth + 1, bottom, dtype=np.int64) * width
    sides = [down + depth] if right == depth else [down + depth, down + right]
    return np.sort(np.concatenate([depth * width + across, bottom * width + across, *sides]))


def _mix(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014, figure 16): the same order on every machine and NumPy."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
