"""What the benchmarks of the federation share: looks, pictures, and an honest count of payloads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import learning
from benchmarks.federated import Plan
from benchmarks.phantoms import FAMILIES, look
from medprov_watermark import carriers as cr
from medprov_watermark.payload import Payload, encode
from medprov_watermark.training import data
from medprov_watermark.training.loop import Model


def test_looks_are_pictures_that_repeat_and_differ() -> None:
    seen = {name: look(name, 64, 1) for name in FAMILIES}
    assert all(p.shape == (64, 64) and p.dtype == np.uint8 and p.std() > 3 for p in seen.values())
    assert all(np.array_equal(p, look(name, 64, 1)) for name, p in seen.items())
    assert not any(np.array_equal(p, look(name, 64, 2)) for name, p in seen.items())


def test_generated_modalities_share_no_picture_between_their_sets() -> None:
    (one,) = learning.modalities(None, 1, 2, 2)
    every = [p.tobytes() for p in (*one.training, *one.tuning, *one.judged)]
    assert len(set(every)) == 6
    with pytest.raises(ValueError, match="can be generated"):
        learning.modalities(None, 99, 1, 1)


def test_written_pictures_are_all_trained_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pictures = np.random.default_rng(0).integers(0, 255, (12, 256, 256)).astype(np.uint8)
    learning.write(tmp_path / "site", pictures)
    files = data.list_images(tmp_path / "site")
    assert len(files) == 12 and not any(data.held_back(p) for p in files)
    assert np.array_equal(data.read_grey(files[5]), pictures[5])


def test_a_strong_mark_is_counted_and_a_foreign_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Model(learning.settings(1, 2, 1e-3))
    flat = np.full((1, 256, 256), 128, np.uint8)
    battery = {"untouched": learning.BATTERY["untouched"]}
    found = learning.carried(model, flat, 30.0, 0, battery)
    assert (found.exact, found.wrong, found.tries) == (1.0, 0, 1)
    assert 28 < found.psnr < 32 and found.bits > 0.9
    monkeypatch.setattr(learning, "decoded", lambda answers: Payload(bytes(8), bytes(4)))
    assert learning.carried(model, flat, 30.0, 0, battery).wrong == 1


def test_decoding_needs_pilots_and_codeword() -> None:
    payload = Payload(b"12345678", b"abcd")
    answers = np.concatenate([encode(payload), cr.derive().pilot_signs]).astype(np.float32) * 3
    assert learning.decoded(answers) == payload
    assert learning.decoded(np.random.default_rng(0).normal(size=cr.WRITTEN).astype(np.float32)) is None


def test_results_of_another_plan_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    plan = Plan(rounds=3)
    learning.check_plan(tmp_path / "out", plan)
    learning.check_plan(tmp_path / "out", replace(plan, seeds=(5,)))
    with pytest.raises(SystemExit, match=r"out: holds results of a plan with other optimiser, rounds: name another"):
        learning.check_plan(tmp_path / "out", replace(plan, rounds=4, optimiser="shared"))
