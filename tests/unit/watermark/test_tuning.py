"""The closed loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from medprov_watermark import battery, tuning
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward
from medprov_watermark.payload import Payload, decode, encode
from medprov_watermark.watermarker import DualWatermarker

Phantom = Callable[..., NDArray[np.uint8]]


def signs_of(payload: Payload) -> NDArray[np.int8]:
    return np.concatenate([encode(payload), cr.derive().pilot_signs]).astype(np.int8)


def marked(wm: DualWatermarker, cover: NDArray[np.uint8], payload: Payload, tuned: tuning.Tuned) -> NDArray[np.uint8]:
    values = tuning.values_of(tuned.codes, signs_of(payload))
    frozen = Frozen(tuned.gain, 0, 0, (0, 255))
    return forward(cover, values, wm._release.network, frozen).picture.astype(np.uint8)


def decibels(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2)))


def learned(right: NDArray[np.float64], amplitude: float = 1000.0) -> tuple[tuning._Model, tuning._Trial]:
    """A model that has seen one trial with equal amplitudes, at gain `amplitude` and code 1."""
    codes = np.ones(cr.WRITTEN, np.uint8)
    passed = np.zeros(len(battery.ATTACKS), np.bool_)
    trial = tuning._Trial(codes, int(amplitude), 1.0, 1.0, tuning.EVERY, right, passed)
    model = tuning._Model()
    model.learn(trial)
    return model, trial


def answers(strength: float, seed: int = 0, host: float = 0.6) -> NDArray[np.float64]:
    """Right answers of a picture whose host disturbs all attacks alike."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, host, cr.WRITTEN)
    return np.stack([strength + bias + rng.normal(0, 0.1, cr.WRITTEN) for _ in battery.ATTACKS])


def test_levels_are_those_of_the_format() -> None:
    np.testing.assert_array_equal(tuning.LEVELS, [0, 1, 2, 3, 5, 7, 9, 12])
    codes = np.arange(cr.WRITTEN).astype(np.uint8) % 8
    signs = np.where(np.arange(cr.WRITTEN) % 3, 1, -1).astype(np.int8)
    values = tuning.values_of(codes, signs)
    assert values.dtype == np.int64
    np.testing.assert_array_equal(np.sign(values), np.where(codes > 0, signs, 0))
    np.testing.assert_array_equal(np.abs(values), np.array([0, 1, 2, 3, 5, 7, 9, 12])[codes])


def test_similarity_is_near_the_usual_one(phantom: Phantom) -> None:
    cover = phantom(256, 256)
    noisy = np.clip(cover + np.random.default_rng(0).normal(0, 4, cover.shape), 0, 255).astype(np.uint8)
    assert tuning.similarity(cover, cover) == pytest.approx(1.0)
    assert tuning.similarity(cover, noisy) == pytest.approx(structural_similarity(cover, noisy), abs=0.03)


def test_clear_answers_survive_and_weak_ones_do_not() -> None:
    signs = signs_of(Payload(bytes(8), b"abcd"))
    clear = np.tile(3.0 * signs, (len(battery.ATTACKS), 1))
    assert tuning.survived(clear, signs).all()
    assert not tuning.survived(-clear, signs).any()
    without_pilots = clear.copy()
    without_pilots[:, cr.CODE :] = 0
    assert not tuning.survived(without_pilots, signs).any()
    some = np.array([0, 5])
    np.testing.assert_array_equal(tuning.survived(clear[:2], signs, some), [True, True])


def test_the_model_finds_amplitudes_that_satisfy_it_at_least_cost() -> None:
    model, trial = learned(answers(2.5))
    start = trial.amplitudes
    found, share = model._least(start, np.ones(len(battery.ATTACKS), np.bool_))
    assert found.shape == (cr.WRITTEN,)
    assert (found >= 0).all()
    assert share.sum() == pytest.approx(1.0)
    left = tuning._unfit(model._answers(found[: cr.CODE]), tuning._tilts(model._answers(found[: cr.CODE]))).sum(1)
    assert (left <= model._target() + 0.5).all()
    assert np.square(found).sum() <= np.square(start).sum()
    # carriers that the picture answers rightly get less than those that it contradicts
    bias = model.bias[0, : cr.CODE]
    assert found[: cr.CODE][bias > 0.6].mean() < 0.8 * found[: cr.CODE][bias < -0.6].mean()
    for times in np.geomspace(0.2, 5, 60) * found[: cr.CODE].mean():
        tried = model._answers(np.full(cr.CODE, times))
        if (tuning._unfit(tried, tuning._tilts(tried)).sum(1) <= model._target()).all():
            assert np.square(found[: cr.CODE]).sum() < np.square(np.full(cr.CODE, times)).sum()
            break
    else:
        pytest.fail("no equal amplitudes satisfy the model")


def test_what_is_too_dear_is_given_up() -> None:
    right = answers(2.5)
    right[8] = np.random.default_rng(9).normal(0.05, 1.0, cr.WRITTEN)  # an attack that leaves nothing
    model, trial = learned(right)
    spent = float(np.square(trial.amplitudes).sum())
    found = model.amplitudes(trial.amplitudes, spent)
    assert np.square(found).sum() <= spent * 1.01
    assert model.share[8] == 0
    left = tuning._unfit(model._answers(found[: cr.CODE]), tuning._tilts(model._answers(found[: cr.CODE]))).sum(1)
    assert (np.delete(left - model._target(), 8) <= 0.5).all()


def test_a_trial_never_falls_far_below_the_last() -> None:
    model, trial = learned(answers(30.0))
    found = model.amplitudes(trial.amplitudes, 1e12)
    assert np.square(found).sum() >= np.square(trial.amplitudes).sum() / tuning.FARTHEST * 0.999


def test_quantised_amplitudes_keep_the_pilots_sum() -> None:
    rng = np.random.default_rng(3)
    wanted = np.concatenate([rng.uniform(0, 4000, cr.CODE), np.full(cr.PILOTS, 2345.0)])
    codes, gain = tuning._quantised(wanted)
    given = tuning.LEVELS[codes] * gain
    assert given[cr.CODE :].sum() == pytest.approx(wanted[cr.CODE :].sum(), rel=0.01)
    assert np.abs(given - wanted)[: cr.CODE].max() <= 1.6 * gain


def test_a_tuned_picture_reads_and_keeps_what_it_promises(
    wm: DualWatermarker, payload: Payload, phantom: Phantom
) -> None:
    cover = phantom(256, 256)
    tuned = tuning.tune(cover, signs_of(payload), wm._release.network, wm._reader)
    assert tuned.reads
    assert tuned.passed.sum() >= 10
    assert tuned.codes.max() < len(tuning.LEVELS)
    picture = marked(wm, cover, payload, tuned)
    assert decibels(cover, picture) > tuning.FLOOR - 1
    seen, shown = battery.seen(picture, draw=77)
    kept = np.array(
        [d is not None and d.payload == payload for d in (decode(a[: cr.CODE]) for a in wm._reader(seen, shown))]
    )
    assert kept[tuned.passed].mean() > 0.85
    again = tuning.tune(cover, signs_of(payload), wm._release.network, wm._reader)
    assert again.gain == tuned.gain
    np.testing.assert_array_equal(again.codes, tuned.codes)


def test_a_region_over_everything_never_reads(wm: DualWatermarker, payload: Payload) -> None:
    cover = np.full((64, 64), 128, np.uint8)
    everything = np.ones((64, 64), np.bool_)
    tuned = tuning.tune(cover, signs_of(payload), wm._release.network, wm._reader, everything, rounds=2)
    assert not tuned.reads


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_ends(wm: DualWatermarker, payload: Payload, value: int) -> None:
    cover = np.full((80, 80), value, np.uint8)
    tuned = tuning.tune(cover, signs_of(payload), wm._release.network, wm._reader, rounds=3)
    assert 1 <= tuned.gain <= tuning.LARGEST_GAIN
