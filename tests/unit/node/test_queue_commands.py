"""``mark --queue``, ``flush`` and ``status`` as a user calls them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from medprov_node import cli, connect, flush, preparing, queue_commands, queueing
from medprov_node.flush import Pass


@pytest.fixture
def command(house, quick, monkeypatch, capsys):
    """Runs a command line with the in-process chain; gives exit status, standard output and standard error."""
    monkeypatch.setattr(cli.Config, "load", classmethod(lambda cls, path=None: house.config))
    monkeypatch.setattr(connect, "connect", lambda config: house.ledger)
    for module in (preparing, queueing):
        monkeypatch.setattr(module, "load_watermarker", lambda config: quick)

    def run(*arguments) -> tuple[int, str, str]:
        status = cli.main([str(one) for one in arguments])
        return (status, *capsys.readouterr())

    return run


def test_a_picture_is_queued_looked_at_and_flushed(command, picture, tmp_path) -> None:
    target = tmp_path / "out.png"
    status, said, _ = command("mark", picture, target, "--queue")
    assert status == 0 and f"{picture} -> {target}: waits for its anchor" in said and not target.exists()
    status, said, _ = command("status")
    assert status == 0 and "1 pictures wait" in said and "1 bundled" in said and "chain        answers" in said
    status, said, _ = command("flush")
    assert (status, said) == (0, "stored 1, batches 1, written 1, waiting 0\n") and target.exists()


def test_the_same_as_json(command, picture, tmp_path) -> None:
    _, said, _ = command("mark", picture, tmp_path / "out.png", "--queue", "--json")
    assert json.loads(said)["queued"][0]["output"] == str(tmp_path / "out.png")
    _, said, _ = command("status", "--json")
    assert json.loads(said)["waiting"] == 1
    _, said, _ = command("flush", "--json")
    found = json.loads(said)
    assert (found["written"], found["waiting"], found["problems"]) == (1, 0, [])


def test_a_folder_is_queued(command, picture, tmp_path) -> None:
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    picture.rename(folder / "deeper" / "scan.png")
    status, said, _ = command("mark", folder, tmp_path / "out", "--queue")
    assert status == 0 and "waits for its anchor" in said
    assert command("flush")[0] == 0 and (tmp_path / "out" / "deeper" / "scan.png").exists()


def test_what_cannot_go_on_is_told_and_is_exit_status_1(command, picture, tmp_path) -> None:
    command("mark", picture, tmp_path / "out.png", "--queue")
    (tmp_path / "out.png").write_bytes(b"mine")
    status, said, _ = command("flush")
    assert status == 1 and "waits: " in said and "exists already" in said


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--age", "-1")])
def test_a_rule_without_sense_is_one_line(command, option, value) -> None:
    status, _, complaint = command("flush", "--watch", option, value)
    assert status == 1 and "batches: count must be" in complaint and "\n" not in complaint.strip()


def test_watching_ends_with_a_signal_and_says_only_what_is_new(command, picture, tmp_path, monkeypatch) -> None:
    command("mark", picture, tmp_path / "out.png", "--queue")
    monkeypatch.setattr(flush, "PAUSE", 0.01)
    before = signal.getsignal(signal.SIGTERM)

    def interrupt() -> None:
        while not (tmp_path / "out.png").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    status, said, _ = command("flush", "--watch", "--age", "0")
    thread.join()
    assert status == 0
    assert said.splitlines() == [
        "stored 1, batches 1, written 1, waiting 0",
        "stored 0, batches 0, written 0, waiting 0",
    ]
    assert signal.getsignal(signal.SIGTERM) is before


def test_batches_that_the_chain_had_lost_are_told() -> None:
    text = queue_commands._text(Pass(0, 1, 0, 2, 3, ("chain: away",)), False)
    assert "lost 2 confirmed batches" in text and "waits: chain: away" in text
