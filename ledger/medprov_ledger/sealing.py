"""Keys from a payload, authenticated encryption, and keys wrapped for named readers.

scrypt: RFC 7914. HKDF with SHA-256: RFC 5869. AES-256-GCM: NIST SP 800-38D. HPKE: RFC 9180, base mode,
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_public_key
from Crypto.Protocol.KDF import HKDF, scrypt
from Crypto.PublicKey.ECC import EccKey

from . import _canonical
from .errors import RecordError, SealError

PAYLOAD_SIZE = 12
KEY_SIZE = 32
NONCE_SIZE = 12
WRAP_SIZE = 80
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 15, 8, 1
KINDS = ("evidence", "bundle", "directory")

_MAGIC = b"MPSE"
_VERSION = 1
_HEADER = len(_MAGIC) + 2
_TAG = 16
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class PayloadKeys:
    """What the 12 bytes in a picture give to whoever can read them.

    Parameters
    ----------
    record_key : bytes
        32 bytes, public: the name under which the record is found.
    evidence_key : bytes
        32 bytes, secret: opens the evidence.
    """

    record_key: bytes
    evidence_key: bytes

    def __repr__(self) -> str:
        return f"PayloadKeys(record_key={self.record_key.hex()})"


def payload_keys(payload_data: bytes, federation_id: bytes) -> PayloadKeys:
    """Derive both keys of a payload; takes about 0.1 s and 32 MiB on purpose.

    The serial is 32 bits: whoever knows the perceptual hash needs 2**32 such derivations to find the key.

    Parameters
    ----------
    payload_data : bytes
        12 bytes: perceptual hash and serial.
    federation_id : bytes
        32 bytes, the salt.

    Raises
    ------
    RecordError
    """
    _canonical.fixed(payload_data, PAYLOAD_SIZE, "payload")
    _canonical.fixed(federation_id, 32, "federation id")
    # pycryptodome annotates text, but takes bytes as they are
    master = scrypt(payload_data, federation_id, KEY_SIZE, SCRYPT_N, SCRYPT_R, SCRYPT_P)  # type: ignore[arg-type]
    assert isinstance(master, bytes)
    return PayloadKeys(derive(master, "id"), derive(master, "evidence"))


def derive(key: bytes, label: str) -> bytes:
    """A 32-byte subkey: HKDF-SHA256 with empty salt and the info string ``medprov 1 <label>``."""
    subkey = HKDF(key, KEY_SIZE, b"", SHA256, context=b"medprov 1 " + label.encode("ascii"))
    assert isinstance(subkey, bytes)
    return subkey


def key_id(key: bytes) -> bytes:
    """8 bytes that name a key without telling it."""
    return derive(key, "key id")[:8]


def aad(kind: str, name: bytes) -> bytes:
    """The associated data that ties a ciphertext to its use: format version, kind, name.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    name : bytes
        32 bytes: the record key, or the batch's root for a directory.

    Raises
    ------
    RecordError
    """
    if kind not in KINDS:
        raise RecordError(f"sealed object: kind {kind!r} is unknown, must be one of {', '.join(KINDS)}")
    _canonical.fixed(name, 32, f"{kind}: name")
    return b"medprov\0" + _VERSION.to_bytes(2, "big") + name + kind.encode("ascii")


def seal(key: bytes, plaintext: bytes, nonce: bytes, aad: bytes) -> bytes:
    """Encrypt and authenticate with AES-256-GCM.

    Parameters
    ----------
    key : bytes
        32 bytes.
    plaintext : bytes
    nonce : bytes
        12 bytes; never twice with one key. Take :func:`new_nonce`.
    aad : bytes
        From :func:`aad`.

    Returns
    -------
    bytes
        ``MPSE``, version (2), nonce (12), ciphertext, tag (16).

    Raises
    ------
    SealError
        Key or nonce of the wrong size.
    """
    if len(key) != KEY_SIZE or len(nonce) != NONCE_SIZE:
        raise SealError(f"sealing: the key must be {KEY_SIZE} bytes and the nonce {NONCE_SIZE}")
    header = _MAGIC + _VERSION.to_bytes(2, "big")
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG)
    cipher.update(header + aad)
    ciphertext, tag = cipher.encrypt_and_digest(plaintext)
    return header + nonce + ciphertext + tag


def open(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    """Decrypt what :func:`seal` gave.

    Raises
    ------
    SealError
        Truncated, changed, of an unknown version, or sealed with another key or for another use.
    """
    if len(key) != KEY_SIZE:
        raise SealError(f"sealed object: the key must be {KEY_SIZE} bytes")
    if len(sealed) < _HEADER + NONCE_SIZE + _TAG or sealed[: len(_MAGIC)] != _MAGIC:
        raise SealError("sealed object: truncated or not sealed by this format; fetch it again")
    version = int.from_bytes(sealed[len(_MAGIC) : _HEADER], "big")
    if version != _VERSION:
        raise SealError(f"sealed object: version {version} is unknown, this release reads version {_VERSION}; update")
    nonce, body = sealed[_HEADER : _HEADER + NONCE_SIZE], sealed[_HEADER + NONCE_SIZE :]
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=_TAG)
    cipher.update(sealed[:_HEADER] + aad)
    try:
        plaintext: bytes = cipher.decrypt_and_verify(body[:-_TAG], body[-_TAG:])
    except ValueError:
        raise SealError("sealed object: this key does not open it, or it was changed; check key and copy") from None
    return plaintext


def new_key() -> bytes:
    """32 random bytes from the system."""
    return secrets.token_bytes(KEY_SIZE)


def new_nonce() -> bytes:
    """12 random bytes from the system."""
    return secrets.token_bytes(NONCE_SIZE)


def wrap(key: bytes, reader: bytes, info: bytes) -> bytes:
    """Encrypt a key for one reader (HPKE, single shot).

    Parameters
    ----------
    key : bytes
        32 bytes.
    reader : bytes
        32 bytes, the reader's X25519 public key.
    info : bytes
        What the key is for; unwrapping needs the same.

    Returns
    -------
    bytes
        80 bytes: encapsulated key (32), ciphertext and tag (48).

    Raises
    ------
    SealError
        Not a public key that can be used.
    """
    if len(key) != KEY_SIZE:
        raise SealError(f"wrap: the key must be {KEY_SIZE} bytes")
    try:
        context = HPKE.new(receiver_key=import_x25519_public_key(reader), aead_id=HPKE.AEAD.AES256_GCM, info=info)
        return bytes(context.enc) + bytes(context.seal(key))
    except (ValueError, TypeError):
        raise SealError(f"reader key {reader[:8].hex()}...: not a usable X25519 public key of 32 bytes") from None


def unwrap(wrapped: bytes, reader: EccKey, info: bytes) -> bytes:
    """Bring back a key that was wrapped for `reader`.

    Parameters
    ----------
    wrapped : bytes
        80 bytes from :func:`wrap`.
    reader : EccKey
        The reader's X25519 private key (:func:`medprov_ledger.keys.load_reader_key`).
    info : bytes

    Raises
    ------
    SealError
        Truncated, changed, wrapped for another reader or another use.
    """
    if len(wrapped) != WRAP_SIZE:
        raise SealError(f"wrapped key: must be {WRAP_SIZE} bytes, is {len(wrapped)}")
    try:
        context = HPKE.new(receiver_key=reader, aead_id=HPKE.AEAD.AES256_GCM, enc=wrapped[:32], info=info)
        return bytes(context.unseal(wrapped[32:]))
    except (ValueError, TypeError):
        raise SealError("wrapped key: not for this reader or this use, or changed") from None


def fingerprint(public_key: bytes) -> str:
    """Names a reader's public key: the first 16 bytes of its SHA-256, hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def check_fingerprint(value: Any, what: str) -> str:
    """`value` as a fingerprint.

    Raises
    ------
    RecordError
    """
    if not isinstance(value, str) or not _FINGERPRINT.fullmatch(value):
        raise RecordError(f"{what}: a reader must be 32 lower-case hexadecimal digits")
    return value
