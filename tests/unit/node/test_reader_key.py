"""medprov_node.reader_key"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from Crypto.PublicKey import ECC

from medprov_ledger import sealing
from medprov_ledger.keys import reader_public
from medprov_node import reader_key
from medprov_node.errors import KeyFileError


def test_a_pair_that_opens(tmp_path: Path) -> None:
    made = reader_key.create(tmp_path / "auditor")
    key = reader_key.load(made.folder / "reader.pem", None)
    assert reader_public(key) == made.public == reader_key.public_key(str(made.folder / "reader.pub"))
    assert made.fingerprint == sealing.fingerprint(made.public)
    assert b"ENCRYPTED" in (made.folder / "reader.pem").read_bytes()
    if os.name == "posix":
        assert all((made.folder / name).stat().st_mode & 0o077 == 0 for name in ("reader.pem", "password"))
    with pytest.raises(KeyFileError, match="never overwritten"):
        reader_key.create(tmp_path / "auditor")
    assert reader_public(reader_key.load(made.folder / "reader.pem", None)) == made.public


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="cannot store a key"):
        reader_key.create(tmp_path / "file" / "keys")


def test_public_keys_in_every_form(tmp_path: Path) -> None:
    key = ECC.generate(curve="Curve25519")
    raw = reader_public(key)
    (tmp_path / "raw").write_bytes(raw)
    (tmp_path / "hex").write_text(f"0x{raw.hex()}\n")
    (tmp_path / "pem").write_text(str(key.public_key().export_key(format="PEM")))
    given = [raw.hex(), "0x" + raw.hex().upper(), *(str(tmp_path / name) for name in ("raw", "hex", "pem"))]
    assert {reader_key.public_key(one) for one in given} == {raw}


def test_what_is_no_public_key(tmp_path: Path) -> None:
    private = ECC.generate(curve="Curve25519").export_key(format="PEM")
    other = ECC.generate(curve="P-256").public_key().export_key(format="PEM")
    contents = {"private": private, "other": other, "text": "hello", "empty": ""}
    reasons = {
        "private": "its reader must keep",
        "other": "not an X25519",
        "text": "not an X25519",
        "empty": "not an X",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(str(content))
        with pytest.raises(KeyFileError, match=rf"{name}: .*{reasons[name]}"):
            reader_key.public_key(str(tmp_path / name))
    for text in ("ab" * 31, str(tmp_path / "none"), str(tmp_path), "a\0b"):
        with pytest.raises(KeyFileError, match="neither 64 hexadecimal digits nor a file"):
            reader_key.public_key(text)


def test_private_keys_that_do_not_open(tmp_path: Path) -> None:
    made = reader_key.create(tmp_path / "a")
    pem, password = made.folder / "reader.pem", made.folder / "password"
    other = tmp_path / "other"
    other.write_text("wrong\n")
    other.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"reader\.pem: not a private key .* --password-file"):
        reader_key.load(pem, other)
    other.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        reader_key.load(pem, other)
    with pytest.raises(KeyFileError, match="cannot be read"):
        reader_key.load(tmp_path / "none.pem", password)
    public = tmp_path / "public.pem"
    public.write_text(str(reader_key.load(pem, None).public_key().export_key(format="PEM")))
    with pytest.raises(KeyFileError, match="holds a public key"):
        reader_key.load(public, None)
    curve = tmp_path / "p256.pem"
    curve.write_text(str(ECC.generate(curve="P-256").export_key(format="PEM")))
    with pytest.raises(KeyFileError, match="holds a key of NIST P-256"):
        reader_key.load(curve, None)
