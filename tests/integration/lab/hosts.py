"""Hosts with addresses of their own on one machine: a network namespace for each, joined by :mod:`.switch`.

A namespace has no way out but its link, so nothing that runs in it listens or calls outside the laboratory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .switch import MTU, enter, mac

NETWORK = "10.77.0"
PREFIX = "medprov-lab"
SWITCH = Path(__file__).with_name("switch.py")
_NAMESPACES = Path("/run/netns")
_numbers = itertools.count(1)
T = TypeVar("T")


def missing() -> str:
    """Why there can be no laboratory here; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun"
    try:
        done = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"needs the program {error.filename} (iproute2, util-linux)"
    return f"no network namespace can be made: {done.stderr.strip()}" if done.returncode else ""


@dataclass(frozen=True)
class Host:
    """One host.

    Parameters
    ----------
    name : str
    namespace : str
        As ``ip netns`` knows it.
    address : str
        IPv4.
    """

    name: str
    namespace: str
    address: str

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program on this host; what it says is added to a file."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self._command(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def run(self, command: Sequence[str], timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end."""
        return subprocess.run(self._command(command), capture_output=True, text=True, timeout=timeout)

    def call(self, function: Callable[[], T]) -> T:
        """The function's result; the sockets that it makes, and the threads that it starts, are this host's."""
        future: Future[T] = Future()

        def inside() -> None:
            try:
                enter(str(_NAMESPACES / self.namespace))
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=inside, daemon=True).start()
        return future.result()

    def reaches(self, address: str, port: int, timeout: float = 3.0) -> bool:
        """Whether a TCP connection comes about."""

        def attempt() -> bool:
            try:
                socket.create_connection((address, port), timeout).close()
            except OSError:
                return False
            return True

        return self.call(attempt)

    def _command(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command]


class Lab:
    """The hosts and their switch; see :func:`lab`."""

    def __init__(self, hosts: dict[str, Host], switch: subprocess.Popen[str]) -> None:
        self.hosts = hosts
        self._switch = switch

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def link(self, host: str, **values: Any) -> dict[str, Any]:
        """Change a host's link (see `switch.Link`), or ``record`` it into a pcap file; gives its counters."""
        return _ask(self._switch, {"host": host, **values})

    @contextlib.contextmanager
    def cut(self, host: str) -> Iterator[None]:
        """The host's link is cut meanwhile."""
        self.link(host, cut=True)
        try:
            yield
        finally:
            self.link(host, cut=False)


@contextlib.contextmanager
def lab(names: Sequence[str], seed: int = 1) -> Iterator[Lab]:
    """A laboratory with these hosts; all of it is gone at the end.

    Parameters
    ----------
    names : sequence of str
        Unique.
    seed : int
        For losses and jitter.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        See :func:`missing`.
    """
    _sweep()
    hosts = {
        name: Host(name, f"{PREFIX}-{os.getpid()}-{next(_numbers)}", f"{NETWORK}.{number}")
        for number, name in enumerate(names, 1)
    }
    with contextlib.ExitStack() as stack:
        for host in hosts.values():
            _ip("netns", "add", host.namespace)
            stack.callback(_remove, host.namespace)
        switch = subprocess.Popen(
            [sys.executable, "-u", str(SWITCH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        stack.callback(_end, switch)
        ports = {host.name: str(_NAMESPACES / host.namespace) for host in hosts.values()}
        _ask(switch, {"ports": ports, "seed": seed})
        for number, host in enumerate(hosts.values(), 1):
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "link", "set", "eth0", "address", mac(number), "mtu", str(MTU))
            _ip("-n", host.namespace, "link", "set", "eth0", "addrgenmode", "none", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        yield Lab(hosts, switch)


def relay(host: Host, port: int) -> Callable[[], None]:
    """Pass on TCP connections from the host's address to the same port of its loopback interface.

    For programs that can listen on 127.0.0.1 only. Gives what ends it.
    """
    ended = threading.Event()

    def listen() -> socket.socket:
        found = socket.create_server((host.address, port))
        threading.Thread(target=accept, args=(found,), daemon=True).start()
        return found

    def accept(listening: socket.socket) -> None:
        while not ended.is_set():
            try:
                near, _ = listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()

    listening = host.call(listen)

    def end() -> None:
        ended.set()
        # a thread that waits in accept() is woken by this alone
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()

    return end


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


def _ask(switch: subprocess.Popen[str], order: dict[str, Any]) -> dict[str, Any]:
    assert switch.stdin is not None and switch.stdout is not None
    switch.stdin.write(json.dumps(order) + "\n")
    line = switch.stdout.readline()
    if not line:
        raise OSError(f"the switch has ended with status {switch.wait(5)}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer


def _end(switch: subprocess.Popen[str]) -> None:
    assert switch.stdin is not None and switch.stdout is not None
    switch.stdin.close()
    try:
        switch.wait(5)
    except subprocess.TimeoutExpired:
        switch.kill()
        switch.wait()
    switch.stdout.close()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _remove(namespace: str) -> None:
    """End what still runs in the namespace, then remove it: a process would keep it alive without a name."""
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
    for pid in found:
        # this process's own threads are in there too, and are not listed as processes
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


def _sweep() -> None:
    """Remove what a run that was killed has left."""
    for file in _NAMESPACES.glob(f"{PREFIX}-*"):
        owner = file.name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(file.name)
