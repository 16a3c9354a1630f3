"""How likely a word that fits is chance: counted on noise, against exact counts, and by its symmetries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark.chance import chance, tilt

F64 = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)
CODE_BITS, PARITY_BITS = 128, 32
LENGTH, DATA = 40, 11


def random_words(seed: int) -> F64:
    """All words of a random linear code, as signs (2**DATA, LENGTH)."""
    random = np.random.default_rng(seed)
    data = np.arange(2**DATA)[:, None] >> np.arange(DATA) & 1
    return np.asarray((data @ random.integers(0, 2, (DATA, LENGTH)) % 2) * 2.0 - 1)


def chance_of_nearest(draw: Callable[[], F64], times: int) -> F64:
    words = random_words(1)
    found = []
    for _ in range(times):
        soft = draw()
        # The word that contradicts least is the one that agrees most.
        found.append(float(chance(soft * words[(words @ soft).argmax()], LENGTH - DATA)))
    return np.array(found)


def calibrated(found: F64, loose: float = 0.25) -> None:
    """Chances of words found in noise occur about as often as they say.

    A chance is an expected number of better words, so it is at most q with a probability of ``1 - exp(-q)``; what the
    approximation and the search are off by may add `loose`, and counting four standard deviations.
    """
    for q in (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256):
        wanted = 1 - np.exp(-q)
        share = float(np.mean(found <= q))
        spread = 4 * np.sqrt(wanted * (1 - wanted) / len(found))
        assert wanted * (1 - loose) - spread <= share <= wanted * (1 + loose) + spread, q
    assert found.min() > 0
    assert found.max() == 1


@pytest.mark.parametrize("law", ["normal", "uniform", "laplace", "heavy"])
def test_chance_is_calibrated_on_noise(law: str) -> None:
    random = np.random.default_rng(6)
    draw: Callable[[], F64] = {
        "normal": lambda: random.normal(size=LENGTH),
        "uniform": lambda: random.uniform(-1, 1, LENGTH),
        "laplace": lambda: random.laplace(size=LENGTH),
        "heavy": lambda: random.standard_t(4, LENGTH),
    }[law]
    calibrated(chance_of_nearest(draw, 1200), 0.35)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_chance_is_near_the_exact_count(strength: float) -> None:
    length = 16
    flips = (np.arange(2**length)[:, None] >> np.arange(length) & 1).astype(np.float64)
    random = np.random.default_rng(7)
    ratios = []
    for _ in range(20):
        signed = random.normal(strength, 1, length)
        # A pattern of flips fits as well where what it adds to the contradicted bits is not positive.
        exact = np.count_nonzero(flips @ signed <= 1e-12) / 2.0**length
        ratios.append(float(chance(signed, length)) / exact)
    assert 0.75 < np.median(ratios) < 2.0
    assert min(ratios) > 0.3
    assert max(ratios) < 3.0


@settings(deadline=None, max_examples=200)
@given(SEEDS, st.floats(0, 2), st.integers(0, CODE_BITS - 1), st.floats(0, 4))
def test_chance_never_rises_where_a_bit_fits_better(seed: int, strength: float, place: int, more: float) -> None:
    signed = np.random.default_rng(seed).normal(strength, 1, CODE_BITS)
    better = signed.copy()
    better[place] += more
    # The approximation's prefactor is not exactly monotone.
    assert chance(better, PARITY_BITS) <= chance(signed, PARITY_BITS) * 1.03


def test_chance_falls_with_every_step_of_strength() -> None:
    random = np.random.default_rng(8)
    noise = random.normal(size=(50, CODE_BITS))
    steps = np.stack([chance(noise + strength, PARITY_BITS) for strength in np.arange(0.8, 3, 0.2)])
    lower, upper = steps[1:], steps[:-1]
    assert ((lower < upper) | (upper == 1) | (lower < 1.001 * 2.0**-PARITY_BITS)).all()
    assert (steps[0] > 0.1).all()
    assert (steps[-1] < 1e-8).all()


def test_a_word_that_nothing_contradicts_is_one_of_all_words() -> None:
    signed = np.random.default_rng(9).uniform(0.5, 2, CODE_BITS)
    assert float(chance(signed, PARITY_BITS)) == pytest.approx(2.0**-PARITY_BITS)


def test_a_parity_bit_halves_it() -> None:
    signed = np.random.default_rng(9).normal(1.8, 1, CODE_BITS)
    first = float(chance(signed, 32))
    assert 0 < first < 1e-3
    assert float(chance(signed, 33)) == pytest.approx(first / 2)
    assert float(chance(signed, 24)) == pytest.approx(first * 256)


@settings(deadline=None)
@given(SEEDS, st.floats(0, 3), st.floats(-60, 60))
def test_the_unit_does_not_matter(seed: int, strength: float, exponent: float) -> None:
    signed = np.random.default_rng(seed).normal(strength, 1, CODE_BITS)
    scaled = signed * 10.0**exponent
    assert float(chance(scaled, PARITY_BITS)) == pytest.approx(float(chance(signed, PARITY_BITS)), rel=1e-6, abs=1e-300)
    assert float(tilt(scaled)) * 10.0**exponent == pytest.approx(float(tilt(signed)), rel=1e-6)


@settings(deadline=None)
@given(hnp.arrays(np.float64, CODE_BITS, elements=st.floats(-1e50, 1e50)))
def test_chance_lies_between_nothing_and_one(signed: F64) -> None:
    assert 0 <= float(chance(signed, PARITY_BITS)) <= 1
    assert float(tilt(signed)) > 0


def test_soft_bits_that_say_nothing_or_contradict_are_chance() -> None:
    assert float(chance(np.zeros(CODE_BITS), PARITY_BITS)) == 1
    assert float(chance(-np.ones(CODE_BITS), PARITY_BITS)) == 1


def test_many_at_once_are_each_alone() -> None:
    signed = np.random.default_rng(10).normal(0.8, 1, (3, 4, CODE_BITS))
    together = chance(signed, PARITY_BITS)
    assert together.shape == (3, 4)
    assert tilt(signed).shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert float(together[i, j]) == pytest.approx(float(chance(signed[i, j], PARITY_BITS)))
            assert float(tilt(signed)[i, j]) == pytest.approx(float(tilt(signed[i, j])))


# The tilt.


@settings(deadline=None)
@given(SEEDS, st.floats(0.2, 1.5))
def test_the_tilt_balances_what_fits_and_what_does_not(seed: int, strength: float) -> None:
    signed = np.random.default_rng(seed).normal(strength, 1, CODE_BITS)
    t = float(tilt(signed))
    pull = signed / (1 + np.exp(t * signed))
    assert abs(pull.sum()) < 1e-6 * np.abs(pull).sum()


def test_the_tilt_of_a_signal_in_noise_is_that_of_its_likelihood() -> None:
    # log p(s | +) / p(s | -) of a bit at strength a in noise of unit variance is 2 a s
    signed = np.random.default_rng(11).normal(1.0, 1, 200_000)
    assert float(tilt(signed)) == pytest.approx(2.0, rel=0.02)


def test_weights_count_like_repetitions() -> None:
    signed = np.random.default_rng(12).normal(0.7, 1, 30)
    times = np.arange(30) % 4
    assert float(tilt(signed, times.astype(np.float64))) == pytest.approx(float(tilt(np.repeat(signed, times))))
    assert float(tilt(signed, times.astype(np.float64))) != pytest.approx(float(tilt(signed)))


def test_the_tilt_stays_finite_where_nothing_balances() -> None:
    assert np.isfinite(tilt(np.ones(CODE_BITS)))
    assert float(tilt(np.ones(CODE_BITS))) > 100 > 0.01 > float(tilt(-np.ones(CODE_BITS))) > 0
