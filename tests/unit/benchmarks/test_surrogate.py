"""Attackers who have the software, in the smallest form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import insiders, split, surrogate  # noqa: E402
from benchmarks.insiders import Picture, Software, Victim  # noqa: E402
from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark import tuning  # noqa: E402
from medprov_watermark.hashing import perceptual_hash  # noqa: E402
from medprov_watermark.payload import Payload  # noqa: E402

EFFORT = surrogate.Effort(pairs=(2, 4), steps=12, batch=2, width=8)
WAYS = ["mark again", "check taken out"]


def phantom(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.uniform(40, 210, (8, 8)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def few_trials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def public() -> Software:
    return Software()


@pytest.fixture(scope="module")
def pairs(public: Software) -> surrogate.Pairs:
    return surrogate.make_pairs(public, np.stack([phantom(seed) for seed in range(4)]), seed=0)


@pytest.fixture(scope="module")
def victims(public: Software) -> list[Victim]:
    covers = [phantom(seed) for seed in (10, 11)]
    payloads = [Payload(perceptual_hash(cover), bytes([i] * 4)) for i, cover in enumerate(covers)]
    marked = [surrogate.quickly_marked(public, c, p) for c, p in zip(covers, payloads, strict=True)]
    return [Victim(str(i), *one) for i, one in enumerate(zip(covers, payloads, marked, strict=True))]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    pictures = split.Split(np.stack([phantom(seed) for seed in range(4)]), [("a", phantom(10))])
    measured = surrogate.measured(pictures, EFFORT, WAYS, keyed=False)
    return dict(json.loads(json.dumps(measured)))


def test_overwriting_is_refused_and_its_bypass_reported(data: dict[str, Any]) -> None:
    again, bypassed = data["overwrite"]
    assert again["refused"] is not None and "marked already" in again["refused"]
    assert bypassed["refused"] is None
    assert bypassed["read"] == "second" and "second" in bypassed["listed"]
    assert bypassed["beneath"] == "first"
    assert 30 < bypassed["psnr_cover"] < 60
    total = data["summary"]["overwrite"]
    assert total["mark again"] == {"n": 1, "refused": 100.0}
    assert total["check taken out"]["beneath"] == {"first": 100.0, "second": 0.0}


def test_figures_are_in_range(data: dict[str, Any]) -> None:
    rows = data["marked"] + data["white_box"] + data["surrogate"] + data["copied"]
    assert len(data["surrogate"]) == 2 * 2 * 2 * len(surrogate.STRENGTHS)
    for row in rows:
        assert 0 <= row["bits"] <= 1
        assert 20 < row["psnr_paid"] <= insiders.EQUAL_DB
        assert 0.5 < row["ssim_paid"] <= 1
        assert row["payload"] in (None, "owner", "known", "other")
    surrogate.show(data)


def test_restoring_takes_the_mark_off_bit_for_bit(data: dict[str, Any]) -> None:
    restored = data["white_box"][0]
    assert restored["way"] == "restore" and restored["cover_exact"] is True
    assert restored["psnr_cover"] == insiders.EQUAL_DB and not restored["present"]


def test_forged_pictures_never_have_the_owners_payload(data: dict[str, Any]) -> None:
    forged = [row for row in data["surrogate"] if row["aim"] == "forge"]
    # A mean of few residuals still holds the codewords of its pairs, but not that of the picture it is put on.
    assert forged and all(row["payload"] != "owner" for row in forged)
    assert all(row["listed"] in (None, "known") for row in forged)


def test_training_lowers_the_loss(pairs: surrogate.Pairs) -> None:
    residuals = 0.05 * (pairs.covers - pairs.covers.mean())
    _, losses = surrogate.train(pairs.covers, residuals, surrogate.Effort(steps=60, batch=4, width=8))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    again, same = surrogate.train(pairs.covers, residuals, surrogate.Effort(steps=2, batch=4, width=8))
    assert same[0] == losses[0]
    assert surrogate.given_by(again, phantom(0)).shape == (cr.SIZE, cr.SIZE)


def test_pairs_are_marked_at_their_psnr_and_read(public: Software, pairs: surrogate.Pairs) -> None:
    for cover, marked, payload in zip(pairs.covers, pairs.marked, pairs.payloads, strict=True):
        before, after = (np.asarray(p[0].numpy(), np.uint8) for p in (cover, marked))
        assert insiders.decibels(before, after) == pytest.approx(surrogate.PAIRS_DB, abs=0.7)
        assert public.marker.extract(after, search=False).payload == payload
    assert len(pairs.first(2).payloads) == 2


def test_a_mark_can_be_subtracted(public: Software, victims: list[Victim]) -> None:
    victim = victims[0]
    signs = public.signs(victim.payload)
    before = public.answers(victim.marked) * signs
    for picture in (
        insiders.one_gain(public, victim.marked, signs),
        insiders.answers_to_zero(public, victim.marked, signs),
    ):
        assert abs((public.answers(picture) * signs).mean()) < 0.25 * before.mean()
        assert insiders.reading(public, picture, victim.payload, [victim.payload])["payload"] is None
        assert insiders.decibels(victim.marked, picture) > 40


def test_a_codeword_without_pilots_is_named_by_the_directory(public: Software, victims: list[Victim]) -> None:
    victim = victims[0]
    removed = insiders.removals(public)["pilots alone"](victim.marked, victim.payload)
    found = insiders.reading(public, removed, victim.payload, [v.payload for v in victims])
    assert not found["present"] and found["payload"] is None
    assert found["listed"] == "owner"


def test_a_copied_residual_carries_the_payload_to_another_picture(public: Software, victims: list[Victim]) -> None:
    rows = surrogate.copied(public, victims, [v.payload for v in victims])
    assert [row["payload"] for row in rows] == ["owner", "owner"]
    assert all(row["hash_distance"] > 10 and row["shows_else"] for row in rows)


def test_the_bypass_is_blind_once(public: Software, victims: list[Victim]) -> None:
    public.unchecked._blind = True
    assert public.unchecked.extract(victims[0].marked).payload is None
    assert public.unchecked.extract(victims[0].marked).payload == victims[0].payload


def test_strangers_make_list_decoding_stricter(public: Software, victims: list[Victim]) -> None:
    signs = public.signs(victims[0].payload)[: cr.CODE].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 1, cr.CODE)
    assert insiders.named(signs, [v.payload for v in victims]) == victims[0].payload
    assert insiders.named(noise, [v.payload for v in victims]) is None
    assert insiders.named(signs, []) is None
