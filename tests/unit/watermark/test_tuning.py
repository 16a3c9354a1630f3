"""The closed loop: what it asks, what its model answers, and what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from medprov_watermark import battery, tuning
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.detection import DOUBT, pilot_score, tail
from medprov_watermark.extractor import F32, Extractor, Reader, working_picture
from medprov_watermark.payload import MAX_CHANCE, Payload, decode, encode
from medprov_watermark.response import fitting, of_battery
from medprov_watermark.tuning import _Loop, _quantised, _Trial
from medprov_watermark.watermarker import DualWatermarker

F64 = NDArray[np.float64]
Phantom = Callable[..., NDArray[np.uint8]]
ATTACKS = len(battery.ATTACKS)
RESERVES, SCORES = of_battery("reserve"), of_battery("score")
PLAIN = 0


def signs_of(payload: Payload, carriers: cr.Carriers | None = None) -> NDArray[np.int8]:
    return np.concatenate([encode(payload), (carriers or cr.derive()).pilot_signs]).astype(np.int8)


def payload_of(answers: F32) -> Payload | None:
    decoded = decode(answers[: cr.CODE])
    return decoded.payload if decoded else None


def decibels(energy: float) -> float:
    return 10 * math.log10(255**2 / max(energy, 1e-9))


class Deaf(Reader):
    """Hears noise, whatever is said."""

    def __call__(self, pictures: F32, shown: NDArray[np.bool_] | None = None) -> F32:
        return np.random.default_rng(len(pictures)).normal(size=(len(pictures), cr.WRITTEN)).astype(np.float32)


# Amplitudes and their levels.


def test_levels_are_those_of_the_format() -> None:
    np.testing.assert_array_equal(tuning.LEVELS, [0, 3, 5, 8])
    codes = np.arange(cr.CODE).astype(np.uint8) % 4
    signs = np.where(np.arange(cr.WRITTEN) % 3, 1, -1).astype(np.int8)
    values = tuning.values_of(codes, 5 * cr.PILOTS, signs)
    assert values.dtype == np.int64
    np.testing.assert_array_equal(values[: cr.CODE], np.array([0, 3, 5, 8])[codes] * signs[: cr.CODE])
    np.testing.assert_array_equal(values[cr.CODE :], 5 * signs[cr.CODE :])


@given(st.integers(0, tuning.MOST_PILOTS))
def test_pilots_share_their_sum_as_evenly_as_may_be(pilots: int) -> None:
    each = tuning.amplitudes_of(np.zeros(cr.CODE, np.uint8), pilots)[cr.CODE :]
    assert each.sum() == pilots
    assert np.ptp(each) <= 1


@settings(deadline=None)
@given(hnp.arrays(np.float64, cr.WRITTEN, elements=st.floats(0, 5000)))
def test_rounding_takes_the_nearest_level_and_keeps_the_sum_of_the_pilots(amplitudes: F64) -> None:
    codes, pilots, gain = _quantised(amplitudes)
    assert codes.shape == (cr.CODE,)
    assert codes.dtype == np.uint8
    assert codes.max() < len(tuning.LEVELS)
    assert 1 <= gain <= tuning.LARGEST_GAIN
    rounded = tuning.amplitudes_of(codes, pilots) * float(gain)
    offered = np.abs(amplitudes[: cr.CODE, None] - tuning.LEVELS * float(gain)).min(axis=1)
    np.testing.assert_allclose(np.abs(rounded - amplitudes)[: cr.CODE], offered, atol=1e-6)
    assert 0 <= pilots <= tuning.MOST_PILOTS
    if pilots < tuning.MOST_PILOTS:
        assert abs(rounded[cr.CODE :].sum() - amplitudes[cr.CODE :].sum()) <= 0.5 * gain + 1e-6


def test_the_largest_level_stands_for_nearly_the_largest_amplitude() -> None:
    amplitudes = np.concatenate([np.linspace(0, 6000, cr.CODE), np.full(cr.PILOTS, 3000.0)])
    codes, pilots, gain = _quantised(amplitudes)
    assert gain == pytest.approx(0.985 * 6000 / 8, rel=0.01)
    assert set(codes.tolist()) == set(range(4))
    assert pilots * gain == pytest.approx(3000.0 * cr.PILOTS, rel=1e-3)
    assert _quantised(np.zeros(cr.WRITTEN))[2] == 1
    assert _quantised(np.full(cr.WRITTEN, 1e9))[2] == tuning.LARGEST_GAIN


def test_more_gain_and_higher_levels_mean_more_energy_and_a_clearer_mark(
    wm: DualWatermarker, payload: Payload, phantom: Phantom
) -> None:
    release = wm._release
    cover, signs, reader = phantom(160, 160), signs_of(payload), Reader(release.extractor, cr.derive())
    energies, scores = [], []
    for code, gain in ((1, 100), (1, 400), (1, 1600), (3, 1600)):
        values = tuning.values_of(np.full(cr.CODE, code, np.uint8), 3 * code * cr.PILOTS, signs)
        picture = forward(cover, values, release.network, Frozen(gain, 0, 0, (0, 255))).picture
        energies.append(np.mean((picture - cover.astype(np.int64)) ** 2.0))
        answers = reader(working_picture(picture.astype(np.uint8))[None])
        scores.append(pilot_score(answers, reader.carriers)[0])
    assert energies == sorted(energies)
    assert energies[0] < energies[-1]
    assert scores[0] < scores[2] < scores[3]


# What is asked.


def answers_with(bits: float, score: float, signs: NDArray[np.int8]) -> F64:
    """One row of answers whose codeword fits by `bits` better than is needed and whose pilots have this score."""
    noise = np.random.default_rng(1).normal(size=cr.CODE)
    low, high = 0.2, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        row = np.concatenate([noise + middle, np.full(cr.PILOTS, score / math.sqrt(cr.PILOTS))])
        low, high = (middle, high) if fitting(row[None])[0][0] < bits else (low, middle)
    return np.asarray(row * signs)


def one_survived(bits: float, score: float, which: int, spare: float, signs: NDArray[np.int8]) -> bool:
    answers = answers_with(bits, score, signs)[None].astype(np.float64)
    return bool(tuning.survived(answers, signs, np.array([which]), spare)[0])


@pytest.mark.parametrize("spare", [0.0, 0.5, 1.0])
def test_an_attack_is_survived_where_both_reserves_are_left(spare: float, payload: Payload) -> None:
    signs = signs_of(payload)
    for which in (0, ATTACKS - 1):
        bits, score = spare * RESERVES[which], SCORES[which] - 1 + spare
        # What the other one has in plenty makes up for neither.
        assert one_survived(bits + 0.1, 20.0, which, spare, signs)
        assert not one_survived(bits - 0.1, 20.0, which, spare, signs)
        assert one_survived(200.0, score + 0.01, which, spare, signs)
        assert not one_survived(200.0, score - 0.01, which, spare, signs)


@pytest.mark.parametrize("which", [0, ATTACKS - 1])
def test_pilots_and_codeword_together_must_be_believed(which: int, payload: Payload) -> None:
    signs, tries = signs_of(payload), battery.ATTACKS[which].tries
    score = float(SCORES[which]) + 0.2
    needed = -math.log2(DOUBT / MAX_CHANCE) + math.log2(tries * tail(score))
    assert needed > 1
    assert one_survived(needed + 0.2, score, which, 0.0, signs)
    assert not one_survived(needed - 0.2, score, which, 0.0, signs)


def test_each_attack_is_judged_by_its_own_reserve(payload: Payload) -> None:
    signs = signs_of(payload)
    reserves = sorted(set(RESERVES.tolist()))
    assert len(reserves) > 1
    for low, high in pairwise(reserves):
        row = answers_with(tuning.SPARE * (low + high) / 2, 20.0, signs)
        expected = [attack.reserve <= low for attack in battery.ATTACKS]
        assert tuning.survived(np.stack([row] * ATTACKS), signs).tolist() == expected
        tried = np.array([ATTACKS - 1, 0, 5])
        assert tuning.survived(np.stack([row] * 3), signs, tried).tolist() == [expected[k] for k in tried]


def test_similarity() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (67, 130), dtype=np.uint8)
    assert tuning.similarity(a, a) == pytest.approx(1)
    slight = np.clip(a + random.normal(0, 4, a.shape), 0, 255).astype(np.uint8)
    strong = np.clip(a + random.normal(0, 60, a.shape), 0, 255).astype(np.uint8)
    assert 1 > tuning.similarity(a, slight) > tuning.similarity(a, strong) > 0.2
    assert tuning.similarity(a, 255 - a) < 0


def test_similarity_is_near_the_usual_one(phantom: Phantom) -> None:
    cover = phantom(256, 256)
    noisy = np.clip(cover + np.random.default_rng(0).normal(0, 4, cover.shape), 0, 255).astype(np.uint8)
    assert tuning.similarity(cover, noisy) == pytest.approx(structural_similarity(cover, noisy), abs=0.03)


def test_similarity_is_that_of_the_training() -> None:
    torch = pytest.importorskip("torch")
    from medprov_watermark.training.loop import ssim

    random = np.random.default_rng(1)
    a, b = (random.integers(0, 256, (64, 96), dtype=np.uint8) for _ in range(2))
    b = (a // 2 + b // 2).astype(np.uint8)
    x, y = (torch.from_numpy(part).float()[None, None] for part in (a, b))
    assert tuning.similarity(a, b) == pytest.approx(float(ssim(x, y)), abs=1e-3)


# The loop.


def replay(
    release_network: CouplingNetwork,
    reader: Reader,
    cover: NDArray[np.uint8],
    signs: NDArray[np.int8],
    tuned: tuning.Tuned,
    draw: int,
) -> tuple[F32, float]:
    """Answers after each attack of a draw, and the PSNR of what the loop decided."""
    values = tuning.values_of(tuned.codes, tuned.pilots, signs)
    frozen = Frozen(tuned.gain, 0, 0, (0, 255), carriers=reader.carriers)
    marked = forward(cover, values, release_network, frozen).picture.astype(np.uint8)
    energy = np.mean((marked.astype(np.float64) - cover) ** 2)
    return reader(*battery.seen(marked, draw)), decibels(float(energy))


@pytest.mark.parametrize(("height", "width", "key"), [(160, 160, None), (150, 230, b"a consortium's secret")])
def test_the_loop_ends_with_a_mark_that_reads(
    height: int, width: int, key: bytes | None, wm: DualWatermarker, payload: Payload, phantom: Phantom
) -> None:
    carriers = cr.derive(key)
    reader, network = Reader(wm._release.extractor, carriers), wm._release.network
    cover, signs = phantom(height, width, seed=1), signs_of(payload, carriers)
    tuned = tuning.tune(cover, signs, network, reader)
    assert tuned.reads
    assert tuned.codes.shape == (cr.CODE,)
    assert tuned.codes.dtype == np.uint8
    assert 1 <= tuned.gain <= tuning.LARGEST_GAIN
    answers, quality = replay(network, reader, cover, signs, tuned, 77)
    assert quality > battery.ATTACKS[0].floor - 1
    assert payload_of(answers[PLAIN]) == payload
    assert pilot_score(answers[:1], carriers)[0] > 4.5
    # The noise is another one than in the trial that was chosen: most of what it passed it passes again.
    kept = [payload_of(a) == payload for a in answers[tuned.passed]]
    assert np.mean(kept) > 0.8


def test_the_same_picture_gives_the_same_mark(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, phantom: Phantom
) -> None:
    reader, cover, signs = Reader(blockwise_extractor, cr.derive()), phantom(96, 120), signs_of(payload)
    one, two = (tuning.tune(cover, signs, plain_network, reader) for _ in range(2))
    assert (one.gain, one.pilots) == (two.gain, two.pilots)
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_array_equal(one.passed, two.passed)


def test_a_mark_costs_less_than_equal_amplitudes(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload
) -> None:
    """The loop's purpose: more attacks are survived than at equal amplitudes of the same energy."""
    reader, signs = Reader(blockwise_extractor, cr.derive()), signs_of(payload)
    cover = np.clip(np.random.default_rng(0).normal(128, 9, (128, 128)), 0, 255).astype(np.uint8)
    tuned = tuning.tune(cover, signs, plain_network, reader)
    answers, quality = replay(plain_network, reader, cover, signs, tuned, 60)
    assert quality > battery.ATTACKS[0].floor - 0.5
    equal, pilots = np.full(cr.CODE, 2, np.uint8), 5 * cr.PILOTS
    loop = _Loop(cover, signs, plain_network, reader, None, False)
    gains = [tuned.gain * k // 20 for k in range(4, 60)]
    gain = min(gains, key=lambda g: abs(decibels(loop.marked(equal, pilots, g)[1]) - quality))
    plain, same = replay(plain_network, reader, cover, signs, tuning.Tuned(equal, pilots, gain, tuned.passed), 60)
    assert abs(same - quality) < 0.4
    count = [int(tuning.survived(a, signs, spare=0.0).sum()) for a in (answers, plain)]
    assert count[0] > count[1]
    assert tuned.reads


FIRST = [np.arange(ATTACKS) < count for count in range(ATTACKS + 1)]
EASY = np.array([attack.floor <= battery.ATTACKS[PLAIN].floor for attack in battery.ATTACKS])
WHOLE, ALL_BUT_ONE = FIRST[ATTACKS], np.arange(ATTACKS) != 1


def script(
    monkeypatch: pytest.MonkeyPatch, plan: list[tuple[NDArray[np.bool_], float]], loud: int = tuning.LARGEST_GAIN
) -> list[_Trial]:
    """Let trials turn out as planned, each with what it passes and the part it spends of what the picture itself may.

    Their gains are 1000, 1001 and so on. Later trials read if they are loud, and pass nothing else.
    """
    allowed = 255**2 / 10 ** (battery.ATTACKS[PLAIN].floor / 10)
    made: list[_Trial] = []

    def try_out(
        loop: _Loop, codes: NDArray[np.uint8], pilots: int, gain: int, tried: NDArray[np.intp] = tuning.EVERY
    ) -> _Trial:
        right = np.random.default_rng(len(made)).normal(0.9, 1, (len(tried), cr.WRITTEN))
        if len(made) < len(plan):
            gain = 1000 + len(made)
            passed, dear = plan[len(made)]
        else:
            passed, dear = (gain >= loud) & FIRST[1], gain / 1000
        made.append(_Trial(codes, pilots, gain, dear * allowed, 0.0, tried, right, passed))
        return made[-1]

    monkeypatch.setattr(_Loop, "try_out", try_out)
    monkeypatch.setattr(tuning, "ROUNDS", len(plan))
    return made


@pytest.mark.parametrize(
    ("plan", "best"),
    [
        pytest.param([(EASY, 0.9), (FIRST[2], 0.2)], 0, id="more is passed"),
        pytest.param([(EASY, 0.9), (EASY, 0.7), (EASY, 0.8)], 1, id="less energy"),
        pytest.param([(EASY, 0.9), (WHOLE, 1.2)], 0, id="too dear for the picture itself"),
        pytest.param([(FIRST[1], 0.9), (WHOLE & ~FIRST[1], 0.3)], 0, id="does not read"),
        pytest.param([(WHOLE, 0.8), (ALL_BUT_ONE, 0.3)], 1, id="left floors behind"),
        pytest.param([(WHOLE, 0.3), (ALL_BUT_ONE, 0.2)], 0, id="left no floor behind"),
        pytest.param([(FIRST[1], 1.3), (WHOLE, 1.9)], 0, id="all are too dear"),
    ],
)
def test_which_trial_is_taken(
    plan: list[tuple[NDArray[np.bool_], float]],
    best: int,
    plain_network: CouplingNetwork,
    blockwise_extractor: Extractor,
    payload: Payload,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passing more comes first, then less energy; an attack counts only where its floor is kept."""
    made = script(monkeypatch, plan)
    cover = np.full((64, 64), 128, np.uint8)
    tuned = tuning.tune(cover, signs_of(payload), plain_network, Reader(blockwise_extractor, cr.derive()))
    assert len(made) == len(plan)
    assert tuned.gain == 1000 + best
    assert tuned.pilots == made[best].pilots
    np.testing.assert_array_equal(tuned.codes, made[best].codes)
    np.testing.assert_array_equal(tuned.passed, plan[best][0])


def test_what_does_not_read_gets_louder_until_it_does(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = script(monkeypatch, [(FIRST[0], 0.3), (FIRST[0], 0.4)], 4000)
    cover = np.full((64, 64), 128, np.uint8)
    tuned = tuning.tune(cover, signs_of(payload), plain_network, Reader(blockwise_extractor, cr.derive()))
    gains = [trial.gain for trial in made]
    assert gains[1:] == sorted(set(gains[1:]))
    assert gains[-2] < 4000 <= gains[-1] == tuned.gain < 1.5 * 4000
    assert tuned.reads
    assert all(trial.pilots == made[1].pilots and (trial.codes == made[1].codes).all() for trial in made[2:])


def test_the_quick_loop_tries_few_attacks_twice(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[int]] = []
    whole = battery.seen

    def seen(picture: NDArray[np.uint8], draw: int, which: NDArray[np.intp]) -> battery.Seen:
        tried.append(which.tolist())
        return whole(picture, draw, which)

    monkeypatch.setattr(battery, "seen", seen)
    cover = np.random.default_rng(0).integers(118, 139, (96, 96), dtype=np.uint8)
    reader = Reader(blockwise_extractor, cr.derive())
    tuned = tuning.tune(cover, signs_of(payload), plain_network, reader, quick=True)
    assert tried[0] == list(battery.QUICK)
    assert len(tried) == tuning.QUICK_ROUNDS
    assert set(tried[1]) <= set(battery.QUICK)
    assert tuned.reads
    assert not tuned.passed[np.setdiff1d(tuning.EVERY, battery.QUICK)].any()


def test_an_allowance_buys_attacks(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload
) -> None:
    """With ten decibels more to spend the mark gets louder and more is kept; with ten less it gets fainter."""
    cover = np.random.default_rng(0).integers(124, 133, (96, 96), dtype=np.uint8)
    reader, signs = Reader(blockwise_extractor, cr.derive()), signs_of(payload)
    spent, kept = [], []
    for allowance in (0.1, 1.0, 10.0):
        tuned = tuning.tune(cover, signs, plain_network, reader, allowance=allowance)
        frozen = Frozen(tuned.gain, 0, 0, (0, 255), None, None, reader.carriers, False)
        marked = forward(cover, tuning.values_of(tuned.codes, tuned.pilots, signs), plain_network, frozen).picture
        spent.append(float(np.square(marked - cover.astype(np.int64)).mean()))
        kept.append(int(tuned.passed.sum()))
    assert spent[0] < spent[1] < spent[2], (spent, kept)
    assert kept[0] < kept[2]
    assert kept[1] <= kept[2]


def test_where_nothing_reads_the_loop_gets_louder_to_the_end(
    plain_network: CouplingNetwork, plain_extractor: Extractor, payload: Payload
) -> None:
    cover = np.full((64, 64), 128, np.uint8)
    reader = Deaf(plain_extractor, cr.derive())
    tuned = tuning.tune(cover, signs_of(payload), plain_network, reader, quick=True)
    assert not tuned.reads
    assert not tuned.passed.any()
    assert tuned.gain == tuning.LARGEST_GAIN


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_gives_an_honest_answer(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, value: int
) -> None:
    cover, signs = np.full((80, 80), value, np.uint8), signs_of(payload)
    reader = Reader(blockwise_extractor, cr.derive())
    tuned = tuning.tune(cover, signs, plain_network, reader, quick=True)
    answers, _ = replay(plain_network, reader, cover, signs, tuned, 0)
    assert tuned.passed[0] == tuning.survived(answers, signs)[0]
    assert tuned.reads == tuned.passed[0]
    assert tuned.reads or value != 128


def test_a_region_over_everything_never_reads_unless_it_is_attenuated(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload
) -> None:
    cover = np.random.default_rng(0).integers(126, 131, (64, 64), dtype=np.uint8)
    everything = np.ones((64, 64), np.bool_)
    reader, signs = Reader(blockwise_extractor, cr.derive()), signs_of(payload)
    assert not tuning.tune(cover, signs, plain_network, reader, everything, quick=True).reads
    assert tuning.tune(cover, signs, plain_network, reader, everything, quick=True, attenuate=True).reads


def test_what_is_dear_is_counted_in_energy_and_likeness(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, phantom: Phantom
) -> None:
    reader, cover, signs = Reader(blockwise_extractor, cr.derive()), phantom(128, 128), signs_of(payload)
    loop = _Loop(cover, signs, plain_network, reader, None, False)
    codes, pilots = np.full(cr.CODE, 2, np.uint8), 5 * cr.PILOTS
    for gain in (1000, 12000):
        trial = loop.try_out(codes, pilots, gain, np.array([0, 5]))
        picture, energy = loop.marked(codes, pilots, gain)
        assert trial.energy == energy
        assert trial.lost == pytest.approx(1 - tuning.similarity(cover, picture))
        for attack, dear in zip(battery.ATTACKS, trial.dear().tolist(), strict=True):
            by_energy = 10 ** ((attack.floor - decibels(energy)) / 10)
            assert dear == pytest.approx(max(by_energy, trial.lost / (1 - attack.similar)))
        assert trial.right.shape == (2, cr.WRITTEN)
        assert not trial.passed[np.delete(np.arange(ATTACKS), [0, 5])].any()
    assert trial.dear()[0] > 1
