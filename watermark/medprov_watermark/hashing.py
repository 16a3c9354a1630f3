"""Hashes of a picture's content: one exact, one that survives processing."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.pixels import Samples, check_samples

_CONTENT = b"medprov content 1"
_ROWS = 256
_SIDE = 32
_COSINE_BITS = 11


def content_hash(array: Samples) -> bytes:
    """SHA3-256 (FIPS 202) of a picture's samples.

    It covers a format version, the shape and the samples, and nothing that a lossless change of container touches:
    the file format, the transfer syntax, MONOCHROME1, the bits allocated, or whether samples lie in uint8 or uint16.

    Parameters
    ----------
    array : ndarray of uint8 or uint16
        (H, W), (H, W, 1) or (H, W, 3); grey with and without its last axis hashes the same.

    Returns
    -------
    bytes
        32 bytes: SHA3-256 of ``b"medprov content 1"``, height, width and channels as little-endian uint32, and the
        samples as little-endian uint16 in row-major order.

    Raises
    ------
    ValueError
        When the array is not a picture.
    """
    grey = _drop_single_channel(array)
    check_samples(grey)
    height, width = grey.shape[:2]
    digest = hashlib.sha3_256(_CONTENT)
    digest.update(struct.pack("<3I", height, width, 1 if grey.ndim == 2 else 3))
    for row in range(0, height, _ROWS):
        digest.update(np.ascontiguousarray(grey[row : row + _ROWS], dtype="<u2").data)
    return digest.digest()


def perceptual_hash(array: Samples) -> bytes:
    """64-bit DCT hash of the luminance, the same on every machine.

    The luminance is averaged over the cells of a 32 x 32 grid, the cells are transformed by a two-dimensional DCT-II,
    and each of the 64 lowest frequencies is compared with their median. The mean (DC) is left out: it would nearly
    always be the largest and so waste a bit. All arithmetic is in integers, so nothing depends on the order of
    summation. After C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.

    Parameters
    ----------
    array : ndarray of uint8 or uint16
        (H, W), (H, W, 1) or (H, W, 3) RGB, of any size and range.

    Returns
    -------
    bytes
        8 bytes. A picture of one single value gives eight zero bytes.

    Raises
    ------
    ValueError
        When the array is not a picture.
    """
    grey = _drop_single_channel(array)
    check_samples(grey)
    height, width = grey.shape[:2]
    rows = _overlaps(height)
    cells = np.empty((_SIDE, width), np.int64)
    for cell in range(_SIDE):
        touched = np.flatnonzero(rows[cell])
        block = grey[touched[0] : touched[-1] + 1].astype(np.int64)
        luminance = block @ np.array([299, 587, 114]) if block.ndim == 3 else block * 1000
        cells[cell] = rows[cell, touched] @ luminance
    means = (cells @ _overlaps(width).T) // (height * width)
    cosine = _cosine()
    spectrum = cosine @ means @ cosine.T
    lowest = spectrum[_LOWEST]
    # The mean of the two middle values may be a fraction; doubling keeps the comparison in integers.
    ordered = np.sort(lowest)
    middle = ordered[31] + ordered[32]
    return np.packbits(2 * lowest > middle).tobytes()


def hamming(a: bytes, b: bytes) -> int:
    """Count the bits in which two hashes differ.

    Parameters
    ----------
    a, b : bytes
        Of equal length.

    Raises
    ------
    ValueError
        When the lengths differ.
    """
    if len(a) != len(b):
        raise ValueError(f"hashes of {len(a)} and {len(b)} bytes cannot be compared")
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def _drop_single_channel(array: Samples) -> Samples:
    return array[:, :, 0] if getattr(array, "ndim", 0) == 3 and array.shape[2] == 1 else array


def _overlaps(length: int) -> NDArray[np.int64]:
    """(32, length): how much of each pixel lies in each cell, in units of 1/32 pixel."""
    pixel = np.arange(length) * _SIDE
    cell = np.arange(_SIDE)[:, None] * length
    shared: NDArray[np.int64] = np.minimum(pixel + _SIDE, cell + length) - np.maximum(pixel, cell)
    return np.maximum(shared, 0)


def _cosine() -> NDArray[np.int64]:
    """(11, 32): the first rows of the DCT-II in fixed point. The sums stay below 2**60."""
    frequency, position = np.arange(_FREQUENCIES)[:, None], np.arange(_SIDE)
    table = np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
    return np.asarray(np.rint(table * 2**_COSINE_BITS), np.int64)


_FREQUENCIES = 11
_ORDER = sorted(
    ((u, v) for u in range(_FREQUENCIES) for v in range(_FREQUENCIES) if u + v), key=lambda pair: (sum(pair), pair)
)[:64]
_LOWEST = (np.array([u for u, _ in _ORDER]), np.array([v for _, v in _ORDER]))
