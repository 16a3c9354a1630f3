import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from medprov_node.errors import JoinError
from medprov_node.joining import node_key

OTHER = ed25519.Ed25519PrivateKey.generate().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
)
# PEM with a password: OpenSSH's own needs a further library to be written
LOCKED = ec.generate_private_key(ec.SECP384R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"password")
)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    line = node_key.create(tmp_path)
    file = tmp_path / node_key.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = node_key.load(file)
    assert key.curve.name == "secp384r1"
    assert node_key.public(key) == line
    assert load_ssh_public_key(line.encode()) == key.public_key()
    with pytest.raises(JoinError, match="node-key: exists already; keys are never overwritten"):
        node_key.create(tmp_path)


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    node_key.create(tmp_path)
    (tmp_path / node_key.FILE).chmod(0o640)
    with pytest.raises(JoinError, match="others may read this key; chmod 600 it"):
        node_key.load(tmp_path / node_key.FILE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        OTHER,
        LOCKED,
    ],
)
def test_what_is_no_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / node_key.FILE
    file.touch(0o600)
    file.write_bytes(content)
    with pytest.raises(JoinError, match="is no ECDSA key in OpenSSH's format without a password"):
        node_key.load(file)


def test_no_key(tmp_path: Path) -> None:
    with pytest.raises(JoinError, match=r"cannot be read \(No such file or directory\); restore it, or be enrolled"):
        node_key.load(tmp_path / node_key.FILE)
