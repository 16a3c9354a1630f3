"""The Python face of ``ProvenanceRegistry``: batches and single records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from web3 import Web3
from web3.exceptions import BlockNotFound
from web3.types import EventData

from .chain import Account, Chain, Receipt
from .errors import ChainError, RecordError
from .record import Record

_log = logging.getLogger(__name__)
# in the order of the contract's struct
_RECORD_FIELDS = (
    "format",
    "key",
    "cover_hash",
    "marked_hash",
    "released_hash",
    "evidence_cid",
    "bundle_cid",
    "owner",
    "model",
    "time",
)


@dataclass(frozen=True)
class Anchor:
    """One anchored batch.

    Parameters
    ----------
    root : bytes
        32 bytes, Merkle root of the batch.
    owner : str
        Address of the member that anchored it.
    block : int
    time : int
        Time of the block, seconds since 1970.
    count : int
        Number of records in the batch, as the member stated it.
    cid : str
        The batch's manifest.
    tx_hash : str or None
    """

    root: bytes
    owner: str
    block: int
    time: int
    count: int
    cid: str
    tx_hash: str | None = None


@dataclass(frozen=True)
class Registration:
    """One record that was registered by itself.

    Parameters
    ----------
    record_id : bytes
        32 bytes, the record's leaf.
    record : Record
    block : int
    time : int
        Time of the block, seconds since 1970.
    tx_hash : str
    """

    record_id: bytes
    record: Record
    block: int
    time: int
    tx_hash: str


@dataclass(frozen=True)
class BatchOrder:
    """A member's signed leave to anchor a batch for it, for whoever pays.

    Parameters
    ----------
    owner : str
    root : bytes
        32 bytes.
    count : int
    cid : str
    deadline : int
        Last second of its validity, since 1970.
    signature : bytes
        65 bytes, see :func:`medprov_ledger.eip712.sign_batch`.
    """

    owner: str
    root: bytes
    count: int
    cid: str
    deadline: int
    signature: bytes


class Registry:
    """Anchors and reads batches.

    Parameters
    ----------
    chain : Chain
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.contract = chain.registry

    @property
    def address(self) -> str:
        """The contract's checksummed address."""
        return str(self.contract.address)

    def anchor_batch(self, root: bytes, count: int, cid: str, account: Account) -> Receipt:
        """Anchor a batch.

        Parameters
        ----------
        root : bytes
            32 bytes.
        count : int
            Number of records.
        cid : str
            The batch's manifest.
        account : LocalAccount or Signer
            A member's.

        Raises
        ------
        RevertedError
            ``NotMember``, ``Paused``, ``RootAlreadyAnchored`` (by this account), ``EmptyBatch``, ``ZeroHash``,
            ``BadCid``.
        """
        return self.chain.send(self.contract.functions.anchorBatch(_bytes32(root), count, cid), account)

    def anchor_batches(self, batches: Sequence[tuple[bytes, int, str]], account: Account) -> list[Receipt | ChainError]:
        """Anchor several batches at once, in as few requests as possible.

        Parameters
        ----------
        batches : sequence of (bytes, int, str)
            Root, number of records and manifest of each, as for :meth:`anchor_batch`.
        account : LocalAccount or Signer
            A member's.

        Returns
        -------
        list of Receipt or ChainError
            In the order of `batches`; one that is refused has its error and does not stop the others.
        """
        functions = [self.contract.functions.anchorBatch(_bytes32(root), count, cid) for root, count, cid in batches]
        return self.chain.send_many(functions, account)

    def register(self, record: Record, account: Account) -> Receipt:
        """Register one record by itself; batches are the cheaper way.

        Parameters
        ----------
        record : Record
            All of it goes on the chain.
        account : LocalAccount or Signer
            The record's owner.

        Raises
        ------
        RevertedError
            ``NotMember``, ``Paused``, ``NotOwner``, ``AlreadyRegistered`` (this released image has an owner),
            ``ZeroHash``, ``BadCid``.
        """
        return self.chain.send(self.contract.functions.register(record_fields(record)), account)

    def anchor_batch_for(self, order: BatchOrder, payer: Account) -> Receipt:
        """Anchor a batch for the member that signed the order; `payer` need not be a member.

        Raises
        ------
        RevertedError
            ``Expired``, ``BadSignature``, and as for :meth:`anchor_batch`.
        """
        function = self.contract.functions.anchorBatchFor(
            Web3.to_checksum_address(order.owner),
            _bytes32(order.root),
            order.count,
            order.cid,
            order.deadline,
            order.signature,
        )
        return self.chain.send(function, payer)

    def register_for(self, record: Record, deadline: int, signature: bytes, payer: Account) -> Receipt:
        """Register a record for its owner, who signed that (:func:`medprov_ledger.eip712.sign_registration`).

        Parameters
        ----------
        record : Record
        deadline : int
            Last second of the signature's validity, since 1970.
        signature : bytes
            65 bytes.
        payer : LocalAccount or Signer
            Need not be a member.

        Raises
        ------
        RevertedError
            ``Expired``, ``BadSignature``, and as for :meth:`register`.
        """
        return self.chain.send(self.contract.functions.registerFor(record_fields(record), deadline, signature), payer)

    def anchor(self, owner: str, root: bytes, *, confirmed: bool = True) -> Anchor | None:
        """A member's anchor of a root; None while there is none.

        Parameters
        ----------
        owner : str
            The member's address; others may have anchored the same root.
        root : bytes
            32 bytes.
        confirmed : bool
            True hides an anchor that is not yet ``config.confirmations`` blocks deep.
        """
        owner = Web3.to_checksum_address(owner)
        block, time, count, cid = self.chain.call(self.contract.functions.anchor(owner, _bytes32(root)))
        if block == 0 or (confirmed and block > self.chain.confirmed_head()):
            return None
        logs = self.chain.events(self.contract.events.BatchAnchored, block, block, {"owner": owner, "root": root})
        tx_hash = next((Web3.to_hex(log["transactionHash"]) for log in logs), None)
        return Anchor(root, owner, block, time, count, cid, tx_hash)

    def verify(self, owner: str, root: bytes, leaf: bytes, proof: list[bytes]) -> bool:
        """True where `owner` anchored `root` and `proof` leads from the record `leaf` to it; the contract decides.

        It does not look into the record: pass the owner that the record names.
        """
        proof = [_bytes32(node) for node in proof]
        function = self.contract.functions.verify(
            Web3.to_checksum_address(owner), _bytes32(root), _bytes32(leaf), proof
        )
        return bool(self.chain.call(function))

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        """All confirmed anchors in a range of blocks, oldest first.

        Parameters
        ----------
        from_block : int
            First block looked at.
        to_block : int or None
            Last block looked at; None is the newest confirmed one.
        """
        last = self.chain.confirmed_head() if to_block is None else min(to_block, self.chain.confirmed_head())
        return [_anchor(log) for log in self.chain.events(self.contract.events.BatchAnchored, from_block, last)]

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        """All confirmed single registrations in a range of blocks, oldest first; arguments as in :meth:`anchors`.

        The contract does not look into content identifiers and versions: a registration that is no valid record is
        left out, with a warning in the log, so that one careless member cannot stop everybody's index.
        """
        last = self.chain.confirmed_head() if to_block is None else min(to_block, self.chain.confirmed_head())
        found = []
        for log in self.chain.events(self.contract.events.RecordRegistered, from_block, last):
            try:
                found.append(_registration(log))
            except RecordError as error:
                _log.warning("registration in %s left out: %s", Web3.to_hex(log["transactionHash"]), error)
        return found

    def confirmed_head(self) -> int:
        """Number of the newest confirmed block; negative while there is none."""
        return self.chain.confirmed_head()

    def block_hash(self, block: int) -> bytes | None:
        """Hash of the block with this number, 32 bytes, which stands for all before it; None where there is none."""
        with self.chain.errors():
            try:
                return bytes(self.chain.w3.eth.get_block(block)["hash"])
            except BlockNotFound:
                return None

    def record_of(self, released_hash: bytes) -> bytes | None:
        """The record id (leaf) under which a released image was registered by itself; None if it was not."""
        found = bytes(self.chain.call(self.contract.functions.recordOf(_bytes32(released_hash))))
        return found if any(found) else None

    def record_id(self, record: Record) -> bytes:
        """The record's leaf as the contract computes it; equals ``record.leaf(domain)``."""
        return bytes(self.chain.call(self.contract.functions.recordIdOf(record_fields(record))))


def _anchor(log: EventData) -> Anchor:
    args = log["args"]
    return Anchor(
        root=bytes(args["root"]),
        owner=args["owner"],
        block=log["blockNumber"],
        time=args["time"],
        count=args["count"],
        cid=args["cid"],
        tx_hash=Web3.to_hex(log["transactionHash"]),
    )


def _registration(log: EventData) -> Registration:
    values: dict[str, Any] = {}
    for name, value in zip(_RECORD_FIELDS, _tuple(log["args"]["record"]), strict=True):
        values[name] = bytes(value) if isinstance(value, bytes) else value
    record = Record(**values)
    return Registration(
        record_id=bytes(log["args"]["recordId"]),
        record=record,
        block=log["blockNumber"],
        time=log["args"]["time"],
        tx_hash=Web3.to_hex(log["transactionHash"]),
    )


def record_fields(record: Record) -> tuple[Any, ...]:
    """A record as the contract's struct."""
    return tuple(getattr(record, name) for name in _RECORD_FIELDS)


def _tuple(value: Any) -> tuple[Any, ...]:
    """A struct of an event: web3 gives a mapping or a tuple, depending on its version."""
    return tuple(value.values()) if isinstance(value, Mapping) else tuple(value)


def _bytes32(value: bytes) -> bytes:
    if len(value) != 32:
        raise ValueError(f"32 bytes expected, got {len(value)}")
    return bytes(value)
