"""Programs that run beside a command and are started again when they end: output to a file, stop in order, back-off."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from .errors import ChildError

STOP_PATIENCE = 10.0
"""Seconds between asking a program to end and ending it."""
PARENT_PAUSE = 0.2
"""Seconds between two looks whether the parent is still there."""
LINE_LIMIT = 4000
"""Characters of an output's line that are shown."""


class Child:
    """A program that this process starts, watches and stops.

    It runs in a session of its own, so that Ctrl-C at the terminal reaches only the command, which stops its programs
    in order.

    Parameters
    ----------
    name : str
        For messages.
    command : sequence of str
    log : Path
        Its output is appended here.
    environment : mapping of str to str or None
        Variables beside this process's own.
    folder : Path or None
        Where it runs; None is this process's folder.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name, self.command, self.log = name, list(command), log
        self._environment, self._folder = {**os.environ, **(environment or {})}, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = self._read = 0

    @property
    def pid(self) -> int | None:
        """Number of the process; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Exit status (negative: the signal that ended it); None while it runs and before the first start."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it; one that runs already is left alone.

        Raises
        ------
        ChildError
            The program or its log file cannot be used.
        """
        if self.running:
            return
        try:
            with self.log.open("ab") as output:
                self._begin = self._read = output.tell()
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise ChildError(f"{error.filename or self.command[0]}: cannot be used ({error.strerror})") from None

    def lines(self) -> list[str]:
        """The whole lines that it has written since the last call."""
        data = self._output(self._read)
        end = data.rfind(b"\n") + 1
        self._read += end
        return [line[:LINE_LIMIT] for line in data[:end].decode("utf-8", "replace").splitlines()]

    def output(self) -> list[str]:
        """All lines since the last start."""
        return [line[:LINE_LIMIT] for line in self._output(self._begin).decode("utf-8", "replace").splitlines()]

    def stop(self, patience: float = STOP_PATIENCE) -> None:
        """Ask it to end, wait, then end it; returns when it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _output(self, start: int) -> bytes:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(start)
            return file.read()
        return b""


class BackOff:
    """Growing pauses between attempts.

    Parameters
    ----------
    first, most : float
        Seconds.
    """

    def __init__(self, first: float = 1.0, most: float = 60.0) -> None:
        self.first, self.most = first, most
        self._next = first

    def next(self) -> float:
        """Seconds to wait now; twice as long the next time."""
        now, self._next = self._next, min(2 * self._next, self.most)
        return now

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._next = self.first


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder for one command; the system lets go when the process ends, however it ends.

    Raises
    ------
    ChildError
        Another process holds it, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file: BinaryIO = (folder / "lock").open("ab")
    except OSError as error:
        raise ChildError(f"{folder}: cannot be used ({error.strerror}); name another folder") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ChildError(f"{folder}: another '{command}' works here; stop it, or use another folder") from None
        yield


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that a watching loop ends by itself and stops its programs."""
    asked = threading.Event()
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in former:
        signal.signal(number, lambda *_: asked.set())
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def end_with(parent: int) -> None:
    """Have this process end when its parent has gone, however that ended: asked first, then at once.

    Parameters
    ----------
    parent : int
        Number of the process that has started this one.
    """

    def watch() -> None:
        # a dead parent keeps its number until somebody fetches it, but its children get another parent at once
        while os.getppid() == parent:
            time.sleep(PARENT_PAUSE)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(STOP_PATIENCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # a port whose last connections are still closing is free for a server
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens, below the range from which systems take the ports of outgoing connections."""
    for _ in range(50):
        port = 20_000 + secrets.randbelow(12_000)
        if is_free(host, port):
            return port
    raise ChildError(f"{host}: no port is free")
