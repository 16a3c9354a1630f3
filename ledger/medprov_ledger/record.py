"""One image's provenance record: what is anchored on chain, and what everybody may read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _canonical, cid, eip712
from .errors import RecordError

FORMAT = 1
_HASHES = ("key", "cover_hash", "marked_hash", "released_hash", "model")
_FIELDS = ("format", *_HASHES, "evidence_cid", "bundle_cid", "owner", "time")


@dataclass(frozen=True)
class Record:
    """Fields of the typed data ``Record``; checked when made.

    Parameters
    ----------
    key : bytes
        32 bytes, the record key, derived from the payload (:func:`medprov_ledger.sealing.payload_keys`). Not unique.
    cover_hash : bytes
        32 bytes, salted hash of the cover.
    marked_hash, released_hash : bytes
        32 bytes, content hashes of the picture with the ownership mark and of the picture that leaves the hospital.
    evidence_cid, bundle_cid : str
        CIDs of the sealed evidence and of the sealed bundle; the bundle's is empty where there is none.
    owner : str
        The hospital's chain address; stored checksummed.
    model : bytes
        32 bytes, SHA-256 of the weights that marked the picture.
    time : int
        Seconds since 1970 UTC at which the hospital sealed the record; only the anchor's block time proves anything.
    format : int

    Raises
    ------
    RecordError
    """

    key: bytes
    cover_hash: bytes
    marked_hash: bytes
    released_hash: bytes
    evidence_cid: str
    bundle_cid: str
    owner: str
    model: bytes
    time: int
    format: int = FORMAT

    def __post_init__(self) -> None:
        _canonical.version(self.format, FORMAT, "record")
        for name in _HASHES:
            _canonical.fixed(getattr(self, name), 32, f"record: {name}")
        cid.parse(self.evidence_cid)
        if self.bundle_cid != "":
            cid.parse(self.bundle_cid)
        _canonical.integer(self.time, 0, (1 << 63) - 1, "record: time")
        object.__setattr__(self, "owner", eip712.address(self.owner, "record: owner"))

    def leaf(self, domain: eip712.Domain) -> bytes:
        """The record's id, 32 bytes: its EIP-712 digest, which the batch's tree takes as leaf value."""
        return eip712.record_digest(self, domain)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; hashes as 0x and hexadecimal digits."""
        values: dict[str, Any] = {name: _canonical.to_hex(getattr(self, name)) for name in _HASHES}
        plain = {name: getattr(self, name) for name in ("format", "evidence_cid", "bundle_cid", "owner", "time")}
        return values | plain

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """The record of a JSON object; anything missing, additional or of another version is refused.

        Raises
        ------
        RecordError
        """
        if isinstance(value, dict):
            # the version first: a newer record would otherwise be refused for its unknown fields
            _canonical.version(value.get("format"), FORMAT, "record")
        values = dict(_canonical.fields(value, _FIELDS, "record"))
        for name in _HASHES:
            values[name] = _canonical.from_hex(values[name], f"record: {name}", 32)
        record = cls(**values)
        if record.owner != value["owner"]:
            raise RecordError("record: owner is not in checksummed form (EIP-55)")
        return record
