import numpy as np
import pytest

from benchmarks import summaries


# R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson(hits: int, n: int, low: float, high: float) -> None:
    assert summaries.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert summaries.wilson(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_without_trials_says_nothing() -> None:
    assert summaries.wilson(0, 0) == (0, 1)


def test_share() -> None:
    found = summaries.share([True, False, True, True])
    assert (found["hits"], found["n"], found["percent"]) == (3, 4, 75)
    assert 0 < found["low"] < 75 < found["high"] < 100


def test_spread() -> None:
    found = summaries.spread([3.0, 1.0, 2.0])
    assert (found["n"], found["min"], found["median"], found["max"], found["mean"]) == (3, 1, 2, 3, 2)
    assert found["p10"] == pytest.approx(1.2) and found["p90"] == pytest.approx(2.8)


def test_quality_knows_equal_pictures_and_tinted_ones() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    assert summaries.quality(grey, grey) == (summaries.EQUAL_DB, 1.0)
    tinted = np.stack([grey, grey, grey ^ 1], -1)
    decibels, ssim = summaries.quality(grey, tinted)
    # one plane of three differs by one level
    assert decibels == pytest.approx(10 * np.log10(255**2 * 3))
    assert 0.9 < ssim < 1
