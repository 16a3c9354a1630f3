"""Counts with their intervals, distributions, and the quality of a marked picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

EQUAL_DB = 99.0
"""Stands for the infinite PSNR of two equal pictures, which JSON cannot say."""
_Z = 1.959963984540054  # two-sided 95 % of the normal law


class Share(TypedDict):
    """`hits` of `n`, in per cent, with the bounds of a 95 % interval."""

    hits: int
    n: int
    percent: float
    low: float
    high: float


class Spread(TypedDict):
    """A distribution in five figures, and its mean."""

    n: int
    min: float
    p10: float
    median: float
    p90: float
    max: float
    mean: float


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Bounds of the 95 % interval of a share (E. B. Wilson, JASA 22, 1927); without any trial 0 to 1."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    middle = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    scale = 1 + _Z * _Z / n
    # at none and at all hits the bound is exactly 0 and 1; rounding must not say otherwise
    low = 0.0 if hits == 0 else (middle - half) / scale
    return low, 1.0 if hits == n else (middle + half) / scale


def share(outcomes: Sequence[bool]) -> Share:
    """Count how often something held."""
    hits, n = sum(bool(o) for o in outcomes), len(outcomes)
    low, high = wilson(hits, n)
    percent = round(100 * hits / n, 2) if n else 0.0
    return Share(hits=hits, n=n, percent=percent, low=round(100 * low, 2), high=round(100 * high, 2))


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value."""
    array = np.asarray(values, np.float64)
    low, p10, median, p90, high = (float(q) for q in np.quantile(array, (0, 0.1, 0.5, 0.9, 1)))
    return Spread(n=array.size, min=low, p10=p10, median=median, p90=p90, max=high, mean=float(array.mean()))


def quality(cover: NDArray[np.uint8], marked: NDArray[np.uint8]) -> tuple[float, float]:
    """PSNR (dB, peak 255) and SSIM; a grey cover that came back in colour counts as three equal planes."""
    if cover.ndim < marked.ndim:
        cover = np.repeat(cover[..., None], 3, axis=2)
    error = float(np.mean(np.square(cover.astype(np.float64) - marked)))
    if error == 0:
        return EQUAL_DB, 1.0
    axis = -1 if cover.ndim == 3 else None
    ssim = float(structural_similarity(cover, marked, data_range=255, channel_axis=axis))
    return 10 * math.log10(255 * 255 / error), ssim
