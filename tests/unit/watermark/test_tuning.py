"""The closed loop: what it asks, what its model answers, and what comes out."""

from __future__ import annotations

import math

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
from medprov_watermark.detection import pilot_score
from medprov_watermark.extractor import F32, Extractor, Reader, working_picture
from medprov_watermark.ordered_statistics import chance
from medprov_watermark.payload import MAX_CHANCE, PARITY_BITS, Payload, decode, encode
from medprov_watermark.tuning import _Loop, _Model, _quantised, _settled, _Trial
from medprov_watermark.watermarker import DualWatermarker

F64 = NDArray[np.float64]
ATTACKS = len(battery.ATTACKS)
RESERVES = np.array([attack.reserve for attack in battery.ATTACKS])
SCORES = np.array([attack.score for attack in battery.ATTACKS])
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
    np.testing.assert_array_equal(tuning.LEVELS, [0, 1, 2, 3, 5, 7, 9, 12])
    codes = np.arange(cr.WRITTEN).astype(np.uint8) % 8
    signs = np.where(np.arange(cr.WRITTEN) % 3, 1, -1).astype(np.int8)
    values = tuning.values_of(codes, signs)
    assert values.dtype == np.int64
    np.testing.assert_array_equal(np.sign(values), np.where(codes > 0, signs, 0))
    np.testing.assert_array_equal(np.abs(values), np.array([0, 1, 2, 3, 5, 7, 9, 12])[codes])


@settings(deadline=None)
@given(hnp.arrays(np.float64, cr.WRITTEN, elements=st.floats(0, 5000)))
def test_rounding_takes_the_nearest_level_and_keeps_the_sum_of_the_pilots(amplitudes: F64) -> None:
    codes, gain = _quantised(amplitudes)
    assert codes.shape == (cr.WRITTEN,)
    assert codes.dtype == np.uint8
    assert codes.max() < len(tuning.LEVELS)
    assert 1 <= gain <= tuning.LARGEST_GAIN
    rounded = tuning.LEVELS[codes] * float(gain)
    offered = np.abs(amplitudes[: cr.CODE, None] - tuning.LEVELS * float(gain)).min(axis=1)
    np.testing.assert_allclose(np.abs(rounded - amplitudes)[: cr.CODE], offered, atol=1e-6)
    if amplitudes[cr.CODE :].max() <= tuning.LEVELS[-1] * gain:
        # No pilot is passed on more than the widest gap between levels.
        assert abs(rounded[cr.CODE :].sum() - amplitudes[cr.CODE :].sum()) <= 1.5 * gain + 1e-6


def test_the_largest_level_stands_for_nearly_the_largest_amplitude() -> None:
    amplitudes = np.linspace(0, 6000, cr.WRITTEN)
    codes, gain = _quantised(amplitudes)
    assert gain == pytest.approx(0.985 * 6000 / 12, rel=0.01)
    assert set(codes.tolist()) == set(range(8))
    assert _quantised(np.zeros(cr.WRITTEN))[1] == 1
    assert _quantised(np.full(cr.WRITTEN, 1e9))[1] == tuning.LARGEST_GAIN


def test_more_gain_and_higher_levels_mean_more_energy_and_a_clearer_mark(
    wm: DualWatermarker, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    release = wm._release
    cover, signs, reader = phantom(160, 160), signs_of(payload), Reader(release.extractor, cr.derive())
    energies, scores = [], []
    for code, gain in ((1, 400), (1, 1600), (1, 6400), (3, 6400)):
        values = tuning.values_of(np.full(cr.WRITTEN, code, np.uint8), signs)
        picture = forward(cover, values, release.network, Frozen(gain, 0, 0, (0, 255))).picture
        energies.append(np.mean((picture - cover.astype(np.int64)) ** 2.0))
        answers = reader(working_picture(picture.astype(np.uint8))[None])
        scores.append(pilot_score(answers, reader.carriers)[0])
    assert energies == sorted(energies)
    assert energies[0] < energies[-1]
    assert scores[0] < scores[2] < scores[3]


# What is asked.


def test_bits_and_scores_are_those_of_decoding() -> None:
    random = np.random.default_rng(0)
    right = random.normal(1.9, 1, (5, cr.WRITTEN))
    right[4] = 0
    bits, scores = tuning.fitting(right)
    assert bits.shape == scores.shape == (5,)
    for k in range(4):
        fits = float(chance(right[k, : cr.CODE], PARITY_BITS))
        assert bits[k] == pytest.approx(math.log2(MAX_CHANCE / fits))
        assert scores[k] == pytest.approx(right[k, cr.CODE :].sum() / 8)
    assert bits[4] == math.log2(MAX_CHANCE)
    assert scores[4] == 0


def answers_with(bits: float, score: float, signs: NDArray[np.int8]) -> F64:
    """One row of answers whose codeword fits by `bits` better than is needed and whose pilots have this score."""
    noise = np.random.default_rng(1).normal(size=cr.CODE)
    low, high = 0.5, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        row = np.concatenate([noise + middle, np.full(cr.PILOTS, score / 8)])
        low, high = (middle, high) if tuning.fitting(row[None])[0][0] < bits else (low, middle)
    return np.asarray(row * signs)


@pytest.mark.parametrize("spare", [0.0, 0.5, 1.0])
def test_an_attack_is_survived_where_both_reserves_are_left(spare: float, payload: Payload) -> None:
    signs = signs_of(payload)

    def survived(bits: float, score: float, which: int) -> bool:
        answers = answers_with(bits, score, signs)[None].astype(np.float64)
        (one,) = tuning.survived(answers, signs, np.array([which]), spare)
        return bool(one)

    for which in (0, ATTACKS - 1):
        bits, score = spare * RESERVES[which], SCORES[which] - 1 + spare
        assert survived(bits + 0.1, score + 0.01, which)
        assert not survived(bits - 0.1, score + 0.01, which)
        assert not survived(bits + 0.1, score - 0.01, which)


def test_each_attack_is_judged_by_its_own_reserve(payload: Payload) -> None:
    signs = signs_of(payload)
    row = answers_with(2.0, 8.2, signs)  # half of 3 bits and 7.6 - 0.5 are enough, half of 5 bits and 9 - 0.5 are not
    assert tuning.survived(np.stack([row] * ATTACKS), signs).tolist() == [
        attack.reserve == 3.0 and attack.score < 8.7 for attack in battery.ATTACKS
    ]
    sure = [k for k in range(ATTACKS) if RESERVES[k] == 3.0][:2]
    chancy = [k for k in range(ATTACKS) if RESERVES[k] == 5.0][:2]
    tried = np.array([chancy[0], sure[1], chancy[1], sure[0]])
    assert tuning.survived(np.stack([row] * 4), signs, tried).tolist() == [False, True, False, True]


def test_similarity() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (67, 130), dtype=np.uint8)
    assert tuning.similarity(a, a) == pytest.approx(1)
    slight = np.clip(a + random.normal(0, 4, a.shape), 0, 255).astype(np.uint8)
    strong = np.clip(a + random.normal(0, 60, a.shape), 0, 255).astype(np.uint8)
    assert 1 > tuning.similarity(a, slight) > tuning.similarity(a, strong) > 0.2
    assert tuning.similarity(a, 255 - a) < 0


def test_similarity_is_near_the_usual_one(phantom) -> None:  # type: ignore[no-untyped-def]
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


# The model.


def model_of(seed: int = 0, noise: float = 0.4, spread: float = 1.0) -> _Model:
    """A model in which one unit of amplitude gives about a thousandth of a standard deviation."""
    random, model = np.random.default_rng(seed), _Model()
    model.bias = random.normal(0, spread, (ATTACKS, cr.WRITTEN))
    model.slope = random.uniform(0.7, 1.3, ATTACKS) * 1e-3
    model.noise = np.full(ATTACKS, noise)
    return model


def excess(model: _Model, amplitudes: F64) -> F64:
    """By how many bits each attack misses its target, at amplitudes of the code carriers."""
    answers = model._answers(amplitudes[: cr.CODE])
    return np.asarray(tuning._unfit(answers, tuning._tilts(answers)).sum(1) - model._target())


START = np.full(cr.WRITTEN, 1500.0)


@pytest.mark.parametrize("seed", range(4))
def test_the_solution_satisfies_the_model_and_no_less_would(seed: int) -> None:
    model = model_of(seed)
    found = model.amplitudes(START, 1e12)
    assert found.shape == (cr.WRITTEN,)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert excess(model, found).max() < 0.5
    assert excess(model, 0.97 * found).max() > 1.0
    scores = tuning.fitting(model.bias + model.slope[:, None] * found)[1]
    assert (scores >= model.asked_score - 1e-6).all()
    assert scores.min() < tuning.fitting(model.bias + model.slope[:, None] * found * 1.05)[1].min()
    assert np.ptp(found[cr.CODE :]) == 0
    needed = (model.asked_score - model.bias[:, cr.CODE :].sum(1) / 8) / 8 / model.slope
    assert found[-1] == pytest.approx(needed.max())


@pytest.mark.parametrize("seed", range(3))
def test_the_solution_needs_less_energy_than_equal_amplitudes(seed: int) -> None:
    model = model_of(seed)
    found = model.amplitudes(START, 1e12)[: cr.CODE]
    equal = next(a for a in np.arange(500.0, 6000, 25) if excess(model, np.full(cr.CODE, a)).max() <= 0)
    assert np.square(found).mean() < 0.9 * equal**2
    # Carriers that the picture answers rightly by itself after every attack get less than those it contradicts.
    own = (model.bias[:, : cr.CODE] / model.slope[:, None]).mean(0)
    order = np.argsort(own)
    assert found[order[-30:]].mean() < 0.8 * found[order[:30]].mean()


@pytest.mark.parametrize("seed", range(3))
def test_no_small_change_of_the_solution_is_cheaper(seed: int) -> None:
    """Moving energy between any two groups of carriers either costs more or breaks a constraint."""
    model, random = model_of(seed), np.random.default_rng(seed)
    found = model.amplitudes(START, 1e12)
    limit = max(0.0, float(excess(model, found).max()))
    better = 0
    for _ in range(40):
        change = random.normal(0, 0.1, cr.CODE) * found[: cr.CODE].mean()
        other = np.maximum(found[: cr.CODE] + change, 0)
        other *= math.sqrt(0.99 * float(np.square(found[: cr.CODE]).sum() / np.square(other).sum()))
        better += bool(excess(model, other).max() <= limit)
    assert better == 0


def test_an_attack_that_is_too_dear_is_given_up_and_costs_nothing() -> None:
    for dear in (5, ATTACKS - 1):
        model, without = model_of(1), model_of(1)
        model.slope[dear] *= 0.02
        without.bias[dear], without.asked[dear], without.asked_score[dear] = 50 * without.slope[dear], -20.0, 0.0
        without.bias[dear] += 5.0  # survived by itself
        cheap = without.amplitudes(START, 1e12)
        most = 1.5 * float(np.square(cheap).sum())
        found = model.amplitudes(START, most)
        assert np.square(found).sum() <= most
        assert excess(model, found)[dear] > 5
        assert np.delete(excess(model, found), dear).max() < 0.5
        assert np.square(found).sum() == pytest.approx(np.square(cheap).sum(), rel=0.05)
        assert model.share[dear] == 0


def test_pilots_that_are_too_dear_are_given_up() -> None:
    model = model_of(2)
    model.asked_score[7] = 500.0
    plain = model_of(2).amplitudes(START, 1e12)
    found = model.amplitudes(START, 1.5 * float(np.square(plain).sum()))
    assert found[-1] < 2 * plain[-1]
    assert model.share[7] == 0


def test_where_little_may_be_spent_the_dearest_go_first_and_the_picture_itself_last() -> None:
    model = model_of(3)
    whole = float(np.square(model.amplitudes(START, 1e12)).sum())
    kept = []
    for part in (1.2, 0.8, 0.5):
        found = model.amplitudes(START, part * whole)
        survived = excess(model, found) < 0.5
        kept.append(int(survived.sum()))
        assert survived[PLAIN]
        assert np.square(found).sum() <= part * whole
    assert kept[0] == ATTACKS
    assert kept[0] > kept[1] >= kept[2] >= 1


def test_one_step_does_not_fall_far() -> None:
    model = model_of(0)
    loud = 5 * np.full(cr.WRITTEN, 3000.0)
    found = model.amplitudes(loud, 1e12)
    assert np.square(found).sum() == pytest.approx(np.square(loud).sum() / tuning.FARTHEST)


@pytest.mark.parametrize("seed", range(2))
def test_what_was_learned_of_a_picture_whose_host_disturbs_all_attacks_alike_is_solved(seed: int) -> None:
    random = np.random.default_rng(seed)
    host = 2.5 + random.normal(0, 0.6, cr.WRITTEN)
    trial = trial_of(host + random.normal(0, 0.1, (ATTACKS, cr.WRITTEN)), amplitude=1, gain=1000)
    model = _Model()
    model.learn(trial)
    found, share = model._least(trial.amplitudes, np.ones(ATTACKS, np.bool_))
    assert share.sum() == pytest.approx(1.0)
    assert found.min() >= 0
    assert excess(model, found).max() < 0.5
    assert np.square(found).sum() <= np.square(trial.amplitudes).sum()
    bias = model.bias[0, : cr.CODE]
    assert found[: cr.CODE][bias > 0.6].mean() < 0.8 * found[: cr.CODE][bias < -0.6].mean()


def trial_of(right: F64, amplitude: int = 4, gain: int = 300, tried: NDArray[np.intp] = tuning.EVERY) -> _Trial:
    codes = np.full(cr.WRITTEN, amplitude, np.uint8)
    return _Trial(codes, gain, 1.0, 1.0, tried, right, np.ones(ATTACKS, np.bool_))


def test_the_model_learns_slope_bias_and_noise() -> None:
    random = np.random.default_rng(0)
    given = tuning.LEVELS[4] * 300.0
    slope = random.uniform(1, 2, ATTACKS) * 1e-3
    own = random.normal(size=cr.WRITTEN)
    own -= own.mean()
    right = slope[:, None] * given + own * (slope / slope[0])[:, None]
    model = _Model()
    model.learn(trial_of(right))
    np.testing.assert_allclose(model.slope, slope)
    np.testing.assert_allclose(model.bias, own * (slope / slope[0])[:, None], atol=1e-9)
    np.testing.assert_allclose(model.noise, 0, atol=1e-12)

    rest = random.normal(0, 0.5, right.shape)
    rest -= rest.mean(1, keepdims=True)
    rest[0] = 0
    model = _Model()
    model.learn(trial_of(right + rest))
    repeats = np.array([attack.repeats for attack in battery.ATTACKS])
    np.testing.assert_allclose(model.noise, np.square(rest).mean(1) * (1 - repeats))
    np.testing.assert_allclose(model.bias, own * (slope / slope[0])[:, None] + repeats[:, None] * rest, atol=1e-9)


def test_trials_are_averaged_and_those_long_ago_forgotten() -> None:
    flat = np.ones((ATTACKS, cr.WRITTEN))
    given = tuning.LEVELS[4] * 300.0
    model = _Model()
    for answer in (2.0, 4.0):
        model.learn(trial_of(answer * flat))
    np.testing.assert_allclose(model.slope, 3.0 / given)
    for _ in range(40):
        model.learn(trial_of(9.0 * flat))
    np.testing.assert_allclose(model.slope, 9.0 / given, rtol=1e-3)


def test_only_what_was_tried_is_learned() -> None:
    model, tried = _Model(), np.array([0, 4, 9])
    model.learn(trial_of(np.full((ATTACKS, cr.WRITTEN), 2.0)))
    before = model.slope.copy(), model.asked.copy(), model.bias.copy()
    model.learn(trial_of(np.full((3, cr.WRITTEN), 6.0), tried=tried))
    rest = np.setdiff1d(np.arange(ATTACKS), tried)
    for old, new in zip(before, (model.slope, model.asked, model.bias), strict=True):
        np.testing.assert_array_equal(new[rest], old[rest])
    assert (model.slope[tried] > before[0][tried]).all()


def test_what_fell_short_is_asked_for_besides_and_what_was_too_much_is_not() -> None:
    short, plenty = _Model(), _Model()
    for _ in range(30):
        short.learn(trial_of(np.full((ATTACKS, cr.WRITTEN), -1.0)))
        plenty.learn(trial_of(np.full((ATTACKS, cr.WRITTEN), 9.0)))
    np.testing.assert_allclose(short.asked, RESERVES + tuning.MOST_ASKED)
    np.testing.assert_allclose(short.asked_score, SCORES + 2.0)
    np.testing.assert_allclose(plenty.asked, RESERVES / 2)
    np.testing.assert_allclose(plenty.asked_score, SCORES - 0.5)


def test_what_binds_is_tried_again() -> None:
    model = _Model()
    right = np.full((ATTACKS, cr.WRITTEN), 9.0)
    right[3] = 1.0
    model.share = np.zeros(ATTACKS)
    model.share[6] = 0.5
    assert model.binding(trial_of(right)).tolist() == [0, 3, 6]
    some = np.array([0, 3, 8])
    assert model.binding(trial_of(right[some], tried=some)).tolist() == [0, 3, 6]


def test_the_loop_has_settled_where_the_last_trials_are_alike() -> None:
    def trial(energy: float, passed: int) -> _Trial:
        right = np.zeros((ATTACKS, cr.WRITTEN))
        return _Trial(np.zeros(cr.WRITTEN, np.uint8), 1, energy, 1.0, tuning.EVERY, right, np.arange(ATTACKS) < passed)

    alike = [trial(2.0, 9)] * tuning.LEAST_ROUNDS
    assert _settled(alike)
    assert not _settled(alike[1:])
    assert not _settled([*alike, trial(2.0, 8)])
    assert not _settled([*alike, trial(2.2, 9)])
    assert _settled([*alike, trial(2.2, 9), trial(2.22, 9), trial(2.21, 9)])


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
    values = tuning.values_of(tuned.codes, signs)
    frozen = Frozen(tuned.gain, 0, 0, (0, 255), carriers=reader.carriers)
    marked = forward(cover, values, release_network, frozen).picture.astype(np.uint8)
    energy = np.mean((marked.astype(np.float64) - cover) ** 2)
    return reader(*battery.seen(marked, draw)), decibels(float(energy))


@pytest.mark.parametrize(("height", "width", "key"), [(160, 160, None), (150, 230, b"a consortium's secret")])
def test_the_loop_ends_with_a_mark_that_reads(
    height: int, width: int, key: bytes | None, wm: DualWatermarker, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    carriers = cr.derive(key)
    reader, network = Reader(wm._release.extractor, carriers), wm._release.network
    cover, signs = phantom(height, width, seed=1), signs_of(payload, carriers)
    tuned = tuning.tune(cover, signs, network, reader)
    assert tuned.reads
    assert tuned.codes.shape == (cr.WRITTEN,)
    assert tuned.codes.dtype == np.uint8
    assert 1 <= tuned.gain <= tuning.LARGEST_GAIN
    answers, quality = replay(network, reader, cover, signs, tuned, 77)
    assert quality > tuning.FLOOR - 1
    assert payload_of(answers[PLAIN]) == payload
    assert pilot_score(answers[:1], carriers)[0] > 7
    # The noise is another one than in the trial that was chosen: most of what it passed it passes again.
    kept = [payload_of(a) == payload for a in answers[tuned.passed]]
    assert np.mean(kept) > 0.8


def test_the_same_picture_gives_the_same_mark(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    reader, cover, signs = Reader(blockwise_extractor, cr.derive()), phantom(96, 120), signs_of(payload)
    one, two = (tuning.tune(cover, signs, plain_network, reader, rounds=4) for _ in range(2))
    assert one.gain == two.gain
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_array_equal(one.passed, two.passed)


def test_a_mark_costs_less_than_equal_amplitudes(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload
) -> None:
    """The loop's purpose: more attacks are survived than at equal amplitudes of the same energy."""
    reader, signs = Reader(blockwise_extractor, cr.derive()), signs_of(payload)
    cover = np.clip(np.random.default_rng(0).normal(128, 4, (128, 128)), 0, 255).astype(np.uint8)
    tuned = tuning.tune(cover, signs, plain_network, reader)
    answers, quality = replay(plain_network, reader, cover, signs, tuned, 60)
    assert quality > tuning.FLOOR - 0.5
    equal = np.full(cr.WRITTEN, 4, np.uint8)
    loop = _Loop(cover, signs, plain_network, reader, None, False)
    gains = [tuned.gain * k // 20 for k in range(4, 60)]
    gain = min(gains, key=lambda g: abs(decibels(loop.marked(equal, g)[1]) - quality))
    plain, same = replay(plain_network, reader, cover, signs, tuning.Tuned(equal, gain, tuned.passed), 60)
    assert abs(same - quality) < 0.4
    count = [int(tuning.survived(a, signs, spare=0.0).sum()) for a in (answers, plain)]
    assert count[0] > count[1]
    assert tuned.reads


def test_of_bearable_trials_the_one_that_passes_most_is_taken(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing more comes first, then less energy; what is too dear does not count, whatever it passes."""
    plan = [(3, 0.9, 5.0), (7, 0.8, 4.0), (7, 0.7, 3.0), (2, 0.1, 0.1), (ATTACKS, 1.2, 9.0)]
    made: list[_Trial] = []

    def try_out(loop: _Loop, codes: NDArray[np.uint8], gain: int, tried: NDArray[np.intp] = tuning.EVERY) -> _Trial:
        passed, dear, energy = plan[len(made) % len(plan)]
        right = np.random.default_rng(len(made)).normal(1.5, 1, (len(tried), cr.WRITTEN))
        made.append(_Trial(codes, 1000 + len(made), energy, dear, tried, right, np.arange(ATTACKS) < passed))
        return made[-1]

    monkeypatch.setattr(_Loop, "try_out", try_out)
    cover = np.full((64, 64), 128, np.uint8)
    tuned = tuning.tune(cover, signs_of(payload), plain_network, Reader(blockwise_extractor, cr.derive()), rounds=5)
    assert len(made) == 5
    assert tuned.gain == 1002
    assert tuned.passed.sum() == 7


def test_where_nothing_reads_the_loop_gets_louder_to_the_end(
    plain_network: CouplingNetwork, plain_extractor: Extractor, payload: Payload
) -> None:
    cover = np.full((64, 64), 128, np.uint8)
    reader = Deaf(plain_extractor, cr.derive())
    tuned = tuning.tune(cover, signs_of(payload), plain_network, reader, rounds=2)
    assert not tuned.reads
    assert not tuned.passed.any()
    assert tuned.gain == tuning.LARGEST_GAIN


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_gives_an_honest_answer(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, value: int
) -> None:
    cover, signs = np.full((80, 80), value, np.uint8), signs_of(payload)
    reader = Reader(blockwise_extractor, cr.derive())
    tuned = tuning.tune(cover, signs, plain_network, reader, rounds=3)
    answers, _ = replay(plain_network, reader, cover, signs, tuned, 0)
    steady = [k for k, attack in enumerate(battery.ATTACKS) if attack.repeats == 0.95]
    np.testing.assert_array_equal(tuned.passed[steady], tuning.survived(answers, signs)[steady])
    assert tuned.reads == tuned.passed[0]
    assert tuned.reads or value != 128


def test_a_region_over_everything_never_reads_unless_it_is_attenuated(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload
) -> None:
    cover = np.random.default_rng(0).integers(126, 131, (64, 64), dtype=np.uint8)
    everything = np.ones((64, 64), np.bool_)
    reader, signs = Reader(blockwise_extractor, cr.derive()), signs_of(payload)
    assert not tuning.tune(cover, signs, plain_network, reader, everything, rounds=2).reads
    assert tuning.tune(cover, signs, plain_network, reader, everything, rounds=2, attenuate=True).reads


def test_what_is_dear_is_counted_in_energy_and_likeness(
    plain_network: CouplingNetwork, blockwise_extractor: Extractor, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    reader, cover, signs = Reader(blockwise_extractor, cr.derive()), phantom(128, 128), signs_of(payload)
    loop = _Loop(cover, signs, plain_network, reader, None, False)
    codes = np.full(cr.WRITTEN, 4, np.uint8)
    for gain in (2000, 9000):
        trial = loop.try_out(codes, gain, np.array([0, 5]))
        picture, energy = loop.marked(codes, gain)
        assert trial.energy == energy
        lost = (1 - tuning.similarity(cover, picture)) / (1 - tuning.LEAST_SIMILAR)
        assert trial.dear == pytest.approx(max(10 ** ((tuning.FLOOR - decibels(energy)) / 10), lost))
        assert trial.right.shape == (2, cr.WRITTEN)
        assert not trial.passed[np.delete(np.arange(ATTACKS), [0, 5])].any()
    assert trial.dear > 1
