"""Slither's findings: each is mended, or explained in the source beside what it is about."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.contract_tools import CONTRACTS, NEEDS_FORGE, copy_contracts, program, run

pytestmark = [pytest.mark.slow, NEEDS_FORGE]
DISABLE = re.compile(r"^\s*// slither-disable-(next-line|start|end) ([\w,-]+)$", re.MULTILINE)


def findings(contracts: Path) -> set[tuple[str, str]]:
    """What Slither says: detector and file."""
    report = contracts.parent / "slither.json"
    done = run([str(program("slither")), ".", "--json", str(report)], contracts, timeout=250)
    assert report.is_file(), done.stderr[-3000:]
    said = json.loads(report.read_text())
    assert said["success"], said["error"]
    assert "0 detectors" not in done.stderr, done.stderr[-3000:]
    found = said["results"].get("detectors", [])
    return {(one["check"], Path(one["elements"][0]["source_mapping"]["filename_relative"]).name) for one in found}


def explained() -> set[tuple[str, str]]:
    named = set()
    for file in (CONTRACTS / "src").rglob("*.sol"):
        for kind, checks in DISABLE.findall(file.read_text()):
            if kind != "end":
                named |= {(check, file.name) for check in checks.split(",")}
    return named


def test_nothing_is_left_to_explain(tmp_path: Path) -> None:
    assert findings(copy_contracts(tmp_path)) == set()


def test_without_the_explanations_exactly_these_are_found(tmp_path: Path) -> None:
    copy = copy_contracts(tmp_path)
    for file in (copy / "src").rglob("*.sol"):
        file.write_text(DISABLE.sub("", file.read_text()))
    assert findings(copy) == explained()


def test_every_explanation_has_a_reason() -> None:
    for file in (CONTRACTS / "src").rglob("*.sol"):
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            if "slither" in line and "-end " not in line:
                assert DISABLE.match(line), f"{file.name}:{number + 1}: {line.strip()}"
                assert re.match(r"\s*// [a-z]", lines[number - 1]), f"{file.name}:{number + 1}: no reason above it"
