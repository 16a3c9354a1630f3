"""A switch in user space: one TAP device in each network namespace, and links that delay, lose, end and are recorded.

The kernel's ``netem`` and packet filters are not everywhere, and every frame passes here anyway. One process holds the
devices. It takes orders as JSON, one a line, from its standard input, answers each with a line, and ends where that
input ends, so that it never outlives who has started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MTU = 1500
# linux/if_tun.h: TUNSETIFF, IFF_TAP, IFF_NO_PI; linux/sched.h: CLONE_NEWNET
_TUNSETIFF, _TAP, _BARE, NEW_NET = 0x400454CA, 0x0002, 0x1000, 0x40000000
_BURST = 64
"""Frames read from one port before the others have their turn."""
# pcap's file header: magic number, version 2.4, Ethernet
_PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace.

    Parameters
    ----------
    namespace : str
        File of the namespace, such as ``/run/netns/NAME``.

    Raises
    ------
    OSError
    """
    file = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Python has os.setns from 3.12 on
        if ctypes.CDLL(None, use_errno=True).setns(file, NEW_NET):
            raise OSError(ctypes.get_errno(), "cannot enter the namespace", namespace)
    finally:
        os.close(file)


def mac(number: int) -> str:
    """Hardware address of the port with this number, from 1 to 250."""
    return f"02:00:00:00:00:{number:02x}"


@dataclass
class Link:
    """The cable between one host and the switch; what is said here holds for either direction.

    Parameters
    ----------
    delay, jitter : float
        Seconds one way; the jitter is drawn evenly from ``[-jitter, jitter]``.
    loss : float
        Part of the frames that is lost, each by itself.
    cut : bool
        Nothing passes.
    reach : list of str or None
        The only hosts with which frames are exchanged; None is all.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    cut: bool = False
    reach: list[str] | None = None


@dataclass
class Port:
    """A host's end of its link, with counters and the recording."""

    name: str
    device: int
    link: Link = field(default_factory=Link)
    sent: int = 0
    lost: int = 0
    record: BinaryIO | None = None

    def keep(self, frame: bytes) -> None:
        if self.record is not None:
            now = time.time()
            self.record.write(struct.pack("<IIII", int(now), int(now % 1 * 1e6), len(frame), len(frame)) + frame)


class Switch:
    """Moves frames between ports. Ports have fixed hardware addresses (see :func:`mac`), so nothing is learned.

    Parameters
    ----------
    ports : dict of str to str
        Host to namespace file; the first gets the number 1.
    seed : int
        For losses and jitter.
    """

    def __init__(self, ports: dict[str, str], seed: int) -> None:
        own = f"/proc/{os.getpid()}/ns/net"
        home = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        self.ports: list[Port] = []
        for name, namespace in ports.items():
            enter(namespace)
            self.ports.append(Port(name, _tap()))
        enter(f"/proc/self/fd/{home}")
        os.close(home)
        self._named = {port.name: port for port in self.ports}
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, Port, bytes]] = []
        self._count = 0

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out ``{"host": NAME, ...}`` with new values for its link, ``"record": FILE`` (null ends it)."""
        port = self._named[order.pop("host")]
        if "record" in order:
            file = order.pop("record")
            if port.record is not None:
                port.record.close()
            port.record = None if file is None else open(file, "wb")  # noqa: SIM115
            if port.record is not None:
                port.record.write(_PCAP)
        for name, value in order.items():
            if name not in Link.__dataclass_fields__:
                raise ValueError(f"{name}: no property of a link")
            setattr(port.link, name, value)
        return {"host": port.name, "sent": port.sent, "lost": port.lost}

    def serve(self) -> None:
        """Work until the standard input ends."""
        poll = select.epoll()
        by_device = {port.device: port for port in self.ports}
        for device in by_device:
            poll.register(device, select.EPOLLIN)
        orders = sys.stdin.fileno()
        os.set_blocking(orders, False)
        poll.register(orders, select.EPOLLIN | select.EPOLLHUP)
        text = b""
        while True:
            wait = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else -1
            for device, _ in poll.poll(wait):
                if device != orders:
                    self._read(by_device[device])
                    continue
                more = os.read(orders, 65536)
                if not more:
                    return
                *lines, text = (text + more).split(b"\n")
                for line in lines:
                    print(json.dumps(self._answer(line)), flush=True)
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                _, _, port, frame = heapq.heappop(self._waiting)
                self._write(port, frame)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return self.order(json.loads(line))
        except (ValueError, KeyError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def _read(self, port: Port) -> None:
        for _ in range(_BURST):
            try:
                frame = os.read(port.device, MTU + 64)
            except BlockingIOError:
                return
            port.sent += 1
            # the lowest bit of the first byte marks what is for several
            if frame[0] & 1:
                for other in self.ports:
                    if other is not port:
                        self._pass(port, other, frame)
            elif frame[:5] == b"\x02\0\0\0\0" and 0 < frame[5] <= len(self.ports):
                self._pass(port, self.ports[frame[5] - 1], frame)

    def _pass(self, source: Port, target: Port, frame: bytes) -> None:
        delay = 0.0
        for port, other in ((source, target), (target, source)):
            link = port.link
            if link.cut or (link.reach is not None and other.name not in link.reach):
                return
            if link.loss and self._random.random() < link.loss:
                port.lost += 1
                return
            delay += link.delay + (self._random.uniform(-link.jitter, link.jitter) if link.jitter else 0.0)
        if source.record is not None:
            source.keep(frame)
        if target.record is not None:
            target.keep(frame)
        if delay > 0:
            self._count += 1
            heapq.heappush(self._waiting, (time.monotonic() + delay, self._count, target, frame))
        else:
            self._write(target, frame)

    def _write(self, port: Port, frame: bytes) -> None:
        if port.link.cut:
            # it was on its way when the link was cut
            return
        try:
            os.write(port.device, frame)
        except (BlockingIOError, OSError):
            # a full queue, or a device that goes down: a switch loses frames too
            port.lost += 1


def _tap() -> int:
    """A TAP device ``eth0`` in the namespace in which this thread is."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _TAP | _BARE))
    return device


def main() -> None:
    """First line of the standard input: the ports and the seed; the answer to it says that the devices are there."""
    # not through Python's buffer, in which the next order could stay unseen
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(sys.stdin.fileno(), 65536)
        if not more:
            return
        line += more
    first = json.loads(line)
    switch = Switch(first["ports"], first["seed"])
    print(json.dumps({"ports": len(switch.ports)}), flush=True)
    switch.serve()


if __name__ == "__main__":
    main()
