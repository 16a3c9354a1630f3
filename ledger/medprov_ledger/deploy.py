"""Puts the two contracts on a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from web3 import Web3

from .chain import Account, Receipt, transact
from .contracts import artifact
from .errors import ChainError
from .federation import name_hash


@dataclass(frozen=True)
class Founder:
    """A first member.

    Parameters
    ----------
    address : str
    name : str
        Only its hash goes on the chain.
    reader_key : bytes
        32 bytes, X25519 public key.
    """

    address: str
    name: str
    reader_key: bytes


@dataclass(frozen=True)
class Deployment:
    """Where the contracts are.

    Parameters
    ----------
    federation, registry : str
        Checksummed addresses.
    block : int
        Block of the first of them; events begin there.
    """

    federation: str
    registry: str
    block: int


def deploy(
    w3: Web3,
    account: Account,
    federation_id: bytes,
    founders: Sequence[Founder],
    threshold: int,
    *,
    confirmations: int = 1,
    timeout: float = 120.0,
) -> Deployment:
    """Deploy a federation with its first members, and its registry.

    Parameters
    ----------
    w3 : Web3
        See :func:`medprov_ledger.chain.connect_http`.
    account : LocalAccount or Signer
        Pays; has no rights in the contracts.
    federation_id : bytes
        32 bytes, drawn at random.
    founders : sequence of Founder
        1 to 64, all different.
    threshold : int
        How many members must agree; 1 to the number of founders.
    confirmations, timeout
        As in :func:`medprov_ledger.chain.transact`.

    Raises
    ------
    RevertedError
        ``BadFounders``, ``BadThreshold``, ``AlreadyMember``, ``NameTaken``, ``ZeroHash``, ``BadMotion``.
    ChainError
        The node does not answer or refuses.
    """
    members = [(Web3.to_checksum_address(f.address), name_hash(f.name), f.reader_key) for f in founders]
    first = _create(w3, account, "Federation", (federation_id, members, threshold), confirmations, timeout)
    second = _create(w3, account, "ProvenanceRegistry", (first.contract,), confirmations, timeout)
    return Deployment(str(first.contract), str(second.contract), first.block)


def _create(
    w3: Web3, account: Account, name: str, arguments: tuple[object, ...], confirmations: int, timeout: float
) -> Receipt:
    compiled = artifact(name)
    factory = w3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    receipt = transact(w3, factory.constructor(*arguments), account, confirmations=confirmations, timeout=timeout)
    if receipt.contract is None:
        raise ChainError(f"transaction {receipt.tx_hash} should have created {name}, but its receipt names no contract")
    return receipt
