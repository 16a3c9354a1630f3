"""The contracts' own tests: unit, fuzz and invariants, and what each transaction costs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
FORGE = CONTRACTS / "node_modules" / ".bin" / "forge"
GROWTH = 5
"""Per cent by which a transaction may become dearer before somebody has to look."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or not FORGE.exists(), reason="needs Node and 'npm ci' in contracts/"
    ),
]


def forge(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FOUNDRY_DISABLE_NIGHTLY_WARNING": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [str(FORGE), *arguments], cwd=CONTRACTS, env=environment, capture_output=True, text=True, timeout=500
    )


def test_contracts() -> None:
    done = forge("test")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "0 failed" in done.stdout


def test_transactions_cost_what_they_did() -> None:
    done = forge("snapshot", "--match-contract", "GasTest", "--check", "--tolerance", str(GROWTH))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_sources_are_formatted() -> None:
    done = forge("fmt", "--check")
    assert done.returncode == 0, done.stdout[-2000:]
