"""Manifests: codec, every check against the anchor, and who cannot read the directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tracemalloc
from dataclasses import replace

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import cid, eip712, manifest, merkle, sealing
from medprov_ledger.errors import RecordError, SealError
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor

OWNER, THIEF = Account.from_key(b"\x01" * 32), Account.from_key(b"\x02" * 32)
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
DIRECTORY_KEY, NONCE = b"\x31" * 32, b"\x32" * 12
CID = cid.of(b"manifest")


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def signed(number: int, account: object = OWNER, domain: eip712.Domain = DOMAIN) -> SignedRecord:
    record = Record(
        digest(f"key {number}"),
        digest(f"cover {number}"),
        digest(f"marked {number}"),
        digest(f"released {number}"),
        cid.of(b"evidence %d" % number),
        "" if number % 2 else cid.of(b"bundle %d" % number),
        account.address,  # type: ignore[attr-defined]
        digest("model"),
        1_790_000_000 + number,
    )
    return SignedRecord(record, eip712.sign_record(record, domain, account))  # type: ignore[arg-type]


def payload(number: int) -> bytes:
    return digest(f"payload {number}")[:12]


def batch(count: int = 3, directory: bool = True) -> Manifest:
    key = DIRECTORY_KEY if directory else None
    payloads = [payload(i) for i in range(count)]
    return manifest.build([signed(i) for i in range(count)], DOMAIN, payloads, key, NONCE)


def anchor_of(made: Manifest, **changes: object) -> Anchor:
    values = {
        "root": made.root,
        "owner": OWNER.address,
        "block": 5,
        "time": 1_790_000_100,
        "count": len(made.records),
        "cid": CID,
    }
    return Anchor(**(values | changes))


BATCH = batch()
DATA = BATCH.to_bytes()


@settings(max_examples=10)
@given(st.integers(1, 6), st.booleans())
def test_round_trip(count: int, directory: bool) -> None:
    made = batch(count, directory)
    again = manifest.parse(made.to_bytes())
    assert again == made
    assert again.to_bytes() == made.to_bytes()
    manifest.verify(again, anchor_of(made), DOMAIN)
    assert all(
        merkle.verify(made.root, leaf, proof) for leaf, proof in zip(again.leaves, again.tree.proofs, strict=True)
    )


@given(st.data())
def test_a_changed_manifest_is_never_proved(data: st.DataObject) -> None:
    spoiled = bytearray(DATA)
    spoiled[data.draw(st.integers(0, len(DATA) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = manifest.parse(bytes(spoiled))
        manifest.verify(found, anchor_of(BATCH), DOMAIN)
    except RecordError:
        return
    # only the directory is outside the tree; its own seal covers it
    assert found.records == BATCH.records
    with contextlib.suppress(SealError):
        assert manifest.open_directory(found, DIRECTORY_KEY) is None


@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_manifest_is_refused(length: int) -> None:
    with pytest.raises(RecordError):
        manifest.parse(DATA[:length])


@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RecordError):
        manifest.parse(noise)


def encoded(**changes: object) -> bytes:
    return json.dumps(json.loads(DATA) | changes, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_unknown_version_is_refused_by_name(version: object) -> None:
    with pytest.raises(RecordError, match=r"manifest: version .* is unknown, this release reads version 1"):
        manifest.parse(encoded(version=version, news=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "picture"},
        {"chain_id": 0},
        {"chain_id": 2**256},
        {"registry": "0x5fbdb2315678afecb367f032d93f642f64180aa3"},
        {"registry": 7},
        {"root": "0x00"},
        {"records": []},
        {"records": {}},
        {"records": [7]},
        {"records": [{"record": {}, "signature": "0x"}]},
        {"directory": {}},
        {"directory": {"key_id": "0x00", "sealed": ""}},
        {"directory": {"key_id": "0x" + "00" * 8, "sealed": "not base64!"}},
        {"news": 1},
    ],
)
def test_hostile_fields_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        manifest.parse(encoded(**changes))


def test_huge_counts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_RECORDS", 2)
    with pytest.raises(RecordError, match="1 to 2 records"):
        manifest.parse(DATA)
    with pytest.raises(RecordError, match="split"):
        batch(3)
    monkeypatch.setattr(manifest, "MAX_SIZE", 10)
    with pytest.raises(RecordError, match="more than 10"):
        manifest.parse(DATA)


def widest(count: int) -> Manifest:
    """A manifest whose every number and text is as long as it can be."""
    domain = eip712.domain(2**256 - 1, DOMAIN.registry)
    records = []
    for number in range(count):
        record = replace(signed(0).record, key=digest(str(number)), time=2**63 - 1)
        assert record.bundle_cid != ""
        records.append(SignedRecord(record, eip712.sign_record(record, domain, OWNER)))
    return manifest.build(records, domain, [payload(i) for i in range(count)], DIRECTORY_KEY, NONCE)


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_every_manifest_is_within_the_stated_size(count: int) -> None:
    data = widest(count).to_bytes()
    assert 0.9 * manifest.largest(count) - 512 < len(data) <= manifest.largest(count)
    assert manifest.parse(data).to_bytes() == data
    assert manifest.largest(manifest.MAX_RECORDS) == manifest.MAX_SIZE


@pytest.mark.parametrize("count", [-1, 0, manifest.MAX_RECORDS + 1, 2**32 - 1])
def test_no_size_is_stated_for_impossible_counts(count: int) -> None:
    with pytest.raises(RecordError, match="must hold 1 to"):
        manifest.largest(count)


BOMBS = {
    "lists": b"[" + b",".join([b"[]"] * 700_000) + b"]",
    "numbers": b"[" + b",".join([b"0"] * 1_000_000) + b"]",
    "objects": b"[" + b",".join([b'{"":0}'] * 300_000) + b"]",
    "deep": b"[" * 2_000_000,
    "wide letters": b'{"a":"' + "\U0001f600".encode() * 500_000 + b'"}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_manifest_that_unfolds_in_memory_is_refused_before_it_is_decoded(name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match="not written by this format"):
            manifest.parse(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def refuse(made: Manifest, anchor: Anchor, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        manifest.verify(made, anchor, DOMAIN)


def test_a_record_less_more_or_twice_is_refused() -> None:
    less = replace(BATCH, records=BATCH.records[:2])
    refuse(less, anchor_of(BATCH), "holds 2 records, the anchor says 3")
    refuse(less, anchor_of(BATCH, count=2), "do not give the anchored root")
    twice = replace(BATCH, records=(*BATCH.records[:2], BATCH.records[0]))
    refuse(twice, anchor_of(BATCH), "twice")
    refuse(replace(BATCH, records=(*BATCH.records[:2], signed(9))), anchor_of(BATCH), "anchored root")


def test_a_stated_root_does_not_help() -> None:
    other = batch(2)
    refuse(replace(other, root=BATCH.root), anchor_of(BATCH, count=2), "anchored root")
    refuse(replace(BATCH, root=b"\0" * 32), anchor_of(BATCH), "anchored root")


def test_anchoring_another_s_batch_does_not_make_it_one_s_own() -> None:
    refuse(BATCH, anchor_of(BATCH, owner=THIEF.address), f"belongs to {OWNER.address}, the batch to {THIEF.address}")


def test_a_record_signed_by_another_is_refused() -> None:
    record = BATCH.records[0].record
    forged = SignedRecord(record, eip712.sign(record.leaf(DOMAIN), THIEF))
    refuse(
        replace(BATCH, records=(forged, *BATCH.records[1:])), anchor_of(BATCH), f"record 0: signed by {THIEF.address}"
    )
    with pytest.raises(RecordError, match="record 1: signed by"):
        manifest.build([BATCH.records[1], forged], DOMAIN)


def test_a_signature_of_another_record_is_refused() -> None:
    swapped = SignedRecord(BATCH.records[0].record, BATCH.records[1].signature)
    refuse(replace(BATCH, records=(swapped, *BATCH.records[1:])), anchor_of(BATCH), "record 0: signed by")


def test_a_batch_of_two_owners_is_refused() -> None:
    with pytest.raises(RecordError, match="record 1: belongs to"):
        manifest.build([signed(0), signed(1, THIEF)], DOMAIN)


def test_another_chain_or_registry_is_refused() -> None:
    for other in (eip712.domain(1, DOMAIN.registry), eip712.domain(31337, THIEF.address)):
        made = manifest.build([signed(0, domain=other)], other)
        refuse(made, anchor_of(made), "not for this one")
        refuse(replace(made, domain=DOMAIN), anchor_of(made), "signed by")


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(RecordError, match="batch of 0"):
        manifest.build([], DOMAIN)
    with pytest.raises(RecordError, match="twice"):
        manifest.build([signed(0), signed(0)], DOMAIN)
    with pytest.raises(RecordError, match="one payload per record"):
        manifest.build([signed(0)], DOMAIN, [payload(0), payload(1)], DIRECTORY_KEY)
    with pytest.raises(RecordError, match="12 bytes"):
        manifest.build([signed(0)], DOMAIN, [b"short"], DIRECTORY_KEY)


def test_members_read_the_directory() -> None:
    assert manifest.open_directory(manifest.parse(DATA), DIRECTORY_KEY) == tuple(payload(i) for i in range(3))
    assert manifest.open_directory(batch(directory=False), DIRECTORY_KEY) is None


def test_members_read_directories_of_several_epochs() -> None:
    later = b"\x34" * 32
    made = manifest.build([signed(0)], DOMAIN, [payload(0)], later, NONCE)
    for one, count in ((BATCH, 3), (made, 1)):
        assert manifest.open_directory(one, later, DIRECTORY_KEY) == tuple(payload(i) for i in range(count))
    assert manifest.open_directory(BATCH, later) is None and manifest.open_directory(made) is None
    assert manifest.directory_key_of(sealing.key_id(later), [DIRECTORY_KEY, later]) == later


def test_who_is_no_member_cannot_read_the_directory() -> None:
    assert not any(payload(i) in DATA or payload(i).hex().encode() in DATA for i in range(3))
    directory = BATCH.directory
    assert directory is not None
    assert manifest.open_directory(BATCH, b"\x33" * 32) is None
    # the public name of the key, the root and a payload's evidence key are all that others have
    for key in (
        b"\x33" * 32,
        BATCH.root,
        directory.key_id * 4,
        sealing.payload_keys(payload(0), b"\x11" * 32).evidence_key,
    ):
        with pytest.raises(SealError):
            manifest.unseal_directory(directory, key, BATCH.root, 3)


def test_everybody_reads_no_payload_from_the_public_part() -> None:
    public = json.loads(DATA)
    public.pop("directory")
    names = {"format", "key", "cover_hash", "marked_hash", "released_hash", "evidence_cid", "bundle_cid"}
    assert set(public["records"][0]["record"]) == names | {"owner", "model", "time"}


def test_a_directory_of_another_batch_is_refused() -> None:
    other = manifest.build([signed(7)], DOMAIN, [payload(7)], DIRECTORY_KEY, NONCE)
    with pytest.raises(SealError):
        manifest.open_directory(replace(BATCH, directory=other.directory), DIRECTORY_KEY)


@pytest.mark.parametrize(
    "plaintext, why",
    [
        (b"", "truncated"),
        (b"MPDI\0\2" + b"\0\0\0\0", "version 2 is unknown"),
        (b"MPDI\0\1" + b"\xff\xff\xff\xff" + b"x" * 12, "do not fit"),
        (b"MPDI\0\1" + b"\0\0\0\1" + b"x" * 13, "do not fit"),
        (b"MPDI\0\1" + b"\0\0\0\1" + b"x" * 12, "holds 1 payloads for 3"),
    ],
)
def test_malformed_directories_are_refused(plaintext: bytes, why: str) -> None:
    sealed = sealing.seal(DIRECTORY_KEY, plaintext, NONCE, sealing.aad("directory", BATCH.root))
    made = replace(BATCH, directory=manifest.SealedDirectory(sealing.key_id(DIRECTORY_KEY), sealed))
    with pytest.raises(RecordError, match=why):
        manifest.open_directory(made, DIRECTORY_KEY)
