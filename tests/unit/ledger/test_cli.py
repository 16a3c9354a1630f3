"""medprov_ledger.cli"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medprov_ledger import development, embedded
from medprov_ledger.cli import main
from medprov_ledger.errors import ChainError

OFFERED = bytes(range(32))
IPFS = "/ip4/127.0.0.1/tcp/5001/http"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is not there yet, on the Python EVM; the installed packages offer one model."""
    monkeypatch.setattr("medprov_ledger.embedded.shutil.which", lambda _: None)
    monkeypatch.setattr("medprov_ledger.models.offered", lambda: ([OFFERED], []))
    yield tmp_path / "fed"
    if (tmp_path / "fed").exists():
        embedded.stop(tmp_path / "fed")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_up_status_down(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "up", "--dir", folder, "--model", "0x" + "ab" * 32)
    assert (status, err) == (0, "")
    assert "created" in out
    assert str(folder / "medprov.toml") in out
    assert "already running" in run(capsys, "up", "--dir", folder, "--model", "ab" * 32)[1]
    status, out, err = run(capsys, "status", "--dir", folder)
    assert (status, err) == (0, "")
    for word in ("chain id 31337", "hospital-b", "3, 2 must agree", "0 in 0 batches, 0 single", "1 released", "blocks"):
        assert word in out
    assert run(capsys, "down", "--dir", folder)[:2] == (0, f"{folder}: stopped; its state is kept\n")
    assert run(capsys, "down", "--dir", folder)[:2] == (0, f"{folder}: was not running\n")
    status, out, err = run(capsys, "status", "--dir", folder)
    assert (status, out) == (1, "")
    assert "the chain is down" in err
    assert "started on its saved state" in run(capsys, "up", "--dir", folder)[1]


def test_up_releases_what_the_packages_offer(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = run(capsys, "up", "--dir", folder)
    assert (status, err) == (0, "")
    assert f"{OFFERED.hex()} is released" in out
    assert "1 released" in run(capsys, "status", "--dir", folder)[1]
    # an upgrade has brought another model, and one that cannot be read
    later = ([OFFERED, b"n" * 32], ["a-package: its model 'x' cannot be read (gone)"])
    monkeypatch.setattr("medprov_ledger.models.offered", lambda: later)
    status, out, err = run(capsys, "up", "--dir", folder)
    assert (status, err) == (0, "medprov-ledger: a-package: its model 'x' cannot be read (gone)\n")
    assert f"{(b'n' * 32).hex()} is released" in out
    assert "2 released" in run(capsys, "status", "--dir", folder)[1]


def test_ipfs_as_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "up", "--dir", folder, "--ipfs", IPFS)[0] == 0
    assert f"store          ipfs, {IPFS}\n" in run(capsys, "status", "--dir", folder)[1]
    assert run(capsys, "up", "--dir", folder)[0] == 0, "without --ipfs the store stays what it is"
    status, out, err = run(capsys, "up", "--dir", folder, "--ipfs", IPFS.replace("5001", "5002"))
    assert (status, out) == (1, "")
    assert err.startswith(f"medprov-ledger: {folder / 'medprov.toml'}: its store is ipfs ({IPFS})")
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "127.0.0.1:5001", "/ip4/1.2.3/tcp/5001", 'a"\nb', "/dns4/" + "x" * 400, "/é"])
def test_malformed_ipfs_address(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    status, out, err = run(capsys, "up", "--dir", folder, "--ipfs", text)
    assert (status, out) == (1, "")
    assert "not a daemon's multiaddress" in err
    assert err.count("\n") == 1
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_wait_takes_the_chain_down_at_a_signal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    asleep = time.sleep

    def sleep(seconds: float) -> None:
        chain = embedded.load(folder)
        assert chain is not None
        assert embedded.is_running(chain)
        os.kill(os.getpid(), number)
        asleep(0)

    before = signal.getsignal(number)
    monkeypatch.setattr("medprov_ledger.development.time.sleep", lambda s: sleep(s) if s == 0.2 else asleep(s))
    status, out, err = run(capsys, "up", "--dir", folder, "--wait")
    assert (status, err) == (0, "")
    assert out.endswith("waiting for SIGTERM or SIGINT\n" + f"{folder}: stopped; its state is kept\n")
    assert signal.getsignal(number) is before
    chain = embedded.load(folder)
    assert chain is not None
    assert not embedded.is_running(chain)


def test_wait_ends_where_another_command_takes_the_chain_down(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, "up", "--dir", folder)[0] == 0
    asked = iter([False, False])

    def stopped() -> bool:
        if next(asked, None) is None:
            raise AssertionError("waits on")
        embedded.stop(folder)
        return False

    monkeypatch.setattr("medprov_ledger.development.WAIT", 0.0)
    assert not development.wait(folder, stopped)


def test_wait_tells_when_the_chain_has_died(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "up", "--dir", folder)[0] == 0
    chain = embedded.load(folder)
    assert chain is not None
    assert chain.pid is not None
    os.kill(chain.pid, signal.SIGKILL)
    with pytest.raises(ChainError, match=r"has ended by itself; see .*chain\.log"):
        development.wait(folder, lambda: False)


def test_default_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "status")
    assert status == 1
    assert err == "medprov-ledger: .medprov: no chain here; 'medprov-ledger up' makes one\n"


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_damaged_state_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    folder.mkdir()
    (folder / "chain.json").write_text('{"kind": "pyth')
    status, out, err = run(capsys, command, "--dir", folder)
    assert (status, out) == (1, "")
    assert err.startswith(f"medprov-ledger: {folder / 'chain.json'}: damaged")
    assert err.count("\n") == 1
    (folder / "chain.json").unlink()


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_a_file_in_place_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    file = folder.parent / "file"
    file.write_text("")
    status, _, err = run(capsys, command, "--dir", file)
    assert status == (0 if command == "down" else 1)
    assert err.count("\n") == status


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "00" * 32, "ab" * 33])
def test_malformed_model(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["up", "--dir", str(folder), "--model", text])
    assert caught.value.code == 2
    assert "must be 64 hexadecimal digits" in capsys.readouterr().err
    assert not folder.exists()


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medprov_ledger", "status", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"medprov-ledger: {tmp_path}: no chain here; 'medprov-ledger up' makes one\n"
