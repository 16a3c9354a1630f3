"""Measuring a model: repeatable, bounded, and worse where the model is worse."""

import pytest
import torch

from medprov_watermark.training.evaluation import BATTERY, measure
from medprov_watermark.training.loop import Model, Settings

SMALL = Settings(channels=8, blocks=1, extractor_blocks=1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model(SMALL).eval()


@pytest.fixture(scope="module")
def pictures():
    rows = torch.linspace(0, 200, 256)[:, None].expand(256, 256)
    wave = 20 * torch.sin(torch.arange(256.0) / 9)
    return torch.stack([rows, rows + wave]).round().byte()[:, None]


def test_figures_are_repeatable_and_leave_the_random_state_alone(model, pictures):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = measure(model, pictures)
    assert torch.equal(torch.rand(1), expected)
    assert first == measure(model, pictures)
    assert 0 <= first.worst <= first.accuracy <= 1 and first.loss > 0


def test_louder_marks_are_read_better(model, pictures):
    assert measure(model, pictures, db=28.0).accuracy > measure(model, pictures, db=50.0).accuracy


def test_batches_do_not_change_the_mean_over_one_attack(model, pictures):
    one = measure(model, pictures[:1], battery=BATTERY[:1])
    assert one.accuracy == one.worst


def test_no_picture_is_refused(model):
    with pytest.raises(ValueError, match="no picture"):
        measure(model, torch.zeros(0, 1, 256, 256, dtype=torch.uint8))
