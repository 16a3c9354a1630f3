import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medprov_ledger import _process, supervised
from medprov_ledger.errors import ChildError
from medprov_ledger.supervised import BackOff, Child, free_port, is_free, locked, stop_signals


def wait_for(child: Child, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while child.running and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_program_s_output_comes_once_and_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier start\n")
    child = Child("it", [sys.executable, "-c", "print('one'); print('two', end='')"], log)
    assert (child.pid, child.code, child.running) == (None, None, False)
    child.start()
    wait_for(child)
    assert child.code == 0
    assert child.lines() == ["one"]
    assert child.lines() == []
    assert child.output() == ["one", "two"]


def test_environment_and_folder(tmp_path: Path) -> None:
    code = "import os; print(os.environ['MEDPROV_TEST'], os.getcwd(), os.getpgrp() == os.getpid())"
    child = Child(
        "it", [sys.executable, "-c", code], tmp_path / "log", environment={"MEDPROV_TEST": "x"}, folder=tmp_path
    )
    child.start()
    wait_for(child)
    # a group of its own: Ctrl-C at the terminal does not reach it
    assert child.output() == [f"x {tmp_path} True"]


def test_a_program_that_does_not_want_to_end_is_ended(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    child = Child("it", [sys.executable, "-c", code], tmp_path / "log")
    child.start()
    pid = child.pid
    child.start()
    assert child.pid == pid
    while not child.lines():
        time.sleep(0.01)
    child.stop(patience=0.1)
    assert child.code == -signal.SIGKILL
    child.stop()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match=r"no-such-program: cannot be used \(No such file"):
        Child("it", [str(tmp_path / "no-such-program")], tmp_path / "log").start()
    with pytest.raises(ChildError, match="log: cannot be used"):
        Child("it", [sys.executable], tmp_path / "absent" / "log").start()


def test_pauses_grow_up_to_a_limit() -> None:
    pause = BackOff(1.0, 5.0)
    assert [pause.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    pause.reset()
    assert pause.next() == 1.0


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with (
        locked(folder, "a command"),
        pytest.raises(ChildError, match="state: another 'a command' works here"),
        locked(folder, "a command"),
    ):
        pass
    with locked(folder, "a command"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ChildError, match="cannot be used"), locked(tmp_path / "file", "a command"):
        pass


def test_signals_are_heard_and_then_left_as_they_were() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with stop_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.wait(5)
    assert signal.getsignal(signal.SIGTERM) is former


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    assert is_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free("127.0.0.1", port)
    assert not is_free("192.0.2.1", port)
    monkeypatch.setattr(supervised, "is_free", lambda *_: False)
    with pytest.raises(ChildError, match="no port is free"):
        free_port()


def test_a_program_ends_with_its_parent_even_if_nobody_fetches_that(tmp_path: Path) -> None:
    child = "import os, time; from medprov_ledger.supervised import end_with; end_with(os.getppid()); time.sleep(60)"
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    # this process never asks for the parent's status before the end, so that it stays in the process table
    process = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    time.sleep(1.0)
    assert _process.identity(number)
    process.kill()
    deadline = time.monotonic() + 20
    while _process.identity(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _process.identity(number)
    process.wait()
    process.stdout.close()
