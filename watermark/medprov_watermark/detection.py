"""Whether a mark is there, and which way up: decided by the pilots alone, before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.geometry import ALL, Geometry

THRESHOLD = 7.2
"""Least pilot score that counts as a mark, in standard deviations of an unmarked carrier."""
FLAT = 0.5
"""A working picture whose grey values differ by less than this cannot hold a mark."""
SURE = 14.0
"""Pilot score at which the search over orientations stops early."""
DEGREES, SPREAD = 400, 1.1
"""Law of the score on unmarked pictures: SPREAD times Student's t with DEGREES of freedom. The 832 coefficients of the
null carriers would give 832 degrees if all were alike; ``benchmarks/false_alarm.py`` measures both figures, and these
are on the safe side of them."""
COMPUTED_FALSE_ALARM = 7.3e-10
"""Chance of a score above THRESHOLD in one of the eight orientations of an unmarked picture: eight times the upper tail
of that law."""
MEASURED_FALSE_ALARM = 3 / 1000
"""Bound at 95 % from counting: no payload in 1 000 unmarked pictures (``benchmarks/false_alarm.py``; rule of three)."""


@dataclass(frozen=True)
class Detection:
    """What the pilots say.

    Parameters
    ----------
    score : float
        Pilot score in standard deviations of an unmarked carrier.
    geometry : Geometry
        The orientation with the highest score.
    soft_bits : float32 array (CODE,)
        Answers of the code carriers in the same unit; positive means 1.
    """

    score: float
    geometry: Geometry
    soft_bits: NDArray[np.float32]

    @property
    def present(self) -> bool:
        """Whether the score passes the threshold."""
        return self.score >= THRESHOLD


def pilot_score(answers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of the pilots with their known signs, scaled to unit variance on unmarked pictures; float64 (B,).

    Parameters
    ----------
    answers : float32 array (B, WRITTEN)
        What the extractor gives.
    """
    pilots = answers[:, cr.CODE :].astype(np.float64)
    return np.asarray(pilots @ cr.pilot_signs() / np.sqrt(cr.PILOTS), np.float64)


def detect(picture: NDArray[np.float32], extractor: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Detection:
    """Find the orientation whose pilots answer best.

    Parameters
    ----------
    picture : float32 array (SIZE, SIZE)
        Working picture as it stands.
    extractor : callable
        float32 (B, SIZE, SIZE) -> float32 (B, WRITTEN).
    """
    if float(picture.max() - picture.min()) < FLAT:
        return Detection(0.0, Geometry(), np.zeros(cr.CODE, np.float32))

    def best(candidates: tuple[Geometry, ...]) -> Detection:
        answers = extractor(np.stack([g.undo(picture) for g in candidates]))
        scores = pilot_score(answers)
        top = int(np.argmax(scores))
        return Detection(float(scores[top]), candidates[top], answers[top, : cr.CODE])

    upright = best(ALL[:1])
    if upright.score >= SURE:
        return upright
    other = best(ALL[1:])
    return other if other.score > upright.score else upright
