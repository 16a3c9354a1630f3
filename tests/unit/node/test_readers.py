"""Grant, revoke, shred, hand over; after a shred no byte that is left opens the bundle."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from Crypto.Cipher import AES
from Crypto.PublicKey import ECC

from medprov_ledger import bundle, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap
from medprov_ledger.errors import RecordError, SealError
from medprov_ledger.keys import load_reader_key, reader_public
from medprov_ledger.store import BlockStore
from medprov_node import readers
from medprov_node.errors import KeyFileError, OutputError, UnknownBundleError
from medprov_node.mark import mark_files

AUDITOR, LAWYER = (ECC.generate(curve="Curve25519") for _ in range(2))
AUDITORS, LAWYERS = reader_public(AUDITOR), reader_public(LAWYER)


@pytest.fixture
def hospital(house):
    return house.config.hospital("hospital-a")


@pytest.fixture
def marked(house, quick, picture):
    jobs = [(picture, picture.with_name("out.png"))]
    (result,) = mark_files(jobs, "hospital-a", house.config, watermarker=quick, ledger=house.ledger)
    return result


def no_picture(path: Path) -> bytes:
    raise AssertionError("nobody named a picture")


def test_granted_readers_open_and_the_hospital_still_does(house, hospital, marked) -> None:
    before = readers.access(hospital, marked.bundle_cid)
    own = sealing.fingerprint(reader_public(load_reader_key(hospital)))
    assert before.readers == (own,) and f"0x{before.record_key.hex()}" == marked.record_key
    wrap = readers.grant(hospital, marked.bundle_cid, AUDITORS)
    assert readers.grant(hospital, marked.bundle_cid, AUDITORS) == wrap, "twice is once"
    assert readers.access(hospital, marked.bundle_cid).readers == tuple(sorted((own, wrap.reader)))
    mine = readers.open_own(hospital, house.config, marked.bundle_cid, None)
    assert readers.open_handed(wrap, AUDITOR, house.config, None) == mine
    with pytest.raises(SealError, match="is for reader"):
        readers.open_handed(wrap, LAWYER, house.config, None)


def test_revoked_readers_are_not_handed_a_wrap_any_more_but_keep_what_they_have(house, hospital, marked) -> None:
    wrap = readers.grant(hospital, marked.bundle_cid, AUDITORS)
    left = readers.revoke(hospital, marked.bundle_cid, wrap.reader)
    assert wrap.reader not in left.readers
    with pytest.raises(SealError, match="is not named for"):
        readers.hand_over(hospital, marked.bundle_cid, wrap.reader)
    with pytest.raises(SealError, match="is not named"):
        readers.revoke(hospital, marked.bundle_cid, wrap.reader)
    # said in the documents: nothing calls back what was handed over
    assert readers.open_handed(wrap, AUDITOR, house.config, None).salt
    folder = readers.wrap_folder(hospital).path
    assert not any(base64.b64encode(wrap.key) in file.read_bytes() for file in folder.iterdir())


def test_the_hospital_cannot_lock_itself_out(hospital, marked) -> None:
    own = sealing.fingerprint(reader_public(load_reader_key(hospital)))
    readers.grant(hospital, marked.bundle_cid, AUDITORS)
    with pytest.raises(SealError, match="hospital-a itself"):
        readers.revoke(hospital, marked.bundle_cid, own)
    with pytest.raises(SealError, match="only reader; shred"):
        bundle.remove_reader(bundle.Wraps(bytes(32), {own: bytes(80)}), own)


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31)])
def test_keys_that_cannot_be_used_are_refused_and_change_nothing(hospital, marked, key) -> None:
    before = readers.access(hospital, marked.bundle_cid)
    with pytest.raises(SealError, match="not a usable X25519 public key"):
        readers.grant(hospital, marked.bundle_cid, key)
    assert readers.access(hospital, marked.bundle_cid) == before


# names


def test_a_bundle_is_found_by_what_a_user_has(house, hospital, marked, picture) -> None:
    payload = bytes.fromhex(marked.payload)
    for what in (marked.bundle_cid, marked.record_key, marked.record_key[2:].upper(), marked.payload):
        assert readers.find(what, hospital, house.config, no_picture) == marked.bundle_cid
    assert readers.find(str(picture), hospital, house.config, lambda _: payload) == marked.bundle_cid


@pytest.mark.parametrize(
    ("what", "reason"),
    [("ab" * 32, "no wrapped key"), ("ab" * 12, "no wrapped key"), ("none.png", "no such picture"), ("", "no ")],
)
def test_names_that_lead_nowhere(house, hospital, marked, what, reason) -> None:
    with pytest.raises(UnknownBundleError, match=reason):
        readers.find(what, hospital, house.config, lambda _: bytes(12))


def test_two_bundles_of_one_record_must_be_told_apart(house, hospital, marked) -> None:
    folder = readers.wrap_folder(hospital)
    sealed, wraps = bundle.seal(Bundle(bytes(16)), bytes.fromhex(marked.record_key[2:]), [AUDITORS])
    folder.save(house.ledger.store.put(sealed), wraps)
    with pytest.raises(UnknownBundleError, match=rf"has 2 bundles; name one of .*{marked.bundle_cid}"):
        readers.find(marked.record_key, hospital, house.config, no_picture)


# wraps as files


def test_a_wrap_as_a_file(house, hospital, marked, tmp_path) -> None:
    wrap = readers.grant(hospital, marked.bundle_cid, AUDITORS)
    readers.write_wrap(tmp_path / "a.wrap", wrap)
    assert readers.read_wrap(tmp_path / "a.wrap") == wrap
    with pytest.raises(OutputError, match=r"a\.wrap: the file exists already"):
        readers.write_wrap(tmp_path / "a.wrap", wrap)
    with pytest.raises(OutputError, match="cannot be written"):
        readers.write_wrap(tmp_path / "none" / "a.wrap", wrap)
    assert readers.read_wrap(Path(marked.output)) is None and readers.read_wrap(tmp_path / "none") is None
    (tmp_path / "b.wrap").write_bytes(wrap.to_bytes()[:-5])
    with pytest.raises(RecordError, match=r"b\.wrap: wrap: "):
        readers.read_wrap(tmp_path / "b.wrap")
    other = ReaderWrap(marked.evidence_cid, wrap.record_key, wrap.reader, wrap.key)
    sealed = house.ledger.store.get(marked.bundle_cid)
    with pytest.raises(SealError, match="these bytes are not"):
        readers.open_handed(other, AUDITOR, None, sealed)


def test_readers_are_named_by_fingerprint_or_key() -> None:
    name = sealing.fingerprint(AUDITORS)
    assert readers.reader_of(name) == readers.reader_of(AUDITORS.hex()) == name
    with pytest.raises(KeyFileError):
        readers.reader_of("auditor")


# erasure


def forms(data: bytes, size: int) -> Iterator[bytes]:
    """Every `size` bytes in a row: as they stand, in hexadecimal, in base64."""
    plain = [data]
    for run in re.findall(rb"[0-9a-fA-F]{32,}", data):
        plain += [bytes.fromhex(run[start : start + (len(run) - start) // 2 * 2].decode()) for start in range(2)]
    for run in re.findall(rb"[A-Za-z0-9+/_-]{20,}", data):
        text = run.replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            # a last digit alone stands for no byte
            part = text[start:][: -1 if (len(text) - start) % 4 == 1 else None]
            plain.append(base64.b64decode(part + b"=" * (-len(part) % 4)))
    for one in plain:
        yield from (one[start : start + size] for start in range(len(one) - size + 1))


def opening_keys(sealed: bytes, candidates: Iterable[bytes]) -> set[bytes]:
    """Those that give the bundle's first 16 bytes, which everybody knows: `MPBU`, version, `{"metadata`."""
    counter, known = sealed[6:18] + (2).to_bytes(4, "big"), b'MPBU\0\1{"metadata'
    wanted = bytes(a ^ b for a, b in zip(sealed[18:34], known, strict=True))
    return {key for key in candidates if AES.new(key, AES.MODE_ECB).encrypt(counter) == wanted}


def keys_left(files: Iterable[Path], sealed: bytes, wraps: Iterable[bytes]) -> list[str]:
    """Files in which the bundle's key lies, or 16 bytes in a row of one of its wraps, in whatever spelling."""
    pieces = {wrap[start : start + 16] for wrap in wraps for start in range(len(wrap) - 15)}
    found = []
    for file in files:
        data = file.read_bytes()
        if opening_keys(sealed, set(forms(data, 32))) or not pieces.isdisjoint(forms(data, 16)):
            found.append(file.name)
    return sorted(found)


def test_after_a_shred_no_byte_that_is_left_opens_the_bundle(house, hospital, marked, tmp_path) -> None:
    readers.grant(hospital, marked.bundle_cid, AUDITORS)
    folder = readers.wrap_folder(hospital)
    # a crash in the middle of a write leaves a file behind
    leftover = folder.path / f".{marked.bundle_cid}.json.0123.tmp"
    leftover.write_bytes((folder.path / f"{marked.bundle_cid}.json").read_bytes())
    sealed, record_key = house.ledger.store.get(marked.bundle_cid), bytes.fromhex(marked.record_key[2:])
    assert isinstance(house.ledger.store, BlockStore)

    def places(*roots: Path) -> list[Path]:
        return [file for root in roots for file in root.rglob("*") if file.is_file()]

    keys = folder.load(marked.bundle_cid).keys
    wraps = list(keys.values())
    names = sorted([leftover.name, f"{marked.bundle_cid}.json"])
    assert keys_left(places(hospital.state, house.ledger.store.path), sealed, wraps) == names, "where there is one"
    # and the key itself, wherever somebody left it
    own = sealing.fingerprint(reader_public(load_reader_key(hospital)))
    key = sealing.unwrap(keys[own], load_reader_key(hospital), bundle.wrap_info(record_key))
    for form in (key, key.hex().encode(), b"x" + key.hex().upper().encode(), base64.b64encode(b"xy" + key)):
        (tmp_path / "careless").write_bytes(b"..." + form + b"...")
        assert keys_left([tmp_path / "careless"], sealed, []) == ["careless"]

    readers.shred(hospital, marked.bundle_cid)
    left = places(hospital.state, house.ledger.store.path)
    assert left and leftover not in left
    assert keys_left(left, sealed, wraps) == []
    with pytest.raises(SealError, match="was erased"):
        readers.open_own(hospital, house.config, marked.bundle_cid, None)
    with pytest.raises(SealError, match="shredded before"):
        readers.shred(hospital, marked.bundle_cid)
    # what is not private stays: the record and its evidence
    assert house.ledger.store.has(marked.evidence_cid) and house.ledger.store.has(marked.bundle_cid)


@pytest.mark.skipif(os.name != "posix", reason="an open file keeps its blocks only there")
@pytest.mark.parametrize("way", ["shred", "revoke"])
def test_wraps_are_overwritten_where_they_lie(hospital, marked, way) -> None:
    wrap = readers.grant(hospital, marked.bundle_cid, AUDITORS)
    file = readers.wrap_folder(hospital).path / f"{marked.bundle_cid}.json"
    with file.open("rb") as former:
        if way == "shred":
            readers.shred(hospital, marked.bundle_cid)
        else:
            readers.revoke(hospital, marked.bundle_cid, wrap.reader)
        assert former.read().strip(b"\0") == b"", "the blocks of the former file"


def test_a_shred_that_was_cut_short_opens_nothing_and_is_said(house, hospital, marked) -> None:
    file = readers.wrap_folder(hospital).path / f"{marked.bundle_cid}.json"
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(SealError, match="erase it again"):
        readers.open_own(hospital, house.config, marked.bundle_cid, None)
    readers.shred(hospital, marked.bundle_cid)
    assert not file.exists()
