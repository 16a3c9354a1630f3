"""What trials say of every carrier after each attack, and the amplitudes of least energy that follow.

The answer of a carrier after an attack is modelled as a bias (what picture and attack say by themselves) and a slope
times its amplitude. Whether the codeword is then found depends on all its soft bits together: what is asked of each
attack is that few enough words of a random code would fit as well (:func:`medprov_watermark.chance.chance`), and a
pilot score. The amplitudes of least energy that give this under the model solve a smooth problem with one multiplier
per attack; a carrier gets ``sum over attacks of multiplier * slope * tilt * logistic(-tilt * answer)``, so neither
those that the picture answers rightly by itself nor those that it contradicts hopelessly are paid for.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import battery
from medprov_watermark import carriers as cr
from medprov_watermark.chance import chance, tilt
from medprov_watermark.payload import MAX_CHANCE, PARITY_BITS

MEMORY = 3
"""Trials over which biases and slopes are averaged."""
FARTHEST = 2.0
"""By what a trial's energy falls at most."""
PRESS, MOST_ASKED = 0.5, 60.0
"""Share of what a trial fell short of the model's hope by that is asked for besides, and bits at most."""
SYSTEMATIC = 0.5
"""The least share of it that is taken not to be chance."""
MODEST, LOWER = 8.0, 1.3
"""Bits of reserve at most, and by how much less of a pilot score, for an attack for which all of them cost too much."""
STEPS, MORE_STEPS = 60, 30
"""Steps of the multipliers for each trial, and after an attack was given up."""
NEAR = 40.0
"""Bits above what is asked within which an attack is tried again."""
_NEEDED = -math.log2(MAX_CHANCE)
_NODES = np.array([-1.0, 0.0, 1.0])
_WEIGHTS = np.array([1 / 6, 2 / 3, 1 / 6])
"""Gauss-Hermite quadrature of the noise in three points, at 0 and at +-sqrt(3) standard deviations."""
_PREFACTOR = 3.6
"""Bits by which the count of fitting words lies below Chernoff's bound, near enough; the trial tells exactly."""

F64 = NDArray[np.float64]


def of_battery(name: str) -> F64:
    """A figure of every attack of the battery."""
    return np.array([getattr(attack, name) for attack in battery.ATTACKS], np.float64)


def fitting(right: F64) -> tuple[F64, F64]:
    """By how many bits codewords fit better than is needed, and the pilot scores; float64 (K,) each.

    Parameters
    ----------
    right : float64 array (K, WRITTEN)
        Answers times the wanted signs.
    """
    bits = -np.log2(np.maximum(chance(right[:, : cr.CODE], PARITY_BITS), 1e-300)) - _NEEDED
    return bits, right[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS)


class Response:
    """The model. Attacks are numbered as in the battery; only the `known` ones are asked for.

    The bias of a carrier is its bias without attack, scaled, and a rest. Of the rest only the share counts that comes
    back when the attack is repeated on a slightly different picture; the other share is noise of known size.
    """

    def __init__(self, known: NDArray[np.intp]) -> None:
        attacks = len(battery.ATTACKS)
        self.seen = np.zeros(attacks, np.int64)
        self.bias = np.zeros((attacks, cr.WRITTEN))
        self.noise = np.zeros(attacks)
        self.slope = np.zeros(attacks)
        self.repeats, self.reserve, self.score = (of_battery(name) for name in ("repeats", "reserve", "score"))
        self.asked, self.asked_score = self.reserve.copy(), self.score.copy()
        self.known = np.zeros(attacks, np.bool_)
        self.known[known] = True
        self.wanted = self.known.copy()
        self.given_up = ~self.known
        self.modest = np.zeros(attacks, np.bool_)
        self.share = np.ones(attacks)

    def learn(self, which: NDArray[np.intp], given: F64, right: F64) -> None:
        """Take in a trial.

        Parameters
        ----------
        which : int array (K,)
            Attacks that were tried, the first of them none at all.
        given : float64 array (WRITTEN,)
            Amplitudes.
        right : float64 array (K, WRITTEN)
            Answers times the wanted signs.
        """
        if self.seen.any():
            real = _room(np.repeat(right[:, : cr.CODE, None], 3, axis=2))
            missed = np.clip(_room(self._answers(given[: cr.CODE], which)) - real, 0.0, MOST_ASKED)
            self.asked[which] = self.reserve[which] + PRESS * np.maximum(self.repeats[which], SYSTEMATIC) * missed
        slope = np.maximum(right.sum(1), 1.0) / max(given.sum(), 1.0)
        bias = right - slope[:, None] * given
        scaled = bias[0] * (slope / slope[0])[:, None]
        rest = bias - scaled
        noise = np.square(rest).mean(1) * (1 - self.repeats[which])
        self.seen[which] = np.minimum(self.seen[which] + 1, MEMORY)
        new = 1 / self.seen[which]
        self.slope[which] += new * (slope - self.slope[which])
        self.bias[which] += new[:, None] * (scaled + self.repeats[which, None] * rest - self.bias[which])
        self.noise[which] += new * (noise - self.noise[which])
        scores = fitting(right)[1]
        louder = self.asked_score[which] + np.clip(PRESS * (self.score[which] - scores), -0.1, 0.2)
        self.asked_score[which] = np.clip(louder, self.score[which] - 0.5, self.score[which] + 2.0)

    def amplitudes(self, start: F64, most: F64, passed: NDArray[np.bool_]) -> F64:
        """Amplitudes of least energy that satisfy the model.

        Parameters
        ----------
        start : float64 array (WRITTEN,)
            Amplitudes of the last trial.
        most : float64 array (attacks,)
            Sum of squares that may be spent for the sake of each attack. Those that would need more by themselves are
            given up; as long as the wanted ones together do, the one that costs most is asked for MODEST bits of
            reserve at most, and then given up too.
        passed : bool array (attacks,)
            What the last trial survived. What was given up once comes back only so: else the loop would swing.
        """
        wanted = self._possible(start, most) & ~self.given_up | passed & self.known
        wanted[0] = True
        found, share, steps = start, wanted / wanted.sum(), STEPS
        while True:
            found, share = self._least(found, share, wanted, steps)
            steps = MORE_STEPS
            spent = float(np.square(found).sum())
            dear = wanted & (share > 0.01) & (spent > most)
            dear[0] = False
            if not dear.any():
                break
            dearest = int(np.where(dear, share, -1.0).argmax())
            wanted[dearest] = not self.modest[dearest] and self.asked[dearest] > MODEST
            self.modest[dearest] = True
        self.wanted, self.share, self.given_up = wanted, share, ~wanted
        # Rounding to whole grey values makes the model wrong far from where it was learned.
        return found * math.sqrt(max(1.0, float(np.square(start).sum()) / FARTHEST / max(spent, 1e-9)))

    def worth_trying(self, amplitudes: F64, passed: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Attacks that may decide how amplitudes fare.

        The picture itself, what comes near what is asked, and what is wanted and was not passed so far.
        """
        spare = _room(self._answers(amplitudes[: cr.CODE], np.arange(len(self.wanted)))) - self.asked
        near = (
            (spare < NEAR) | (self._scores(amplitudes) < self.score + 1) | (self.share > 0.01) | self.wanted & ~passed
        )
        # What is far from passing need not be seen failing again.
        near &= self.known & (self.wanted | passed | (spare > -NEAR))
        near[0] = True
        return np.flatnonzero(near)

    def _scores(self, amplitudes: F64) -> F64:
        pilots = self.bias[:, cr.CODE :] + self.slope[:, None] * amplitudes[cr.CODE :]
        return np.asarray(pilots.sum(1) / math.sqrt(cr.PILOTS), np.float64)

    def _pilots(self, lower: float = 0.0) -> F64:
        """The amplitude of the pilots that each attack makes necessary, for a score that is so much lower."""
        asked = self.asked_score - np.maximum(lower, LOWER * self.modest)
        own = self.bias[:, cr.CODE :].sum(1) / np.sqrt(cr.PILOTS)
        return np.asarray(
            np.maximum((asked - own) / np.sqrt(cr.PILOTS) / np.maximum(self.slope, 1e-9), 0.0), np.float64
        )

    def _asked(self) -> F64:
        return np.where(self.modest, np.minimum(self.asked, MODEST), self.asked)

    def _answers(self, code: F64, which: NDArray[np.intp]) -> F64:
        """Answers (which, CODE, nodes of the noise)."""
        noise = np.sqrt(3 * self.noise[which])[:, None, None] * _NODES
        plain = self.bias[which, : cr.CODE] + self.slope[which, None] * code
        return np.asarray(plain[..., None] + noise, np.float64)

    def _possible(self, start: F64, most: F64) -> NDArray[np.bool_]:
        """Which attacks would be survived with the present proportions at twice the energy that is allowed."""
        length = float(np.square(start).sum())
        out = self._pilots(LOWER) ** 2 * cr.PILOTS < most / 2
        for limit in np.unique(most):
            these = np.flatnonzero(most == limit)
            answers = self._answers(start[: cr.CODE] * math.sqrt(2 * limit / length), these)
            out[these] &= _room(answers) >= np.minimum(self.asked[these], MODEST)
        return out

    def _least(self, start: F64, share: F64, wanted: NDArray[np.bool_], steps: int) -> tuple[F64, F64]:
        """The amplitudes, and which share each attack has in their cost.

        That is its multiplier for the code, and all of the pilots for the attack that needs the loudest ones.
        """
        needed = np.where(wanted, self._pilots(), 0.0)
        pilots = np.full(cr.PILOTS, float(needed.max()))
        code = np.maximum(start[: cr.CODE], 0.05 * float(start.max()))
        which = np.flatnonzero(wanted)
        slope, asked = self.slope[which, None], self._asked()[which]
        # What the attacks given up have masked shall come forward in time.
        share, pressure = np.maximum(share[which], 0.02), 0.0
        share /= share.sum()
        for step in range(steps):
            answers = self._answers(code, which)
            if step % 10 == 0:
                tilts = _tilts(answers)
                weight = slope * tilts[:, None]
                pressure = pressure or float(code.mean()) / float((share[:, None] * weight).sum() * 0.1)
            odds = np.exp(np.clip(-tilts[:, None, None] * answers, -60, 60))
            excess = asked - _spare(np.log1p(odds))
            worst = float(excess.max())
            pressure *= math.exp(min(max(0.01 * worst, -0.1), 0.1))
            share = share * np.exp(np.maximum(0.005 * (excess - worst), -0.1))
            share /= share.sum()
            # Half a Newton step; whole ones swing, because the pressure follows what they do.
            wrong = odds / (1 + odds)
            paid = pressure * share[:, None] * weight
            pull = (paid * (wrong @ _WEIGHTS)).sum(0)
            fall = (paid * weight * ((wrong * (1 - wrong)) @ _WEIGHTS)).sum(0)
            code = np.maximum(code - 0.5 * (code - pull) / (1 + fall), 0.0)
        shares = np.zeros(len(wanted))
        shares[which] = share
        code = code * self._enough(code, which)
        part = float(np.square(pilots).sum()) / max(float(np.square(code).sum() + np.square(pilots).sum()), 1e-9)
        shares *= 1 - part
        shares[int(needed.argmax())] += part
        return np.concatenate([code, pilots]), shares

    def _enough(self, code: F64, which: NDArray[np.intp]) -> float:
        """The factor at which amplitudes just satisfy the model: the steps stop a little beside it."""
        low, high = 0.7, 2.0
        for _ in range(7):
            middle = math.sqrt(low * high)
            if (_room(self._answers(code * middle, which)) >= self._asked()[which]).all():
                high = middle
            else:
                low = middle
        return high


def _tilts(answers: F64) -> F64:
    return tilt(answers.reshape(len(answers), -1), np.tile(_WEIGHTS, cr.CODE))


def _room(answers: F64) -> F64:
    """By how many bits a codeword with these answers fits better than is needed, near enough; (K,)."""
    return _spare(np.logaddexp(0.0, -_tilts(answers)[:, None, None] * answers))


def _spare(lost: F64) -> F64:
    """The same from what each carrier loses, in nats, (K, CODE, nodes)."""
    return np.asarray(PARITY_BITS - _NEEDED + _PREFACTOR - (lost @ _WEIGHTS).sum(1) / math.log(2), np.float64)
