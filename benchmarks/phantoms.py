"""Generated pictures, for benchmarks that run without a folder of real ones."""

from __future__ import annotations

from collections.abc import Callable

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


Look = Callable[[np.random.Generator, int], NDArray[np.float32]]


def _octaves(rng: np.random.Generator, size: int, cells: int, fall: float, count: int = 8) -> NDArray[np.float32]:
    """Noise over octaves from `cells` up, each `fall` times weaker, mean 0, standard deviation 1."""
    field = np.zeros((size, size), np.float32)
    for octave in range(count):
        n = cells << octave
        if n > size:
            break
        grid = rng.standard_normal((n, n), np.float32) * np.float32(fall**octave)
        field += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), np.float32)


def _grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return axis[:, None], axis[None]


def _disc(size: int, radius: float, stretch: float = 1.0, soft: float = 40.0) -> NDArray[np.float32]:
    y, x = _grid(size)
    edge = np.clip((1 - np.hypot(x / radius, y / (radius * stretch))) * soft, -30, 30)
    return np.asarray(1 / (1 + np.exp(-edge)), np.float32)


def _smooth(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Projection: soft shadows and little noise."""
    return 120 + 45 * _octaves(rng, size, 2, 0.35) + rng.normal(0, 1, (size, size)).astype(np.float32)


def _cells(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Section under the microscope: dark nuclei on fine texture."""
    field = 190 + 9 * _octaves(rng, size, 12, 0.8)
    for _ in range(int(rng.integers(50, 110))):
        centre = (int(rng.integers(size)), int(rng.integers(size)))
        axes = (int(rng.integers(2, 6)), int(rng.integers(2, 6)))
        cv2.ellipse(field, centre, axes, float(rng.integers(180)), 0, 360, float(rng.uniform(40, 110)), -1, cv2.LINE_AA)
    return field


def _vessels(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Back of the eye: a bright disc with dark curves, black around."""
    field = 110 + 18 * _octaves(rng, size, 2, 0.5)
    for _ in range(14):
        angle, steps = rng.uniform(0, 2 * np.pi), 40
        turn = angle + np.cumsum(rng.normal(0, 0.12, steps))
        way = np.stack([np.cos(turn), np.sin(turn)], 1).cumsum(0) * size / 70 + size * np.array([0.35, 0.5])
        cv2.polylines(field, [np.rint(way).astype(np.int32)], False, 60.0, int(rng.integers(1, 4)), cv2.LINE_AA)
    return field * _disc(size, 0.93)


def _speckle(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Echo: multiplied speckle in a fan."""
    tissue = np.clip(0.5 + 0.25 * _octaves(rng, size, 3, 0.55), 0.02, None)
    grain = cv2.GaussianBlur(rng.standard_normal((2, size, size), np.float32)[0], (0, 0), 0.8)
    other = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), 0.8)
    y, x = _grid(size)
    fan = (np.abs(np.arctan2(x, y + 1.4)) < 0.55) & (np.hypot(x, y + 1.4) > 0.5) & (np.hypot(x, y + 1.4) < 2.3)
    return np.asarray(170 * tissue * np.hypot(grain, other) * fan, np.float32)


def _breast(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Mammogram: see `mammogram`."""
    return mammogram(size, size, 8, int(rng.integers(2**31))).astype(np.float32)


def _folds(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Head in cross-section: folded bands of two greys inside a ring, black around."""
    folds = np.tanh(3 * np.sin(4 * _octaves(rng, size, 5, 0.4)))
    head = _disc(size, 0.7, 1.2)
    ring = _disc(size, 0.8, 1.15) - head
    return np.asarray(head * (95 + 28 * folds) + 200 * ring + rng.normal(0, 3, (size, size)), np.float32)


def _spot(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Skin: an even bright ground, a dark spot with a ragged edge, hairs."""
    field = 185 + 5 * _octaves(rng, size, 8, 0.9)
    y, x = _grid(size)
    edge = np.hypot(x, y) - 0.45 + 0.12 * _octaves(rng, size, 4, 0.5)
    field -= 90 / (1 + np.exp(np.clip(edge * 25, -30, 30))) * (1 + 0.2 * _octaves(rng, size, 12, 0.8))
    for _ in range(int(rng.integers(0, 9))):
        a, b = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(field, a, b, 50.0, 1, cv2.LINE_AA)
    return field


def _slices(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Body in cross-section: flat organs with sharp edges, bright bone, noise of the reconstruction."""
    organs = np.digitize(_octaves(rng, size, 3, 0.45), [-1.2, -0.4, 0.4, 1.4])
    greys = np.array([15, 95, 120, 140, 245], np.float32)[organs]
    noise = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), 0.7) * 8
    return np.asarray(_disc(size, 0.92, 0.8) * (greys + noise), np.float32)


def _layers(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Coherence tomography: thin bright layers, dark noise above and below."""
    y, x = _grid(size)
    bend = 0.12 * np.sin(2.5 * x + rng.uniform(0, 6)) + rng.uniform(-0.1, 0.1)
    depth = y - bend
    bands = np.where(np.abs(depth) < 0.3, 90 + 60 * np.sin(depth * rng.uniform(30, 50)), 25)
    return np.asarray(bands * rng.gamma(6, 1 / 6, (size, size)), np.float32)


def _bars(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Contrast medium: one branching dark tree on a grey veil with grain."""
    field = 150 + 20 * _octaves(rng, size, 2, 0.4)
    for width in (7, 5, 4, 3, 3, 2, 2, 2, 1, 1):
        turn = rng.uniform(0.2, 2.9) + np.cumsum(rng.normal(0, 0.1, 60))
        way = np.stack([np.cos(turn), np.sin(turn)], 1).cumsum(0) * size / 60 + size * np.array([0.5, 0.05])
        cv2.polylines(field, [np.rint(way).astype(np.int32)], False, 65.0, width, cv2.LINE_AA)
    return np.asarray(field + rng.normal(0, 6, (size, size)), np.float32)


FAMILIES: dict[str, Look] = {
    "projection": _smooth,
    "eye": _vessels,
    "echo": _speckle,
    "breast": _breast,
    "head": _folds,
    "skin": _spot,
    "vessels": _bars,
    "body": _slices,
    "layers": _layers,
    "section": _cells,
}
"""Looks as different as modalities are."""


def look(name: str, size: int, seed: int) -> NDArray[np.uint8]:
    """A picture of one of `FAMILIES`, uint8 (size, size)."""
    rng = np.random.default_rng([*name.encode(), seed])
    return np.asarray(np.rint(np.clip(FAMILIES[name](rng, size), 0, 255)), np.uint8)
