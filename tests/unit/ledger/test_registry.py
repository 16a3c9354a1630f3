"""medprov_ledger.registry and contracts/src/ProvenanceRegistry.sol"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_ledger import cid, eip712, merkle
from medprov_ledger.chain import Chain
from medprov_ledger.errors import RevertedError
from medprov_ledger.federation import Federation
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry

CID = cid.of(b"evidence")


@pytest.fixture
def registry(chain: Chain) -> Registry:
    return Registry(chain)


def refused(error: str, action: Callable[[], object]) -> None:
    with pytest.raises(RevertedError) as caught:
        action()
    assert caught.value.error == error


def record(owner: str, **changes: Any) -> Record:
    values = {name: os.urandom(32) for name in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
    values |= {"evidence_cid": CID, "bundle_cid": "", "owner": owner, "time": 1_800_000_000}
    return Record(**(values | changes))


def test_anchor_comes_back(registry: Registry, people: Any) -> None:
    root, owner = os.urandom(32), people.members[0].address
    assert registry.anchor(owner, root) is None
    receipt = registry.anchor_batch(root, 1000, "bafy", people.members[0])
    found = registry.anchor(owner.lower(), root)
    assert found is not None
    assert (found.root, found.owner, found.count, found.cid) == (root, owner, 1000, "bafy")
    assert (found.block, found.time, found.tx_hash) == (receipt.block, receipt.time, receipt.tx_hash)
    assert registry.anchors(from_block=receipt.block) == [found]
    assert registry.anchors(from_block=receipt.block + 1) == []
    assert found in registry.anchors()
    assert found not in registry.anchors(to_block=receipt.block - 1)


def test_a_member_anchors_a_root_once(registry: Registry, people: Any) -> None:
    root, owner = os.urandom(32), people.members[0]
    registry.anchor_batch(root, 1, "bafy", owner)
    refused("RootAlreadyAnchored", lambda: registry.anchor_batch(root, 1, "bafy", owner))
    refused("RootAlreadyAnchored", lambda: registry.anchor_batch(root, 2, "other", owner))
    assert registry.anchor(owner.address, root).cid == "bafy"  # type: ignore[union-attr]


def test_nobody_takes_a_root_from_its_owner(registry: Registry, people: Any) -> None:
    owner, thief, third = people.members
    leaves = [os.urandom(32) for _ in range(3)]
    tree = merkle.tree(leaves)
    proof = list(tree.proofs[0])
    first = registry.anchor_batch(tree.root, 1, "thief's", thief)
    assert registry.anchor(owner.address, tree.root) is None
    assert not registry.verify(owner.address, tree.root, leaves[0], proof), (
        "another's anchor proves nothing for this one"
    )
    second = registry.anchor_batch(tree.root, 3, "owner's", owner)
    found = [registry.anchor(one.address, tree.root) for one in (thief, owner)]
    assert [(one.owner, one.count, one.cid, one.block, one.tx_hash) for one in found if one] == [
        (thief.address, 1, "thief's", first.block, first.tx_hash),
        (owner.address, 3, "owner's", second.block, second.tx_hash),
    ]
    assert [one for one in registry.anchors(from_block=first.block) if one.root == tree.root] == found
    assert registry.verify(owner.address, tree.root, leaves[0], proof)
    assert not registry.verify(third.address, tree.root, leaves[0], proof)


def test_strangers_cannot_write(registry: Registry, people: Any) -> None:
    root = os.urandom(32)
    for account in (people.stranger, people.deployer):
        refused("NotMember", lambda a=account: registry.anchor_batch(root, 1, "bafy", a))  # type: ignore[misc]
        refused("NotMember", lambda a=account: registry.register(record(a.address), a))  # type: ignore[misc]
        assert registry.anchor(account.address, root) is None


def test_who_left_cannot_write(make_chain: Any, people: Any) -> None:
    chain = make_chain()
    federation, (a, b, c) = Federation(chain), people.members
    registry, root = Registry(chain), os.urandom(32)
    registry.anchor_batch(root, 1, "bafy", c)
    federation.leave(c.address, a)
    federation.leave(c.address, b)
    refused("NotMember", lambda: registry.anchor_batch(os.urandom(32), 1, "bafy", c))
    assert registry.anchor(c.address, root) is not None, "what was anchored stays"


@pytest.mark.parametrize(
    ("root", "count", "text", "error"),
    [
        (bytes(32), 1, "bafy", "ZeroHash"),
        (b"\x01" * 32, 0, "bafy", "EmptyBatch"),
        (b"\x01" * 32, 1, "", "BadCid"),
        (b"\x01" * 32, 1, "b" * 129, "BadCid"),
    ],
)
def test_malformed_batches(registry: Registry, people: Any, root: bytes, count: int, text: str, error: str) -> None:
    refused(error, lambda: registry.anchor_batch(root, count, text, people.members[0]))


def test_wrong_sizes(registry: Registry, people: Any) -> None:
    owner = people.members[0].address
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="32 bytes expected"):
            registry.anchor_batch(bytes(size), 1, "bafy", people.members[0])
        with pytest.raises(ValueError, match="32 bytes expected"):
            registry.anchor(owner, bytes(size))
        with pytest.raises(ValueError, match="32 bytes expected"):
            registry.verify(owner, bytes(32), bytes(32), [bytes(size)])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_proofs_hold_on_chain(registry: Registry, people: Any, count: int) -> None:
    leaves, owner = [os.urandom(32) for _ in range(count)], people.members[1].address
    tree = merkle.tree(leaves)
    proofs = [list(proof) for proof in tree.proofs]
    assert not registry.verify(owner, tree.root, leaves[0], proofs[0]), "a root that is not anchored proves nothing"
    registry.anchor_batch(tree.root, count, "bafy", people.members[1])
    for leaf, proof in zip(leaves, proofs, strict=True):
        assert registry.verify(owner, tree.root, leaf, proof)
        assert not registry.verify(owner, tree.root, os.urandom(32), proof)
        assert not registry.verify(owner, tree.root, leaf, [*proof, os.urandom(32)])
    if count > 1:
        assert not registry.verify(owner, tree.root, leaves[0], proofs[1])
        inner = merkle.leaf_hash(leaves[0])
        assert not registry.verify(owner, tree.root, inner, proofs[0]), "an inner node is no leaf"


def test_record_id_is_the_leaf(registry: Registry, people: Any) -> None:
    domain = eip712.domain(registry.chain.config.chain_id, registry.address)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.binary(min_size=160, max_size=160), st.integers(0, 2**63 - 1), st.booleans())
    def same(data: bytes, time: int, bundle: bool) -> None:
        names = ("key", "cover_hash", "marked_hash", "released_hash", "model")
        hashes = {name: data[32 * i : 32 * i + 32] for i, name in enumerate(names)}
        made = record(people.members[0].address, time=time, bundle_cid=CID if bundle else "", **hashes)
        assert registry.record_id(made) == made.leaf(domain)

    same()


def test_register_one_record(registry: Registry, people: Any) -> None:
    owner = people.members[0]
    made = record(owner.address, bundle_cid=CID)
    assert registry.record_of(made.released_hash) is None
    receipt = registry.register(made, owner)
    leaf = made.leaf(eip712.domain(registry.chain.config.chain_id, registry.address))
    assert registry.record_of(made.released_hash) == leaf
    (found,) = registry.registrations(from_block=receipt.block)
    assert (found.record_id, found.record) == (leaf, made)
    assert (found.block, found.time, found.tx_hash) == (receipt.block, receipt.time, receipt.tx_hash)


def test_the_first_registration_wins(registry: Registry, people: Any) -> None:
    a, b, _ = people.members
    made = record(a.address)
    registry.register(made, a)
    refused("AlreadyRegistered", lambda: registry.register(made, a))
    copied = record(b.address, released_hash=made.released_hash)
    refused("AlreadyRegistered", lambda: registry.register(copied, b))
    registry.register(record(b.address, key=made.key), b)


def test_only_the_owner_registers(registry: Registry, people: Any) -> None:
    a, b, _ = people.members
    refused("NotOwner", lambda: registry.register(record(a.address), b))
    refused("ZeroHash", lambda: registry.register(record(a.address, key=bytes(32)), a))
    refused("ZeroHash", lambda: registry.register(record(a.address, released_hash=bytes(32)), a))


def test_a_malformed_registration_stops_nobody(registry: Registry, people: Any, caplog: Any) -> None:
    owner = people.members[0]
    junk = (9, *(os.urandom(32) for _ in range(4)), "no cid", "", owner.address, os.urandom(32), 0)
    first = registry.chain.send(registry.contract.functions.register(junk), owner).block
    good = record(owner.address)
    registry.register(good, owner)
    assert [found.record for found in registry.registrations(from_block=first)] == [good]
    assert "left out" in caplog.text


def test_unconfirmed_is_hidden(registry: Registry, people: Any, tester: Any) -> None:
    root, owner = os.urandom(32), people.members[0].address
    block = registry.anchor_batch(root, 1, "bafy", people.members[0]).block
    deep = Registry(Chain(replace(registry.chain.config, confirmations=2), tester))
    assert deep.anchor(owner, root) is None
    assert deep.anchor(owner, root, confirmed=False) is not None
    assert deep.anchors(from_block=block) == []
    tester.provider.ethereum_tester.mine_block()
    assert deep.anchor(owner, root) is not None
    assert len(deep.anchors(from_block=block)) == 1
