"""What becomes of records, relayed writing and rotated keys: the same on every chain, reads included."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from eth_account import Account
from web3 import Web3

from medprov_ledger import cid, eip712, merkle
from medprov_ledger.chain import Chain, connect_http, transact
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.errors import RevertedError
from medprov_ledger.federation import Federation, Status
from medprov_ledger.record import Record
from medprov_ledger.registry import BatchOrder, Registry
from medprov_ledger.titles import Claim, Reason, Titles
from tests.integration.test_chains import RICH, Node, config_of
from tests.integration.test_chains import node as node

CID = cid.of(b"evidence")
SOON = 4_000_000_000


def refused(error: str, action: Callable[[], object]) -> None:
    with pytest.raises(RevertedError) as caught:
        action()
    assert caught.value.error == error


def record_of(owner: str, **changes: bytes) -> Record:
    values = {name: os.urandom(32) for name in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
    return Record(evidence_cid=CID, bundle_cid=CID, owner=owner, time=1_800_000_000, **(values | changes))  # type: ignore[arg-type]


def test_titles_relays_and_rotations(node: Node) -> None:
    w3 = connect_http(node.rpc, 30.0)
    a, b, c, following, payer = (Account.create() for _ in range(5))
    federation_id = os.urandom(32)
    founders = [Founder(one.address, f"h{i}", bytes([i + 1]) * 32) for i, one in enumerate((a, b, c))]
    made = deploy(w3, RICH, federation_id, founders, 2)
    for account in (a, b, c, following, payer):
        transact(w3, {"to": account.address, "value": Web3.to_wei(1, "ether")}, RICH)
    chain = Chain.connect(config_of(node.rpc, federation_id, made.federation, made.registry))
    federation, registry, titles = Federation(chain), Registry(chain), Titles(chain)
    domain = eip712.domain(31337, registry.address)

    # a batch and a single record, written for a by somebody who is no member
    record, single = record_of(a.address), record_of(a.address)
    leaf = record.leaf(domain)
    tree = merkle.tree([leaf, *(os.urandom(32) for _ in range(6))])
    order = BatchOrder(a.address, tree.root, 7, CID, SOON, eip712.sign_batch(tree.root, 7, CID, SOON, domain, a))
    registry.anchor_batch_for(order, payer)
    anchor = registry.anchor(a.address, tree.root)
    assert anchor is not None
    assert (anchor.owner, anchor.count, anchor.cid) == (a.address, 7, CID)
    assert registry.anchor(payer.address, tree.root) is None
    leave = eip712.sign_registration(single, SOON, domain, a)
    registry.register_for(single, SOON, leave, payer)
    assert [one.record for one in registry.registrations()] == [single]
    assert registry.record_of(single.released_hash) == single.leaf(domain)
    refused("RootAlreadyAnchored", lambda: registry.anchor_batch_for(order, payer))
    refused("AlreadyRegistered", lambda: registry.register_for(single, SOON, leave, payer))
    refused("BadSignature", lambda: registry.register_for(record, SOON, leave, payer))
    refused("Expired", lambda: registry.register_for(record, 5, eip712.sign_registration(record, 5, domain, a), payer))

    # offer, licence, dispute: structs, enums and 32-byte words come back
    claim = Claim(record, tree.root, tree.proofs[0])
    fresh = titles.title(leaf, a.address)
    assert (fresh.owner, fresh.offered, fresh.revoked, fresh.reason, fresh.contested_by) == (
        a.address, None, None, Reason.NONE, None,
    )  # fmt: skip
    titles.offer(claim, b.address, a)
    assert titles.title(leaf, a.address).offered == b.address
    refused("NotOffered", lambda: titles.accept(leaf, c))
    titles.license(claim, payer.address, SOON, b"t" * 32, a)
    licence = titles.licence(leaf, payer.address)
    assert licence is not None
    assert (licence.licensee, licence.expires, licence.terms, licence.valid) == (payer.address, SOON, b"t" * 32, True)
    later = record_of(c.address, marked_hash=record.marked_hash)
    registry.register(later, c)
    titles.dispute(claim, Claim(later), a)
    assert titles.title(later.leaf(domain), c.address).contested_by == leaf
    refused("NotEarlier", lambda: titles.dispute(Claim(later), claim, c))
    refused("Unproved", lambda: titles.offer(Claim(record, tree.root, tree.proofs[1]), b.address, a))

    # a goes on with another key: reads lead to it, and the history stays
    before = federation.offer_key(following.address, a).block
    changed = federation.accept_key(a.address, following).block
    former, present = federation.member(a.address), federation.member(following.address)
    assert former is not None
    assert present is not None
    assert (former.status, present.status) == (Status.ROTATED, Status.ACTIVE)
    assert (present.name_hash, present.reader_key, present.joined_block) == (
        former.name_hash, former.reader_key, changed,
    )  # fmt: skip
    assert federation.current_of(a.address) == following.address
    assert federation.is_member(a.address, before)
    assert not federation.is_member(a.address, changed)
    assert titles.title(leaf, a.address).owner == following.address
    refused("NotMember", lambda: titles.offer(claim, c.address, a))
    lost = Account.create().address
    federation.replace_key(c.address, lost, b)
    federation.replace_key(c.address, lost, following)
    assert titles.title(later.leaf(domain), c.address).owner == lost

    # acceptance, revocation, pause
    titles.accept(leaf, b)
    assert titles.title(leaf, a.address).owner == b.address
    titles.withdraw_licence(leaf, payer.address, b)
    assert titles.licence(leaf, payer.address) is None
    titles.license(claim, payer.address, SOON, bytes(32), b)
    receipt = titles.revoke(claim, Reason.CONSENT_WITHDRAWN, b, b"n" * 32)
    found = titles.title(leaf, a.address)
    assert (found.revoked, found.reason) == (receipt.time, Reason.CONSENT_WITHDRAWN)
    ended = titles.licence(leaf, payer.address)
    assert ended is not None
    assert not ended.valid
    federation.pause(b)
    federation.pause(following)
    assert federation.paused()
    refused("Paused", lambda: registry.register(record_of(b.address), b))
