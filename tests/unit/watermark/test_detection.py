"""Presence and orientation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.detection import (
    DEGREES,
    FALSE_ALARM,
    FLAT,
    LIKELY,
    NOTHING,
    SPREAD,
    SURE,
    THRESHOLD,
    Detection,
    each_way,
    pilot_score,
    tail,
    upright,
)
from medprov_watermark.extractor import Extractor, Reader
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.payload import Payload, encode

F32 = NDArray[np.float32]
KEY = b"a consortium's secret"


class Fake(Reader):
    """Answers whose pilots stand out where the picture's one bright sample stands as in `marker`."""

    def __init__(self, strength: float, carriers: cr.Carriers) -> None:
        self.strength, self.carriers, self.seen = strength, carriers, 0
        self.extractor = self  # type: ignore[assignment]

    def white(self, pictures: F32) -> F32:
        self.seen += len(pictures)
        return pictures

    def spectra(self, white: F32) -> F32:
        return white

    def answers(self, spectra: F32) -> F32:
        return np.stack([self.answers_of(picture) for picture in spectra])

    def __call__(self, pictures: F32, shown: NDArray[np.bool_] | None = None) -> F32:
        self.seen += len(pictures)
        return np.stack([self.answers_of(picture) for picture in pictures])

    def answers_of(self, picture: F32) -> F32:
        answers = np.random.default_rng(int(picture[1, 1])).normal(0, 1, cr.WRITTEN)
        if picture[0, 5] == 200:
            answers[cr.CODE :] = self.strength * self.carriers.pilot_signs / math.sqrt(cr.PILOTS)
            answers[: cr.CODE] = np.where(np.arange(cr.CODE) % 2, 9.0, -9.0)
        return answers.astype(np.float32)


def marker() -> F32:
    picture = np.zeros((cr.SIZE, cr.SIZE), np.float32)
    picture[0, 5] = 200  # none of the seven other orientations has a sample there
    return picture


@pytest.mark.parametrize("key", [None, KEY])
def test_the_score_looks_at_pilots_alone_and_at_their_signs(key: bytes | None) -> None:
    carriers = cr.derive(key)
    answers = np.zeros((2, cr.WRITTEN), np.float32)
    answers[:, : cr.CODE] = 50.0
    assert not pilot_score(answers, carriers).any()
    answers[0, cr.CODE :] = carriers.pilot_signs
    assert pilot_score(answers, carriers).tolist() == pytest.approx([math.sqrt(cr.PILOTS), 0])
    assert pilot_score(-answers, carriers)[0] == pytest.approx(-math.sqrt(cr.PILOTS))
    assert abs(pilot_score(answers, cr.derive(b"another consortium"))[0]) < math.sqrt(cr.PILOTS)


def test_the_score_of_noise_has_unit_variance() -> None:
    answers = np.random.default_rng(1).normal(0, 1, (20000, cr.WRITTEN)).astype(np.float32)
    scores = pilot_score(answers, cr.derive())
    assert abs(scores.mean()) < 0.03
    assert scores.std() == pytest.approx(1, abs=0.03)
    assert scores.max() < THRESHOLD


# The law of the score.


@pytest.mark.parametrize("score", [-20.0, -3.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 6.0, THRESHOLD, 9.0, 12.0, 16.0])
def test_the_tail_is_that_of_the_stated_law(score: float) -> None:
    from scipy.stats import t

    assert tail(score) == pytest.approx(float(t.sf(score / SPREAD, DEGREES)), rel=0.01)


def test_the_tail_falls_and_lies_between_nothing_and_one() -> None:
    tails = [tail(score) for score in np.arange(-30, 30, 0.25).tolist()]
    assert all(a > b or a == 1 for a, b in pairwise(tails))
    assert tails[0] <= 1
    assert tails[-1] > 0
    assert tail(0.0) == 0.5
    assert tail(-2.5) == pytest.approx(1 - tail(2.5))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_no_evidence(score: float) -> None:
    assert tail(score) == 1.0
    assert not Detection(score, Geometry(), np.zeros(cr.CODE, np.float32)).present


def test_the_law_is_not_narrower_than_that_of_the_reader(plain_extractor: Extractor) -> None:
    """On noise the reader's score is normal; the law that false alarms are computed by must lie above it."""
    reader, random = Reader(plain_extractor, cr.derive()), np.random.default_rng(0)
    spectra = random.normal(size=(4000, cr.WIDTH, cr.WIDTH)).astype(np.float32)
    scores = pilot_score(reader.answers(spectra), reader.carriers)
    for q in (0.2, 0.05, 0.01, 0.002):
        alarms = sum(tail(score) <= q for score in scores.tolist())
        assert alarms <= 4000 * q
    assert sum(tail(score) <= 0.2 for score in scores.tolist()) > 4000 * 0.1


@pytest.mark.parametrize(("score", "present"), [(THRESHOLD, True), (THRESHOLD - 0.15, False), (-99.0, False)])
def test_presence_begins_at_the_threshold(score: float, present: bool) -> None:
    assert Detection(score, Geometry(), np.zeros(cr.CODE, np.float32)).present == present


def test_whoever_tries_more_must_find_more() -> None:
    soft = np.zeros(cr.CODE, np.float32)
    few, many = Detection(7.5, Geometry(), soft), Detection(7.5, Geometry(), soft, 100_000)
    assert few.tries == len(ALL)
    assert few.false_alarm == pytest.approx(8 * tail(7.5))
    assert many.false_alarm == pytest.approx(100_000 * tail(7.5))
    assert few.present
    assert not many.present
    assert many.false_alarm > FALSE_ALARM >= few.false_alarm


def test_nothing_is_not_present() -> None:
    assert NOTHING.false_alarm >= 1
    assert not NOTHING.present
    assert NOTHING.soft_bits.shape == (cr.CODE,)


# The eight orientations.


@pytest.mark.parametrize("geometry", ALL, ids=str)
@pytest.mark.parametrize("key", [None, KEY])
def test_finds_the_orientation(geometry: Geometry, key: bytes | None) -> None:
    (found,) = upright(geometry.apply(marker())[None], Fake(10.0, cr.derive(key)))
    assert found.geometry == geometry
    assert found.present
    assert found.score == pytest.approx(10.0, rel=1e-5)
    np.testing.assert_array_equal(found.soft_bits > 0, np.arange(cr.CODE) % 2 == 1)
    assert found.soft_bits.dtype == np.float32


@pytest.mark.parametrize("number", range(8))
def test_each_way_gives_the_soft_bits_of_all_orientations_without_asking_the_pilots(number: int) -> None:
    reader = Fake(0.0, cr.derive())
    found = each_way(ALL[number].apply(marker()), reader)
    assert tuple(one.geometry for one in found) == ALL and reader.seen == 1
    bits = [np.array_equal(one.soft_bits > 0, np.arange(cr.CODE) % 2 == 1) for one in found]
    assert bits == [one == ALL[number] for one in ALL]
    assert not any(one.present for one in found)


def test_each_way_of_a_flat_picture_is_none() -> None:
    assert each_way(np.full((cr.SIZE, cr.SIZE), 7, np.float32), Fake(0.0, cr.derive())) == []


def test_a_sure_upright_mark_ends_the_search() -> None:
    sure, unsure = Fake(SURE + 0.1, cr.derive()), Fake(SURE - 0.1, cr.derive())
    (found,) = upright(marker()[None], sure)
    assert found.score >= SURE
    assert sure.seen == 1
    (found,) = upright(marker()[None], unsure)
    assert THRESHOLD < found.score < SURE
    # The standing one is among the likely ones and has been read already.
    assert unsure.seen == 1 + LIKELY - 1
    assert found.geometry.identity


def test_an_unsure_mark_is_read_in_the_likely_orientations_only() -> None:
    reader = Fake(SURE - 0.1, cr.derive())
    (found,) = upright(ALL[3].apply(marker())[None], reader)
    assert found.geometry == ALL[3]
    assert 1 <= reader.seen - 1 <= LIKELY


class Halved(Fake):
    """On a turned map the pilots answer half as strongly as in a turned picture."""

    def answers(self, spectra: F32) -> F32:
        return super().answers(spectra) * np.float32(0.5)


def test_the_score_is_that_of_the_picture_and_not_of_its_map() -> None:
    for geometry in ALL[1:]:
        (found,) = upright(geometry.apply(marker())[None], Halved(10.0, cr.derive()))
        assert (found.geometry, found.score) == (geometry, pytest.approx(10.0, rel=1e-5))


def noise(seed: int) -> F32:
    picture = np.zeros((cr.SIZE, cr.SIZE), np.float32)
    picture[1, 1], picture[9, 9] = seed, 50
    return picture


def test_nothing_is_present_in_noise() -> None:
    pictures = np.stack([noise(seed) for seed in range(20)])
    assert not any(found.present for found in upright(pictures, Fake(99.0, cr.derive())))


def test_many_pictures_are_each_alone() -> None:
    flat = np.full((cr.SIZE, cr.SIZE), 7, np.float32)
    pictures = np.stack([noise(3), marker(), flat, ALL[5].apply(marker()), noise(8)])
    reader = Fake(SURE + 1, cr.derive())
    together = upright(pictures, reader)
    # The flat one never, the sure one once, the turned one twice.
    assert 4 + 1 + 2 <= reader.seen <= 4 + 1 + 2 * LIKELY
    assert together[2] is NOTHING
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = upright(picture[None], Fake(SURE + 1, cr.derive()))
        assert (alone.score, alone.geometry) == (found.score, found.geometry)
        np.testing.assert_array_equal(alone.soft_bits, found.soft_bits)
    assert [found.present for found in together] == [False, True, False, True, False]
    assert [found.geometry for found in together[1::2]] == [ALL[0], ALL[5]]


def test_no_picture_has_no_detection() -> None:
    assert upright(np.zeros((0, cr.SIZE, cr.SIZE), np.float32), Fake(99.0, cr.derive())) == []


@pytest.mark.parametrize(("range_", "looked"), [(0.0, False), (FLAT * 0.98, False), (FLAT * 1.02, True)])
def test_a_picture_without_grey_values_is_not_even_looked_at(range_: float, looked: bool) -> None:
    picture = np.full((cr.SIZE, cr.SIZE), 9, np.float32)
    picture[:, 128:] += np.float32(range_)
    reader = Fake(99.0, cr.derive())
    (found,) = upright(picture[None], reader)
    assert (found is not NOTHING) == looked
    assert (reader.seen > 0) == looked


@pytest.mark.parametrize(
    ("strength", "score", "believed"),
    [(0.6, 5.0, True), (0.6, 3.0, False), (0.7, 3.0, True), (0.62, 1.5, False), (0.6, 8.0, True), (0.0, 8.0, False)],
)
def test_pilots_and_codeword_are_believed_together(
    payload: Payload, strength: float, score: float, believed: bool
) -> None:
    """Weak pilots need a codeword that fits the better; sure ones need none beyond what decoding asks."""
    soft = strength * encode(payload) + np.random.default_rng(5).normal(size=cr.CODE)
    read = Detection(score, Geometry(), soft.astype(np.float32)).read()
    assert (read is not None) == believed
    assert read is None or read.payload == payload


def test_pilots_that_are_to_be_expected_by_chance_are_not_decoded(payload: Payload) -> None:
    soft = (9.0 * encode(payload)).astype(np.float32)
    assert Detection(0.5, Geometry(), soft).read() is None
    assert Detection(5.0, Geometry(), soft, 10**9).read() is None
    read = Detection(4.0, Geometry(), soft).read()
    assert read is not None
    assert read.payload == payload
