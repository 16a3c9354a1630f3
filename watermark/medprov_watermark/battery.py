"""The small battery of attacks by which a mark is tried before it leaves: what a picture meets first in practice.

All functions take and give uint8 arrays (H, W).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey = NDArray[np.uint8]

QUALITIES = (70, 60, 50, 40)
"""JPEG qualities of the battery: several, so that a mark does not come to suit the rounding of one table."""
NOISE, DRAWS = 5.0, 2
"""Standard deviation of the battery's noise, grey levels, and how often it is drawn."""
_NOISE_SEED = 20261120


def jpeg(picture: Grey, quality: int) -> Grey:
    """Through a JPEG file of the given quality (libjpeg's scale)."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def blur(picture: Grey, size: int = 7, sigma: float = 1.6) -> Grey:
    """Gaussian filter of `size` taps, a little stronger than the usual 7x7 filter with its sigma of 1.4."""
    t = np.arange(size) - size // 2
    kernel = np.exp(-t * t / (2 * sigma * sigma))
    kernel /= kernel.sum()
    padded = np.pad(picture.astype(np.float32), size // 2, mode="reflect")
    height, width = picture.shape
    rows = sum((kernel[i] * padded[i : i + height] for i in range(size)), np.zeros((), np.float32))
    both = sum((kernel[i] * rows[:, i : i + width] for i in range(size)), np.zeros((), np.float32))
    return np.rint(both).astype(np.uint8)


def median(picture: Grey) -> Grey:
    """3x3 median."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.MedianFilter(3)))


def equalise(picture: Grey) -> Grey:
    """Histogram equalisation."""
    cumulative = np.bincount(picture.ravel(), minlength=256).cumsum()
    first = cumulative[cumulative > 0][0]
    curve = (cumulative - first) / max(1, cumulative[-1] - first) * 255
    return np.asarray(np.clip(np.rint(curve), 0, 255).astype(np.uint8)[picture])


def gamma(picture: Grey, exponent: float) -> Grey:
    """Power law on 0..1."""
    curve = np.rint(255 * (np.arange(256) / 255.0) ** exponent).astype(np.uint8)
    return np.asarray(curve[picture])


def noise(picture: Grey, deviation: float, draw: int) -> Grey:
    """Gaussian noise; the same `draw` gives the same noise, so that marking a picture twice gives the same file."""
    rng = np.random.default_rng([_NOISE_SEED, draw])
    return np.clip(np.rint(picture + rng.normal(0, deviation, picture.shape)), 0, 255).astype(np.uint8)


def attacked(picture: Grey, draw: int = 0) -> list[Grey]:
    """The picture as it is, then after each attack of the battery.

    Parameters
    ----------
    picture : uint8 array (H, W)
    draw : int
        Which noise. A mark that is tuned under one noise comes to suit that noise and no other.
    """
    return [
        picture,
        *(jpeg(picture, quality) for quality in QUALITIES),
        blur(picture),
        median(picture),
        equalise(picture),
        gamma(picture, 0.5),
        *(noise(picture, NOISE, DRAWS * draw + i) for i in range(DRAWS)),
    ]
