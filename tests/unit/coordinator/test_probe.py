"""The probe set: always the same, no two pictures alike, objects to worse models and to nothing else."""

import numpy as np
import pytest
import torch

from medprov_coordinator.probe import Probe, as_figures, phantom, phantoms
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.server_app import initial_weights
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.evaluation import Measured
from medprov_watermark.training.loop import Settings

SMALL = RunConfig(settings=Settings(steps=1, batch=2, channels=8, blocks=1, extractor_blocks=1))


def test_phantoms_are_pictures_and_repeatable():
    first = phantoms(4)
    assert first.shape == (4, 1, 256, 256) and first.dtype == torch.uint8
    assert torch.equal(first, phantoms(4))
    assert not torch.equal(first, phantoms(4, seed=1))
    assert all(phantom(i).std() > 5 for i in range(8))
    assert len({phantom(i).tobytes() for i in range(8)}) == 8


def test_same_weights_same_figures_and_nobody_elses_randomness():
    weights = initial_weights(SMALL)
    probe = Probe(phantoms(1))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = probe.evaluate(weights, SMALL.training)
    assert torch.equal(torch.rand(1), expected)
    assert first == probe.evaluate(weights, SMALL.training)
    assert 0.5 < first.accuracy <= 1 and first.worst <= first.accuracy and first.loss > 0


def test_spoiled_weights_measure_worse():
    weights = initial_weights(SMALL)
    spoiled = dict(weights)
    spoiled["extractor.frequency"] = -spoiled["extractor.frequency"]
    probe = Probe(phantoms(1))
    good, bad = probe.evaluate(weights, SMALL.training), probe.evaluate(spoiled, SMALL.training)
    assert bad.accuracy < good.accuracy - 0.1
    assert probe.objection(bad, good.accuracy)


def test_nan_weights_are_objected_to():
    weights = {name: np.full_like(array, np.nan) for name, array in initial_weights(SMALL).items()}
    probe = Probe(phantoms(1))
    assert "finite" in probe.objection(probe.evaluate(weights, SMALL.training), None)


@pytest.mark.parametrize(
    ("accuracy", "best", "refused"),
    [(0.9, None, False), (0.9, 0.91, False), (0.9, 0.93, True), (0.95, 0.9, False), (float("nan"), None, True)],
)
def test_objection(accuracy, best, refused):
    probe = Probe(phantoms(1), tolerance=0.02)
    assert bool(probe.objection(Measured(0.1, accuracy, accuracy), best)) is refused


def test_infinite_loss_is_objected_to():
    assert Probe(phantoms(1)).objection(Measured(float("inf"), 0.9, 0.9), 0.5)


def test_other_networks_weights_are_refused():
    weights = initial_weights(SMALL)
    with pytest.raises(ex.ExchangeError, match="another size"):
        Probe(phantoms(1)).evaluate(weights, Settings(channels=16, blocks=1, extractor_blocks=1))


def test_figures_for_the_record():
    assert as_figures(Measured(0.1234567891, 0.5, 0.25)) == {"loss": 0.123457, "accuracy": 0.5, "worst": 0.25}
