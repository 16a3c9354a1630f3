"""medprov_ledger.runtime_code, on contracts that the Python EVM has deployed"""

from __future__ import annotations

from typing import Any

import pytest
from web3 import Web3

from medprov_ledger.chain import Chain
from medprov_ledger.contracts import NAMES, artifact
from medprov_ledger.runtime_code import is_compiled_from


@pytest.fixture
def codes(chain: Chain, tester: Web3) -> dict[str, bytes]:
    places = {"Federation": chain.federation.address, "ProvenanceRegistry": chain.registry.address}
    return {name: bytes(tester.eth.get_code(place)) for name, place in places.items()}


@pytest.mark.parametrize("name", NAMES)
def test_deployed_code_is_known(codes: dict[str, bytes], name: str) -> None:
    assert [is_compiled_from(codes[name], artifact(other).bytecode) for other in NAMES] == [
        name == other for other in NAMES
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_byte_may_differ(codes: dict[str, bytes], name: str) -> None:
    """Only where an immutable stands anything is taken."""
    creation, code = artifact(name).bytecode, codes[name]
    taken = 0
    for place in range(0, len(code), 7):
        changed = bytearray(code)
        changed[place] ^= 0xFF
        taken += is_compiled_from(bytes(changed), creation)
    # every seventh byte of 32 is at most five
    assert taken <= 5 * creation.count(b"\x7f" + bytes(32))


@pytest.mark.parametrize("spoil", [lambda c: b"", lambda c: c[:-1], lambda c: c + b"\0", lambda c: b"\0" * len(c)])
def test_other_code(codes: dict[str, bytes], spoil: Any) -> None:
    for name in NAMES:
        assert not is_compiled_from(spoil(codes[name]), artifact(name).bytecode)
