"""A checkpoint: the registry's anchors up to one block, signed by members, for readers who cannot ask the chain.

It says in one file what a proof file cannot prove by itself: which roots stood on the chain, under whose account and
since when, and which records were revoked by then. A reader who knows some members' accounts takes it when enough of
them have signed it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from . import _canonical, _files, eip712
from .errors import RecordError
from .merkle import keccak256

VERSION = 1
MAX_SIZE = 1 << 28
"""Largest file, bytes; an anchor takes less than 200."""
MAX_SIGNATURES = 4096
TYPE = "Checkpoint(bytes32 federationId,uint64 blockNumber,bytes32 blockHash,bytes32 content)"
_KIND = "medprov checkpoint"
_FIELDS = (
    "kind",
    "version",
    "chain_id",
    "registry",
    "federation_id",
    "block",
    "block_hash",
    "time",
    "anchors",
    "revoked",
)
_BYTES_PER_PART, _FRAME_PARTS = 16, 64
_Sorted = TypeVar("_Sorted", bytes, "Anchored")


@dataclass(frozen=True, order=True)
class Anchored:
    """What an account anchored.

    Parameters
    ----------
    block : int
    owner : str
        Checksummed.
    root : bytes
        32 bytes: a batch's root, or the id of a record that was registered by itself.
    time : int
        Time of the block, seconds since 1970.
    """

    block: int
    owner: str
    root: bytes
    time: int


@dataclass(frozen=True)
class Checkpoint:
    """The anchors of one registry up to a block.

    Parameters
    ----------
    domain : Domain
    federation_id : bytes
        32 bytes.
    block : int
        Last block that was looked at.
    block_hash : bytes
        32 bytes.
    time : int
        Time of that block, seconds since 1970.
    anchors : tuple of Anchored
        In ascending order, each once.
    revoked : tuple of bytes
        Ids of the records that were revoked by then, 32 bytes each, in ascending order.
    signatures : tuple of bytes
        65 bytes each, in ascending order.
    """

    domain: eip712.Domain
    federation_id: bytes
    block: int
    block_hash: bytes
    time: int
    anchors: tuple[Anchored, ...]
    revoked: tuple[bytes, ...]
    signatures: tuple[bytes, ...] = ()

    @property
    def message(self) -> eip712.TypedMessage:
        """What members sign; its content is the Keccak-256 of all but the signatures."""
        content = keccak256(_canonical.dumps(self._content(), "checkpoint"))
        return eip712.TypedMessage(TYPE, (self.federation_id, self.block, self.block_hash, content), self.domain)

    def sign(self, account: eip712.Account) -> Checkpoint:
        """The same checkpoint with this account's signature; twice is once."""
        signature = eip712.sign_message(self.message, account)
        return replace(self, signatures=tuple(sorted({*self.signatures, signature})))

    def signers(self) -> frozenset[str]:
        """The accounts that have signed it, checksummed. Any signature is of some account: compare them."""
        digest = self.message.digest
        return frozenset(eip712.recover(digest, signature) for signature in self.signatures)

    def accept(self, members: Collection[str], threshold: int) -> None:
        """Check that enough of these accounts have signed.

        Raises
        ------
        RecordError
        """
        signed = self.signers() & set(members)
        if threshold < 1 or len(signed) < threshold:
            raise RecordError(
                f"checkpoint: signed by {len(signed)} of the {len(set(members))} members that this verifier knows, "
                f"{threshold} are needed; have more of them sign it"
            )

    def anchor(self, owner: str, root: bytes) -> Anchored | None:
        """An account's anchor; None where it had none by then."""
        return next((one for one in self.anchors if (one.owner, one.root) == (owner, root)), None)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        signatures = [_canonical.to_hex(signature) for signature in self.signatures]
        return _canonical.dumps(self._content() | {"signatures": signatures}, "checkpoint")

    def _content(self) -> dict[str, Any]:
        hexed = _canonical.to_hex
        return {
            "kind": _KIND,
            "version": VERSION,
            "chain_id": self.domain.chain_id,
            "registry": self.domain.registry,
            "federation_id": hexed(self.federation_id),
            "block": self.block,
            "block_hash": hexed(self.block_hash),
            "time": self.time,
            "anchors": [[one.block, one.owner, hexed(one.root), one.time] for one in self.anchors],
            "revoked": [hexed(one) for one in self.revoked],
        }


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises
    ------
    RecordError
        Names the file.
    """
    return _files.parsed(path, MAX_SIZE, parse, "name the file of a checkpoint")


def parse(data: bytes) -> Checkpoint:
    """Decode a checkpoint. Whose signatures count is the caller's to say: :meth:`Checkpoint.accept`.

    Raises
    ------
    RecordError
        Malformed, too large, or of another version.
    """
    if len(data) > MAX_SIZE:
        raise RecordError(f"checkpoint: more than {MAX_SIZE} bytes")
    parts = sum(data.count(mark) for mark in (b"{", b"[", b","))
    if not data.isascii() or parts > _FRAME_PARTS + len(data) // _BYTES_PER_PART:
        raise RecordError("checkpoint: not written by this format; get it again from where it came")
    values = _canonical.loads(data, "checkpoint")
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise RecordError("checkpoint: is not a checkpoint file; name the file of 'medprov checkpoint'")
    _canonical.version(values.get("version"), VERSION, "checkpoint")
    _canonical.fields(values, (*_FIELDS, "signatures"), "checkpoint")
    domain = eip712.domain(
        _canonical.integer(values["chain_id"], 1, (1 << 256) - 1, "checkpoint: chain_id"), values["registry"]
    )
    if domain.registry != values["registry"]:
        raise RecordError("checkpoint: registry is not in checksummed form (EIP-55)")
    block = _canonical.integer(values["block"], 0, (1 << 48) - 1, "checkpoint: block")
    signatures = _list(values["signatures"], "checkpoint: signatures")
    if len(signatures) > MAX_SIGNATURES:
        raise RecordError(f"checkpoint: more than {MAX_SIGNATURES} signatures")
    return Checkpoint(
        domain=domain,
        federation_id=_canonical.from_hex(values["federation_id"], "checkpoint: federation_id", 32),
        block=block,
        block_hash=_canonical.from_hex(values["block_hash"], "checkpoint: block_hash", 32),
        time=_canonical.integer(values["time"], 0, (1 << 48) - 1, "checkpoint: time"),
        anchors=_ascending(
            [_anchored(one, block) for one in _list(values["anchors"], "checkpoint: anchors")], "checkpoint: anchors"
        ),
        revoked=_ascending(
            [_canonical.from_hex(one, "checkpoint: revoked", 32) for one in _list(values["revoked"], "checkpoint")],
            "checkpoint: revoked",
        ),
        signatures=_ascending(
            [_canonical.from_hex(one, "checkpoint: signature", 65) for one in signatures], "checkpoint: signatures"
        ),
    )


def _anchored(value: Any, last: int) -> Anchored:
    if not isinstance(value, list) or len(value) != 4:
        raise RecordError("checkpoint: an anchor must be a list of block, owner, root and time")
    block, owner, root, time = value
    checked = eip712.address(owner, "checkpoint: owner")
    if checked != owner:
        raise RecordError("checkpoint: an owner is not in checksummed form (EIP-55)")
    return Anchored(
        block=_canonical.integer(block, 0, last, "checkpoint: block of an anchor"),
        owner=checked,
        root=_canonical.from_hex(root, "checkpoint: root", 32),
        time=_canonical.integer(time, 0, (1 << 48) - 1, "checkpoint: time of an anchor"),
    )


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"{what}: must be a list")
    return value


def _ascending(values: list[_Sorted], what: str) -> tuple[_Sorted, ...]:
    if values != sorted(set(values)):
        raise RecordError(f"{what}: must be in ascending order, each once")
    return tuple(values)
