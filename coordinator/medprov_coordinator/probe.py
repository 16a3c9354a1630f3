"""The coordinator's public probe and the rule that refuses a round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from medprov_watermark.training import exchange as ex
from medprov_watermark.training.tasks.base import SCORE, ProbeSet


@dataclass(frozen=True)
class Probe:
    """Public pictures, and how much worse on them a round may be.

    Parameters
    ----------
    pictures : ProbeSet
    tolerance : float
        How far the score may fall below the best accepted round, and below the start.
    """

    pictures: ProbeSet
    tolerance: float = 0.02

    def evaluate(self, arrays: ex.Arrays) -> dict[str, float]:
        """Measure weights; the same weights give the same figures."""
        return {name: round(float(value), 6) for name, value in self.pictures.evaluate(arrays).items()}

    def objection(self, found: Mapping[str, float], best: float | None) -> str:
        """Why a round must be refused, or an empty string.

        Parameters
        ----------
        found : mapping of str to float
            Of the candidate.
        best : float or None
            Best score of the accepted models so far.
        """
        if not all(math.isfinite(value) for value in found.values()):
            return "the probe gives no finite figures"
        if best is not None and found[SCORE] < best - self.tolerance:
            return f"the score on the probe is {found[SCORE]:.4f}, it was {best:.4f}"
        return ""
