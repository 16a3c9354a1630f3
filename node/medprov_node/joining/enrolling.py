"""The hospital's side of the enrolment: its request to the coordinator, and the start kit that comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from eth_account.signers.local import LocalAccount

from medprov_ledger import enrolment
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config, HospitalConfig, toml_text
from medprov_ledger.enrolment import JoinRequest, StartKit
from medprov_ledger.errors import RecordError
from medprov_ledger.federation import Federation
from medprov_ledger.keys import KEYSTORE, PASSWORD, READER, create_account, load_account, load_reader_key, reader_public
from medprov_node import config_file
from medprov_node.errors import JoinError
from medprov_node.joining import config as site_config
from medprov_node.joining import node_key
from medprov_node.joining.config import Site

REQUEST, MEDPROV, AUTHORITY = "request.json", "medprov.toml", "ca.pem"


def request(folder: Path, name: str | None = None, member: HospitalConfig | None = None) -> JoinRequest:
    """Make a node key, and the account and reader key where the hospital has none yet; write ``request.json``.

    Parameters
    ----------
    folder : Path
        Made if absent. The keys stay in it; only ``request.json`` is sent.
    name : str or None
        The hospital's name, for new keys.
    member : HospitalConfig or None
        A hospital that has its keys already, instead of a name.

    Raises
    ------
    JoinError, ConfigError, RecordError, OSError
    """
    if member is None:
        enrolment.check_name(name)
    elif member.keystore is None:
        raise JoinError(f"{member.name}: its key is kept by a signing service, but updates are signed with a keystore")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (folder / REQUEST).exists():
        raise JoinError(f"{folder / REQUEST}: exists already; send that one, or name another folder")
    account: LocalAccount
    if member is None:
        keys = create_account(folder)
        account, reader = keys.account, keys.reader
    else:
        name, account, reader = member.name, load_account(member), reader_public(load_reader_key(member))
    made = enrolment.request(str(name), account, reader, node_key.create(folder))
    config_file.write(folder / REQUEST, made.to_bytes().decode(), 0o644)
    return made


def take(
    kit_file: Path, home: Path, images: Path, *, config: Path | None = None, federation_id: bytes | None = None
) -> tuple[Site, StartKit]:
    """Check a start kit and write ``node.toml`` from it, and ``medprov.toml`` for a hospital that has none.

    Parameters
    ----------
    kit_file : Path
    home : Path
        Folder of :func:`request`.
    images : Path
        Folder of the images that shall train.
    config : Path or None
        ``medprov.toml`` of a hospital that was a member before.
    federation_id : bytes or None
        32 bytes, as the hospital knows it from elsewhere; None takes the kit's word for it.

    Raises
    ------
    JoinError
        The kit is for another hospital or federation, was changed, or is not signed by a member.
    RecordError, ConfigError, ChainError, OSError
    """
    kit = StartKit.read(kit_file)
    try:
        mine = JoinRequest.read(home / REQUEST)
    except RecordError as error:
        raise JoinError(f"{error}; --home is the folder of 'medprov-node request'") from None
    if mine.address != kit.address or mine.name != kit.name:
        raise JoinError(f"{kit_file}: is for {kit.name} ({kit.address}), not for {mine.name} ({mine.address})")
    if federation_id not in (None, kit.federation_id):
        raise JoinError(f"{kit_file}: is for another federation (0x{kit.federation_id.hex()})")
    if not images.is_dir():
        raise JoinError(f"{images}: no such folder of images")
    own = home / MEDPROV
    if config is None:
        if not (home / KEYSTORE).exists():
            raise JoinError(f"{home}: has no account of its own; name the hospital's medprov.toml with --config")
        text = "\n".join(_medprov(kit, home)) + "\n"
        draft = home / f".{MEDPROV}.new"
        config_file.write(draft, text, 0o600)
        try:
            _check(kit, kit_file, Config.load(draft))
            (home / "marking").mkdir(exist_ok=True, mode=0o700)
            draft.replace(own)
        finally:
            draft.unlink(missing_ok=True)
    else:
        _check(kit, kit_file, Config.load(config))
    place = os.path.relpath((config or own).resolve(), home.resolve())
    config_file.write(home / AUTHORITY, kit.ca, 0o644)
    lines = site_config.lines(place, kit.name, images, kit.superlink, kit.node_id)
    config_file.write(home / site_config.FILE, "\n".join(lines) + "\n", 0o644)
    return Site.load(home / site_config.FILE), kit


def _check(kit: StartKit, kit_file: Path, config: Config) -> None:
    same = (kit.federation_id, kit.chain_id, kit.registry.lower())
    if same != (config.federation_id, config.chain_id, config.registry_address.lower()):
        raise JoinError(f"{kit_file}: is for another federation than {config.path}")
    try:
        signer = kit.signer
    except RecordError as error:
        raise JoinError(f"{kit_file}: {error}") from None
    # the chain also checks that the contract there is of this federation
    if not Federation(Chain.connect(config)).is_member(signer):
        raise JoinError(
            f"{kit_file}: signed by {signer} or changed since, and {signer} is no active member; ask for it again"
        )


def _medprov(kit: StartKit, home: Path) -> Iterator[str]:
    """``medprov.toml`` of a new member."""
    yield "# Written by 'medprov-node join' from the start kit; docs/configuration.md describes every key."
    yield "[federation]"
    yield f'id = "0x{kit.federation_id.hex()}"'
    yield f"name = {toml_text(kit.federation_name)}"
    yield ""
    yield "[chain]"
    yield f"rpc = {toml_text(kit.rpc)}"
    yield f"chain_id = {kit.chain_id}"
    yield f'federation = "{kit.federation}"'
    yield f'registry = "{kit.registry}"'
    yield f"confirmations = {kit.confirmations}"
    yield ""
    yield "[store]"
    store = dict(kit.store)
    if store.get("kind") == "blocks" and not Path(str(store.get("path"))).is_dir():
        # the coordinator's folder is on another machine
        store["path"] = "blocks"
        (home / "blocks").mkdir(exist_ok=True)
    for name, value in store.items():
        yield f"{name} = {_toml(value)}"
    if kit.directory_key is not None:
        yield ""
        yield "[directory]"
        yield "discoverable = true"
        yield f'key = "0x{kit.directory_key.hex()}"'
    yield ""
    yield f"[hospitals.{toml_text(kit.name)}]"
    yield f'address = "{kit.address}"'
    yield f'keystore = "{KEYSTORE}"'
    yield f'password_file = "{PASSWORD}"'
    yield f'reader_key = "{READER}"'
    yield 'state = "marking"'


def _toml(value: str | int | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml_text, value))}]"
    return toml_text(value) if isinstance(value, str) else str(value)
