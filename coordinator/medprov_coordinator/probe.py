"""The coordinator's public probe set: generated phantoms, the same at every coordinator, and no patient in them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medprov_watermark.carriers import SIZE
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.evaluation import Measured, measure
from medprov_watermark.training.loop import Model, Settings


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


@dataclass(frozen=True)
class Probe:
    """The probe set and the rule that refuses a round.

    Parameters
    ----------
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
    tolerance : float
        How far the bit accuracy may fall below the best accepted round, and below the start.
    db : float
        PSNR that the probe is marked at.
    """

    pictures: Tensor
    tolerance: float = 0.02
    db: float = 40.0

    def evaluate(self, arrays: ex.Arrays, settings: Settings) -> Measured:
        """Measure weights on the probe set; the same weights give the same figures."""
        # The network is built only to be overwritten: its random start must not move anybody's random state.
        with torch.random.fork_rng(devices=[]):
            model = Model(settings)
        ex.load_state(model, arrays)
        model.eval()
        return measure(model, self.pictures, db=self.db)

    def objection(self, found: Measured, best: float | None) -> str:
        """Why a round must be refused, or an empty string.

        Parameters
        ----------
        found : Measured
            Of the candidate.
        best : float or None
            Best bit accuracy of the accepted models so far.
        """
        if not np.isfinite([found.loss, found.accuracy, found.worst]).all():
            return "the probe gives no finite figures"
        if best is not None and found.accuracy < best - self.tolerance:
            return f"bit accuracy on the probe is {found.accuracy:.4f}, it was {best:.4f}"
        return ""


def as_figures(found: Measured) -> dict[str, float]:
    """Figures for logs and records."""
    return {name: round(float(value), 6) for name, value in asdict(found).items()}
