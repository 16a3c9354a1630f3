"""What one verification found, as a typed object and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from medprov_sdk.metadata import Metadata
from medprov_sdk.verdict import Basis, Reason, Verdict, sentence

FORMAT = 1
"""Version of the JSON form."""

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the picture as it was given; bottom and right are exclusive."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Parameters
    ----------
    name : str
    passed : bool or None
        None where it could not be looked at, or where the answer is neither good nor bad.
    detail : str
        One sentence.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Claim:
    """One anchored record of the picture.

    Parameters
    ----------
    owner : str
        Chain address.
    member : str or None
        The member's name, where the configuration knows it.
    record_id : str
        0x and 64 hexadecimal digits, the record's leaf.
    record : dict
        The record's public fields.
    transaction : str or None
    block : int
    time : int
        Time of the block, seconds since 1970.
    manifest : str
        CID of the batch's manifest; empty for a record that was registered by itself.
    """

    owner: str
    member: str | None
    record_id: str
    record: dict[str, Any]
    transaction: str | None
    block: int
    time: int
    manifest: str


@dataclass(frozen=True)
class Heat:
    """Where the picture differs from the released one.

    Parameters
    ----------
    kind : str
        ``"blocks"`` (exact grid) or ``"cells"`` (ordinal features).
    boxes : tuple of Box
        Places that differ.
    share : float
        Differing part of what was compared, 0..1.
    overlap : float
        Part of the released picture that could be compared, 0..1; of a window, for example, no more than it shows.
    """

    kind: str
    boxes: tuple[Box, ...]
    share: float
    overlap: float


@dataclass(frozen=True)
class FalseAlarm:
    """How often a picture without a mark would be taken for a marked one.

    Parameters
    ----------
    computed : float
        On evidence as strong as this picture's own, all places and angles that were tried counted; where nothing was
        found, on the weakest evidence that would have counted.
    measured : float
        Bound from counting on unmarked pictures (95 %).
    """

    computed: float
    measured: float


@dataclass(frozen=True)
class Offline:
    """What a verification with a proof file, and without the chain, rests on.

    Parameters
    ----------
    pinned : str
        What this verifier trusts that confirms the anchor, or that nothing does; one sentence.
    if_anchored : Verdict
        The verdict if the chain holds the anchor that the file states.
    stated : dict
        What is the file's word alone.
    not_known : tuple of str
        What nobody can know without the chain.
    """

    pinned: str
    if_anchored: Verdict
    stated: dict[str, Any]
    not_known: tuple[str, ...]


@dataclass(frozen=True)
class Verification:
    """The verdict and all that led to it.

    Parameters
    ----------
    verdict : Verdict
    reason : Reason
    metadata : Metadata
        Whether the header is as released; the verdict is about the pixels.
    source : str
        Name of the file, or ``"array"``.
    height, width, channels, bits : int
        Of the picture.
    content_hash : str
        0x and 64 hexadecimal digits, SHA3-256 of the samples.
    payload : str or None
        24 hexadecimal digits: perceptual hash and serial.
    corrected_bits : int
        Codeword bits that were wrong.
    presence : float
        Score of the pilots in standard deviations.
    geometry : str
        How the picture stands to the cover, for example ``"upright"`` or ``"turned 12.0 degrees"``.
    seal : str
        State of the integrity mark: intact, turned, broken or absent.
    signer : str or None
        Address that signed the integrity mark.
    record : Claim or None
        The record that the verdict rests on; with conflicting claims the one with the earlier anchor.
    claims : tuple of Claim
        All records that count, earliest anchor first.
    model : str or None
        SHA-256 of the weights that marked the picture.
    checks : tuple of Check
    proved_offline : tuple of str
        What holds without chain and store.
    heat : tuple of Heat
    false_alarm : FalseAlarm
    milliseconds : dict of str to float
        Time per stage.
    basis : Basis or None
        What says that the record is anchored; None where there is no record.
    offline : Offline or None
        Only with a proof file in place of the chain.
    """

    verdict: Verdict
    reason: Reason
    metadata: Metadata
    source: str
    height: int
    width: int
    channels: int
    bits: int
    content_hash: str
    payload: str | None
    corrected_bits: int
    presence: float
    geometry: str
    seal: str
    signer: str | None
    record: Claim | None
    claims: tuple[Claim, ...]
    model: str | None
    checks: tuple[Check, ...]
    proved_offline: tuple[str, ...]
    heat: tuple[Heat, ...]
    false_alarm: FalseAlarm
    milliseconds: dict[str, float] = field(default_factory=dict)
    basis: Basis | None = None
    offline: Offline | None = None

    @property
    def sentence(self) -> str:
        """The verdict in one or two sentences."""
        return sentence(self.verdict, self.reason)

    @property
    def owner(self) -> str | None:
        """Chain address of the record's owner."""
        return self.record.owner if self.record else None

    @property
    def member(self) -> str | None:
        """The owner's name, where known."""
        return self.record.member if self.record else None

    @property
    def transaction(self) -> str | None:
        """Hash of the transaction that anchored the record."""
        return self.record.transaction if self.record else None

    @property
    def block(self) -> int | None:
        """Block of that transaction."""
        return self.record.block if self.record else None

    @property
    def time(self) -> int | None:
        """Time of that block, seconds since 1970."""
        return self.record.time if self.record else None

    @property
    def evidence_cid(self) -> str | None:
        """CID of the sealed evidence."""
        return self._field("evidence_cid")

    @property
    def bundle_cid(self) -> str | None:
        """CID of the sealed bundle for named readers."""
        return self._field("bundle_cid")

    def _field(self, name: str) -> str | None:
        value = self.record.record.get(name) if self.record else None
        return str(value) if value else None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON types with everything above."""
        out: dict[str, Any] = {"format": FORMAT, "verdict": self.verdict.value, "sentence": self.sentence}
        out["reason"] = {"code": self.reason.value, "text": self.reason.sentence}
        found = self.metadata
        out["metadata"] = {"state": found.state.value, "differing": list(found.differing), "text": found.sentence}
        for entry in fields(self)[3:]:
            out[entry.name] = _plain(getattr(self, entry.name))
        for name in ("owner", "member", "transaction", "block", "time", "evidence_cid", "bundle_cid"):
            out[name] = getattr(self, name)
        return out


def _plain(value: Any) -> Any:
    """JSON types for dataclasses and tuples of this module."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Check, Claim, Heat, FalseAlarm, Offline)):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return value


def moment(seconds: int) -> str:
    """A time of the chain for people, UTC."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        # a chain may state any 64-bit number
        return f"{seconds} s after 1970"
