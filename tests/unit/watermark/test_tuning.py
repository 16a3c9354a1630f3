"""The closed loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import battery, detection, tuning
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.extractor import working_picture
from medprov_watermark.payload import Payload, decode, encode
from medprov_watermark.watermarker import DualWatermarker

F32 = NDArray[np.float32]


def signs_of(payload: Payload) -> NDArray[np.int8]:
    return np.concatenate([encode(payload), cr.pilot_signs()]).astype(np.int8)


class Reference:
    """Reads what was added to a known cover: an extractor without a host's interference but with a little noise."""

    def __init__(self, cover: NDArray[np.uint8], strength: float = 1.0) -> None:
        self.host = working_picture(cover)
        self.strength = strength
        self.calls = 0

    def __call__(self, pictures: F32) -> F32:
        self.calls += 1
        basis = cr.dct_table() / 2.0**cr.DCT_BITS
        index, sign = cr.table()
        spectra = basis @ ((pictures - self.host) * self.strength) @ basis.T
        answers = (spectra[:, index[..., 0], index[..., 1]] * sign).mean(axis=2)
        noise = np.random.default_rng(0).normal(0, 2.0, answers.shape)
        return ((answers + noise) / 2.0)[:, : cr.WRITTEN].astype(np.float32)


def replay(
    wm: DualWatermarker, cover: NDArray[np.uint8], signs: NDArray[np.int8], tuned: tuning.Tuned
) -> tuple[F32, NDArray[np.float64], float]:
    """Answers after each attack, their pilot scores, and the PSNR of what the loop decided."""
    release = wm._release
    values = tuning.values_of(tuned.codes, signs)
    marked = forward(cover, values, release.network, Frozen(tuned.gain, 0, 0, (0, 255))).picture.astype(np.uint8)
    seen = np.stack([working_picture(attacked) for attacked in battery.attacked(marked)])
    answers = release.extractor(seen)
    energy = np.mean((marked.astype(np.float64) - cover) ** 2)
    return answers, detection.pilot_score(answers), float(10 * np.log10(255**2 / max(energy, 1e-9)))


def test_levels_are_those_of_the_format() -> None:
    np.testing.assert_array_equal(tuning.LEVELS, [0, 1, 2, 3, 5, 7, 9, 12])
    codes = np.arange(cr.WRITTEN).astype(np.uint8) % 8
    signs = np.where(np.arange(cr.WRITTEN) % 3, 1, -1).astype(np.int8)
    values = tuning.values_of(codes, signs)
    assert values.dtype == np.int64
    np.testing.assert_array_equal(np.sign(values), np.where(codes > 0, signs, 0))
    np.testing.assert_array_equal(np.abs(values), np.array([0, 1, 2, 3, 5, 7, 9, 12])[codes])


def test_more_gain_and_higher_levels_mean_more_energy_and_a_clearer_mark(
    wm: DualWatermarker, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    release = wm._release
    cover, signs = phantom(128, 128), signs_of(payload)
    energies, scores = [], []
    for code, gain in ((1, 400), (1, 1200), (1, 3600), (3, 3600)):
        values = tuning.values_of(np.full(cr.WRITTEN, code, np.uint8), signs)
        picture = forward(cover, values, release.network, Frozen(gain, 0, 0, (0, 255))).picture
        energies.append(np.mean((picture - cover.astype(np.int64)) ** 2.0))
        answers = release.extractor(working_picture(picture.astype(np.uint8))[None])
        scores.append(detection.pilot_score(answers)[0])
    assert energies == sorted(energies)
    assert energies[0] < energies[-1]
    assert scores[0] < scores[1] < scores[2]


def test_what_the_loop_calls_readable_is_readable(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    release = wm._release
    cover, signs = phantom(128, 128), signs_of(payload)

    def readable(soft: F32) -> bool:
        decoded = decode(soft)
        return decoded is not None and decoded.payload == payload

    tuned = tuning.tune(cover, signs, release.network, release.extractor, readable)
    assert tuned.reads
    assert tuned.codes.shape == (cr.WRITTEN,)
    assert tuned.codes.dtype == np.uint8
    assert tuned.codes.max() < len(tuning.LEVELS)
    assert 1 <= tuned.gain <= tuning.LARGEST_GAIN
    answers, scores, quality = replay(wm, cover, signs, tuned)
    # the noise was another one than in the trial that was chosen
    known = slice(None, -battery.DRAWS)
    for passed, answer, score in zip(tuned.passed[known], answers[known], scores[known], strict=True):
        assert not passed or (readable(answer[: cr.CODE]) and score >= tuning.SCORE)
    assert quality > 20

    again = tuning.tune(cover, signs, release.network, release.extractor, readable)
    assert again.gain == tuned.gain
    np.testing.assert_array_equal(again.codes, tuned.codes)


def test_a_picture_that_never_reads_ends_at_the_loudest_trial(small_network: CouplingNetwork, payload: Payload) -> None:
    cover = np.full((64, 64), 128, np.uint8)
    tuned = tuning.tune(cover, signs_of(payload), small_network, Reference(cover), lambda soft: False)
    assert not tuned.reads
    assert tuned.gain == tuning.LARGEST_GAIN


def test_an_extractor_without_answers_ends_too(small_network: CouplingNetwork, payload: Payload) -> None:
    cover = np.zeros((64, 64), np.uint8)

    def silent(pictures: F32) -> F32:
        return np.zeros((len(pictures), cr.WRITTEN), np.float32)

    tuned = tuning.tune(cover, signs_of(payload), small_network, silent, lambda soft: True)
    assert not tuned.reads


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_picture_gives_an_honest_answer(wm: DualWatermarker, payload: Payload, value: int) -> None:
    release = wm._release
    cover, signs = np.full((80, 80), value, np.uint8), signs_of(payload)
    tuned = tuning.tune(cover, signs, release.network, release.extractor, lambda soft: True, rounds=3)
    answers, scores, _ = replay(wm, cover, signs, tuned)
    weak = (answers[:, : cr.CODE] * signs[: cr.CODE] <= tuning.RESERVE).sum(axis=1)
    known = slice(None, -battery.DRAWS)
    np.testing.assert_array_equal(tuned.passed[known], ((scores >= tuning.SCORE) & (weak <= tuning.WEAK_BITS))[known])
    assert tuned.reads == tuned.passed[0]


def test_a_region_over_everything_never_reads(small_network: CouplingNetwork, payload: Payload) -> None:
    cover = np.full((64, 64), 128, np.uint8)
    everything = np.ones((64, 64), np.bool_)
    tuned = tuning.tune(
        cover, signs_of(payload), small_network, Reference(cover), lambda soft: True, everything, rounds=2
    )
    assert not tuned.reads


def test_no_carrier_gets_much_more_than_it_needs(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    """The loop's purpose: most written bits stand near the reserve after the attack that hurts them most."""
    release = wm._release
    cover, signs = phantom(256, 256), signs_of(payload)

    def readable(soft: F32) -> bool:
        decoded = decode(soft)
        return decoded is not None and decoded.payload == payload

    tuned = tuning.tune(cover, signs, release.network, release.extractor, readable)
    assert tuned.passed.all()
    answers, _, quality = replay(wm, cover, signs, tuned)
    written = tuning.LEVELS[tuned.codes[: cr.CODE]] > 1
    least = (answers[:, : cr.CODE] * signs[: cr.CODE]).min(axis=0)[written]
    assert 0 < np.median(least) < 2.0
    plain = np.full(cr.WRITTEN, int(np.median(tuned.codes)), np.uint8)
    uniform = [
        replay(wm, cover, signs, tuning.Tuned(plain, gain, tuned.passed))
        for gain in range(tuned.gain // 2, 8 * tuned.gain, max(1, tuned.gain // 4))
    ]
    readable_ones = [q for a, s, q in uniform if all(readable(r[: cr.CODE]) for r in a) and s.min() >= tuning.SCORE]
    assert quality > max(readable_ones) + 1.0
