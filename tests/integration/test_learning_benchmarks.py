"""The benchmarks that train federations run in their quick form and write what they promise, which tables can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_tables, federation_tables, round_cost
from benchmarks.tables import table

ROOT = Path(__file__).resolve().parents[2]


def quick(name: str, folder: Path, *more: str) -> dict[str, Any]:
    out = folder / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_federated(tmp_path: Path) -> None:
    found = quick("federated", tmp_path, "--plots", str(tmp_path))
    (run,) = found["federations"]
    assert set(run["trainings"]) == {"start", "federated", "pooled", *(f"local {m}" for m in run["modalities"])}
    assert (tmp_path / "federated.png").exists()
    assert federation_tables.federated(found, table)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_poisoning(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    found = quick("poisoning", tmp_path, "--out", str(kept))
    by = {(r["strategy"], r["attackers"]): r for r in found["results"]}
    assert all(r["state"] == "finished" for r in found["results"])
    assert by["medprov", 3]["bits"]["40"] > by["FedAvg", 3]["bits"]["40"]
    assert federation_tables.poisoning(found, table)
    # A second run takes what is there.
    before = (kept / "results.json").read_bytes()
    assert quick("poisoning", tmp_path, "--out", str(kept))["results"] == found["results"]
    assert (kept / "results.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_round_cost(tmp_path: Path) -> None:
    found = quick("round_cost", tmp_path, "--plot", str(tmp_path / "round_cost.png"))
    (row,) = found["in_process"]
    assert set(row["parts"]) == set(round_cost.PARTS) and row["accepted"] == 3
    (gate,) = found["gate"]
    assert gate["accepted"] == 3 and set(gate["rules"]) == set(round_cost.RULES)
    smaller = {e["encoding"]: e["up"] for e in found["encodings"]}
    assert smaller["int8"] < smaller["float16"] < smaller["float32"]
    assert cost_tables.section(found, table)
    assert (tmp_path / "round_cost.png").read_bytes().startswith(b"\x89PNG")
