"""medprov_ledger.fees"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import fees
from medprov_ledger.errors import FeeLimitError

amounts = st.integers(0, 10**15)
dynamic = st.tuples(amounts, amounts).map(lambda pair: {fees.MOST: max(pair), fees.TIP: min(pair)})
legacy = amounts.map(lambda price: {fees.PRICE: price})
CEILING = 10**16


class Node:
    """Stands for a Web3."""

    def __init__(self, tip: int, price: int = 0) -> None:
        self.max_priority_fee, self.gas_price = tip, price

    provider = None

    @property
    def eth(self) -> Any:
        return self


@given(dynamic | legacy, dynamic | legacy | st.just({}), st.integers(0, CEILING))
def test_a_replacement_is_one_that_nodes_take(offered: dict[str, int], wanted: dict[str, int], ceiling: int) -> None:
    made = fees.raised(offered, wanted, ceiling)
    if made is None:
        assert any(old + max(1, -(-old // 10)) > ceiling for old in offered.values())
        return
    assert made.keys() == offered.keys()
    for name, old in offered.items():
        assert made[name] > old
        assert 10 * made[name] >= 11 * old
        assert made[name] <= ceiling
    if fees.TIP in made:
        assert made[fees.TIP] <= made[fees.MOST]


@given(dynamic, dynamic)
def test_a_replacement_offers_what_is_asked_now(offered: dict[str, int], wanted: dict[str, int]) -> None:
    made = fees.raised(offered, wanted, CEILING)
    assert made is not None
    assert fees.enough(made, wanted)


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_first_offer_keeps_below_the_ceiling(base: int, tip: int, ceiling: int) -> None:
    if base > ceiling:
        with pytest.raises(FeeLimitError):
            fees.quote(Node(tip), base, ceiling)  # type: ignore[arg-type]
        return
    made = fees.quote(Node(tip), base, ceiling)  # type: ignore[arg-type]
    assert base <= made[fees.MOST] <= ceiling
    assert made[fees.TIP] <= made[fees.MOST]
    if 2 * base + tip <= ceiling:
        assert made == {fees.MOST: 2 * base + tip, fees.TIP: tip}


def test_a_chain_without_base_fee() -> None:
    assert fees.quote(Node(1, 7), None, 10) == {fees.PRICE: 7}  # type: ignore[arg-type]
    with pytest.raises(FeeLimitError, match=r"asks 7e-09 gwei per unit of gas, chain\.max_fee_gwei allows 6e-09"):
        fees.quote(Node(1, 7), None, 6)  # type: ignore[arg-type]
