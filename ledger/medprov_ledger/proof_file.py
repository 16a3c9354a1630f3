"""A record's inclusion proof as one file, for a reader without chain and store.

What the file can prove by itself is checked when it is parsed: the owner signed the record, the record is under the
root, the evidence is the one that the record names. That the root stands on the chain it can only state: whoever wrote
the file may have made up the anchor, so a reader compares it with what it knows from elsewhere
(:mod:`medprov_ledger.checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import _canonical, _files, cid, eip712, merkle
from .errors import RecordError
from .record import Record

VERSION = 1
MAX_SIZE = 1 << 27
"""Largest file, bytes; sealed evidence takes nearly all of it."""
MAX_MEMBERS = 4096
_KIND = "medprov proof"
_FIELDS = (
    "kind",
    "version",
    "chain_id",
    "registry",
    "federation_id",
    "record",
    "record_id",
    "signature",
    "batch",
    "anchor",
    "evidence",
)
_BATCH = ("root", "proof", "count", "manifest")
_ANCHOR = ("owner", "block", "block_hash", "time", "transaction", "members")
# all strings are hexadecimal digits, base32 or base64: what is left are the brackets and commas of the structure
_MOST_PARTS = 256 + MAX_MEMBERS


@dataclass(frozen=True)
class Batch:
    """Where the record stands in its owner's batch.

    Parameters
    ----------
    root : bytes
        32 bytes.
    proof : tuple of bytes
        From the leaf to the root, 32 bytes each.
    count : int
        Number of records in the batch.
    manifest : str
        CID of the batch's manifest.
    """

    root: bytes
    proof: tuple[bytes, ...]
    count: int
    manifest: str


@dataclass(frozen=True)
class StatedAnchor:
    """The anchor as the file states it. Nothing in it is proved by the file.

    Parameters
    ----------
    owner : str
        Account that anchored the root, or registered the record; checksummed.
    block : int
    block_hash : bytes
        32 bytes.
    time : int
        Time of the block, seconds since 1970.
    transaction : bytes or None
        32 bytes.
    members : tuple of str
        Active members at the end of that block, checksummed, in ascending order; the owner is one of them.
    """

    owner: str
    block: int
    block_hash: bytes
    time: int
    transaction: bytes | None
    members: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """A record with all that leads to its anchor; checked when made.

    Parameters
    ----------
    domain : Domain
        Chain and registry.
    federation_id : bytes
        32 bytes.
    record : Record
    signature : bytes or None
        65 bytes, by the record's owner; None for a record that was registered by itself, where the transaction's
        signature stands for it.
    batch : Batch or None
        None for a record that was registered by itself.
    anchor : StatedAnchor
    evidence : bytes or None
        The sealed evidence; its CID is in the record.

    Raises
    ------
    RecordError
        The parts do not belong together.
    """

    domain: eip712.Domain
    federation_id: bytes
    record: Record
    signature: bytes | None
    batch: Batch | None
    anchor: StatedAnchor
    evidence: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        owner = self.record.owner
        if self.anchor.owner != owner:
            raise RecordError(
                f"proof: the record is {owner}'s, the anchor {self.anchor.owner}'s; only the owner's proves"
            )
        if owner not in self.anchor.members:
            raise RecordError(f"proof: the owner {owner} is not among the members that it names")
        if (self.signature is None) != (self.batch is None):
            raise RecordError("proof: a record of a batch needs its owner's signature, a registered one has none")
        if self.signature is not None:
            signer = eip712.recover_record(self.record, self.signature, self.domain)
            if signer != owner:
                raise RecordError(f"proof: the record is signed by {signer} and not by its owner {owner}")
        if self.batch is not None and not merkle.verify(self.batch.root, self.record_id, self.batch.proof):
            raise RecordError(f"proof: does not lead from the record to the root {_canonical.to_hex(self.batch.root)}")
        if self.evidence is not None and cid.of(self.evidence) != self.record.evidence_cid:
            raise RecordError(f"proof: its evidence is not {self.record.evidence_cid}, which the record names")

    @property
    def record_id(self) -> bytes:
        """32 bytes, the record's leaf."""
        return self.record.leaf(self.domain)

    @property
    def anchored(self) -> bytes:
        """32 bytes, what the chain must hold for the owner: the batch's root, or the record's id."""
        return self.batch.root if self.batch is not None else self.record_id

    def without_evidence(self) -> Proof:
        """The same proof without the sealed evidence."""
        return replace(self, evidence=None)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        batch, anchor = self.batch, self.anchor
        hexed = _canonical.to_hex
        values = {
            "kind": _KIND,
            "version": VERSION,
            "chain_id": self.domain.chain_id,
            "registry": self.domain.registry,
            "federation_id": hexed(self.federation_id),
            "record": self.record.to_json(),
            "record_id": hexed(self.record_id),
            "signature": hexed(self.signature) if self.signature is not None else None,
            "batch": batch
            and {
                "root": hexed(batch.root),
                "proof": [hexed(node) for node in batch.proof],
                "count": batch.count,
                "manifest": batch.manifest,
            },
            "anchor": {
                "owner": anchor.owner,
                "block": anchor.block,
                "block_hash": hexed(anchor.block_hash),
                "time": anchor.time,
                "transaction": hexed(anchor.transaction) if anchor.transaction is not None else None,
                "members": list(anchor.members),
            },
            "evidence": _canonical.to_base64(self.evidence) if self.evidence is not None else None,
        }
        return _canonical.dumps(values, "proof")


def read(path: Path) -> Proof:
    """The proof in a file.

    Raises
    ------
    RecordError
        Names the file.
    """
    return _files.parsed(path, MAX_SIZE, parse, "name the file of 'medprov export'")


def parse(data: bytes) -> Proof:
    """Decode a proof; see :class:`Proof` for what is proved by that and what is not.

    Raises
    ------
    RecordError
        Malformed, too large, of another version, or its parts do not belong together.
    """
    if len(data) > MAX_SIZE:
        raise RecordError(f"proof: more than {MAX_SIZE} bytes")
    if not data.isascii() or sum(data.count(mark) for mark in (b"{", b"[", b",")) > _MOST_PARTS:
        # three bytes can name a list, which takes 64 in memory
        raise RecordError("proof: not written by this format; get it again from where it came")
    values = _canonical.loads(data, "proof")
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise RecordError("proof: is not a proof file; name the file of 'medprov export'")
    _canonical.version(values.get("version"), VERSION, "proof")
    _canonical.fields(values, _FIELDS, "proof")
    domain = eip712.domain(
        _canonical.integer(values["chain_id"], 1, (1 << 256) - 1, "proof: chain_id"), values["registry"]
    )
    if domain.registry != values["registry"]:
        raise RecordError("proof: registry is not in checksummed form (EIP-55)")
    signature, evidence = values["signature"], values["evidence"]
    proof = Proof(
        domain=domain,
        federation_id=_canonical.from_hex(values["federation_id"], "proof: federation_id", 32),
        record=Record.from_json(values["record"]),
        signature=None if signature is None else _canonical.from_hex(signature, "proof: signature", 65),
        batch=None if values["batch"] is None else _batch(values["batch"]),
        anchor=_anchor(values["anchor"]),
        evidence=None if evidence is None else _canonical.from_base64(evidence, "proof: evidence"),
    )
    if _canonical.from_hex(values["record_id"], "proof: record_id", 32) != proof.record_id:
        raise RecordError("proof: record_id is not that of its record")
    return proof


def _batch(value: Any) -> Batch:
    values = _canonical.fields(value, _BATCH, "proof: batch")
    nodes = values["proof"]
    if not isinstance(nodes, list) or len(nodes) > merkle.MAX_LEAVES.bit_length():
        raise RecordError("proof: the way to the root must be a list of at most 21 hashes")
    cid.parse(values["manifest"])
    return Batch(
        root=_canonical.from_hex(values["root"], "proof: root", 32),
        proof=tuple(_canonical.from_hex(node, "proof: way to the root", 32) for node in nodes),
        count=_canonical.integer(values["count"], 1, merkle.MAX_LEAVES, "proof: count"),
        manifest=values["manifest"],
    )


def _anchor(value: Any) -> StatedAnchor:
    values = _canonical.fields(value, _ANCHOR, "proof: anchor")
    members, transaction = values["members"], values["transaction"]
    if not isinstance(members, list) or len(members) > MAX_MEMBERS:
        raise RecordError(f"proof: members must be a list of at most {MAX_MEMBERS} addresses")
    checked = tuple(_address(member, "proof: member") for member in members)
    if list(checked) != sorted(set(checked)):
        raise RecordError("proof: members must be in ascending order, each once")
    return StatedAnchor(
        owner=_address(values["owner"], "proof: owner of the anchor"),
        block=_canonical.integer(values["block"], 0, (1 << 48) - 1, "proof: block"),
        block_hash=_canonical.from_hex(values["block_hash"], "proof: block_hash", 32),
        time=_canonical.integer(values["time"], 0, (1 << 48) - 1, "proof: time"),
        transaction=None if transaction is None else _canonical.from_hex(transaction, "proof: transaction", 32),
        members=checked,
    )


def _address(value: Any, what: str) -> str:
    checked = eip712.address(value, what)
    if checked != value:
        raise RecordError(f"{what}: is not in checksummed form (EIP-55)")
    return checked
