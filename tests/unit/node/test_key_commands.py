"""``medprov-node readers``, ``reader-key``, ``open``, ``rotate-key``: what they print, one line where they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

import medprov_ledger.chain
from medprov_ledger.config import Config
from medprov_node import cli, key_commands
from medprov_node.mark import mark_files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def place(make_house, quick, picture):
    """A federation whose hospital-a has marked one picture."""
    house = make_house()
    jobs = [(picture, picture.with_name("out.png"))]
    (result,) = mark_files(jobs, "hospital-a", house.config, watermarker=quick, ledger=house.ledger)
    return replace(house, config=Config.load(house.file)), result


def refused(answer: tuple[int, str, str], *parts: str) -> None:
    code, out, err = answer
    assert (code, out) == (1, "")
    assert err.startswith("medprov-node: ") and err.count("\n") == 1, err
    assert all(part in err for part in parts), err


def test_a_reader_s_way_from_key_to_bundle(run: Run, place, tmp_path) -> None:
    house, result = place
    code, out, err = run("reader-key", tmp_path / "auditor", "--json")
    made = json.loads(out)
    assert (code, err) == (0, "") and len(made["public"]) == 64
    public = tmp_path / "auditor" / "reader.pub"
    code, out, _ = run("readers", "grant", result.bundle_cid, public, "--wrap", tmp_path / "w", "--config", house.file)
    assert code == 0 and made["fingerprint"] in out and "for this reader only" in out
    _, listed, _ = run("readers", "list", "--config", house.file, "--json")
    (one,) = json.loads(listed)["bundles"]
    assert (one["bundle"], one["record_key"]) == (result.bundle_cid, result.record_key)
    assert made["fingerprint"] in one["readers"] and json.loads(listed)["own"] in one["readers"]

    # the reader has no hospital's configuration, only the store's
    text = house.file.read_text()
    verifier = house.file.with_name("verifier.toml")
    verifier.write_text(text[: text.index("[hospitals.")])
    key = tmp_path / "auditor" / "reader.pem"
    code, opened, err = run("open", tmp_path / "w", "--key", key, "--config", verifier)
    assert (code, err) == (0, "")
    assert json.loads(opened)["bundle"] == result.bundle_cid and len(json.loads(opened)["salt"]) == 32
    (tmp_path / "sealed").write_bytes(house.ledger.store.get(result.bundle_cid))
    code, alone, _ = run("open", tmp_path / "w", "--key", key, "--bundle", tmp_path / "sealed")
    assert (code, alone) == (0, opened), "without any configuration"
    code, own, _ = run("open", result.payload, "--config", house.file)
    assert (code, own) == (0, opened)
    target = tmp_path / "opened.json"
    assert run("open", tmp_path / "w", "--key", key, "--config", verifier, "--output", target) == (0, "", "")
    assert json.loads(target.read_text()) == json.loads(opened) and target.stat().st_mode & 0o077 == 0
    refused(run("open", result.payload, "--config", house.file, "--output", target), "opened.json", "exists already")

    # handed over again, revoked, shredded
    code, out, _ = run(
        "readers", "export", result.bundle_cid, made["fingerprint"], tmp_path / "w2", "--config", house.file
    )
    assert code == 0 and (tmp_path / "w2").read_bytes() == (tmp_path / "w").read_bytes()
    code, out, _ = run("readers", "revoke", result.bundle_cid, public, "--config", house.file)
    assert code == 0 and "1 left" in out and "can still open" in out
    refused(run("readers", "export", result.bundle_cid, public, tmp_path / "w3", "--config", house.file), "not named")
    refused(run("readers", "shred", result.record_key, "--config", house.file), "cannot be undone", "--yes")
    code, out, _ = run("readers", "shred", result.record_key, "--yes", "--config", house.file)
    assert code == 0 and "no key of it is left" in out and "backups" in out
    refused(run("readers", "shred", result.bundle_cid, "--yes", "--config", house.file), "shredded before")
    refused(run("readers", "list", result.record_key, "--config", house.file), "did not mark it, or the bundle was")
    refused(run("open", result.bundle_cid, "--config", house.file), "was erased")
    assert run("readers", "list", "--config", house.file)[1] == "hospital-a: 0 bundle(s) with a key\n"


def test_what_cannot_be_done_is_one_line(run: Run, place, tmp_path, picture) -> None:
    house, result = place
    config = ("--config", house.file)
    refused(run("readers", "list", "none.png", *config), "none.png: no such picture", "readers list")
    refused(run("readers", "grant", result.bundle_cid, "none", *config), "none: neither 64 hexadecimal digits")
    refused(run("readers", "grant", result.bundle_cid, "00" * 32, *config), "not a usable X25519 public key")
    refused(run("readers", "grant", result.evidence_cid, "ab" * 32, *config), "no wrapped key")
    refused(run("readers", "list", "--hospital", "x", *config), "no hospital 'x'")
    refused(run("readers", "list", "--config", tmp_path / "none.toml"), "no such configuration")
    refused(run("reader-key", picture / "keys"), "cannot store a key")
    wrap = tmp_path / "wrap"
    assert run("readers", "grant", result.bundle_cid, "ab" * 32, "--wrap", wrap, *config)[0] == 0
    refused(run("readers", "grant", result.bundle_cid, "ab" * 32, "--wrap", wrap, *config), "exists already")
    refused(run("open", wrap, *config), "a wrap needs its reader's private key", "--key")
    refused(run("open", result.bundle_cid, "--key", "x.pem", *config), "is no wrap")
    assert run("reader-key", tmp_path / "other")[0] == 0
    refused(run("open", wrap, "--key", tmp_path / "other" / "reader.pem", *config), "is for reader")
    refused(run("open", wrap, "--key", tmp_path / "none.pem", *config), "none.pem: cannot be read")
    refused(run("open", result.bundle_cid, "--bundle", tmp_path / "none", *config), "No such file")
    refused(run("open", result.bundle_cid, "--bundle", picture, *config), "these bytes are not")
    wrap.write_bytes(wrap.read_bytes().replace(b'"version":1', b'"version":7'))
    refused(run("open", wrap, "--key", "x.pem", *config), "wrap: version 7 is unknown, this release reads version 1")


def test_the_picture_itself_names_its_bundle(run: Run, done, tmp_path) -> None:
    _, out, _ = run("readers", "list", done.png.output, "--config", done.house.file, "--json")
    assert json.loads(out)["bundles"][0]["bundle"] == done.png.bundle_cid
    refused(run("readers", "list", done.png.input, "--config", done.house.file), "scan.png: no mark can be read in it")


def test_a_rotation_by_command(run: Run, make_house, node_tester, monkeypatch) -> None:
    house = make_house()
    monkeypatch.setattr(medprov_ledger.chain, "connect_http", lambda *_: node_tester)
    code, out, err = run("rotate-key", "--config", house.file, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert Config.load(house.file).hospital("hospital-a").address == found["following"]
    code, out, _ = run("rotate-key", "--config", house.file)
    assert code == 0 and found["following"] in out and "its keystore stays at" in out


def test_a_rotation_without_a_chain_changes_nothing(run: Run, house) -> None:
    before = house.file.read_bytes()
    refused(run("rotate-key", "--config", house.file), house.config.rpc, "no chain answers there")
    assert house.file.read_bytes() == before


@pytest.mark.parametrize("command", key_commands.NAMES)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0 and "usage: medprov-node" in capsys.readouterr().out
