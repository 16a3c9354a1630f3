"""Aggregation rules: their definitions, independence of order, and what attackers can do to each."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_coordinator.aggregation import RULES, aggregate, apply
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.screening import Update


def update(node, values, weight=1.0):
    deltas = {"w": np.asarray(values, np.float32), "scale": np.asarray(values[0], np.float32)}
    return Update(node, deltas, weight, {}, 1.0, bytes(32), bytes(32), "", b"")


def around(center, count=5, seed=0):
    rng = np.random.default_rng(seed)
    return [update(i, center + 0.01 * rng.normal(size=4)) for i in range(count)]


def test_mean_is_weighted_by_examples():
    merged = aggregate([update(1, [1.0, 2.0], 1), update(2, [4.0, 8.0], 2)], "mean")
    assert merged.deltas["w"] == pytest.approx([3.0, 6.0])
    assert merged.deltas["w"].dtype == np.float64
    assert merged.deltas["scale"] == pytest.approx(3.0)


@pytest.mark.parametrize("rule", RULES)
def test_small_federations_get_the_mean_and_are_told(rule):
    merged = aggregate([update(i, [float(i)] * 2) for i in range(1, 5)], rule)
    assert merged.rule == "mean"
    assert merged.deltas["w"] == pytest.approx([2.5, 2.5])
    assert "fewer than 5" in merged.note


def test_five_members_get_the_rule_they_asked_for():
    for rule in RULES:
        assert aggregate(around(np.ones(4)), rule).rule == rule


def test_median_and_trimmed_mean_by_definition():
    updates = [update(i, [v, -v]) for i, v in enumerate([1.0, 2.0, 3.0, 50.0, -90.0])]
    assert aggregate(updates, "median").deltas["w"] == pytest.approx([2.0, -2.0])
    assert aggregate(updates, "trimmed", trim=0.2).deltas["w"] == pytest.approx([2.0, -2.0])
    assert aggregate(updates, "trimmed", trim=0.4).deltas["w"] == pytest.approx([2.0, -2.0])
    # A share that would cut nothing still cuts one at each end.
    assert aggregate(updates, "trimmed", trim=0.01).deltas["w"] == pytest.approx([2.0, -2.0])


@pytest.mark.parametrize("rule", ["median", "trimmed", "krum"])
def test_one_attacker_of_five_moves_a_robust_rule_little(rule):
    honest = around(np.ones(4), 4)
    for attack in (np.full(4, 1e6), np.full(4, -1e6), -10 * np.ones(4)):
        merged = aggregate([*honest, update(99, attack)], rule, attackers=1 if rule == "krum" else None)
        assert np.abs(merged.deltas["w"] - 1).max() < 0.05
    assert np.abs(aggregate([*honest, update(99, np.full(4, 1e6))], "mean").deltas["w"] - 1).max() > 1000


def test_krum_leaves_the_attackers_out():
    honest = around(np.ones(4), 5)
    merged = aggregate([*honest, update(50, -10 * np.ones(4)), update(51, -10.1 * np.ones(4))], "krum", attackers=2)
    assert merged.nodes == (0, 1, 2, 3, 4)


def test_krum_sees_differences_that_float32_would_lose():
    rng = np.random.default_rng(0)
    far = 1000 + np.zeros(2000)
    honest = [update(i, far + 1e-3 * rng.normal(size=2000)) for i in range(4)]
    attacker = update(9, far + 1e-3 * rng.normal(size=2000) + 4e-3)
    assert aggregate([*honest, attacker], "krum", attackers=1).nodes == (0, 1, 2, 3)


def test_refusals_name_what_to_do():
    with pytest.raises(SettingsError, match="choose one of mean"):
        aggregate(around(np.ones(4)), "average")
    with pytest.raises(SettingsError, match="quorum"):
        aggregate([], "mean")
    with pytest.raises(SettingsError, match="smaller share"):
        aggregate(around(np.ones(4)), "trimmed", trim=0.5)
    with pytest.raises(SettingsError, match="only with 7 updates"):
        aggregate(around(np.ones(4)), "krum", attackers=2)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=9),
    rule=st.sampled_from(RULES),
    data=st.data(),
)
def test_order_of_arrival_does_not_change_a_bit(values, rule, data):
    updates = [update(i, v, weight=1 + i % 3) for i, v in enumerate(values)]
    shuffled = data.draw(st.permutations(updates))
    first, second = aggregate(updates, rule), aggregate(shuffled, rule)
    assert first.deltas["w"].tobytes() == second.deltas["w"].tobytes()
    assert first.nodes == second.nodes


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9),
    rule=st.sampled_from(RULES),
)
def test_every_rule_stays_between_smallest_and_largest(values, rule):
    merged = aggregate([update(i, [v, v]) for i, v in enumerate(values)], rule)
    slack = 1e-9 * (1 + max(abs(v) for v in values))
    assert min(values) - slack <= merged.deltas["w"][0] <= max(values) + slack


def test_apply_rounds_once_and_keeps_shapes():
    base = {"w": np.array([1.0, 1e8], np.float32), "scale": np.asarray(2.0, np.float32)}
    out = apply(base, {"w": np.array([2.0**-30, 3.0]), "scale": np.asarray(0.5)})
    assert out["w"].dtype == out["scale"].dtype == np.float32
    assert out["scale"].shape == () and isinstance(out["scale"], np.ndarray)
    assert out["w"][0] == 1.0 and out["w"][1] == np.float32(100000003.0)
    overflow = apply(base, {"w": np.array([1e300, 0.0]), "scale": np.asarray(0.0)})
    assert math.isinf(overflow["w"][0])
