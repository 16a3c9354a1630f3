"""The laboratory of several hosts does to links what it says."""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.lab.hosts import NETWORK, Host, Lab, lab, missing, relay

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
PORT = 7007
# asm-generic/socket.h: SO_RCVBUFFORCE
_RCVBUFFORCE = 33


@pytest.fixture(scope="module")
def two() -> Iterator[Lab]:
    with lab(["here", "there", "elsewhere"], seed=3) as made:
        yield made


@pytest.fixture
def links(two: Lab) -> Iterator[Lab]:
    yield two
    for name in two.hosts:
        two.link(name, delay=0.0, jitter=0.0, loss=0.0, cut=False, reach=None, record=None)


@pytest.fixture
def echo(two: Lab) -> Iterator[Host]:
    """A host that sends UDP packets back, and takes whatever comes by TCP."""
    host = two["there"]

    def start() -> tuple[socket.socket, socket.socket, threading.Thread]:
        packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        packets.bind((host.address, PORT))
        stream = socket.create_server((host.address, PORT))
        answering = threading.Thread(target=answer, args=(packets,), daemon=True)
        answering.start()
        threading.Thread(target=swallow, args=(stream,), daemon=True).start()
        return packets, stream, answering

    packets, stream, answering = host.call(start)
    yield host
    for one in (packets, stream):
        _shut(one)
    # its system call keeps the port until it has returned
    answering.join(10)
    assert not answering.is_alive()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def answer(packets: socket.socket) -> None:
    while True:
        try:
            data, sender = packets.recvfrom(2048)
        except OSError:
            return
        if not data:
            return
        packets.sendto(data, sender)


def swallow(stream: socket.socket) -> None:
    while True:
        try:
            connection, _ = stream.accept()
        except OSError:
            return
        with connection:
            while connection.recv(1 << 20):
                pass
            connection.sendall(b"!")


def times(two: Lab, count: int, wait: float = 1.0, pause: float = 0.0) -> list[float]:
    """Seconds to each echo that came back within `wait` of the last packet."""

    def ask() -> list[float]:
        found: dict[int, float] = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.settimeout(wait)
            # all echoes wait in here while the rest is sent
            packets.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 22)
            began = []
            for number in range(count):
                began.append(time.monotonic())
                packets.sendto(number.to_bytes(4, "big"), (two["there"].address, PORT))
                time.sleep(pause)
            try:
                while len(found) < count:
                    number = int.from_bytes(packets.recv(64), "big")
                    found[number] = time.monotonic() - began[number]
            except TimeoutError:
                pass
        return list(found.values())

    return two["here"].call(ask)


def test_a_link_that_nobody_disturbs(links: Lab, echo: Host) -> None:
    assert len(times(links, 50)) == 50


def test_delay_is_added_each_way(links: Lab, echo: Host) -> None:
    times(links, 1)
    links.link("there", delay=0.1)
    links.link("here", delay=0.05)
    found = times(links, 10)
    assert len(found) == 10 and min(found) >= 0.3


def test_jitter_spreads(links: Lab, echo: Host) -> None:
    times(links, 1)
    links.link("there", delay=0.1, jitter=0.1)
    assert statistics.pstdev(times(links, 100)) > 0.03


def test_loss_takes_its_part_in_each_direction(links: Lab, echo: Host) -> None:
    times(links, 1)
    before = links.link("there")["lost"]
    links.link("there", loss=0.2)
    # a packet comes back with probability 0.64; the bounds are five standard deviations of 1000 draws
    assert 560 < len(times(links, 1000, pause=0.0005)) < 720
    assert links.link("there")["lost"] > before


def test_nothing_passes_a_link_that_is_cut(links: Lab, echo: Host) -> None:
    with links.cut("there"):
        assert times(links, 3, wait=0.3) == []
        assert not links["here"].reaches(echo.address, PORT, 0.5)
    assert len(times(links, 3)) == 3
    assert links["here"].reaches(echo.address, PORT)


def test_frames_on_their_way_are_lost_with_the_link(links: Lab, echo: Host) -> None:
    times(links, 1)
    links.link("there", delay=0.3)
    timer = threading.Timer(0.15, links.link, ["there"], {"cut": True})
    timer.start()
    assert times(links, 3, wait=1.0) == []
    timer.join()


def test_a_host_reaches_only_whom_it_may(links: Lab, echo: Host) -> None:
    links.link("elsewhere", reach=["here"])
    assert not links["elsewhere"].reaches(echo.address, PORT, 0.5)
    links.link("elsewhere", reach=["there"])
    assert links["elsewhere"].reaches(echo.address, PORT)


def test_this_machine_is_not_in_the_network(links: Lab, echo: Host) -> None:
    here = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    assert NETWORK not in here
    routes = links["here"].run(["ip", "route"]).stdout.splitlines()
    assert len(routes) == 1 and routes[0].startswith(f"{NETWORK}.0/24 dev eth0")


def test_a_recording_has_what_passed(links: Lab, echo: Host, tmp_path: Path) -> None:
    links.link("there", record=str(tmp_path / "wire.pcap"))
    send(links["here"], echo, b"in clear " * 100)
    links.link("there", record=None)
    recorded = (tmp_path / "wire.pcap").read_bytes()
    assert recorded[:4] == b"\xd4\xc3\xb2\xa1" and b"in clear in clear" in recorded


def test_an_order_that_is_none_is_refused(links: Lab) -> None:
    with pytest.raises(ValueError, match="no property of a link"):
        links.link("here", colour="red")
    assert links.link("here")["host"] == "here"


def test_a_relay_makes_a_loopback_server_reachable(links: Lab) -> None:
    host = links["elsewhere"]
    stream = host.call(lambda: socket.create_server(("127.0.0.1", PORT)))
    host.call(lambda: threading.Thread(target=swallow, args=(stream,), daemon=True).start())
    end: Callable[[], None] = relay(host, PORT)
    try:
        assert send(links["here"], host, b"x" * 100_000) == b"!"
    finally:
        end()
        _shut(stream)
    assert not links["here"].reaches(host.address, PORT, 0.5)


def send(source: Host, target: Host, data: bytes) -> bytes:
    def go() -> bytes:
        with socket.create_connection((target.address, PORT), 5) as stream:
            stream.settimeout(60)
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            return stream.recv(1)

    return source.call(go)


def test_many_bytes_arrive(links: Lab, echo: Host) -> None:
    assert send(links["here"], echo, bytes(20_000_000)) == b"!"


def test_nothing_is_left() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), lab(["alone"]) as made:
        namespace = Path("/run/netns") / made["alone"].namespace
        program = made["alone"].start(["sleep", "600"], Path("/dev/null"))
        assert namespace.exists()
        raise RuntimeError("on purpose")
    assert not namespace.exists()
    assert program.wait(10) == -9
