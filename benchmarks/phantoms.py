"""Generated pictures, for benchmarks that run without a folder of real ones."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.unsignedinteger]


def phantom(height: int, width: int, bits: int, colour: bool, seed: int) -> Samples:
    """Smooth blobs and noise over the whole range of the depth.

    Returns
    -------
    uint8 or uint16 array (height, width) or (height, width, 3)
        uint8 for 8 bits.
    """
    rng = np.random.default_rng(seed)
    y, x = (np.arange(n, dtype=np.float32) / max(height, width) for n in (height, width))
    shape = (height, width, 3) if colour else (height, width)
    field = np.zeros(shape, np.float32)
    for _ in range(12):
        cy, cx, s = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.3)
        blob = np.outer(np.exp(-((y - cy) ** 2) / (2 * s * s)), np.exp(-((x - cx) ** 2) / (2 * s * s)))
        height_of = rng.uniform(-0.5, 1, shape[2:]).astype(np.float32)
        field += (blob[..., None] if colour else blob) * height_of
    field -= field.min()
    top = np.float32(2**bits - 1)
    field *= top / max(field.max(), np.float32(1e-9))
    field += rng.standard_normal(shape, np.float32) * (top / 120)
    return np.asarray(np.rint(np.clip(field, 0, top)), np.uint8 if bits == 8 else np.uint16)


def mammogram(height: int, width: int, bits: int, seed: int) -> Samples:
    """What matters of a mammogram for time and memory: empty air, a breast against one edge, tissue at all scales.

    Returns
    -------
    uint8 or uint16 array (height, width)
        uint8 for 8 bits. Air is exactly 0, as detectors deliver it.
    """
    rng = np.random.default_rng(seed)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    reach, half, middle = rng.uniform(0.55, 0.85), rng.uniform(0.7, 0.95), rng.uniform(-0.1, 0.1)
    # 0 at the skin, 1 deep inside
    depth = np.clip((1 - np.sqrt(np.square(x / reach) + np.square((y - middle) / half))) * 6, 0, 1)
    tissue = np.zeros((height, width), np.float32)
    cells = 4
    while cells <= min(height, width) // 2:
        octave = rng.standard_normal((cells, cells), np.float32)
        tissue += cv2.resize(octave, (width, height), interpolation=cv2.INTER_LINEAR) / np.float32(cells**0.8)
        cells *= 2
    tissue = (tissue - tissue.min()) / np.float32(np.ptp(tissue) + 1e-6)
    top = 2**bits - 1
    field = depth * (np.float32(0.25) + np.float32(0.6) * tissue)
    field += (depth > 0) * rng.standard_normal((height, width), np.float32) * np.float32(0.004)
    return np.asarray(np.rint(np.clip(field, 0, 1) * np.float32(top)), np.uint8 if bits == 8 else np.uint16)
