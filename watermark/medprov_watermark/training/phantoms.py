"""Generated pictures with the traits of medical ones and no patient in them, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medprov_watermark.carriers import SIZE


def phantom(seed: int) -> NDArray[np.uint8]:
    """A picture with the traits of a medical one: a body of ellipses, organs, texture, noise, often a dark surround.

    Returns
    -------
    uint8 array (SIZE, SIZE)
    """
    rng = np.random.default_rng([0x70726F62, seed])
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    background = rng.choice([0.0, 4.0, 90.0, 200.0])
    image = np.full((SIZE, SIZE), background) + 20 * rng.random() * y
    for i in range(int(rng.integers(4, 12))):
        centre = rng.uniform(-0.5, 0.5, 2) if i else np.zeros(2)
        axes = rng.uniform(0.6, 0.95, 2) if not i else rng.uniform(0.06, 0.4, 2)
        angle = rng.uniform(0, np.pi)
        u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
        v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
        # A soft edge of about two pixels, as a scanner's point spread gives.
        distance = ((u / axes[0]) ** 2 + (v / axes[1]) ** 2 - 1) * 60 * min(axes)
        inside = 1 / (1 + np.exp(np.clip(distance, -50, 50)))
        grey = rng.uniform(30, 220)
        waves = sum(
            rng.normal() * np.sin(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 6))
            for fx, fy in rng.uniform(1, 14, (6, 2))
        )
        image = image * (1 - inside) + inside * (grey + rng.uniform(0, 8) * waves)
    image = image + rng.normal(0, rng.uniform(0.5, 4), image.shape)
    out: NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return out


def phantoms(count: int, seed: int = 0) -> Tensor:
    """`count` phantoms as a uint8 tensor (count, 1, SIZE, SIZE)."""
    return torch.from_numpy(np.stack([phantom(seed * 100_000 + i) for i in range(count)]))[:, None]


def vessels(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A phantom with dark winding vessels drawn over it, and where they are.

    Returns
    -------
    picture : uint8 array (SIZE, SIZE)
    mask : bool array (SIZE, SIZE)
    """
    rng = np.random.default_rng([0x76657373, seed])
    picture = phantom(seed).astype(np.float64)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    depth = np.zeros((SIZE, SIZE))
    for _ in range(int(rng.integers(3, 7))):
        place, heading = rng.uniform(0.2 * SIZE, 0.8 * SIZE, 2), rng.uniform(0, 2 * np.pi)
        width = rng.uniform(1.5, 4.0)
        for _ in range(int(rng.integers(20, 50))):
            near = np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * width**2))
            depth = np.maximum(depth, near)
            heading += rng.normal(0, 0.25)
            place = place + 2 * width * np.array([np.cos(heading), np.sin(heading)]) / 2
            width = max(1.2, 0.985 * width)
    drawn = np.clip(np.rint(picture - rng.uniform(50, 90) * depth), 0, 255).astype(np.uint8)
    return drawn, depth > 0.6
