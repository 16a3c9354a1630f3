"""Ways of training together that are compared: what is the same in them and what is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import drift, federation_tables, learning
from benchmarks.federated import Plan, Weights
from benchmarks.phantoms import FAMILIES, look
from benchmarks.tables import table
from medprov_watermark.carriers import SIZE
from medprov_watermark.training import exchange as ex

SETTINGS = learning.settings(4, 1, 0.03)
PICTURES = [torch.from_numpy(look(name, SIZE, 1))[None, None] for name in list(FAMILIES)[:2]]


def trained(rounds: int, way: drift.Way) -> bytes:
    weights = drift.federation(PICTURES, SETTINGS, Plan(rounds=rounds, steps=1, batch=1), way, 0)
    return ex.model_hash(weights)


def test_ways_differ_from_the_second_round_on() -> None:
    ways = [drift.Way("mean", between) for between in ("fresh", "kept", "shared")]
    assert len({trained(1, way) for way in ways}) == 1
    assert len({trained(2, way) for way in ways}) == 3


def test_moments_are_averaged_over_hospitals() -> None:
    hospitals = [
        [{"step": torch.tensor(2.0), "exp_avg": torch.full((2,), value), "exp_avg_sq": torch.full((2,), 2 * value)}]
        for value in (1.0, 3.0)
    ]
    (mean,) = drift.averaged(hospitals)
    assert float(mean["step"]) == 2
    assert mean["exp_avg"].tolist() == [2, 2] and mean["exp_avg_sq"].tolist() == [4, 4]


def test_updates_carry_their_norm() -> None:
    deltas: list[Weights] = [{"a": np.array([3.0, 4.0], np.float32)}, {"a": np.zeros(2, np.float32)}]
    assert [u.norm for u in drift.updates(deltas)] == [5.0, 0.0]
    assert len({u.update for u in drift.updates(deltas)}) == 2


def test_what_is_there_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(rounds=1, steps=1, batch=1, pictures=1, judged=1, db=(38.0,), seeds=(0,))
    monkeypatch.setattr(drift, "WAYS", drift.WAYS[:1])
    report = drift.measure(2, plan, None, tmp_path)
    monkeypatch.setattr(drift, "federation", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(drift, "alone", lambda *_: pytest.fail("trained again"))
    assert drift.measure(2, plan, None, tmp_path) == report


def test_section() -> None:
    def way(a: float, b: float) -> dict[str, object]:
        return {"38": {"exact": (a + b) / 2, "modalities": {"a": a, "b": b}}}

    report = {
        "plan": {"rounds": 8, "steps": 10, "db": [38.0], "seeds": [0, 1]},
        "hospitals": 2,
        "modalities": ["a", "b"],
        "ways": {"pooled": way(1.0, 0.6), "mean, fresh": way(0.8, 0.4)},
    }
    text = "\n".join(federation_tables.drift(report, table))
    assert "| mean, fresh | 60.0 % (75.0 %) |" in text
    assert "| mean, fresh | 80.0 % | 40.0 % |" in text
