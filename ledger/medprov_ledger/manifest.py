"""The manifest of a batch: its records in the order of the tree's leaves, their signatures, and the members' directory.

Proofs are not written down: the leaves give the whole tree, so the anchored root is recomputed from all records, which
also shows that none is missing. :attr:`Manifest.tree` has each record's proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _canonical, eip712, merkle, sealing
from .errors import RecordError
from .record import Record

if TYPE_CHECKING:
    from .registry import Anchor

VERSION = 1
MAX_RECORDS = 1 << 17
# canonical JSON of a record, its signature and its 12 bytes in the directory has at most 821 bytes, and one bracket or
# comma in 56; the rest of a manifest has 389 bytes. The difference is room for later versions, to be refused by name
_FRAME, _ENTRY = 512, 832
_FRAME_PARTS, _BYTES_PER_PART = 32, 32
MAX_SIZE = _FRAME + _ENTRY * MAX_RECORDS
"""Largest manifest, bytes."""
_KIND = "medprov manifest"
_FIELDS = ("kind", "version", "chain_id", "registry", "root", "records", "directory")
_DIRECTORY_MAGIC = b"MPDI"
_DIRECTORY_HEADER = len(_DIRECTORY_MAGIC) + 2 + 4


@dataclass(frozen=True)
class SignedRecord:
    """A record and its owner's signature.

    Parameters
    ----------
    record : Record
    signature : bytes
        65 bytes.
    """

    record: Record
    signature: bytes


@dataclass(frozen=True)
class SealedDirectory:
    """A directory as it lies in the manifest.

    Parameters
    ----------
    key_id : bytes
        8 bytes, names the directory key (:func:`medprov_ledger.sealing.key_id`).
    sealed : bytes
    """

    key_id: bytes
    sealed: bytes = field(repr=False)

    def to_json(self) -> dict[str, str]:
        """A JSON object."""
        return {"key_id": _canonical.to_hex(self.key_id), "sealed": _canonical.to_base64(self.sealed)}


@dataclass(frozen=True)
class Manifest:
    """One batch; make it with :func:`build` or :func:`parse`.

    Parameters
    ----------
    domain : Domain
        Chain and registry that the signatures are for.
    root : bytes
        32 bytes.
    records : tuple of SignedRecord
    directory : SealedDirectory or None
    """

    domain: eip712.Domain
    root: bytes
    records: tuple[SignedRecord, ...]
    directory: SealedDirectory | None

    @cached_property
    def leaves(self) -> tuple[bytes, ...]:
        """The records' ids, 32 bytes each, in order."""
        return tuple(signed.record.leaf(self.domain) for signed in self.records)

    @cached_property
    def tree(self) -> merkle.Tree:
        """The batch's tree; ``tree.proofs[i]`` belongs to ``records[i]``."""
        return merkle.tree(self.leaves)

    def to_bytes(self) -> bytes:
        """Canonical JSON; what is stored in IPFS."""
        directory = self.directory
        values = {
            "kind": _KIND,
            "version": VERSION,
            "chain_id": self.domain.chain_id,
            "registry": self.domain.registry,
            "root": _canonical.to_hex(self.root),
            "records": [
                {"record": signed.record.to_json(), "signature": _canonical.to_hex(signed.signature)}
                for signed in self.records
            ],
            "directory": directory and directory.to_json(),
        }
        return _canonical.dumps(values, "manifest")


def build(
    records: Sequence[SignedRecord],
    domain: eip712.Domain,
    payloads: Sequence[bytes] | None = None,
    directory_key: bytes | None = None,
    nonce: bytes | None = None,
) -> Manifest:
    """Put a batch together.

    Parameters
    ----------
    records : sequence of SignedRecord
        All of one owner, all different.
    domain : Domain
    payloads : sequence of bytes or None
        12 bytes per record, in the same order, for the directory.
    directory_key : bytes or None
        32 bytes; None leaves the directory out.
    nonce : bytes or None
        12 bytes for the directory; None draws one. Keep the manifest's bytes: a second build differs.

    Raises
    ------
    RecordError
        A signature does not belong to its record's owner, owners differ, a record occurs twice, or the numbers differ.
    """
    if not 1 <= len(records) <= MAX_RECORDS:
        raise RecordError(f"batch of {len(records)} records: must hold 1 to {MAX_RECORDS}; split it")
    owner = records[0].record.owner
    for position, signed in enumerate(records):
        _check_signed(signed, owner, domain, f"batch: record {position}")
    root = merkle.root([signed.record.leaf(domain) for signed in records])
    directory = None
    if directory_key is not None:
        if payloads is None or len(payloads) != len(records):
            raise RecordError("batch: a directory needs one payload per record")
        aad = sealing.aad("directory", root)
        sealed = sealing.seal(directory_key, _pack(payloads), nonce or sealing.new_nonce(), aad)
        directory = SealedDirectory(sealing.key_id(directory_key), sealed)
    return Manifest(domain, root, tuple(records), directory)


def largest(count: int) -> int:
    """Most bytes that a manifest of `count` records can have; no reader needs to fetch more.

    Raises
    ------
    RecordError
        No batch has so many records.
    """
    if not 1 <= count <= MAX_RECORDS:
        raise RecordError(f"batch of {count} records: must hold 1 to {MAX_RECORDS}")
    return _FRAME + _ENTRY * count


def parse(data: bytes) -> Manifest:
    """Decode a manifest. Nothing in it is proved by this: see :func:`verify`.

    Raises
    ------
    RecordError
        Malformed, too large, or of another version.
    """
    if len(data) > MAX_SIZE:
        raise RecordError(f"manifest: {len(data)} bytes are more than {MAX_SIZE}")
    _check_shape(data)
    values = _canonical.loads(data, "manifest")
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise RecordError("manifest: is not a manifest")
    _canonical.version(values.get("version"), VERSION, "manifest")
    _canonical.fields(values, _FIELDS, "manifest")
    items = values["records"]
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_RECORDS:
        raise RecordError(f"manifest: must hold 1 to {MAX_RECORDS} records")
    chain_id = _canonical.integer(values["chain_id"], 1, (1 << 256) - 1, "manifest: chain_id")
    domain = eip712.domain(chain_id, values["registry"])
    if domain.registry != values["registry"]:
        raise RecordError("manifest: registry is not in checksummed form (EIP-55)")
    root = _canonical.from_hex(values["root"], "manifest: root", 32)
    return Manifest(domain, root, tuple(_signed(item) for item in items), _directory(values["directory"]))


def verify(manifest: Manifest, anchor: Anchor, domain: eip712.Domain) -> None:
    """Check a manifest against its anchor: the root from all records, their number, every signature, one owner.

    Whether that owner was a member at the anchor's block is the caller's question to the chain.

    Parameters
    ----------
    manifest : Manifest
    anchor : Anchor
        As the chain has it.
    domain : Domain
        The registry that has the anchor.

    Raises
    ------
    RecordError
        Says what does not fit.
    """
    what = f"manifest {anchor.cid}"
    if manifest.domain != domain:
        other = manifest.domain
        raise RecordError(f"{what}: is for chain {other.chain_id} and registry {other.registry}, not for this one")
    if len(manifest.records) != anchor.count:
        raise RecordError(f"{what}: holds {len(manifest.records)} records, the anchor says {anchor.count}")
    owner = eip712.address(anchor.owner, "anchor: owner")
    for position, signed in enumerate(manifest.records):
        _check_signed(signed, owner, domain, f"{what}: record {position}")
    if manifest.root != anchor.root or manifest.tree.root != anchor.root:
        raise RecordError(f"{what}: its records do not give the anchored root {_canonical.to_hex(anchor.root)}")


def open_directory(manifest: Manifest, *directory_keys: bytes) -> tuple[bytes, ...] | None:
    """The batch's payloads; see :func:`unseal_directory`. None where there is no directory or it has another key.

    Parameters
    ----------
    manifest : Manifest
    directory_keys : bytes
        32 bytes each, one per epoch of the federation; the directory names the one it was sealed with.
    """
    if manifest.directory is None:
        return None
    key = directory_key_of(manifest.directory.key_id, directory_keys)
    if key is None:
        return None
    return unseal_directory(manifest.directory, key, manifest.root, len(manifest.records))


def directory_key_of(key_id: bytes, directory_keys: Iterable[bytes]) -> bytes | None:
    """The key among `directory_keys` that `key_id` (8 bytes) names; None where there is none."""
    return next((key for key in directory_keys if sealing.key_id(key) == key_id), None)


def unseal_directory(directory: SealedDirectory, key: bytes, root: bytes, count: int) -> tuple[bytes, ...]:
    """The payloads of a batch, 12 bytes each, in the order of the records; the first 8 are the perceptual hash.

    They are the owner's word: a payload belongs to its record only if :func:`medprov_ledger.sealing.payload_keys`
    gives the record's key.

    Raises
    ------
    SealError
        The key does not open it.
    RecordError
        Opened, but malformed.
    """
    payloads = _unpack(sealing.open(key, directory.sealed, sealing.aad("directory", root)))
    if len(payloads) != count:
        raise RecordError(f"directory: holds {len(payloads)} payloads for {count} records")
    return payloads


def _check_shape(data: bytes) -> None:
    """Refuse what would unfold to many times its size in memory: three bytes can name a list, which takes 64.

    The strings of a manifest hold nothing but hexadecimal digits, base32 and base64, so no parser is needed to count.
    """
    if not data.isascii():
        raise RecordError("manifest: holds other letters than ASCII; not written by this format")
    parts = sum(data.count(mark) for mark in (b"{", b"[", b","))
    if parts > _FRAME_PARTS + len(data) // _BYTES_PER_PART:
        raise RecordError(f"manifest: {parts} brackets and commas in {len(data)} bytes; not written by this format")


def _check_signed(signed: SignedRecord, owner: str, domain: eip712.Domain, what: str) -> None:
    if signed.record.owner != owner:
        raise RecordError(f"{what}: belongs to {signed.record.owner}, the batch to {owner}")
    try:
        signer = eip712.recover_record(signed.record, signed.signature, domain)
    except RecordError as error:
        raise RecordError(f"{what}: {error}") from None
    if signer != owner:
        raise RecordError(f"{what}: signed by {signer} and not by its owner {owner}")


def _signed(item: Any) -> SignedRecord:
    values = _canonical.fields(item, ("record", "signature"), "manifest: entry")
    signature = _canonical.from_hex(values["signature"], "manifest: signature", 65)
    return SignedRecord(Record.from_json(values["record"]), signature)


def _directory(value: Any) -> SealedDirectory | None:
    if value is None:
        return None
    values = _canonical.fields(value, ("key_id", "sealed"), "manifest: directory")
    key_id = _canonical.from_hex(values["key_id"], "manifest: key_id", 8)
    return SealedDirectory(key_id, _canonical.from_base64(values["sealed"], "manifest: directory"))


def _pack(payloads: Sequence[bytes]) -> bytes:
    if any(len(payload) != sealing.PAYLOAD_SIZE for payload in payloads):
        raise RecordError(f"directory: a payload is not {sealing.PAYLOAD_SIZE} bytes")
    return b"".join((_DIRECTORY_MAGIC, VERSION.to_bytes(2, "big"), len(payloads).to_bytes(4, "big"), *payloads))


def _unpack(data: bytes) -> tuple[bytes, ...]:
    if len(data) < _DIRECTORY_HEADER or data[:4] != _DIRECTORY_MAGIC:
        raise RecordError("directory: truncated or not a directory of this format")
    _canonical.version(int.from_bytes(data[4:6], "big"), VERSION, "directory")
    count, size = int.from_bytes(data[6:_DIRECTORY_HEADER], "big"), sealing.PAYLOAD_SIZE
    if len(data) != _DIRECTORY_HEADER + count * size:
        raise RecordError(f"directory: {count} payloads do not fit its {len(data)} bytes; truncated or damaged")
    return tuple(data[start : start + size] for start in range(_DIRECTORY_HEADER, len(data), size))
