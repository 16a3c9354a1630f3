"""A hospital that lies, and a stranger: refused by the contracts on a real chain, or by index and verifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from numpy.typing import NDArray
from web3 import Web3

from medprov_ledger import cid, eip712, embedded, evidence, manifest, merkle, sealing
from medprov_ledger.chain import Chain, transact
from medprov_ledger.config import Config, StoreConfig
from medprov_ledger.deploy import Deployment, Founder, deploy
from medprov_ledger.embedded import DEVELOPMENT_KEY
from medprov_ledger.errors import ContractAbsentError, RecordError, RevertedError, WrongChainError
from medprov_ledger.federation import Federation, Kind
from medprov_ledger.index import Entry, RecordIndex
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, BatchOrder, Registry
from medprov_ledger.store import BlockStore
from medprov_ledger.titles import Claim, Reason, Titles
from medprov_sdk.ledger_view import LedgerView
from medprov_sdk.verdict import Reason as Why
from medprov_sdk.verdict import Verdict
from medprov_sdk.verification import Verification
from medprov_sdk.verifier import Verifier
from medprov_watermark import features
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import Payload, commitment
from medprov_watermark.watermarker import Integrity
from tests.unit.sdk.conftest import NOTHING, Reader, phantom

RICH = Account.from_key(DEVELOPMENT_KEY)
SOON = 4_000_000_000
CID = cid.of(b"evidence")
MODEL = b"m" * 32
YEARS_AGO = 1_000_000_000


def refused(error: str, action: Callable[[], object]) -> None:
    with pytest.raises(RevertedError) as caught:
        action()
    assert caught.value.error == error


@dataclass(frozen=True)
class Town:
    """A chain in a process of its own, three hospitals with a store, and a stranger with money."""

    config: Config
    chain: Chain
    store: BlockStore
    members: tuple[LocalAccount, LocalAccount, LocalAccount]
    stranger: LocalAccount

    @property
    def registry(self) -> Registry:
        return Registry(self.chain)

    @property
    def federation(self) -> Federation:
        return Federation(self.chain)

    @property
    def titles(self) -> Titles:
        return Titles(self.chain)

    @property
    def domain(self) -> eip712.Domain:
        return eip712.domain(self.config.chain_id, self.config.registry_address)

    def build(self, account: LocalAccount, *records: Record) -> Manifest:
        signed = [SignedRecord(one, eip712.sign_record(one, self.domain, account)) for one in records]
        return manifest.build(signed, self.domain)

    def anchor(self, account: LocalAccount, root: bytes, count: int, batch: Manifest) -> str:
        """Anchor whatever the account says; gives the manifest's CID."""
        name = self.store.put(batch.to_bytes())
        self.registry.anchor_batch(root, count, name, account)
        return name

    def release(self, account: LocalAccount, *records: Record) -> Manifest:
        """What an honest hospital does."""
        batch = self.build(account, *records)
        self.anchor(account, batch.root, len(records), batch)
        return batch

    def index(self) -> tuple[RecordIndex, dict[str, str]]:
        """A new index, and why batches are not in it, by their manifests."""
        made = RecordIndex(":memory:", self.domain)
        report = made.sync(self.registry, self.federation, self.store)
        assert all(problem.state == "bad" for problem in report.problems)
        return made, {problem.cid: problem.reason for problem in report.problems}

    def verify(self, image: NDArray[Any], payload: Payload, integrity: Integrity = NOTHING) -> Verification:
        """What a verifier says whose extractor reads this payload and seal."""
        reader = Reader()
        reader.say(image, payload, integrity)
        return Verifier(reader, LedgerView(self.config, ":memory:")).verify(image)

    def seal(self, image: NDArray[Any], account: LocalAccount, payload: Payload) -> Integrity:
        """An intact seal, signed by the account."""
        mark = ImageMark(1, MODEL, commitment(payload), content_hash(image)[::-1], b"c" * 32, b"r" * 32)
        return Integrity("intact", mark, eip712.sign_image_mark(mark, self.domain, account), payload)

    def picture(self, account: LocalAccount, seed: int, **changes: Any) -> tuple[NDArray[Any], Payload, Record]:
        """A picture, the payload in it, and a record of both with evidence that opens."""
        image, payload = phantom(seed), Payload(seed.to_bytes(8, "big"), b"seri")
        keys = sealing.payload_keys(payload.data, self.config.federation_id)
        height, width = image.shape
        proof = evidence.Evidence(
            height=height,
            width=width,
            channels=1,
            bits=8,
            block=features.BLOCK,
            grid=features.exact_grid(image),
            features=features.ordinal_features(image),
            feature_version=features.VERSION,
            attribute_macs={},
        )
        record = Record(
            key=keys.record_key,
            cover_hash=b"c" * 32,
            marked_hash=content_hash(image)[::-1],
            released_hash=content_hash(image),
            evidence_cid=self.store.put(evidence.seal(proof, keys, b"n" * 12)),
            bundle_cid="",
            owner=account.address,
            model=MODEL,
            time=1_700_000_000,
        )
        return image, payload, replace(record, **changes)


def some_record(owner: str, **changes: Any) -> Record:
    values = {name: os.urandom(32) for name in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
    values |= {"evidence_cid": CID, "bundle_cid": "", "owner": owner, "time": 1_800_000_000}
    return Record(**(values | changes))


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Anvil where Node is there, else the Python EVM; in either case a process."""
    folder = tmp_path_factory.mktemp("chain")
    yield embedded.start(folder).rpc
    embedded.stop(folder)


@pytest.fixture
def town(rpc: str, tmp_path: Path) -> Town:
    w3 = Web3(Web3.HTTPProvider(rpc))
    people = [Account.create() for _ in range(4)]
    for one in people:
        transact(w3, {"to": one.address, "value": Web3.to_wei(1, "ether")}, RICH)
    return found(w3, rpc, tmp_path, people)


def found(w3: Web3, rpc: str, folder: Path, people: list[LocalAccount]) -> Town:
    """A new federation of the first three."""
    federation_id = os.urandom(32)
    founders = [Founder(one.address, f"h{i}", bytes([i + 1]) * 32) for i, one in enumerate(people[:3])]
    made = deploy(w3, RICH, federation_id, founders, 2)
    config = config_of(rpc, folder, federation_id, made)
    a, b, c, stranger = people
    return Town(config, Chain.connect(config), BlockStore(folder / "blocks"), (a, b, c), stranger)


def config_of(rpc: str, folder: Path, federation_id: bytes, made: Deployment) -> Config:
    return Config(
        path=folder / "medprov.toml",
        federation_id=federation_id,
        federation_name="town",
        rpc=rpc,
        chain_id=embedded.CHAIN_ID,
        federation_address=made.federation,
        registry_address=made.registry,
        confirmations=1,
        timeout=30.0,
        store=StoreConfig("blocks", path=folder / "blocks"),
        discoverable=False,
        directory_key=None,
    )


# A dishonest hospital.


def test_a_manifest_that_does_not_match_its_root(town: Town) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(b, 1)
    honest = town.release(a, some_record(a.address))
    batch = town.build(b, record, some_record(b.address))
    other = town.anchor(b, os.urandom(32), 2, batch)
    fewer = town.anchor(b, batch.root, 3, batch)
    index, reasons = town.index()
    assert len(index) == 1
    assert index.by_leaf(honest.leaves[0])
    assert "do not give the anchored root" in reasons[other] or other == fewer
    assert len(reasons) == 1 or "the anchor says 3" in reasons[fewer]
    result = town.verify(image, payload, town.seal(image, b, payload))
    assert (result.verdict, result.record) == (Verdict.UNVERIFIABLE, None)


def test_another_s_record_in_one_s_own_batch(town: Town) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(a, 2)
    signed = SignedRecord(record, eip712.sign_record(record, town.domain, a))
    # b has seen a's record and signature, and is the first to anchor them
    root = merkle.root([record.leaf(town.domain)])
    copied = town.anchor(b, root, 1, Manifest(town.domain, root, (signed,), None))
    renamed = replace(record, owner=b.address)
    root = merkle.root([renamed.leaf(town.domain)])
    forged = town.anchor(b, root, 1, Manifest(town.domain, root, (SignedRecord(renamed, signed.signature),), None))
    index, reasons = town.index()
    assert len(index) == 0
    assert "the batch to" in reasons[copied]
    assert "not by its owner" in reasons[forged]
    refused("Unproved", lambda: town.titles.revoke(Claim(record, root), Reason.OTHER, b))
    town.release(a, record)
    result = town.verify(image, payload, town.seal(image, a, payload))
    assert (result.verdict, result.owner) == (Verdict.AUTHENTIC, a.address)
    assert [claim.owner for claim in result.claims] == [a.address]


def test_one_s_own_record_of_another_s_image_in_a_batch(town: Town) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(a, 3)
    town.release(a, record)
    claimed = replace(record, owner=b.address, cover_hash=b"d" * 32)
    town.release(b, claimed)
    index, reasons = town.index()
    assert reasons == {}
    assert [entry.record.owner for entry in index.by_released_hash(record.released_hash)] == [a.address, b.address]
    # a's seal settles it for the released picture; of a copy without a seal the earlier anchor is named
    result = town.verify(image, payload, town.seal(image, a, payload))
    assert (result.verdict, result.owner) == (Verdict.AUTHENTIC, a.address)
    result = town.verify(image, payload)
    assert (result.verdict, result.owner) == (Verdict.CONFLICTING_CLAIMS, a.address)


def test_registering_another_s_released_image(town: Town) -> None:
    a, b, _ = town.members
    record = some_record(a.address)
    refused("NotOwner", lambda: town.registry.register(record, b))
    town.registry.register(record, a)
    stolen = replace(record, owner=b.address, key=os.urandom(32))
    refused("AlreadyRegistered", lambda: town.registry.register(stolen, b))
    leave = eip712.sign_registration(stolen, SOON, town.domain, b)
    refused("AlreadyRegistered", lambda: town.registry.register_for(stolen, SOON, leave, town.stranger))
    assert [one.record for one in town.registry.registrations()] == [record]


@pytest.mark.parametrize("batched", [True, False])
def test_a_backdated_record_is_no_earlier(town: Town, batched: bool) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(a, 4)
    batch = town.release(a, record)
    late = replace(record, owner=b.address, time=YEARS_AGO, released_hash=os.urandom(32))
    if batched:
        other = town.release(b, late)
        theirs = Claim(late, other.root, other.tree.proofs[0])
    else:
        town.registry.register(late, b)
        theirs = Claim(late)
    result = town.verify(image, payload)
    assert (result.verdict, result.owner) == (Verdict.CONFLICTING_CLAIMS, a.address)
    assert [claim.owner for claim in result.claims] == [a.address, b.address]
    assert all(claim.time > YEARS_AGO * 1.5 for claim in result.claims), "the block's time counts"
    mine = Claim(record, batch.root, batch.tree.proofs[0])
    refused("NotEarlier", lambda: town.titles.dispute(theirs, mine, b))
    town.titles.dispute(mine, theirs, a)
    assert town.titles.title(late.leaf(town.domain), b.address).contested_by == record.leaf(town.domain)


def test_a_seal_that_does_not_belong_to_the_record(town: Town) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(a, 5)
    town.release(a, record)
    result = town.verify(image, payload, town.seal(image, b, payload))
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Why.RECORD_MISMATCH)
    result = town.verify(image, payload, town.seal(image, town.stranger, payload))
    assert result.verdict is Verdict.UNVERIFIABLE
    # sealed by a, but not what a has recorded
    other = town.picture(a, 6, marked_hash=b"x" * 32)
    town.release(a, other[2])
    result = town.verify(other[0], other[1], town.seal(other[0], a, other[1]))
    assert (result.verdict, result.reason) == (Verdict.UNVERIFIABLE, Why.RECORD_MISMATCH)


def test_an_index_that_lies_proves_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = town.members
    image, payload, record = town.picture(a, 7)
    batch = town.build(a, record, some_record(a.address))
    seal = town.seal(image, a, payload)
    anchor = Anchor(batch.root, a.address, 1, 1_700_000_000, 2, CID)
    entry = Entry(record, batch.records[0].signature, batch.leaves[0], batch.tree.proofs[0], batch.root, anchor)
    told: list[Entry] = [entry]
    monkeypatch.setattr(RecordIndex, "by_released_hash", lambda *_: list(told))
    monkeypatch.setattr(RecordIndex, "by_key", lambda *_: [])
    assert town.verify(image, payload, seal).record is None, "never anchored"
    town.anchor(a, batch.root, 2, batch)
    assert town.verify(image, payload, seal).verdict is Verdict.AUTHENTIC
    stolen = replace(record, owner=b.address)
    for lie in (
        replace(entry, proof=batch.tree.proofs[1]),
        replace(entry, signature=batch.records[1].signature),
        replace(entry, record=replace(record, time=5), signature=resigned(town, a, record, 5)),
        replace(entry, record=stolen, signature=eip712.sign_record(stolen, town.domain, b)),
    ):
        told[:] = [lie]
        result = town.verify(image, payload, seal)
        assert (result.verdict, result.record) == (Verdict.UNVERIFIABLE, None)


def resigned(town: Town, account: LocalAccount, record: Record, time: int) -> bytes:
    return eip712.sign_record(replace(record, time=time), town.domain, account)


def test_a_replayed_signature(town: Town, rpc: str, tmp_path: Path) -> None:
    a, payer = town.members[0], town.stranger
    record, root, here = some_record(a.address), os.urandom(32), town.domain
    # the same members elsewhere: what they signed there is no leave here, and the other way round
    twin = found(town.chain.w3, rpc, tmp_path / "twin", [*town.members, payer])
    elsewhere = eip712.domain(1, here.registry)
    for domain in (twin.domain, elsewhere):
        leave = eip712.sign_registration(record, SOON, domain, a)
        refused("BadSignature", lambda leave=leave: town.registry.register_for(record, SOON, leave, payer))  # type: ignore[misc]
        order = BatchOrder(a.address, root, 5, CID, SOON, eip712.sign_batch(root, 5, CID, SOON, domain, a))
        refused("BadSignature", lambda order=order: town.registry.anchor_batch_for(order, payer))  # type: ignore[misc]
    now = int(town.chain.w3.eth.get_block("latest")["timestamp"])
    past = now - 1
    stale = eip712.sign_registration(record, past, here, a)
    refused("Expired", lambda: town.registry.register_for(record, past, stale, payer))
    order = BatchOrder(a.address, root, 5, CID, past, eip712.sign_batch(root, 5, CID, past, here, a))
    refused("Expired", lambda: town.registry.anchor_batch_for(order, payer))
    refused("BadSignature", lambda: town.registry.anchor_batch_for(replace(order, deadline=SOON), payer))
    leave = eip712.sign_registration(record, SOON, here, a)
    town.registry.register_for(record, SOON, leave, payer)
    refused("AlreadyRegistered", lambda: town.registry.register_for(record, SOON, leave, a))
    order = BatchOrder(a.address, root, 5, CID, SOON, eip712.sign_batch(root, 5, CID, SOON, here, a))
    town.registry.anchor_batch_for(order, payer)
    refused("RootAlreadyAnchored", lambda: town.registry.anchor_batch_for(order, a))
    refused("BadSignature", lambda: town.registry.anchor_batch_for(replace(order, count=6), payer))
    # the other form of the same signature (EIP-2) is none
    order_of_the_curve = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    other = some_record(a.address)
    leave = eip712.sign_registration(other, SOON, here, a)
    s = order_of_the_curve - int.from_bytes(leave[32:64], "big")
    second = leave[:32] + s.to_bytes(32, "big") + bytes([55 - leave[64]])
    refused("BadSignature", lambda: town.registry.register_for(other, SOON, second, payer))


def test_a_manifest_that_was_signed_for_another_registry(town: Town, rpc: str, tmp_path: Path) -> None:
    a = town.members[0]
    twin = found(town.chain.w3, rpc, tmp_path / "twin", [*town.members, town.stranger])
    record = some_record(a.address)
    foreign = twin.build(a, record)
    whole = town.anchor(a, foreign.root, 1, foreign)
    signature = foreign.records[0].signature
    root = merkle.root([record.leaf(town.domain)])
    replayed = town.anchor(a, root, 1, Manifest(town.domain, root, (SignedRecord(record, signature),), None))
    index, reasons = town.index()
    assert len(index) == 0
    assert "not for this one" in reasons[whole]
    assert "not by its owner" in reasons[replayed]


def test_a_proof_of_another_leaf(town: Town) -> None:
    a = town.members[0]
    records = [some_record(a.address) for _ in range(5)]
    batch = town.release(a, *records)
    for position, record in enumerate(records):
        leaf = record.leaf(town.domain)
        for other, proof in enumerate(batch.tree.proofs):
            fits = position == other
            assert merkle.verify(batch.root, leaf, proof) is fits
            assert town.registry.verify(a.address, batch.root, leaf, list(proof)) is fits
    claim = Claim(records[0], batch.root, batch.tree.proofs[1])
    refused("Unproved", lambda: town.titles.revoke(claim, Reason.OTHER, a))
    never = some_record(a.address)
    refused("Unproved", lambda: town.titles.revoke(Claim(never, batch.root, batch.tree.proofs[0]), Reason.OTHER, a))


def test_an_inner_node_is_no_leaf(town: Town) -> None:
    a = town.members[0]
    leaves = [os.urandom(32) for _ in range(4)]
    tree = merkle.tree(leaves)
    town.registry.anchor_batch(tree.root, 4, CID, a)
    for place, leaf in enumerate(leaves):
        sibling, uncle = tree.proofs[place]
        bottom = merkle.leaf_hash(leaf)
        inner = merkle.keccak256(b"".join(sorted((bottom, sibling))))
        assert merkle.keccak256(b"".join(sorted((inner, uncle)))) == tree.root
        # each inner node is right where it stands, with the right rest of the way, and yet nobody's record
        attempts = [
            (inner, [uncle]),
            (bottom, [sibling, uncle]),
            (tree.root, []),
            (merkle.keccak256(leaf), [sibling, uncle]),
        ]
        for node, rest in attempts:
            assert not merkle.verify(tree.root, node, rest)
            assert not town.registry.verify(a.address, tree.root, node, rest)
    with pytest.raises(RecordError, match="not 32 bytes"):
        merkle.tree([leaves[0] + leaves[1]])


# A stranger, and who is no longer a member.


def everything(town: Town, account: LocalAccount) -> dict[str, Callable[[], object]]:
    """Every way to write."""
    record, claim = some_record(account.address), Claim(some_record(account.address))
    registry, federation, titles, word = town.registry, town.federation, town.titles, os.urandom(32)
    leave = eip712.sign_registration(record, SOON, town.domain, account)
    order = BatchOrder(account.address, word, 1, CID, SOON, eip712.sign_batch(word, 1, CID, SOON, town.domain, account))
    return {
        "anchorBatch": lambda: registry.anchor_batch(word, 1, CID, account),
        "anchorBatchFor": lambda: registry.anchor_batch_for(order, town.members[0]),
        "register": lambda: registry.register(record, account),
        "registerFor": lambda: registry.register_for(record, SOON, leave, town.members[0]),
        "offerTransfer": lambda: titles.offer(claim, town.members[0].address, account),
        "acceptTransfer": lambda: titles.accept(word, account),
        "grantLicence": lambda: titles.license(claim, account.address, SOON, word, account),
        "withdrawLicence": lambda: titles.withdraw_licence(word, account.address, account),
        "revoke": lambda: titles.revoke(claim, Reason.OTHER, account),
        "dispute": lambda: titles.dispute(claim, claim, account),
        "vote": lambda: federation.vote(Kind.SUSPEND, town.members[0].address, b"", account),
        "setReaderKey": lambda: federation.set_reader_key(word, account),
        "offerKey": lambda: federation.offer_key(Account.create().address, account),
        "anchorRound": lambda: federation.anchor_round(1, word, CID, word, word, account),
        "releaseModel": lambda: federation.release_model(word, CID, account),
    }


def test_the_list_of_ways_to_write_is_complete(town: Town) -> None:
    abi = [*town.chain.federation.abi, *town.chain.registry.abi]
    writing = {
        entry["name"]
        for entry in abi
        if entry["type"] == "function" and entry["stateMutability"] not in ("view", "pure")
    }
    assert writing == {*everything(town, town.stranger), "acceptKey"}


def test_a_stranger_writes_nothing(town: Town) -> None:
    for attempt in everything(town, town.stranger).values():
        refused("NotMember", attempt)
    refused("NotOffered", lambda: town.federation.accept_key(town.members[0].address, town.stranger))
    assert town.registry.anchors() == []
    assert town.registry.registrations() == []


@pytest.mark.parametrize("way", ["suspend", "leave", "rotate"])
def test_who_is_no_longer_a_member_writes_nothing(town: Town, way: str) -> None:
    a, b, c = town.members
    town.federation.set_threshold(2, a)
    before = town.release(c, some_record(c.address))
    for voter in (a, b):
        if way == "rotate":
            town.federation.replace_key(c.address, town.stranger.address, voter)
        else:
            getattr(town.federation, way)(c.address, voter)
    for attempt in everything(town, c).values():
        refused("NotMember", attempt)
    index, reasons = town.index()
    assert reasons == {}
    assert index.by_leaf(before.leaves[0]), "what it anchored as a member stands"


# Another contract.


def test_the_contract_at_the_address_is_another_one(town: Town, rpc: str, tmp_path: Path) -> None:
    twin = found(town.chain.w3, rpc, tmp_path / "twin", [*town.members, town.stranger])
    config, other = town.config, twin.config
    wrong: dict[str, tuple[type[Exception], Config]] = {
        "another federation's registry": (
            WrongChainError,
            replace(config, registry_address=other.registry_address),
        ),
        "another federation": (WrongChainError, replace(config, federation_address=other.federation_address)),
        "another id": (WrongChainError, replace(config, federation_id=other.federation_id)),
        "the federation as registry": (
            ContractAbsentError,
            replace(config, registry_address=config.federation_address),
        ),
        "a person as registry": (ContractAbsentError, replace(config, registry_address=town.stranger.address)),
        "another chain": (WrongChainError, replace(config, chain_id=1)),
    }
    for what, (error, changed) in wrong.items():
        with pytest.raises(error) as caught:
            Chain.connect(changed)
        assert "\n" not in str(caught.value), what
        with pytest.raises(error):
            Verifier(Reader(), LedgerView(changed, ":memory:")).verify(np.zeros((64, 64), np.uint8))
