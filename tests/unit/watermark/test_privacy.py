"""Gaussian noise, what travels, and figures that say nothing."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_watermark.training import exchange as ex
from medprov_watermark.training.privacy import MODES, Privacy, add_noise, gaussian, withheld


def given_bytes(count):
    return hashlib.shake_256(b"test").digest(count)


def test_noise_is_gaussian():
    found = np.sort(gaussian(100_001, 3.0, given_bytes)) / 3
    assert len(found) == 100_001
    normal = np.array([(1 + math.erf(x / math.sqrt(2))) / 2 for x in found])
    # Kolmogorov and Smirnov: above 1.95 / sqrt(n) once in a thousand.
    assert np.abs(normal - np.arange(len(found)) / len(found)).max() < 1.95 / math.sqrt(len(found))
    assert abs(np.corrcoef(*gaussian(100_000, 1.0, given_bytes).reshape(2, -1))[0, 1]) < 0.01


def test_extreme_bits_are_finite():
    for byte in (b"\0", b"\xff"):
        assert np.isfinite(gaussian(7, 1.0, lambda count, byte=byte: byte * count)).all()


def test_the_system_gives_other_noise_each_time():
    assert not (gaussian(50, 1.0) == gaussian(50, 1.0)).any()
    assert len(gaussian(0, 1.0)) == 0 and len(gaussian(1, 1.0)) == 1


def test_every_coordinate_has_its_own_noise():
    out = add_noise({"b": np.zeros(3), "a": np.zeros((2, 2)), "c": np.zeros(())}, 1.0)
    values = np.concatenate([array.ravel() for array in out.values()])
    assert list(out) == ["a", "b", "c"] and len(set(values)) == 8 and out["a"].shape == (2, 2)


@given(st.sampled_from(MODES[1:]), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_what_travels_comes_back(mode, clip, noise):
    privacy = Privacy(mode, clip, noise)
    assert Privacy.from_config(privacy.to_config()) == privacy


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "none"},
        {"mode": 3},
        {"clip": 0.0},
        {"clip": float("inf")},
        {"clip": float("nan")},
        {"clip": True},
        {"clip": "1"},
        {"noise-multiplier": 0.0},
        {"noise-multiplier": -1.0},
        {"noise-multiplier": None},
        {"more": 1},
    ],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ex.ExchangeError, match="privacy: "):
        Privacy.from_config({**Privacy("local-dp", 1.0, 1.0).to_config(), **changes})


def test_no_noise_only_where_it_is_not_asked_for():
    assert Privacy.from_config(Privacy("secagg", 1.0, 0.0).to_config()).noise_multiplier == 0


def test_withheld_figures_are_in_range_and_say_nothing():
    assert withheld({"loss": (-1e9, 1e9), "db": (20, 80), "low": (-5, -1)}) == {"loss": 0.0, "db": 20, "low": -1}
