"""Typed signatures (EIP-712) of image marks and records, bound to one chain and one registry.

A signature is 65 bytes r, s, v with v = 27 or 28 and s in the lower half of the group order (EIP-2): the one form that
OpenZeppelin's ``ECDSA.recover`` accepts, so nobody can make a second valid signature from a first one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


class HashSigner(Protocol):
    """A key that signs hashes; eth-account's LocalAccount is one."""

    @property
    def address(self) -> Any:
        """Checksummed address."""

    def unsafe_sign_hash(self, message_hash: Any) -> Any:
        """Sign 32 bytes as they are; the answer has r, s and v."""


@runtime_checkable
class TypedSigner(Protocol):
    """A key that wants to see what it signs; :mod:`medprov_ledger.signer` has the classes."""

    @property
    def address(self) -> Any:
        """Checksummed address."""

    def sign_typed(self, message: TypedMessage) -> bytes:
        """Sign a message; 65 bytes r, s, v."""


Account = HashSigner | TypedSigner


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


@dataclass(frozen=True)
class TypedMessage:
    """What a signature is over.

    Parameters
    ----------
    kind : str
        The struct as EIP-712 writes it, for example :data:`RECORD_TYPE`; members are of flat types only.
    values : tuple
        Its members' values in order: int, bytes of 32 bytes, str, or an address.
    domain : Domain
    """

    kind: str
    values: tuple[int | bytes | str, ...]
    domain: Domain

    @property
    def digest(self) -> bytes:
        """The 32 bytes that are signed."""
        _, type_hash, members = _struct(self.kind)
        words = [_WORDS[kind](value) for (kind, _), value in zip(members, self.values, strict=True)]
        return keccak256(b"\x19\x01" + self.domain.separator + keccak256(b"".join([type_hash, *words])))

    def to_json(self) -> dict[str, Any]:
        """The message as wallets and signing services take it (``eth_signTypedData``)."""
        types, primary = {}, _struct(self.kind)[0]
        for kind in (DOMAIN_TYPE, self.kind):
            name, _, members = _struct(kind)
            types[name] = [{"name": member, "type": of} for of, member in members]
        message = {member: _shown(value) for (_, member), value in zip(_struct(self.kind)[2], self.values, strict=True)}
        place = {
            "name": NAME,
            "version": VERSION,
            "chainId": _shown(self.domain.chain_id),
            "verifyingContract": self.domain.registry,
        }
        return {"types": types, "primaryType": primary, "domain": place, "message": message}


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
    return _image_mark(mark, domain).digest


def record_digest(record: Record, domain: Domain) -> bytes:
    """The 32 bytes that the signature of a record is over; also the record's leaf and its id."""
    return _record(record, domain).digest


def _image_mark(mark: ImageMark, domain: Domain) -> TypedMessage:
    hashes = (mark.model, mark.payload_commitment, mark.marked_hash, mark.cover_hash, mark.rest_hash)
    if any(len(value) != 32 for value in hashes) or not 0 <= mark.format < 1 << 16:
        raise RecordError("image mark: format must fit 16 bits and every hash must be 32 bytes")
    return TypedMessage(IMAGE_MARK_TYPE, (mark.format, *hashes), domain)


def _record(record: Record, domain: Domain) -> TypedMessage:
    values = (
        record.format,
        record.key,
        record.cover_hash,
        record.marked_hash,
        record.released_hash,
        record.evidence_cid,
        record.bundle_cid,
        record.owner,
        record.model,
        record.time,
    )
    return TypedMessage(RECORD_TYPE, values, domain)


def sign_image_mark(mark: ImageMark, domain: Domain, account: Account) -> bytes:
    """Sign an image mark; 65 bytes."""
    return sign_message(_image_mark(mark, domain), account)


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
    return sign_message(_record(record, domain), account)


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
    return sign_message(TypedMessage(BATCH_TYPE, (owner, root, count, cid, deadline), domain), account)


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
    return sign_message(TypedMessage(REGISTRATION_TYPE, (record_digest(record, domain), deadline), domain), account)


def sign_message(message: TypedMessage, account: Account) -> bytes:
    """Sign a message; 65 bytes.

    Raises
    ------
    SignerError
        A remote signer does not sign it.
    """
    return account.sign_typed(message) if isinstance(account, TypedSigner) else sign(message.digest, account)


def sign(digest: bytes, account: HashSigner) -> bytes:
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


@cache
def _struct(kind: str) -> tuple[str, bytes, tuple[tuple[str, str], ...]]:
    """Name, type hash, and type and name of each member."""
    name, _, inside = kind.removesuffix(")").partition("(")
    members = [member.partition(" ") for member in inside.split(",")]
    return name, keccak256(kind.encode()), tuple((of, called) for of, _, called in members)


def _shown(value: int | bytes | str) -> int | str:
    """A value in JSON: numbers that JavaScript cannot hold are written in hexadecimal."""
    if isinstance(value, int):
        return value if value < 1 << 53 else hex(value)
    return "0x" + value.hex() if isinstance(value, bytes) else value


def _uint(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:]).rjust(32, b"\0")


def _text(value: str) -> bytes:
    return keccak256(value.encode())


_WORDS: dict[str, Callable[[Any], bytes]] = {
    "address": _address,
    "bytes32": bytes,
    "string": _text,
    "uint16": _uint,
    "uint32": _uint,
    "uint64": _uint,
    "uint256": _uint,
}
