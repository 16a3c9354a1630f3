"""What a transaction offers per unit of gas, first and when it is stuck.

Nodes take a replacement of the same nonce only when both fees of EIP-1559, or the one price of older chains, have grown
by a tenth. Nothing is ever offered above the configured ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from web3 import Web3

from . import rpc_address
from .errors import FeeLimitError
from .json_rpc import address_of

PRICE, MOST, TIP = "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas"
NAMES = (PRICE, MOST, TIP)


def quote(w3: Web3, base: int | None, ceiling: int) -> dict[str, int]:
    """What a transaction must offer to be mined soon.

    Parameters
    ----------
    w3 : Web3
    base : int or None
        Base fee of the newest block in wei; None where blocks have none.
    ceiling : int
        The most that may be offered, in wei.

    Returns
    -------
    dict of str to int
        ``maxFeePerGas`` and ``maxPriorityFeePerGas``, or ``gasPrice``.

    Raises
    ------
    FeeLimitError
        The chain asks more than the ceiling.
    """
    if base is None:
        price = int(w3.eth.gas_price)
        if price > ceiling:
            raise _too_dear(w3, price, ceiling)
        return {PRICE: price}
    if base > ceiling:
        raise _too_dear(w3, base, ceiling)
    tip = int(w3.eth.max_priority_fee)
    most = min(2 * base + tip, ceiling)
    return {MOST: most, TIP: min(tip, most)}


def raised(offered: Mapping[str, Any], wanted: Mapping[str, int], ceiling: int) -> dict[str, int] | None:
    """The fees of a replacement; None where the ceiling leaves no room.

    Parameters
    ----------
    offered : mapping
        Holds the fees of the transaction that is stuck.
    wanted : mapping
        What would be offered now, see :func:`quote`; may be empty.
    ceiling : int
        The most that may be offered, in wei.
    """
    made: dict[str, int] = {}
    for name in NAMES:
        if name in offered:
            old = int(offered[name])
            least = old + max(1, -(-old // 10))
            if least > ceiling:
                return None
            # an eighth: some nodes round, and some ask for more than a tenth
            made[name] = min(max(old + old // 8 + 1, least, wanted.get(name, 0)), ceiling)
    if TIP in made:
        made[TIP] = min(made[TIP], made[MOST])
    return made


def enough(offered: Mapping[str, Any], wanted: Mapping[str, int]) -> bool:
    """Whether a transaction offers what would be offered now."""
    return all(int(offered.get(name, 0)) >= value for name, value in wanted.items())


def _too_dear(w3: Web3, asked: int, ceiling: int) -> FeeLimitError:
    return FeeLimitError(
        f"{rpc_address.shown(address_of(w3))}: the chain asks {asked / 1e9:g} gwei per unit of gas, "
        f"chain.max_fee_gwei allows {ceiling / 1e9:g}; wait, or raise it"
    )
