"""The closed loop: the least energy at which the extractor reads the mark after the battery.

Two things are chosen per picture: the gain, and one of four amplitudes for every code carrier. Both travel in W2, so
restoration does not depend on how they were found. Trial and model (:mod:`medprov_watermark.response`) take turns,
because compression and noise move the answers whenever the marked picture changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import battery
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.detection import DOUBT, tail
from medprov_watermark.extractor import Reader, working_picture
from medprov_watermark.payload import MAX_CHANCE
from medprov_watermark.response import Response, fitting, of_battery

LEVELS: NDArray[np.int64] = np.array([0, 3, 5, 8], np.int64)
"""Amplitudes in quarters, by their two-bit code; part of the format."""
MOST_PILOTS = cr.PILOTS * int(LEVELS[-1])
TOO_DEAR = 1.1
"""Trials that cost more than this times what the floors allow are not taken."""
ROUNDS, QUICK_ROUNDS = 5, 2
"""Trials at most, and with the quick battery."""
START = 46.5
"""PSNR (dB) of the first trial."""
FIRST_GAIN = 1600
ASK = 2.0
"""Answer, in standard deviations, that the first trial's proportions ask of every carrier."""
TOP = 0.985
"""Quantile of the wanted amplitudes that the largest level stands for."""
LARGEST_GAIN = 60000
SPARE = 0.25
"""Share of the battery's reserves that must be left in a trial; under the noise of another day more is lost."""
EVERY: NDArray[np.intp] = np.arange(len(battery.ATTACKS))
QUICK: NDArray[np.intp] = np.array(battery.QUICK)


@dataclass(frozen=True)
class Tuned:
    """What the loop found.

    Parameters
    ----------
    codes : uint8 array (CODE,)
        Index into LEVELS for each code carrier.
    pilots : int
        Sum of the pilots' amplitudes in quarters.
    gain : int
    passed : bool array
        Which attacks of the battery the mark survives; the first is none at all.
    """

    codes: NDArray[np.uint8]
    pilots: int
    gain: int
    passed: NDArray[np.bool_]

    @property
    def reads(self) -> bool:
        """Whether the mark reads where nothing has happened to the picture."""
        return bool(self.passed[0])


@dataclass(frozen=True)
class _Trial:
    """One marked picture after some attacks of the battery.

    `tried` names them, `right` holds the answers times the wanted signs, float64 (tried, WRITTEN); `energy` is the mean
    squared change and `lost` what SSIM lacks, both divided by the loop's allowance; `passed` is of all attacks.
    """

    codes: NDArray[np.uint8]
    pilots: int
    gain: int
    energy: float
    lost: float
    tried: NDArray[np.intp]
    right: NDArray[np.float64]
    passed: NDArray[np.bool_]

    @property
    def amplitudes(self) -> NDArray[np.float64]:
        return _amplitudes(self.codes, self.pilots, self.gain)

    @property
    def tuned(self) -> Tuned:
        return Tuned(self.codes, self.pilots, self.gain, self.passed)

    @property
    def rank(self) -> tuple[int, float]:
        """Trials with a smaller one are better: an attack whose floor is left behind counts for nothing."""
        return -int((self.passed & (self.dear() <= TOO_DEAR)).sum()), self.energy

    def dear(self) -> NDArray[np.float64]:
        """Which part of what may be spent for the sake of each attack is spent."""
        allowed = 255**2 / 10 ** (of_battery("floor") / 10)
        return np.maximum(self.energy / allowed, self.lost / (1 - of_battery("similar")))


def amplitudes_of(codes: NDArray[np.uint8], pilots: int) -> NDArray[np.int64]:
    """Amplitudes in quarters, int64 (WRITTEN,). The pilots share theirs as evenly as whole quarters allow."""
    each, more = divmod(pilots, cr.PILOTS)
    return np.concatenate([LEVELS[codes], each + (np.arange(cr.PILOTS) < more)])


def values_of(codes: NDArray[np.uint8], pilots: int, signs: NDArray[np.int8]) -> NDArray[np.int64]:
    """Signed amplitudes in quarters, int64 (WRITTEN,)."""
    return np.asarray(amplitudes_of(codes, pilots) * signs, np.int64)


def survived(
    answers: NDArray[np.floating], signs: NDArray[np.int8], tried: NDArray[np.intp] = EVERY, spare: float = SPARE
) -> NDArray[np.bool_]:
    """Which attacks leave the mark readable.

    Parameters
    ----------
    answers : float32 array (K, WRITTEN)
    signs : int8 array (WRITTEN,)
    tried : int array (K,)
        Which attacks of the battery.
    spare : float
        Which share of the battery's reserves must be left.
    """
    bits, scores = fitting(np.asarray(answers * signs, np.float64))
    reserve, score, tries = (of_battery(name)[tried] for name in ("reserve", "score", "tries"))
    pilots = -np.log2([max(n * tail(s), 1e-300) for n, s in zip(tries, scores, strict=True)])
    believed = bits - math.log2(MAX_CHANCE) + pilots >= spare - math.log2(DOUBT)
    return np.asarray((bits >= spare * reserve) & (scores >= score - 1 + spare) & believed)


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean SSIM (Z. Wang et al., IEEE Trans. Image Processing 13(4), 2004) over windows of 8 x 8 side by side."""

    def means(x: NDArray[np.float64]) -> NDArray[np.float64]:
        h, w = x.shape
        return np.asarray(x[: h // 8 * 8, : w // 8 * 8].reshape(h // 8, 8, w // 8, 8).mean((1, 3)), np.float64)

    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my = means(x), means(y)
    vx, vy, cov = means(x * x) - mx * mx, means(y * y) - my * my, means(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean())


class _Loop:
    def __init__(
        self,
        picture: NDArray[np.uint8],
        signs: NDArray[np.int8],
        network: CouplingNetwork,
        reader: Reader,
        roi: NDArray[np.bool_] | None,
        attenuate: bool,
        allowance: float = 1.0,
    ) -> None:
        self.picture, self.signs, self.network, self.reader = picture, signs, network, reader
        self.roi, self.attenuate, self.allowance = roi, attenuate, allowance
        self.draw = 0
        self.passed = np.zeros(len(battery.ATTACKS), np.bool_)

    def marked(self, codes: NDArray[np.uint8], pilots: int, gain: int) -> tuple[NDArray[np.uint8], float]:
        """A marked picture and the mean squared change."""
        frozen = Frozen(gain, 0, 0, (0, 255), None, self.roi, self.reader.carriers, self.attenuate)
        picture = forward(self.picture, values_of(codes, pilots, self.signs), self.network, frozen).picture
        return picture.astype(np.uint8), float(np.mean(np.square(picture - self.picture, dtype=np.float32)))

    def first(self) -> tuple[NDArray[np.uint8], int, int]:
        """Codes, pilots and gain to begin with: what the unmarked picture answers wrongly is asked for most."""
        own = self.reader(working_picture(self.picture)[None])[0] * self.signs
        wanted = np.clip(ASK - own.astype(np.float64), ASK / 2, 2 * ASK)
        wanted[cr.CODE :] = wanted[: cr.CODE].mean()
        codes, pilots, _ = _quantised(wanted)
        gain = FIRST_GAIN
        for _ in range(2):
            ratio = 255.0**2 / 10 ** (START / 10) / max(self.marked(codes, pilots, gain)[1], 1e-3)
            gain = int(np.clip(gain * math.sqrt(ratio), 1, LARGEST_GAIN))
        return codes, pilots, gain

    def try_out(self, codes: NDArray[np.uint8], pilots: int, gain: int, tried: NDArray[np.intp] = EVERY) -> _Trial:
        picture, energy = self.marked(codes, pilots, gain)
        answers = self.reader(*battery.seen(picture, self.draw, tried))
        self.draw += 1
        self.passed[tried] = survived(answers, self.signs, tried)
        lost = (1 - similarity(self.picture, picture)) / self.allowance
        right = np.asarray(answers * self.signs, np.float64)
        return _Trial(codes, pilots, gain, energy / self.allowance, lost, tried, right, self.passed.copy())


def _amplitudes(codes: NDArray[np.uint8], pilots: int, gain: int) -> NDArray[np.float64]:
    return np.asarray(amplitudes_of(codes, pilots) * float(gain), np.float64)


def _quantised(amplitudes: NDArray[np.float64]) -> tuple[NDArray[np.uint8], int, int]:
    """Codes, pilots and gain."""
    code = amplitudes[: cr.CODE]
    gain = int(np.clip(round(float(np.quantile(code, TOP)) / LEVELS[-1]), 1, LARGEST_GAIN))
    codes = np.abs(code[:, None] / gain - LEVELS).argmin(1)
    pilots = round(float(amplitudes[cr.CODE :].sum()) / gain)
    return codes.astype(np.uint8), min(pilots, MOST_PILOTS), gain


def tune(
    picture: NDArray[np.uint8],
    signs: NDArray[np.int8],
    network: CouplingNetwork,
    reader: Reader,
    roi: NDArray[np.bool_] | None = None,
    quick: bool = False,
    attenuate: bool = False,
    allowance: float = 1.0,
) -> Tuned:
    """Choose gain and amplitudes for a picture.

    Parameters
    ----------
    picture : uint8 array (H, W)
        Luminance of the cover, or a smaller stand-in for a large one.
    signs : int8 array (WRITTEN,)
        Signs of codeword and pilots.
    roi : bool array (H, W) or None
        True where no sample may change, or where it changes less.
    quick : bool
        Two trials with a few attacks of the battery, in place of five with all of it.
    attenuate : bool
        The mark is scaled down in `roi` instead of left out.
    allowance : float
        How many times the energy that the battery's floors allow may be spent, and of what SSIM loses.

    Returns
    -------
    Tuned
        Of the trials that are not too dear the one that passed most of the battery, the quietest of these; where none
        of them can be read at all, the first louder one that can.
    """
    loop = _Loop(picture, signs, network, reader, roi, attenuate, allowance)
    trials = [loop.try_out(*loop.first(), QUICK if quick else EVERY)]
    model = Response(trials[0].tried)
    while len(trials) < (QUICK_ROUNDS if quick else ROUNDS):
        last = trials[-1]
        model.learn(last.tried, last.amplitudes, last.right)
        most = float(np.square(last.amplitudes).sum()) / np.maximum(last.dear(), 1e-3)
        found = _quantised(model.amplitudes(last.amplitudes, most, last.passed))
        trials.append(loop.try_out(*found, model.worth_trying(_amplitudes(*found), last.passed)))
    bearable = [t for t in trials if t.passed[0] and t.dear()[0] <= TOO_DEAR]
    if bearable:
        return min(bearable, key=lambda t: t.rank).tuned
    trial = trials[-1]
    while not trial.passed[0] and trial.gain < LARGEST_GAIN:
        trial = loop.try_out(trial.codes, trial.pilots, min(LARGEST_GAIN, int(trial.gain * 1.3) + 1))
        trials.append(trial)
    return min((t for t in trials if t.passed[0]), key=lambda t: t.energy, default=trial).tuned
