"""The attackers' figures on scores whose answer is known, and the table."""

import numpy as np
import pytest
import torch

from benchmarks import membership
from benchmarks.privacy_tables import membership as table_of
from medprov_watermark.training import data
from medprov_watermark.training.loop import Model, Settings
from medprov_watermark.training.phantoms import phantoms

SMALL = Settings(steps=1, batch=1, channels=8, blocks=1, extractor_blocks=1)


def test_area():
    low, high = np.arange(5.0), np.arange(10.0, 14.0)
    assert membership.area(high, low) == 1 and membership.area(low, high) == 0
    assert membership.area(np.zeros(3), np.zeros(4)) == 0.5
    assert membership.area(np.array([1.0, 3.0]), np.array([2.0])) == 0.5


def test_true_positives_at_one_percent():
    others = np.arange(200.0)
    members = np.array([10.0, 197.5, 198.5, 300.0])
    # two of 200 may pass: 198 and 199
    assert membership.true_positives(members, others) == 0.75
    assert membership.true_positives(members, others[:50]) == 0.75
    assert membership.true_positives(np.array([49.0]), others[:50]) == 0


def test_intervals_cover_what_was_found():
    rng = np.random.default_rng(0)
    found = membership.attacked(rng.normal(1, 1, 150), rng.normal(0, 1, 150))
    assert found["auc_interval"][0] < found["auc"] < found["auc_interval"][1]
    assert found["auc"] == pytest.approx(0.76, abs=0.06)
    blind = membership.attacked(rng.normal(0, 1, 150), rng.normal(0, 1, 150))
    assert blind["auc_interval"][0] < 0.5 < blind["auc_interval"][1]


def test_losses_are_those_of_the_pictures():
    torch.manual_seed(0)
    model, pictures = Model(SMALL).eval(), phantoms(3)
    before = torch.get_rng_state()
    found = membership.losses(model, pictures, 2)
    assert found.shape == (3,) and (found > 0).all() and len(set(found)) == 3
    assert (membership.losses(model, pictures, 2) == found).all()
    assert (torch.get_rng_state() == before).all()


def test_hospitals_train_on_all_members(tmp_path):
    plan = membership.QUICK
    pictures = membership.made(plan, tmp_path, 3)
    files = [path for folder in pictures.folders for path in folder.iterdir()]
    assert len(files) == len(pictures.members) == plan.hospitals * plan.pictures
    assert len(pictures.others) == plan.others and not any(data.held_back(path) for path in files)
    both = torch.cat([pictures.members, pictures.others]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(both)


def test_real_pictures_are_taken_from_their_side(tmp_path):
    plan = membership.QUICK
    images = membership.made(membership.Plan(**{**vars(plan), "pictures": 9}), tmp_path / "own", 1).folders[0].parent
    some = next(iter((images / "hospital-1").iterdir())).read_bytes()
    for i in range(40):
        name = images / "hospital-0" / f"q_{i}.png"
        if data.held_back(name):
            name.write_bytes(some)
    found = membership.found(plan, tmp_path / "links", images, 0)
    assert len(found.members) == 6 and len(found.others) >= 2
    links = [p for folder in found.folders for p in folder.rglob("*.png")]
    assert len(links) == 6 and not any(data.held_back(p) for p in links)
    with pytest.raises(SystemExit, match="too few"):
        membership.found(plan, tmp_path / "none", tmp_path / "links", 0)


def test_table():
    row = {
        "model": "without",
        "epsilon": None,
        "attacks": {"threshold": {"auc": 0.6, "auc_interval": [0.5, 0.7], "tpr": 0.1, "tpr_interval": [0.0, 0.2]}},
        "bit_accuracy": 0.9,
        "members": 6,
        "others": 12,
    }
    result = {
        **{"hospitals": 3, "pictures": "generated", "rounds": 2, "steps": 2, "start": "random", "shadows": 1},
        **{"start_bit_accuracy": 0.5, "clip": 1.0, "delta": 1e-5},
        "rows": [row, {**row, "model": "central-dp", "epsilon": 6.57}],
    }
    lines = table_of(result, lambda heads, rows: [" | ".join(map(str, line)) for line in (heads, *rows)])
    assert lines[1] == "without | none | threshold | 0.600 (0.500 to 0.700) | 10.0 % (0.0 to 20.0) | 0.900"
    assert lines[2].startswith("central-dp | 6.57 |") and "6 generated pictures" in lines[3]
