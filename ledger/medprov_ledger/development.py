"""A federation of three hospitals on the embedded chain, for development and demonstrations.

Everything here runs on one machine with a chain whose first key the whole world knows. The hospitals' own keys are
drawn at random when they are made, but their keystores use a cheap key derivation, and all of them lie in one folder:
a real hospital makes its keys with :func:`medprov_ledger.keys.create_account` on its own machine.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eth_account import Account
from web3 import Web3

from . import embedded
from .block_store import BlockStore
from .chain import Chain, connect_http, transact
from .cid import RAW, Cid
from .config import Config, HospitalConfig, StoreConfig
from .deploy import Deployment, Founder, deploy
from .embedded import DEVELOPMENT_KEY, Embedded
from .errors import ChainError, ConfigError, StoreError
from .federation import Federation
from .ipfs_store import IpfsStore
from .keys import KEYSTORE, PASSWORD, READER, create_account, load_account, load_reader_key, reader_public
from .registry import Registry

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
THRESHOLD = 2
NAME = "medprov development federation"
CONFIG, VERIFIER = "medprov.toml", "verifier.toml"
FIRST_START = "first-start"
"""File that is there until the first start has come to its end: what it has left may be removed."""
KDF_ITERATIONS = 2**12
"""Cost of scrypt in the development keystores; the default for real ones is 2**18."""
FUNDS = Web3.to_wei(100, "ether")
WAIT = 0.2
"""Seconds between two looks of :func:`wait`."""


@dataclass(frozen=True)
class Up:
    """What :func:`up` did.

    Parameters
    ----------
    config : Config
    chain : Embedded
    state : str
        ``"running"`` (it was already), ``"restarted"`` (from the saved state) or ``"created"``.
    """

    config: Config
    chain: Embedded
    state: str


@dataclass(frozen=True)
class Status:
    """What :func:`status` found.

    Parameters
    ----------
    config : Config
    chain : Embedded
    block : int
    members : dict of str to str
        Address to name where the configuration knows it, else the address again.
    threshold : int
    batches, records, registrations, rounds, models : int
        Anchored batches, records in them, records registered by themselves, rounds, released models.
    blocks : int or None
        Files in the block store; None for another kind of store.
    """

    config: Config
    chain: Embedded
    block: int
    members: dict[str, str]
    threshold: int
    batches: int
    records: int
    registrations: int
    rounds: int
    models: int
    blocks: int | None


def up(folder: Path, models: Sequence[bytes] = (), ipfs: str | None = None) -> Up:
    """Bring the development federation up; the same folder gives the same federation again.

    Parameters
    ----------
    folder : Path
        Made if absent.
    models : sequence of bytes
        32 bytes each, SHA-256 of weights files that the hospitals shall have released.
    ipfs : str or None
        Multiaddress of the IPFS daemon that a new federation takes as its store; None takes a folder of blocks.
        A federation that is there already keeps its store.

    Raises
    ------
    ChainError
    ConfigError
        Also where the federation has another store than `ipfs`, or has lost its configuration.
    StoreError
        `ipfs` is not a multiaddress.
    """
    store = _store(ipfs)
    with embedded.locked(folder):
        if ipfs is not None:
            _check_store(folder / CONFIG, store)
        chain = embedded.load(folder)
        new = not (folder / CONFIG).exists()
        if new:
            _begin(folder)
            chain = None
        running = chain is not None and embedded.is_running(chain)
        if chain is None or not running:
            chain = embedded.start(folder)
        state = "running" if running else "restarted"
        try:
            if new:
                _create(folder, chain, store)
                state = "created"
            config = _with_port(folder, chain)
            connection = Chain.connect(config)
            released = [_release(connection, model) for model in models]
            if any(released):
                embedded.wait_until_saved(folder)
        except BaseException:
            # Ctrl-C included: nobody would know of a chain that was left running
            if not running:
                embedded.stop(folder)
            raise
        return Up(config, chain, state)


def wait(folder: Path, stopped: Callable[[], bool]) -> bool:
    """Stay while the folder's chain runs, then stop it.

    Parameters
    ----------
    folder : Path
    stopped : callable
        Asked several times a second; True ends the wait.

    Returns
    -------
    bool
        True where `stopped` ended it, False where somebody else had stopped the chain before.

    Raises
    ------
    ChainError
        The chain has ended by itself.
    """
    while not stopped():
        chain = embedded.load(folder)
        if chain is None or chain.pid is None:
            return False
        # asked again under the lock: another command may just be stopping or starting it
        if not embedded.is_running(chain) and not _runs_now(folder):
            ended = embedded.load(folder)
            if ended is None or ended.pid is None:
                return False
            raise ChainError(
                f"{folder}: the chain has ended by itself; see {folder / embedded.LOG}, then start it anew"
            )
        time.sleep(WAIT)
    return down(folder)


def down(folder: Path) -> bool:
    """Stop the folder's chain and keep its state; False where it was not running.

    Raises
    ------
    ChainError
    """
    if not folder.is_dir():
        return False
    with embedded.locked(folder):
        return embedded.stop(folder)


def status(folder: Path) -> Status:
    """Look at the folder's federation.

    Raises
    ------
    ChainError
        The chain is down or is not what the configuration says.
    ConfigError
        There is no federation in this folder.
    """
    embedded_chain = embedded.load(folder) if folder.is_dir() else None
    if embedded_chain is None:
        raise ChainError(f"{folder}: no chain here; 'medprov-ledger up' makes one")
    if not embedded.is_running(embedded_chain):
        raise ChainError(f"{folder}: the chain is down; 'medprov-ledger up' starts it")
    config = Config.load(folder / CONFIG)
    chain = Chain.connect(config)
    federation, registry = Federation(chain), Registry(chain)
    names = {hospital.address.lower(): hospital.name for hospital in config.hospitals.values()}
    anchors = registry.anchors()
    store = config.store.path
    return Status(
        config=config,
        chain=embedded_chain,
        block=chain.head(),
        members={member.address: names.get(member.address.lower(), member.address) for member in federation.members()},
        threshold=federation.threshold(),
        batches=len(anchors),
        records=sum(anchor.count for anchor in anchors),
        registrations=len(registry.registrations()),
        rounds=len(federation.rounds()),
        models=len(federation.released_models()),
        blocks=BlockStore(store).count() if store is not None else None,
    )


def model_cid(model: bytes) -> str:
    """The CID that a model's hash gives by itself: CIDv1, one raw block, the same SHA-256."""
    return str(Cid(RAW, model))


def _store(ipfs: str | None) -> StoreConfig:
    if ipfs is None:
        return StoreConfig("blocks", path=Path("blocks"))
    if not re.fullmatch(r"[\x21-\x7e]{1,300}", ipfs):
        raise StoreError(f"{ipfs[:300]!r}: not a daemon's multiaddress; write /ip4/HOST/tcp/PORT/http")
    # reads the address and asks nobody: the daemon may be started later
    IpfsStore(ipfs)
    return StoreConfig("ipfs", api=ipfs)


def _check_store(file: Path, store: StoreConfig) -> None:
    if not file.exists():
        return
    found = Config.load(file).store
    if (found.kind, found.daemons) != (store.kind, store.daemons):
        place = found.path or ", ".join(found.daemons)
        raise ConfigError(
            f"{file}: its store is {found.kind} ({place}), not ipfs ({store.api}), and records point "
            "there; leave --ipfs out, or use another --dir"
        )


def _runs_now(folder: Path) -> bool:
    with embedded.locked(folder):
        chain = embedded.load(folder)
        return chain is not None and embedded.is_running(chain)


def _begin(folder: Path) -> None:
    """Prepare a first start; nothing is removed but what an earlier one that was cut short has left."""
    marker = folder / FIRST_START
    if not marker.exists():
        if embedded.has_state(folder):
            raise ConfigError(
                f"{folder / CONFIG}: is missing, but the chain here may hold records; restore the file, "
                f"or remove {folder} to begin anew"
            )
        marker.touch()
    embedded.stop(folder)
    embedded.discard(folder)


def _create(folder: Path, chain: Embedded, store: StoreConfig) -> None:
    """Hospitals, contracts, members, store and, last, the configuration."""
    w3 = connect_http(chain.rpc)
    deployer = Account.from_key(DEVELOPMENT_KEY)
    hospitals = [_hospital(folder, name) for name in HOSPITALS]
    founders = [
        Founder(hospital.address, hospital.name, reader_public(load_reader_key(hospital))) for hospital in hospitals
    ]
    federation_id = secrets.token_bytes(32)
    deployment = deploy(w3, deployer, federation_id, founders, THRESHOLD)
    for hospital in hospitals:
        transact(w3, {"to": Web3.to_checksum_address(hospital.address), "value": FUNDS}, deployer)
    if store.path is not None:
        (folder / store.path).mkdir(exist_ok=True)
    directory_key = secrets.token_bytes(32)
    common = list(_common(chain, deployment, federation_id, directory_key, store))
    # a hard kill right after this must not leave a configuration of contracts that are nowhere
    embedded.wait_until_saved(folder)
    _write(folder / VERIFIER, common)
    # not after the configuration: a marker that is left over would let the next start remove records
    (folder / FIRST_START).unlink()
    _write(folder / CONFIG, [*common, *_hospital_lines(hospitals)])


def _hospital(folder: Path, name: str) -> HospitalConfig:
    home = folder / "hospitals" / name
    if not (home / KEYSTORE).exists():
        for half in (PASSWORD, READER):
            # left by a start that was cut short; without a keystore nobody can have used them
            (home / half).unlink(missing_ok=True)
        create_account(home, kdf_iterations=KDF_ITERATIONS)
    state = home / "state"
    state.mkdir(exist_ok=True, mode=0o700)
    try:
        address = Web3.to_checksum_address(json.loads((home / KEYSTORE).read_text(encoding="ascii"))["address"])
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{home / KEYSTORE}: damaged; remove {folder} to begin anew") from None
    return HospitalConfig(name, address, home / KEYSTORE, home / PASSWORD, home / READER, state)


def _common(
    chain: Embedded, deployment: Deployment, federation_id: bytes, directory_key: bytes, store: StoreConfig
) -> Iterator[str]:
    yield "# Written by 'medprov-ledger up': a development federation on this machine only."
    yield "[federation]"
    yield f'id = "0x{federation_id.hex()}"'
    yield f'name = "{NAME}"'
    yield ""
    yield "[chain]"
    yield f'rpc = "{chain.rpc}"'
    yield f"chain_id = {embedded.CHAIN_ID}"
    yield f'federation = "{deployment.federation}"'
    yield f'registry = "{deployment.registry}"'
    yield "confirmations = 1"
    yield "timeout = 10.0"
    yield ""
    yield "[store]"
    yield f'kind = "{store.kind}"'
    # JSON's strings of printable ASCII are TOML's
    yield f'path = "{store.path}"' if store.path is not None else f"api = {json.dumps(store.api)}"
    yield ""
    yield "[directory]"
    yield "discoverable = true"
    yield f'key = "0x{directory_key.hex()}"'


def _hospital_lines(hospitals: list[HospitalConfig]) -> Iterator[str]:
    for hospital in hospitals:
        home = f"hospitals/{hospital.name}"
        yield ""
        yield f"[hospitals.{hospital.name}]"
        yield f'address = "{hospital.address}"'
        yield f'keystore = "{home}/{KEYSTORE}"'
        yield f'password_file = "{home}/{PASSWORD}"'
        yield f'reader_key = "{home}/{READER}"'
        yield f'state = "{home}/state"'


def _with_port(folder: Path, chain: Embedded) -> Config:
    """The configuration; where the chain had to take another port, that is written into both files first."""
    config = Config.load(folder / CONFIG)
    if config.rpc != chain.rpc:
        for file in (folder / CONFIG, folder / VERIFIER):
            if file.exists():
                text = file.read_text(encoding="utf-8")
                _write(file, re.sub(r"(?m)^rpc\s*=.*$", f'rpc = "{chain.rpc}"', text, count=1).splitlines())
        config = Config.load(folder / CONFIG)
    return config


def _release(chain: Chain, model: bytes) -> bool:
    """Let as many hospitals approve as it takes; False where the model was released before."""
    federation = Federation(chain)
    if federation.is_released(model):
        return False
    for hospital in chain.config.hospitals.values():
        if federation.is_released(model):
            break
        federation.release_model(model, model_cid(model), load_account(hospital))
    if not federation.is_released(model):
        raise ChainError(f"{chain.config.path}: the hospitals here are too few to release a model")
    return True


def _write(file: Path, lines: list[str]) -> None:
    temporary = file.with_name(file.name + ".new")
    with temporary.open("w", encoding="utf-8") as output:
        output.write("\n".join(lines) + "\n")
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(file)
