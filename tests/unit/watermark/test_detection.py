"""Presence and orientation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.detection import (
    COMPUTED_FALSE_ALARM,
    DEGREES,
    SPREAD,
    SURE,
    THRESHOLD,
    Detection,
    detect,
    pilot_score,
)
from medprov_watermark.geometry import ALL, Geometry

F32 = NDArray[np.float32]


def answers_of(picture: F32, strength: float) -> F32:
    """Answers whose pilots stand out where the picture's first sample is its largest, as in `marker`."""
    random = np.random.default_rng(int(picture[1, 1]))
    answers = random.normal(0, 1, cr.WRITTEN)
    if picture[0, 5] == 200:
        answers[cr.CODE : cr.WRITTEN] += strength * cr.pilot_signs()
        answers[: cr.CODE] = np.where(np.arange(cr.CODE) % 2, 9.0, -9.0)
    return answers.astype(np.float32)


class Fake:
    def __init__(self, strength: float) -> None:
        self.strength, self.seen = strength, 0

    def __call__(self, pictures: F32) -> F32:
        self.seen += len(pictures)
        return np.stack([answers_of(picture, self.strength) for picture in pictures])


def marker() -> F32:
    picture = np.zeros((cr.SIZE, cr.SIZE), np.float32)
    picture[0, 5] = 200  # none of the seven other orientations has a sample there
    return picture


def test_the_score_looks_at_pilots_alone_and_at_their_signs() -> None:
    answers = np.zeros((1, cr.WRITTEN), np.float32)
    answers[0, : cr.CODE] = 50.0
    assert pilot_score(answers)[0] == 0
    answers[0, cr.CODE :] = cr.pilot_signs()
    assert pilot_score(answers)[0] == pytest.approx(np.sqrt(cr.PILOTS))
    assert pilot_score(-answers)[0] == pytest.approx(-np.sqrt(cr.PILOTS))


def test_the_score_of_noise_has_unit_variance() -> None:
    answers = np.random.default_rng(1).normal(0, 1, (20000, cr.WRITTEN)).astype(np.float32)
    scores = pilot_score(answers)
    assert abs(scores.mean()) < 0.03
    assert scores.std() == pytest.approx(1, abs=0.03)
    assert scores.max() < THRESHOLD


def test_the_stated_false_alarm_is_the_tail_of_the_stated_law() -> None:
    from scipy.stats import t

    assert pytest.approx(8 * t.sf(THRESHOLD / SPREAD, DEGREES), rel=0.05) == COMPUTED_FALSE_ALARM
    assert COMPUTED_FALSE_ALARM <= 1e-9


@pytest.mark.parametrize(
    ("score", "present"), [(THRESHOLD, True), (np.nextafter(THRESHOLD, 0), False), (-99.0, False), (np.nan, False)]
)
def test_presence_begins_at_the_threshold(score: float, present: bool) -> None:
    assert Detection(score, Geometry(), np.zeros(cr.CODE, np.float32)).present == present


@pytest.mark.parametrize("geometry", ALL, ids=str)
def test_finds_the_orientation(geometry: Geometry) -> None:
    found = detect(geometry.apply(marker()), Fake(4.0))
    assert found.geometry == geometry
    assert found.present
    np.testing.assert_array_equal(found.soft_bits > 0, np.arange(cr.CODE) % 2 == 1)
    assert found.soft_bits.dtype == np.float32


def test_a_sure_upright_mark_ends_the_search() -> None:
    sure, unsure = Fake(6.0), Fake(1.2)
    assert detect(marker(), sure).score >= SURE
    assert sure.seen == 1
    found = detect(marker(), unsure)
    assert THRESHOLD < found.score < SURE
    assert unsure.seen == 8
    assert found.geometry.identity


def test_nothing_is_present_in_noise() -> None:
    picture = np.zeros((cr.SIZE, cr.SIZE), np.float32)
    for seed in range(20):
        picture[1, 1] = seed
        assert not detect(picture, Fake(9.0)).present
