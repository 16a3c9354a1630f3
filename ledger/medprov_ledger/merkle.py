"""Merkle trees over record leaves, in the shape of OpenZeppelin's standard-merkle-tree.

A leaf value (32 bytes) is hashed twice before it enters the tree, so that no inner node can be passed off as a leaf;
pairs are sorted before hashing, so a proof needs no left and right.
``StandardMerkleTree.of([[leaf], ...], ["bytes32"])`` gives the same root and proofs, and Solidity checks them with
``MerkleProof.verify(proof, root, keccak256(bytes.concat(keccak256(abi.encode(leaf)))))``.
Keccak-256 is the EVM's hash, not SHA3-256: the padding differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from eth_utils.crypto import keccak

from .errors import RecordError

MAX_LEAVES = 1 << 20
"""Largest batch; a proof then has at most 20 hashes."""


@dataclass(frozen=True)
class Tree:
    """All nodes of a tree.

    Parameters
    ----------
    nodes : tuple of bytes
        32 bytes each; the root at 0, the children of node i at 2i + 1 and 2i + 2.
    places : tuple of int
        Where each leaf's bottom node is, in the order of the leaves given.
    """

    nodes: tuple[bytes, ...]
    places: tuple[int, ...]

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self.nodes[0]

    @cached_property
    def proofs(self) -> tuple[tuple[bytes, ...], ...]:
        """One per leaf, in the order of the leaves given; siblings from the leaf upwards, 32 bytes each."""
        return tuple(tuple(self.nodes[sibling] for sibling in siblings(place)) for place in self.places)


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as the EVM computes it, 32 bytes."""
    digest: bytes = keccak(data)
    return digest


def leaf_hash(leaf: bytes) -> bytes:
    """The tree's bottom node for a leaf value: Keccak-256 applied twice."""
    return keccak256(keccak256(leaf))


def tree(leaves: Sequence[bytes]) -> Tree:
    """Build the tree of a batch.

    Parameters
    ----------
    leaves : sequence of bytes
        32 bytes each, all different, at least one, at most :data:`MAX_LEAVES`.

    Raises
    ------
    RecordError
    """
    nodes, places = _nodes(leaves)
    return Tree(tuple(nodes), tuple(places))


def siblings(place: int) -> Iterator[int]:
    """Places of the nodes that prove the node at `place`, from there upwards."""
    while place > 0:
        # siblings are (1, 2), (3, 4), ...: an odd place has its sibling to the right
        yield place + 1 if place % 2 else place - 1
        place = (place - 1) // 2


def root(leaves: Sequence[bytes]) -> bytes:
    """The root alone; same arguments and errors as :func:`tree`."""
    return _nodes(leaves)[0][0]


def verify(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `leaf` is in the tree with this root. Malformed input is simply not in it.

    Parameters
    ----------
    root, leaf : bytes
        32 bytes.
    proof : sequence of bytes
    """
    if len(leaf) != 32 or len(proof) > MAX_LEAVES.bit_length() or any(len(node) != 32 for node in proof):
        return False
    node = leaf_hash(leaf)
    for sibling in proof:
        node = _pair(node, sibling)
    return node == root


def _nodes(leaves: Sequence[bytes]) -> tuple[list[bytes], list[int]]:
    """The whole tree as an array with the root at 0, and each leaf's place in it."""
    count = len(leaves)
    if not 1 <= count <= MAX_LEAVES:
        raise RecordError(f"batch of {count} leaves: must hold 1 to {MAX_LEAVES}; split it")
    if any(len(leaf) != 32 for leaf in leaves):
        raise RecordError("batch: a leaf is not 32 bytes")
    if len(set(leaves)) != count:
        raise RecordError("batch: a leaf occurs twice; put each record in once")
    hashed = sorted((leaf_hash(leaf), number) for number, leaf in enumerate(leaves))
    nodes = [b""] * (2 * count - 1)
    positions = [0] * count
    for order, (node, number) in enumerate(hashed):
        positions[number] = 2 * count - 2 - order
        nodes[positions[number]] = node
    for place in range(count - 2, -1, -1):
        nodes[place] = _pair(nodes[2 * place + 1], nodes[2 * place + 2])
    return nodes, positions


def _pair(a: bytes, b: bytes) -> bytes:
    return keccak256(a + b if a < b else b + a)
