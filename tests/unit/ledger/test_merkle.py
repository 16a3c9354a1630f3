"""Merkle trees, against roots and proofs of @openzeppelin/merkle-tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import merkle
from medprov_ledger.errors import RecordError


def leaf(number: int) -> bytes:
    return hashlib.sha256(f"leaf {number}".encode()).digest()


# StandardMerkleTree.of([[leaf(0)], ..., [leaf(n - 1)]], ["bytes32"]), root and proof of the last leaf
STANDARD = {
    1: ("3bf7236b348e5b33581d6156e72a32fc30fd32cec20d85a3b9c854f4738f06f9", []),
    3: (
        "026cdfe8aff1816d8a11d4025bb9957939881391b95240b8dd4d902a25b05a9b",
        ["88d189e5d971441534439a5299d242010eb67a1d6e0d7d0799b2e56c8de89afe"],
    ),
    7: (
        "780a20300020413b0d44adbf73cabf7c73e987f04f8d0e36117e8fbe91c0a43a",
        [
            "5e6ed2f4cc10bef4cc5a46c97e31db09f58d6e4b8eff1d16c56aeba767c86907",
            "501a945ec1d52f739d08054df8763d1daeee703f3dd73f4966714dbe458e2d75",
            "1fed942f29f1e57308e595616f890f5c0390aa59dac4158b44de6f8be5ac55a5",
        ],
    ),
}


def test_keccak_is_not_sha3() -> None:
    assert merkle.keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert merkle.keccak256(b"") != hashlib.sha3_256(b"").digest()


@pytest.mark.parametrize("count", STANDARD)
def test_same_tree_as_openzeppelin(count: int) -> None:
    root, proof = STANDARD[count]
    tree = merkle.tree([leaf(i) for i in range(count)])
    assert tree.root.hex() == root
    assert [node.hex() for node in tree.proofs[-1]] == proof


@given(st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=40))
def test_every_leaf_is_proved_and_order_does_not_matter(leaves: set[bytes]) -> None:
    ordered = sorted(leaves)
    tree = merkle.tree(ordered)
    assert all(merkle.verify(tree.root, value, proof) for value, proof in zip(ordered, tree.proofs, strict=True))
    assert merkle.tree(ordered[::-1]).root == tree.root == merkle.root(ordered)


@given(st.integers(2, 20), st.data())
def test_a_flipped_bit_anywhere_is_not_proved(count: int, data: st.DataObject) -> None:
    leaves = [leaf(i) for i in range(count)]
    tree = merkle.tree(leaves)
    which = data.draw(st.integers(0, count - 1))
    parts = [tree.root, leaves[which], *tree.proofs[which]]
    part, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[part] = (int.from_bytes(parts[part], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not merkle.verify(parts[0], parts[1], parts[2:])


def test_a_foreign_leaf_and_an_inner_node_are_not_proved() -> None:
    leaves = [leaf(i) for i in range(4)]
    tree = merkle.tree(leaves)
    assert not merkle.verify(tree.root, leaf(9), tree.proofs[0])
    # second preimage: the concatenated children of the root, or the node above a leaf, as a "leaf"
    inner = merkle.keccak256(b"".join(sorted((merkle.leaf_hash(leaves[0]), tree.proofs[0][0]))))
    assert not merkle.verify(tree.root, inner, tree.proofs[0][1:])
    assert not merkle.verify(tree.root, merkle.leaf_hash(leaves[0]), tree.proofs[0])


def test_malformed_proofs_are_not_proved() -> None:
    tree = merkle.tree([leaf(0), leaf(1)])
    assert not merkle.verify(tree.root, leaf(0), [tree.proofs[0][0][:31]])
    assert not merkle.verify(tree.root, leaf(0)[:31], tree.proofs[0])
    assert not merkle.verify(tree.root, leaf(0), [])
    assert not merkle.verify(tree.root, leaf(0), [leaf(0)] * 100_000)


@pytest.mark.parametrize("leaves", [[], [leaf(0), leaf(1), leaf(0)], [b"short"]])
def test_impossible_batches_are_refused(leaves: list[bytes]) -> None:
    with pytest.raises(RecordError, match="batch"):
        merkle.tree(leaves)


def test_too_many_leaves_are_refused_before_any_work() -> None:
    class Huge(list[bytes]):
        def __len__(self) -> int:
            return merkle.MAX_LEAVES + 1

        def __getitem__(self, _: object) -> bytes:  # type: ignore[override]
            raise AssertionError("looked at a leaf")

    with pytest.raises(RecordError, match="split"):
        merkle.tree(Huge())
