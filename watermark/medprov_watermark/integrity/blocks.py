"""The block map: which of 16 x 16 blocks of a picture the mark must leave alone.

A map is coded in the shortest of three ways, after 2 bits for the kind. Kind 0 is a rectangle of blocks (first and last
row, first and last column, 4 bits each). Kind 1 is a quadtree: per square 0 (no block is set), 10 (all are set) or 11
(the four quarters follow; single blocks are one bit). Kind 2 is the 256 blocks row by row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.errors import EmbedError

GRID = 16
"""Blocks per side."""
MAP_BYTES = GRID * GRID // 8
MAX_BITS = 2 + GRID * GRID
"""Bits of the longest coded map."""

_RECTANGLE, _TREE, _RAW = 0, 1, 2


def from_mask(mask: NDArray[np.bool_]) -> bytes | None:
    """Mark each block that has a pixel of the mask.

    Parameters
    ----------
    mask : bool array (H, W)
        H and W at least 16.

    Returns
    -------
    bytes or None
        32 bytes, row by row; None for an empty mask.

    Raises
    ------
    EmbedError
        The mask is not two-dimensional and boolean.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise EmbedError(f"region of interest has shape {mask.shape} and type {mask.dtype}: give a bool array (H, W)")
    rows, columns = (_edges(size)[:-1] for size in mask.shape)
    grid = np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=0), columns, axis=1)
    return np.packbits(grid).tobytes() if grid.any() else None


def to_mask(data: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand a map to the pixels of its blocks, a bool array of the shape."""
    rows, columns = (np.diff(_edges(size)) for size in shape)
    return np.repeat(np.repeat(_grid(data), rows, axis=0), columns, axis=1)


def compress(data: bytes) -> NDArray[np.uint8]:
    """Code a map that is not empty as bits, 18 to 258 of them."""
    grid = _grid(data)
    codings = [[0, 0, *_rectangle(grid)]] if _rectangle(grid) else []
    codings.append([0, 1, *_tree(grid)])
    codings.append([1, 0, *(int(bit) for bit in grid.ravel())])
    return np.array(min(codings, key=len), np.uint8)


def expand(bits: NDArray[np.uint8]) -> bytes | None:
    """Undo :func:`compress`; None for anything that it does not write."""
    if not 3 <= bits.size <= MAX_BITS:
        return None
    kind, rest = int(bits[0]) * 2 + int(bits[1]), [int(bit) for bit in bits[2:]]
    grid = np.zeros((GRID, GRID), np.bool_)
    if kind == _RECTANGLE and len(rest) == 16:
        top, bottom, left, right = (int("".join(map(str, rest[i : i + 4])), 2) for i in (0, 4, 8, 12))
        grid[top : bottom + 1, left : right + 1] = True
    elif kind == _TREE:
        if _grow(grid, rest, 0) != len(rest):
            return None
    elif kind == _RAW and len(rest) == GRID * GRID:
        grid = np.array(rest, np.bool_).reshape(GRID, GRID)
    if not grid.any():
        return None
    data = np.packbits(grid).tobytes()
    return data if np.array_equal(compress(data), bits) else None


def _edges(size: int) -> NDArray[np.int64]:
    return np.arange(GRID + 1, dtype=np.int64) * size // GRID


def _grid(data: bytes) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(data, np.uint8)).reshape(GRID, GRID).astype(np.bool_)


def _rectangle(grid: NDArray[np.bool_]) -> list[int]:
    """Corners of the map as 16 bits, or nothing when it is not a rectangle."""
    rows, columns = np.flatnonzero(grid.any(axis=1)), np.flatnonzero(grid.any(axis=0))
    corners = [int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])]
    if not grid[corners[0] : corners[1] + 1, corners[2] : corners[3] + 1].all():
        return []
    return [corner >> bit & 1 for corner in corners for bit in (3, 2, 1, 0)]


def _quarters(square: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    half = square.shape[0] // 2
    return [square[:half, :half], square[:half, half:], square[half:, :half], square[half:, half:]]


def _tree(square: NDArray[np.bool_]) -> list[int]:
    if square.shape[0] == 1:
        return [int(square[0, 0])]
    if not square.any():
        return [0]
    if square.all():
        return [1, 0]
    return [1, 1] + [bit for quarter in _quarters(square) for bit in _tree(quarter)]


def _grow(square: NDArray[np.bool_], bits: list[int], place: int) -> int:
    """Fill the square from the bits at `place`; the next place, or one past all lengths where the bits run out."""
    beyond = MAX_BITS * 4
    if square.shape[0] == 1:
        if place >= len(bits):
            return beyond
        square[0, 0] = bool(bits[place])
        return place + 1
    if place >= len(bits) or (bits[place] == 1 and place + 1 >= len(bits)):
        return beyond
    if bits[place] == 0:
        return place + 1
    if bits[place + 1] == 0:
        square[:] = True
        return place + 2
    place += 2
    for quarter in _quarters(square):
        place = _grow(quarter, bits, place)
    return place
