"""Reorganisations of a real Anvil on a batch's way; `benchmarks.reorg` has all depths and steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import reorg
from medprov_ledger import embedded

CONFIRMATIONS = 3


@pytest.fixture(scope="module")
def home() -> Iterator[reorg.House]:
    if embedded.wanted() != "anvil":
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    with reorg.house(CONFIRMATIONS) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "depth", "way"),
    [
        ("before sending", 2, "thrown out"),
        ("sent", 2, "thrown out"),
        ("mined", 1, "thrown out"),
        ("between confirmations", CONFIRMATIONS - 1, "thrown out"),
        ("between confirmations", CONFIRMATIONS, "moved"),
        ("confirmed", CONFIRMATIONS, "thrown out"),
        ("manifest stored", CONFIRMATIONS + 9, "thrown out"),
    ],
)
def test_anchored_once_and_found_once(home: reorg.House, step: str, depth: int, way: str) -> None:
    row = reorg.run(home, reorg.Case(step, depth, way))
    assert row["struck"]
    assert reorg.clean(row), row
