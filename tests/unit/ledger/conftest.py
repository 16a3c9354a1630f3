"""One in-process chain for the whole session; every test that changes a federation gets contracts of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import EthereumTesterProvider, Web3

from medprov_ledger import _index_sync
from medprov_ledger.chain import Chain, transact
from medprov_ledger.config import Config, StoreConfig
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.index import RecordIndex
from medprov_ledger.store import BlockStore
from tests.unit.ledger.index_world import DOMAIN, Clock, World


@dataclass(frozen=True)
class People:
    """Accounts with money: the deployer (no member), three members, a stranger."""

    deployer: LocalAccount
    members: tuple[LocalAccount, LocalAccount, LocalAccount]
    stranger: LocalAccount


MakeChain = Callable[..., Chain]


@pytest.fixture(scope="module")
def tester() -> Web3:
    """A Web3 on an in-process Python EVM, new for each file: with the chain's length every search in it gets slower."""
    return Web3(EthereumTesterProvider())


@pytest.fixture(scope="module")
def people(tester: Web3) -> People:
    """Accounts with money on :func:`tester`."""
    deployer = Account.from_key((1).to_bytes(32, "big"))
    others = [Account.create() for _ in range(4)]
    for account in others:
        transact(tester, {"to": account.address, "value": Web3.to_wei(1000, "ether")}, deployer)
    return People(deployer, (others[0], others[1], others[2]), others[3])


@pytest.fixture(scope="module")
def make_chain(tester: Web3, people: People) -> MakeChain:
    """A factory: new contracts with the three members and k = 2; keyword arguments replace configuration fields."""

    def make(**changes: Any) -> Chain:
        federation_id = os.urandom(32)
        founders = [Founder(a.address, f"hospital {i}", bytes([i + 1]) * 32) for i, a in enumerate(people.members)]
        deployment = deploy(tester, people.deployer, federation_id, founders, 2)
        config = Config(
            path=Path("medprov.toml"),
            federation_id=federation_id,
            federation_name="test",
            rpc="http://127.0.0.1:8545",
            chain_id=tester.eth.chain_id,
            federation_address=deployment.federation,
            registry_address=deployment.registry,
            confirmations=1,
            timeout=10.0,
            store=StoreConfig("blocks", path=Path("blocks")),
            discoverable=False,
            directory_key=None,
        )
        return Chain(replace(config, **changes), tester)

    return make


@pytest.fixture(scope="module")
def chain(make_chain: MakeChain) -> Chain:
    """Contracts that a file's tests share; tests may add batches and rounds, not change members."""
    return make_chain()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The index's clock; it stands still until it is moved."""
    made = Clock()
    monkeypatch.setattr(_index_sync, "time", made)
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A chain without anchors and an empty store."""
    return World(BlockStore(tmp_path / "blocks"))


@pytest.fixture
def index() -> RecordIndex:
    """An index in memory."""
    return RecordIndex(":memory:", DOMAIN)
