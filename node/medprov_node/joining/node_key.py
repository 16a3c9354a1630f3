"""The node's own key, with which it signs every call to the SuperLink: ECDSA on P-384, in OpenSSH's format."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medprov_node.errors import JoinError

FILE = "node-key"


def create(folder: Path) -> str:
    """Make a key; nothing is overwritten.

    Returns
    -------
    str
        The public half, one line as OpenSSH writes it.

    Raises
    ------
    JoinError
        There is one already.
    OSError
    """
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise JoinError(f"{folder / FILE}: exists already; keys are never overwritten, name another folder") from None
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text)
    return public(key)


def load(file: Path) -> ec.EllipticCurvePrivateKey:
    """Read a key.

    Raises
    ------
    JoinError
        It is missing, damaged, of another kind, has a password, or others may read it.
    """
    try:
        mode, data = file.stat().st_mode, file.read_bytes()
    except OSError as error:
        raise JoinError(
            f"{file}: the node's key cannot be read ({error.strerror}); restore it, or be enrolled with a new one"
        ) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise JoinError(f"{file}: others may read this key; chmod 600 it")
    try:
        key = serialization.load_ssh_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise JoinError(f"{file}: is no ECDSA key in OpenSSH's format without a password; restore it from the backup")
    return key


def public(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half, one line as OpenSSH writes it, without comment."""
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line.decode("ascii")
