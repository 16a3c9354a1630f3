"""Soft decoding finds words of the code, the right ones, and knows how likely they are chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark.ordered_statistics import Code, chance, nearest, tilt
from medprov_watermark.payload import CODE_BITS, PARITY_BITS, Payload, binary_code, encode

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
SEEDS = st.integers(0, 2**32 - 1)
FEWEST = 5
"""Two words of RS(16, 12) differ in at least five bytes."""


def random_code(length: int, parity: int, seed: int = 0) -> Code:
    """A random code whose check matrix has full rank, its columns in no order."""
    random = np.random.default_rng(seed)
    check = np.concatenate([random.integers(0, 2, (parity, length - parity)), np.eye(parity, dtype=np.int64)], axis=1)
    return Code(check[:, random.permutation(length)].astype(np.uint8))


def all_words(code: Code) -> U8:
    """Every word of a short code."""
    every = (np.arange(2**code.length)[:, None] >> np.arange(code.length) & 1).astype(np.uint8)
    return every[~(every.astype(np.int64) @ code.check.T % 2).any(axis=1)]


def belongs(word: U8, code: Code) -> bool:
    return not (code.check.astype(np.int64) @ word % 2).any()


def cost(word: U8, soft: F64) -> float:
    """Sum of the soft bits that a word contradicts."""
    return float(np.abs(soft)[(soft > 0) != word.astype(np.bool_)].sum())


def chance_of_nearest(code: Code, draw: Callable[[], F64], times: int) -> F64:
    found = []
    for _ in range(times):
        soft = draw()
        found.append(float(chance(soft * (2.0 * nearest(soft, code) - 1), code.parity)))
    return np.array(found)


# What is found.


@settings(deadline=None)
@given(hnp.arrays(np.float64, CODE_BITS, elements=st.floats(-1e6, 1e6)))
def test_it_is_always_a_word_of_the_code(soft: F64) -> None:
    before = soft.copy()
    word = nearest(soft, binary_code())
    assert word.shape == (CODE_BITS,)
    assert word.dtype == np.uint8
    assert set(word.tolist()) <= {0, 1}
    assert belongs(word, binary_code())
    np.testing.assert_array_equal(soft, before)


@settings(deadline=None)
@given(st.integers(1, 32), st.integers(4, 60), SEEDS)
def test_codes_of_every_size_are_decoded(parity: int, data: int, seed: int) -> None:
    code = random_code(parity + data, parity, seed)
    assert (code.length, code.parity) == (parity + data, parity)
    assert belongs(nearest(np.random.default_rng(seed).normal(size=code.length), code), code)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12))
def test_where_the_search_covers_all_words_it_finds_the_best(seed: int, parity: int) -> None:
    # With four data bits, flipping one to four of them gives every word.
    code = random_code(4 + parity, parity, seed)
    soft = np.random.default_rng(seed + 1).normal(0.4, 1, code.length)
    words = all_words(code)
    assert len(words) == 16
    assert cost(nearest(soft, code), soft) == pytest.approx(min(cost(w, soft) for w in words))


def test_the_best_word_of_a_longer_code_is_hardly_ever_missed() -> None:
    code, random = random_code(20, 9), np.random.default_rng(3)
    words = all_words(code)
    assert len(words) == 2**11
    for _ in range(200):
        soft = random.normal(size=20)
        costs = (words != (soft > 0)) @ np.abs(soft)
        np.testing.assert_array_equal(nearest(soft, code), words[costs.argmin()])


@settings(deadline=None)
@given(
    st.binary(min_size=12, max_size=12).map(Payload.from_data),
    hnp.arrays(np.float64, CODE_BITS, elements=st.floats(1e-3, 1e3)),
)
def test_a_hard_decision_that_is_a_word_is_kept(payload: Payload, size: F64) -> None:
    word = (encode(payload) > 0).astype(np.uint8)
    np.testing.assert_array_equal(nearest(encode(payload) * size, binary_code()), word)


@settings(deadline=None)
@given(
    st.binary(min_size=12, max_size=12).map(Payload.from_data),
    hnp.arrays(np.float64, CODE_BITS, elements=st.floats(0.01, 10)),
    st.permutations(range(CODE_BITS)),
    st.integers(0, 12),
)
def test_what_was_sent_is_found_below_half_the_distance(
    payload: Payload, size: F64, order: list[int], most: int
) -> None:
    """Another word differs in at least five bits, so it contradicts at least the five least reliable less these."""
    half = np.sort(size)[:FEWEST].sum() / 2 * 0.999
    soft, wrong, lost = encode(payload) * size, 0, 0.0
    for place in sorted(order[:40], key=lambda i: size[i]):
        if wrong < most and lost + size[place] < half:
            soft[place] *= -1
            lost += size[place]
            wrong += 1
    word = (encode(payload) > 0).astype(np.uint8)
    assert cost(word, soft) == pytest.approx(lost)
    np.testing.assert_array_equal(nearest(soft, binary_code()), word)


def test_equal_reliabilities_leave_two_errors_right() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        signs = encode(Payload.from_data(random.bytes(12))).astype(np.float64)
        soft = signs.copy()
        soft[random.choice(CODE_BITS, 2, replace=False)] *= -1
        np.testing.assert_array_equal(nearest(soft, binary_code()), (signs > 0).astype(np.uint8))


def test_at_a_useful_strength_nothing_better_than_what_was_sent_is_missed() -> None:
    random = np.random.default_rng(1)
    for _ in range(150):
        signs = encode(Payload.from_data(random.bytes(12)))
        soft = 1.7 * signs + random.normal(size=CODE_BITS)
        assert cost(nearest(soft, binary_code()), soft) <= cost((signs > 0).astype(np.uint8), soft) + 1e-9


@pytest.mark.parametrize("silent", [1, 20, CODE_BITS])
def test_bits_that_say_nothing_do_no_harm(silent: int) -> None:
    random = np.random.default_rng(silent)
    signs = encode(Payload.from_data(random.bytes(12)))
    soft = signs * random.uniform(0.5, 2, CODE_BITS)
    soft[random.choice(CODE_BITS, silent, replace=False)] = 0
    word = nearest(soft, binary_code())
    assert belongs(word, binary_code())
    if silent < CODE_BITS:
        assert cost(word, soft) == 0
        assert np.count_nonzero(word != (signs > 0)) <= (0 if silent < FEWEST else silent)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_only_ratios_of_soft_bits_count(scale: float) -> None:
    soft = np.random.default_rng(0).normal(size=CODE_BITS)
    np.testing.assert_array_equal(nearest(soft * scale, binary_code()), nearest(soft, binary_code()))


# How likely it is chance.


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


def test_chance_is_calibrated_on_noise() -> None:
    random = np.random.default_rng(5)
    calibrated(chance_of_nearest(binary_code(), lambda: random.normal(size=CODE_BITS), 1500))


@pytest.mark.parametrize("law", ["uniform", "laplace", "heavy"])
def test_chance_is_calibrated_on_other_noise_and_another_code(law: str) -> None:
    random = np.random.default_rng(6)
    draw: Callable[[], F64] = {
        "uniform": lambda: random.uniform(-1, 1, 40),
        "laplace": lambda: random.laplace(size=40),
        "heavy": lambda: random.standard_t(4, 40),
    }[law]
    calibrated(chance_of_nearest(random_code(40, 20), draw, 1200), 0.35)


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
