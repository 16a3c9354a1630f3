"""The closed loop: the least energy at which the extractor reads the mark after the battery.

Two things are chosen per picture: the gain, and one of four amplitudes for every written carrier. A carrier that the
picture itself already answers with the right sign needs little; one that the picture contradicts gets more. Both
travel in W2, so restoration does not depend on how they were found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import battery, detection
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.extractor import working_picture

LEVELS: NDArray[np.int64] = np.array([1, 3, 6, 11], np.int64)
"""Amplitudes in quarters, by their two-bit code; part of the format."""
RESERVE = 0.15
"""A bit that answers less than this after an attack is weak, in standard deviations of the null carriers."""
WEAK_BITS = 2
"""Weak codeword bits after an attack of the battery that count as read; the code corrects two bytes."""
ENOUGH = 4
"""Rounds that passed the whole battery after which the loop ends."""
FLOOR = 36.0
"""PSNR (dB) below which the loop gives up parts of the battery rather than quality."""
SCORE = detection.THRESHOLD + 1.5
"""Least pilot score after any attack of the battery."""
FIRST_GAIN = 300
TOP = 0.98
"""Quantile of the wanted amplitudes that the largest level stands for."""
UP, DOWN = 0.9, 0.5
"""Share of a lack that is made good, and of a surplus that is taken back, in one round."""
LARGEST_GAIN = 60000

MARGIN = 0.7
"""Answer that is asked of every carrier at first, in standard deviations of the null carriers."""
EASE, PRESS = 0.9, 1.2
"""Change of that margin after a round that passed the whole battery, and after one that did not."""

Extract = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Tuned:
    """What the loop found.

    Parameters
    ----------
    codes : uint8 array (WRITTEN,)
        Index into LEVELS for each written carrier.
    gain : int
    passed : bool array
        Which pictures of the battery read; the first is the marked picture itself.
    """

    codes: NDArray[np.uint8]
    gain: int
    passed: NDArray[np.bool_]

    @property
    def reads(self) -> bool:
        """Whether the mark reads where nothing has happened to the picture."""
        return bool(self.passed[0])


@dataclass(frozen=True)
class _Trial:
    tuned: Tuned
    energy: float
    answers: NDArray[np.float32]

    @property
    def lowest_score(self) -> float:
        return float(detection.pilot_score(self.answers).min())


def values_of(codes: NDArray[np.uint8], signs: NDArray[np.int8]) -> NDArray[np.int64]:
    """Signed amplitudes in quarters, int64 (WRITTEN,)."""
    return np.asarray(LEVELS[codes] * signs, np.int64)


class _Loop:
    def __init__(
        self,
        picture: NDArray[np.uint8],
        signs: NDArray[np.int8],
        network: CouplingNetwork,
        extract: Extract,
        readable: Callable[[NDArray[np.float32]], bool],
        roi: NDArray[np.bool_] | None,
    ) -> None:
        self.picture, self.signs, self.network, self.extract = picture, signs, network, extract
        self.readable, self.roi = readable, roi

    def try_out(self, codes: NDArray[np.uint8], gain: int) -> _Trial:
        frozen = Frozen(gain, 0, 0, (0, 255), None, self.roi)
        marked = forward(self.picture, values_of(codes, self.signs), self.network, frozen).picture.astype(np.uint8)
        seen = np.stack([working_picture(a) for a in battery.attacked(marked)])
        answers = detection.normalise(self.extract(seen))
        weak = (answers[:, : cr.CODE] * self.signs[: cr.CODE] <= RESERVE).sum(1)
        sure = (weak <= WEAK_BITS) & (detection.pilot_score(answers) >= SCORE)
        passed = np.array([good and self.readable(a[: cr.CODE]) for good, a in zip(sure, answers, strict=True)])
        energy = float(np.mean(np.square(marked.astype(np.float64) - self.picture)))
        return _Trial(Tuned(codes, gain, passed), energy, answers)


@dataclass(frozen=True)
class _Share:
    """Wanted amplitude of each carrier in units of gain times quarters, before it is rounded to a level."""

    amplitude: NDArray[np.float64]

    def quantised(self) -> tuple[NDArray[np.uint8], int]:
        top = max(float(np.quantile(self.amplitude, TOP)), 1.0)
        gain = int(np.clip(round(top / LEVELS[-1]), 1, LARGEST_GAIN))
        codes = np.abs(self.amplitude[:, None] / gain - LEVELS).argmin(1).astype(np.uint8)
        return codes, gain

    def corrected(self, trial: _Trial, signs: NDArray[np.int8], margin: NDArray[np.float64]) -> _Share:
        """Every carrier shall just reach its margin after the attack that hurts it most."""
        given = LEVELS[trial.tuned.codes] * float(trial.tuned.gain)
        right = trial.answers[:, : cr.WRITTEN].astype(np.float64) * signs
        slope = np.maximum(right.sum(1), 1.0) / given.sum()
        lacking = ((margin - right) / slope[:, None]).max(0)
        lacking = np.clip(lacking, -given.mean(), 3 * given.mean())
        step = np.where(lacking > 0, UP, DOWN)
        return _Share(np.maximum(self.amplitude + step * lacking, 0.0))


def tune(
    picture: NDArray[np.uint8],
    signs: NDArray[np.int8],
    network: CouplingNetwork,
    extract: Extract,
    readable: Callable[[NDArray[np.float32]], bool],
    roi: NDArray[np.bool_] | None = None,
    margin: float | None = None,
    rounds: int = 10,
) -> Tuned:
    """Choose gain and amplitudes for a picture.

    Parameters
    ----------
    picture : uint8 array (H, W)
        Luminance of the cover, or a smaller stand-in for a large one.
    signs : int8 array (WRITTEN,)
        Signs of codeword and pilots.
    readable : callable
        Soft bits, float32 (CODE,) -> whether the payload comes out within the allowed byte errors.
    margin : float
        What every code carrier shall answer after every attack, in standard deviations of the null carriers.

    Returns
    -------
    Tuned
        The quietest trial that passed the whole battery; where none did above FLOOR, the one above it that passed
        most; where none above it can be read at all, the first louder one that can.
    """
    loop = _Loop(picture, signs, network, extract, readable, roi)
    share = _Share(np.full(cr.WRITTEN, float(LEVELS[2] * FIRST_GAIN)))
    trial = loop.try_out(np.full(cr.WRITTEN, 2, np.uint8), FIRST_GAIN)
    trials = [trial]
    margin = MARGIN if margin is None else margin
    pilots = margin
    for _ in range(rounds):
        asked = np.full(cr.WRITTEN, margin)
        asked[cr.CODE :] = pilots
        share = share.corrected(trial, signs, asked)
        trial = loop.try_out(*share.quantised())
        trials.append(trial)
        if sum(t.tuned.passed.all() for t in trials) >= ENOUGH:
            break
        margin *= EASE if trial.tuned.passed.all() else PRESS
        pilots *= 0.85 if trial.lowest_score >= SCORE + 1 else 1.2 if trial.lowest_score < SCORE else 1.0
    loudest = 255**2 / 10 ** (FLOOR / 10)
    bearable = [t for t in trials if t.tuned.reads and t.energy <= loudest]
    if bearable:
        return max(bearable, key=lambda t: (t.tuned.passed.sum(), -t.energy)).tuned
    while not trial.tuned.reads and trial.tuned.gain < LARGEST_GAIN:
        trial = loop.try_out(trial.tuned.codes, min(LARGEST_GAIN, int(trial.tuned.gain * 1.3) + 1))
        trials.append(trial)
    return min((t for t in trials if t.tuned.reads), key=lambda t: t.energy, default=trial).tuned
