"""Typed signatures (EIP-712) of image marks and records, bound to one chain and one registry.

A signature is 65 bytes r, s, v with v = 27 or 28 and s in the lower half of the group order (EIP-2): the one form that
OpenZeppelin's ``ECDSA.recover`` accepts, so nobody can make a second valid signature from a first one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.address import to_checksum_address
from eth_utils.exceptions import ValidationError

from .errors import RecordError
from .merkle import keccak256

if TYPE_CHECKING:
    from .record import Record

NAME, VERSION = "medprov", "1"
DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
IMAGE_MARK_TYPE = (
    "ImageMark(uint16 format,bytes32 model,bytes32 payloadCommitment,bytes32 markedHash,"
    "bytes32 coverHash,bytes32 restHash)"
)
RECORD_TYPE = (
    "Record(uint16 format,bytes32 key,bytes32 coverHash,bytes32 markedHash,bytes32 releasedHash,"
    "string evidenceCid,string bundleCid,address owner,bytes32 model,uint64 time)"
)
BATCH_TYPE = "BatchAnchor(address owner,bytes32 root,uint32 count,string cid,uint256 deadline)"
REGISTRATION_TYPE = "Registration(bytes32 recordId,uint256 deadline)"

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


class ImageMark(Protocol):
    """What the integrity mark's signature covers; the watermark package has the dataclass."""

    @property
    def format(self) -> int:
        """Version of the integrity mark's body, 0..65535."""

    @property
    def model(self) -> bytes:
        """32 bytes."""

    @property
    def payload_commitment(self) -> bytes:
        """32 bytes."""

    @property
    def marked_hash(self) -> bytes:
        """32 bytes."""

    @property
    def cover_hash(self) -> bytes:
        """32 bytes."""

    @property
    def rest_hash(self) -> bytes:
        """32 bytes."""


class Account(Protocol):
    """A key that signs hashes; eth-account's LocalAccount is one."""

    @property
    def address(self) -> Any:
        """Checksummed address."""

    def unsafe_sign_hash(self, message_hash: Any) -> Any:
        """Sign 32 bytes as they are; the answer has r, s and v."""


@dataclass(frozen=True)
class Domain:
    """The chain and contract a signature is for.

    Parameters
    ----------
    chain_id : int
    registry : str
        Address of the ProvenanceRegistry, checksummed.
    separator : bytes
        32 bytes, EIP-712's domain separator.
    """

    chain_id: int
    registry: str
    separator: bytes = field(repr=False, compare=False)


def domain(chain_id: int, registry: str) -> Domain:
    """The domain of one registry.

    Raises
    ------
    RecordError
        Chain id or address malformed.
    """
    if isinstance(chain_id, bool) or not 0 < chain_id < 1 << 256:
        raise RecordError(f"chain id {chain_id}: must be a positive 256-bit number")
    contract = address(registry, "registry")
    parts = (keccak256(DOMAIN_TYPE.encode()), keccak256(NAME.encode()), keccak256(VERSION.encode()))
    return Domain(chain_id, contract, keccak256(b"".join(parts) + _uint(chain_id) + _address(contract)))


def address(text: str, what: str) -> str:
    """`text` as a checksummed address (EIP-55).

    Raises
    ------
    RecordError
    """
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        raise RecordError(f"{what}: must be an address, 0x and 40 hexadecimal digits")
    return str(to_checksum_address(text))


def image_mark_digest(mark: ImageMark, domain: Domain) -> bytes:
    """The 32 bytes that the signature of an image mark is over.

    Raises
    ------
    RecordError
        A field has the wrong size.
    """
    hashes = (mark.model, mark.payload_commitment, mark.marked_hash, mark.cover_hash, mark.rest_hash)
    if any(len(value) != 32 for value in hashes) or not 0 <= mark.format < 1 << 16:
        raise RecordError("image mark: format must fit 16 bits and every hash must be 32 bytes")
    return _digest(IMAGE_MARK_TYPE, domain, _uint(mark.format), *hashes)


def record_digest(record: Record, domain: Domain) -> bytes:
    """The 32 bytes that the signature of a record is over; also the record's leaf and its id."""
    return _digest(
        RECORD_TYPE,
        domain,
        _uint(record.format),
        record.key,
        record.cover_hash,
        record.marked_hash,
        record.released_hash,
        keccak256(record.evidence_cid.encode()),
        keccak256(record.bundle_cid.encode()),
        _address(record.owner),
        record.model,
        _uint(record.time),
    )


def sign_image_mark(mark: ImageMark, domain: Domain, account: Account) -> bytes:
    """Sign an image mark; 65 bytes."""
    return sign(image_mark_digest(mark, domain), account)


def recover_image_mark(mark: ImageMark, signature: bytes, domain: Domain) -> str:
    """The address that signed an image mark; errors as :func:`recover`."""
    return recover(image_mark_digest(mark, domain), signature)


def sign_record(record: Record, domain: Domain, account: Account) -> bytes:
    """Sign a record; 65 bytes.

    Raises
    ------
    RecordError
        The account is not the record's owner.
    """
    if address(account.address, "account") != record.owner:
        raise RecordError(f"record of {record.owner}: cannot be signed by {account.address}; use the owner's key")
    return sign(record_digest(record, domain), account)


def recover_record(record: Record, signature: bytes, domain: Domain) -> str:
    """The address that signed a record; errors as :func:`recover`. Compare it with the record's owner."""
    return recover(record_digest(record, domain), signature)


def sign_batch(root: bytes, count: int, cid: str, deadline: int, domain: Domain, account: Account) -> bytes:
    """Sign the leave to anchor a batch for `account` until `deadline` (seconds since 1970); 65 bytes.

    Raises
    ------
    RecordError
        A value does not fit.
    """
    owner = address(account.address, "account")
    if len(root) != 32 or not 0 <= count < 1 << 32 or not 0 <= deadline < 1 << 256:
        raise RecordError("batch order: the root must be 32 bytes, count and deadline must fit 32 and 256 bits")
    words = (_address(owner), root, _uint(count), keccak256(cid.encode()), _uint(deadline))
    return sign(_digest(BATCH_TYPE, domain, *words), account)


def sign_registration(record: Record, deadline: int, domain: Domain, account: Account) -> bytes:
    """Sign the leave to register a record for its owner until `deadline` (seconds since 1970); 65 bytes.

    It is another signature than the record's own, which every manifest shows.

    Raises
    ------
    RecordError
        The account is not the record's owner, or the deadline does not fit.
    """
    if address(account.address, "account") != record.owner:
        raise RecordError(f"record of {record.owner}: cannot be signed by {account.address}; use the owner's key")
    if not 0 <= deadline < 1 << 256:
        raise RecordError("registration: the deadline must fit 256 bits")
    return sign(_digest(REGISTRATION_TYPE, domain, record_digest(record, domain), _uint(deadline)), account)


def sign(digest: bytes, account: Account) -> bytes:
    """Sign a 32-byte digest (RFC 6979: the same digest and key give the same 65 bytes)."""
    signed = account.unsafe_sign_hash(digest)
    return int(signed.r).to_bytes(32, "big") + int(signed.s).to_bytes(32, "big") + bytes([signed.v])


def recover(digest: bytes, signature: bytes) -> str:
    """The checksummed address whose key made `signature` over `digest`.

    Any well-formed signature recovers to some address: the caller must compare it.

    Raises
    ------
    RecordError
        Wrong length, v not 27 or 28, s in the upper half, or no key fits.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise RecordError("signature: must be 65 bytes r, s, v with v 27 or 28")
    if int.from_bytes(signature[32:64], "big") > _ORDER // 2:
        raise RecordError("signature: s lies in the upper half; the signer must send the canonical form (EIP-2)")
    try:
        key = Signature(signature[:64] + bytes([signature[64] - 27])).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError):
        raise RecordError("signature: no key makes this signature; it is damaged") from None
    return str(key.to_checksum_address())


def _digest(kind: str, domain: Domain, *words: bytes) -> bytes:
    return keccak256(b"\x19\x01" + domain.separator + keccak256(keccak256(kind.encode()) + b"".join(words)))


def _uint(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:]).rjust(32, b"\0")
