"""medprov_ledger.title_claims"""

from __future__ import annotations

import os
from typing import Any

import pytest

from medprov_ledger import cid
from medprov_ledger.errors import TitleError
from medprov_ledger.index import Entry, Problem, SyncReport
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, Registration
from medprov_ledger.title_claims import look_up
from medprov_ledger.titles import Claim

OWNERS = ("0x" + "11" * 20, "0x" + "22" * 20)
NOTHING_MISSING = SyncReport(0, 0, ())


def record(owner: str = OWNERS[0], **changes: Any) -> Record:
    values = {name: os.urandom(32) for name in ("key", "cover_hash", "marked_hash", "released_hash", "model")}
    values |= {"evidence_cid": cid.of(b"evidence"), "bundle_cid": "", "owner": owner, "time": 1_800_000_000}
    return Record(**(values | changes))


def entry(some: Record, leaf: bytes, block: int) -> Entry:
    root = os.urandom(32)
    return Entry(some, b"s" * 65, leaf, (b"p" * 32,), root, Anchor(root, some.owner, block, 1000 + block, 2, "bafy"))


class Index:
    """Look-ups in a list."""

    def __init__(self, *known: Entry | Registration) -> None:
        self.entries = [one for one in known if isinstance(one, Entry)]
        self.registrations = [one for one in known if isinstance(one, Registration)]

    def by_leaf(self, leaf: bytes) -> list[Entry]:
        return [one for one in self.entries if one.leaf == leaf]

    def by_key(self, key: bytes) -> list[Entry]:
        return [one for one in self.entries if one.record.key == key]

    def registered_by_leaf(self, leaf: bytes) -> list[Registration]:
        return [one for one in self.registrations if one.record_id == leaf]

    def registered_by_key(self, key: bytes) -> list[Registration]:
        return [one for one in self.registrations if one.record.key == key]


def find(name: bytes | str, *known: Entry | Registration, report: SyncReport = NOTHING_MISSING) -> Any:
    return look_up(Index(*known), report, name if isinstance(name, str) else name.hex())  # type: ignore[arg-type]


def test_by_id_and_by_key_with_the_earliest_proof() -> None:
    one, leaf = record(), os.urandom(32)
    late, early = entry(one, leaf, 9), entry(one, leaf, 4)
    for name in (leaf, one.key, "0x" + leaf.hex().upper(), "0x" + one.key.hex()):
        found = find(name, late, early, entry(record(), os.urandom(32), 1))
        assert (found.claim, found.record_id) == (Claim(one, early.root, early.proof), leaf)
        assert (found.block, found.time) == (4, 1004)


def test_what_was_registered_by_itself_needs_no_proof() -> None:
    one, leaf = record(), os.urandom(32)
    registered = Registration(leaf, one, 3, 77, "0x1")
    for name in (leaf, one.key):
        found = find(name, registered, entry(one, leaf, 5))
        assert (found.claim, found.block, found.time) == (Claim(one), 3, 77)


def test_a_key_of_several_records_is_refused_and_all_are_named() -> None:
    first, leaves = record(), [os.urandom(32) for _ in range(2)]
    second = record(OWNERS[1], key=first.key)
    known = [entry(second, leaves[1], 7), entry(first, leaves[0], 2)]
    with pytest.raises(TitleError) as caught:
        find(first.key, *known)
    assert f"0x{leaves[0].hex()} of {OWNERS[0]}, 0x{leaves[1].hex()} of {OWNERS[1]}" in str(caught.value)
    assert find(leaves[1], *known).claim.record == second


def test_an_unknown_record_says_what_could_not_be_read() -> None:
    with pytest.raises(TitleError, match="no confirmed record") as caught:
        find(bytes(32))
    assert "manifests" not in str(caught.value)
    bad, missing = (Problem(OWNERS[0], bytes(32), "bafy", state, f"why {state}") for state in ("bad", "missing"))
    with pytest.raises(TitleError, match=r"1 manifests could not be read \(why missing\)"):
        find(bytes(32), report=SyncReport(0, 0, (bad, missing)))


@pytest.mark.parametrize("name", ["", "0x", "12", "g" * 64, "0x" + "1" * 63, "1" * 65, "\n" + "1" * 64, "é" * 64])
def test_what_names_no_record(name: str) -> None:
    with pytest.raises(TitleError, match="64 hexadecimal digits") as caught:
        find(name)
    assert "\n" not in str(caught.value)
