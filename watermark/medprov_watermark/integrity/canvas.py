"""The part of a picture that the carrier works on: the frame of one colour plane on the line of legal samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.integrity import cells, pee

Samples = NDArray[np.uint8 | np.uint16]
Places = NDArray[np.int64]

MAX_PIXELS = 2**22
"""Largest frame, so that reading a hostile header stays within seconds and a few hundred megabytes."""


@dataclass(frozen=True)
class Rules:
    """What decides which pixels may change and how: known to the writer from its caller, to the reader from the header.

    Parameters
    ----------
    legal : tuple of int
    padding : int or None
    pair_top : bool
    roi : bool array (H, W) or None
        Pixels that never change.
    """

    legal: tuple[int, int]
    padding: int | None
    pair_top: bool
    roi: NDArray[np.bool_] | None

    @property
    def span(self) -> int:
        """Largest value on the line of legal samples."""
        low, high = self.legal
        return high - low - (self.padding is not None and low <= self.padding <= high)

    def to_line(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Count the legal samples from 0 without a gap at the padding value; -1 for all others."""
        low, high = self.legal
        line = values - np.int32(low)
        wrong = (values < low) | (values > high)
        if self.padding is not None and low <= self.padding <= high:
            wrong |= values == self.padding
            line -= values > self.padding
        line[wrong] = -1
        return line

    def from_line(self, line: NDArray[np.int32]) -> NDArray[np.int32]:
        """Undo :meth:`to_line` for numbers of legal samples."""
        low, high = self.legal
        values = line + np.int32(low)
        if self.padding is not None and low <= self.padding <= high:
            values += values >= self.padding
        return values


@dataclass(frozen=True)
class Canvas:
    """The frame of one plane.

    Parameters
    ----------
    plane : int32 array (n,)
        Flat, with a margin, on the line of legal samples; -1 outside the frame and where there is no legal sample.
        Header cells hold the lower value of their pair, which the header does not change.
    stride : int
        Pixels per row of the plane.
    pixels : tuple of two int64 arrays
        Per lattice the flat numbers, in the picture, of the pixels that may change.
    places : tuple of two int64 arrays
        The same pixels in the plane.
    """

    plane: NDArray[np.int32]
    stride: int
    pixels: tuple[Places, Places]
    places: tuple[Places, Places]

    def lattice(self, which: int, rules: Rules) -> pee.Lattice:
        """Predict and sort one lattice from what the plane holds now."""
        return pee.prepare(self.plane, self.stride, self.places[which], rules.span)


def frame_size(height: int, width: int, frame: int) -> int:
    """Pixels in a frame of this width."""
    return height * width - max(height - 2 * frame, 0) * max(width - 2 * frame, 0)


def frame_pixels(height: int, width: int, frame: int) -> Places:
    """Flat numbers of the pixels of a frame, in ascending order."""
    if 2 * frame >= min(height, width):
        return np.arange(height * width, dtype=np.int64)
    sides = np.arange(frame, dtype=np.int64)
    columns = np.concatenate([sides, sides + (width - frame)])
    rows = np.arange(frame, height - frame, dtype=np.int64)[:, None] * width
    top = np.arange(frame * width, dtype=np.int64)
    return np.concatenate([top, (rows + columns).ravel(), top + (height - frame) * width])


def build(values: Samples, shape: tuple[int, int], frame: int, taken: Places, rules: Rules) -> Canvas:
    """Lay out the frame of one plane.

    Parameters
    ----------
    values : uint8 or uint16 array (H * W,)
    shape : tuple of int
        H, W.
    frame : int
        Width of the frame.
    taken : int64 array
        Pixels that hold the header.
    rules : Rules
    """
    height, width = shape
    stride = width + 2 * pee.MARGIN
    pixels = frame_pixels(height, width, frame)
    row = pixels // width
    places = pixels + (2 * pee.MARGIN) * row + (pee.MARGIN * stride + pee.MARGIN)
    line = rules.to_line(values[pixels].astype(np.int32))
    plane = np.full((height + 2 * pee.MARGIN) * stride, -1, np.int32)
    plane[places] = line
    free = line >= 0
    if rules.roi is not None:
        free &= ~rules.roi.ravel()[pixels]
    inside = np.searchsorted(pixels, taken)
    inside[inside == pixels.size] = 0
    held = pixels[inside] == taken
    free[inside[held]] = False
    now = values[taken[held]].astype(np.int32)
    other, valid = cells.partner(now, rules.legal, rules.padding, rules.pair_top)
    plane[places[inside[held]]] = rules.to_line(np.where(valid, np.minimum(now, other), now))
    odd = ((pixels + row * (width + 1)) & 1).astype(np.bool_)  # row + column is odd
    lattices = (free & ~odd, free & odd)
    return Canvas(plane, stride, (pixels[lattices[0]], pixels[lattices[1]]), (places[lattices[0]], places[lattices[1]]))
