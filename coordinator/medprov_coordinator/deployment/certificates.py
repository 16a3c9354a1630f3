"""The coordinator's own certificate authority, and the server certificate that members check (X.509, RFC 5280)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medprov_coordinator.deployment import files
from medprov_coordinator.errors import CertificateError

AUTHORITY_DAYS, SERVER_DAYS = 3650, 825
AUTHORITY_KEY = "ca-key.pem"
_EARLIER = datetime.timedelta(hours=1)


def ensure(ca: Path, certificate: Path, key: Path, hosts: Sequence[str], now: datetime.datetime | None = None) -> bool:
    """Make the authority if it is absent, and a server certificate if it is absent or no longer fits.

    The authority's key lies beside its certificate, so that a new server certificate can be made where names change or
    the former one runs out; members keep trusting the same authority.

    Parameters
    ----------
    ca, certificate, key : Path
        Files in one folder.
    hosts : sequence of str
        Names and addresses for the server certificate.
    now : datetime or None

    Returns
    -------
    bool
        Whether anything was made.

    Raises
    ------
    CertificateError
        The folder cannot be written, or the authority is expired, damaged or incomplete.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    authority_key = ca.with_name(AUTHORITY_KEY)
    try:
        ca.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not ca.exists() and not authority_key.exists():
            _make_authority(ca, authority_key, now)
        elif certificate.exists() and key.exists():
            try:
                check(ca, certificate, key, hosts, now)
                return False
            except CertificateError:
                # mended below, unless it is the authority that is bad
                _within(ca, _load(ca), now, "remove the folder and enrol all members anew")
        _make_server(ca, authority_key, certificate, key, hosts, now)
    except OSError as error:
        raise CertificateError(f"{error.filename or ca}: cannot be used ({error.strerror})") from None
    check(ca, certificate, key, hosts, now)
    return True


def check(
    ca: Path, certificate: Path, key: Path, hosts: Sequence[str], now: datetime.datetime | None = None
) -> datetime.datetime:
    """Check that members that trust `ca` will accept the server.

    Returns
    -------
    datetime
        Until when; the earlier end of both certificates.

    Raises
    ------
    CertificateError
        A file is missing or unreadable, a certificate is expired or not valid yet, the server's is of another
        authority, has not all of `hosts`, or does not fit its key.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    authority, server = _load(ca), _load(certificate)
    advice = "make a new one" if key.with_name(AUTHORITY_KEY) != ca.with_name(AUTHORITY_KEY) else "remove the file"
    _within(ca, authority, now, "members need a new start kit with a new authority")
    _within(certificate, server, now, advice)
    try:
        server.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise CertificateError(
            f"{certificate}: was not issued by {ca}; name the authority that has issued it"
        ) from None
    private = _private(key)
    if private.public_key() != server.public_key():
        raise CertificateError(f"{key}: is not the key of {certificate}; name the key that belongs to it")
    missing = sorted(set(hosts) - _names(server))
    if missing:
        raise CertificateError(f"{certificate}: is not for {', '.join(missing)}; have one issued with these names")
    return min(authority.not_valid_after_utc, server.not_valid_after_utc)


def _make_authority(ca: Path, key_file: Path, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "medprov coordinator's authority")])
    made = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    # the key first: a certificate without it could never issue anything
    files.write(key_file, _pem(key), 0o600)
    files.write(ca, made.public_bytes(serialization.Encoding.PEM), 0o644)


def _make_server(
    ca: Path, authority_key: Path, certificate: Path, key_file: Path, hosts: Sequence[str], now: datetime.datetime
) -> None:
    authority, issuer = _load(ca), _private(authority_key)
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    public = issuer.public_key()
    made = (
        _builder(name, authority.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(issuer, hashes.SHA384())
    )
    files.write(key_file, _pem(key), 0o600)
    files.write(certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # a member's clock may be a little behind
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        try:
            return x509.DNSName(host)
        except ValueError:
            raise CertificateError(f"{host}: is neither a host name in ASCII nor an address; correct it") from None


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(address) for address in found.get_values_for_type(x509.IPAddress)}
    return addresses | set(found.get_values_for_type(x509.DNSName))


def _within(file: Path, certificate: x509.Certificate, now: datetime.datetime, advice: str) -> None:
    if now > certificate.not_valid_after_utc:
        raise CertificateError(f"{file}: expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; {advice}")
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{file}: is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; is the clock right?"
        )


def _load(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        raise CertificateError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise CertificateError(f"{file}: is no certificate in PEM form") from None


def _private(file: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise CertificateError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError(f"{file}: is no private key in PEM form without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{file}: is no elliptic-curve key; have one issued for such a key")
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
