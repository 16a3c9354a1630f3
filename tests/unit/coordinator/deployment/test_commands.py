import json
from pathlib import Path

import pytest

from medprov_coordinator.cli import main
from medprov_coordinator.deployment import bundle, members
from medprov_coordinator.deployment import up as up_module
from medprov_coordinator.errors import SuperLinkError
from tests.unit.coordinator.deployment.conftest import MakeConsortium

Capture = pytest.CaptureFixture[str]


def test_init_and_bundle(make_consortium: MakeConsortium, tmp_path: Path, capsys: Capture) -> None:
    world = make_consortium()
    new = tmp_path / "new"
    assert main(["init", "--config", str(world.ledger), "--dir", str(new), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"config": str(new / "coordinator.toml"), "hospital": "hospital-a"}
    file = ["--config", str(new / "coordinator.toml")]
    assert main(["bundle", *file, "--file", str(tmp_path / "fab")]) == 0
    assert capsys.readouterr().out == f"bundle       0x{bundle.bundle_hash().hex()}\n"
    assert (tmp_path / "fab").read_bytes() == bundle.build()
    assert main(["bundle", *file, "--file", str(tmp_path / "no" / "fab")]) == 1
    assert "fab: cannot be written (No such file or directory)" in capsys.readouterr().err


def test_approval_is_told(make_consortium: MakeConsortium, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    world = make_consortium()
    for released in (False, True):
        monkeypatch.setattr(members, "approve", lambda _, released=released: released)
        assert main(["bundle", "--approve", "--json", "--config", str(world.file)]) == 0
        assert json.loads(capsys.readouterr().out)["released"] is released


def test_up_tells_and_gives_its_status(
    make_consortium: MakeConsortium, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    world = make_consortium()
    calls: list[tuple[bool, bool]] = []
    answers: list[int | Exception | None] = [3, None, SuperLinkError("gave up")]

    def fake(deployment: object, say: object, *, stay: bool, train: bool) -> int | None:
        calls.append((stay, train))
        say("finished", "all 3 rounds are anchored")
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(up_module, "up", fake)
    assert main(["up", "--json", "--stay", "--config", str(world.file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"kind": "rounds", "text": "3"}
    assert main(["up", "--no-run", "--config", str(world.file)]) == 130
    assert "the same command goes on at the last round" in capsys.readouterr().err
    assert main(["up", "--config", str(world.file)]) == 1
    assert capsys.readouterr().err == "medprov-coordinator: gave up\n"
    assert calls == [(True, True), (False, False), (False, True)]


def test_what_is_missing_is_said(make_consortium: MakeConsortium, tmp_path: Path, capsys: Capture) -> None:
    world = make_consortium()
    config = ["--config", str(world.file)]
    assert main(["enroll", str(tmp_path / "nothing"), "--out", str(tmp_path / "kit"), *config]) == 1
    assert "nothing: cannot be read (No such file or directory)" in capsys.readouterr().err
    world.deployment.state.mkdir()
    assert main(["revoke", "hospital-b", *config]) == 1
    assert "'medprov-coordinator up' makes it" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert main(["up", "--config", str(tmp_path / "coordinator.toml")]) == 1
    assert "no such file; 'medprov-coordinator init' writes one" in capsys.readouterr().err
