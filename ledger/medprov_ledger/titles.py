"""The Python face of ``ITitles``: what becomes of a record after it was anchored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from web3 import Web3

from .chain import Account, Chain, Receipt
from .federation import ZERO_ADDRESS
from .record import Record
from .registry import record_fields


class Reason(IntEnum):
    """Why a record no longer stands; the order is the contract's."""

    NONE = 0
    ERRONEOUS = 1
    CONSENT_WITHDRAWN = 2
    SUPERSEDED = 3
    KEY_COMPROMISED = 4
    OTHER = 5


@dataclass(frozen=True)
class Claim:
    """A record and the proof that it exists.

    Parameters
    ----------
    record : Record
    root : bytes or None
        32 bytes, Merkle root of its owner's batch; None for a record that was registered by itself.
    proof : tuple of bytes
        32 bytes each, siblings from the record's leaf to the root.
    """

    record: Record
    root: bytes | None = None
    proof: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Title:
    """What has become of a record.

    Parameters
    ----------
    owner : str
        Present account of the member that owns it.
    offered : str or None
        To whom it is offered.
    revoked : int or None
        Time of the block that revoked it, seconds since 1970; None while it stands.
    reason : Reason
        Why it was revoked.
    contested_by : bytes or None
        Record id, 32 bytes, of the earliest record that contests it.
    """

    owner: str
    offered: str | None
    revoked: int | None
    reason: Reason
    contested_by: bytes | None


@dataclass(frozen=True)
class Licence:
    """Leave to use a record's image.

    Parameters
    ----------
    licensee : str
    granted, expires : int
        Seconds since 1970; `expires` is the last second of its validity.
    terms : bytes
        32 bytes, hash of the terms.
    valid : bool
        Whether it was neither expired nor the record revoked when it was read.
    """

    licensee: str
    granted: int
    expires: int
    terms: bytes
    valid: bool


class Titles:
    """Reads and changes titles. Changes are made by active members while the federation is not paused.

    Parameters
    ----------
    chain : Chain
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.contract = chain.registry

    def title(self, record_id: bytes, owner: str) -> Title:
        """What has become of a record.

        Parameters
        ----------
        record_id : bytes
            32 bytes.
        owner : str
            The owner that the record names: before the first change the chain knows no other.
        """
        functions = self.contract.functions
        first, offered, revoked, reason = self.chain.call(functions.title(record_id))
        contested = bytes(self.chain.call(functions.contestedBy(record_id)))
        named = Web3.to_checksum_address(owner if first == ZERO_ADDRESS else first)
        return Title(
            owner=str(self.chain.call(self.chain.federation.functions.currentOf(named))),
            offered=None if offered == ZERO_ADDRESS else offered,
            revoked=revoked or None,
            reason=Reason(reason),
            contested_by=contested if any(contested) else None,
        )

    def offer(self, claim: Claim, to: str | None, account: Account) -> Receipt:
        """Offer a record to another member, or take the offer back with None; ownership changes when it accepts.

        Raises
        ------
        RevertedError
            ``Unproved``, ``NotTitleOwner``, ``BadRecipient``, ``Revoked``, ``NotMember``, ``Paused``.
        """
        recipient = Web3.to_checksum_address(to or ZERO_ADDRESS)
        return self.chain.send(self.contract.functions.offerTransfer(_claim(claim), recipient), account)

    def accept(self, record_id: bytes, account: Account) -> Receipt:
        """Take over a record that was offered to `account`.

        Raises
        ------
        RevertedError
            ``NotOffered``, ``Revoked``, ``NotMember``, ``Paused``.
        """
        return self.chain.send(self.contract.functions.acceptTransfer(record_id), account)

    def license(self, claim: Claim, licensee: str, expires: int, terms: bytes, account: Account) -> Receipt:
        """Let somebody use a record's image until `expires` (seconds since 1970); replaces an earlier grant.

        Raises
        ------
        RevertedError
            ``BadExpiry``, ``BadRecipient``, and as for :meth:`offer`.
        """
        holder = Web3.to_checksum_address(licensee)
        return self.chain.send(self.contract.functions.grantLicence(_claim(claim), holder, expires, terms), account)

    def withdraw_licence(self, record_id: bytes, licensee: str, account: Account) -> Receipt:
        """Take a licence back.

        Raises
        ------
        RevertedError
            ``NotTitleOwner``, ``NoLicence``, ``NotMember``, ``Paused``.
        """
        holder = Web3.to_checksum_address(licensee)
        return self.chain.send(self.contract.functions.withdrawLicence(record_id, holder), account)

    def licence(self, record_id: bytes, licensee: str) -> Licence | None:
        """Somebody's licence, whether still valid or not; None where none was granted."""
        holder, functions = Web3.to_checksum_address(licensee), self.contract.functions
        granted, expires, terms = self.chain.call(functions.licence(record_id, holder))
        if not granted:
            return None
        valid = bool(self.chain.call(functions.isLicensed(record_id, holder)))
        return Licence(holder, granted, expires, bytes(terms), valid)

    def revoke(self, claim: Claim, reason: Reason, account: Account, note: bytes = bytes(32)) -> Receipt:
        """Revoke a record for good; `note` is the hash (32 bytes) of an explanation kept elsewhere.

        Raises
        ------
        RevertedError
            ``NoReason``, and as for :meth:`offer`.
        """
        return self.chain.send(self.contract.functions.revoke(_claim(claim), int(reason), note), account)

    def dispute(self, earlier: Claim, later: Claim, account: Account) -> Receipt:
        """Contest a later record of the same mark or image; `account` owns the earlier one.

        Raises
        ------
        RevertedError
            ``Unrelated``, ``NotEarlier``, and as for :meth:`offer`.
        """
        return self.chain.send(self.contract.functions.dispute(_claim(earlier), _claim(later)), account)


def _claim(claim: Claim) -> tuple[Any, ...]:
    return record_fields(claim.record), claim.root or bytes(32), list(claim.proof)
