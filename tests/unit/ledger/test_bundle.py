"""The private bundle: the codec, wraps, erasure, and who cannot open it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import ECC
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import bundle, cid, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap, WrapFolder, Wraps
from medprov_ledger.errors import RecordError, SealError

RECORD_KEY = b"\1" * 32


def reader(number: int) -> ECC.EccKey:
    seed: Any = bytes([number]) * 32  # the annotation of `seed` knows no bytes, the function takes them
    return ECC.construct(curve="Curve25519", seed=seed)


DOCTOR, AUDITOR, STRANGER = (reader(number) for number in (1, 2, 3))
SAMPLE = Bundle(b"\5" * 16, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}, {"reason": "study 7"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
bundles = st.builds(
    Bundle,
    st.binary(min_size=16, max_size=16),
    st.dictionaries(st.text(max_size=9), json_values, max_size=3),
    st.dictionaries(st.text(max_size=9), st.text(max_size=20), max_size=3),
)


def public(key: ECC.EccKey) -> bytes:
    return bytes(key.public_key().export_key(format="raw"))


@given(bundles)
def test_round_trip(made: Bundle) -> None:
    data = made.to_bytes()
    assert Bundle.from_bytes(data) == made
    assert Bundle.from_bytes(data).to_bytes() == data


@given(st.data())
def test_damaged_bytes_never_pass_for_the_same_bundle(data: st.DataObject) -> None:
    whole = SAMPLE.to_bytes()
    with pytest.raises(RecordError):
        Bundle.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    spoiled = bytearray(whole)
    spoiled[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        assert Bundle.from_bytes(bytes(spoiled)) != SAMPLE


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda b: b"MPBU\0\1" + b))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RecordError):
        Bundle.from_bytes(noise)


def test_unknown_version_is_refused_by_name() -> None:
    data = SAMPLE.to_bytes()
    with pytest.raises(RecordError, match="bundle: version 513 is unknown, this release reads version 1"):
        Bundle.from_bytes(data[:4] + b"\2\1" + data[6:])


@pytest.mark.parametrize(
    "arguments", [(b"short", {}, {}), (b"\5" * 16, [], {}), (b"\5" * 16, {}, {"a": 1}), (b"\5" * 16, {}, {}, 2)]
)
def test_impossible_bundles_cannot_be_made(arguments: tuple[object, ...]) -> None:
    with pytest.raises(RecordError, match="bundle"):
        Bundle(*arguments)  # type: ignore[arg-type]


def test_metadata_that_is_not_json_is_refused() -> None:
    with pytest.raises(RecordError, match="JSON"):
        Bundle(b"\5" * 16, {"pixels": b"raw"}).to_bytes()


def test_a_bundle_shows_nothing_private_when_printed() -> None:
    assert "Doe" not in repr(SAMPLE) and "0505" not in repr(SAMPLE) and "study" not in repr(SAMPLE)


def test_named_readers_open() -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR), public(AUDITOR)])
    assert bundle.open(sealed, wraps, DOCTOR) == bundle.open(sealed, wraps, AUDITOR) == SAMPLE
    assert b"Doe" not in sealed


def test_who_is_not_named_cannot_open() -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    with pytest.raises(SealError, match="is not named"):
        bundle.open(sealed, wraps, STRANGER)
    # taking a named reader's entry as one's own does not help
    stolen = Wraps(RECORD_KEY, {sealing.fingerprint(public(STRANGER)): next(iter(wraps.keys.values()))})
    with pytest.raises(SealError, match="not for this reader"):
        bundle.open(sealed, stolen, STRANGER)


def test_holding_the_image_does_not_open_the_bundle() -> None:
    """The payload's keys open the evidence, not the bundle."""
    keys = sealing.payload_keys(b"payload-data", b"\x11" * 32)
    sealed, _ = bundle.seal(SAMPLE, keys.record_key, [public(DOCTOR)])
    for key in (keys.evidence_key, keys.record_key, sealing.derive(keys.evidence_key, "bundle")):
        with pytest.raises(SealError):
            sealing.open(key, sealed, sealing.aad("bundle", keys.record_key))


def test_a_key_of_one_record_does_not_open_another_s_bundle() -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    other_sealed, other_wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    with pytest.raises(SealError):
        bundle.open(sealed, other_wraps, DOCTOR)
    with pytest.raises(SealError):
        bundle.open(sealed, Wraps(b"\2" * 32, wraps.keys), DOCTOR)
    assert sealed != other_sealed


def test_a_bundle_without_reader_is_refused() -> None:
    with pytest.raises(SealError, match="no reader"):
        bundle.seal(SAMPLE, RECORD_KEY, [])


def test_only_a_reader_adds_a_reader() -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    with pytest.raises(SealError, match="is not named"):
        bundle.add_reader(wraps, STRANGER, public(STRANGER))
    more = bundle.add_reader(wraps, DOCTOR, public(AUDITOR))
    assert bundle.open(sealed, more, AUDITOR) == bundle.open(sealed, more, DOCTOR) == SAMPLE


@settings(max_examples=20)
@given(
    st.dictionaries(st.binary(min_size=16, max_size=16).map(bytes.hex), st.binary(min_size=80, max_size=80), max_size=3)
)
def test_wraps_round_trip(keys: dict[str, bytes]) -> None:
    wraps = Wraps(RECORD_KEY, keys)
    assert Wraps.from_bytes(wraps.to_bytes()) == wraps


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys":[],"record_key":"0x' + b"01" * 32 + b'","version":1}',
        b'{"keys":{},"record_key":"0x01","version":1}',
        b'{"keys":{"a":"?"},"record_key":"0x' + b"01" * 32 + b'","version":1}',
        b'{"keys":{"a":7},"record_key":"0x' + b"01" * 32 + b'","version":1}',
    ],
)
def test_malformed_wraps_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        Wraps.from_bytes(data)


def test_unknown_version_of_wraps_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match="wraps: version 9 is unknown"):
        Wraps.from_bytes(b'{"keys":{},"record_key":"0x' + b"01" * 32 + b'","version":9}')


def test_folder_keeps_and_erases(tmp_path: Path) -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    name = cid.of(sealed)
    folder = WrapFolder(tmp_path / "state" / "wraps")
    folder.save(name, wraps)
    assert WrapFolder(folder.path).load(name) == wraps
    assert bundle.open(sealed, folder.load(name), DOCTOR) == SAMPLE
    if os.name == "posix":
        assert all(file.stat().st_mode & 0o077 == 0 for file in folder.path.iterdir())
    folder.erase(name)
    folder.erase(name)
    assert list(folder.path.iterdir()) == []
    with pytest.raises(SealError, match="was erased"):
        folder.load(name)


def test_folder_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="CID"):
        WrapFolder(tmp_path).load("../../etc/passwd")


def test_folder_reports_damage_and_unwritable_places(tmp_path: Path) -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    name = cid.of(sealed)
    folder = WrapFolder(tmp_path)
    folder.save(name, wraps)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RecordError, match="wraps"):
        folder.load(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(SealError, match="cannot store"):
        WrapFolder(tmp_path / "file" / "wraps").save(name, wraps)


HANDED = ReaderWrap(cid.of(b"sealed"), RECORD_KEY, "ab" * 16, b"\7" * 80)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16), st.binary(min_size=80, max_size=80))
def test_wrap_that_is_handed_over_round_trip(record_key: bytes, reader: bytes, key: bytes) -> None:
    made = ReaderWrap(cid.of(key), record_key, reader.hex(), key)
    assert ReaderWrap.from_bytes(made.to_bytes()) == made
    assert ReaderWrap.from_bytes(made.to_bytes()).to_bytes() == made.to_bytes()


@given(st.data())
def test_a_damaged_wrap_never_passes_for_the_same(data: st.DataObject) -> None:
    whole = HANDED.to_bytes()
    with pytest.raises(RecordError):
        ReaderWrap.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    spoiled = bytearray(whole)
    spoiled[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        found = ReaderWrap.from_bytes(bytes(spoiled))
        assert found != HANDED and found.to_bytes() == bytes(spoiled)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"kind": "medprov manifest"}, "is not a wrapped key"),
        ({"version": 2}, "wrap: version 2 is unknown"),
        ({"version": 2, "news": 1}, "wrap: version 2 is unknown"),
        ({"version": True}, "version True is unknown"),
        ({"news": 1}, "unknown: 'news'"),
        ({"bundle": "Qm"}, "not a CID"),
        ({"bundle": 7}, "not a CID"),
        ({"reader": "AB" * 16}, "32 lower-case hexadecimal digits"),
        ({"reader": None}, "32 lower-case hexadecimal digits"),
        ({"key": "AAAA"}, "must be 80 bytes"),
        ({"key": "?"}, "is not base64"),
        ({"record_key": "0x01"}, "must be 32 bytes"),
    ],
)
def test_hostile_wraps_are_refused(changes: dict[str, object], why: str) -> None:
    values = json.loads(HANDED.to_bytes()) | changes
    with pytest.raises(RecordError, match=why):
        ReaderWrap.from_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def test_base64_has_one_spelling() -> None:
    whole = HANDED.to_bytes()
    # 80 bytes end in a digit with two spare bits
    place = whole.index(b'="')
    other = whole[: place - 1] + bytes([whole[place - 1] + 1]) + whole[place:]
    with pytest.raises(RecordError, match="is not base64"):
        ReaderWrap.from_bytes(other)


def test_a_reader_is_removed_by_name() -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR), public(AUDITOR)])
    name = sealing.fingerprint(public(AUDITOR))
    left = bundle.remove_reader(wraps, name)
    assert name not in left.keys and bundle.open(sealed, left, DOCTOR) == SAMPLE
    with pytest.raises(SealError, match="is not named; named are"):
        bundle.remove_reader(left, name)
    with pytest.raises(SealError, match="only reader"):
        bundle.remove_reader(left, sealing.fingerprint(public(DOCTOR)))


def test_folder_lists_and_finds(tmp_path: Path) -> None:
    folder = WrapFolder(tmp_path / "wraps")
    assert list(folder.bundles()) == [] and folder.of_record(RECORD_KEY) == []
    names = []
    for number in range(3):
        sealed, wraps = bundle.seal(SAMPLE, bytes([number % 2]) * 32, [public(DOCTOR)])
        names.append(cid.of(sealed))
        folder.save(names[-1], wraps)
    (folder.path / f".{names[0]}.json.1.tmp").write_bytes(b"left by a crash")
    assert list(folder.bundles()) == sorted(names)
    assert folder.of_record(bytes(32)) == sorted([names[0], names[2]]) and folder.of_record(b"\1" * 32) == [names[1]]
    folder.erase(names[0])
    assert sorted(folder.path.iterdir()) == sorted(folder.path / f"{name}.json" for name in names[1:])


def test_one_process_at_a_time_changes_wraps(tmp_path: Path) -> None:
    folder = WrapFolder(tmp_path / "wraps")
    order = []

    def other() -> None:
        with folder.locked():
            order.append("second")

    with folder.locked():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_an_erasure_that_was_cut_short_is_said(tmp_path: Path) -> None:
    sealed, wraps = bundle.seal(SAMPLE, RECORD_KEY, [public(DOCTOR)])
    folder = WrapFolder(tmp_path)
    folder.save(cid.of(sealed), wraps)
    (file,) = tmp_path.iterdir()
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(SealError, match="cut short; erase it again"):
        folder.load(cid.of(sealed))
