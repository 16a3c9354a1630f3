"""The closed loop: the least energy at which the extractor reads the mark after the battery.

Two things are chosen per picture: the gain, and one of eight amplitudes for every written carrier. A carrier that the
picture itself already answers with the right sign needs little; one that the picture contradicts gets more. Both
travel in W2, so restoration does not depend on how they were found.

The answer of a carrier after an attack is modelled as a bias (what picture and attack say by themselves) and a slope
times its amplitude. Every trial gives both anew; they are averaged, because compression and noise move the answers a
little each time the marked picture changes, and an amplitude that just suits one trial would not suit the next.
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

LEVELS: NDArray[np.int64] = np.array([0, 1, 2, 3, 5, 7, 9, 12], np.int64)
"""Amplitudes in quarters, by their three-bit code; part of the format."""
RESERVE = 0.3
"""A bit that answers less than this after an attack is weak, in standard deviations of an unmarked carrier."""
WEAK_BITS = 2
"""Weak codeword bits after an attack of the battery that count as read; the code corrects two bytes."""
SCORE = detection.THRESHOLD + 1.0
"""Least pilot score after any attack of the battery."""
FLOOR = 36.0
"""PSNR (dB) below which the loop gives up parts of the battery rather than quality."""
ROUNDS, LEAST_ROUNDS = 32, 12
"""Trials at most, and before which the loop does not end."""
RECENT, ENOUGH = 8, 2
"""The loop ends when so many of so many last trials passed the whole battery."""
START = 45.0
"""PSNR (dB) of the second trial; the first only finds out what a unit of gain costs."""
FIRST_GAIN = 300
TOP = 0.985
"""Quantile of the wanted amplitudes that the largest level stands for."""
LARGEST_GAIN = 60000

ASK = 0.35
"""What a code carrier shall answer above RESERVE at first."""
PRESS = 0.06
"""Change of that for each weak bit too many or too few after an attack."""
MEMORY = 4
"""Trials over which biases and slopes are averaged."""
STEP = 0.8
"""Share of the way to the wanted amplitudes that a round goes."""
SPARE = 0.3
"""What the pilots shall score above SCORE at first."""
RAISE, EASE = 0.2, 0.1
"""Change of that after a trial in which they scored less than SCORE after some attack, and after one in which not."""

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
    """One marked picture after the battery.

    `right` holds the answers times the wanted signs, float64 (K, WRITTEN); `energy` is the mean squared change.
    """

    tuned: Tuned
    energy: float
    right: NDArray[np.float64]

    @property
    def amplitudes(self) -> NDArray[np.float64]:
        return np.asarray(LEVELS[self.tuned.codes] * float(self.tuned.gain), np.float64)

    @property
    def weak(self) -> NDArray[np.int64]:
        """Weak codeword bits after each attack."""
        return np.asarray((self.right[:, : cr.CODE] <= RESERVE).sum(1), np.int64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Pilot score after each attack."""
        return np.asarray(self.right[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS), np.float64)


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
        attenuate: bool,
    ) -> None:
        self.picture, self.signs, self.network, self.extract = picture, signs, network, extract
        self.readable, self.roi, self.attenuate = readable, roi, attenuate
        self.tried = 0

    def try_out(self, codes: NDArray[np.uint8], gain: int) -> _Trial:
        frozen = Frozen(gain, 0, 0, (0, 255), None, self.roi, self.attenuate)
        marked = forward(self.picture, values_of(codes, self.signs), self.network, frozen).picture.astype(np.uint8)
        answers = self.extract(np.stack([working_picture(a) for a in battery.attacked(marked, self.tried)]))
        self.tried += 1
        energy = float(np.mean(np.square(marked.astype(np.float64) - self.picture)))
        trial = _Trial(Tuned(codes, gain, np.zeros(len(answers), np.bool_)), energy, answers * self.signs.astype(float))
        sure = (trial.weak <= WEAK_BITS) & (trial.scores >= SCORE)
        passed = np.array([good and self.readable(a[: cr.CODE]) for good, a in zip(sure, answers, strict=True)])
        return _Trial(Tuned(codes, gain, passed), energy, trial.right)


class _Wanted:
    """What the trials so far say about the amplitude that each carrier needs."""

    def __init__(self, attacks: int) -> None:
        self.asked = np.full(attacks, RESERVE + ASK)
        self.score = SCORE + SPARE
        self.seen = 0
        self.bias = np.zeros((attacks, cr.WRITTEN))
        self.slope = np.zeros(attacks)

    def learn(self, trial: _Trial) -> None:
        given = trial.amplitudes
        slope = np.maximum(trial.right.sum(1), 1.0) / max(given.sum(), 1.0)
        self.seen = min(self.seen + 1, MEMORY)
        self.slope += (slope - self.slope) / self.seen
        self.bias += (trial.right - slope[:, None] * given - self.bias) / self.seen
        self.asked = np.maximum(self.asked + PRESS * np.clip(trial.weak - (WEAK_BITS - 0.5), -1, 4), RESERVE)
        self.score += RAISE if trial.scores.min() < SCORE else -EASE

    def amplitudes(self) -> NDArray[np.float64]:
        """For each carrier what the attack that hurts it most makes necessary; all pilots get the same."""
        wanted = ((self.asked[:, None] - self.bias) / self.slope[:, None]).max(0)
        own = self.bias[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS)
        wanted[cr.CODE :] = ((self.score - own) / np.sqrt(cr.PILOTS) / self.slope).max()
        return np.asarray(np.maximum(wanted, 0.0), np.float64)


def _quantised(amplitudes: NDArray[np.float64]) -> tuple[NDArray[np.uint8], int]:
    """Codes and gain. Pilots count by their sum, so what one is rounded by is passed on to the next."""
    gain = int(np.clip(round(float(np.quantile(amplitudes, TOP)) / LEVELS[-1]), 1, LARGEST_GAIN))
    units = amplitudes / gain
    codes = np.abs(units[:, None] - LEVELS).argmin(1)
    left = 0.0
    for pilot in range(cr.CODE, cr.WRITTEN):
        codes[pilot] = np.abs(units[pilot] + left - LEVELS).argmin()
        left = float(np.clip(left + units[pilot] - LEVELS[codes[pilot]], -LEVELS[-1], LEVELS[-1]))
    return codes.astype(np.uint8), gain


def tune(
    picture: NDArray[np.uint8],
    signs: NDArray[np.int8],
    network: CouplingNetwork,
    extract: Extract,
    readable: Callable[[NDArray[np.float32]], bool],
    roi: NDArray[np.bool_] | None = None,
    rounds: int = ROUNDS,
    attenuate: bool = False,
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
    roi : bool array (H, W) or None
        True where no sample may change, or where it changes less.
    rounds : int
        Trials at most, besides louder ones for a picture that none of them can be read in.
    attenuate : bool
        The mark is scaled down in `roi` instead of left out.

    Returns
    -------
    Tuned
        The quietest trial that passed the whole battery; where none did above FLOOR, the one above it that passed
        most; where none above it can be read at all, the first louder one that can.
    """
    loop = _Loop(picture, signs, network, extract, readable, roi, attenuate)
    middle = np.full(cr.WRITTEN, len(LEVELS) // 2, np.uint8)
    first = loop.try_out(middle, FIRST_GAIN)
    ratio = 255.0**2 / 10 ** (START / 10) / max(first.energy, 1e-3)
    trials = [first, loop.try_out(middle, int(np.clip(FIRST_GAIN * ratio**0.5, 1, LARGEST_GAIN)))]
    wanted = _Wanted(len(first.tuned.passed))
    wanted.learn(trials[-1])
    amplitudes = wanted.amplitudes()
    while len(trials) < rounds:
        trial = loop.try_out(*_quantised(amplitudes))
        trials.append(trial)
        recent = sum(t.tuned.passed.all() for t in trials[2:][-RECENT:])
        if recent >= ENOUGH and len(trials) >= LEAST_ROUNDS:
            break
        wanted.learn(trial)
        amplitudes = trial.amplitudes + STEP * (wanted.amplitudes() - trial.amplitudes)
    loudest = 255**2 / 10 ** (FLOOR / 10)
    bearable = [t for t in trials if t.tuned.reads and t.energy <= loudest]
    if bearable:
        return max(bearable, key=lambda t: (t.tuned.passed.sum(), -t.energy)).tuned
    trial = trials[-1]
    while not trial.tuned.reads and trial.tuned.gain < LARGEST_GAIN:
        trial = loop.try_out(trial.tuned.codes, min(LARGEST_GAIN, int(trial.tuned.gain * 1.3) + 1))
        trials.append(trial)
    return min((t for t in trials if t.tuned.reads), key=lambda t: t.energy, default=trial).tuned
