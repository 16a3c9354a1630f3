"""From what a person names a record by, its id or its record key, to the record and the proof that it exists."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import TitleError
from .index import Entry, RecordIndex, SyncReport
from .registry import Registration
from .titles import Claim

_NAME = re.compile(r"(0x)?[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Proved:
    """A record that the ledger holds.

    Parameters
    ----------
    claim : Claim
    record_id : bytes
        32 bytes.
    block, time : int
        Of the earliest anchor or of the registration; time is in seconds since 1970.
    """

    claim: Claim
    record_id: bytes
    block: int
    time: int


def look_up(index: RecordIndex, report: SyncReport, name: str) -> Proved:
    """The record that `name` stands for.

    Parameters
    ----------
    index : RecordIndex
    report : SyncReport
        Of the index's last sync: what is missing from it may be why a record is not found.
    name : str
        A record's id or its record key, 64 hexadecimal digits, with or without 0x.

    Raises
    ------
    TitleError
        Not such a name, no record of it, or several records of one key.
    """
    if not _NAME.fullmatch(name):
        raise TitleError(f"{name[:80]!r}: must be a record's id or record key, 64 hexadecimal digits")
    wanted = bytes.fromhex(name.removeprefix("0x"))
    found = _earliest([*index.by_leaf(wanted), *index.registered_by_leaf(wanted)])
    found = found or _earliest([*index.by_key(wanted), *index.registered_by_key(wanted)])
    if not found:
        missing = [one.reason for one in report.problems if one.state == "missing"]
        why = f"; {len(missing)} manifests could not be read ({missing[0]})" if missing else ""
        raise TitleError(f"0x{wanted.hex()}: no confirmed record has this id or record key{why}")
    if len(found) > 1:
        several = ", ".join(f"0x{one.record_id.hex()} of {one.claim.record.owner}" for one in found)
        raise TitleError(f"0x{wanted.hex()}: is the record key of several records, name one by its id: {several}")
    return found[0]


def _earliest(entries: list[Entry | Registration]) -> list[Proved]:
    """One per record, by its earliest proof, in the order of the chain."""
    found: dict[bytes, Proved] = {}
    for one in sorted((_proved(entry) for entry in entries), key=lambda proved: proved.block):
        found.setdefault(one.record_id, one)
    return list(found.values())


def _proved(one: Entry | Registration) -> Proved:
    if isinstance(one, Registration):
        return Proved(Claim(one.record), one.record_id, one.block, one.time)
    return Proved(Claim(one.record, one.root, one.proof), one.leaf, one.anchor.block, one.anchor.time)
