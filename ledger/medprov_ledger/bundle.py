"""The private bundle: what only named readers open, under a key of its own that can be destroyed.

The sealed bundle lies in IPFS and cannot be called back. Its key exists only wrapped, in the hospital's state folder:
remove the wraps (:meth:`WrapFolder.erase`) and the bundle is noise. A reader outside the hospital is handed a
:class:`ReaderWrap`; what a reader has once opened no later step takes back.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from Crypto.PublicKey.ECC import EccKey

from . import _canonical, _files, cid, sealing
from .errors import RecordError, SealError

VERSION = 1
MAX_SIZE = 1 << 26
FOLDER = "wraps"
"""Folder of wrapped keys in a hospital's state folder."""
MAX_SEALED = MAX_SIZE + 64
"""Largest sealed bundle, bytes; no reader needs to fetch more."""
_MAGIC = b"MPBU"
_FIELDS = ("salt", "metadata", "notes")
_WRAP_KIND = "medprov wrap"
_WRAP_FIELDS = ("kind", "version", "bundle", "record_key", "reader", "key")
_SUFFIX = ".json"


@dataclass(frozen=True)
class Bundle:
    """Checked when made.

    Parameters
    ----------
    salt : bytes
        16 bytes, the salt of the cover's hash.
    metadata : mapping
        JSON object, the original metadata (for DICOM: the JSON model of PS3.18, annex F, without pixels).
    notes : mapping of str to str
    version : int

    Raises
    ------
    RecordError
    """

    salt: bytes = field(repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notes: Mapping[str, str] = field(default_factory=dict, repr=False)
    version: int = VERSION

    def __post_init__(self) -> None:
        _canonical.version(self.version, VERSION, "bundle")
        _canonical.fixed(self.salt, 16, "bundle: salt")
        if not isinstance(self.metadata, Mapping) or not isinstance(self.notes, Mapping):
            raise RecordError("bundle: metadata and notes must be JSON objects")
        for name, value in self.notes.items():
            _canonical.text(name, 200, "bundle: name of a note")
            _canonical.text(value, 1 << 20, f"bundle: note {name}")

    def to_bytes(self) -> bytes:
        """``MPBU``, version (2), canonical JSON."""
        values = {"salt": self.salt.hex(), "metadata": dict(self.metadata), "notes": dict(self.notes)}
        body = _canonical.dumps(values, "bundle")
        if len(body) > MAX_SIZE:
            raise RecordError(f"bundle: {len(body)} bytes are more than {MAX_SIZE}; leave large elements out")
        return _MAGIC + self.version.to_bytes(2, "big") + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Decode.

        Raises
        ------
        RecordError
        """
        if len(data) < 6 or data[:4] != _MAGIC or len(data) > MAX_SIZE + 6:
            raise RecordError("bundle: truncated, too large or not a bundle of this format")
        _canonical.version(int.from_bytes(data[4:6], "big"), VERSION, "bundle")
        values = _canonical.fields(_canonical.loads(data[6:], "bundle"), _FIELDS, "bundle")
        salt = values["salt"]
        return cls(
            _canonical.from_hex(f"0x{salt}", "bundle: salt", 16),
            values["metadata"],
            values["notes"],
        )


@dataclass(frozen=True)
class Wraps:
    """A bundle's key, wrapped once per reader.

    Parameters
    ----------
    record_key : bytes
        32 bytes, of the record that names the bundle.
    keys : mapping of str to bytes
        Fingerprint of the reader's public key to 80 bytes (HPKE).
    """

    record_key: bytes
    keys: Mapping[str, bytes] = field(repr=False)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        keys = {name: _canonical.to_base64(wrapped) for name, wrapped in self.keys.items()}
        values = {"version": VERSION, "record_key": _canonical.to_hex(self.record_key), "keys": keys}
        return _canonical.dumps(values, "wraps")

    @classmethod
    def from_bytes(cls, data: bytes) -> Wraps:
        """Decode.

        Raises
        ------
        RecordError
        """
        found = _canonical.loads(data, "wraps")
        if isinstance(found, dict):
            # the version first: a newer file would otherwise be refused for its unknown fields
            _canonical.version(found.get("version"), VERSION, "wraps")
        values = _canonical.fields(found, ("version", "record_key", "keys"), "wraps")
        if not isinstance(values["keys"], dict):
            raise RecordError("wraps: keys must be a JSON object")
        keys = {
            sealing.check_fingerprint(name, "wraps"): _wrapped(wrapped, "wraps")
            for name, wrapped in values["keys"].items()
        }
        return cls(_canonical.from_hex(values["record_key"], "wraps: record_key", 32), keys)


@dataclass(frozen=True)
class ReaderWrap:
    """A bundle's key for one reader, as it is handed over: a file that is of no use to anybody else.

    Parameters
    ----------
    bundle_cid : str
    record_key : bytes
        32 bytes.
    reader : str
        Fingerprint of the reader's public key.
    key : bytes
        80 bytes (HPKE).
    """

    bundle_cid: str
    record_key: bytes
    reader: str
    key: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        values = {
            "kind": _WRAP_KIND,
            "version": VERSION,
            "bundle": self.bundle_cid,
            "record_key": _canonical.to_hex(self.record_key),
            "reader": self.reader,
            "key": _canonical.to_base64(self.key),
        }
        return _canonical.dumps(values, "wrap")

    @classmethod
    def from_bytes(cls, data: bytes) -> ReaderWrap:
        """Decode.

        Raises
        ------
        RecordError
        """
        values = _canonical.loads(data, "wrap")
        if not isinstance(values, dict) or values.get("kind") != _WRAP_KIND:
            raise RecordError("wrap: is not a wrapped key that was handed over")
        _canonical.version(values.get("version"), VERSION, "wrap")
        _canonical.fields(values, _WRAP_FIELDS, "wrap")
        return cls(
            str(cid.parse(values["bundle"])),
            _canonical.from_hex(values["record_key"], "wrap: record_key", 32),
            sealing.check_fingerprint(values["reader"], "wrap"),
            _wrapped(values["key"], "wrap"),
        )


def seal(
    bundle: Bundle, record_key: bytes, readers: Sequence[bytes], nonce: bytes | None = None
) -> tuple[bytes, Wraps]:
    """Encrypt a bundle under a new key and wrap the key for each reader.

    Parameters
    ----------
    bundle : Bundle
    record_key : bytes
        32 bytes.
    readers : sequence of bytes
        X25519 public keys, 32 bytes each; at least one, otherwise nobody could ever open it.
    nonce : bytes or None
        12 bytes; None draws one.

    Returns
    -------
    sealed : bytes
        For the store. Sealing again gives other bytes: keep these.
    wraps : Wraps
        For :meth:`WrapFolder.save`. The key itself is not kept.

    Raises
    ------
    SealError
        No reader, or a reader's key is unusable.
    """
    if not readers:
        raise SealError("bundle: names no reader; give at least the hospital's own reader key")
    key = sealing.new_key()
    sealed = sealing.seal(key, bundle.to_bytes(), nonce or sealing.new_nonce(), sealing.aad("bundle", record_key))
    info = wrap_info(record_key)
    keys = {sealing.fingerprint(reader): sealing.wrap(key, reader, info) for reader in readers}
    return sealed, Wraps(record_key, keys)


def open(sealed: bytes, wraps: Wraps, reader: EccKey) -> Bundle:
    """Decrypt a bundle as one of its readers.

    Parameters
    ----------
    sealed : bytes
    wraps : Wraps
    reader : EccKey
        X25519 private key.

    Raises
    ------
    SealError
        This reader is not named, or something was changed.
    RecordError
        Opened, but malformed.
    """
    key = _unwrapped(wraps.record_key, wraps.keys, reader)
    return Bundle.from_bytes(sealing.open(key, sealed, sealing.aad("bundle", wraps.record_key)))


def open_handed(sealed: bytes, wrap: ReaderWrap, reader: EccKey) -> Bundle:
    """Decrypt a bundle with a wrap that its hospital handed over.

    Raises
    ------
    SealError
        The wrap is another reader's or of another bundle, or something was changed.
    RecordError
        Opened, but malformed.
    """
    if cid.of(sealed) != wrap.bundle_cid:
        raise SealError(f"bundle: these bytes are not {wrap.bundle_cid}, which the wrapped key is for; fetch that one")
    return open(sealed, Wraps(wrap.record_key, {wrap.reader: wrap.key}), reader)


def add_reader(wraps: Wraps, reader: EccKey, new_reader: bytes) -> Wraps:
    """Wraps that also serve a new reader; only a reader can add one.

    Raises
    ------
    SealError
        `reader` is not named, or the new key is unusable.
    """
    key = _unwrapped(wraps.record_key, wraps.keys, reader)
    wrapped = sealing.wrap(key, new_reader, wrap_info(wraps.record_key))
    return Wraps(wraps.record_key, {**wraps.keys, sealing.fingerprint(new_reader): wrapped})


def remove_reader(wraps: Wraps, reader: str) -> Wraps:
    """Wraps without one reader. A wrap that was handed over, or a key that was unwrapped, opens the bundle as before.

    Parameters
    ----------
    wraps : Wraps
    reader : str
        Fingerprint.

    Raises
    ------
    SealError
        Not named, or the last one.
    """
    if reader not in wraps.keys:
        raise SealError(f"bundle: reader {reader} is not named; named are {', '.join(sorted(wraps.keys)) or 'none'}")
    if len(wraps.keys) == 1:
        raise SealError(f"bundle: {reader} is its only reader; shred the bundle instead")
    return Wraps(wraps.record_key, {name: key for name, key in wraps.keys.items() if name != reader})


def wrap_info(record_key: bytes) -> bytes:
    """HPKE's info string for a bundle key."""
    return b"medprov 1 bundle key" + _canonical.fixed(record_key, 32, "bundle: record key")


class WrapFolder:
    """The wraps of a hospital's bundles, one file per bundle, in the hospital's state folder; never in IPFS.

    What is replaced or erased is overwritten with zeros before its name goes. A disk or file system that writes to
    another place each time (flash, journals of data, snapshots) may keep the former bytes all the same, and so may a
    backup of the folder.

    Parameters
    ----------
    path : Path
        Made if absent, readable by the owner only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, bundle_cid: str, wraps: Wraps) -> None:
        """Store wraps durably; on return they are on the disk and the former ones overwritten."""
        file = self._file(bundle_cid)
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            former = os.open(file, os.O_RDWR) if file.exists() else None
            try:
                _files.write(file, wraps.to_bytes(), mode=0o600)
                if former is not None:
                    _overwrite(former)
            finally:
                if former is not None:
                    os.close(former)
        except OSError as error:
            raise SealError(f"{self.path}: cannot store wrapped keys ({error.strerror})") from None

    def load(self, bundle_cid: str) -> Wraps:
        """Wraps of one bundle.

        Raises
        ------
        SealError
            None here: never made here, or erased.
        RecordError
            The file is malformed.
        """
        file = self._file(bundle_cid)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise SealError(f"{file}: no wrapped key; the bundle is another hospital's or was erased") from None
        except OSError as error:
            raise SealError(f"{file}: cannot be read ({error.strerror})") from None
        if not data.strip(b"\0"):
            raise SealError(f"{file}: overwritten by an erasure that was cut short; erase it again to end it")
        try:
            return Wraps.from_bytes(data)
        except RecordError as error:
            raise RecordError(f"{file}: {error}") from None

    def bundles(self) -> Iterator[str]:
        """CIDs of all bundles that have wraps here, in ascending order.

        Raises
        ------
        SealError
        """
        try:
            names = sorted(os.listdir(self.path)) if self.path.is_dir() else []
        except OSError as error:
            raise SealError(f"{self.path}: cannot be read ({error.strerror})") from None
        yield from (name.removesuffix(_SUFFIX) for name in names if name[:1] != "." and name.endswith(_SUFFIX))

    def of_record(self, record_key: bytes) -> list[str]:
        """CIDs of the bundles of a record key (32 bytes); reads every file here."""
        return [name for name in self.bundles() if self.load(name).record_key == record_key]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process at a time load, change and save.

        Raises
        ------
        SealError
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise SealError(f"{self.path}: cannot be used ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def erase(self, bundle_cid: str) -> None:
        """Destroy a bundle's wraps; from then on nobody can open it who has not kept the key. Twice is once.

        Also what a crash has left of a half-written file goes.

        Raises
        ------
        SealError
        """
        file = self._file(bundle_cid)
        try:
            for one in (file, *self.path.glob(f".{file.name}.*")):
                # not a new file in its place: that would leave the old blocks as they are
                if one.exists():
                    descriptor = os.open(one, os.O_RDWR)
                    try:
                        _overwrite(descriptor)
                    finally:
                        os.close(descriptor)
                one.unlink(missing_ok=True)
            if self.path.is_dir():
                _files.sync_folder(self.path)
        except OSError as error:
            raise SealError(f"{file}: cannot be erased ({error.strerror}); the bundle can still be opened") from None

    def _file(self, bundle_cid: str) -> Path:
        # parsing keeps a hostile name such as "../x" out of the path
        return self.path / f"{cid.parse(bundle_cid)}{_SUFFIX}"


def _overwrite(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    os.pwrite(descriptor, bytes(size), 0)
    os.fsync(descriptor)


def _unwrapped(record_key: bytes, keys: Mapping[str, bytes], reader: EccKey) -> bytes:
    name = sealing.fingerprint(reader.public_key().export_key(format="raw"))
    if name not in keys:
        raise SealError(f"bundle: reader {name} is not named; ask the hospital to wrap the key for this reader")
    return sealing.unwrap(keys[name], reader, wrap_info(record_key))


def _wrapped(value: Any, what: str) -> bytes:
    return _canonical.fixed(_canonical.from_base64(value, f"{what}: key"), sealing.WRAP_SIZE, f"{what}: key")
