"""The closed loop: the least energy at which the extractor reads the mark after the battery.

Two things are chosen per picture: the gain, and one of eight amplitudes for every written carrier. Both travel in W2,
so restoration does not depend on how they were found.

The answer of a carrier after an attack is modelled as a bias (what picture and attack say by themselves) and a slope
times its amplitude. Whether the codeword is then found depends on all its soft bits together: what is asked of each
attack is that few enough words of a random code would fit as well (:func:`ordered_statistics.chance`), and a pilot
score. The amplitudes of least energy that give this under the model solve a smooth problem with one multiplier per
attack; a carrier gets ``sum over attacks of multiplier * slope * tilt * logistic(-tilt * answer)``, so neither those
that the picture answers rightly by itself nor those that it contradicts hopelessly are paid for. Trial and model take
turns, because compression and noise move the answers whenever the marked picture changes.
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
from medprov_watermark.extractor import Reader
from medprov_watermark.ordered_statistics import chance, tilt
from medprov_watermark.payload import MAX_CHANCE, PARITY_BITS

LEVELS: NDArray[np.int64] = np.array([0, 1, 2, 3, 5, 7, 9, 12], np.int64)
"""Amplitudes in quarters, by their three-bit code; part of the format."""
FLOOR, LEAST_SIMILAR = 44.5, 0.96
"""PSNR (dB) and SSIM below which the loop gives up parts of the battery rather than quality."""
TOO_DEAR = 1.1
"""Trials that cost more than this times what the floors allow are not taken."""
ROUNDS, LEAST_ROUNDS = 10, 5
"""Trials at most, and before which the loop does not end."""
START = 46.0
"""PSNR (dB) of the second trial; the first only finds out what a unit of gain costs."""
FIRST_GAIN = 800
TOP = 0.985
"""Quantile of the wanted amplitudes that the largest level stands for."""
LARGEST_GAIN = 60000
MEMORY = 3
"""Trials over which biases and slopes are averaged."""
UNEVEN = 2.0
"""How much more energy the trial's proportions need than the best ones, at most."""
FARTHEST = 2.0
"""By what a trial's energy falls at most."""
PRESS, MOST_ASKED = 0.2, 10.0
"""Share of what a trial fell short by that is asked for besides, and bits at most: the model hopes a little much."""
STEPS = 80
"""Steps of the multipliers for each trial."""
EVERY: NDArray[np.intp] = np.arange(len(battery.ATTACKS))
_NEEDED = -math.log2(MAX_CHANCE)


@dataclass(frozen=True)
class Tuned:
    """What the loop found.

    Parameters
    ----------
    codes : uint8 array (WRITTEN,)
        Index into LEVELS for each written carrier.
    gain : int
    passed : bool array
        Which attacks of the battery the mark survives; the first is none at all.
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
    """One marked picture after some attacks of the battery.

    `tried` names them, `right` holds the answers times the wanted signs, float64 (tried, WRITTEN); `energy` is the mean
    squared change and `dear` how much of what may be spent that is; `passed` is of all attacks.
    """

    codes: NDArray[np.uint8]
    gain: int
    energy: float
    dear: float
    tried: NDArray[np.intp]
    right: NDArray[np.float64]
    passed: NDArray[np.bool_]

    @property
    def amplitudes(self) -> NDArray[np.float64]:
        return np.asarray(LEVELS[self.codes] * float(self.gain), np.float64)

    @property
    def tuned(self) -> Tuned:
        return Tuned(self.codes, self.gain, self.passed)


def values_of(codes: NDArray[np.uint8], signs: NDArray[np.int8]) -> NDArray[np.int64]:
    """Signed amplitudes in quarters, int64 (WRITTEN,)."""
    return np.asarray(LEVELS[codes] * signs, np.int64)


def fitting(right: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By how many bits codewords fit better than is needed, and the pilot scores; float64 (K,) each.

    Parameters
    ----------
    right : float64 array (K, WRITTEN)
        Answers times the wanted signs.
    """
    bits = -np.log2(np.maximum(chance(right[:, : cr.CODE], PARITY_BITS), 1e-300)) - _NEEDED
    return bits, right[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS)


def survived(
    answers: NDArray[np.floating], signs: NDArray[np.int8], tried: NDArray[np.intp] = EVERY, spare: float = 0.5
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
    reserve, score = (np.array([getattr(battery.ATTACKS[k], name) for k in tried]) for name in ("reserve", "score"))
    return np.asarray((bits >= spare * reserve) & (scores >= score - 1 + spare))


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
    ) -> None:
        self.picture, self.signs, self.network, self.reader = picture, signs, network, reader
        self.roi, self.attenuate = roi, attenuate
        self.draw = 0
        self.passed = np.zeros(len(battery.ATTACKS), np.bool_)

    def marked(self, codes: NDArray[np.uint8], gain: int) -> tuple[NDArray[np.uint8], float]:
        """A marked picture and the mean squared change."""
        frozen = Frozen(gain, 0, 0, (0, 255), None, self.roi, self.reader.carriers, self.attenuate)
        picture = forward(self.picture, values_of(codes, self.signs), self.network, frozen).picture.astype(np.uint8)
        return picture, float(np.mean(np.square(picture.astype(np.float32) - self.picture)))

    def try_out(self, codes: NDArray[np.uint8], gain: int, tried: NDArray[np.intp] = EVERY) -> _Trial:
        picture, energy = self.marked(codes, gain)
        answers = self.reader(*battery.seen(picture, self.draw, tried))
        self.draw += 1
        self.passed[tried] = survived(answers, self.signs, tried)
        lost = 1 - similarity(self.picture, picture)
        dear = max(energy / 255**2 * 10 ** (FLOOR / 10), lost / (1 - LEAST_SIMILAR))
        right = np.asarray(answers * self.signs, np.float64)
        return _Trial(codes, gain, energy, dear, tried, right, self.passed.copy())


class _Model:
    """What the trials so far say of every carrier after each attack.

    The bias of a carrier is its bias without attack, scaled, and a rest. Of the rest only the share counts that comes
    back when the attack is repeated on a slightly different picture; the other share is noise of known size.
    """

    def __init__(self) -> None:
        attacks = len(battery.ATTACKS)
        self.seen = np.zeros(attacks, np.int64)
        self.bias = np.zeros((attacks, cr.WRITTEN))
        self.noise = np.zeros(attacks)
        self.slope = np.zeros(attacks)
        self.repeats, self.reserve, self.score = (
            np.array([getattr(a, name) for a in battery.ATTACKS]) for name in ("repeats", "reserve", "score")
        )
        self.asked, self.asked_score = self.reserve.copy(), self.score.copy()
        self.share = np.ones(attacks)

    def learn(self, trial: _Trial) -> None:
        which, given = trial.tried, trial.amplitudes
        slope = np.maximum(trial.right.sum(1), 1.0) / max(given.sum(), 1.0)
        bias = trial.right - slope[:, None] * given
        scaled = bias[0] * (slope / slope[0])[:, None]
        rest = bias - scaled
        noise = np.square(rest).mean(1) * (1 - self.repeats[which])
        self.seen[which] = np.minimum(self.seen[which] + 1, MEMORY)
        new = 1 / self.seen[which]
        self.slope[which] += new * (slope - self.slope[which])
        self.bias[which] += new[:, None] * (scaled + self.repeats[which, None] * rest - self.bias[which])
        self.noise[which] += new * (noise - self.noise[which])
        bits, scores = fitting(trial.right)
        more = self.asked[which] + np.clip(PRESS * (self.reserve[which] - bits), -1.0, 2.0)
        self.asked[which] = np.clip(more, self.reserve[which] / 2, self.reserve[which] + MOST_ASKED)
        louder = self.asked_score[which] + np.clip(PRESS * (self.score[which] - scores), -0.1, 0.2)
        self.asked_score[which] = np.clip(louder, self.score[which] - 0.5, self.score[which] + 2.0)

    def binding(self, trial: _Trial) -> NDArray[np.intp]:
        """Attacks worth trying again: the picture itself, and those that decide the amplitudes or came near it."""
        bits, scores = fitting(trial.right)
        near = np.zeros(len(self.share), np.bool_)
        near[trial.tried] = (bits < self.reserve[trial.tried] + 6) | (scores < self.score[trial.tried] + 1)
        near |= self.share > 0.01
        near[0] = True
        return np.flatnonzero(near)

    def amplitudes(self, start: NDArray[np.float64], most: float) -> NDArray[np.float64]:
        """Amplitudes of least energy that satisfy the model.

        Attacks that would by themselves make the sum of squares exceed `most` are given up, and as long as the others
        together do, the one that costs most.
        """
        wanted = self._pilots() ** 2 * cr.PILOTS < most / 2
        wanted &= self._alone(start) <= UNEVEN * most
        wanted[0] = True
        while True:
            found, cost = self._least(start, wanted)
            spent = float(np.square(found).sum())
            if wanted.sum() == 1 or spent <= most:
                self.share = cost
                # Rounding to whole grey values makes the model wrong far from where it was learned.
                return found * math.sqrt(max(1.0, float(np.square(start).sum()) / FARTHEST / max(spent, 1e-9)))
            wanted[1 + int(cost[1:].argmax())] = False

    def _pilots(self) -> NDArray[np.float64]:
        """The amplitude of the pilots that each attack makes necessary."""
        own = self.bias[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS)
        return np.asarray(np.maximum((self.asked_score - own) / np.sqrt(cr.PILOTS) / self.slope, 0.0), np.float64)

    def _answers(self, code: NDArray[np.float64]) -> NDArray[np.float64]:
        """Answers (K, CODE, nodes of the noise)."""
        noise = np.sqrt(3 * self.noise)[:, None, None] * _NODES
        return np.asarray((self.bias[:, : cr.CODE] + self.slope[:, None] * code)[..., None] + noise, np.float64)

    def _target(self) -> NDArray[np.float64]:
        return np.asarray(PARITY_BITS - _NEEDED - self.asked + _PREFACTOR, np.float64)

    def _alone(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of squares at which each attack by itself would be survived with the present proportions."""
        need = np.full(len(self.slope), np.inf)
        for times in np.geomspace(4.0, 0.4, 20):
            answers = self._answers(times * start[: cr.CODE])
            unfit = _unfit(answers, _tilts(answers)).sum(1)
            need = np.where(unfit <= self._target(), times**2 * float(np.square(start).sum()), need)
        return need

    def _least(
        self, start: NDArray[np.float64], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The amplitudes, and which share each attack has in their cost (its multiplier)."""
        pilots = np.full(cr.PILOTS, float(self._pilots()[wanted].max()))
        code = np.maximum(start[: cr.CODE], 0.05 * float(start.max()))
        share, pressure = wanted / wanted.sum(), 0.0
        for step in range(STEPS):
            answers = self._answers(code)
            if step % 10 == 0:
                tilts = _tilts(answers)
                weight = self.slope * tilts
                pressure = pressure or float(code.mean()) / float((share * weight).sum() * 0.1)
            excess = np.where(wanted, _unfit(answers, tilts).sum(1) - self._target(), -np.inf)
            worst = float(excess.max())
            pressure *= math.exp(min(max(0.01 * worst, -0.1), 0.1))
            share = share * np.exp(np.maximum(0.005 * (excess - worst), -0.1))
            share /= share.sum()
            # Half a Newton step; whole ones swing, because the pressure follows what they do.
            wrong = 1 / (1 + np.exp(np.clip(tilts[:, None, None] * answers, -60, 60)))
            pull = (pressure * share * weight) @ (wrong @ _WEIGHTS)
            fall = (pressure * share * weight**2) @ ((wrong * (1 - wrong)) @ _WEIGHTS)
            code = np.maximum(code - 0.5 * (code - pull) / (1 + fall), 0.0)
        return np.concatenate([code, pilots]), share


def _tilts(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    return tilt(answers.reshape(len(answers), -1), np.tile(_WEIGHTS, cr.CODE))


def _unfit(answers: NDArray[np.float64], tilts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits lost at each carrier, in the mean over the noise, (K, CODE)."""
    lost = np.logaddexp(0.0, -tilts[:, None, None] * answers) / math.log(2)
    return np.asarray(lost @ _WEIGHTS, np.float64)


_NODES = np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([1 / 6, 2 / 3, 1 / 6])
"""Gauss-Hermite quadrature of the noise in three points, at 0 and at +-sqrt(3) standard deviations."""
_PREFACTOR = 3.6
"""Bits by which the count of fitting words lies below Chernoff's bound, near enough; the trial tells exactly."""


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
    reader: Reader,
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
    roi : bool array (H, W) or None
        True where no sample may change, or where it changes less.
    rounds : int
        Trials at most, besides louder ones for a picture that none of them can be read in.
    attenuate : bool
        The mark is scaled down in `roi` instead of left out.

    Returns
    -------
    Tuned
        Of the trials that are not too dear the one that passed most of the battery, the quietest of these; where none
        of them can be read at all, the first louder one that can.
    """
    loop = _Loop(picture, signs, network, reader, roi, attenuate)
    codes = np.full(cr.WRITTEN, len(LEVELS) // 2, np.uint8)
    gain = FIRST_GAIN
    for _ in range(2):
        ratio = 255.0**2 / 10 ** (START / 10) / max(loop.marked(codes, gain)[1], 1e-3)
        gain = int(np.clip(gain * math.sqrt(ratio), 1, LARGEST_GAIN))
    trials = [loop.try_out(codes, gain)]
    model = _Model()
    while len(trials) < rounds and not _settled(trials):
        last = trials[-1]
        model.learn(last)
        most = float(np.square(last.amplitudes).sum()) / max(last.dear, 1e-3)
        found = _quantised(model.amplitudes(last.amplitudes, most))
        trials.append(loop.try_out(*found, EVERY if len(trials) < 3 else model.binding(last)))
    bearable = [t for t in trials if t.dear <= TOO_DEAR and t.passed[0]]
    if bearable:
        return min(bearable, key=lambda t: (-int(t.passed.sum()), t.energy)).tuned
    trial = trials[-1]
    while not trial.passed[0] and trial.gain < LARGEST_GAIN:
        trial = loop.try_out(trial.codes, min(LARGEST_GAIN, int(trial.gain * 1.3) + 1))
        trials.append(trial)
    return min((t for t in trials if t.passed[0]), key=lambda t: t.energy, default=trial).tuned


def _settled(trials: list[_Trial]) -> bool:
    """Whether the last trials passed the same and cost the same."""
    if len(trials) < LEAST_ROUNDS:
        return False
    last = trials[-3:]
    energies = [t.energy for t in last]
    return all((t.passed == last[0].passed).all() for t in last) and max(energies) < 1.03 * min(energies)
