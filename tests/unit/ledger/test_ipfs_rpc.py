"""medprov_ledger.ipfs_rpc against a daemon that misbehaves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import cid, ipfs_rpc
from medprov_ledger.errors import StoreError, UnreachableError
from medprov_ledger.ipfs_rpc import Address, RefusedError, Session, Stop, address
from tests.unit.ledger.ipfs_daemon import Daemon

ARGUMENTS = {"arg": "x", "type": "recursive"}


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(ipfs_rpc, "PAUSE", 0.01)
    server = Daemon().start()
    yield server
    server.stop()


def call(daemon: Daemon, command: str = "pin/ls", timeout: float = 5.0, total: float = 5.0) -> bytes:
    with Session(daemon.api, "did not do it", timeout, total) as session:
        return session.post(command, ARGUMENTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/127.0.0.1/tcp/5001/http", Address("127.0.0.1", 5001, False)),
        ("/ip4/127.0.0.1/tcp/5001", Address("127.0.0.1", 5001, False)),
        ("/ip6/::1/tcp/1/http", Address("::1", 1, False)),
        ("/dns/ipfs_1.example/tcp/443/https", Address("ipfs_1.example", 443, True)),
        ("/dns4/ipfs/tcp/65535/tls/http", Address("ipfs", 65535, True)),
        ("http://127.0.0.1:5001", Address("127.0.0.1", 5001, False)),
        ("https://[::1]:5001/", Address("::1", 5001, True)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:5001",
        "/ip4/127.0.0.1",
        "/ip4/1.2.3/tcp/5001",
        "/ip4/::1/tcp/5001",
        "/ip6/127.0.0.1/tcp/5001",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/5001/http/p2p",
        "/dns/a b/tcp/1",
        "http://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://user:secret@127.0.0.1:5001",
        "http://127.0.0.1:5001/elsewhere",
        "http://127.0.0.1:5001?x",
        "http://[::1:5001",
        "http://a b:5001",
        "ftp://127.0.0.1:5001",
    ],
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(StoreError, match="multiaddress"):
        address(text)


@given(st.text(max_size=60) | st.from_regex(r"/(ip4|ip6|dns)/[^/]*/tcp/[0-9]*(/http)?", fullmatch=True))
def test_no_text_breaks_the_reader_of_addresses(text: str) -> None:
    try:
        found = address(text)
    except StoreError as error:
        assert "\n" not in str(error)
    else:
        assert found.host and 0 < found.port < 65536


def test_one_connection_serves_all_calls(daemon: Daemon) -> None:
    name = daemon.add(b"data")
    ports = set()
    with Session(daemon.api, "did not do it", 5, 5) as session:
        for _ in range(3):
            assert session.post("block/get", {"arg": name}) == b"data"
            ports.add(session._connection.sock.getsockname())
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("bare 500", "HTTP 500"),
        ("odd 500", "HTTP 500"),
        ("nested 500", "HTTP 500"),
        ("204", "HTTP 204"),
        ("cut", "cut off, 998 bytes are missing"),
        ("cut chunked", "IncompleteRead"),
        ("no http", "SSH-2.0"),
        ("endless", "more than 65536 bytes"),
        ("endless error", "more than 65536 bytes"),
        ("redirect", "redirects"),
    ],
)
def test_bad_answers(daemon: Daemon, mood: str, reason: str) -> None:
    daemon.moods[""] = mood
    with pytest.raises(StoreError, match=reason) as caught:
        call(daemon)
    assert str(caught.value).startswith(f"{daemon.api}: did not do it") and "\n" not in str(caught.value)
    # one answer is enough to know: asking again is for daemons that are away or busy
    assert [command for command, _ in daemon.asked] == ["pin/ls"]


@pytest.mark.parametrize("mood", ["endless", "endless error"])
def test_what_does_not_end_is_not_read_on(daemon: Daemon, mood: str) -> None:
    daemon.moods[""] = mood
    with pytest.raises(StoreError):
        call(daemon)
    # what lay in the buffers of both sockets; far from the 128 MiB that the daemon would have sent
    assert daemon.sent < 1 << 25


def test_compression_is_not_undone(daemon: Daemon) -> None:
    daemon.moods[""] = "bomb"
    assert len(call(daemon)) < 65536


@pytest.mark.parametrize("text", ["html", "list", "empty", "deep", "nested"])
def test_what_is_no_json_object(daemon: Daemon, text: str) -> None:
    daemon.moods[""] = text
    with Session(daemon.api, "did not do it", 5, 5) as session, pytest.raises(StoreError, match="not a JSON object"):
        session.json("pin/ls", ARGUMENTS)


def test_a_refusal_is_told_on_one_line(daemon: Daemon) -> None:
    daemon.moods[""] = "500"
    with pytest.raises(RefusedError, match="disk failure") as caught:
        call(daemon)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("mood", ["drip", "drip in the head"])
def test_who_sends_without_end_but_slowly_is_cut_off(daemon: Daemon, mood: str) -> None:
    daemon.moods[""] = mood
    with pytest.raises(StoreError, match=r"within 0\.3 s"):
        call(daemon, timeout=0.25, total=0.3)


def test_silence_ends_in_an_error(daemon: Daemon) -> None:
    daemon.moods[""] = "silent"
    with pytest.raises(StoreError, match=r"within 0\.2 s"):
        call(daemon, timeout=0.2)


def test_a_busy_daemon_is_asked_again(daemon: Daemon) -> None:
    name = daemon.add(b"data")
    daemon.busy = ipfs_rpc.ATTEMPTS - 1
    with Session(daemon.api, "did not do it", 5, 5) as session:
        assert session.post("block/get", {"arg": name}) == b"data"
    assert daemon.count("block/get") == ipfs_rpc.ATTEMPTS


def test_but_not_for_ever(daemon: Daemon) -> None:
    daemon.busy = 100
    with pytest.raises(StoreError, match="HTTP 503"):
        call(daemon)
    assert daemon.count("pin/ls") == ipfs_rpc.ATTEMPTS


def test_who_hangs_up_is_asked_again_and_then_taken_for_away(daemon: Daemon) -> None:
    daemon.moods[""] = "hangs up"
    with pytest.raises(UnreachableError, match="no IPFS daemon answers"):
        call(daemon)
    assert daemon.count("pin/ls") == ipfs_rpc.ATTEMPTS


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        api = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    with Session(api, "did not do it", 2, 2) as session, pytest.raises(UnreachableError, match="Connection refused"):
        session.post("pin/ls", ARGUMENTS)


def test_a_name_that_nobody_has() -> None:
    for host in ("nobody.invalid", "a..b"):
        with Session(f"/dns/{host}/tcp/5001", "did not do it", 2, 2) as session, pytest.raises(UnreachableError):
            session.post("pin/ls", ARGUMENTS)


def test_no_proxy_of_the_environment_is_used(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    daemon.moods[""] = "list"
    assert call(daemon) == b"[1]"


def test_another_thread_ends_a_session(daemon: Daemon) -> None:
    daemon.moods[""] = "silent"
    stop, failed = Stop(), []

    def wait() -> None:
        try:
            with Session(daemon.api, "did not do it", 15, 15, stop) as session:
                session.post("pin/ls", ARGUMENTS)
        except StoreError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not daemon.asked:
        thread.join(0.01)
    stop.now()
    thread.join(10)
    assert not thread.is_alive() and len(failed) == 1


def test_who_comes_after_the_end_does_not_begin(daemon: Daemon) -> None:
    stop = Stop()
    stop.now()
    with Session(daemon.api, "did not do it", 5, 5, stop) as session, pytest.raises(StoreError, match="did not do it"):
        session.post("pin/ls", ARGUMENTS)
    assert daemon.asked == []


def test_a_large_upload_arrives_whole(daemon: Daemon) -> None:
    data = bytes(range(256)) * 4000
    with Session(daemon.api, "did not do it", 5, 5) as session:
        session.json("add", {}, upload=data)
    assert daemon.pins == {cid.of(data)}
