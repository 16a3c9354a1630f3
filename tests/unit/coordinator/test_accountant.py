"""Epsilon against the figures of another accountant, and its file."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_coordinator.accountant import Accountant, delta_of, epsilon_of
from medprov_coordinator.errors import CheckpointError

# noise multiplier, releases, delta, epsilon by dp-accounting 0.6.0 (privacy loss distribution, Renyi)
REFERENCE = (
    (1.0, 1, 1e-5, 4.3771781000249295, 4.728507067217623),
    (1.0, 10, 1e-5, 17.85658683146691, 19.05359753163139),
    (0.5, 3, 1e-6, 21.83921640548454, 23.08865426029409),
    (4.0, 100, 1e-5, 13.206712241909575, 14.132226163159334),
    (20.0, 5, 1e-9, 0.6011412347311027, 0.6343743804791957),
)


@pytest.mark.parametrize(("noise", "releases", "delta", "distribution", "renyi"), REFERENCE)
def test_epsilon_is_that_of_the_other_accountant(noise, releases, delta, distribution, renyi):
    found = epsilon_of(math.sqrt(releases) / noise, delta)
    assert found == pytest.approx(distribution, rel=2e-4)
    assert found < renyi


def test_releases_with_different_noise_add_up():
    accountant = Accountant(1e-5)
    for _ in range(3):
        accountant.spend(["a"], 1.0)
    for _ in range(4):
        accountant.spend(["a", "b"], 2.0)
    assert accountant.epsilon("a") == pytest.approx(9.997256152805836, rel=2e-4)
    assert accountant.epsilon("b") == epsilon_of(1.0, 1e-5)


@given(st.floats(1e-3, 1e3), st.floats(1e-12, 0.4))
def test_epsilon_is_the_smallest_that_keeps_delta(mu, delta):
    epsilon = epsilon_of(mu, delta)
    assert delta_of(epsilon, mu) <= delta
    if epsilon:
        assert delta_of(epsilon * (1 - 1e-6), mu) > delta


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-12, 0.4))
def test_more_noise_costs_less(one, other, delta):
    low, high = sorted((one, other))
    assert epsilon_of(low, delta) <= epsilon_of(high, delta) * (1 + 1e-9)


def test_nothing_spent_and_no_noise():
    assert epsilon_of(0.0, 1e-5) == 0.0
    assert epsilon_of(math.inf, 1e-5) == math.inf
    with pytest.raises(ValueError, match="between 0 and 1"):
        epsilon_of(1.0, 0.0)


def test_what_would_one_more_cost():
    accountant = Accountant(1e-5)
    assert accountant.epsilon("a", more=1.0) == epsilon_of(1.0, 1e-5)
    assert accountant.epsilon("a") == 0.0


def test_file_survives(tmp_path):
    path = tmp_path / "privacy.json"
    first = Accountant(1e-5, path)
    assert first.fresh
    first.learn(101, "0xAB")
    first.spend([first.member(101), first.member(102)], 1.5)
    again = Accountant(1e-5, path)
    assert not again.fresh
    assert again.figures() == first.figures() and set(again.figures()) == {"0xab", "node 102"}
    assert again.member(101) == "0xab"


def test_a_node_that_begins_to_sign_keeps_what_it_spent():
    accountant = Accountant(1e-5)
    accountant.spend([accountant.member(101)], 1.0)
    accountant.learn(101, "0xAB")
    accountant.spend([accountant.member(101)], 1.0)
    assert accountant.figures() == {"0xab": epsilon_of(math.sqrt(2), 1e-5)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps({"version": 2, "spent": {}, "owners": {}}),
        json.dumps({"version": 1, "spent": {"a": -1.0}, "owners": {}}),
        json.dumps({"version": 1, "spent": {"a": True}, "owners": {}}),
        json.dumps({"version": 1, "spent": [], "owners": {}}),
        json.dumps({"version": 1, "spent": {}, "owners": {"x": "a"}}),
        json.dumps({"version": 1, "spent": {"a": 1e308}, "owners": {}}),
        "[" * 5000,
    ],
)
def test_damaged_file_is_no_fresh_start(tmp_path, text):
    path = tmp_path / "privacy.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="restore it from a backup"):
        Accountant(1e-5, path)
