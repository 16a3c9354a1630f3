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


def resample(picture: NDArray[np.integer], height: int, width: int) -> NDArray[np.int64]:
    """Bring an integer picture to another size.

    Parameters
    ----------
    picture : int array (H, W)
        Magnitudes below ``2**28``, so that every sum stays inside the mantissa of float64.

    Returns
    -------
    int64 array (height, width)
        ``2**(2 * TABLE_BITS)`` times the resampled picture, without any rounding.
    """
    h, w = picture.shape
    values = picture.astype(np.float64)
    if height * w <= h * width:
        values = (table(h, height) @ values) @ table(w, width).T
    else:
        values = table(h, height) @ (values @ table(w, width).T)
    return values.astype(np.int64)
