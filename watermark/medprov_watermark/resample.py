"""Resampling by integer tables, the same on every machine.

A table is a linear map of one axis: triangle filter, widened where the axis shrinks so that nothing aliases. Its rows
sum to ``2**TABLE_BITS`` exactly. Weights come from additions, multiplications and divisions alone, which IEEE 754
fixes to the last bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TABLE_BITS = 12
_DENSE = 2**17
"""Size of a table up to which a plain product is faster."""


@lru_cache(maxsize=32)
def table(source: int, target: int) -> NDArray[np.float64]:
    """Weights that bring an axis of `source` samples to `target` samples.

    Returns
    -------
    float64 array (target, source)
        Integers; every row sums to ``2**TABLE_BITS``. Read-only.
    """
    ratio = source / target
    reach = max(1.0, ratio)
    centre = (np.arange(target) + 0.5) * ratio - 0.5
    rows = np.zeros((target, source))
    for row, c in enumerate(centre):
        taps = np.arange(int(np.floor(c - reach)), int(np.ceil(c + reach)) + 1)
        weight = np.maximum(0.0, 1.0 - np.abs(taps - c) / reach)
        exact = weight / weight.sum() * 2**TABLE_BITS
        whole = np.floor(exact + 0.5)
        whole[np.argmax(whole)] += 2**TABLE_BITS - whole.sum()
        np.add.at(rows[row], np.clip(taps, 0, source - 1), whole)
    rows.setflags(write=False)
    return rows


@lru_cache(maxsize=32)
def taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The same weights without their zeros.

    Returns
    -------
    index : int array (target, taps)
        Samples that count.
    weight : float64 array (target, taps)
        Zero where a row has fewer.
    """
    whole = table(source, target)
    count = int((whole != 0).sum(1).max())
    first = np.minimum((whole != 0).argmax(1), source - count)
    index = first[:, None] + np.arange(count)
    return index, np.take_along_axis(whole, index, axis=1)


def resample(picture: NDArray[np.number], height: int, width: int) -> NDArray[np.int64]:
    """Bring a picture of whole numbers to another size.

    Parameters
    ----------
    picture : array (H, W)
        Magnitudes below ``2**28``, so that every sum stays inside the mantissa of float64.

    Returns
    -------
    int64 array (height, width)
        ``2**(2 * TABLE_BITS)`` times the resampled picture, without any rounding.
    """
    h, w = picture.shape
    if height * w <= h * width:
        values = resample_rows(picture, height) @ table(w, width).T
    else:
        values = resample_rows(picture.astype(np.float64) @ table(w, width).T, height)
    return values.astype(np.int64)


def resample_rows(picture: NDArray[np.number], height: int) -> NDArray[np.float64]:
    """Resample along the first axis alone, float64 (height, W), ``2**TABLE_BITS`` times too large.

    Most weights of a long axis are zero and are not multiplied by.
    """
    h, w = picture.shape
    if h * height <= _DENSE:
        return np.asarray(table(h, height) @ picture.astype(np.float64), np.float64)
    index, weight = taps(h, height)
    out = np.empty((height, w))
    for row in range(height):
        first = index[row, 0]
        out[row] = weight[row] @ picture[first : first + index.shape[1]].astype(np.float64)
    return out
