"""How a hospital comes to train with a federation: its request, and the start kit that answers it.

Both are canonical JSON, signed, and hold no secret. The hospital makes its keys itself; the request carries their
public halves and proves that who sends it has the account's key. The kit says where the coordinator is, how to know it
(its certificate authority) and where the chain is. It counts only if a member of the federation has signed it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eth_account import Account as Accounts
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from . import _canonical, _files, eip712
from .errors import RecordError
from .merkle import keccak256

VERSION = 1
MAX_SIZE = 1 << 18
TYPE = "StartKit(bytes32 federationId,bytes32 content)"
_REQUEST, _KIT = "medprov join request", "medprov start kit"
_REQUEST_FIELDS = ("kind", "version", "name", "address", "reader_key", "node_key", "signature")
_KIT_FIELDS = (
    "kind",
    "version",
    "federation_id",
    "federation_name",
    "name",
    "address",
    "node_id",
    "superlink",
    "ca",
    "rpc",
    "chain_id",
    "federation",
    "registry",
    "confirmations",
    "store",
    "directory_key",
    "app",
    "signature",
)
_STORE = {"kind", "path", "api", "apis", "copies"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NODE_KEY = re.compile(r"ecdsa-sha2-nistp(256|384|521) [A-Za-z0-9+/]{100,400}={0,2}")
_AUTHORITY = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n")
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")


@dataclass(frozen=True)
class JoinRequest:
    """A hospital's request; make it with :func:`request`.

    Parameters
    ----------
    name : str
        The hospital's name.
    address : str
        Its chain account, checksummed.
    reader_key : bytes
        32 bytes, X25519 public key.
    node_key : str
        Public key of its node: ECDSA on a NIST curve, one line as OpenSSH writes it, without comment.
    signature : bytes
        65 bytes, by `address`.
    """

    name: str
    address: str
    reader_key: bytes
    node_key: str
    signature: bytes = b""

    @property
    def message(self) -> bytes:
        """32 bytes that are signed as an EIP-191 personal message: Keccak-256 of all but the signature."""
        return keccak256(_canonical.dumps(self._content(), "join request"))

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return _canonical.dumps(self._content() | {"signature": _canonical.to_hex(self.signature)}, "join request")

    def _content(self) -> dict[str, Any]:
        return {
            "kind": _REQUEST,
            "version": VERSION,
            "name": self.name,
            "address": self.address,
            "reader_key": _canonical.to_hex(self.reader_key),
            "node_key": self.node_key,
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> JoinRequest:
        """Decode, and check that the account named in it has signed it.

        Raises
        ------
        RecordError
        """
        values = _values(data, _REQUEST, _REQUEST_FIELDS, "join request")
        found = cls(
            check_name(values["name"]),
            eip712.address(values["address"], "join request: address"),
            _canonical.from_hex(values["reader_key"], "join request: reader_key", 32),
            _matching(_NODE_KEY, values["node_key"], "join request: node_key must be ECDSA as OpenSSH writes it"),
            _canonical.from_hex(values["signature"], "join request: signature", 65),
        )
        _check_spelling(found.to_bytes(), data, "join request")
        try:
            signer = Accounts.recover_message(encode_defunct(primitive=found.message), signature=found.signature)
        except (BadSignature, ValidationError, ValueError):
            signer = None
        if signer != found.address:
            raise RecordError(f"join request: not signed by {found.address}, or changed since; ask the hospital again")
        return found

    @classmethod
    def read(cls, path: Path) -> JoinRequest:
        """Read a file; errors as for :meth:`from_bytes`, with the file's name."""
        return _files.parsed(path, MAX_SIZE, cls.from_bytes, "name the request.json that the hospital has sent")


@dataclass(frozen=True)
class StartKit:
    """What a hospital needs to join; sign it with :func:`sign`.

    Parameters
    ----------
    federation_id : bytes
        32 bytes.
    federation_name : str
    name, address : str
        Whom it is for: name and chain account.
    node_id : int
        Number under which the coordinator's SuperLink knows the hospital's node key.
    superlink : str
        ``host:port``.
    ca : str
        Certificate of the coordinator's certificate authority, PEM.
    rpc : str
        The chain's JSON-RPC interface.
    chain_id, confirmations : int
    federation, registry : str
        Addresses of the contracts.
    store : mapping
        The table ``[store]`` of ``medprov.toml``.
    directory_key : bytes or None
        Only where the federation is discoverable, so that the key is public.
    app : bytes
        32 bytes, SHA-256 of the app bundle that the coordinator runs. For information: the contract decides.
    signature : bytes
        65 bytes, by a member.
    """

    federation_id: bytes
    federation_name: str
    name: str
    address: str
    node_id: int
    superlink: str
    ca: str
    rpc: str = field(repr=False)
    chain_id: int
    federation: str
    registry: str
    confirmations: int
    store: Mapping[str, str | int | list[str]]
    directory_key: bytes | None = field(repr=False)
    app: bytes
    signature: bytes = b""

    @property
    def message(self) -> eip712.TypedMessage:
        """What is signed: the Keccak-256 of all but the signature, in the registry's domain."""
        content = keccak256(_canonical.dumps(self._content(), "start kit"))
        return eip712.TypedMessage(TYPE, (self.federation_id, content), eip712.domain(self.chain_id, self.registry))

    @property
    def signer(self) -> str:
        """The account that has signed it. Any signature is of some account: ask whether it is a member's.

        Raises
        ------
        RecordError
        """
        return eip712.recover(self.message.digest, self.signature)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return _canonical.dumps(self._content() | {"signature": _canonical.to_hex(self.signature)}, "start kit")

    def _content(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: getattr(self, name) for name in _KIT_FIELDS[2:-1]}
        values |= {
            "federation_id": _canonical.to_hex(self.federation_id),
            "app": _canonical.to_hex(self.app),
            # a node's number has 64 bits, more than a JSON number holds everywhere
            "node_id": str(self.node_id),
            "store": dict(self.store),
            "directory_key": None if self.directory_key is None else _canonical.to_hex(self.directory_key),
        }
        return {"kind": _KIT, "version": VERSION, **values}

    @classmethod
    def from_bytes(cls, data: bytes) -> StartKit:
        """Decode. Nothing in it is proved by this: see `signer`.

        Raises
        ------
        RecordError
        """
        what = "start kit"
        values = _values(data, _KIT, _KIT_FIELDS, what)
        node, store, key = values["node_id"], values["store"], values["directory_key"]
        if not isinstance(node, str) or not re.fullmatch(r"[1-9][0-9]{0,19}", node) or int(node) >= 1 << 64:
            raise RecordError(f"{what}: node_id must be a number of at most 64 bits")
        if not isinstance(store, dict) or not set(store) <= _STORE:
            raise RecordError(f"{what}: store must be an object with names from {', '.join(sorted(_STORE))}")
        for one, value in store.items():
            _check_store(value, f"{what}: store.{one}")
        found = cls(
            federation_id=_canonical.from_hex(values["federation_id"], f"{what}: federation_id", 32),
            federation_name=_canonical.text(values["federation_name"], 200, f"{what}: federation_name"),
            name=check_name(values["name"]),
            address=eip712.address(values["address"], f"{what}: address"),
            node_id=int(node),
            superlink=endpoint(values["superlink"], f"{what}: superlink"),
            ca=_matching(_AUTHORITY, values["ca"], f"{what}: ca must be one certificate in PEM form"),
            rpc=_canonical.text(values["rpc"], 2000, f"{what}: rpc"),
            chain_id=_canonical.integer(values["chain_id"], 1, 2**63, f"{what}: chain_id"),
            federation=eip712.address(values["federation"], f"{what}: federation"),
            registry=eip712.address(values["registry"], f"{what}: registry"),
            confirmations=_canonical.integer(values["confirmations"], 1, 10_000, f"{what}: confirmations"),
            store=store,
            directory_key=None if key is None else _canonical.from_hex(key, f"{what}: directory_key", 32),
            app=_canonical.from_hex(values["app"], f"{what}: app", 32),
            signature=_canonical.from_hex(values["signature"], f"{what}: signature", 65),
        )
        _check_spelling(found.to_bytes(), data, what)
        return found

    @classmethod
    def read(cls, path: Path) -> StartKit:
        """Read a file; errors as for :meth:`from_bytes`, with the file's name."""
        return _files.parsed(path, MAX_SIZE, cls.from_bytes, "name the start kit that the coordinator has sent")


def request(name: str, account: LocalAccount, reader_key: bytes, node_key: str) -> JoinRequest:
    """Make and sign a request; the arguments are as in :class:`JoinRequest`.

    Raises
    ------
    RecordError
        A value is malformed.
    """
    made = JoinRequest(check_name(name), str(account.address), reader_key, node_key)
    signed = account.sign_message(encode_defunct(primitive=made.message))
    return JoinRequest.from_bytes(replace(made, signature=bytes(signed.signature)).to_bytes())


def sign(kit: StartKit, account: eip712.Account) -> StartKit:
    """The kit with a member's signature, and with checksummed addresses.

    Raises
    ------
    RecordError
        A value is malformed.
    """
    # before it is signed: who reads it takes the checksummed spelling only
    kit = replace(
        kit,
        address=eip712.address(kit.address, "start kit: address"),
        federation=eip712.address(kit.federation, "start kit: federation"),
        registry=eip712.address(kit.registry, "start kit: registry"),
    )
    return StartKit.from_bytes(replace(kit, signature=eip712.sign_message(kit.message, account)).to_bytes())


def check_name(value: Any) -> str:
    """A hospital's name as ``medprov.toml`` takes it.

    Raises
    ------
    RecordError
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise RecordError(
            "name: 1 to 64 letters, digits, dots, dashes and underscores are needed, the first a letter or digit"
        )
    return value


def endpoint(value: Any, what: str) -> str:
    """``host:port`` checked, IPv6 addresses in brackets.

    Raises
    ------
    RecordError
    """
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[2]) < 65536:
        raise RecordError(f"{what}: host:port is needed, the port from 1 to 65535, IPv6 addresses in brackets")
    return str(value)


def _values(data: bytes, kind: str, names: tuple[str, ...], what: str) -> dict[str, Any]:
    if len(data) > MAX_SIZE:
        raise RecordError(f"{what}: more than {MAX_SIZE} bytes")
    values = _canonical.loads(data, what)
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise RecordError(f"{what}: this is no {kind}")
    _canonical.version(values.get("version"), VERSION, what)
    return _canonical.fields(values, names, what)


def _check_store(value: Any, what: str) -> None:
    texts = value if isinstance(value, list) else [value]
    if isinstance(value, int):
        _canonical.integer(value, 0, 1000, what)
    elif len(texts) > 100 or not all(isinstance(text, str) and 0 < len(text) <= 2000 for text in texts):
        raise RecordError(f"{what}: must be text of 1 to 2000 characters, a list of at most 100 of them, or a number")


def _check_spelling(again: bytes, data: bytes, what: str) -> None:
    # nothing else of it has two spellings
    if again != data:
        raise RecordError(f"{what}: an address is not in checksummed form (EIP-55)")


def _matching(pattern: re.Pattern[str], value: Any, why: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise RecordError(why)
    return value
