"""``medprov-coordinator run`` over small folders, and every way to call it wrongly."""

import errno
import io
import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from medprov_coordinator import cli
from medprov_coordinator.errors import SettingsError
from medprov_watermark.training.phantoms import phantom

SMALL = ["--steps", "1", "--batch", "2", "--channels", "8", "--blocks", "1", "--extractor-blocks", "1"]
SMALL += ["--probe-pictures", "1"]


@pytest.fixture
def folders(tmp_path):
    out = []
    for h in range(2):
        folder = tmp_path / f"images-{h}"
        folder.mkdir()
        for i in range(2):
            Image.fromarray(phantom(900 + 10 * h + i)).save(folder / f"p{h}_{i}.png")
        out.append(str(folder))
    return out


def run(folders, tmp_path, *more):
    images = [part for folder in folders for part in ("--images", folder)]
    return cli.main(["run", *images, "--dir", str(tmp_path / "run"), *SMALL, *more])


def test_run_and_go_on(folders, tmp_path, capsys):
    assert run(folders, tmp_path, "--rounds", "1", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["rounds"] == 1 and sorted(first["added"][0]["accepted"]) == [101, 102]
    assert (tmp_path / "run" / "models" / f"{first['model']}.safetensors").is_file()
    assert run(folders, tmp_path, "--rounds", "2") == 0
    out = capsys.readouterr().out
    assert "resumed" in out and "round 2" in out and "weights" in out
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["number"] == 2 and state["model"] in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rounds", "0"], "rounds is 0"),
        (["--quorum", "3", "--deadline", "0.01"], "the quorum is 3"),
        (["--channels", "12"], "multiple of 8"),
        (["--workers", "-1"], "workers is -1"),
        (["--client", "medprov_absent:app"], "no ClientApp there"),
        (["--client", "json:loads"], "not a Flower ClientApp"),
        (["--client", ""], "no ClientApp there"),
        (["--start", "/nonexistent.safetensors"], "initial weights"),
        (["--config", "/nonexistent.toml"], "nonexistent.toml"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(folders, tmp_path, capsys, more, message):
    assert run(folders, tmp_path, *more) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("medprov-coordinator: ")


def test_absent_folder_is_named(tmp_path, capsys):
    assert run([str(tmp_path / "none")], tmp_path) == 1
    assert "none: no such folder" in capsys.readouterr().err


def test_weights_that_are_none(folders, tmp_path, capsys):
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    assert run(folders, tmp_path, "--start", str(tmp_path / "w.safetensors")) == 1
    assert "not a safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["run"], ["run", "--images", "x"], ["run", "--rule", "best"]])
def test_wrong_calls_exit_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def test_hospitals_of_a_configuration_are_taken_in_order(folders, tmp_path, monkeypatch):
    config = tmp_path / "medprov.toml"
    known = SimpleNamespace(hospitals={"b": None, "a": None, "c": None})
    monkeypatch.setattr(cli.Config, "load", lambda path: known)
    first, second = folders
    assert [n["hospital"] for n in cli.node_configs([first, second], config)] == ["a", "b"]
    assert [n["hospital"] for n in cli.node_configs([f"b={first}", second], config)] == ["b", "a"]
    with pytest.raises(SettingsError, match="'x' has no key"):
        cli.node_configs([f"x={first}"], config)
    with pytest.raises(SettingsError, match="named twice"):
        cli.node_configs([f"a={first}", f"a={second}"], config)
    with pytest.raises(SettingsError, match="4 folders"):
        cli.node_configs([first] * 4, config)


def test_without_a_configuration_nobody_signs(folders):
    assert all(set(node) == {"images"} for node in cli.node_configs(folders, None))


def test_interrupt_says_how_to_go_on(folders, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("medprov_coordinator.run.run_federation", interrupt)
    assert run(folders, tmp_path) == 130
    assert "goes on" in capsys.readouterr().err


def test_an_interrupt_of_the_simulation_engine_ends_the_process(folders, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    left = []
    monkeypatch.setattr("medprov_coordinator.run.run_federation", interrupt)
    monkeypatch.setattr("medprov_coordinator.simulation.leave", left.append)
    assert run(folders, tmp_path) == 130 and left == []
    assert run(folders, tmp_path, "--workers", "2") == 130 and left == [130]


class Closed(io.StringIO):
    """A standard output whose reader goes after some lines."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def flush(self):
        self.lines -= 1
        if self.lines < 0:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize(
    ("lines", "more", "but"),
    [(1, [], "the same command goes on at the last round"), (0, ["--json"], "all 1 rounds are in ")],
)
def test_a_reader_that_goes_is_one_line(folders, tmp_path, capsys, monkeypatch, lines, more, but):
    monkeypatch.setattr("sys.stdout", Closed(lines))
    assert run(folders, tmp_path, "--rounds", "1", *more) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"medprov-coordinator: standard output: cannot be written (Broken pipe), but {but}")
    assert error.count("\n") == 1
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert run(folders, tmp_path, "--rounds", "1") == 0


def test_flower_is_told_not_to_call_out():
    import os

    assert "flwr" in sys.modules
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0" and os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
