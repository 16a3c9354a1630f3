"""medprov_ledger.deploy"""

from __future__ import annotations

import os
from typing import Any

import pytest
from web3 import Web3

from medprov_ledger.chain import transact
from medprov_ledger.contracts import artifact
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.errors import RevertedError

KEY = b"\x07" * 32
ID = b"\x05" * 32


def founder(number: int, **changes: Any) -> Founder:
    values = {"address": f"0x{number:040x}", "name": f"hospital {number}", "reader_key": KEY}
    return Founder(**(values | changes))


def test_two_contracts(tester: Web3, people: Any) -> None:
    made = deploy(tester, people.deployer, ID, [founder(1), founder(2)], 2)
    federation = tester.eth.contract(address=made.federation, abi=artifact("Federation").abi)
    registry = tester.eth.contract(address=made.registry, abi=artifact("ProvenanceRegistry").abi)
    assert federation.functions.federationId().call() == ID
    assert federation.functions.threshold().call() == 2
    assert federation.functions.memberCount().call() == 2
    assert registry.functions.FEDERATION().call() == made.federation
    assert federation.events.FederationCreated().get_logs(from_block=made.block)[0]["blockNumber"] == made.block


@pytest.mark.parametrize(
    ("founders", "threshold", "error"),
    [
        ([], 1, "BadFounders"),
        ([founder(n) for n in range(1, 66)], 1, "BadFounders"),
        ([founder(1)], 0, "BadThreshold"),
        ([founder(1)], 2, "BadThreshold"),
        ([founder(1), founder(1, name="other")], 1, "AlreadyMember"),
        ([founder(1), founder(2, name="hospital 1")], 1, "NameTaken"),
        ([founder(1, reader_key=bytes(32))], 1, "ZeroHash"),
        ([founder(0)], 1, "BadMotion"),
    ],
)
def test_founders_are_checked(tester: Web3, people: Any, founders: Any, threshold: int, error: str) -> None:
    with pytest.raises(RevertedError) as caught:
        deploy(tester, people.deployer, ID, founders, threshold)
    assert caught.value.error == error


def test_id_must_be_given(tester: Web3, people: Any) -> None:
    with pytest.raises(RevertedError) as caught:
        deploy(tester, people.deployer, bytes(32), [founder(1)], 1)
    assert caught.value.error == "ZeroHash"


def test_a_registry_needs_a_federation(tester: Web3, people: Any) -> None:
    compiled = artifact("ProvenanceRegistry")
    factory = tester.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    nowhere = Web3.to_checksum_address("0x" + os.urandom(20).hex())
    with pytest.raises(RevertedError):
        transact(tester, factory.constructor(nowhere), people.deployer)
