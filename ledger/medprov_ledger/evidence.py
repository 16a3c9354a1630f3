"""The evidence: what whoever holds a picture can open to find changed places. No personal data is in it.

Bytes: ``MPEV``, version (2), length of the header (4, big-endian), the header as canonical JSON, the exact grid, the
features. Sealed with the payload's evidence key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import _canonical, sealing
from .errors import RecordError, SealError

VERSION = 1
DIGEST = 8
"""Bytes kept of each block's SHA3-256 digest."""
MAX_SIDE = 1 << 17
MAX_BLOCKS = 1 << 20
MAX_FEATURES = 1 << 26
MAX_HEADER = 1 << 20

_MAGIC = b"MPEV"
_PREFIX = len(_MAGIC) + 2 + 4
_NUMBERS = ("height", "width", "channels", "bits", "block", "feature_version")
_HEADER_FIELDS = (*_NUMBERS, "features", "attribute_macs", "policy")
_MAC = 64


@dataclass(frozen=True)
class Evidence:
    """Checked when made.

    Parameters
    ----------
    height, width : int
        Of the picture, pixels.
    channels : int
        1 or 3.
    bits : int
        Bits stored per sample, 8..16.
    block : int
        Side of a grid block, pixels. Blocks at the right and lower edge may be smaller.
    grid : bytes
        8 bytes per block (SHA3-256, cut), row by row; the watermark package computes them.
    features : bytes
        Ordinal features of the blocks, in the layout of `feature_version`; opaque here.
    feature_version : int
        1..65535.
    attribute_macs : mapping of str to str
        From :func:`attribute_macs`.
    policy : mapping
        JSON object, what the hospital says about use; opaque here.
    version : int

    Raises
    ------
    RecordError
    """

    height: int
    width: int
    channels: int
    bits: int
    block: int
    grid: bytes = field(repr=False)
    features: bytes = field(repr=False)
    feature_version: int
    attribute_macs: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        _canonical.version(self.version, VERSION, "evidence")
        for name, low, high in (
            ("height", 1, MAX_SIDE),
            ("width", 1, MAX_SIDE),
            ("channels", 1, 3),
            ("bits", 8, 16),
            ("block", 1, MAX_SIDE),
            ("feature_version", 1, 65535),
        ):
            _canonical.integer(getattr(self, name), low, high, f"evidence: {name}")
        if self.channels == 2:
            raise RecordError("evidence: channels must be 1 or 3")
        rows, columns = self.blocks
        if rows * columns > MAX_BLOCKS:
            raise RecordError(f"evidence: {rows} x {columns} blocks are more than {MAX_BLOCKS}; take larger blocks")
        _canonical.fixed(self.grid, rows * columns * DIGEST, f"evidence: grid of {rows} x {columns} blocks")
        if not isinstance(self.features, bytes) or len(self.features) > MAX_FEATURES:
            raise RecordError(f"evidence: features must be at most {MAX_FEATURES} bytes")
        if not isinstance(self.policy, Mapping) or not isinstance(self.attribute_macs, Mapping):
            raise RecordError("evidence: policy and attribute_macs must be JSON objects")
        for name, mac in self.attribute_macs.items():
            _canonical.text(name, 200, "evidence: attribute name")
            if not isinstance(mac, str) or len(mac) != _MAC or set(mac) - set("0123456789abcdef"):
                raise RecordError(f"evidence: the code of attribute {name!r} must be {_MAC} hexadecimal digits")

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return -(-self.height // self.block), -(-self.width // self.block)

    def to_bytes(self) -> bytes:
        """The one encoding of this evidence.

        Raises
        ------
        RecordError
            The policy is not JSON or the header is too large.
        """
        values = {name: getattr(self, name) for name in _NUMBERS} | {"features": len(self.features)}
        values |= {"attribute_macs": dict(self.attribute_macs), "policy": dict(self.policy)}
        header = _canonical.dumps(values, "evidence")
        if len(header) > MAX_HEADER:
            raise RecordError(f"evidence: policy and attributes take {len(header)} bytes, at most {MAX_HEADER} fit")
        return b"".join(
            (_MAGIC, self.version.to_bytes(2, "big"), len(header).to_bytes(4, "big"), header, self.grid, self.features)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Decode; every byte is accounted for.

        Raises
        ------
        RecordError
        """
        if len(data) < _PREFIX or data[: len(_MAGIC)] != _MAGIC:
            raise RecordError("evidence: truncated or not evidence of this format")
        _canonical.version(int.from_bytes(data[4:6], "big"), VERSION, "evidence")
        length = int.from_bytes(data[6:_PREFIX], "big")
        if length > MAX_HEADER or _PREFIX + length > len(data):
            raise RecordError(f"evidence: a header of {length} bytes does not fit; truncated or damaged")
        header = _canonical.loads(data[_PREFIX : _PREFIX + length], "evidence")
        values = dict(_canonical.fields(header, _HEADER_FIELDS, "evidence"))
        count = _canonical.integer(values["features"], 0, MAX_FEATURES, "evidence: features")
        split = len(data) - count
        if split < _PREFIX + length:
            raise RecordError(f"evidence: {count} bytes of features do not fit; truncated or damaged")
        return cls(**(values | {"grid": data[_PREFIX + length : split], "features": data[split:]}))


def seal(evidence: Evidence, keys: sealing.PayloadKeys, nonce: bytes) -> bytes:
    """Encrypt evidence with its payload's key; what is stored in IPFS."""
    return sealing.seal(keys.evidence_key, evidence.to_bytes(), nonce, sealing.aad("evidence", keys.record_key))


def open(sealed: bytes, keys: sealing.PayloadKeys) -> Evidence:
    """Decrypt evidence.

    Raises
    ------
    SealError
        Another payload's, changed or truncated.
    RecordError
        Opened, but malformed.
    """
    return Evidence.from_bytes(sealing.open(keys.evidence_key, sealed, sealing.aad("evidence", keys.record_key)))


def attribute_macs(evidence_key: bytes, attributes: Mapping[str, str]) -> dict[str, str]:
    """HMAC-SHA256 codes of named attributes, under a key that only the payload gives.

    Parameters
    ----------
    evidence_key : bytes
        32 bytes.
    attributes : mapping of str to str
        Name to the value's text, for example ``{"StudyInstanceUID": "1.2.3"}``; the caller fixes the spelling.

    Returns
    -------
    dict of str to str
        64 hexadecimal digits each.
    """
    if len(evidence_key) != sealing.KEY_SIZE:
        raise SealError(f"attributes: the evidence key must be {sealing.KEY_SIZE} bytes")
    key = sealing.derive(evidence_key, "attributes")
    return {name: _mac(key, name, value) for name, value in attributes.items()}


def differing_attributes(evidence_key: bytes, macs: Mapping[str, str], attributes: Mapping[str, str]) -> list[str]:
    """Names whose value in `attributes` is missing or is not the one that `macs` was made from; sorted."""
    found = attribute_macs(evidence_key, {name: value for name, value in attributes.items() if name in macs})
    return sorted(name for name, mac in macs.items() if not _same(found.get(name, ""), mac))


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode("utf-8"), b.encode("utf-8"))


def _mac(key: bytes, name: str, value: str) -> str:
    # the name's length stands in front, so that no name and value can be shifted into another pair
    label = _canonical.text(name, 200, "attribute name").encode("utf-8")
    content = _canonical.text(value, 1 << 24, f"attribute {name}").encode("utf-8")
    return hmac.new(key, len(label).to_bytes(2, "big") + label + content, hashlib.sha256).hexdigest()
