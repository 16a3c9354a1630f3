"""The configuration file ``medprov.toml``: which federation, chain, store and hospitals this installation uses."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import rpc_address
from .errors import ConfigError

ENVIRONMENT = "MEDPROV_CONFIG"
SEARCH = (Path("medprov.toml"), Path(".medprov/medprov.toml"))

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TABLES = ("federation", "chain", "store", "directory", "hospitals", "watermark")
_CHAIN = ("rpc", "chain_id", "federation", "registry", "confirmations", "timeout", "confirmation_timeout")
_HOSPITAL = ("address", "keystore", "password_file", "reader_key", "state")


@dataclass(frozen=True)
class StoreConfig:
    """Where evidence, bundles and manifests are kept.

    Parameters
    ----------
    kind : str
        ``"blocks"`` (a local folder) or ``"ipfs"`` (an IPFS daemon's RPC interface).
    path : Path or None
        The folder, only for ``"blocks"``.
    api : str or None
        The daemon's multiaddress or URL, only for ``"ipfs"``.
    """

    kind: str
    path: Path | None = None
    api: str | None = None


@dataclass(frozen=True)
class HospitalConfig:
    """A hospital whose keys this installation holds.

    Parameters
    ----------
    name : str
    address : str
        Chain address, as written in the file.
    keystore, password_file : Path
        Encrypted keystore (Web3 Secret Storage, version 3) and the file with its password.
    reader_key : Path
        X25519 private key, PKCS#8 PEM, encrypted with the same password.
    state : Path
        Folder of what the hospital keeps between runs (outbox, wrapped bundle keys).
    """

    name: str
    address: str
    keystore: Path
    password_file: Path
    reader_key: Path
    state: Path


@dataclass(frozen=True)
class Config:
    """One installation's configuration; see :meth:`load`.

    Parameters
    ----------
    path : Path
        The file this came from.
    federation_id : bytes
        32 bytes, the same at every member and verifier; the salt of the evidence keys.
    federation_name : str
    rpc : str
        URL of the chain's JSON-RPC interface (http or https). It may hold a password or a key: show `rpc_shown`.
    chain_id : int
    federation_address, registry_address : str
        Addresses of the two contracts.
    confirmations : int
        Blocks a transaction must be deep before it counts; 1 is the block it stands in.
    timeout : float
        Seconds that one request to the node may take.
    store : StoreConfig
    discoverable : bool
        True where the directory key is public.
    directory_key : bytes or None
        32 bytes, the key of the batches' directories.
    hospitals : dict of str to HospitalConfig
        Empty at a verifier.
    confirmation_timeout : float
        Seconds to wait until a transaction is confirmed.
    key_file : Path or None
        File of the consortium's key, with which all its pictures are marked and read; None where it has none.
    """

    path: Path
    federation_id: bytes
    federation_name: str
    rpc: str = field(repr=False)
    chain_id: int
    federation_address: str
    registry_address: str
    confirmations: int
    timeout: float
    store: StoreConfig
    discoverable: bool
    directory_key: bytes | None = field(repr=False)
    hospitals: dict[str, HospitalConfig] = field(default_factory=dict)
    confirmation_timeout: float = 120.0
    key_file: Path | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Config:
        """Read a configuration file.

        Parameters
        ----------
        path : path-like or None
            None searches ``$MEDPROV_CONFIG``, ``./medprov.toml``, ``./.medprov/medprov.toml``, in this order.

        Raises
        ------
        ConfigError
            No file, not TOML, or a key missing, malformed or unknown; the message names file and key.
        """
        file = Path(path) if path is not None else find()
        try:
            # some editors put a byte order mark before UTF-8
            text = file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such configuration file; 'medprov-ledger up' writes one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read ({_reason(error)})") from None
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{file}: not valid TOML ({_reason(error)}); correct it or write it anew") from None
        return _parse(file, document)

    @property
    def rpc_shown(self) -> str:
        """`rpc` for messages and reports, without what may be a key."""
        return rpc_address.shown(self.rpc)

    def hospital(self, name: str | None = None) -> HospitalConfig:
        """The named hospital, or the only one when `name` is None.

        Raises
        ------
        ConfigError
            No such hospital, or several and no name.
        """
        known = ", ".join(sorted(self.hospitals)) or "none"
        if name is None:
            if len(self.hospitals) == 1:
                return next(iter(self.hospitals.values()))
            raise ConfigError(f"{self.path}: name the hospital to act for; known here: {known}")
        if name not in self.hospitals:
            raise ConfigError(f"{self.path}: no hospital {name!r} here; known: {known}")
        return self.hospitals[name]


def find() -> Path:
    """The configuration file that the search order gives.

    Raises
    ------
    ConfigError
        There is none.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    for candidate in SEARCH:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate) for candidate in SEARCH)
    raise ConfigError(
        f"no configuration: ${ENVIRONMENT} is not set and none of {places} exists; 'medprov-ledger up' writes one"
    )


class _Table:
    """One TOML table with checked access; knows its name for error messages. A key not in `known` is refused."""

    def __init__(self, file: Path, name: str, values: Any, known: tuple[str, ...]) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: [{name}] is missing or not a table")
        self.file, self.name, self.values = file, name, values
        for key in values:
            # a misspelt key would silently leave its default in force
            if key not in known:
                raise self.bad(_spelled(key), f"is unknown; known here: {', '.join(known)}")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.file}: {self.name}.{key} is missing")
        # bool is an int in Python, but `confirmations = true` is a mistake
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.bad(key, f"has the wrong type ({type(value).__name__})")
        return value

    def text(self, key: str) -> str:
        value: str = self.get(key, str)
        if not value.strip() or "\0" in value:
            raise self.bad(key, "is empty or holds a zero byte")
        return value

    def bytes32(self, key: str) -> bytes:
        value = self.text(key)
        if not _BYTES32.fullmatch(value):
            raise self.bad(key, "must be 0x and 64 hexadecimal digits")
        return bytes.fromhex(value[2:])

    def address(self, key: str) -> str:
        value = self.text(key)
        if not _ADDRESS.fullmatch(value):
            raise self.bad(key, "must be 0x and 40 hexadecimal digits")
        return value

    def number(self, key: str, default: float | None, low: float, high: float) -> float:
        value: float = self.get(key, (int, float), default)
        if not low <= value <= high:
            raise self.bad(key, f"must lie between {low:g} and {high:g}")
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        value: int = self.get(key, int, default)
        if not low <= value <= high:
            raise self.bad(key, f"must lie between {low} and {high}")
        return value

    def file_path(self, key: str) -> Path:
        return self.file.parent / self.text(key)

    def bad(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.name}.{key} {why}")


def _parse(file: Path, document: dict[str, Any]) -> Config:
    federation = _Table(file, "federation", document.get("federation"), ("id", "name"))
    chain = _Table(file, "chain", document.get("chain"), _CHAIN)
    directory = _Table(file, "directory", document.get("directory", {}), ("discoverable", "key"))
    store = _Table(file, "store", document.get("store"), ("kind", "path", "api"))
    watermark = _Table(file, "watermark", document.get("watermark", {}), ("key_file",))
    for name in document:
        if name not in _TABLES:
            raise ConfigError(f"{file}: [{_spelled(name)}] is unknown; known are {', '.join(_TABLES)}")
    rpc = chain.text("rpc")
    if problem := rpc_address.problem(rpc):
        raise chain.bad("rpc", problem)
    discoverable: bool = directory.get("discoverable", bool, False)
    directory_key = directory.bytes32("key") if "key" in directory.values else None
    if discoverable and directory_key is None:
        raise ConfigError(f"{file}: directory.key is missing, although directory.discoverable is true")
    tables = document.get("hospitals", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{file}: [hospitals] is not a table")
    hospitals = {name: _hospital(file, name, values) for name, values in tables.items()}
    _refuse_shared_state(file, hospitals)
    return Config(
        path=file,
        federation_id=federation.bytes32("id"),
        federation_name=federation.text("name"),
        rpc=rpc,
        chain_id=chain.integer("chain_id", None, 1, 2**63),
        federation_address=chain.address("federation"),
        registry_address=chain.address("registry"),
        confirmations=chain.integer("confirmations", 1, 1, 10_000),
        timeout=chain.number("timeout", 10.0, 0.01, 3600),
        confirmation_timeout=chain.number("confirmation_timeout", 120.0, 0.01, 86400),
        store=_store(store),
        discoverable=discoverable,
        directory_key=directory_key,
        hospitals=hospitals,
        key_file=watermark.file_path("key_file") if "key_file" in watermark.values else None,
    )


def _store(table: _Table) -> StoreConfig:
    kind = table.text("kind")
    if kind == "blocks":
        return StoreConfig(kind, path=table.file_path("path"))
    if kind == "ipfs":
        return StoreConfig(kind, api=table.text("api"))
    raise table.bad("kind", f"is {kind!r}, must be 'blocks' or 'ipfs'")


def _hospital(file: Path, name: str, values: Any) -> HospitalConfig:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: hospital name {name!r} must be letters, digits, '.', '_' or '-' (at most 64)")
    table = _Table(file, f"hospitals.{name}", values, _HOSPITAL)
    return HospitalConfig(
        name=name,
        address=table.address("address"),
        keystore=table.file_path("keystore"),
        password_file=table.file_path("password_file"),
        reader_key=table.file_path("reader_key"),
        state=table.file_path("state"),
    )


def _refuse_shared_state(file: Path, hospitals: dict[str, HospitalConfig]) -> None:
    """Two hospitals in one folder would anchor each other's pictures."""
    owners: dict[str, str] = {}
    for one in hospitals.values():
        first = owners.setdefault(os.path.realpath(one.state), one.name)
        if first != one.name:
            raise ConfigError(
                f"{file}: hospitals.{one.name}.state is the folder of {first} too; give each hospital its own"
            )


def _spelled(key: str) -> str:
    """A key as it may be shown: TOML allows anything between quotation marks."""
    return key if key.isprintable() else ascii(key)


def _reason(error: Exception) -> str:
    """One line about `error`, without the path that the message already names."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
