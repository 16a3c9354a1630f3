"""The region map: which cells of a fine grid W1 spares, as bytes in the body of W2.

Coded row by row with binary arithmetic coding (Witten, Neal and Cleary, CACM 30(6), 1987). The probability of a cell
is the Krichevsky-Trofimov estimate (1981) in the context of five neighbours that are known already, as in JBIG (ITU-T
T.82); everything is integers, so the bytes are the same everywhere.

Layout: cells per side (1 byte), number of coded bytes (2, big-endian), coded bytes without zeros at their end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.integrity import blocks

SIDES = (16, 32, 64)
"""Cells per side of a map."""
_CELL = 8
"""Cells get no smaller than this many pixels; see docs/decisions.md."""

Cells = NDArray[np.bool_]
_BITS = 32
_WHOLE, _HALF, _QUARTER = 1 << _BITS, 1 << (_BITS - 1), 1 << (_BITS - 2)


class RegionError(ValueError):
    """The bytes are no region map."""


def side_for(shape: tuple[int, int]) -> int:
    """Cells per side for a picture of this height and width: the most with cells of 8 x 8 pixels or more."""
    return max([side for side in SIDES if min(shape) >= _CELL * side], default=SIDES[0])


def from_mask(mask: NDArray[np.bool_], side: int) -> Cells:
    """Mark each cell that has a pixel of the mask.

    Parameters
    ----------
    mask : bool array (H, W)
        H and W at least `side`.
    side : int

    Returns
    -------
    bool array (side, side)
    """
    rows, columns = (_edges(size, side)[:-1] for size in mask.shape)
    return np.asarray(np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=0), columns, axis=1))


def to_mask(cells: Cells, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand a map to the pixels of its cells, a bool array of the shape."""
    rows, columns = (np.diff(_edges(size, len(cells))) for size in shape)
    return np.repeat(np.repeat(cells, rows, axis=0), columns, axis=1)


def block_map(cells: Cells) -> bytes:
    """The blocks of W2's header that hold a cell of the map (see :mod:`medprov_watermark.integrity.blocks`)."""
    each = len(cells) // blocks.GRID
    grid = cells.reshape(blocks.GRID, each, blocks.GRID, each).any(axis=(1, 3))
    return np.packbits(grid).tobytes()


def pack(cells: Cells) -> bytes:
    """The bytes of a map that is not empty."""
    coder = _Encoder()
    _walk(cells.copy(), coder.put)
    coded = coder.finish()
    return bytes([len(cells)]) + len(coded).to_bytes(2, "big") + coded


def unpack(data: bytes, place: int) -> tuple[Cells, int]:
    """Read what :func:`pack` wrote; returns the map and the place behind it.

    Raises
    ------
    RegionError
        Cut off, empty, or not coded as :func:`pack` codes it.
    """
    head = data[place : place + 3]
    if len(head) < 3 or head[0] not in SIDES:
        raise RegionError("region map is cut off or of an unknown grid")
    end = place + 3 + int.from_bytes(head[1:], "big")
    if end > len(data):
        raise RegionError("region map is cut off")
    cells = np.zeros((head[0], head[0]), np.bool_)
    decoder = _Decoder(data[place + 3 : end])
    _walk(cells, lambda zeros, ones, _: decoder.take(zeros, ones))
    if not cells.any() or pack(cells) != data[place:end]:
        raise RegionError("region map is empty or not in its one canonical form")
    return cells, end


def _edges(size: int, side: int) -> NDArray[np.int64]:
    return np.arange(side + 1, dtype=np.int64) * size // side


def _walk(cells: Cells, code: Callable[[int, int, int], int]) -> None:
    """Take every cell through the coder, in order, with what its context says about zeros and ones."""
    side = len(cells)
    seen = np.pad(cells.astype(np.int64), ((1, 0), (2, 2))).tolist()
    counts = [[1, 1] for _ in range(32)]  # twice the number seen, plus one
    for row in range(1, side + 1):
        above, here = seen[row - 1], seen[row]
        for column in range(2, side + 2):
            context = (
                here[column - 1]
                | here[column - 2] << 1
                | above[column - 1] << 2
                | above[column] << 3
                | above[column + 1] << 4
            )
            zeros, ones = counts[context]
            bit = code(zeros, ones, here[column])
            here[column] = bit
            counts[context][bit] += 2
        cells[row - 1] = here[2:-2]


class _Encoder:
    def __init__(self) -> None:
        self._low, self._high, self._pending = 0, _WHOLE - 1, 0
        self._out: list[int] = []

    def put(self, zeros: int, ones: int, bit: int) -> int:
        split = self._low + (self._high - self._low + 1) * zeros // (zeros + ones)
        if bit:
            self._low = split
        else:
            self._high = split - 1
        while True:
            if self._high < _HALF:
                self._emit(0)
            elif self._low >= _HALF:
                self._emit(1)
                self._low, self._high = self._low - _HALF, self._high - _HALF
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                self._pending += 1
                self._low, self._high = self._low - _QUARTER, self._high - _QUARTER
            else:
                return bit
            self._low, self._high = 2 * self._low, 2 * self._high + 1

    def finish(self) -> bytes:
        """The shortest bits that lie in the last interval, as bytes."""
        if self._low > 0 or self._pending:
            # zeros behind the end stand for the lower bound, which lies outside here
            self._pending += 1
            self._emit(0 if self._low < _QUARTER else 1)
        return np.packbits(np.array(self._out, np.uint8)).tobytes().rstrip(b"\0")

    def _emit(self, bit: int) -> None:
        self._out += [bit] + [1 - bit] * self._pending
        self._pending = 0


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self._bits = iter(np.unpackbits(np.frombuffer(data, np.uint8)).tolist())
        self._low, self._high, self._value = 0, _WHOLE - 1, 0
        for _ in range(_BITS):
            self._value = 2 * self._value + next(self._bits, 0)

    def take(self, zeros: int, ones: int) -> int:
        split = self._low + (self._high - self._low + 1) * zeros // (zeros + ones)
        bit = int(self._value >= split)
        if bit:
            self._low = split
        else:
            self._high = split - 1
        while True:
            if self._low >= _HALF:
                less = _HALF
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                less = _QUARTER
            elif self._high < _HALF:
                less = 0
            else:
                return bit
            self._low, self._high = 2 * (self._low - less), 2 * (self._high - less) + 1
            self._value = 2 * (self._value - less) + next(self._bits, 0)
