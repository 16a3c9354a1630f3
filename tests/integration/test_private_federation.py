"""Each privacy with real hospitals: real training, the product's ClientApp and ServerApp, one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.privacy_tables import membership
from medprov_coordinator import cli as coordinator
from medprov_coordinator.grid import run_in_process
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.private_strategy import FILE
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.server_app import make_server_app
from medprov_ledger import development
from medprov_node.client_app import app as client_app
from medprov_watermark.training.loop import Settings
from medprov_watermark.training.phantoms import phantom

ROOT = Path(__file__).resolve().parents[2]
SMALL = Settings(steps=0, batch=1, channels=8, blocks=1, extractor_blocks=1, adversarial_weight=0.0)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(f"hospital-{i}") for i in range(3)]
    for i, folder in enumerate(folders):
        Image.fromarray(phantom(i)).save(folder / f"p_{i}.png")
    return [{"images": str(folder)} for folder in folders]


def run(hospitals, privacy, folder, **changes):
    values = {
        "rounds": 1,
        "local_steps": 1,
        "settings": SMALL,
        "quorum": 3,
        "rule": "mean",
        "server_step": 1.0,
        "evaluate": False,
    }
    values |= {"probe_pictures": 1, "probe_tolerance": 1.0, "max_refused": 1, "privacy": privacy}
    config = RunConfig(**{**values, **changes})
    ended = []
    flat = {**config.to_flat(), "folder": str(folder)}
    run_in_process(make_server_app(Services(), ended.append), client_app, hospitals, flat)
    return ended[0]


def test_a_secure_sum_is_the_plain_mean(hospitals, tmp_path):
    plain = run(hospitals, PrivacySettings(), tmp_path / "plain")
    secure = run(hospitals, PrivacySettings("secagg", clip=10.0), tmp_path / "secure")
    for name, array in plain.weights.items():
        assert secure.weights[name] == pytest.approx(array, abs=1e-6)
    assert secure.reports[0].nodes == (101, 102, 103) and not secure.reports[0].rejected
    assert secure.reports[0].train["bit-accuracy"] == plain.reports[0].train["bit-accuracy"]


@pytest.mark.parametrize("mode", ["central-dp", "local-dp"])
def test_noise_and_epsilon_over_a_resume(hospitals, tmp_path, mode):
    privacy = PrivacySettings(mode, 0.01, 1.0, 1e-5)
    first = run(hospitals, privacy, tmp_path)
    again = run(hospitals, privacy, tmp_path, rounds=2)
    assert again.resumed_from == 1 and not first.reports[0].rejected
    one, two = (next(iter(r.reports[0].privacy["epsilon"].values())) for r in (first, again))
    assert one < two < 2 * one
    assert (tmp_path / FILE).is_file()
    record = json.loads((tmp_path / "rounds" / "000001.json").read_text())
    assert all(entry["examples"] == 1 and entry["figures"]["bit-accuracy"] == 0 for entry in record["updates"])
    moved = np.concatenate([(again.weights[n] - first.weights[n]).ravel() for n in first.weights])
    # noise of 0.01 on the sum or on each of three updates, then the mean
    expected = 0.01 / 3 if mode == "central-dp" else 0.01 / np.sqrt(3)
    assert np.std(moved) == pytest.approx(expected, rel=0.1)


def test_a_hospital_that_insists_is_not_trained_without(hospitals, tmp_path):
    strict = [{**hospitals[0], "privacy": "local-dp"}, *hospitals[1:]]
    plain = run(strict, PrivacySettings(), tmp_path, quorum=2)
    assert [(r.node, r.code) for r in plain.reports[0].rejected] == [(101, "error")]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_membership_benchmark(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.membership", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert [row["model"] for row in found["rows"]] == ["without", "central-dp, noise multiplier 1"]
    assert found["rows"][1]["epsilon"] == pytest.approx(6.57, abs=0.01)
    assert all(set(row["attacks"]) == {"threshold", "calibrated", "likelihood"} for row in found["rows"])
    assert membership(found, lambda heads, rows: [str(row) for row in rows])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signed_secure_sum_is_anchored(hospitals, tmp_path, capsys):
    config = development.up(tmp_path / "chain").config
    try:
        folder = tmp_path / "run"
        arguments = ["run", "--dir", str(folder), "--config", str(config.path), "--rounds", "1", "--steps", "1"]
        arguments += ["--batch", "1", "--channels", "8", "--blocks", "1", "--extractor-blocks", "1"]
        for name, node in zip(development.HOSPITALS, hospitals, strict=True):
            arguments += ["--images", f"{name}={node['images']}"]
        settings = {"privacy": "secagg", "clip-norm": 5, "rule": "mean", "server-step": 1.0, "quorum": 3}
        for key, value in {**settings, "probe-pictures": 1}.items():
            arguments += ["--set", f"{key}={value}"]
        assert coordinator.main(arguments) == 0, capsys.readouterr().err
        record = json.loads((folder / "rounds" / "000001.json").read_text())
        members = {config.hospitals[name].address for name in development.HOSPITALS}
        assert {entry["signer"] for entry in record["updates"]} == members
        assert coordinator.main(["audit", "--dir", str(folder), "--config", str(config.path)]) == 0
        assert "everything agrees" in capsys.readouterr().out
    finally:
        development.down(tmp_path / "chain")
