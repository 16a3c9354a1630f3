"""medprov_ledger.titles and what the registry does with it; contracts/test has the contract's own tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from eth_account import Account
from web3 import Web3

from medprov_ledger import cid, eip712, merkle
from medprov_ledger.chain import Chain, transact
from medprov_ledger.errors import RecordError, RevertedError
from medprov_ledger.federation import Federation, Status
from medprov_ledger.record import Record
from medprov_ledger.registry import BatchOrder, Registry
from medprov_ledger.titles import Claim, Reason, Titles

SOON = 4_000_000_000


def refused(error: str, action: Callable[[], object]) -> None:
    with pytest.raises(RevertedError) as caught:
        action()
    assert caught.value.error == error


def record(owner: str, **changes: Any) -> Record:
    values = {name: os.urandom(32) for name in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
    values |= {"evidence_cid": cid.of(b"evidence"), "bundle_cid": "", "owner": owner, "time": 1_800_000_000}
    return Record(**(values | changes))


def batched(chain: Chain, account: Any, some: Record) -> tuple[Claim, bytes]:
    """A record in a batch of three that `account` has anchored, and its id."""
    domain = eip712.domain(chain.config.chain_id, str(chain.registry.address))
    leaves = [eip712.record_digest(one, domain) for one in (record(account.address), some, record(account.address))]
    tree = merkle.tree(leaves)
    Registry(chain).anchor_batch(tree.root, 3, "bafy", account)
    return Claim(some, tree.root, tree.proofs[1]), leaves[1]


def test_a_batched_record_changes_hands_in_two_steps(chain: Chain, people: Any) -> None:
    titles, (a, b, c) = Titles(chain), people.members
    claim, record_id = batched(chain, a, record(a.address))
    fresh = titles.title(record_id, a.address)
    assert (fresh.owner, fresh.offered, fresh.revoked, fresh.reason) == (a.address, None, None, Reason.NONE)
    refused("NotTitleOwner", lambda: titles.offer(claim, c.address, b))
    titles.offer(claim, b.address.lower(), a)
    assert titles.title(record_id, a.address).offered == b.address
    refused("NotOffered", lambda: titles.accept(record_id, c))
    titles.accept(record_id, b)
    assert titles.title(record_id, a.address).owner == b.address
    titles.offer(claim, c.address, b)
    titles.offer(claim, None, b)
    refused("NotOffered", lambda: titles.accept(record_id, c))


def test_a_record_is_revoked_for_good(chain: Chain, people: Any) -> None:
    titles, (a, b, _) = Titles(chain), people.members
    some = record(a.address)
    Registry(chain).register(some, a)
    record_id = Registry(chain).record_id(some)
    refused("NoReason", lambda: titles.revoke(Claim(some), Reason.NONE, a))
    receipt = titles.revoke(Claim(some), Reason.CONSENT_WITHDRAWN, a)
    found = titles.title(record_id, a.address)
    assert (found.revoked, found.reason) == (receipt.time, Reason.CONSENT_WITHDRAWN)
    refused("Revoked", lambda: titles.offer(Claim(some), b.address, a))


def test_licences_are_granted_and_taken_back(chain: Chain, people: Any) -> None:
    titles, a = Titles(chain), people.members[0]
    claim, record_id = batched(chain, a, record(a.address))
    assert titles.licence(record_id, people.stranger.address) is None
    titles.license(claim, people.stranger.address, SOON, b"t" * 32, a)
    found = titles.licence(record_id, people.stranger.address)
    assert found is not None
    assert (found.expires, found.terms, found.valid) == (SOON, b"t" * 32, True)
    refused("BadExpiry", lambda: titles.license(claim, people.stranger.address, 1, bytes(32), a))
    titles.withdraw_licence(record_id, people.stranger.address, a)
    assert titles.licence(record_id, people.stranger.address) is None
    refused("NoLicence", lambda: titles.withdraw_licence(record_id, people.stranger.address, a))


def test_the_earlier_record_contests_the_later(chain: Chain, people: Any) -> None:
    titles, (a, b, _) = Titles(chain), people.members
    first, mine = batched(chain, a, record(a.address))
    second, theirs = batched(chain, b, record(b.address, key=first.record.key))
    refused("NotEarlier", lambda: titles.dispute(second, first, b))
    titles.dispute(first, second, a)
    assert titles.title(theirs, b.address).contested_by == mine
    assert titles.title(mine, a.address).contested_by is None


def test_what_was_never_anchored_has_no_title(chain: Chain, people: Any) -> None:
    a, b, _ = people.members
    claim, _ = batched(chain, b, record(a.address))
    refused("Unproved", lambda: Titles(chain).revoke(claim, Reason.OTHER, a))
    refused("Unproved", lambda: Titles(chain).revoke(Claim(record(a.address)), Reason.OTHER, a))


def test_a_stranger_pays_for_a_member(chain: Chain, people: Any) -> None:
    registry, a = Registry(chain), people.members[0]
    domain = eip712.domain(chain.config.chain_id, registry.address)
    some = record(a.address)
    signature = eip712.sign_registration(some, SOON, domain, a)
    refused("BadSignature", lambda: registry.register_for(some, SOON - 1, signature, people.stranger))
    own = eip712.sign_record(some, domain, a)
    refused("BadSignature", lambda: registry.register_for(some, SOON, own, people.stranger))
    registry.register_for(some, SOON, signature, people.stranger)
    assert registry.record_of(some.released_hash) == registry.record_id(some)
    refused("AlreadyRegistered", lambda: registry.register_for(some, SOON, signature, people.stranger))
    late = eip712.sign_registration(record(a.address), 5, domain, a)
    refused("Expired", lambda: registry.register_for(some, 5, late, people.stranger))

    root = os.urandom(32)
    order = BatchOrder(a.address, root, 7, "bafy", SOON, eip712.sign_batch(root, 7, "bafy", SOON, domain, a))
    registry.anchor_batch_for(order, people.stranger)
    found = registry.anchor(a.address, root)
    assert found is not None
    assert (found.owner, found.count) == (a.address, 7)
    refused("RootAlreadyAnchored", lambda: registry.anchor_batch_for(order, people.stranger))


def test_orders_that_do_not_fit_are_refused(chain: Chain, people: Any) -> None:
    domain = eip712.domain(chain.config.chain_id, str(chain.registry.address))
    a, b, _ = people.members
    with pytest.raises(RecordError, match="owner's key"):
        eip712.sign_registration(record(a.address), SOON, domain, b)
    with pytest.raises(RecordError, match="deadline"):
        eip712.sign_registration(record(a.address), -1, domain, a)
    for root, count, deadline in ((b"short", 1, 1), (bytes(32), 1 << 32, 1), (bytes(32), 1, 1 << 256)):
        with pytest.raises(RecordError, match="batch order"):
            eip712.sign_batch(root, count, "bafy", deadline, domain, a)


def test_a_member_goes_on_with_another_key(make_chain: Any, tester: Web3, people: Any) -> None:
    chain = make_chain()
    federation, titles, (a, b, c) = Federation(chain), Titles(chain), people.members
    claim, record_id = batched(chain, a, record(a.address))
    following = Account.create()
    transact(tester, {"to": following.address, "value": Web3.to_wei(10, "ether")}, people.deployer)
    refused("AccountUsed", lambda: federation.offer_key(b.address, a))
    federation.offer_key(following.address, a)
    refused("NotOffered", lambda: federation.accept_key(a.address, b))
    before = tester.eth.block_number
    federation.accept_key(a.address, following)
    assert federation.current_of(a.address) == following.address
    assert federation.is_member(a.address, before)
    assert not federation.is_member(a.address)
    assert federation.member(a.address).status is Status.ROTATED  # type: ignore[union-attr]
    assert [m.address for m in federation.members()] == [b.address, c.address, following.address]
    assert titles.title(record_id, a.address).owner == following.address
    titles.offer(claim, b.address, following)
    third = Account.create()
    federation.replace_key(c.address, third.address, b)
    federation.replace_key(c.address, third.address, following)
    assert federation.current_of(c.address) == third.address


def test_a_pause_stops_all_writing(make_chain: Any, people: Any) -> None:
    chain = make_chain()
    federation, registry, (a, b, _) = Federation(chain), Registry(chain), people.members
    federation.pause(a)
    assert not federation.paused()
    federation.pause(b)
    assert federation.paused()
    refused("Paused", lambda: registry.anchor_batch(os.urandom(32), 1, "bafy", a))
    refused("Paused", lambda: registry.register(record(a.address), a))
    refused("Paused", lambda: federation.anchor_round(1, bytes([1]) * 32, "bafy", bytes([1]) * 32, bytes([1]) * 32, a))
    refused("PauseUnchanged", lambda: federation.pause(a))
    federation.unpause(a)
    federation.unpause(b)
    registry.anchor_batch(os.urandom(32), 1, "bafy", a)
