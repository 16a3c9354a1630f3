import json
from pathlib import Path

import pytest

from medprov_node.cli import main
from medprov_node.joining import join as join_module
from medprov_node.joining import voting
from tests.unit.node.conftest import House
from tests.unit.node.joining.conftest import MakeSite
from tests.unit.node.joining.test_enrolling import make_kit

Capture = pytest.CaptureFixture[str]


def test_from_request_to_node_toml(
    house: House, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, images, kit = tmp_path / "home", tmp_path / "images", tmp_path / "kit"
    images.mkdir()
    assert main(["request", str(home), "--name", "hospital-d", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["request"] == str(home / "request.json")
    from medprov_ledger.enrolment import JoinRequest

    kit.write_bytes(make_kit(house, JoinRequest.read(home / "request.json")).to_bytes())
    take = ["join", "--kit", str(kit), "--home", str(home), "--images", str(images)]
    assert main([*take, "--no-start"]) == 0
    shown = capsys.readouterr().out
    assert f"0x{house.config.federation_id.hex()}" in shown
    assert house.config.hospital("hospital-a").address in shown
    assert main([*take, "--no-start", "--federation", "0x" + "00" * 32]) == 1
    assert "is for another federation" in capsys.readouterr().err
    assert main([*take, "--no-start", "--federation", "north"]) == 1
    assert "north: is no federation's id" in capsys.readouterr().err
    joined: list[object] = []

    def fake(site: object, say: object) -> None:
        joined.append(site)
        say("joined", "node 42")

    monkeypatch.setattr(join_module, "join", fake)
    assert main(["join", "--config", str(home / "node.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "joined", "text": "node 42"}
    assert len(joined) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["request", "F"], "give --name for a new member, or --config"),
        (["request", "F", "--name", "a", "--config", "b"], "give --name for a new member, or --config"),
        (["join"], "name node.toml with --config, or the first time --kit, --images and --home"),
        (["join", "--kit", "K"], "--kit needs --images and --home"),
        (["join", "--config", "absent.toml"], "absent.toml: no such file; 'medprov-node join --kit KIT' writes one"),
        (["vote", "leave", "x", "--config", "absent.toml"], "absent.toml: no such configuration file"),
    ],
)
def test_what_is_missing_is_said(
    arguments: list[str], why: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1


def test_a_request_of_a_member(house: House, tmp_path: Path, capsys: Capture) -> None:
    home = tmp_path / "home"
    assert main(["request", str(home), "--config", str(house.file), "--hospital", "hospital-b"]) == 0
    assert house.config.hospital("hospital-b").address in capsys.readouterr().out
    assert main(["request", str(home), "--config", str(house.file), "--hospital", "hospital-b"]) == 1
    assert "request.json: exists already" in capsys.readouterr().err


def test_votes_and_approvals_are_told(house: House, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ["--config", str(house.file), "--hospital", "hospital-a"]
    assert main(["vote", "suspend", "hospital-b", *config]) == 0
    assert capsys.readouterr().out.endswith(": decided\n")
    assert main(["vote", "suspend", "hospital-b", *config]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    answers = iter([(True, 2), (False, 2)])
    monkeypatch.setattr(voting, "approve_app", lambda *_: next(answers))
    assert main(["approve-app", "0x12", *config]) == 0
    assert capsys.readouterr().out == "0x12: released\n"
    assert main(["approve-app", "0x12", "--json", *config]) == 0
    assert json.loads(capsys.readouterr().out) == {"bundle": "0x12", "released": False, "threshold": 2}


def test_a_site_that_others_use(make_site: MakeSite, capsys: Capture) -> None:
    from medprov_ledger.supervised import locked

    site = make_site()
    with locked(site.state, "medprov-node join"):
        assert main(["join", "--config", str(site.path)]) == 1
    assert "another 'medprov-node join' works here" in capsys.readouterr().err
