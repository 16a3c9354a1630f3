"""A new directory key on its way to the members: wrapped for each one's registered reader key, signed by who drew it.

One file for all. Who is no member at that time finds no wrap in it, so it may travel in the open. HPKE says nothing
about the sender: without the signature anybody could give the members a key of their own choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from Crypto.PublicKey.ECC import EccKey

from . import _canonical, eip712, sealing
from .errors import RecordError, SealError
from .merkle import keccak256

VERSION = 1
MAX_SIZE = 1 << 20
TYPE = "DirectoryKey(bytes32 federationId,bytes32 content)"
_KIND = "medprov directory key"
_FIELDS = ("kind", "version", "federation_id", "key_id", "keys", "signature")


@dataclass(frozen=True)
class DirectoryKey:
    """A directory key, wrapped; make it with :func:`seal`.

    Parameters
    ----------
    federation_id : bytes
        32 bytes.
    key_id : bytes
        8 bytes (:func:`medprov_ledger.sealing.key_id`).
    keys : mapping of str to bytes
        Fingerprint of a member's reader key to 80 bytes (HPKE).
    signature : bytes
        65 bytes, by the member that drew the key.
    """

    federation_id: bytes
    key_id: bytes
    keys: Mapping[str, bytes] = field(repr=False)
    signature: bytes = b""

    def message(self, domain: eip712.Domain) -> eip712.TypedMessage:
        """What is signed: the Keccak-256 of all but the signature, in the registry's domain."""
        content = keccak256(_canonical.dumps(self._content(), "directory key"))
        return eip712.TypedMessage(TYPE, (self.federation_id, content), domain)

    def signer(self, domain: eip712.Domain) -> str:
        """The account that signed it, checksummed. Any signature is of some account: ask whether it is a member's.

        Raises
        ------
        RecordError
        """
        return eip712.recover(self.message(domain).digest, self.signature)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return _canonical.dumps(self._content() | {"signature": _canonical.to_hex(self.signature)}, "directory key")

    def _content(self) -> dict[str, Any]:
        return {
            "kind": _KIND,
            "version": VERSION,
            "federation_id": _canonical.to_hex(self.federation_id),
            "key_id": _canonical.to_hex(self.key_id),
            "keys": {name: _canonical.to_base64(wrapped) for name, wrapped in self.keys.items()},
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> DirectoryKey:
        """Decode. Nothing in it is proved by this.

        Raises
        ------
        RecordError
        """
        if len(data) > MAX_SIZE:
            raise RecordError(f"directory key: more than {MAX_SIZE} bytes")
        values = _canonical.loads(data, "directory key")
        if not isinstance(values, dict) or values.get("kind") != _KIND:
            raise RecordError("directory key: is not the file of a directory key")
        _canonical.version(values.get("version"), VERSION, "directory key")
        _canonical.fields(values, _FIELDS, "directory key")
        if not isinstance(values["keys"], dict):
            raise RecordError("directory key: keys must be a JSON object")
        return cls(
            _canonical.from_hex(values["federation_id"], "directory key: federation_id", 32),
            _canonical.from_hex(values["key_id"], "directory key: key_id", 8),
            {
                sealing.check_fingerprint(name, "directory key"): _canonical.fixed(
                    _canonical.from_base64(wrapped, "directory key"), sealing.WRAP_SIZE, "directory key: wrap"
                )
                for name, wrapped in values["keys"].items()
            },
            _canonical.from_hex(values["signature"], "directory key: signature", 65),
        )


def seal(
    key: bytes, federation_id: bytes, readers: Sequence[bytes], domain: eip712.Domain, account: eip712.Account
) -> DirectoryKey:
    """Wrap a directory key for the members and sign it.

    Parameters
    ----------
    key : bytes
        32 bytes.
    federation_id : bytes
        32 bytes.
    readers : sequence of bytes
        The members' X25519 public keys, 32 bytes each.
    domain : Domain
    account : LocalAccount or Signer
        A member's.

    Raises
    ------
    SealError
        A reader's key is unusable.
    """
    info = wrap_info(federation_id)
    keys = {sealing.fingerprint(reader): sealing.wrap(key, reader, info) for reader in readers}
    made = DirectoryKey(federation_id, sealing.key_id(key), keys)
    signature = eip712.sign_message(made.message(domain), account)
    return DirectoryKey(made.federation_id, made.key_id, made.keys, signature)


def open(sealed: DirectoryKey, reader: EccKey) -> bytes:
    """The key, 32 bytes, as one of the members; whether to believe its signer is the caller's to ask.

    Raises
    ------
    SealError
        No wrap for this reader, or it was changed.
    """
    name = sealing.fingerprint(bytes(reader.public_key().export_key(format="raw")))
    if name not in sealed.keys:
        raise SealError(
            f"directory key: has no wrap for reader {name}; ask for one that was made since it is a member's"
        )
    key = sealing.unwrap(sealed.keys[name], reader, wrap_info(sealed.federation_id))
    if sealing.key_id(key) != sealed.key_id:
        raise SealError("directory key: the wrap holds another key than the file names")
    return key


def wrap_info(federation_id: bytes) -> bytes:
    """HPKE's info string for a directory key."""
    return b"medprov 1 directory key" + _canonical.fixed(federation_id, 32, "federation id")
