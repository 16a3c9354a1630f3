"""Aggregation rules: their definitions, independence of order, and what attackers can do to each."""

import math
from dataclasses import replace

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


@pytest.mark.parametrize("rule", ["median", "trimmed", "krum", "mixed"])
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


def modalities(count, size=200, seed=0):
    """Updates that share a little and differ in every coordinate, as hospitals with one modality each send."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=size)
    out = []
    for i in range(count):
        values = 0.7 * common + rng.normal(size=size)
        norm = float(np.linalg.norm(values.astype(np.float32)))
        out.append(Update(i, {"w": values.astype(np.float32)}, 1.0, {}, norm, bytes(32), bytes(32), "", b""))
    return out


def along(merged, honest):
    """How much of the honest mean is left, in units of it."""
    mean = np.mean([u.deltas["w"] for u in honest], axis=0)
    return float(merged.deltas["w"] @ mean / (mean @ mean))


@pytest.mark.parametrize("reach", [1.0, 3.9])
def test_mixing_keeps_the_honest_direction_where_a_median_loses_it(reach):
    honest = modalities(7)
    mean = np.mean([u.deltas["w"] for u in honest], axis=0)
    length = float(np.linalg.norm(honest[0].deltas["w"]))
    against = -reach * length * mean / np.linalg.norm(mean)
    colluding = [
        Update(50 + i, {"w": np.float32(against + 1e-6 * i)}, 1.0, {}, reach * length, bytes(32), bytes(32), "", b"")
        for i in range(3)
    ]
    assert along(aggregate([*honest, *colluding], "mixed"), honest) > 0.9
    assert along(aggregate([*honest, *colluding], "median"), honest) < 0.8
    assert along(aggregate([*honest, *colluding], "mean"), honest) < 0.5


def test_mixing_by_definition():
    updates = [update(i, [v, v]) for i, v in enumerate([0.0, 1.0, 2.0, 10.0, 50.0])]
    # f = 1: four of five are mixed: 3.25 three times, 3.25 for 10, and 15.75 for 50, which is cut off.
    assert aggregate(updates, "mixed", attackers=1).deltas["w"] == pytest.approx([3.25, 3.25])


def test_mixing_shortens_long_updates_to_the_median_norm():
    updates = [update(i, [1.0, 1.0]) for i in range(4)]
    long = Update(
        9, {"w": np.float32([100, 100]), "scale": np.float32(100)}, 1.0, {}, 100.0, bytes(32), bytes(32), "", b""
    )
    assert aggregate([*updates, long], "mixed").deltas["w"] == pytest.approx([1.0, 1.0])


def test_mixing_bounds_long_updates_also_where_there_are_more_than_it_withstands():
    honest = [update(i, [1.0, 1.0]) for i in range(3)]
    long = [replace(update(i, [100.0, 100.0]), norm=100.0) for i in (8, 9)]
    assert aggregate([*honest, *long], "mixed", attackers=1).deltas["w"] == pytest.approx([1.0, 1.0])


def test_mixing_keeps_an_update_among_its_own_neighbours_when_others_are_equal():
    updates = [update(i, [1.0, 1.0]) for i in range(5)]
    assert aggregate(updates, "mixed").deltas["w"] == pytest.approx([1.0, 1.0])


def test_server_step_lengthens_what_cancelled_and_never_beyond_a_member():
    honest = modalities(7)
    plain, longer = (aggregate(honest, "mean", step=step).deltas["w"] for step in (1.0, 1.2))
    assert longer == pytest.approx(1.2 * plain)
    most = aggregate(honest, "mean", step=100.0).deltas["w"]
    assert np.linalg.norm(most) == pytest.approx(sorted(u.norm for u in honest)[3])
    alike = [Update(i, {"w": np.float32([3, 4])}, 1.0, {}, 5.0, bytes(32), bytes(32), "", b"") for i in range(5)]
    assert aggregate(alike, "mixed", step=1.5).deltas["w"] == pytest.approx([3.0, 4.0])


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
    with pytest.raises(SettingsError, match="set 1 to 2"):
        aggregate(around(np.ones(4)), "mixed", attackers=3)
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
