"""Canonical JSON: one value, one sequence of bytes. And the checks that every decoder of this package needs."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from . import nesting
from .errors import RecordError

MAX_DEPTH = 128
"""Deepest nesting of lists and objects; three per level of a DICOM sequence."""
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def dumps(value: Any, what: str) -> bytes:
    """Encode a JSON value: sorted keys, no spaces, UTF-8, no NaN or infinity.

    Raises
    ------
    RecordError
        The value is not JSON, or is nested too deep.
    """
    _check_depth(value, what)
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{what}: cannot be written as JSON ({error}); use strings, numbers, lists, objects"
        ) from None


def loads(data: bytes, what: str) -> Any:
    """Decode canonical JSON; every other spelling of the value is refused, so that bytes and value stay one to one.

    Raises
    ------
    RecordError
    """
    try:
        nesting.check(data, MAX_DEPTH)
    except ValueError as error:
        raise RecordError(f"{what}: {error}; not written by this format") from None
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise RecordError(f"{what}: is not JSON in UTF-8; fetch it again from its source") from None
    if dumps(value, what) != data:
        raise RecordError(f"{what}: is not in canonical form; it was not written by this format")
    return value


def fields(value: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    """`value` as an object with exactly these names."""
    if not isinstance(value, dict):
        raise RecordError(f"{what}: is not a JSON object")
    missing, extra = sorted(set(names) - set(value)), sorted(set(value) - set(names))
    if missing or extra:
        absent, unknown = ", ".join(missing) or "none", ", ".join(map(repr, extra))[:80] or "none"
        raise RecordError(f"{what}: fields missing: {absent}; unknown: {unknown}")
    return value


def version(value: Any, known: int, what: str) -> None:
    """Refuse every version but `known`, by name."""
    if isinstance(value, bool) or not isinstance(value, int) or value != known:
        found = str(value)[:20]
        raise RecordError(f"{what}: version {found} is unknown, this release reads version {known}; update medprov")


def integer(value: Any, low: int, high: int, what: str) -> int:
    """`value` as an integer within [low, high]; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RecordError(f"{what}: must be an integer from {low} to {high}")
    return value


def fixed(value: Any, size: int, what: str) -> bytes:
    """`value` as exactly `size` bytes."""
    if not isinstance(value, bytes) or len(value) != size:
        raise RecordError(f"{what}: must be {size} bytes")
    return value


def text(value: Any, limit: int, what: str) -> str:
    """`value` as a string of at most `limit` characters that UTF-8 can hold."""
    if not isinstance(value, str) or len(value) > limit:
        raise RecordError(f"{what}: must be text of at most {limit} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordError(f"{what}: holds a lone surrogate, which UTF-8 cannot hold") from None
    return value


def from_hex(value: Any, what: str, size: int | None = None) -> bytes:
    """Bytes from ``0x`` and lower-case hexadecimal digits."""
    if not isinstance(value, str) or value[:2] != "0x" or not _HEX.fullmatch(value, 2):
        raise RecordError(f"{what}: must be 0x and lower-case hexadecimal digits")
    data = bytes.fromhex(value[2:])
    if size is not None and len(data) != size:
        raise RecordError(f"{what}: must be {size} bytes, is {len(data)}")
    return data


def to_hex(data: bytes) -> str:
    """``0x`` and lower-case hexadecimal digits."""
    return "0x" + data.hex()


def from_base64(value: Any, what: str) -> bytes:
    """Bytes from standard base64 with padding."""
    try:
        if not isinstance(value, str):
            raise ValueError
        data = base64.b64decode(value.encode("ascii"), validate=True)
        # the spare bits of the last digit must be zero, otherwise four spellings would give the same bytes
        if to_base64(data) != value:
            raise ValueError
    except (ValueError, binascii.Error):
        raise RecordError(f"{what}: is not base64") from None
    return data


def to_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _check_depth(value: Any, what: str) -> None:
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
        if children and depth > MAX_DEPTH:
            raise RecordError(f"{what}: nested deeper than {MAX_DEPTH} levels; flatten it")
        pending.extend((child, depth + 1) for child in children)
