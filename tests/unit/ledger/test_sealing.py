"""Key derivation, authenticated encryption and wraps: known answers of the standards, and who cannot open."""

from __future__ import annotations

from typing import Any

import pytest
from Crypto.PublicKey import ECC
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import sealing
from medprov_ledger.errors import RecordError, SealError

FEDERATION = b"\x11" * 32
PAYLOAD = bytes(range(12))
KEY, NONCE, NAME = b"\x21" * 32, b"\x22" * 12, b"\x23" * 32
AAD = sealing.aad("evidence", NAME)


def test_aes_256_gcm_known_answer() -> None:
    # the GCM specification's test case 14 (zero key, zero nonce, one zero block) has no associated data; ours always
    # has, so only the ciphertext of the block can be compared
    sealed = sealing.seal(b"\0" * 32, b"\0" * 16, b"\0" * 12, b"")
    assert sealed[18:34].hex() == "cea7403d4d606b6e074ec5d3baf39d18"
    assert sealed[:6] == b"MPSE\0\1" and sealed[6:18] == b"\0" * 12


def test_scrypt_and_hkdf_are_the_standard_library_s() -> None:
    import hashlib
    import hmac

    master = hashlib.scrypt(PAYLOAD, salt=FEDERATION, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=32)
    extracted = hmac.digest(b"\0" * 32, master, "sha256")
    keys = sealing.payload_keys(PAYLOAD, FEDERATION)
    assert keys.record_key == hmac.digest(extracted, b"medprov 1 id\1", "sha256")
    assert keys.evidence_key == hmac.digest(extracted, b"medprov 1 evidence\1", "sha256")


def test_keys_depend_on_payload_and_federation() -> None:
    keys = sealing.payload_keys(PAYLOAD, FEDERATION)
    other_payload = sealing.payload_keys(PAYLOAD[:-1] + b"\xff", FEDERATION)
    other_federation = sealing.payload_keys(PAYLOAD, b"\x12" * 32)
    found = {keys.record_key, keys.evidence_key, other_payload.record_key, other_payload.evidence_key}
    assert len(found | {other_federation.record_key, other_federation.evidence_key}) == 6
    assert keys.evidence_key.hex() not in repr(keys)


@pytest.mark.parametrize("payload, federation", [(b"", FEDERATION), (b"\0" * 13, FEDERATION), (PAYLOAD, b"\0" * 31)])
def test_wrong_sizes_are_refused(payload: bytes, federation: bytes) -> None:
    with pytest.raises(RecordError, match="bytes"):
        sealing.payload_keys(payload, federation)


@given(st.binary(max_size=300), st.binary(min_size=12, max_size=12), st.sampled_from(sealing.KINDS))
def test_round_trip(plaintext: bytes, nonce: bytes, kind: str) -> None:
    aad = sealing.aad(kind, NAME)
    sealed = sealing.seal(KEY, plaintext, nonce, aad)
    assert sealing.open(KEY, sealed, aad) == plaintext
    assert sealing.seal(KEY, plaintext, nonce, aad) == sealed
    assert len(sealed) == len(plaintext) + 34


@given(st.binary(max_size=40), st.data())
def test_a_flipped_bit_anywhere_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(sealing.seal(KEY, plaintext, NONCE, AAD))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealError):
        sealing.open(KEY, bytes(sealed), AAD)


@given(st.integers(0, 43))
def test_a_truncated_object_is_refused(length: int) -> None:
    with pytest.raises(SealError):
        sealing.open(KEY, sealing.seal(KEY, b"0123456789", NONCE, AAD)[:length], AAD)


@given(st.binary(max_size=80))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(SealError):
        sealing.open(KEY, noise, AAD)


def test_unknown_version_is_refused_by_name() -> None:
    sealed = sealing.seal(KEY, b"x", NONCE, AAD)
    with pytest.raises(SealError, match="version 2 is unknown, this release reads version 1"):
        sealing.open(KEY, sealed[:4] + b"\0\2" + sealed[6:], AAD)


@pytest.mark.parametrize(
    "key, aad",
    [
        (b"\x20" * 32, AAD),
        (KEY, sealing.aad("bundle", NAME)),
        (KEY, sealing.aad("evidence", b"\x24" * 32)),
        (KEY, b""),
    ],
)
def test_another_key_kind_or_record_does_not_open(key: bytes, aad: bytes) -> None:
    with pytest.raises(SealError, match="does not open"):
        sealing.open(key, sealing.seal(KEY, b"secret", NONCE, AAD), aad)


def test_key_and_nonce_sizes_are_checked() -> None:
    with pytest.raises(SealError, match="32"):
        sealing.seal(KEY[:16], b"", NONCE, AAD)
    with pytest.raises(SealError, match="12"):
        sealing.seal(KEY, b"", NONCE[:8], AAD)
    with pytest.raises(SealError, match="32"):
        sealing.open(KEY[:16], sealing.seal(KEY, b"", NONCE, AAD), AAD)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(RecordError, match="kind 'photo' is unknown"):
        sealing.aad("photo", NAME)
    with pytest.raises(RecordError, match="32 bytes"):
        sealing.aad("bundle", b"short")


def test_new_keys_and_nonces_are_fresh() -> None:
    assert len({sealing.new_key() for _ in range(50)}) == len({sealing.new_nonce() for _ in range(50)}) == 50


def reader(number: int) -> ECC.EccKey:
    seed: Any = bytes([number]) * 32  # the annotation of `seed` knows no bytes, the function takes them
    return ECC.construct(curve="Curve25519", seed=seed)


READER, STRANGER = (reader(number) for number in (7, 8))


def public(key: ECC.EccKey) -> bytes:
    return bytes(key.public_key().export_key(format="raw"))


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=60))
def test_wrap_round_trip(key: bytes, info: bytes) -> None:
    wrapped = sealing.wrap(key, public(READER), info)
    assert len(wrapped) == sealing.WRAP_SIZE
    assert sealing.unwrap(wrapped, READER, info) == key
    assert sealing.wrap(key, public(READER), info) != wrapped


def test_wraps_are_rfc_9180() -> None:
    hpke = pytest.importorskip("cryptography.hazmat.primitives.hpke")
    x25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.x25519")
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    private = x25519.X25519PrivateKey.from_private_bytes(b"\7" * 32)
    assert suite.decrypt(sealing.wrap(KEY, public(READER), b"info"), private, info=b"info") == KEY
    assert sealing.unwrap(suite.encrypt(KEY, private.public_key(), info=b"info"), READER, b"info") == KEY


def test_only_the_named_reader_unwraps() -> None:
    wrapped = sealing.wrap(KEY, public(READER), b"info")
    with pytest.raises(SealError, match="not for this reader"):
        sealing.unwrap(wrapped, STRANGER, b"info")
    with pytest.raises(SealError, match="this use"):
        sealing.unwrap(wrapped, READER, b"other info")


@given(st.integers(0, 79), st.integers(0, 7))
def test_a_changed_wrap_is_refused(place: int, bit: int) -> None:
    wrapped = bytearray(sealing.wrap(KEY, public(READER), b"info"))
    wrapped[place] ^= 1 << bit
    with pytest.raises(SealError):
        sealing.unwrap(bytes(wrapped), READER, b"info")


def test_the_bit_of_a_public_key_that_x25519_ignores_is_covered() -> None:
    # RFC 7748, section 5, masks it; HPKE hashes the key as it was sent
    wrapped = bytearray(sealing.wrap(KEY, public(READER), b"info"))
    wrapped[31] ^= 128
    with pytest.raises(SealError):
        sealing.unwrap(bytes(wrapped), READER, b"info")


@pytest.mark.parametrize("wrapped", [b"", b"\0" * 80, b"\1" * 79, b"\1" * 81])
def test_malformed_wraps_are_refused(wrapped: bytes) -> None:
    with pytest.raises(SealError):
        sealing.unwrap(wrapped, READER, b"info")


@pytest.mark.parametrize("reader", [b"", b"\1" * 31, b"\0" * 32, b"\1" + b"\0" * 31])
def test_unusable_reader_keys_are_refused(reader: bytes) -> None:
    with pytest.raises(SealError, match="X25519"):
        sealing.wrap(KEY, reader, b"info")
