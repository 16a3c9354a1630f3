"""Epochs of the directory key: what members write and read, and what one that has left can read."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

import medprov_ledger.chain
from medprov_ledger import directory_key, manifest, sealing
from medprov_ledger.config import Config
from medprov_ledger.directory_key import DirectoryKey
from medprov_ledger.keys import load_account, load_reader_key, reader_public
from medprov_node import cli, config_file, directory_keys
from medprov_node.connect import Ledger
from medprov_node.errors import ConfigFileError, DirectoryKeyError, OutputError
from medprov_node.mark import mark_files


@pytest.fixture
def places(make_house, tmp_path):
    """A federation, and the configuration file of each of its two hospitals."""
    house = make_house()
    files = []
    for name in ("a", "b"):
        file = house.file.with_name(f"{name}.toml")
        file.write_text(house.file.read_text())
        files.append(file)
    return house, *files


def of(file, name):
    config = Config.load(file)
    return config.hospital(name), config


def test_members_go_on_with_a_new_key_and_read_both_epochs(places, quick, phantom, tmp_path) -> None:
    house, file_a, file_b = places
    chain, letter = house.ledger.chain, tmp_path / "key"

    def marked(seed: int):
        config = Config.load(file_a)
        Image.fromarray(phantom(seed=seed)).save(tmp_path / f"{seed}.png")
        jobs = [(tmp_path / f"{seed}.png", tmp_path / f"{seed}-out.png")]
        # marking takes the directory's key from the connection's configuration
        ledger = Ledger(type(chain)(config, chain.w3), house.ledger.store)
        (result,) = mark_files(jobs, "hospital-a", config, watermarker=quick, ledger=ledger)
        return manifest.parse(ledger.store.get(result.manifest_cid)), bytes.fromhex(result.payload)

    first, first_payload = marked(1)
    made = directory_keys.draw(letter, *of(file_a, "hospital-a"), chain)
    taken = directory_keys.take(letter, *of(file_b, "hospital-b"), chain)
    assert taken == made and Config.load(file_a).directory_keys == Config.load(file_b).directory_keys
    present, former = Config.load(file_b).directory_keys
    assert former == house.config.directory_key and sealing.key_id(present) == made.key_id
    second, second_payload = marked(2)

    assert manifest.open_directory(first, present, former) == (first_payload,)
    assert manifest.open_directory(second, present, former) == (second_payload,)
    # who left between the two has the former key alone
    assert manifest.open_directory(first, former) == (first_payload,)
    assert manifest.open_directory(second, former) is None
    # a second time changes nothing
    before = file_b.read_bytes()
    directory_keys.take(letter, *of(file_b, "hospital-b"), chain)
    assert file_b.read_bytes() == before


def test_an_older_letter_does_not_bring_a_former_key_back(places, tmp_path) -> None:
    house, file_a, file_b = places
    for number in range(2):
        directory_keys.draw(tmp_path / f"{number}", *of(file_a, "hospital-a"), house.ledger.chain)
        directory_keys.take(tmp_path / f"{number}", *of(file_b, "hospital-b"), house.ledger.chain)
    with pytest.raises(DirectoryKeyError, match="0: holds the key of a former epoch"):
        directory_keys.take(tmp_path / "0", *of(file_b, "hospital-b"), house.ledger.chain)
    assert len(Config.load(file_b).directory_keys) == 3


def test_a_letter_from_before_a_member_left_is_refused(places, tmp_path) -> None:
    house, file_a, file_b = places
    directory_keys.draw(tmp_path / "key", *of(file_a, "hospital-a"), house.ledger.chain)
    hospital, config = of(file_a, "hospital-a")
    gone = config.hospital("hospital-b")
    house.ledger.federation.leave(gone.address, load_account(hospital))
    again, third = house.file.with_name("third.toml"), tmp_path / "key"
    again.write_text(house.file.read_text())
    name = sealing.fingerprint(reader_public(load_reader_key(gone)))
    with pytest.raises(DirectoryKeyError, match=rf"is also for {name}, no active member's reader key"):
        directory_keys.take(third, *of(again, "hospital-a"), house.ledger.chain)
    # the new one has no wrap for who has left
    made = directory_keys.draw(tmp_path / "later", *of(again, "hospital-a"), house.ledger.chain)
    assert name not in made.keys and len(made.keys) == 1
    with pytest.raises(DirectoryKeyError, match="has no wrap for reader"):
        directory_keys.take(tmp_path / "later", *of(file_b, "hospital-b"), house.ledger.chain)


def test_only_members_draw(make_house, tmp_path) -> None:
    house = make_house(members=("hospital-a",))
    with pytest.raises(DirectoryKeyError, match="is no active member; only members draw"):
        directory_keys.draw(tmp_path / "key", *of(house.file, "hospital-b"), house.ledger.chain)
    # with the software changed, the others notice
    hospital, config = of(house.file, "hospital-a")
    readers = [reader_public(load_reader_key(hospital))]
    thief = load_account(config.hospital("hospital-b"))
    forged = directory_key.seal(bytes(32), config.federation_id, readers, house.ledger.domain, thief)
    (tmp_path / "forged").write_bytes(forged.to_bytes())
    with pytest.raises(DirectoryKeyError, match=rf"signed by {thief.address} or changed since, .* no active member"):
        directory_keys.take(tmp_path / "forged", hospital, config, house.ledger.chain)
    assert not (tmp_path / "key").exists()


def test_letters_that_are_none(places, tmp_path) -> None:
    house, file_a, file_b = places
    hospital = of(file_b, "hospital-b")
    with pytest.raises(DirectoryKeyError, match="none: cannot be read"):
        directory_keys.take(tmp_path / "none", *hospital, house.ledger.chain)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DirectoryKeyError, match="text: directory key: is not JSON"):
        directory_keys.take(tmp_path / "text", *hospital, house.ledger.chain)
    made = directory_keys.draw(tmp_path / "key", *of(file_a, "hospital-a"), house.ledger.chain)
    with pytest.raises(OutputError, match="key: the file exists already"):
        directory_keys.draw(tmp_path / "key", *of(file_a, "hospital-a"), house.ledger.chain)
    (tmp_path / "other").write_bytes(replace(made, federation_id=bytes(32)).to_bytes())
    with pytest.raises(DirectoryKeyError, match="other: is for another federation"):
        directory_keys.take(tmp_path / "other", *hospital, house.ledger.chain)
    (tmp_path / "unsigned").write_bytes(replace(made, signature=bytes(65)).to_bytes())
    with pytest.raises(DirectoryKeyError, match="unsigned: signature"):
        directory_keys.take(tmp_path / "unsigned", *hospital, house.ledger.chain)


def test_a_crash_before_the_configuration_loses_no_key(places, tmp_path, monkeypatch) -> None:
    house, file_a, _ = places
    with monkeypatch.context() as patched:
        patched.setattr(config_file, "change", lambda *_, **__: (_ for _ in ()).throw(ConfigFileError("x")))
        with pytest.raises(ConfigFileError):
            directory_keys.draw(tmp_path / "key", *of(file_a, "hospital-a"), house.ledger.chain)
    made = directory_keys.take(tmp_path / "key", *of(file_a, "hospital-a"), house.ledger.chain)
    assert sealing.key_id(Config.load(file_a).directory_keys[0]) == made.key_id


def test_the_commands(places, node_tester, monkeypatch, capsys, tmp_path) -> None:
    _, file_a, file_b = places
    monkeypatch.setattr(medprov_ledger.chain, "connect_http", lambda *_: node_tester)
    letter = tmp_path / "key"
    assert cli.main(["directory-key", "new", str(letter), "--config", str(file_a)]) == 0
    out = capsys.readouterr().out
    assert "for 2 member(s)" in out and "reads 2 epoch(s)" in out and "directory-key take" in out
    command = ["directory-key", "take", str(letter), "--hospital", "hospital-b", "--config", str(file_b), "--json"]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["key_id"] == "0x" + DirectoryKey.from_bytes(letter.read_bytes()).key_id.hex()
    file_b.write_text(re.sub(r"\[directory\]\n(.*)\n(.*)\n(.*)\n", "directory = {}\n", file_b.read_text(), count=1))
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("medprov-node: ")
