"""medprov_ledger.keys"""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from Crypto.PublicKey import ECC

from medprov_ledger.config import HospitalConfig
from medprov_ledger.errors import ConfigError
from medprov_ledger.keys import (
    HospitalKeys,
    create_account,
    load_account,
    load_reader_key,
    load_signer,
    reader_public,
)
from medprov_ledger.signer import LocalSigner, RemoteSigner


@pytest.fixture
def made(tmp_path: Path) -> tuple[HospitalKeys, HospitalConfig]:
    folder = tmp_path / "keys" / "a"
    keys = create_account(folder, kdf_iterations=2)
    files = (folder / "keystore.json", folder / "password", folder / "reader.pem")
    return keys, HospitalConfig("a", keys.account.address, *files, folder / "state")


def test_keys_come_back(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    keys, hospital = made
    assert load_account(hospital) == keys.account
    assert reader_public(load_reader_key(hospital)) == keys.reader
    assert len(keys.reader) == 32
    lower = replace(hospital, address=hospital.address.lower())
    assert load_account(lower) == keys.account


def test_who_signs(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    keys, hospital = made
    local = load_signer(hospital)
    assert isinstance(local, LocalSigner)
    assert local.address == keys.account.address
    away = replace(hospital, keystore=None, signer="http://127.0.0.1:9")
    remote = load_signer(away)
    assert isinstance(remote, RemoteSigner)
    assert (remote.url, remote.address) == ("http://127.0.0.1:9", keys.account.address)
    assert reader_public(load_reader_key(away)) == keys.reader
    with pytest.raises(ConfigError, match="kept by a signing service"):
        load_account(away)


def test_nothing_secret_in_clear(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    keys, hospital = made
    for file in (hospital.keystore, hospital.password_file, hospital.reader_key):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert keys.account.key.hex() not in file.read_text()
    assert stat.S_IMODE(hospital.keystore.parent.stat().st_mode) == 0o700
    assert "ENCRYPTED" in hospital.reader_key.read_text()


def test_each_account_is_new(tmp_path: Path) -> None:
    first, second = (create_account(tmp_path / name, kdf_iterations=2) for name in "ab")
    assert first.account.address != second.account.address
    assert first.reader != second.reader


def test_nothing_is_overwritten(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    keys, hospital = made
    with pytest.raises(ConfigError, match="exists already"):
        create_account(hospital.keystore.parent, kdf_iterations=2)
    assert load_account(hospital) == keys.account


def test_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        create_account(tmp_path / "file" / "a", kdf_iterations=2)


def test_wrong_password(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    hospital.password_file.write_text("wrong\n")
    with pytest.raises(ConfigError, match=r"keystore\.json: the password does not open it"):
        load_account(hospital)
    with pytest.raises(ConfigError, match=r"reader\.pem: not a private key"):
        load_reader_key(hospital)


def test_password_that_others_may_read(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    hospital.password_file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"password: others may read"):
        load_account(hospital)


def test_password_file_that_is_a_folder(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    hospital.password_file.unlink()
    hospital.password_file.mkdir()
    with pytest.raises(ConfigError, match=r"password: is a folder; name the file"):
        load_account(hospital)


def test_key_of_another_address(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    with pytest.raises(ConfigError, match=re.escape("but the configuration says 0x" + "00" * 20)):
        load_account(replace(hospital, address="0x" + "00" * 20))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "{}", '{"crypto": 3, "version": 3}', '{"version": 9}', "\u00e9"]
)
def test_damaged_keystore(made: tuple[HospitalKeys, HospitalConfig], content: str) -> None:
    _, hospital = made
    hospital.keystore.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=re.escape(str(hospital.keystore))):
        load_account(hospital)


def test_truncated_keystore(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    text = hospital.keystore.read_text()
    fields = json.loads(text)
    fields["crypto"]["ciphertext"] = fields["crypto"]["ciphertext"][:-2]
    for damaged in (text[: len(text) // 2], json.dumps(fields)):
        hospital.keystore.write_text(damaged)
        with pytest.raises(ConfigError, match=re.escape(str(hospital.keystore))):
            load_account(hospital)


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_truncated_reader_key(made: tuple[HospitalKeys, HospitalConfig], keep: int) -> None:
    _, hospital = made
    hospital.reader_key.write_text(hospital.reader_key.read_text()[:keep])
    with pytest.raises(ConfigError, match=r"reader\.pem"):
        load_reader_key(hospital)


def test_reader_key_of_another_curve(made: tuple[HospitalKeys, HospitalConfig]) -> None:
    _, hospital = made
    password = hospital.password_file.read_text().strip()
    key = ECC.generate(curve="p256")
    pem = key.export_key(format="PEM", passphrase=password, protection="scryptAndAES256-CBC")
    hospital.reader_key.write_text(pem)
    with pytest.raises(ConfigError, match="must hold an X25519 private key"):
        load_reader_key(hospital)


@pytest.mark.parametrize("name", ["keystore", "password_file", "reader_key"])
def test_missing_file_is_named(made: tuple[HospitalKeys, HospitalConfig], name: str) -> None:
    _, hospital = made
    file: Path = getattr(hospital, name)
    file.unlink()
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_account(hospital)
        load_reader_key(hospital)
