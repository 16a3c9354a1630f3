"""What docs/recovery.md quotes, the programs really say."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = {"no space left on device"}
"""What the operating system says, in our words around it."""


def test_every_quoted_message_is_in_the_sources() -> None:
    rows = re.findall(r"^\| ([^|]*) \|", (ROOT / "docs" / "recovery.md").read_text(), flags=re.MULTILINE)[2:]
    quoted = {part.strip() for row in rows for quote in re.findall(r"`([^`]+)`", row) for part in pieces(quote)}
    packages = (
        "ledger/medprov_ledger",
        "node/medprov_node",
        "client_sdk/medprov_sdk",
        "coordinator/medprov_coordinator",
    )
    text = "\n".join(file.read_text() for package in packages for file in (ROOT / package).rglob("*.py"))
    assert len(quoted) > 20
    assert {one for one in quoted - SYSTEM if one not in text} == set()


def pieces(quote: str) -> list[str]:
    """The parts of a message that do not change."""
    return [part for part in re.split(r"\.\.\.|\bN\b|\d+ of \d+", quote) if len(part.strip()) > 5]
