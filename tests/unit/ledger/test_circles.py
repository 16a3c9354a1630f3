"""Who can read what: every key of every circle is tried on every sealed object, and every stored byte as a key.

Four circles: everybody, the holder of a picture, members (by epoch of the federation's key), named readers. One world
has two pictures of one hospital in two batches, sealed in two epochs.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from Crypto.PublicKey import ECC
from eth_account import Account

from medprov_ledger import bundle, cid, eip712, evidence, manifest, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap, Wraps
from medprov_ledger.errors import LedgerError, SealError
from medprov_ledger.evidence import Evidence
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.record import Record

FEDERATION = b"\x11" * 32
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
OWNER = Account.from_key(b"\x01" * 32)
FORMER, PRESENT = b"\x31" * 32, b"\x32" * 32
"""Directory keys of two epochs: a member left between them."""
PAYLOADS = (b"\xa1" * 8 + b"\x01\x02\x03\x04", b"\xa2" * 8 + b"\x05\x06\x07\x08")


def reader(number: int) -> ECC.EccKey:
    seed: Any = bytes([number]) * 32  # the annotation of `seed` knows no bytes, the function takes them
    return ECC.construct(curve="Curve25519", seed=seed)


HOSPITAL, DOCTOR, AUDITOR, STRANGER = (reader(number) for number in (1, 2, 3, 4))


def public(key: ECC.EccKey) -> bytes:
    return bytes(key.public_key().export_key(format="raw"))


@dataclass(frozen=True)
class Picture:
    """One picture's sealed objects."""

    keys: sealing.PayloadKeys
    evidence: bytes
    bundle: bytes
    wraps: Wraps
    manifest: Manifest


def picture(number: int, readers: list[bytes], directory_key: bytes) -> Picture:
    keys = sealing.payload_keys(PAYLOADS[number], FEDERATION)
    macs = evidence.attribute_macs(keys.evidence_key, {"PatientID": f"patient {number}"})
    proof = Evidence(64, 64, 1, 8, 32, bytes(32), b"features", 1, macs, {"use": "research"})
    sealed_evidence = evidence.seal(proof, keys, sealing.new_nonce())
    sealed_bundle, wraps = bundle.seal(Bundle(bytes([number]) * 16, {"x": "Doe^Jane"}), keys.record_key, readers)
    names = ("cover", "marked", "released", "model")
    digests = [hashlib.sha256(f"{name} {number}".encode()).digest() for name in names]
    record = Record(
        keys.record_key,
        *digests[:3],
        cid.of(sealed_evidence),
        cid.of(sealed_bundle),
        OWNER.address,
        digests[3],
        1_790_000_000,
    )
    signed = SignedRecord(record, eip712.sign_record(record, DOMAIN, OWNER))
    batch = manifest.build([signed], DOMAIN, [PAYLOADS[number]], directory_key)
    return Picture(keys, sealed_evidence, sealed_bundle, wraps, batch)


@dataclass(frozen=True)
class World:
    """What was sealed, and who has what."""

    pictures: tuple[Picture, Picture]

    @property
    def objects(self) -> dict[str, tuple[bytes, bytes]]:
        """Name to sealed bytes and associated data."""
        found = {}
        for number, one in enumerate(self.pictures):
            assert one.manifest.directory is not None
            found[f"evidence {number}"] = (one.evidence, sealing.aad("evidence", one.keys.record_key))
            found[f"bundle {number}"] = (one.bundle, sealing.aad("bundle", one.keys.record_key))
            directory = one.manifest.directory.sealed
            found[f"directory {number}"] = (directory, sealing.aad("directory", one.manifest.root))
        return found

    @property
    def stored(self) -> list[bytes]:
        """All that lies where everybody can fetch it, base64 in it unfolded too."""
        shown = [one.manifest.to_bytes() for one in self.pictures]
        return [*shown, *(sealed for sealed, _ in self.objects.values())]

    def bundle_key(self, number: int, private: ECC.EccKey) -> bytes:
        one = self.pictures[number]
        wrapped = one.wraps.keys[sealing.fingerprint(public(private))]
        return sealing.unwrap(wrapped, private, bundle.wrap_info(one.keys.record_key))


@pytest.fixture(scope="module")
def world() -> World:
    readers = [[public(HOSPITAL), public(DOCTOR)], [public(HOSPITAL), public(AUDITOR)]]
    return World((picture(0, readers[0], FORMER), picture(1, readers[1], PRESENT)))


def grown(key: bytes) -> Iterator[bytes]:
    """A key, and every subkey that this package knows to derive."""
    yield key
    labels = ("id", "evidence", "attributes", "key id", "bundle", "directory")
    yield from (sealing.derive(key, label) for label in labels)


def everybody(world: World) -> set[bytes]:
    """All public values of 32 bytes, also those padded or repeated to a key."""
    found = {FEDERATION, bytes(32), bytes.fromhex(OWNER.address[2:]).rjust(32, b"\0")}
    for one in world.pictures:
        record = one.manifest.records[0].record
        assert one.manifest.directory is not None
        found |= {record.key, record.cover_hash, record.marked_hash, record.released_hash, record.model}
        found |= {one.manifest.root, one.manifest.leaves[0], one.manifest.directory.key_id * 4}
        found |= {cid.parse(name).digest for name in (record.evidence_cid, record.bundle_cid)}
    found |= {public(key) for key in (HOSPITAL, DOCTOR, AUDITOR, STRANGER)}
    return found


def holder(world: World, number: int) -> set[bytes]:
    """What the payload read from one picture gives."""
    one, payload = world.pictures[number], PAYLOADS[number]
    return {one.keys.record_key, one.keys.evidence_key, (payload * 3)[:32], hashlib.sha256(payload).digest()}


def named(world: World, private: ECC.EccKey) -> set[bytes]:
    """What a reader's private key gives, with all wraps at hand."""
    seed = bytes(private.seed)
    found = {seed}
    for one in world.pictures:
        for wrapped in one.wraps.keys.values():
            try:
                found.add(sealing.unwrap(wrapped, private, bundle.wrap_info(one.keys.record_key)))
            except SealError:
                continue
    return found


CIRCLES: dict[str, Any] = {
    "everybody": everybody,
    "holder of picture 0": lambda world: holder(world, 0),
    "holder of picture 1": lambda world: holder(world, 1),
    "member that left": lambda _: {FORMER},
    "member that joined later": lambda _: {PRESENT},
    "reader of bundle 0": lambda world: named(world, DOCTOR),
    "reader of bundle 1": lambda world: named(world, AUDITOR),
    "hospital": lambda world: named(world, HOSPITAL),
    "reader of nothing": lambda world: named(world, STRANGER),
}
OPENS = {
    "holder of picture 0": {"evidence 0"},
    "holder of picture 1": {"evidence 1"},
    "member that left": {"directory 0"},
    "member that joined later": {"directory 1"},
    "reader of bundle 0": {"bundle 0"},
    "reader of bundle 1": {"bundle 1"},
    "hospital": {"bundle 0", "bundle 1"},
}
"""All that anybody opens with the keys at hand; whatever is not named here must stay shut."""


def opened(sealed: bytes, names: list[bytes], keys: set[bytes]) -> bool:
    found = False
    for key, name in itertools.product(keys, names):
        try:
            sealing.open(key, sealed, name)
        except SealError:
            continue
        found = True
    return found


@pytest.mark.parametrize("circle", CIRCLES)
def test_a_circle_opens_what_is_its_own_and_nothing_else(world: World, circle: str) -> None:
    keys = {grown_key for key in CIRCLES[circle](world) for grown_key in grown(key)}
    names = [aad for _, aad in world.objects.values()]
    found = {name for name, (sealed, _) in world.objects.items() if opened(sealed, names, keys)}
    assert found == OPENS.get(circle, set())


def test_every_object_is_opened_by_somebody(world: World) -> None:
    assert set().union(*OPENS.values()) == set(world.objects)


def test_members_get_at_the_evidence_through_the_directory_of_their_epoch(world: World) -> None:
    for number, (mine, other) in enumerate(((FORMER, PRESENT), (PRESENT, FORMER))):
        one = world.pictures[number]
        assert manifest.open_directory(one.manifest, other) is None
        found = manifest.open_directory(one.manifest, other, mine)
        assert found == (PAYLOADS[number],)
        assert evidence.open(one.evidence, sealing.payload_keys(found[0], FEDERATION)).policy == {"use": "research"}
    # who stays has both keys and reads on
    assert all(manifest.open_directory(one.manifest, PRESENT, FORMER) for one in world.pictures)


def test_a_key_id_that_was_exchanged_does_not_help(world: World) -> None:
    directory = world.pictures[1].manifest.directory
    assert directory is not None
    assert manifest.directory_key_of(directory.key_id, [FORMER]) is None
    with pytest.raises(SealError):
        manifest.unseal_directory(directory, FORMER, world.pictures[1].manifest.root, 1)


def test_another_federation_s_holder_derives_other_keys(world: World) -> None:
    other = sealing.payload_keys(PAYLOADS[0], b"\x12" * 32)
    assert not opened(world.pictures[0].evidence, [sealing.aad("evidence", other.record_key)], {other.evidence_key})
    assert other.record_key != world.pictures[0].keys.record_key


def unfolded(data: bytes) -> Iterator[bytes]:
    """Bytes as they lie, and what hexadecimal and base64 texts in them stand for."""
    yield data
    if not data.startswith(b"{"):
        return
    texts = [json.loads(data)]
    while texts:
        value = texts.pop()
        if isinstance(value, dict):
            texts += list(value.values())
        elif isinstance(value, list):
            texts += value
        elif isinstance(value, str) and value.startswith("0x"):
            yield bytes.fromhex(value[2:])
        elif isinstance(value, str) and len(value) % 4 == 0 and not value.startswith("bafk"):
            try:
                yield base64.b64decode(value, validate=True)
            except ValueError:
                continue


def test_no_stored_byte_is_a_key(world: World) -> None:
    """Every 32 bytes in a row of all that is stored or on the chain, tried on every object."""
    candidates = {
        part[start : start + 32]
        for data in world.stored
        for part in unfolded(data)
        for start in range(max(0, len(part) - 31))
    }
    assert len(candidates) > 2000
    for sealed, aad in world.objects.values():
        assert not opened(sealed, [aad], candidates)
    # the search would notice one
    sealed, aad = world.objects["evidence 0"]
    assert opened(sealed, [aad], candidates | {world.pictures[0].keys.evidence_key})


def test_no_secret_lies_in_what_is_stored(world: World) -> None:
    secrets = {f"payload {number}": payload for number, payload in enumerate(PAYLOADS)}
    secrets |= {"former": FORMER, "present": PRESENT}
    for number, one in enumerate(world.pictures):
        secrets[f"evidence key {number}"] = one.keys.evidence_key
        secrets[f"bundle key {number}"] = world.bundle_key(number, HOSPITAL)
        secrets |= {f"wrap {number} {name}": wrapped for name, wrapped in one.wraps.keys.items()}
    for data in world.stored:
        for name, secret in secrets.items():
            for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)):
                assert form not in data, name


def test_a_manifest_shows_everybody_its_public_part_alone(world: World) -> None:
    (entry,) = json.loads(world.pictures[0].manifest.to_bytes())["records"]
    known = {"format", "key", "cover_hash", "marked_hash", "released_hash", "evidence_cid", "bundle_cid"}
    assert set(entry["record"]) == known | {"owner", "model", "time"}


# named readers, one by one


def test_a_wrap_serves_its_reader_alone(world: World) -> None:
    one = world.pictures[0]
    for name, wrapped in one.wraps.keys.items():
        handed = ReaderWrap(cid.of(one.bundle), one.keys.record_key, name, wrapped)
        for private in (HOSPITAL, DOCTOR, AUDITOR, STRANGER):
            mine = sealing.fingerprint(public(private)) == name
            for claimed in (name, sealing.fingerprint(public(private))):
                try:
                    bundle.open_handed(one.bundle, replace(handed, reader=claimed), private)
                    assert mine
                except LedgerError:
                    assert not mine


def test_a_revoked_reader_gets_nothing_from_what_is_left(world: World) -> None:
    one = world.pictures[0]
    left = bundle.remove_reader(one.wraps, sealing.fingerprint(public(DOCTOR)))
    with pytest.raises(SealError, match="is not named"):
        bundle.open(one.bundle, left, DOCTOR)
    for wrapped in left.keys.values():
        with pytest.raises(SealError):
            sealing.unwrap(wrapped, DOCTOR, bundle.wrap_info(one.keys.record_key))
    assert bundle.open(one.bundle, left, HOSPITAL).metadata == {"x": "Doe^Jane"}
