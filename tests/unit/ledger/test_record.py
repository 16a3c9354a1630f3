"""Records: one JSON form, and everything else refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import cid, eip712
from medprov_ledger.errors import RecordError
from medprov_ledger.record import Record

OWNER = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = eip712.domain(31337, OWNER)
hashes = st.binary(min_size=32, max_size=32)
cids = st.binary(max_size=20).map(cid.of)
records = st.builds(
    Record,
    key=hashes,
    cover_hash=hashes,
    marked_hash=hashes,
    released_hash=hashes,
    evidence_cid=cids,
    bundle_cid=st.one_of(st.just(""), cids),
    owner=st.binary(min_size=20, max_size=20).map(lambda b: "0x" + b.hex()),
    model=hashes,
    time=st.integers(0, 2**63 - 1),
)
SAMPLE = Record(b"\1" * 32, b"\2" * 32, b"\3" * 32, b"\4" * 32, cid.of(b"e"), cid.of(b"b"), OWNER, b"\5" * 32, 1)


@given(records)
def test_round_trip(record: Record) -> None:
    again = Record.from_json(record.to_json())
    assert again == record
    assert again.leaf(DOMAIN) == record.leaf(DOMAIN)


@given(records, records)
def test_different_records_have_different_leaves(a: Record, b: Record) -> None:
    assert (a == b) == (a.leaf(DOMAIN) == b.leaf(DOMAIN))


def test_owner_is_stored_checksummed() -> None:
    values = SAMPLE.to_json()
    assert Record(**(vars(SAMPLE) | {"owner": OWNER.lower()})) == SAMPLE
    with pytest.raises(RecordError, match="EIP-55"):
        Record.from_json(values | {"owner": OWNER.lower()})


@pytest.mark.parametrize("version", [0, 2, 65536, "1", None, True, 1.0])
def test_unknown_versions_are_refused_by_name(version: object) -> None:
    with pytest.raises(RecordError, match=r"record: version .* is unknown, this release reads version 1"):
        Record.from_json(SAMPLE.to_json() | {"format": version, "something_new": 1})


@pytest.mark.parametrize("name", sorted(SAMPLE.to_json()))
def test_every_field_is_needed(name: str) -> None:
    values = SAMPLE.to_json()
    del values[name]
    with pytest.raises(RecordError, match=r"missing|version"):
        Record.from_json(values)


def test_extra_fields_are_refused() -> None:
    with pytest.raises(RecordError, match="unknown: 'patient'"):
        Record.from_json(SAMPLE.to_json() | {"patient": "x"})


@pytest.mark.parametrize(
    "change",
    [
        {"key": "0x12"},
        {"key": "0x" + "AB" * 32},
        {"key": "ab" * 32},
        {"key": 7},
        {"key": "0x" + "zz" * 32},
        {"evidence_cid": ""},
        {"evidence_cid": "../../etc/passwd"},
        {"bundle_cid": "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"},
        {"bundle_cid": None},
        {"owner": "hospital-a"},
        {"time": -1},
        {"time": 2**63},
        {"time": 1.5},
        {"time": True},
        {"model": "0x" + "00" * 33},
    ],
)
def test_bad_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        Record.from_json(SAMPLE.to_json() | change)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(SAMPLE.to_json())), inner),
        max_leaves=8,
    )
)
def test_any_other_json_is_refused_cleanly(value: object) -> None:
    with pytest.raises(RecordError):
        Record.from_json(value)
