"""Who may open a hospital's private bundles: list, grant, revoke, shred, hand over, open.

All of it is done in the hospital's state folder; neither chain nor store is asked, except to fetch a bundle that is
to be opened. What is in the store stays there: a record names its bundle by CID, so a bundle cannot be sealed again
under another key without another record.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from Crypto.PublicKey.ECC import EccKey

from medprov_ledger import bundle, cid, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap, WrapFolder
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import RecordError, SealError
from medprov_ledger.keys import load_reader_key, reader_public
from medprov_ledger.store import open_store
from medprov_node import reader_key
from medprov_node.errors import OutputError, UnknownBundleError

_HEX32 = re.compile(r"0x[0-9a-fA-F]{64}|[0-9a-fA-F]{64}")
_PAYLOAD = re.compile(r"0x[0-9a-fA-F]{24}|[0-9a-fA-F]{24}")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")

ReadPayload = Callable[[Path], bytes]
"""Reads the 12 bytes out of a marked picture."""


@dataclass(frozen=True)
class Access:
    """Who is named for one bundle.

    Parameters
    ----------
    bundle_cid : str
    record_key : bytes
        32 bytes.
    readers : tuple of str
        Fingerprints, in ascending order.
    """

    bundle_cid: str
    record_key: bytes
    readers: tuple[str, ...]


def wrap_folder(hospital: HospitalConfig) -> WrapFolder:
    """Where a hospital keeps the wrapped keys of its bundles."""
    return WrapFolder(hospital.state / bundle.FOLDER)


def access(hospital: HospitalConfig, bundle_cid: str) -> Access:
    """Who is named for one bundle.

    Raises
    ------
    SealError, RecordError
    """
    wraps = wrap_folder(hospital).load(bundle_cid)
    return Access(bundle_cid, wraps.record_key, tuple(sorted(wraps.keys)))


def find(what: str, hospital: HospitalConfig, config: Config, read_payload: ReadPayload) -> str:
    """The CID of the bundle that a user names.

    Parameters
    ----------
    what : str
        The bundle's CID, the record's key (32 bytes), the payload (12 bytes) as hexadecimal digits, or a marked
        picture, also a degraded copy.
    hospital : HospitalConfig
    config : Config
    read_payload : callable
        Used for a picture only.

    Raises
    ------
    UnknownBundleError
        Nothing here has this name, or several bundles have.
    """
    folder = wrap_folder(hospital)
    try:
        return str(cid.parse(what))
    except RecordError:
        pass
    if _HEX32.fullmatch(what):
        record_key, name = bytes.fromhex(what.removeprefix("0x")), f"record key {what}"
    else:
        if _PAYLOAD.fullmatch(what):
            payload = bytes.fromhex(what.removeprefix("0x"))
        elif Path(what).exists():
            payload = read_payload(Path(what))
        else:
            raise UnknownBundleError(
                f"{what}: no such picture, and not a bundle's CID, a record key or a payload; 'medprov-node readers "
                "list' shows the bundles here"
            )
        record_key, name = sealing.payload_keys(payload, config.federation_id).record_key, what
    found = folder.of_record(record_key)
    if not found:
        raise UnknownBundleError(
            f"{name}: {folder.path} has no wrapped key for it; {hospital.name} did not mark it, or the bundle was "
            "shredded"
        )
    if len(found) > 1:
        raise UnknownBundleError(f"{name}: has {len(found)} bundles; name one of {', '.join(found)}")
    return found[0]


def grant(hospital: HospitalConfig, bundle_cid: str, reader: bytes) -> ReaderWrap:
    """Name a further reader and give the wrap for that reader; twice is once.

    Parameters
    ----------
    hospital : HospitalConfig
    bundle_cid : str
    reader : bytes
        32 bytes, X25519 public key.

    Raises
    ------
    SealError, RecordError, ConfigError
    """
    own, folder = load_reader_key(hospital), wrap_folder(hospital)
    name = sealing.fingerprint(reader)
    with folder.locked():
        wraps = folder.load(bundle_cid)
        if name not in wraps.keys:
            wraps = bundle.add_reader(wraps, own, reader)
            folder.save(bundle_cid, wraps)
    return ReaderWrap(bundle_cid, wraps.record_key, name, wraps.keys[name])


def revoke(hospital: HospitalConfig, bundle_cid: str, reader: str) -> Access:
    """Take a reader's wrap away. What the reader has opened, or was handed over, opens the bundle as before.

    Parameters
    ----------
    hospital : HospitalConfig
    bundle_cid : str
    reader : str
        Fingerprint.

    Raises
    ------
    SealError
        Not named, or it is the hospital's own.
    """
    folder = wrap_folder(hospital)
    if reader == sealing.fingerprint(reader_public(load_reader_key(hospital))):
        raise SealError(
            f"reader {reader}: is {hospital.name} itself, without which nobody could be granted any more; shred the "
            "bundle if nobody shall open it"
        )
    with folder.locked():
        folder.save(bundle_cid, bundle.remove_reader(folder.load(bundle_cid), reader))
    return access(hospital, bundle_cid)


def shred(hospital: HospitalConfig, bundle_cid: str) -> None:
    """Destroy a bundle's key: all wraps of it here are overwritten and removed. This cannot be undone.

    Raises
    ------
    SealError
        There is none here, or it cannot be removed.
    """
    folder = wrap_folder(hospital)
    with folder.locked():
        known = bundle_cid in set(folder.bundles())
        folder.erase(bundle_cid)
    if not known:
        raise SealError(
            f"{bundle_cid}: {folder.path} has no wrapped key for it; another hospital's, or shredded before"
        )


def hand_over(hospital: HospitalConfig, bundle_cid: str, reader: str) -> ReaderWrap:
    """The wrap of a reader that is named already.

    Parameters
    ----------
    hospital : HospitalConfig
    bundle_cid : str
    reader : str
        Fingerprint.

    Raises
    ------
    SealError
    """
    wraps = wrap_folder(hospital).load(bundle_cid)
    if reader not in wraps.keys:
        raise SealError(f"reader {reader}: is not named for {bundle_cid}; grant it first")
    return ReaderWrap(bundle_cid, wraps.record_key, reader, wraps.keys[reader])


def write_wrap(file: Path, wrap: ReaderWrap) -> None:
    """Write a wrap for handing over; what is there already stays.

    Raises
    ------
    OutputError
    """
    try:
        with file.open("xb") as stream:
            stream.write(wrap.to_bytes())
    except FileExistsError:
        raise OutputError(f"{file}: the file exists already; name another one for the wrapped key") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{file}: cannot be written ({why})") from None


def read_wrap(file: Path) -> ReaderWrap | None:
    """A wrap that was handed over; None where the file is something else.

    Raises
    ------
    RecordError
        It looks like one and is malformed.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(1 << 16)
    except (OSError, ValueError):
        return None
    if not data.startswith(b"{"):
        return None
    try:
        return ReaderWrap.from_bytes(data)
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from None


def open_own(hospital: HospitalConfig, config: Config, bundle_cid: str, sealed: bytes | None) -> Bundle:
    """Open a bundle as its hospital.

    Parameters
    ----------
    hospital : HospitalConfig
    config : Config
    bundle_cid : str
    sealed : bytes or None
        None fetches it from the store.

    Raises
    ------
    SealError, RecordError, StoreError, ConfigError
    """
    folder, own = wrap_folder(hospital), load_reader_key(hospital)
    wraps = folder.load(bundle_cid)
    key = wraps.keys.get(sealing.fingerprint(reader_public(own)), b"")
    wrap = ReaderWrap(bundle_cid, wraps.record_key, sealing.fingerprint(reader_public(own)), key)
    return bundle.open_handed(sealed if sealed is not None else fetch(config, bundle_cid), wrap, own)


def open_handed(wrap: ReaderWrap, reader: EccKey, config: Config | None, sealed: bytes | None) -> Bundle:
    """Open a bundle as a reader whom its hospital has handed a wrap.

    Parameters
    ----------
    wrap : ReaderWrap
    reader : EccKey
    config : Config or None
        Names the store; not needed with `sealed`.
    sealed : bytes or None

    Raises
    ------
    SealError, RecordError, StoreError
    """
    own = sealing.fingerprint(reader_public(reader))
    if own != wrap.reader:
        raise SealError(f"wrapped key: is for reader {wrap.reader}, this key is {own}'s; ask for a wrap of your own")
    if sealed is None:
        assert config is not None
        sealed = fetch(config, wrap.bundle_cid)
    return bundle.open_handed(sealed, wrap, reader)


def fetch(config: Config, bundle_cid: str) -> bytes:
    """A sealed bundle from the store that the configuration names.

    Raises
    ------
    StoreError
    """
    return open_store(config).get(bundle_cid, bundle.MAX_SEALED)


def reader_of(text: str) -> str:
    """The fingerprint of a reader that a user names by fingerprint, public key or its file.

    Raises
    ------
    KeyFileError
    """
    return text if _FINGERPRINT.fullmatch(text) else sealing.fingerprint(reader_key.public_key(text))
