"""Evidence: the codec, hostile bytes, attribute codes, and who cannot open it."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import evidence, sealing
from medprov_ledger.errors import RecordError, SealError
from medprov_ledger.evidence import Evidence

KEYS = sealing.PayloadKeys(b"\1" * 32, b"\2" * 32)
NONCE = b"\3" * 12


def sample(**changes: object) -> Evidence:
    values = {
        "height": 40,
        "width": 70,
        "channels": 1,
        "bits": 12,
        "block": 32,
        "grid": bytes(range(48)),
        "features": b"\xaa\xbb\xcc",
        "feature_version": 1,
        "attribute_macs": evidence.attribute_macs(KEYS.evidence_key, {"StudyInstanceUID": "1.2.3"}),
        "policy": {"roi": "strict", "gain": 7},
    }
    return Evidence(**(values | changes))  # type: ignore[arg-type]


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    height, width, block = (draw(st.integers(1, high)) for high in (300, 300, 64))
    blocks = -(-height // block) * -(-width // block)
    json_values = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    )
    return Evidence(
        height,
        width,
        draw(st.sampled_from([1, 3])),
        draw(st.integers(8, 16)),
        block,
        draw(st.binary(min_size=1, max_size=1)) * (8 * blocks),
        draw(st.binary(max_size=50)),
        draw(st.integers(1, 65535)),
        draw(st.dictionaries(st.text(max_size=20), st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=3)),
        draw(st.dictionaries(st.text(max_size=9), json_values | st.lists(json_values, max_size=3), max_size=4)),
    )


@given(evidences())
def test_round_trip(made: Evidence) -> None:
    data = made.to_bytes()
    again = Evidence.from_bytes(data)
    assert again == made
    assert again.to_bytes() == data


def test_order_of_keys_does_not_change_the_bytes() -> None:
    assert sample(policy={"a": 1, "b": 2}).to_bytes() == sample(policy={"b": 2, "a": 1}).to_bytes()


@given(st.data())
def test_a_flipped_byte_never_passes_for_the_same_evidence(data: st.DataObject) -> None:
    spoiled = bytearray(sample().to_bytes())
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        assert Evidence.from_bytes(bytes(spoiled)) != sample()


@given(st.data())
def test_truncated_and_extended_bytes_are_refused(data: st.DataObject) -> None:
    whole = sample().to_bytes()
    with pytest.raises(RecordError):
        Evidence.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(RecordError):
        Evidence.from_bytes(whole + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"MPEV\0\1\0\0\0" + b))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RecordError):
        Evidence.from_bytes(noise)


def test_unknown_version_is_refused_by_name() -> None:
    data = sample().to_bytes()
    with pytest.raises(RecordError, match="evidence: version 2 is unknown, this release reads version 1"):
        Evidence.from_bytes(data[:4] + b"\0\2" + data[6:])


def encoded(header: object, rest: bytes = b"") -> bytes:
    body = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return b"MPEV\0\1" + len(body).to_bytes(4, "big") + body + rest


def header(**changes: object) -> dict[str, object]:
    data = sample().to_bytes()
    length = int.from_bytes(data[6:10], "big")
    return dict(json.loads(data[10 : 10 + length])) | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 10**30},
        {"height": 0},
        {"height": 131072, "width": 131072, "block": 1},
        {"block": 0},
        {"block": -32},
        {"channels": 2},
        {"channels": True},
        {"bits": 17},
        {"features": 10**9},
        {"features": -1},
        {"features": 1.0},
        {"feature_version": 0},
        {"policy": []},
        {"attribute_macs": None},
        {"attribute_macs": {"x": "zz" * 32}},
        {"attribute_macs": {"x": 1}},
        {"surprise": 1},
    ],
)
def test_hostile_headers_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RecordError, match="evidence"):
        Evidence.from_bytes(encoded(header(**changes), sample().grid + sample().features))


def test_other_spellings_of_the_header_are_refused() -> None:
    rest = sample().grid + sample().features
    assert Evidence.from_bytes(encoded(header(), rest)) == sample()
    body = json.dumps(header(), sort_keys=True).encode()
    with pytest.raises(RecordError, match="canonical"):
        Evidence.from_bytes(b"MPEV\0\1" + len(body).to_bytes(4, "big") + body + rest)
    body = b'{"bits":8,' + encoded(header())[11:]
    with pytest.raises(RecordError, match="canonical"):
        Evidence.from_bytes(b"MPEV\0\1" + len(body).to_bytes(4, "big") + body + rest)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 150_000, b'["]",' * 129, b'"' + b'\\"' * 200_000, b'"\\'])
def test_hostile_json_is_refused_cleanly(body: bytes) -> None:
    # as py-evm does when it is imported; the JSON parser's own guard is gone then
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(RecordError, match=r"nested deeper|is not JSON"):
            Evidence.from_bytes(b"MPEV\0\1" + len(body).to_bytes(4, "big") + body)
    finally:
        sys.setrecursionlimit(before)


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(RecordError, match="is not JSON"):
        Evidence.from_bytes(b"MPEV\0\1" + (4).to_bytes(4, "big") + b"\xff\xfe\xfd\xfc")


def test_nesting_up_to_the_limit_is_kept_and_brackets_in_text_do_not_count() -> None:
    policy: dict[str, object] = {"text": '[{"' * 500}
    for _ in range(126):  # with the policy itself and the header: 128
        policy = {"deeper": policy}
    made = sample(policy=policy)
    assert Evidence.from_bytes(made.to_bytes()) == made
    with pytest.raises(RecordError, match="nested deeper"):
        sample(policy={"deeper": policy}).to_bytes()
    circle: dict[str, object] = {}
    circle["again"] = circle
    with pytest.raises(RecordError, match="nested deeper"):
        sample(policy=circle).to_bytes()


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"grid": b""}, "grid of 2 x 3 blocks"),
        ({"grid": bytes(47)}, "48 bytes"),
        ({"block": 16}, "grid"),
        ({"features": "text"}, "features"),
        ({"policy": "strict"}, "policy"),
        ({"version": 2}, "version 2 is unknown"),
    ],
)
def test_impossible_evidence_cannot_be_made(changes: dict[str, object], why: str) -> None:
    with pytest.raises(RecordError, match=why):
        sample(**changes)


@pytest.mark.parametrize("policy", [{"x": float("nan")}, {"x": {1, 2}}, {"x": "\ud800"}, {"x": "y" * (1 << 20)}])
def test_a_policy_that_is_not_json_is_refused(policy: dict[str, object]) -> None:
    with pytest.raises(RecordError, match="evidence"):
        sample(policy=policy).to_bytes()


def test_seal_and_open() -> None:
    sealed = evidence.seal(sample(), KEYS, NONCE)
    assert evidence.open(sealed, KEYS) == sample()
    assert evidence.seal(sample(), KEYS, NONCE) == sealed


def test_who_has_not_the_payload_cannot_open() -> None:
    """Everybody knows the record key; it does not help. Neither does another payload of the same federation."""
    sealed = evidence.seal(sample(), KEYS, NONCE)
    assert sample().grid not in sealed and b"StudyInstanceUID" not in sealed
    for key in (KEYS.record_key, sealing.derive(KEYS.record_key, "evidence"), b"\0" * 32):
        with pytest.raises(SealError):
            evidence.open(sealed, replace(KEYS, evidence_key=key))
    federation = b"\x11" * 32
    mine, other = (sealing.payload_keys(payload, federation) for payload in (b"a" * 12, b"b" * 12))
    with pytest.raises(SealError):
        evidence.open(evidence.seal(sample(), mine, NONCE), other)


def test_evidence_of_one_record_does_not_open_as_another_s() -> None:
    with pytest.raises(SealError):
        evidence.open(evidence.seal(sample(), KEYS, NONCE), replace(KEYS, record_key=b"\7" * 32))


ATTRIBUTES = {"StudyInstanceUID": "1.2.3", "Laterality": "L", "PatientID": "Ümlaut"}


def test_attributes_that_agree_and_differ() -> None:
    macs = evidence.attribute_macs(KEYS.evidence_key, ATTRIBUTES)
    assert evidence.differing_attributes(KEYS.evidence_key, macs, ATTRIBUTES) == []
    assert evidence.differing_attributes(KEYS.evidence_key, macs, ATTRIBUTES | {"Laterality": "R"}) == ["Laterality"]
    assert evidence.differing_attributes(KEYS.evidence_key, macs, {"Unlisted": "x"}) == sorted(ATTRIBUTES)
    assert evidence.differing_attributes(b"\4" * 32, macs, ATTRIBUTES) == sorted(ATTRIBUTES)


def test_attribute_codes_cannot_be_guessed_without_the_key_or_shifted() -> None:
    macs = evidence.attribute_macs(KEYS.evidence_key, {"ab": "c", "a": "bc"})
    assert macs["ab"] != macs["a"]
    assert evidence.attribute_macs(b"\4" * 32, {"a": "bc"})["a"] != macs["a"]
    assert evidence.attribute_macs(KEYS.evidence_key, {"b": "bc"})["b"] != macs["a"]


def test_malformed_attributes_are_refused() -> None:
    with pytest.raises(RecordError, match="attribute name"):
        evidence.attribute_macs(KEYS.evidence_key, {"x" * 201: ""})
    with pytest.raises(RecordError, match="surrogate"):
        evidence.attribute_macs(KEYS.evidence_key, {"x": "\ud800"})
    with pytest.raises(SealError, match="32"):
        evidence.attribute_macs(b"short", {})
