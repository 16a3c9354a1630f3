"""The region network as a task of a federation."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from medprov_watermark.training import exchange as ex
from medprov_watermark.training import masked, moments
from medprov_watermark.training.phantoms import vessels
from medprov_watermark.training.tasks.base import TaskError, Work
from medprov_watermark.training.tasks.region import TASK, Settings

SMALL = Settings(steps=10, batch=2, widths=(8, 8), kinds=("lines", "spots"), crop=64, seed=2)


def work(**changes):
    values = {"settings": SMALL, "steps": 2, "progress": {"step": 0.0}, "seed": 1}
    return Work(**{**values, **changes})


@pytest.fixture
def pictures(masked_pictures):
    return TASK.load(masked_pictures, SMALL, 100)


def test_flat_settings_come_back():
    assert TASK.settings(TASK.flat(SMALL)) == SMALL
    assert TASK.settings({}) == Settings()


@pytest.mark.parametrize("key", sorted(TASK.flat(SMALL)))
@pytest.mark.parametrize("value", [None, "a b\n", -1, float("nan"), 2**70, True, ""])
def test_nonsense_is_refused_with_its_name(key, value):
    with pytest.raises(ex.ExchangeError, match=key):
        TASK.settings({**TASK.flat(SMALL), key: value})


def test_no_statistics_of_batches_are_exchanged():
    assert not [name for name in TASK.initial(SMALL) if "running" in name or "tracked" in name]


def test_kinds_are_the_federations_and_not_the_folders(masked_pictures, pictures):
    assert pictures.train.kinds == ("other", "lines", "spots")
    assert pictures.examples >= 4 and pictures.skipped == 0 and pictures.held_back
    alone = TASK.load(masked_pictures, dataclasses.replace(SMALL, kinds=("lines", "spots", "nuclei")), 100)
    assert alone.train.kinds == ("other", "lines", "spots", "nuclei")
    with pytest.raises(TaskError, match="spots: has masks"):
        TASK.load(masked_pictures, dataclasses.replace(SMALL, kinds=("lines",)), 100)


def test_bad_files_are_counted(masked_pictures):
    (masked_pictures / "lines" / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(masked_pictures / "spots_masks" / "spots2.png")
    assert TASK.load(masked_pictures, SMALL, 100).skipped == 2


def test_folders_without_masks_and_absent_ones(tmp_path):
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(TaskError, match="no picture with a mask"):
        TASK.load(tmp_path, SMALL, 100)
    with pytest.raises(TaskError, match="no such folder"):
        TASK.load(tmp_path / "none", SMALL, 100)


def test_training_changes_the_weights_and_is_repeatable(pictures):
    weights = TASK.initial(SMALL)
    first = TASK.train(work(), weights, pictures)
    assert first.deltas.keys() == weights.keys() and first.metrics.keys() == TASK.metrics.keys()
    for name, (low, high) in TASK.metrics.items():
        assert low <= first.metrics[name] <= high
    again = TASK.train(work(), weights, pictures)
    assert ex.model_hash(first.deltas) == ex.model_hash(again.deltas) and first.metrics == again.metrics
    assert ex.model_hash(TASK.train(work(seed=2), weights, pictures).deltas) != ex.model_hash(first.deltas)


def test_one_step_from_fresh_moments_is_the_step_of_ones_own_optimiser(pictures):
    weights = TASK.initial(SMALL)
    fresh = moments.begin(weights)
    shared = TASK.train(work(steps=1, moments=fresh), weights, pictures)
    descent = {name: array.astype(np.float64) for name, array in shared.deltas.items()}
    deltas, _ = moments.moved(weights, fresh, descent, [lambda name: TASK.adam(SMALL, 0, name)])
    own = TASK.train(work(steps=1), weights, pictures)
    assert shared.metrics == own.metrics
    for name in weights:
        # a gradient of about nothing has no sure sign, and its first step goes by the sign
        sure = np.abs(descent[name]) > 1e-5
        assert deltas[name][sure] == pytest.approx(own.deltas[name][sure], rel=5e-3, abs=1e-7)


def test_the_optimiser_goes_on_from_the_moments(pictures):
    weights = TASK.initial(SMALL)
    fresh = moments.begin(weights)
    warm = {name: np.asarray(array + 1, np.float32) for name, array in fresh.items()}
    found = [TASK.train(work(steps=2, moments=each), weights, pictures).deltas for each in (fresh, warm)]
    assert ex.model_hash(found[0]) != ex.model_hash(found[1])


def test_evaluation(pictures):
    count, figures = TASK.evaluate(work(), TASK.initial(SMALL), pictures)
    assert count == len(pictures.held_back) and figures.keys() == TASK.figures.keys()
    assert TASK.evaluate(work(), TASK.initial(SMALL), pictures) == (count, figures)


@pytest.mark.slow
def test_a_trained_network_scores_higher_on_the_probe():
    settings = Settings(steps=120, batch=4, widths=(8, 16), crop=96, rate=5e-3)
    drawn = [masked.Picture(*vessels(100 + i), 1) for i in range(8)]
    data = type("Data", (), {"train": masked.Collection(drawn, ("other", "vessels"), 96)})
    weights = TASK.initial(settings)
    trained = TASK.train(work(settings=settings, steps=120), weights, data)
    after = {name: weights[name] + trained.deltas[name] for name in weights}
    probe = TASK.probe(settings, 2, 40.0)
    assert probe.evaluate(after)["score"] > probe.evaluate(weights)["score"] + 0.1


def test_progress_counts_steps():
    assert TASK.advance(TASK.begin(SMALL), 5, {}) == {"step": 5.0}
