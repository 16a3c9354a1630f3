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
    y, x = np.mgrid[:height, :width] / max(height, width)
    shape = (height, width, 3) if colour else (height, width)
    field = np.zeros(shape)
    for _ in range(12):
        cy, cx, s = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.3)
        blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s * s))
        field += (blob[..., None] if colour else blob) * rng.uniform(-0.5, 1, shape[2:] if colour else ())
    field = (field - field.min()) / (np.ptp(field) + 1e-9)
    top = 2**bits - 1
    noisy = np.clip(field * top + rng.normal(0, top / 120, shape), 0, top)
    return np.asarray(np.rint(noisy), np.uint8 if bits == 8 else np.uint16)


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
    # 0 at the skin, 1 deep inside
    depth = np.clip((1 - np.sqrt((x / 0.72) ** 2 + (y / 0.9) ** 2)) * 6, 0, 1)
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
