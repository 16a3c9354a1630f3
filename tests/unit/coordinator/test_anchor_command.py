"""``medprov-coordinator anchor``: what waits is anchored later, and nothing is trained for it."""

from dataclasses import replace

import pytest

from medprov_coordinator import anchor_command, cli
from medprov_coordinator.anchor_command import anchor_waiting
from medprov_coordinator.audit_log import FILE, read
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.errors import CheckpointError, PendingError, SettingsError
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.strategy import GatedStrategy
from medprov_ledger.errors import ChainAwayError


@pytest.fixture
def left(kit, tmp_path):
    """A folder whose two rounds wait, and the services that are back again."""
    anchor = kit.anchor()
    services = Services(kit.federation, anchor, kit.store())

    def on_event(event):
        if event.kind == "asked":
            anchor.away = ChainAwayError("http://chain: does not answer")

    folder = CheckpointFolder(tmp_path / "run")
    config = RunConfig(rounds=2, local_steps=1, deadline=60.0, anchor_wait=0.0)
    with pytest.raises(PendingError):
        kit.hospitals().run(GatedStrategy(config, replace(services, on_event=on_event), folder, kit.probe()))
    anchor.away = None
    return folder, services


def test_waiting_rounds_are_anchored_and_logged(left):
    folder, services = left
    assert anchor_waiting(folder.path, services) == [1, 2]
    assert [r.number for r in services.anchor.rounds] == [1, 2] and folder.load_state().pending == ()
    lines = [line for line in read(folder.path / FILE) if line.kind == "anchored"]
    assert [(line.body["number"], line.body["figures"]["transaction"]) for line in lines] == [(1, "0x01"), (2, "0x02")]
    assert anchor_waiting(folder.path, services) == []


def test_chain_that_fails_on_the_way_keeps_the_rest(left, monkeypatch, capsys):
    folder, services = left
    original = services.anchor.anchor

    def once(number, *more):
        if number == 2:
            raise ChainAwayError("http://chain: does not answer")
        return original(number, *more)

    services.anchor.anchor = once
    monkeypatch.setattr("medprov_coordinator.connect.connect", lambda path, name: services)
    assert cli.main(["anchor", "--dir", str(folder.path), "--config", "medprov.toml"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "round 2 not anchored yet (http://chain: does not answer)" in said
    assert f"medprov-coordinator anchor --dir {folder.path}" in said
    assert [entry.number for entry in folder.load_state().pending] == [2]
    services.anchor.anchor = original
    assert cli.main(["anchor", "--dir", str(folder.path), "--config", "medprov.toml"]) == 0
    assert cli.main(["anchor", "--dir", str(folder.path), "--config", "medprov.toml"]) == 0
    assert capsys.readouterr().out == "anchored  2\nno round waits for its anchor\n"


def test_folder_in_use_absent_or_of_another_federation(left, tmp_path):
    folder, services = left
    with folder.held(), pytest.raises(CheckpointError, match="another coordinator"):
        anchor_waiting(folder.path, services)
    with pytest.raises(SettingsError, match="no run in this folder"):
        anchor_waiting(tmp_path / "absent", services)
    assert not (tmp_path / "absent").exists()
    with pytest.raises(CheckpointError, match="of federation"):
        anchor_waiting(folder.path, replace(services, federation=bytes(32)))


def test_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert anchor_command.NAME in capsys.readouterr().out
