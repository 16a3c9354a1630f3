"""The programs that look at the contracts: pinned, run beside the project, and never a part of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOOLS = sorted((ROOT / "contracts" / "tools").glob("*.txt"))


@pytest.mark.parametrize("file", TOOLS, ids=lambda file: file.stem)
def test_tools_are_pinned_and_state_their_licence(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0].startswith("# Licence ")
    wanted = [line for line in lines if not line.startswith("#")]
    assert len(wanted) == 1
    assert re.fullmatch(r"[\w-]+==\d+\.\d+\.\d+", wanted[0])


def test_no_package_asks_for_them() -> None:
    names = {line.split("==")[0] for file in TOOLS for line in file.read_text().splitlines() if "==" in line}
    assert names == {"slither-analyzer", "halmos"}
    asked = [*ROOT.glob("*.txt"), *ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/requirements.txt")]
    assert asked
    for file in asked:
        for name in names:
            assert name not in file.read_text(), f"{file.name} asks for {name}"
