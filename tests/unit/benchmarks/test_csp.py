"""The comparison of bodies, in the smallest form."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import csp, split  # noqa: E402
from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark.training.loop import Model, Settings  # noqa: E402
from medprov_watermark.training.networks import CouplingNetwork  # noqa: E402

TINY = Settings(channels=8, blocks=1, extractor_blocks=1, batch=2, steps=4, adversarial_weight=0.0)
PLAN = csp.Plan(TINY, turn=1, every=2, repeats=1)


@pytest.fixture(scope="module")
def pictures() -> split.Split:
    made = split.make(None, 3, 1)
    assert made.training.shape == (3, cr.SIZE, cr.SIZE) and made.training.dtype == np.uint8
    return made


def test_built_in_pictures_are_kept_apart_and_drawn_alike(pictures: split.Split) -> None:
    again = split.make(None, 3, 1)
    assert np.array_equal(again.training, pictures.training)
    assert [name for name, _ in again.judged] == [name for name, _ in pictures.judged]
    assert len(split.make(None, 1, 99).judged) < 99
    with pytest.raises(ValueError, match="at least one"):
        split.make(None, 0, 1)


def test_figures_of_both_bodies(pictures: split.Split) -> None:
    data = json.loads(json.dumps(csp.measured(pictures, PLAN, 1)))
    (run,) = data["runs"]
    for body in csp.BODIES:
        assert [point["step"] for point in run[body]["curve"]] == [0, 2, 4]
        assert 0 <= run[body]["steps_to_target"] <= 4
        assert 0 < run[body]["seconds_per_step"] < 30
        assert 0.3 < run[body]["final_accuracy"] <= 1
        assert min(point["loss"] for point in run[body]["curve"]) <= run["target_loss"]
    alone = data["networks"]
    assert alone["partial"]["parameters_body"] == 2 * (4 * 4 * 9 + 4)
    assert alone["plain"]["parameters_body"] == 2 * (8 * 8 * 9 + 8)
    assert alone["ratio_multiply_adds_body"] == pytest.approx(0.25)
    assert 0 < alone["ratio_multiply_adds"] < 1
    assert all(alone[body]["seconds_inference"] > 0 for body in csp.BODIES)
    total = data["summary"]["ratio_step"]
    assert total["low"] == total["high"] == pytest.approx(total["mean"])
    csp.show(data)


def test_only_the_body_differs_and_a_release_stays_what_it_is() -> None:
    torch.manual_seed(0)
    model = Model(TINY)
    before = {name: value.clone() for name, value in model.coupling.state_dict().items()}
    csp.with_body(model, partial=False, seed=0)
    after = model.coupling.state_dict()
    assert list(after) == list(before) == list(CouplingNetwork(8, 1).state_dict())
    for name, value in after.items():
        assert torch.equal(value, before[name]) != name.startswith("body.") or "bias" in name
    csp.with_body(model, partial=True, seed=0)
    assert all(value.shape == before[name].shape for name, value in model.coupling.state_dict().items())


def test_a_plain_body_gives_a_field_of_the_format() -> None:
    torch.manual_seed(0)
    network = CouplingNetwork(8, 1, partial=False)
    values = torch.ones(1, cr.WRITTEN)
    with torch.no_grad():
        field = network(torch.full((1, 1, cr.SIZE, cr.SIZE), 90.0), network.synthesise(values))
    assert field.shape == (1, 1, cr.SIZE, cr.SIZE)
    assert torch.equal(field * 256, (field * 256).round())


def test_turns_do_not_touch_each_others_random_numbers(pictures: split.Split) -> None:
    trained = torch.from_numpy(pictures.training)[:, None]
    pair = [csp.Contestant(trained, replace(TINY, steps=6), partial=True) for _ in range(2)]
    pair[0].train(1)
    torch.rand(5)
    pair[1].train(2)
    pair[0].train(1)
    first, second = (one.trainer.model.state_dict() for one in pair)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_target_is_met_between_two_validations() -> None:
    curve = [csp.Point(0, 0.0, 1.0, 0.5), csp.Point(10, 5.0, 0.5, 0.8), csp.Point(20, 10.0, 0.4, 0.9)]
    assert csp.reached(curve, 0.75) == (5.0, 2.5)
    assert csp.reached(curve, 1.5) == (0.0, 0.0)
    assert csp.reached(curve, 0.4) == (20.0, 10.0)
    with pytest.raises(ValueError, match="target"):
        csp.reached(curve, 0.3)


def test_bodies_are_compared_on_the_way_too() -> None:
    slow = [csp.Point(i, 2.0 * i, 0.8 * 0.5 ** (i / 4), 0.9) for i in range(9)]
    quick = [csp.Point(i, 1.0 * i, 0.8 * 0.5 ** (i / 4), 0.9) for i in range(9)]
    row = csp.compared(0, {"partial": quick, "plain": slow}, {"partial": [1.0] * 8, "plain": [2.0] * 8})
    assert row["ratio_steps"] == 1 and row["ratio_step"] == row["ratio_target"] == 0.5
    assert row["on_the_way"]["50%"] == {"loss": pytest.approx(0.4), "steps": 1, "seconds": 0.5}
    assert csp.summary([row, row])["on_the_way"]["25%"]["mean"] == pytest.approx(0.5)


def test_multiply_adds_are_counted_by_hand() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(3, 1, 1))
    assert csp.multiply_adds(network, torch.zeros(1, 2, 4, 5)) == {"0": 2 * 3 * 9 * 20, "2": 3 * 20}
