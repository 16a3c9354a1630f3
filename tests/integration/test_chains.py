"""One scenario on every chain this runs on: writes, reads that return strings, refusals, a hard kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3

from medprov_ledger import cid, development, eip712, embedded, merkle
from medprov_ledger.chain import Chain, Receipt, connect_http, transact
from medprov_ledger.config import Config, HospitalConfig, StoreConfig
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.embedded import DEVELOPMENT_KEY
from medprov_ledger.errors import ChainError, NoFundsError, RevertedError, WrongChainError
from medprov_ledger.federation import Federation, name_hash
from medprov_ledger.json_rpc import known
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
            os.environ[embedded.CHAIN], before = self.kind, os.environ.get(embedded.CHAIN, "")
            try:
                chain = embedded.start(self.folder)
            finally:
                os.environ[embedded.CHAIN] = before
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


def founded(node: Node, tmp_path: Path, **changes: object) -> tuple[Config, LocalAccount]:
    """A federation of one hospital, which keeps a journal."""
    account: LocalAccount = Account.create()
    w3 = connect_http(node.rpc, 30.0)
    federation_id = os.urandom(32)
    made = deploy(w3, RICH, federation_id, [Founder(account.address, "h", b"\x01" * 32)], 1)
    transact(w3, {"to": account.address, "value": Web3.to_wei(1, "ether")}, RICH)
    embedded.wait_until_saved(node.folder)
    files = [tmp_path / name for name in ("keystore.json", "password", "reader.pem", "state")]
    config = config_of(node.rpc, federation_id, made.federation, made.registry)
    config = replace(config, hospitals={"h": HospitalConfig("h", account.address, *files)})
    return replace(config, **changes), account  # type: ignore[arg-type]


def test_many_transactions_and_two_processes(node: Node, tmp_path: Path) -> None:
    config, account = founded(node, tmp_path)
    registry = Registry(Chain.connect(config))
    roots = [os.urandom(32) for _ in range(12)]
    first = registry.anchor_batch(roots[0], 1, CID, account)
    results = registry.anchor_batches([(root, 1, CID) for root in roots], account)
    assert isinstance(results[0], RevertedError)
    assert results[0].error == "RootAlreadyAnchored"
    assert all(isinstance(result, Receipt) for result in results[1:])
    assert registry.anchors()[0].tx_hash == first.tx_hash

    def work(own: list[bytes]) -> None:
        mine = Registry(Chain.connect(config))
        for root in own:
            mine.anchor_batch(root, 1, CID, account)

    shares = [[os.urandom(32) for _ in range(5)] for _ in range(2)]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(anchor.root for anchor in registry.anchors()) == sorted([*roots, *shares[0], *shares[1]])
    assert registry.chain.w3.eth.get_transaction_count(account.address) == 22


def test_a_restarted_hospital_and_a_killed_chain(node: Node, tmp_path: Path) -> None:
    """What a process sent and never heard of is adopted; what the chain forgets when it is killed is sent again."""
    config, account = founded(node, tmp_path)
    function = Registry(Chain.connect(config)).contract.functions.anchorBatch(os.urandom(32), 1, CID)
    Chain.connect(config).submit([function], account)
    receipt = Chain.connect(config).send(function, account)
    root = os.urandom(32)
    Registry(Chain.connect(config)).anchor_batch(root, 1, CID, account)
    node.kill()
    node.start()
    chain = Chain.connect(replace(config, rpc=node.rpc))
    chain.settle(account)
    anchors = Registry(chain).anchors()
    assert [anchor.tx_hash for anchor in anchors if anchor.root != root] == [receipt.tx_hash]
    assert [anchor.root for anchor in anchors if anchor.root == root] == [root]
    assert chain.w3.eth.get_transaction_count(account.address) == 2


def test_a_stuck_transaction_is_replaced(node: Node, tmp_path: Path) -> None:
    """Ganache wants both fees to grow by a tenth, but then it mines blocks that contradict each other."""
    if node.kind == "python":
        pytest.skip("the Python EVM mines at once")
    stop = ("evm_setAutomine", [False]) if node.kind == "anvil" else ("miner_stop", [])
    config, account = founded(node, tmp_path, bump_after=0.3, confirmation_timeout=10.0)
    chain = Chain.connect(config)
    # Ganache takes anything in place of an account's first transaction
    chain.send(chain.registry.functions.anchorBatch(os.urandom(32), 1, CID), account)
    node_w3 = connect_http(node.rpc, 30.0)
    node_w3.provider.make_request(*stop)  # type: ignore[arg-type]
    function = chain.registry.functions.anchorBatch(os.urandom(32), 1, CID)
    found: list[Receipt | ChainError] = []
    thread = threading.Thread(target=lambda: found.extend(chain.send_many([function], account)))
    thread.start()
    journal = chain.sender(account).journal
    deadline, taken = time.monotonic() + 30, 0
    while taken < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        variants = [variant for one in journal.entries("open") for variant in one.variants]
        there = known(node_w3, [variant.tx_hash for variant in variants])
        taken = max((place for place, one in enumerate(there) if one), default=0)
    if node.kind == "anvil":
        node_w3.provider.make_request("evm_mine", [])  # type: ignore[arg-type]
    thread.join(60)
    (receipt,) = found
    if node.kind == "ganache":
        assert "is not mined at" in str(receipt)
        return
    assert isinstance(receipt, Receipt)
    (entry,) = (one for one in journal.entries("done") if len(one.variants) > 1)
    assert receipt.tx_hash in {Web3.to_hex(variant.tx_hash) for variant in entry.variants[1:]}
    assert chain.w3.eth.get_transaction_count(account.address) == 2


def test_no_money(node: Node) -> None:
    poor = Account.create()
    with pytest.raises(NoFundsError) as caught:
        transact(connect_http(node.rpc, 30.0), {"to": RICH.address, "value": 0}, poor)
    assert poor.address in str(caught.value)


def test_truncated_anvil_state(tmp_path: Path) -> None:
    if embedded.wanted() != "anvil":
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
    if embedded.wanted() != "anvil":
        pytest.skip("needs Node and Anvil: 'npm ci' in contracts/")
    chain = embedded.start(tmp_path)
    receipt = transact(connect_http(chain.rpc), {"to": RICH.address, "value": 1}, RICH)
    assert embedded.stop(tmp_path)
    again = embedded.start(tmp_path)
    found = connect_http(again.rpc).eth.get_transaction_receipt(Web3.to_bytes(hexstr=receipt.tx_hash))
    assert found["blockNumber"] == receipt.block
    embedded.stop(tmp_path)


def test_kill_9_right_after_up(tmp_path: Path) -> None:
    if embedded.wanted() != "anvil":
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
