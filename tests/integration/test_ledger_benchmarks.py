"""Every benchmark of the ledger runs in its quick form and writes what it promises, which the tables can show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import SECTIONS
from medprov_ledger import embedded

ROOT = Path(__file__).resolve().parents[2]
ANVIL = ("sending", "ledger_scale")
"""Those that measure Anvil; the others take the Python EVM too."""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("kill", lambda d: d["clean"] and sum(d["kills"].values()) == 8 and {"chain", "marking"} <= set(d["kills"])),
        ("sending", lambda d: d["anchored"] == d["anchors"] and d["ratio"] > 0),
        ("ledger_scale", lambda d: d["register"]["gas_ratio"] > 50 and d["register"]["proof_holds_on_chain"]),
        ("fuzz", lambda d: d["findings"] == [] and d["inputs"] == 40_000),
        ("mutations", lambda d: d["survived"] == 0 < d["mutants"]),
    ],
)
def test_quick_form(name: str, check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    if name in ANVIL and embedded.wanted() != "anvil":
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(out.read_text())
    assert check(found)
    assert SECTIONS[name][1](found)
