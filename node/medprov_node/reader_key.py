"""Keys of readers that are no hospitals: X25519, the pair in three files, the public half in the forms it comes in."""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from Crypto.PublicKey import ECC
from Crypto.PublicKey.ECC import EccKey

from medprov_ledger import sealing
from medprov_ledger.keys import reader_public
from medprov_node.errors import KeyFileError

PRIVATE, PUBLIC, PASSWORD = "reader.pem", "reader.pub", "password"
_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_LARGEST = 1 << 16


@dataclass(frozen=True)
class ReaderKey:
    """What :func:`create` made.

    Parameters
    ----------
    folder : Path
    public : bytes
        32 bytes; this is what the reader gives to hospitals.
    """

    folder: Path
    public: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that name the key."""
        return sealing.fingerprint(self.public)


def create(folder: Path) -> ReaderKey:
    """Make a reader's key pair with the system's random source.

    Writes ``password`` (random), ``reader.pem`` (PKCS#8, encrypted with it) and ``reader.pub`` (64 hexadecimal digits).
    Nothing is overwritten.

    Parameters
    ----------
    folder : Path
        Made if absent.

    Raises
    ------
    KeyFileError
        The folder holds a key already or cannot be written.
    """
    key, password = ECC.generate(curve="Curve25519"), secrets.token_urlsafe(32)
    public = reader_public(key)
    pem = key.export_key(format="PEM", passphrase=password, protection="scryptAndAES256-CBC")
    # the password first: without it a key left by a crash could never be opened
    texts = ((PASSWORD, password, 0o600), (PRIVATE, str(pem), 0o600), (PUBLIC, public.hex(), 0o644))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text, mode in texts:
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text + "\n")
    except FileExistsError as error:
        raise KeyFileError(
            f"{error.filename}: exists already; keys are never overwritten, name another folder"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{error.filename or folder}: cannot store a key ({error.strerror})") from None
    return ReaderKey(folder, public)


def load(file: Path, password_file: Path | None) -> EccKey:
    """Open a reader's private key.

    Parameters
    ----------
    file : Path
        PEM.
    password_file : Path or None
        None takes the file ``password`` beside the key where there is one, otherwise the key is not encrypted.

    Raises
    ------
    KeyFileError
    """
    beside = file.with_name(PASSWORD)
    chosen = password_file or (beside if beside.is_file() else None)
    password = None if chosen is None else _password(chosen)
    text = _read(file)
    try:
        key = ECC.import_key(text, passphrase=password)
    except (ValueError, IndexError, TypeError):
        raise KeyFileError(
            f"{file}: not a private key in PEM form that this password opens; name its password file with "
            "--password-file"
        ) from None
    if key.curve != "Curve25519" or not key.has_private():
        what = "public key" if not key.has_private() else f"key of {key.curve}"
        raise KeyFileError(f"{file}: must hold an X25519 private key, holds a {what}")
    return key


def public_key(text: str) -> bytes:
    """A reader's public key as it comes: 64 hexadecimal digits, or a file with these, with 32 bytes or in PEM form.

    Parameters
    ----------
    text : str
        The digits or the file's name.

    Returns
    -------
    bytes
        32 bytes.

    Raises
    ------
    KeyFileError
    """
    if digits := _HEX.fullmatch(text):
        return bytes.fromhex(digits[1])
    file = Path(text)
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise KeyFileError(
            f"{text}: neither 64 hexadecimal digits nor a file that can be read ({why}); give the reader's public key"
        ) from None
    if len(data) == sealing.KEY_SIZE:
        return data
    content = data.decode("ascii", "replace").strip()
    if digits := _HEX.fullmatch(content):
        return bytes.fromhex(digits[1])
    if "PRIVATE KEY" in content:
        raise KeyFileError(f"{file}: is a private key, which its reader must keep; ask for the public one")
    try:
        key = ECC.import_key(content)
    except (ValueError, IndexError, TypeError):
        key = None
    if key is None or key.curve != "Curve25519":
        raise KeyFileError(
            f"{file}: not an X25519 public key; it must hold 64 hexadecimal digits, 32 bytes, or PEM"
        ) from None
    return reader_public(key)


def _password(file: Path) -> str:
    text = _read(file).strip()
    if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise KeyFileError(f"{file}: others may read this password file; chmod 600 it")
    return text


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError as error:
        raise KeyFileError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{file}: is not a text file") from None
