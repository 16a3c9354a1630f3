import datetime
import email.utils
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import DeactivateNodeResponse
from flwr.supercore.error import ApiErrorCode
from flwr.supernode.fleet_http_client import FleetHttpClient

from medprov_coordinator.deployment import certificates
from medprov_node.errors import AwayError, JoinError
from medprov_node.joining import superlink
from medprov_node.joining.config import Site
from medprov_node.joining.superlink import check_certificate, leave
from tests.unit.node.conftest import closed_port
from tests.unit.node.joining.conftest import MakeSite

NOW = datetime.datetime.now(datetime.UTC)
Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A factory of TLS servers that answer one handshake; gives their address, writes ca.pem into a folder."""
    threads: list[threading.Thread] = []

    def make(folder: Path, hosts: tuple[str, ...] = ("127.0.0.1",), made: datetime.datetime = NOW) -> str:
        folder.mkdir(exist_ok=True)
        files = (folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")
        certificates.ensure(*files, hosts, made)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files[1], files[2])
        listener = socket.create_server(("127.0.0.1", 0))

        def answer() -> None:
            with listener:
                plain, _ = listener.accept()
                try:
                    context.wrap_socket(plain, server_side=True).close()
                except OSError:
                    plain.close()

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield make
    for thread in threads:
        thread.join(10)


def site_at(make_site: MakeSite, address: str, ca: Path) -> Site:
    return replace(make_site(address), ca=ca)


def test_the_right_superlink(make_site: MakeSite, serve: Serve, tmp_path: Path) -> None:
    check_certificate(site_at(make_site, serve(tmp_path / "c"), tmp_path / "c" / "ca.pem"))


def test_another_authority(make_site: MakeSite, serve: Serve, tmp_path: Path) -> None:
    address = serve(tmp_path / "c")
    other = tmp_path / "other"
    other.mkdir()
    certificates.ensure(other / "ca.pem", other / "s.pem", other / "k.pem", ("127.0.0.1",))
    with pytest.raises(JoinError, match=r"has a certificate that .*other/ca\.pem has not issued"):
        check_certificate(site_at(make_site, address, other / "ca.pem"))


def test_an_expired_certificate(make_site: MakeSite, serve: Serve, tmp_path: Path) -> None:
    address = serve(tmp_path / "c", made=NOW - datetime.timedelta(days=certificates.SERVER_DAYS + 1))
    with pytest.raises(JoinError, match="certificate has expired; the coordinator must renew it"):
        check_certificate(site_at(make_site, address, tmp_path / "c" / "ca.pem"))


def test_a_certificate_of_the_future(make_site: MakeSite, serve: Serve, tmp_path: Path) -> None:
    address = serve(tmp_path / "c", made=NOW + datetime.timedelta(days=2))
    with pytest.raises(JoinError, match=r"is not valid yet; is this machine's clock right\?"):
        check_certificate(site_at(make_site, address, tmp_path / "c" / "ca.pem"))


@pytest.mark.parametrize("hosts", [("10.0.0.1",), ("coordinator.example",)])
def test_another_name(make_site: MakeSite, serve: Serve, tmp_path: Path, hosts: tuple[str, ...]) -> None:
    address = serve(tmp_path / "c", hosts)
    with pytest.raises(JoinError, match=r"certificate is not for 127\.0\.0\.1; the coordinator must add the name"):
        check_certificate(site_at(make_site, address, tmp_path / "c" / "ca.pem"))


def test_nobody_and_no_tls(make_site: MakeSite, serve: Serve, tmp_path: Path) -> None:
    serve_address = serve(tmp_path / "c")
    site = site_at(make_site, f"127.0.0.1:{closed_port()}", tmp_path / "c" / "ca.pem")
    with pytest.raises(AwayError, match=r"the SuperLink does not answer \(Connection refused\)"):
        check_certificate(site)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            plain, _ = listener.accept()
            plain.recv(10)
            plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            plain.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(JoinError, match="who answers there speaks no TLS"):
            check_certificate(replace(site, address=f"127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    check_certificate(replace(site, address=serve_address))


def test_an_authority_that_cannot_be_read(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site()
    with pytest.raises(JoinError, match=r"ca\.pem: cannot be read"):
        check_certificate(site)
    site.ca.write_text("no certificate")
    with pytest.raises(JoinError, match=r"ca\.pem: is no certificate in PEM form"):
        check_certificate(site)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, make_site: MakeSite, tmp_path: Path) -> Callable[[object], Site]:
    """A site, and a SuperLink that answers as told; the node's real request reaches it."""

    def make(answer: object) -> Site:
        site = make_site(node=42)
        files = (site.ca, tmp_path / "s.pem", tmp_path / "k.pem")
        certificates.ensure(*files, ("127.0.0.1",))
        begin = FleetHttpClient.from_server_address

        def handle(request: httpx.Request) -> httpx.Response:
            assert request.url.path == "/v1/fleet/deactivate-node"
            assert any("signature" in name for name in request.headers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def from_server_address(*arguments: object, **named: object) -> FleetHttpClient:
            client = begin(*arguments, **named)
            client._client = httpx.Client(transport=httpx.MockTransport(handle))
            return client

        monkeypatch.setattr(superlink.FleetHttpClient, "from_server_address", from_server_address)
        return site

    return make


def error(code: int, status: int = 400) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "public_message": "no"})


def test_a_session_that_was_left(answering: Callable[[object], Site]) -> None:
    content = DeactivateNodeResponse().SerializeToString()
    assert leave(answering(httpx.Response(200, content=content)))


def test_no_session(answering: Callable[[object], Site]) -> None:
    assert not leave(answering(error(ApiErrorCode.FLEET_NODE_DEACTIVATION_FAILED)))


def test_an_unknown_or_revoked_key(answering: Callable[[object], Site]) -> None:
    site = answering(httpx.Response(401, json={"detail": "Invalid SuperNode authentication"}))
    with pytest.raises(JoinError, match=r"does not know the key .*node-key, or has revoked it; ask to be enrolled"):
        leave(site)


def test_a_wrong_clock(answering: Callable[[object], Site]) -> None:
    date = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=9), usegmt=True)
    with pytest.raises(JoinError, match=r"this machine's clock and the coordinator's differ by 32[45]\d\d s"):
        leave(answering(httpx.Response(401, headers={"date": date})))


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), httpx.Response(503), error(1)])
def test_what_passes(answering: Callable[[object], Site], answer: object) -> None:
    with pytest.raises(AwayError, match="the SuperLink"):
        leave(answering(answer))


def test_a_key_that_is_not_there(answering: Callable[[object], Site]) -> None:
    site = answering(httpx.Response(200))
    site.key.unlink()
    with pytest.raises(JoinError, match="the node's key cannot be read"):
        leave(site)
