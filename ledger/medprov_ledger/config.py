"""The configuration file ``medprov.toml``: which federation, chain, store and hospitals this installation uses."""

from __future__ import annotations

import json
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
GWEI = 10**9
MAX_FEE_GWEI = 500
"""Where the file names no ceiling: what Ethereum's main chain asks on its worst days."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TABLES = ("federation", "chain", "store", "directory", "hospitals", "watermark", "trust")
_CHAIN = (
    "rpc",
    "chain_id",
    "federation",
    "registry",
    "confirmations",
    "timeout",
    "confirmation_timeout",
    "bump_after",
    "max_fee_gwei",
)
_HOSPITAL = ("address", "keystore", "signer", "password_file", "reader_key", "state")


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
        The daemon's multiaddress or URL, only for ``"ipfs"`` with one daemon.
    apis : tuple of str
        The same of several daemons, the preferred ones first.
    copies : int
        How many daemons must hold an object; where the file does not say, all of them.
    """

    kind: str
    path: Path | None = None
    api: str | None = None
    apis: tuple[str, ...] = ()
    copies: int = 1

    @property
    def daemons(self) -> tuple[str, ...]:
        """The addresses of all daemons."""
        return self.apis or ((self.api,) if self.api is not None else ())


@dataclass(frozen=True)
class HospitalConfig:
    """A hospital whose keys this installation holds.

    Parameters
    ----------
    name : str
    address : str
        Chain address, as written in the file.
    keystore : Path or None
        Encrypted keystore (Web3 Secret Storage, version 3); None where a signing service keeps the key.
    password_file : Path
        File with the password of keystore and reader key.
    reader_key : Path
        X25519 private key, PKCS#8 PEM, encrypted with that password.
    state : Path
        Folder of what the hospital keeps between runs (outbox, journal of transactions, wrapped bundle keys).
    signer : str or None
        URL of the signing service, where there is no keystore. It may hold a password: never show it as it is.
    """

    name: str
    address: str
    keystore: Path | None
    password_file: Path
    reader_key: Path
    state: Path
    signer: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TrustConfig:
    """Whose word counts where the chain cannot be asked (:mod:`medprov_ledger.checkpoint`).

    Parameters
    ----------
    members : tuple of str
        Accounts whose signatures under a checkpoint count, as written in the file.
    threshold : int
        How many of them must have signed; 0 where there are none.
    checkpoints : tuple of Path
    """

    members: tuple[str, ...] = ()
    threshold: int = 0
    checkpoints: tuple[Path, ...] = ()


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
        32 bytes, the key that new batches' directories are sealed with.
    hospitals : dict of str to HospitalConfig
        Empty at a verifier.
    confirmation_timeout : float
        Seconds to wait until a transaction is confirmed.
    key_file : Path or None
        File of the consortium's key, with which all its pictures are marked and read; None where it has none.
    former_directory_keys : tuple of bytes
        32 bytes each, keys of former epochs, newest first: only for reading the batches of their time.
    bump_after : float
        Seconds after which a transaction that is not mined is replaced by one that offers more.
    max_fee : int
        The most that a transaction may offer per unit of gas, in wei.
    trust : TrustConfig
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
    former_directory_keys: tuple[bytes, ...] = field(default=(), repr=False)
    bump_after: float = 60.0
    max_fee: int = MAX_FEE_GWEI * GWEI
    trust: TrustConfig = TrustConfig()

    @property
    def directory_keys(self) -> tuple[bytes, ...]:
        """All directory keys, the one for writing first; empty where there is none."""
        current = () if self.directory_key is None else (self.directory_key,)
        return current + self.former_directory_keys

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
        document = read_toml(file, "no such configuration file; 'medprov-ledger up' writes one")
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


def read_toml(file: Path, absent: str) -> dict[str, Any]:
    """What a TOML file holds.

    Parameters
    ----------
    file : Path
    absent : str
        What to say, after its name, where there is no such file.

    Raises
    ------
    ConfigError
    """
    try:
        # some editors put a byte order mark before UTF-8
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: {absent}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({_reason(error)})") from None
    try:
        return tomllib.loads(text)
    # ValueError is the base of TOML's own error; Python raises it for a number of thousands of digits
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML ({_reason(error)}); correct it or write it anew") from None


def toml_text(value: str) -> str:
    """`value` as a TOML string.

    JSON's strings are TOML's but for two things: a character beyond 16 bits may not be written as two escapes, and
    DEL may not stand as it is.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class Table:
    """One TOML table with checked access; knows its name for error messages. A key not in `known` is refused.

    Parameters
    ----------
    file : Path
    name : str
        As in the file, for messages.
    values : object
        What the document has under that name.
    known : tuple of str

    Raises
    ------
    ConfigError
        No table, or an unknown key; every method raises it too.
    """

    def __init__(self, file: Path, name: str, values: Any, known: tuple[str, ...]) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: [{name}] is missing or not a table")
        self.file, self.name, self.values = file, name, values
        for key in values:
            # a misspelt key would silently leave its default in force
            if key not in known:
                raise self.bad(_spelled(key), f"is unknown; known here: {', '.join(known)}")

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of one of these types; a missing one without default is an error, as in all that follow."""
        value = self.values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.file}: {self.name}.{key} is missing")
        # bool is an int in Python, but `confirmations = true` is a mistake
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.bad(key, f"has the wrong type ({type(value).__name__})")
        return value

    def text(self, key: str) -> str:
        """Text that is not empty."""
        value: str = self.get(key, str)
        if not value.strip() or "\0" in value:
            raise self.bad(key, "is empty or holds a zero byte")
        return value

    def bytes32(self, key: str) -> bytes:
        """32 bytes, written as 0x and hexadecimal digits."""
        value = self.text(key)
        if not _BYTES32.fullmatch(value):
            raise self.bad(key, "must be 0x and 64 hexadecimal digits")
        return bytes.fromhex(value[2:])

    def all_bytes32(self, key: str) -> tuple[bytes, ...]:
        """A list of them, empty where it is missing."""
        values: list[Any] = self.get(key, list, [])
        if not all(isinstance(value, str) and _BYTES32.fullmatch(value) for value in values):
            raise self.bad(key, "must be a list of texts of 0x and 64 hexadecimal digits")
        return tuple(bytes.fromhex(value[2:]) for value in values)

    def address(self, key: str) -> str:
        """A chain address as it is written."""
        value = self.text(key)
        if not _ADDRESS.fullmatch(value):
            raise self.bad(key, "must be 0x and 40 hexadecimal digits")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty where it is missing."""
        values: list[Any] = self.get(key, list, [])
        if not all(isinstance(value, str) and value.strip() and "\0" not in value for value in values):
            raise self.bad(key, "must be a list of texts, none of them empty")
        return tuple(values)

    def number(self, key: str, default: float | None, low: float, high: float) -> float:
        """A number within [low, high]."""
        value: float = self.get(key, (int, float), default)
        if not low <= value <= high:
            raise self.bad(key, f"must lie between {low:g} and {high:g}")
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """An integer within [low, high]."""
        value: int = self.get(key, int, default)
        if not low <= value <= high:
            raise self.bad(key, f"must lie between {low} and {high}")
        return value

    def file_path(self, key: str) -> Path:
        """A path, relative ones from the file's folder."""
        return self.file.parent / self.text(key)

    def bad(self, key: str, why: str) -> ConfigError:
        """The error that names file, table and key."""
        return ConfigError(f"{self.file}: {self.name}.{key} {why}")


def _parse(file: Path, document: dict[str, Any]) -> Config:
    federation = Table(file, "federation", document.get("federation"), ("id", "name"))
    chain = Table(file, "chain", document.get("chain"), _CHAIN)
    directory = Table(file, "directory", document.get("directory", {}), ("discoverable", "key", "former"))
    store = Table(file, "store", document.get("store"), ("kind", "path", "api", "apis", "copies"))
    watermark = Table(file, "watermark", document.get("watermark", {}), ("key_file",))
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
    former = directory.all_bytes32("former")
    if former and directory_key is None:
        raise directory.bad("former", "needs a directory.key, with which new batches are sealed")
    if len({directory_key, *former}) <= len(former):
        raise directory.bad("former", "names a key twice, or the present one")
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
        former_directory_keys=former,
        bump_after=chain.number("bump_after", 60.0, 0.01, 86400),
        max_fee=round(chain.number("max_fee_gwei", float(MAX_FEE_GWEI), 1e-9, 1e9) * GWEI),
        trust=_trust(Table(file, "trust", document.get("trust", {}), ("members", "threshold", "checkpoints"))),
    )


def _trust(table: Table) -> TrustConfig:
    members = table.texts("members")
    if not all(_ADDRESS.fullmatch(member) for member in members):
        raise table.bad("members", "must be a list of addresses, 0x and 40 hexadecimal digits")
    if len({member.lower() for member in members}) < len(members):
        raise table.bad("members", "names an account twice")
    checkpoints = tuple(table.file.parent / name for name in table.texts("checkpoints"))
    if not members:
        if checkpoints or "threshold" in table.values:
            raise table.bad("members", "is missing: it names the accounts whose signatures count")
        return TrustConfig()
    return TrustConfig(members, table.integer("threshold", None, 1, len(members)), checkpoints)


def _store(table: Table) -> StoreConfig:
    kind = table.text("kind")
    if kind == "blocks":
        for key in ("apis", "copies"):
            if key in table.values:
                raise table.bad(key, "is for IPFS daemons, and store.kind is 'blocks'")
        return StoreConfig(kind, path=table.file_path("path"))
    if kind == "ipfs":
        if "apis" not in table.values:
            return StoreConfig(kind, api=table.text("api"), copies=table.integer("copies", 1, 1, 1))
        if "api" in table.values:
            raise table.bad("api", "stands beside apis; write one of them")
        apis = table.texts("apis")
        if not apis or len(set(apis)) < len(apis):
            raise table.bad("apis", "must name one daemon or more, each of them once")
        return StoreConfig(kind, apis=apis, copies=table.integer("copies", len(apis), 1, len(apis)))
    raise table.bad("kind", f"is {kind!r}, must be 'blocks' or 'ipfs'")


def _hospital(file: Path, name: str, values: Any) -> HospitalConfig:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{file}: hospital name {name!r} must be letters, digits, '.', '_' or '-' (at most 64)")
    table = Table(file, f"hospitals.{name}", values, _HOSPITAL)
    signer = table.text("signer") if "signer" in values else None
    if signer is not None and (problem := rpc_address.problem(signer)):
        raise table.bad("signer", problem)
    if signer is not None and "keystore" in values:
        raise table.bad("signer", "stands beside a keystore; name the one that holds the hospital's key")
    return HospitalConfig(
        name=name,
        address=table.address("address"),
        keystore=table.file_path("keystore") if signer is None else None,
        password_file=table.file_path("password_file"),
        reader_key=table.file_path("reader_key"),
        state=table.file_path("state"),
        signer=signer,
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
