"""A hospital's two private keys: its chain account (secp256k1) and its reader key (X25519)."""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from Crypto.PublicKey import ECC
from Crypto.PublicKey.ECC import EccKey
from eth_account import Account
from eth_account.signers.local import LocalAccount

from .config import HospitalConfig
from .errors import ConfigError
from .signer import LocalSigner, RemoteSigner, Signer

KEYSTORE, PASSWORD, READER = "keystore.json", "password", "reader.pem"


@dataclass(frozen=True)
class HospitalKeys:
    """What :func:`create_account` made.

    Parameters
    ----------
    account : LocalAccount
    reader : bytes
        32 bytes, the public half of the reader key.
    """

    account: LocalAccount
    reader: bytes


def create_account(folder: Path, *, kdf_iterations: int | None = None) -> HospitalKeys:
    """Make both keys of a hospital with the system's random source and store them encrypted.

    Writes ``keystore.json`` (Web3 Secret Storage, version 3), ``password`` (random) and ``reader.pem`` (PKCS#8,
    encrypted) into `folder`, each readable by the owner only. Nothing is overwritten.

    Parameters
    ----------
    folder : Path
        Made if absent.
    kdf_iterations : int or None
        Cost of scrypt in the keystore, a power of two; None takes eth-account's default. Low values are for
        development chains only.

    Raises
    ------
    ConfigError
        The folder holds keys already or cannot be written.
    """
    account: LocalAccount = Account.create(secrets.token_hex(32))
    reader = ECC.generate(curve="Curve25519")
    password = secrets.token_urlsafe(32)
    keystore = Account.encrypt(account.key, password, kdf="scrypt", iterations=kdf_iterations)
    pem = reader.export_key(format="PEM", passphrase=password, protection="scryptAndAES256-CBC")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # the password goes first: without it a keystore left by a crash could never be opened
        for name, text in ((PASSWORD, password + "\n"), (READER, pem + "\n"), (KEYSTORE, json.dumps(keystore) + "\n")):
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename}: exists already; keys are never overwritten, move the folder away"
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder}: cannot store keys ({error.strerror})") from None
    return HospitalKeys(account, reader_public(reader))


def load_account(hospital: HospitalConfig) -> LocalAccount:
    """Open a hospital's chain account, whose key is in a keystore.

    Raises
    ------
    ConfigError
        A file is missing or malformed, the password is wrong, others may read it, the key is of another address, or a
        signing service keeps it.
    """
    if hospital.keystore is None:
        raise ConfigError(
            f"hospital {hospital.name}: its key is kept by a signing service, but this needs a keystore of its own"
        )
    password = _password(hospital.password_file)
    text = _read(hospital.keystore)
    try:
        key = Account.decrypt(json.loads(text), password)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        why = "the password does not open it" if "MAC mismatch" in str(error) else "not a version 3 keystore"
        raise ConfigError(f"{hospital.keystore}: {why}; restore keystore and password from the backup") from None
    account: LocalAccount = Account.from_key(key)
    if account.address.lower() != hospital.address.lower():
        raise ConfigError(
            f"{hospital.keystore}: holds the key of {account.address}, but the configuration says {hospital.address}"
        )
    return account


def load_signer(hospital: HospitalConfig) -> Signer:
    """Whatever signs for a hospital: the key in its keystore, or its signing service, which is not asked yet.

    Raises
    ------
    ConfigError
        As for :func:`load_account`.
    """
    if hospital.signer is not None:
        return RemoteSigner(hospital.signer, hospital.address)
    return LocalSigner(load_account(hospital))


def load_reader_key(hospital: HospitalConfig) -> EccKey:
    """Open a hospital's X25519 private key.

    Raises
    ------
    ConfigError
        A file is missing or malformed, or the password is wrong.
    """
    password = _password(hospital.password_file)
    try:
        key = ECC.import_key(_read(hospital.reader_key), passphrase=password)
    except (ValueError, IndexError, TypeError):
        raise ConfigError(
            f"{hospital.reader_key}: not a private key in PEM form that this password opens; restore it from the backup"
        ) from None
    if key.curve != "Curve25519" or not key.has_private():
        raise ConfigError(f"{hospital.reader_key}: must hold an X25519 private key, holds {key.curve}")
    return key


def reader_public(key: EccKey) -> bytes:
    """The 32 bytes of an X25519 key's public half (RFC 7748, section 5)."""
    raw: bytes = key.public_key().export_key(format="raw")
    return raw


def _password(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{path}: password file cannot be read ({error.strerror})") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{path}: is a folder; name the file in it that holds the password")
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"{path}: others may read this password file; chmod 600 it")
    return _read(path).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file") from None
