"""A federation of three hospitals on an in-process chain, and a coordinator's files for it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account
from web3 import EthereumTesterProvider, Web3

from medprov_coordinator.deployment.config import Deployment
from medprov_ledger.chain import Chain, transact
from medprov_ledger.config import Config
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.federation import Federation
from medprov_ledger.keys import HospitalKeys, create_account

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")


@dataclass(frozen=True)
class Consortium:
    """The files, and a connection to the chain."""

    ledger: Path
    file: Path
    federation: Federation

    @property
    def deployment(self) -> Deployment:
        return Deployment.load(self.file)

    def write(self, text: str) -> Deployment:
        self.file.write_text(text)
        return self.deployment


MakeConsortium = Callable[..., Consortium]


@pytest.fixture(scope="module")
def coordinator_tester() -> Web3:
    return Web3(EthereumTesterProvider())


@pytest.fixture
def make_consortium(coordinator_tester: Web3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeConsortium:
    """A factory: all hospitals are members and their keys are here; k is 1 unless said otherwise."""
    tester = coordinator_tester
    monkeypatch.setattr(Chain, "connect", lambda config: Chain(config, tester))
    deployer = Account.from_key((1).to_bytes(32, "big"))

    def make(threshold: int = 1, keys_of: tuple[str, ...] = HOSPITALS) -> Consortium:
        folder = tmp_path / "chain"
        keys: dict[str, HospitalKeys] = {}
        for name in HOSPITALS:
            keys[name] = create_account(folder / name, kdf_iterations=2**10)
            transact(tester, {"to": keys[name].account.address, "value": Web3.to_wei(10, "ether")}, deployer)
        federation_id = secrets.token_bytes(32)
        founders = [Founder(made.account.address, name, made.reader) for name, made in keys.items()]
        deployed = deploy(tester, deployer, federation_id, founders, threshold)
        lines = [
            "[federation]",
            f'id = "0x{federation_id.hex()}"',
            'name = "test"',
            "[chain]",
            'rpc = "http://127.0.0.1:1"',
            f"chain_id = {tester.eth.chain_id}",
            f'federation = "{deployed.federation}"',
            f'registry = "{deployed.registry}"',
            "[store]",
            'kind = "blocks"',
            'path = "blocks"',
        ]
        for name in keys_of:
            lines += [
                f"[hospitals.{name}]",
                f'address = "{keys[name].account.address}"',
                f'keystore = "{name}/keystore.json"',
                f'password_file = "{name}/password"',
                f'reader_key = "{name}/reader.pem"',
                f'state = "{name}/state"',
            ]
            (folder / name / "state").mkdir()
        (folder / "blocks").mkdir()
        ledger = folder / "medprov.toml"
        ledger.write_text("\n".join(lines) + "\n")
        file = tmp_path / "c" / "coordinator.toml"
        file.parent.mkdir()
        file.write_text(
            '[coordinator]\nmedprov = "../chain/medprov.toml"\nhospital = "hospital-a"\nstate = "state"\n'
            '[superlink]\nlisten = "127.0.0.1:29999"\n'
        )
        return Consortium(ledger, file, Federation(Chain(Config.load(ledger), tester)))

    return make
