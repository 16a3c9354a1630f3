"""One scenario on every chain this runs on: writes, reads that return strings, refusals, a hard kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account
from web3 import Web3

from medprov_ledger import cid, development, eip712, embedded, merkle
from medprov_ledger.chain import Chain, connect_http, transact
from medprov_ledger.config import Config, StoreConfig
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.embedded import DEVELOPMENT_KEY
from medprov_ledger.errors import ChainError, RevertedError, WrongChainError
from medprov_ledger.federation import Federation, name_hash
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
GANACHE = CONTRACTS / "node_modules" / "ganache" / "dist" / "node" / "cli.js"
RICH = Account.from_key(DEVELOPMENT_KEY)
CID = cid.of(b"evidence")


class Node:
    """A chain in a child process that can be killed and started again on its state."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.rpc = ""
        self.pid = 0
        self._ganache: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.kind != "ganache":
            chain = embedded.start(self.folder)
            assert chain.kind == self.kind
            assert chain.pid is not None
            self.rpc, self.pid = chain.rpc, chain.pid
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--server.host", "127.0.0.1", "--server.port", str(port), "--chain.chainId", "31337"]
        options += ["--chain.hardfork", "shanghai", "--database.dbPath", str(self.folder / "db")]
        options += ["--wallet.accounts", f"{DEVELOPMENT_KEY},0x3635c9adc5dea00000"]
        self._ganache = subprocess.Popen(["node", str(GANACHE), *options], stdout=subprocess.DEVNULL)
        self.rpc, self.pid = f"http://127.0.0.1:{port}", self._ganache.pid
        deadline = time.monotonic() + 120
        while True:
            try:
                assert connect_http(self.rpc).eth.chain_id == 31337
                return
            except OSError:
                assert self._ganache.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._ganache is not None:
            self._ganache.kill()
            self._ganache.wait()
            return
        chain = embedded.load(self.folder)
        assert chain is not None
        if embedded.is_running(chain):
            os.kill(self.pid, signal.SIGKILL)
        while embedded.is_running(chain):
            time.sleep(0.01)


@pytest.fixture(params=["python", "anvil", "ganache"])
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    kind: str = request.param
    if kind == "python":
        monkeypatch.setattr("medprov_ledger.embedded.shutil.which", lambda _: None)
    elif kind == "anvil" and embedded.find_anvil() is None:
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    elif kind == "ganache" and (shutil.which("node") is None or not GANACHE.is_file()):
        pytest.skip("needs Node and Ganache: 'npm ci' in contracts/")
    made = Node(kind, tmp_path)
    made.start()
    yield made
    made.kill()


def config_of(rpc: str, federation_id: bytes, federation: str, registry: str, chain_id: int = 31337) -> Config:
    return Config(
        path=Path("medprov.toml"),
        federation_id=federation_id,
        federation_name="test",
        rpc=rpc,
        chain_id=chain_id,
        federation_address=federation,
        registry_address=registry,
        confirmations=1,
        timeout=30.0,
        store=StoreConfig("blocks", path=Path("blocks")),
        discoverable=False,
        directory_key=None,
    )


def test_the_same_on_every_chain(node: Node) -> None:
    members = [Account.create() for _ in range(3)]
    stranger = Account.create()
    w3 = connect_http(node.rpc, 30.0)
    federation_id = os.urandom(32)
    founders = [Founder(a.address, f"h{i}", bytes([i + 1]) * 32) for i, a in enumerate(members)]
    made = deploy(w3, RICH, federation_id, founders, 2)
    for account in [*members, stranger]:
        transact(w3, {"to": account.address, "value": Web3.to_wei(1, "ether")}, RICH)
    config = config_of(node.rpc, federation_id, made.federation, made.registry)
    chain = Chain.connect(config)
    federation, registry = Federation(chain), Registry(chain)

    assert [m.name_hash for m in federation.members()] == [name_hash(f"h{i}") for i in range(3)]
    newcomer = Account.create().address
    federation.join(newcomer, "new", b"\x09" * 32, members[0])
    joined = federation.join(newcomer, "new", b"\x09" * 32, members[1])
    assert (federation.is_member(newcomer, joined.block - 1), federation.is_member(newcomer, joined.block)) == (
        False,
        True,
    )
    model = os.urandom(32)
    federation.release_model(model, "bafymodel", members[0])
    assert not federation.is_released(model)
    federation.release_model(model, "bafymodel", members[2])
    assert federation.is_released(model)
    federation.anchor_round(1, model, "bafyround", model, model, members[0])
    last = federation.last_round()
    assert last is not None
    assert (last.number, last.cid) == (1, "bafyround")
    assert federation.rounds() == [last]

    domain = eip712.domain(31337, registry.address)
    record = Record(*(os.urandom(32) for _ in range(4)), CID, "", members[1].address, model, 1_800_000_000)
    leaf = record.leaf(domain)
    assert registry.record_id(record) == leaf
    tree = merkle.tree([leaf, *(os.urandom(32) for _ in range(4))])
    receipt = registry.anchor_batch(tree.root, 5, CID, members[1])
    anchor = registry.anchor(members[1].address, tree.root)
    assert anchor is not None
    assert (anchor.owner, anchor.cid, anchor.count, anchor.block) == (members[1].address, CID, 5, receipt.block)
    assert anchor.tx_hash == receipt.tx_hash
    assert registry.anchors() == [anchor]
    assert registry.verify(members[1].address, tree.root, leaf, list(tree.proofs[0]))
    assert not registry.verify(members[1].address, tree.root, leaf, list(tree.proofs[1]))
    assert not registry.verify(members[0].address, tree.root, leaf, list(tree.proofs[0]))
    registry.register(record, members[1])
    assert [found.record for found in registry.registrations()] == [record]

    for error, action in {
        "NotMember": lambda: registry.anchor_batch(os.urandom(32), 1, CID, stranger),
        "RootAlreadyAnchored": lambda: registry.anchor_batch(tree.root, 5, CID, members[1]),
        "AlreadyRegistered": lambda: registry.register(record, members[1]),
        "RoundNotNext": lambda: federation.anchor_round(3, model, "bafy", model, model, members[0]),
        "AlreadyReleased": lambda: federation.release_model(model, "bafymodel", members[1]),
        "FutureBlock": lambda: federation.is_member(newcomer, 10**9),
    }.items():
        with pytest.raises(RevertedError) as caught:
            action()
        assert caught.value.error == error

    with pytest.raises(WrongChainError):
        Chain.connect(config_of(node.rpc, federation_id, made.federation, made.registry, chain_id=1))

    embedded.wait_until_saved(node.folder)  # Anvil writes its state once a second, and only that is promised
    node.kill()
    with pytest.raises(ChainError, match="no chain answers there"):
        Chain.connect(config)
    node.start()
    chain = Chain.connect(config_of(node.rpc, federation_id, made.federation, made.registry))
    assert Registry(chain).anchor(members[1].address, tree.root) == anchor
    assert Registry(chain).anchors() == [anchor]
    assert Federation(chain).last_round() == last
    assert Federation(chain).is_member(newcomer, joined.block)
    later = Registry(chain).anchor_batch(os.urandom(32), 1, CID, members[0])
    assert later.block > anchor.block


def test_truncated_anvil_state(tmp_path: Path) -> None:
    if embedded.find_anvil() is None:
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    chain = embedded.start(tmp_path)
    transact(connect_http(chain.rpc), {"to": RICH.address, "value": 1}, RICH)
    embedded.stop(tmp_path)
    state, copy = tmp_path / "anvil-state.json", tmp_path / "anvil-state.json.copy"
    whole = state.read_bytes()
    state.write_bytes(whole[:200])
    copy.write_bytes(whole)
    chain = embedded.start(tmp_path)
    assert connect_http(chain.rpc).eth.block_number == 1, "the copy was taken"
    embedded.stop(tmp_path)
    for file in (state, copy):
        file.write_bytes(whole[:200])
    with pytest.raises(ChainError, match=r"anvil-state\.json: the chain did not start") as caught:
        embedded.start(tmp_path)
    assert "\n" not in str(caught.value)


def test_anvil_saves_when_it_is_stopped(tmp_path: Path) -> None:
    if embedded.find_anvil() is None:
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    chain = embedded.start(tmp_path)
    receipt = transact(connect_http(chain.rpc), {"to": RICH.address, "value": 1}, RICH)
    assert embedded.stop(tmp_path)
    again = embedded.start(tmp_path)
    found = connect_http(again.rpc).eth.get_transaction_receipt(Web3.to_bytes(hexstr=receipt.tx_hash))
    assert found["blockNumber"] == receipt.block
    embedded.stop(tmp_path)


def test_kill_9_right_after_up(tmp_path: Path) -> None:
    if embedded.find_anvil() is None:
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    made = development.up(tmp_path, [b"\x07" * 32])
    assert made.chain.kind == "anvil"
    assert made.chain.pid is not None
    os.kill(made.chain.pid, signal.SIGKILL)
    while embedded.is_running(made.chain):
        time.sleep(0.01)
    again = development.up(tmp_path)
    assert again.state == "restarted"
    assert Federation(Chain.connect(again.config)).is_released(b"\x07" * 32)
    development.down(tmp_path)
