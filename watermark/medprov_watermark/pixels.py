"""One picture in memory, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.uint8 | np.uint16]
"""Samples of a picture: (H, W) grey or (H, W, 3) RGB, unsigned."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """The samples of one picture and what a writer must know to put them back.

    Two ``Pixels`` are equal only when they are the same object; compare pictures by their content hash.

    Parameters
    ----------
    array : ndarray of uint8 or uint16
        (H, W) or (H, W, 3) in RGB order, C-contiguous. Signed DICOM samples have ``2**(bits - 1)`` added, and
        MONOCHROME1 is turned into the order of MONOCHROME2 (small is dark).
    bits : int
        Bits stored, 8 to 16. The array is uint8 exactly when this is 8.
    value_range : tuple of int
        Smallest and largest sample that marking may touch or write, normally ``(0, 2**bits - 1)``. Samples outside it
        are padding too (DICOM PixelPaddingRangeLimit): they never change and no other sample may become one.
    padding : int or None
        The sample that means "no pixel here" (DICOM PixelPaddingValue, PS3.3 C.7.5.1.1.2), in the terms of ``array``.
        Such samples never change and no other sample may become one.
    spacing : tuple of float or None
        Distance of rows and of columns in millimetres.
    media_type : str
        ``"image/png"``, ``"image/tiff"``, ``"image/jpeg"`` or ``"application/dicom"``.
    source : object or None
        What the writer of the same format needs. Opaque to everybody else.

    Raises
    ------
    ValueError
        When the parts contradict each other.
    """

    array: Samples
    bits: int
    value_range: tuple[int, int]
    padding: int | None
    spacing: tuple[float, float] | None
    media_type: str
    source: object | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_samples(self.array)
        if not 8 <= self.bits <= 16:
            raise ValueError(f"bits must be 8 to 16, not {self.bits}")
        if (self.bits == 8) != (self.array.dtype == np.uint8):
            raise ValueError(f"{self.bits} bits do not go with samples of type {self.array.dtype}")
        if not self.array.flags.c_contiguous:
            raise ValueError("the samples must lie in one block of memory in row-major order")
        largest = 2**self.bits - 1
        low, high = self.value_range
        if not 0 <= low <= high <= largest:
            raise ValueError(f"the value range {self.value_range} does not lie in 0 to {largest}")
        if self.padding is not None and not 0 <= self.padding <= largest:
            raise ValueError(f"the padding value {self.padding} does not lie in 0 to {largest}")
        if self.array.size and int(self.array.max()) > largest:
            raise ValueError(f"a sample is larger than {self.bits} bits can hold")


def check_samples(array: Samples) -> None:
    """Refuse what is not a picture's samples.

    Parameters
    ----------
    array : ndarray
        Should be (H, W) or (H, W, 3), uint8 or uint16, not empty.

    Raises
    ------
    ValueError
        When the type or the shape is another.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"samples must be a uint8 or uint16 array, not {getattr(array, 'dtype', type(array).__name__)}"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.size == 0:
        raise ValueError(f"a picture must have the shape (H, W) or (H, W, 3), not {array.shape}")
