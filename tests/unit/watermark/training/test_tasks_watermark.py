"""The watermark networks as a task of a federation."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from medprov_watermark.training import exchange as ex
from medprov_watermark.training import moments
from medprov_watermark.training.loop import Model, Settings
from medprov_watermark.training.phantoms import phantom
from medprov_watermark.training.pictures import Pictures
from medprov_watermark.training.tasks.base import TaskError, Work, work_seed
from medprov_watermark.training.tasks.watermark import DISCRIMINATOR, TASK, marking_weights

SMALL = Settings(steps=10, batch=2, channels=8, blocks=1, extractor_blocks=1, seed=3)
ALONE = dataclasses.replace(SMALL, adversarial_weight=0.0)
LATE = {"step": 9.0, "probability": 0.2, "db": 35.0, "accuracy": 0.6}


@pytest.fixture(scope="module")
def weights():
    return TASK.initial(SMALL)


@pytest.fixture(scope="module")
def pictures():
    train = torch.from_numpy(np.stack([phantom(i) for i in range(2)]))[:, None]
    return Pictures(train, train[:1], 0)


def work(**changes):
    values = {"settings": SMALL, "steps": 1, "progress": {**LATE, "step": 2.0}, "seed": 1}
    return Work(**{**values, **changes})


def test_flat_settings_come_back():
    other = Settings(
        steps=7,
        batch=3,
        rate=0.01,
        start_db=33.0,
        final_db=44.0,
        ssim_weight=1.5,
        adversarial_weight=0.5,
        adversarial_from=0.25,
        seed=9,
        channels=16,
        blocks=2,
        extractor_blocks=1,
    )
    assert TASK.settings(TASK.flat(other)) == other
    assert set(TASK.flat(other)) == {f.name.replace("_", "-") for f in dataclasses.fields(Settings)} - {"steps"} | {
        "total-steps"
    }


@pytest.mark.parametrize("key", sorted(TASK.flat(SMALL)))
@pytest.mark.parametrize("value", [None, "x", -1, float("nan"), 2**70, True, b"x"])
def test_nonsense_is_refused_with_its_name(key, value):
    with pytest.raises(ex.ExchangeError, match=key):
        TASK.settings({**TASK.flat(SMALL), key: value})


def test_channels_are_groups_of_eight():
    with pytest.raises(ex.ExchangeError, match="multiple of 8"):
        TASK.settings({"channels": 12})


def test_initial_weights_are_the_seeds_and_leave_others_randomness_alone(weights):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    again = TASK.initial(SMALL)
    assert torch.equal(torch.rand(1), expected)
    assert ex.model_hash(weights) == ex.model_hash(again)
    assert ex.model_hash(weights) != ex.model_hash(TASK.initial(dataclasses.replace(SMALL, seed=4)))


def test_the_discriminator_is_exchanged_where_it_takes_part(weights):
    own = {name for name in weights if name.startswith(f"{DISCRIMINATOR}.")}
    assert own and set(TASK.initial(ALONE)) == set(weights) - own == set(marking_weights(weights))


def test_a_release_can_be_the_start_and_others_not(weights):
    release = {name: array + 1 for name, array in ex.state_of(Model(SMALL)).items()}
    started = TASK.initial(SMALL, release)
    assert all(np.array_equal(started[name], release[name]) for name in release)
    assert set(started) == set(weights)
    for wrong in (
        {**release, "more": np.zeros(1, np.float32)},
        {name: array for name, array in release.items() if name != "extractor.frequency"},
        {**release, "log_scale": np.zeros(2, np.float32)},
    ):
        with pytest.raises(ex.ExchangeError, match="another size"):
            TASK.initial(SMALL, wrong)


def test_training_changes_the_weights_and_is_repeatable(weights, pictures):
    first = TASK.train(work(), weights, pictures)
    assert first.deltas.keys() == weights.keys() and first.metrics.keys() == TASK.metrics.keys()
    assert all(first.deltas[n].shape == weights[n].shape and first.deltas[n].dtype == np.float32 for n in weights)
    assert all(isinstance(delta, np.ndarray) for delta in first.deltas.values())
    assert any(np.abs(delta).max() > 0 for delta in first.deltas.values())
    assert first.metrics["target-db"] == 35.0
    again = TASK.train(work(), weights, pictures)
    assert ex.model_hash(first.deltas) == ex.model_hash(again.deltas) and first.metrics == again.metrics


def test_the_discriminator_learns_in_the_last_phase_only(weights, pictures):
    def moved(progress):
        deltas = TASK.train(work(progress=progress), weights, pictures).deltas
        return any(np.abs(delta).max() > 0 for name, delta in deltas.items() if name.startswith(DISCRIMINATOR))

    assert not moved({**LATE, "step": 2.0})
    assert moved(LATE)


@pytest.mark.parametrize("progress", [{**LATE, "step": 2.0}, LATE])
def test_one_step_from_fresh_moments_is_the_step_of_ones_own_optimiser(weights, pictures, progress):
    fresh = moments.begin(weights)
    shared = TASK.train(work(progress=progress, moments=fresh), weights, pictures)
    descent = {name: array.astype(np.float64) for name, array in shared.deltas.items()}
    steps = [lambda name: TASK.adam(SMALL, int(progress["step"]), name)]
    deltas, _ = moments.moved(weights, fresh, descent, steps)
    own = TASK.train(work(progress=progress), weights, pictures)
    assert shared.metrics == own.metrics
    for name in weights:
        # a gradient of about nothing has no sure sign, and its first step goes by the sign
        sure = np.abs(descent[name]) > 1e-5
        assert deltas[name][sure] == pytest.approx(own.deltas[name][sure], rel=2e-3, abs=1e-7)


def test_shared_moments_change_the_path_and_not_what_is_left_outside(weights, pictures):
    own = TASK.train(work(steps=2, moments=moments.begin(weights)), weights, pictures)
    descent = {name: array.astype(np.float64) for name, array in own.deltas.items()}
    _, warm = moments.moved(weights, moments.begin(weights), descent, [lambda name: TASK.adam(SMALL, 2, name)] * 2)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    later = TASK.train(work(steps=2, moments=warm), weights, pictures)
    assert torch.equal(torch.rand(1), expected)
    assert ex.model_hash(later.deltas) != ex.model_hash(own.deltas)
    again = TASK.train(work(steps=2, moments=warm), weights, pictures)
    assert ex.model_hash(later.deltas) == ex.model_hash(again.deltas)


@pytest.mark.parametrize("part", ["extractor.frequency", f"{DISCRIMINATOR}."])
def test_each_optimiser_goes_on_from_the_moments(weights, pictures, part):
    fresh = moments.begin(weights)
    warm = {name: np.asarray(a + 1, np.float32) if f".{part}" in name else a for name, a in fresh.items()}
    assert ex.model_hash(warm) != ex.model_hash(fresh)
    found = [TASK.train(work(steps=2, progress=LATE, moments=each), weights, pictures).deltas for each in (fresh, warm)]
    assert ex.model_hash(found[0]) != ex.model_hash(found[1])


def test_the_discriminator_steps_in_the_last_phase_only():
    part = f"{DISCRIMINATOR}.x"
    assert [TASK.adam(SMALL, step, part) is None for step in (0, 7, 8, 9)] == [True, True, False, False]
    assert TASK.adam(SMALL, 0, "extractor.frequency") is not None


def test_training_that_diverges_is_refused_with_shared_moments(weights, pictures):
    broken = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    with pytest.raises(TaskError, match="diverged"):
        TASK.train(work(moments=moments.begin(weights)), broken, pictures)


def test_node_attempt_and_seed_set_the_update_apart():
    assert len({work_seed(0, 1, "a"), work_seed(0, 1, "b"), work_seed(0, 2, "a"), work_seed(5, 1, "a")}) == 4


def test_random_states_are_left_alone(weights, pictures):
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    TASK.train(work(), weights, pictures)
    assert (torch.rand(1), random.random()) == expected


def test_weights_of_another_size_are_refused(weights, pictures):
    with pytest.raises(ex.ExchangeError, match="another size"):
        TASK.train(work(settings=dataclasses.replace(SMALL, channels=16)), weights, pictures)
    with pytest.raises(ex.ExchangeError, match="another size"):
        TASK.train(work(settings=ALONE), {**TASK.initial(ALONE), "discriminator.x": np.zeros(1, np.float32)}, pictures)


def test_training_that_diverges_is_refused(weights, pictures):
    broken = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    with pytest.raises(TaskError, match="diverged"):
        TASK.train(work(), broken, pictures)


def test_evaluation_is_repeatable(weights, pictures):
    count, figures = TASK.evaluate(work(), weights, pictures)
    assert count == 1 and figures["loss"] > 0 and 0 <= figures["bit-accuracy"] <= 1
    assert TASK.evaluate(work(), weights, pictures) == (count, figures)


def test_the_probe_tells_spoiled_weights_from_good_ones(weights):
    spoiled = {**weights, "extractor.frequency": -weights["extractor.frequency"]}
    probe = TASK.probe(SMALL, 1, 40.0)
    good, bad = probe.evaluate(weights), probe.evaluate(spoiled)
    assert good == probe.evaluate(weights)
    assert 0.5 < good["score"] <= 1 and good["worst"] <= good["score"] and good["loss"] > 0
    assert bad["score"] < good["score"] - 0.1


def test_progress_follows_steps_and_medians():
    start = TASK.begin(SMALL)
    after = TASK.advance(start, 5, {"attack-probability": 0.3, "target-db": 36.0, "bit-accuracy": 0.7, "loss": 1.0})
    assert start == {"step": 0.0, "probability": 0.0, "db": 34.0, "accuracy": 0.5}
    assert after == {"step": 5.0, "probability": 0.3, "db": 36.0, "accuracy": 0.7}
