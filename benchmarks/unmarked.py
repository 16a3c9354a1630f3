"""Pictures without a mark, endlessly many of them: windows, tone curves and phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from benchmarks.phantoms import mammogram, phantom

Picture = NDArray[np.uint8]


def picture(paths: list[Path], index: int) -> Picture:
    """A random window of a random file under a random tone curve; every eighth, or all without files, is synthetic."""
    rng = np.random.default_rng([7, index])
    if not paths or index % 8 == 0:
        return _synthetic(index // 8 if paths else index, rng)
    image = images.read(paths[int(rng.integers(len(paths)))])
    height, width = image.shape[:2]
    share = rng.uniform(0.4, 1.0)
    h, w = max(48, int(height * share)), max(48, int(width * share * rng.uniform(0.8, 1.0)))
    top, left = int(rng.integers(0, max(1, height - h))), int(rng.integers(0, max(1, width - w)))
    return np.ascontiguousarray(curve(rng)[image[top : top + h, left : left + w]])


def curve(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random tone curve as a table of 256 entries: gamma, a display window, a sigmoid or an inversion."""
    x = np.arange(256) / 255
    kind = rng.integers(4)
    if kind == 0:
        y = x ** np.exp(rng.uniform(-0.7, 0.7))
    elif kind == 1:
        low, high = rng.uniform(0, 0.35), rng.uniform(0.65, 1)
        y = np.clip((x - low) / (high - low), 0, 1)
    elif kind == 2:
        y = 1 / (1 + np.exp(-rng.uniform(3, 12) * (x - rng.uniform(0.3, 0.7))))
    else:
        y = 1 - x ** np.exp(rng.uniform(-0.4, 0.4))
    return np.asarray(np.rint(255 * y), np.uint8)


def _synthetic(number: int, rng: np.random.Generator) -> Picture:
    size, kind = int(rng.integers(64, 400)), number % 4
    if kind == 0:
        return phantom(size, int(rng.integers(64, 400)), 8, False, number).astype(np.uint8)
    if kind == 1:
        return mammogram(size, size, 8, number).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    if kind == 2:
        cy, cx, r = rng.uniform(0.2, 0.8, 3) * size
        inside = np.hypot(y - cy, x - cx) < r / 2
    else:
        inside = (x * rng.normal() + y * rng.normal()) > rng.normal() * size / 2
    low, high = sorted(rng.integers(0, 256, 2))
    return np.asarray(np.where(inside, high, low), np.uint8)
