"""BlessMark's rule for one bit per block, without its networks.

H. Zarrabi et al., "BlessMark: a blind diagnostically-lossless watermarking framework for medical applications based on
deep neural networks", Multimedia Tools and Applications 79, 2020: the order of two mirrored DCT coefficients of an
8 x 8 block says the bit. The network that finds the region of interest has no weights to be had, so every block counts
as outside of it, in raster order: the reader can never lose the map, which favours the method. Coefficients, threshold
and block size are those of the authors' published example (6 and 7, 0.01 on samples from 0 to 1, 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from benchmarks.peers.method import Bits, Picture, RefusedError

_BLOCK, _FIRST, _SECOND, _THRESHOLD = 8, (6, 7), (7, 6), 0.01 * 255


@dataclass(frozen=True)
class BlessmarkRule:
    """See the module."""

    name: str = "blessmark_rule"
    bits: int = 64

    def mark(self, image: Picture, bits: Bits) -> Picture:
        out = image.copy()
        plane = out if image.ndim == 2 else out[..., 1]
        if plane.shape[0] // _BLOCK * (plane.shape[1] // _BLOCK) < bits.size:
            raise RefusedError(f"fewer than {bits.size} blocks of {_BLOCK} x {_BLOCK} pixels")
        for place, bit in zip(_places(plane.shape[1], bits.size), bits, strict=True):
            values = dctn(plane[place].astype(np.float64), norm="ortho")
            larger, smaller = (_SECOND, _FIRST) if bit else (_FIRST, _SECOND)
            if values[larger] > values[smaller]:
                continue
            values[larger], values[smaller] = values[smaller] + _THRESHOLD, values[larger]
            plane[place] = np.clip(np.rint(idctn(values, norm="ortho")), 0, 255).astype(np.uint8)
        return out

    def read(self, image: Picture) -> Bits | None:
        plane: NDArray[np.uint8] = image if image.ndim == 2 else image[..., 1]
        if plane.shape[0] // _BLOCK * (plane.shape[1] // _BLOCK) < self.bits:
            return None
        blocks = (dctn(plane[place].astype(np.float64), norm="ortho") for place in _places(plane.shape[1], self.bits))
        return np.array([values[_SECOND] > values[_FIRST] for values in blocks], np.uint8)


def _places(width: int, count: int) -> list[tuple[slice, slice]]:
    """The first blocks in raster order."""
    columns = width // _BLOCK
    corners = (divmod(number, columns) for number in range(count))
    return [
        (slice(row * _BLOCK, (row + 1) * _BLOCK), slice(column * _BLOCK, (column + 1) * _BLOCK))
        for row, column in corners
    ]
