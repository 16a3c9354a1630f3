"""medprov_sdk.links and export against the real contracts, in the Python EVM."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from web3 import EthereumTesterProvider, Web3

from medprov_ledger import cid, eip712, manifest, proof_file
from medprov_ledger.chain import Chain, transact
from medprov_ledger.checkpoint import Anchored
from medprov_ledger.config import Config, StoreConfig, TrustConfig
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.federation import Federation
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry
from medprov_ledger.store import BlockStore
from medprov_ledger.titles import Claim, Reason, Titles
from medprov_sdk import export
from medprov_sdk.errors import SdkError
from medprov_sdk.ledger_view import LedgerView
from medprov_sdk.links import ChainChronicle, Links
from medprov_sdk.offline import Home, ProofView, trust
from medprov_sdk.verdict import Basis


@dataclass
class Consortium:
    """Contracts with two members, and a view of them."""

    chain: Chain
    view: LedgerView
    store: BlockStore
    a: Any
    b: Any
    newcomer: Any

    def record(self, account: Any, text: bytes = b"evidence") -> Record:
        hashes = [os.urandom(32) for _ in range(4)]
        return Record(*hashes, self.store.put(text), "", account.address, b"m" * 32, 1_700_000_000)

    def anchor(self, account: Any, *records: Record) -> Any:
        signed = [manifest.SignedRecord(r, eip712.sign_record(r, self.view.domain, account)) for r in records]
        batch = manifest.build(signed, self.view.domain)
        name = self.store.put(batch.to_bytes())
        return Registry(self.chain).anchor_batch(batch.root, len(records), name, account), batch


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    tester = Web3(EthereumTesterProvider())
    deployer = Account.from_key((1).to_bytes(32, "big"))
    people = [Account.create() for _ in range(3)]
    for account in people:
        transact(tester, {"to": account.address, "value": Web3.to_wei(1000, "ether")}, deployer)
    a, b, newcomer = people
    founders = [Founder(one.address, f"hospital {n}", bytes([n + 1]) * 32) for n, one in enumerate((a, b))]
    deployed = deploy(tester, deployer, b"f" * 32, founders, 1)
    config = Config(
        path=tmp_path / "medprov.toml",
        federation_id=b"f" * 32,
        federation_name="test",
        rpc="http://127.0.0.1:8545",
        chain_id=tester.eth.chain_id,
        federation_address=deployed.federation,
        registry_address=deployed.registry,
        confirmations=1,
        timeout=10.0,
        store=StoreConfig("blocks", path=tmp_path / "blocks"),
        discoverable=False,
        directory_key=None,
        trust=TrustConfig((a.address, b.address), 2),
    )
    chain = Chain(config, tester)
    links = Links(Registry(chain), Federation(chain), Titles(chain), ChainChronicle(chain))
    view = LedgerView(config, ":memory:", lambda _: links)
    return Consortium(chain, view, BlockStore(tmp_path / "blocks"), a, b, newcomer)


def test_a_record_is_exported_and_pinned_by_what_members_signed(consortium: Consortium, tmp_path: Path) -> None:
    c = consortium
    record = c.record(c.a)
    receipt, batch = c.anchor(c.a, record, c.record(c.a))
    found, title = export.find(c.view, record.leaf(c.view.domain))
    made, missing = export.proof(c.view, found, title)
    assert missing == "" and proof_file.parse(made.to_bytes()) == made
    stated = made.anchor
    assert (stated.block, stated.time) == (receipt.block, receipt.time)
    assert stated.transaction is not None and "0x" + stated.transaction.hex() == receipt.tx_hash
    assert stated.block_hash == bytes(c.chain.w3.eth.get_block(receipt.block)["hash"])
    assert stated.members == tuple(sorted((c.a.address, c.b.address)))
    assert made.evidence == b"evidence"
    known = export.checkpoint(c.view).sign(c.a).sign(c.b)
    assert known.anchors == (Anchored(receipt.block, c.a.address, batch.root, receipt.time),)
    file = tmp_path / "checkpoint.json"
    file.write_bytes(known.to_bytes())
    home = Home.of(c.view.config)
    (view_of,) = ProofView(made, home, trust(home, files=[file])).find(record.key, b"x" * 32)
    assert (view_of.basis, view_of.claim.block) == (Basis.CHECKPOINT, receipt.block)


def test_members_are_those_at_the_end_of_the_block(consortium: Consortium) -> None:
    c = consortium
    record = c.record(c.a)
    before, _ = c.anchor(c.a, record)
    federation = Federation(c.chain)
    federation.offer_key(c.newcomer.address, c.a)
    after = federation.accept_key(c.a.address, c.newcomer)
    chronicle = ChainChronicle(c.chain)
    assert chronicle.members_at(before.block) == tuple(sorted((c.a.address, c.b.address)))
    assert chronicle.members_at(after.block) == tuple(sorted((c.newcomer.address, c.b.address)))
    found, _ = export.find(c.view, record.leaf(c.view.domain))
    assert (found.record.owner, found.member) == (c.a.address, c.newcomer.address)


def test_revocations_come_with_the_checkpoint(consortium: Consortium) -> None:
    c = consortium
    record = c.record(c.a)
    receipt, batch = c.anchor(c.a, record, c.record(c.a))
    leaf = record.leaf(c.view.domain)
    proof = batch.tree.proofs[batch.leaves.index(leaf)]
    gone = Titles(c.chain).revoke(Claim(record, batch.root, proof), Reason.ERRONEOUS, c.a)
    assert export.checkpoint(c.view).revoked == (leaf,)
    assert export.checkpoint(c.view, receipt.block).revoked == ()
    export.confirm(c.view, export.checkpoint(c.view, gone.block))
    found, title = export.find(c.view, leaf)
    with pytest.raises(SdkError, match="was revoked"):
        export.proof(c.view, found, title)


def test_a_single_registration_is_exported_and_pinned(consortium: Consortium) -> None:
    c = consortium
    record = c.record(c.b, b"other")
    receipt = Registry(c.chain).register(record, c.b)
    leaf = record.leaf(c.view.domain)
    found, title = export.find(c.view, leaf)
    made, _ = export.proof(c.view, found, title)
    assert made.batch is None and made.anchor.block == receipt.block and made.evidence == b"other"
    assert export.checkpoint(c.view).anchor(c.b.address, leaf) is not None
    assert cid.of(b"other") == record.evidence_cid
