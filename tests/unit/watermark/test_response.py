"""The model of the loop: what it learns from trials, and the amplitudes of least energy that follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark import battery, response
from medprov_watermark import carriers as cr
from medprov_watermark.chance import chance
from medprov_watermark.payload import MAX_CHANCE, PARITY_BITS
from medprov_watermark.response import Response, fitting, of_battery

F64 = NDArray[np.float64]
ATTACKS = len(battery.ATTACKS)
EVERY = np.arange(ATTACKS)
NONE = np.zeros(ATTACKS, np.bool_)
PLENTY = np.full(ATTACKS, 1e12)
RESERVES, SCORES = of_battery("reserve"), of_battery("score")
ROOT = math.sqrt(cr.PILOTS)
PLAIN = 0
GIVEN = 1500.0


# What is asked.


def test_bits_and_scores_are_those_of_decoding() -> None:
    random = np.random.default_rng(0)
    right = random.normal(0.85, 1, (5, cr.WRITTEN))
    right[4] = 0
    bits, scores = fitting(right)
    assert bits.shape == scores.shape == (5,)
    for k in range(4):
        fits = float(chance(right[k, : cr.CODE], PARITY_BITS))
        assert bits[k] == pytest.approx(math.log2(MAX_CHANCE / fits))
        assert scores[k] == pytest.approx(right[k, cr.CODE :].sum() / ROOT)
    assert bits[4] == math.log2(MAX_CHANCE)
    assert scores[4] == 0


# Amplitudes.


def model_of(seed: int = 0, noise: float = 0.4, spread: float = 1.0) -> Response:
    """A model in which one unit of amplitude gives about a thousandth of a standard deviation."""
    random, model = np.random.default_rng(seed), Response(EVERY)
    model.bias = random.normal(0, spread, (ATTACKS, cr.WRITTEN))
    model.slope = random.uniform(0.7, 1.3, ATTACKS) * 1e-3
    model.noise = np.full(ATTACKS, noise)
    return model


def excess(model: Response, amplitudes: F64) -> F64:
    """By how many bits each attack misses its target, at amplitudes of the code carriers."""
    answers = model._answers(amplitudes[: cr.CODE], EVERY)
    return np.asarray(model._asked() - response._room(answers))


START = np.full(cr.WRITTEN, 900.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_solution_satisfies_the_model_and_no_less_would(seed: int) -> None:
    model = model_of(seed)
    found = model.amplitudes(START, PLENTY, NONE)
    assert found.shape == (cr.WRITTEN,)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert excess(model, found).max() < 0.5
    assert excess(model, 0.97 * found).max() > 1.0
    scores = fitting(model.bias + model.slope[:, None] * found)[1]
    assert (scores >= model.asked_score - 1e-6).all()
    assert scores.min() < fitting(model.bias + model.slope[:, None] * found * 1.05)[1].min()
    assert np.ptp(found[cr.CODE :]) == 0
    needed = (model.asked_score - model.bias[:, cr.CODE :].sum(1) / ROOT) / ROOT / model.slope
    assert found[-1] == pytest.approx(needed.max())


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.floats(0, 2), st.floats(0, 2), st.floats(50, 20000), st.floats(0.2, 5))
def test_what_is_wanted_is_satisfied(seed: int, noise: float, spread: float, start: float, part: float) -> None:
    """Whatever had to be given up, wherever the search began, and as loud as the pilots need and no louder."""
    model = model_of(seed, noise, spread)
    most = np.random.default_rng(seed).uniform(0.2, 5, ATTACKS) * part * 1e9
    found = model.amplitudes(np.full(cr.WRITTEN, start), most, NONE)
    wanted = model.wanted
    assert wanted[PLAIN]
    assert found.min() >= 0
    assert np.square(found).sum() >= cr.WRITTEN * start**2 / response.FARTHEST * (1 - 1e-9)
    assert excess(model, found)[wanted].max() <= 1e-6
    scores = fitting(model.bias + model.slope[:, None] * found)[1]
    assert (scores - model.asked_score)[wanted].min() >= -1e-6
    assert (model.share[~wanted] == 0).all()
    assert model.share.sum() == pytest.approx(1)
    # Those that are paid for are worth it.
    if np.square(found).sum() > cr.WRITTEN * start**2 / response.FARTHEST * (1 + 1e-9):
        paid = wanted & (model.share > 0.01) & (np.arange(ATTACKS) != PLAIN)
        assert (np.square(found).sum() <= most[paid]).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_needs_less_energy_than_equal_amplitudes(seed: int) -> None:
    model = model_of(seed)
    found = model.amplitudes(START, PLENTY, NONE)[: cr.CODE]
    equal = next(a for a in np.arange(500.0, 6000, 25) if excess(model, np.full(cr.CODE, a)).max() <= 0)
    assert np.square(found).mean() < 0.95 * equal**2
    # Carriers that the picture answers rightly by itself after every attack get less than those it contradicts.
    own = (model.bias[:, : cr.CODE] / model.slope[:, None]).mean(0)
    order = np.argsort(own)
    assert found[order[-30:]].mean() < 0.8 * found[order[:30]].mean()


@pytest.mark.parametrize("seed", range(3))
def test_no_small_change_of_the_solution_is_cheaper(seed: int) -> None:
    """Moving energy between any two groups of carriers either costs more or breaks a constraint."""
    model, random = model_of(seed), np.random.default_rng(seed)
    found = model.amplitudes(START, PLENTY, NONE)
    limit = max(0.0, float(excess(model, found).max()))
    better = 0
    for _ in range(40):
        change = random.normal(0, 0.1, cr.CODE) * found[: cr.CODE].mean()
        other = np.maximum(found[: cr.CODE] + change, 0)
        other *= math.sqrt(0.99 * float(np.square(found[: cr.CODE]).sum() / np.square(other).sum()))
        better += bool(excess(model, other).max() <= limit)
    # The steps stop a little beside the optimum.
    assert better <= 2


def test_an_attack_that_is_too_dear_is_given_up_and_costs_nothing() -> None:
    for dear in (5, ATTACKS - 1):
        model, without = model_of(1), model_of(1)
        model.slope[dear] *= 0.02
        without.bias[dear], without.asked[dear], without.asked_score[dear] = 50 * without.slope[dear], -20.0, 0.0
        without.bias[dear] += 5.0  # survived by itself
        cheap = without.amplitudes(START, PLENTY, NONE)
        most = 1.5 * float(np.square(cheap).sum())
        found = model.amplitudes(START, np.full(ATTACKS, most), NONE)
        assert np.square(found).sum() <= most
        assert excess(model, found)[dear] > 5
        assert np.delete(excess(model, found), dear).max() < 0.5
        assert np.square(found).sum() == pytest.approx(np.square(cheap).sum(), rel=0.05)
        assert model.share[dear] == 0


def test_pilots_that_are_too_dear_are_given_up() -> None:
    model = model_of(2)
    model.asked_score[7] = 500.0
    plain = model_of(2).amplitudes(START, PLENTY, NONE)
    found = model.amplitudes(START, np.full(ATTACKS, 1.5 * float(np.square(plain).sum())), NONE)
    assert found[-1] < 2 * plain[-1]
    assert model.share[7] == 0


def test_where_little_may_be_spent_the_dearest_go_first_and_the_picture_itself_last() -> None:
    whole = float(np.square(model_of(3).amplitudes(START, PLENTY, NONE)).sum())
    kept = []
    for part in (1.2, 0.8, 0.65):
        model = model_of(3)
        found = model.amplitudes(START, np.full(ATTACKS, part * whole), NONE)
        survived = excess(model, found) < 0.5
        kept.append(int(survived.sum()))
        assert survived[PLAIN]
        assert np.square(found).sum() <= part * whole
    assert kept[0] == ATTACKS
    assert kept[0] > kept[1] >= kept[2] >= 1


def test_one_step_does_not_fall_far() -> None:
    model = model_of(0)
    loud = 5 * np.full(cr.WRITTEN, 3000.0)
    found = model.amplitudes(loud, 1e3 * PLENTY, NONE)
    assert np.square(found).sum() == pytest.approx(np.square(loud).sum() / response.FARTHEST)


def learn(model: Response, right: F64, tried: NDArray[np.intp] = EVERY, given: float = GIVEN) -> None:
    model.learn(tried, np.full(cr.WRITTEN, given), right)


@pytest.mark.parametrize("seed", range(2))
def test_what_was_learned_of_a_picture_whose_host_disturbs_all_attacks_alike_is_solved(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = Response(EVERY)
    learn(model, 1.4 + random.normal(0, 0.6, cr.WRITTEN) + random.normal(0, 0.1, (ATTACKS, cr.WRITTEN)))
    found = model.amplitudes(np.full(cr.WRITTEN, GIVEN), PLENTY, NONE)
    assert model.share.sum() == pytest.approx(1.0)
    assert found.min() >= 0
    assert excess(model, found).max() < 0.5
    bias = model.bias[0, : cr.CODE]
    assert found[: cr.CODE][bias > 0.6].mean() < 0.8 * found[: cr.CODE][bias < -0.6].mean()


def test_the_model_learns_slope_bias_and_noise() -> None:
    random = np.random.default_rng(0)
    slope = random.uniform(1, 2, ATTACKS) * 1e-3
    own = random.normal(size=cr.WRITTEN)
    own -= own.mean()
    right = slope[:, None] * GIVEN + own * (slope / slope[0])[:, None]
    model = Response(EVERY)
    learn(model, right)
    np.testing.assert_allclose(model.slope, slope)
    np.testing.assert_allclose(model.bias, own * (slope / slope[0])[:, None], atol=1e-9)
    np.testing.assert_allclose(model.noise, 0, atol=1e-12)

    rest = random.normal(0, 0.5, right.shape)
    rest -= rest.mean(1, keepdims=True)
    rest[0] = 0
    model = Response(EVERY)
    learn(model, right + rest)
    repeats = of_battery("repeats")
    np.testing.assert_allclose(model.noise, np.square(rest).mean(1) * (1 - repeats))
    np.testing.assert_allclose(model.bias, own * (slope / slope[0])[:, None] + repeats[:, None] * rest, atol=1e-9)


def test_noise_that_is_drawn_anew_is_told_from_what_the_picture_says() -> None:
    random = np.random.default_rng(3)
    slope, deviation = random.uniform(1, 2, ATTACKS) * 1e-3, random.uniform(0.3, 1.2, ATTACKS)
    deviation[PLAIN] = 0
    own = random.normal(size=cr.WRITTEN)
    own -= own.mean()
    bias = own * (slope / slope[PLAIN])[:, None]
    model = Response(EVERY)
    for loudness in (1500.0, 1300.0, 1700.0):
        right = bias + slope[:, None] * loudness + deviation[:, None] * random.normal(size=(ATTACKS, cr.WRITTEN))
        learn(model, right, given=loudness)
    fresh = of_battery("repeats") == 0
    assert fresh.sum() > 3
    np.testing.assert_allclose(model.slope, slope, rtol=0.04)
    np.testing.assert_allclose(model.noise[fresh], deviation[fresh] ** 2, rtol=0.15)
    # Nothing of the noise is left in their biases; where the attack repeats itself, the mean of three trials is.
    left = np.sqrt(np.square(model.bias - bias).mean(1))
    assert left[fresh].max() < 0.06
    lasting = of_battery("repeats") * deviation / math.sqrt(3)
    np.testing.assert_allclose(left[~fresh], lasting[~fresh], rtol=0.15, atol=0.04)


def test_slopes_come_from_proportions_of_any_shape() -> None:
    random = np.random.default_rng(0)
    model, loudness = Response(EVERY), random.uniform(0, 3000, cr.WRITTEN)
    slope = random.uniform(1, 2, ATTACKS) * 1e-3
    model.learn(EVERY, loudness, slope[:, None] * loudness)
    np.testing.assert_allclose(model.slope, slope)
    np.testing.assert_allclose(model.bias, 0, atol=1e-9)


def test_trials_are_averaged_and_those_long_ago_forgotten() -> None:
    flat = np.ones((ATTACKS, cr.WRITTEN))
    model = Response(EVERY)
    for answer in (2.0, 4.0):
        learn(model, answer * flat)
    np.testing.assert_allclose(model.slope, 3.0 / GIVEN)
    for _ in range(40):
        learn(model, 9.0 * flat)
    np.testing.assert_allclose(model.slope, 9.0 / GIVEN, rtol=1e-3)


def test_only_what_was_tried_is_learned() -> None:
    model, tried = Response(EVERY), np.array([0, 4, 9])
    learn(model, np.full((ATTACKS, cr.WRITTEN), 2.0))
    before = model.slope.copy(), model.asked.copy(), model.bias.copy()
    learn(model, np.full((3, cr.WRITTEN), 6.0), tried)
    rest = np.setdiff1d(EVERY, tried)
    for old, new in zip(before, (model.slope, model.asked, model.bias), strict=True):
        np.testing.assert_array_equal(new[rest], old[rest])
    assert (model.slope[tried] > before[0][tried]).all()


def test_where_a_trial_falls_short_of_the_hope_more_is_asked_and_most_for_what_comes_back() -> None:
    random = np.random.default_rng(0)
    own = random.normal(0, 0.5, cr.WRITTEN)
    model = Response(EVERY)
    learn(model, np.tile(1.6 + own, (ATTACKS, 1)))
    np.testing.assert_array_equal(model.asked, RESERVES)
    learn(model, np.tile(1.1 + own, (ATTACKS, 1)))
    more = model.asked - RESERVES
    assert (more > 1).all()
    assert (more <= response.PRESS * response.MOST_ASKED).all()
    repeats = of_battery("repeats")
    assert more[repeats > 0.9].min() > more[repeats == 0].max()
    learn(model, np.tile(9.0 + own, (ATTACKS, 1)))
    np.testing.assert_allclose(model.asked, RESERVES)


def test_pilots_that_were_too_faint_are_asked_for_more() -> None:
    short, plenty = Response(EVERY), Response(EVERY)
    for _ in range(30):
        learn(short, np.full((ATTACKS, cr.WRITTEN), -1.0))
        learn(plenty, np.full((ATTACKS, cr.WRITTEN), 9.0))
    np.testing.assert_allclose(short.asked_score, SCORES + 2.0)
    np.testing.assert_allclose(plenty.asked_score, SCORES - 0.5)


# Which attacks.


def test_a_quick_model_asks_only_for_what_it_knows() -> None:
    known = np.array([0, 2, 11])
    model = Response(known)
    learn(model, np.full((3, cr.WRITTEN), 1.2) + np.random.default_rng(0).normal(0, 0.5, (3, cr.WRITTEN)), known)
    found = model.amplitudes(np.full(cr.WRITTEN, GIVEN), PLENTY, ~NONE)
    assert np.flatnonzero(model.wanted).tolist() == known.tolist()
    assert set(model.worth_trying(found, ~NONE).tolist()) <= set(known.tolist())
    assert np.isfinite(found).all()


def test_what_was_given_up_comes_back_only_when_it_passed() -> None:
    model = model_of(1)
    cheap = float(np.square(model_of(1).amplitudes(START, PLENTY, NONE)).sum())
    most = np.full(ATTACKS, 10 * cheap)
    most[5] = 1e-6
    model.amplitudes(START, most, NONE)
    assert not model.wanted[5] and model.wanted.sum() == ATTACKS - 1
    model.amplitudes(START, np.full(ATTACKS, 10 * cheap), NONE)
    assert not model.wanted[5]
    model.amplitudes(START, np.full(ATTACKS, 10 * cheap), EVERY == 5)
    assert model.wanted[5]


def test_an_attack_of_little_worth_goes_before_a_cheaper_one_of_more() -> None:
    model = model_of(2)
    spent = float(np.square(model_of(2).amplitudes(START, PLENTY, NONE)).sum())
    dearest = int(model_of_share(2).argmax())
    most = np.full(ATTACKS, 10 * spent)
    most[dearest] = 0.3 * spent
    model.amplitudes(START, most, NONE)
    assert not model.wanted[dearest]
    assert model.wanted.sum() == ATTACKS - 1


def test_an_attack_that_is_a_little_too_dear_is_asked_for_less_and_kept() -> None:
    model = model_of(2)
    spent = float(np.square(model_of(2).amplitudes(START, PLENTY, NONE)).sum())
    dearest = int(model_of_share(2).argmax())
    most = np.full(ATTACKS, 10 * spent)
    most[dearest] = 0.97 * spent
    found = model.amplitudes(START, most, NONE)
    assert model.wanted[dearest] and model.modest[dearest]
    assert np.square(found).sum() <= 0.97 * spent


def test_the_picture_itself_is_asked_for_whatever_it_costs() -> None:
    model = model_of(1)
    model.slope[PLAIN] *= 0.1
    found = model.amplitudes(START, np.full(ATTACKS, 1e-6), NONE)
    assert np.flatnonzero(model.wanted).tolist() == [PLAIN]
    assert excess(model, found)[PLAIN] <= 1e-6
    # Nor does it go when, of those that passed, it is the one that costs most.
    other = model_of(1)
    other.slope[PLAIN] *= 0.1
    spent = float(np.square(other.amplitudes(START, PLENTY, NONE)).sum())
    assert int(other.share.argmax()) == PLAIN
    other.amplitudes(START, np.full(ATTACKS, 0.9 * spent), ~NONE)
    assert other.wanted[PLAIN]


def model_of_share(seed: int) -> F64:
    model = model_of(seed)
    model.amplitudes(START, PLENTY, NONE)
    return model.share


def test_the_picture_itself_and_what_comes_near_are_tried_again() -> None:
    model = Response(EVERY)
    right = np.full((ATTACKS, cr.WRITTEN), 9.0)
    right[3] = 0.5
    learn(model, right + np.random.default_rng(0).normal(0, 0.3, right.shape))
    model.share = np.zeros(ATTACKS)
    model.share[6] = 0.5
    again = model.worth_trying(np.full(cr.WRITTEN, GIVEN), ~NONE).tolist()
    assert {0, 3, 6} <= set(again)
    assert len(again) < ATTACKS
    missing = np.ones(ATTACKS, np.bool_)
    missing[8] = False
    assert 8 not in again and 8 in model.worth_trying(np.full(cr.WRITTEN, GIVEN), missing)
    model.wanted[3] = False
    failed = ~NONE
    failed[3] = False
    hopeless = model.worth_trying(np.full(cr.WRITTEN, 0.2 * GIVEN), failed).tolist()
    assert 3 not in hopeless and 0 in hopeless
    assert 3 in model.worth_trying(np.full(cr.WRITTEN, 0.2 * GIVEN), ~NONE)
