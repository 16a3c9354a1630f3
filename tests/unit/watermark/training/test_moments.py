"""Shared Adam: its steps are torch's, and no gradient moves anything farther than Adam allows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medprov_watermark.training import exchange as ex
from medprov_watermark.training import moments as m
from medprov_watermark.training.tasks.base import state_of

PLAIN = m.Adam(0.01)
OTHER = m.Adam(0.002, betas=(0.5, 0.99), decay=0.01)


def adam(name):
    return OTHER if name.startswith("second.") else PLAIN


def networks():
    torch.manual_seed(0)
    return {"": nn.Linear(3, 2), "second": nn.Linear(2, 1)}


def optimisers(nets):
    return [
        torch.optim.AdamW(net.parameters(), lr=how.rate, betas=how.betas, weight_decay=how.decay)
        for net, how in zip(nets.values(), (PLAIN, OTHER), strict=True)
    ]


def loss(nets, seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32))
    return nets["second"](torch.tanh(nets[""](x))).square().mean()


def test_one_hospital_with_one_step_a_round_trains_as_torch_does():
    alone = networks()
    own = optimisers(alone)
    weights = state_of(networks())
    moments = m.begin(weights)
    for number in range(5):
        for optimiser in own:
            optimiser.zero_grad()
        loss(alone, number).backward()
        for optimiser in own:
            optimiser.step()

        nets = networks()
        for prefix, net in nets.items():
            net.load_state_dict(
                {
                    name: torch.from_numpy(np.array(weights[f"{prefix}.{name}" if prefix else name]))
                    for name in net.state_dict()
                }
            )
        mine = optimisers(nets)
        descent = m.Descent(nets, mine, moments)
        loss(nets, number).backward()
        for optimiser in mine:
            optimiser.step()
        descent.add()
        # what the hospital's own optimiser did is what torch does that never stopped
        for name, array in state_of(nets).items():
            assert array == pytest.approx(state_of(alone)[name], abs=1e-6)
        mean = {name: array.astype(np.float64) for name, array in descent.mean().items()}
        deltas, moments = m.moved(weights, moments, mean, [adam])
        weights = {name: np.asarray(weights[name] + deltas[name], np.float32) for name in weights}
        for name, array in state_of(alone).items():
            assert weights[name] == pytest.approx(array, abs=1e-6)
    assert float(moments["steps.second.weight"]) == 5


def test_the_mean_is_over_the_steps_and_descends():
    nets = networks()
    descent = m.Descent(nets, [], m.begin(state_of(nets)))
    for value in (0.1, 0.3):
        nets[""].weight.grad = torch.full((2, 3), value)
        descent.add()
    nets["second"].weight.grad = torch.full((1, 2), 0.05)
    descent.add()
    mean = descent.mean()
    assert mean["weight"] == pytest.approx(np.full((2, 3), -0.7 / 3)) and not mean["bias"].any()
    # over the one step in which it had a gradient
    assert mean["second.weight"] == pytest.approx(np.full((1, 2), -0.05))
    assert all(array.dtype == np.float32 for array in mean.values())


def test_no_gradient_that_leaves_is_longer_than_the_clip():
    nets = networks()
    descent = m.Descent(nets, [], m.begin(state_of(nets)))
    for net in nets.values():
        net.weight.grad = torch.full_like(net.weight, 30.0)
    descent.add()
    assert math.sqrt(sum(float(np.square(a).sum()) for a in descent.mean().values())) == pytest.approx(1, abs=1e-5)


def test_tensors_that_take_no_part_make_no_step():
    weights = {"a": np.ones(2, np.float32), "b": np.ones((), np.float32)}
    late = [lambda name: PLAIN if name == "a" else None] * 2 + [lambda name: PLAIN]
    gradient = {"a": np.ones(2), "b": np.ones(())}
    deltas, moments = m.moved(weights, m.begin(weights), gradient, late[:2])
    assert deltas["b"] == 0 and float(moments["steps.b"]) == 0 and float(moments["steps.a"]) == 2
    deltas, moments = m.moved(weights, m.begin(weights), gradient, late)
    once, _ = m.moved(weights, m.begin(weights), gradient, late[2:])
    assert float(moments["steps.b"]) == 1 and deltas["b"] == once["b"] > 0


def test_a_gradient_of_zero_is_a_step_as_torch_makes_it():
    parameter = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.AdamW([parameter], lr=0.01, weight_decay=1e-4)
    weights = {"w": np.ones(1, np.float32)}
    moments = m.begin(weights)
    for gradient in (1.0, 0.0, 1.0):
        parameter.grad = torch.full((1,), gradient)
        optimiser.step()
        deltas, moments = m.moved(weights, moments, {"w": np.full(1, -gradient)}, [lambda name: PLAIN])
        weights = {"w": np.asarray(weights["w"] + deltas["w"], np.float32)}
        assert weights["w"] == pytest.approx(parameter.detach().numpy(), abs=1e-6)


gradients = st.lists(st.floats(-1e6, 1e6).filter(lambda g: g == 0 or abs(g) > 1e-6), min_size=1, max_size=12)


@given(gradients, st.integers(1, 4))
def test_no_round_moves_a_weight_farther_than_adam_allows(history, steps):
    weights = {"w": np.zeros((), np.float32)}
    moments = m.begin(weights)
    free = m.Adam(0.01, decay=0.0)
    for gradient in history:
        deltas, moments = m.moved(weights, moments, {"w": np.asarray(gradient)}, [lambda name: free] * steps)
        # Kingma and Ba, ICLR 2015, section 2.1: (1 - beta1) / sqrt(1 - beta2) times the rate, here 3.16
        assert abs(float(deltas["w"])) <= steps * free.rate * 0.1 / math.sqrt(0.001) * 1.001
        m.check(moments, weights)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first.a", np.array([0, np.nan], np.float32)),
        ("first.a", np.array([0, np.inf], np.float32)),
        ("second.a", np.array([0, -1e-9], np.float32)),
        ("second.a", np.zeros(3, np.float32)),
        ("steps.a", np.asarray(-1, np.float32)),
        ("steps.a", np.asarray(0.5, np.float32)),
        ("third.a", np.zeros(2, np.float32)),
    ],
)
def test_what_are_no_moments_is_refused(name, value):
    weights = {"a": np.ones(2, np.float32)}
    m.check(m.begin(weights), weights)
    with pytest.raises(ex.ExchangeError, match="moments"):
        m.check({**m.begin(weights), name: value}, weights)


def test_moments_are_written_as_weights_are():
    weights = state_of(networks())
    _, moments = m.moved(weights, m.begin(weights), {name: np.ones(a.shape) for name, a in weights.items()}, [adam])
    back = ex.from_safetensors(ex.to_safetensors(moments))
    m.check(back, weights)
    assert all(np.array_equal(back[name], moments[name]) for name in moments)


def test_sizes_are_those_of_the_gradients_but_never_tiny():
    weights = {"a": np.zeros(4, np.float32), "b": np.zeros(2, np.float32)}
    assert (m.sizes(m.begin(weights), weights, lambda name: PLAIN)["a"] == 1).all()
    gradient = {"a": np.array([3.0, -4.0, 0.0, 5.0]), "b": np.zeros(2)}
    _, moments = m.moved(weights, m.begin(weights), gradient, [lambda name: PLAIN] * 2)
    found = m.sizes(moments, weights, lambda name: PLAIN)
    typical = math.sqrt((9 + 16 + 25) / 4)
    assert found["a"] == pytest.approx([3, 4, 0.1 * typical, 5], rel=1e-4)
    assert (found["b"] == 1).all()
    assert (m.sizes(moments, weights, lambda name: None)["a"] == 1).all()
    quick = m.Adam(0.01, betas=(0.5, 0.9))
    _, moments = m.moved(weights, m.begin(weights), gradient, [lambda name: quick] * 40)
    assert m.sizes(moments, weights, lambda name: quick)["a"][3] == pytest.approx(5, rel=1e-4)
