import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from medprov_coordinator.deployment import certificates
from medprov_coordinator.deployment.certificates import check, ensure
from medprov_coordinator.errors import CertificateError

NOW = datetime.datetime.now(datetime.UTC)
HOSTS = ("127.0.0.1", "coordinator.example", "::1")


def files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "ca.pem", folder / "server.pem", folder / "server-key.pem"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    out = files(tmp_path_factory.mktemp("certificates"))
    assert ensure(*out, HOSTS, NOW)
    return out


def test_what_is_made_is_accepted_by_a_client(made: tuple[Path, Path, Path]) -> None:
    ca, certificate, key = made
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                plain, _ = listener.accept()
                server.wrap_socket(plain, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        for name in ("127.0.0.1", "coordinator.example"):
            with socket.create_connection(listener.getsockname()) as plain:
                client.wrap_socket(plain, server_hostname=name).close()
        thread.join()


def test_what_is_made_is_kept(made: tuple[Path, Path, Path]) -> None:
    before = [file.read_bytes() for file in made]
    assert not ensure(*made, HOSTS, NOW)
    assert [file.read_bytes() for file in made] == before
    for file in (made[2], made[0].with_name(certificates.AUTHORITY_KEY)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_authority_may_issue_nothing_but_servers(made: tuple[Path, Path, Path]) -> None:
    authority, server = (x509.load_pem_x509_certificate(file.read_bytes()) for file in made[:2])
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_other_names_give_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    out = files(tmp_path)
    ensure(*out, ("127.0.0.1",))
    authority = out[0].read_bytes()
    with pytest.raises(CertificateError, match=r"server\.pem: is not for other\.example; have one issued"):
        check(*out, ("127.0.0.1", "other.example"))
    assert ensure(*out, ("127.0.0.1", "other.example"))
    assert out[0].read_bytes() == authority
    check(*out, ("other.example",))


def test_a_server_certificate_that_has_run_out_is_renewed(tmp_path: Path) -> None:
    out = files(tmp_path)
    ensure(*out, HOSTS, NOW)
    later = NOW + datetime.timedelta(days=certificates.SERVER_DAYS + 1)
    with pytest.raises(
        CertificateError, match=r"server\.pem: expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC; remove the file"
    ):
        check(*out, HOSTS, later)
    assert ensure(*out, HOSTS, later)
    assert check(*out, HOSTS, later) > later


def test_an_authority_that_has_run_out_is_not_replaced_in_silence(tmp_path: Path) -> None:
    out = files(tmp_path)
    ensure(*out, HOSTS, NOW)
    with pytest.raises(CertificateError, match=r"ca\.pem: expired on .*; remove the folder and enrol all members anew"):
        ensure(*out, HOSTS, NOW + datetime.timedelta(days=certificates.AUTHORITY_DAYS + 1))


def test_a_certificate_of_the_future(made: tuple[Path, Path, Path]) -> None:
    with pytest.raises(CertificateError, match=r"ca\.pem: is valid only from .*; is the clock right\?"):
        check(*made, HOSTS, NOW - datetime.timedelta(days=1))


def test_another_authority_and_another_key(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = files(tmp_path)
    ensure(*other, HOSTS)
    with pytest.raises(CertificateError, match=r"server\.pem: was not issued by .*ca\.pem"):
        check(other[0], made[1], made[2], HOSTS)
    with pytest.raises(CertificateError, match=r"server-key\.pem: is not the key of"):
        check(made[0], made[1], other[2], HOSTS)


@pytest.mark.parametrize("number", range(3))
def test_damaged_and_missing_files_are_named(tmp_path: Path, number: int) -> None:
    out = files(tmp_path)
    ensure(*out, HOSTS)
    out[number].write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(CertificateError, match=f"{out[number].name}: is no .*in PEM form"):
        check(*out, HOSTS)
    out[number].unlink()
    with pytest.raises(CertificateError, match=f"{out[number].name}: cannot be read"):
        check(*out, HOSTS)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="cannot be used"):
        ensure(*files(tmp_path / "file"), HOSTS)


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="krankenhaus-ü: is neither a host name in ASCII nor an address"):
        ensure(*files(tmp_path), ("krankenhaus-ü",))
