"""Prediction-error expansion: bits into the pixels of one checkerboard lattice, and back, exactly.

Each pixel is predicted from its four neighbours, which belong to the other lattice and do not change (Sachnev, Kim,
Nam, Suresh, Shi, "Reversible watermarking algorithm using sorting and prediction", IEEE TCSVT 19(7), 2009, sections
II and III). Pixels are visited from the smoothest surroundings to the roughest. An error within the threshold T is
doubled and takes a bit; any other error is moved outwards by T.

Values are places 0..span on the line of legal samples (padding taken out), so the only limits are its two ends:

* A pixel predicted in the upper half is handled mirrored. So errors of a saturated background expand inwards.
* Where the prediction is below 3 T, negative errors are left alone; an expansion can then not go below 0, and not
  above span as long as 8 T <= span + 1.
* What remains are moves: an error outside the threshold on a pixel next to an end cannot move. A reader sees from the
  place of a moved pixel that it may be one of these; for each of them the lattice carries one risk bit (1: moved)
  after the payload. Payload and risk bits end at the same pixel, and all pixels after it are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

_NEAR = ((-1, 0), (1, 0), (0, -1), (0, 1))
_FAR = ((-2, -1), (-2, 1), (2, -1), (2, 1), (-1, -2), (1, -2), (-1, 2), (1, 2))
MARGIN = 2
"""Rows and columns of -1 that a plane needs around it."""


@dataclass(frozen=True)
class Lattice:
    """Pixels of one lattice in visiting order, with what is predicted of them.

    Parameters
    ----------
    places : int64 array (n,)
        Flat pixel numbers in the plane.
    mirrored : bool array (n,)
        Predicted in the upper half: values and predictions below are span minus the value.
    value, rounded, ceiling : int32 arrays (n,)
        The pixel, the mean of its neighbours to the nearest integer and rounded up.
    span : int
    """

    places: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    value: Ints
    rounded: Ints
    ceiling: Ints
    span: int

    def errors(self, threshold: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Prediction errors, and where negative ones take part."""
        both = self.rounded > 3 * threshold
        # Errors -T..T-1 are centred on -1/2: rounding up centres the histogram there. One-sided pixels want 0.
        return self.value - np.where(both, self.ceiling, self.rounded), both


@dataclass(frozen=True)
class Plan:
    """How many bits fit and what they cost.

    Parameters
    ----------
    stop : int
        Pixels visited; 0 when the bits do not fit.
    cost : int
        Twice the expected sum of squared changes.
    available : int
        Payload bits that would fit.
    """

    stop: int
    cost: int
    available: int


def prepare(plane: Ints, stride: int, places: NDArray[np.int64], span: int) -> Lattice:
    """Predict and sort pixels.

    Parameters
    ----------
    plane : int32 array (n,)
        Flat plane with a margin; -1 marks what predicts nothing (outside, padding).
    stride : int
        Pixels per row with the margin.
    places : int64 array
        Pixels of one lattice that may change.
    span : int
        Largest value in the plane.

    Returns
    -------
    Lattice
        Without the pixels that have fewer than two neighbours to predict them.
    """
    total, count, squares = _sums(plane, stride, places, _NEAR)
    enough = count >= 2
    places, total, count, squares = places[enough], total[enough], count[enough], squares[enough]
    far_total, far_count, far_squares = _sums(plane, stride, places, _FAR)
    order = np.argsort(_roughness(total + far_total, count + far_count, squares + far_squares), kind="stable")
    places, total, count = places[order], total[order], count[order]
    value = plane[places]
    mirrored = 2 * total > count * span
    total = np.where(mirrored, count * span - total, total)
    value = np.where(mirrored, span - value, value)
    return Lattice(places, mirrored, value, (2 * total + count) // (2 * count), (total + count - 1) // count, span)


def plan(lattice: Lattice, threshold: int, bits: int) -> Plan:
    """Find how far the visit goes for a number of payload bits."""
    error, both = lattice.errors(threshold)
    takes = (error < threshold) & (error >= np.where(both, -threshold, 0))
    up, down = error >= threshold, both & (error < -threshold)
    risky = (up & (lattice.value > lattice.span - 2 * threshold)) | (down & (lattice.value < 2 * threshold))
    stop, available = _stop(takes, risky, bits)
    if stop == 0:
        return Plan(0, 0, available)
    inside = error[:stop][takes[:stop]].astype(np.int64)
    moved = int(np.count_nonzero(up[:stop] | down[:stop]))
    cost = int((2 * inside * inside + 2 * inside + 1).sum()) + 2 * moved * threshold * threshold
    return Plan(stop, cost, available)


def hide(plane: Ints, lattice: Lattice, threshold: int, payload: NDArray[np.uint8]) -> bool:
    """Write payload bits into the plane; False (and nothing done) when they do not fit."""
    planned = plan(lattice, threshold, payload.size)
    stop = planned.stop
    if stop == 0:
        return payload.size == 0
    error, both = (part[:stop] for part in lattice.errors(threshold))
    value = lattice.value[:stop]
    takes = (error < threshold) & (error >= np.where(both, -threshold, 0))
    up, down = error >= threshold, both & (error < -threshold)
    moves_up, moves_down = up & (value <= lattice.span - threshold), down & (value >= threshold)
    risky = (up & (value > lattice.span - 2 * threshold)) | (down & (value < 2 * threshold))
    bits = np.concatenate([payload, (moves_up | moves_down)[risky].astype(np.uint8)])
    step = threshold * (moves_up.astype(np.int32) - moves_down.astype(np.int32))
    step[takes] = error[takes] + bits
    value = value + step
    plane[lattice.places[:stop]] = np.where(lattice.mirrored[:stop], lattice.span - value, value)
    return True


def seek(plane: Ints, lattice: Lattice, threshold: int, bits: int) -> NDArray[np.uint8] | None:
    """Read payload bits and put the pixels in the plane back.

    Returns
    -------
    uint8 array (bits,) or None
        None, and nothing done, when the lattice cannot hold so many bits.
    """
    error, both = lattice.errors(threshold)
    takes = (error < 2 * threshold) & (error >= np.where(both, -2 * threshold, 0))
    up, down = error >= 2 * threshold, both & (error < -2 * threshold)
    risky = (up & (lattice.value > lattice.span - threshold)) | (down & (lattice.value < threshold))
    stop, _ = _stop(takes, risky, bits)
    if stop == 0:
        return None if bits else np.zeros(0, np.uint8)
    error, takes, up, down, risky = error[:stop], takes[:stop], up[:stop], down[:stop], risky[:stop]
    found = (error[takes] & 1).astype(np.uint8)
    moved = ~risky
    moved[risky] = found[bits:].astype(np.bool_)
    step = threshold * ((down & moved).astype(np.int32) - (up & moved).astype(np.int32))
    step[takes] = (error[takes] >> 1) - error[takes]
    value = lattice.value[:stop] + step
    plane[lattice.places[:stop]] = np.where(lattice.mirrored[:stop], lattice.span - value, value)
    return found[:bits]


def _stop(takes: NDArray[np.bool_], risky: NDArray[np.bool_], bits: int) -> tuple[int, int]:
    """Pixels to visit until `bits` payload bits and all risk bits so far have a place, and the largest such number.

    The balance of places and risk bits changes by at most 1 per pixel, so where it first reaches `bits` the last
    visited pixel takes the last bit: writer and reader stop at the same pixel without a length field.
    """
    balance = np.cumsum(takes.astype(np.int32) - risky.astype(np.int32))
    available = max(int(balance.max(initial=0)), 0)
    if bits == 0 or available < bits:
        return 0, available
    return int(np.argmax(balance >= bits)) + 1, available


def _sums(
    plane: Ints, stride: int, places: NDArray[np.int64], offsets: tuple[tuple[int, int], ...]
) -> tuple[Ints, Ints, NDArray[np.int64]]:
    """Sum, number and sum of squares of the neighbours that are there."""
    total, count = np.zeros(places.size, np.int32), np.zeros(places.size, np.int32)
    squares = np.zeros(places.size, np.int64)
    for row, column in offsets:
        near = plane[places + (row * stride + column)]
        count += near >= 0
        np.maximum(near, 0, out=near)
        total += near
        squares += near.astype(np.int64) * near
    return total, count, squares


def _roughness(total: Ints, count: Ints, squares: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Variance on a logarithmic scale with 10 bits per octave, in exact integer steps.

    Sixteen bits let the stable sort be a radix sort. The conversion to float64 is exact below 2**53, its bits are
    used as they are, and no floating-point arithmetic takes place.
    """
    sums = total.astype(np.int64)
    variance = (count * squares - sums * sums) * 144 // (count.astype(np.int64) * count)
    scale = (variance.astype(np.float64).view(np.int64) >> 42) - (1023 << 10)
    clipped: NDArray[np.uint16] = np.clip(scale, 0, 0xFFFF).astype(np.uint16)
    return clipped
