"""Hospitals come and go: node keys at the SuperLink, votes on the chain, start kits, releases of the app bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medprov_coordinator.deployment import bundle, files
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.deployment.control import SuperLink
from medprov_coordinator.errors import EnrolmentError, UnreleasedError
from medprov_ledger import rpc_address
from medprov_ledger.chain import Chain
from medprov_ledger.config import StoreConfig
from medprov_ledger.enrolment import JoinRequest, StartKit, sign
from medprov_ledger.errors import RevertedError
from medprov_ledger.federation import Federation, Member, Status, name_hash
from medprov_ledger.keys import load_signer
from medprov_ledger.store import open_store


@dataclass(frozen=True)
class Enrolled:
    """What :func:`enroll` did.

    Parameters
    ----------
    kit : StartKit
    member : bool
        Whether the hospital is a member now; otherwise more members have to vote.
    voted : bool
        Whether this coordinator's hospital has voted now.
    threshold : int
        How many votes it takes.
    """

    kit: StartKit
    member: bool
    voted: bool
    threshold: int


@dataclass(frozen=True)
class Revoked:
    """What :func:`revoke` did.

    Parameters
    ----------
    name : str
    address : str or None
        None where the hospital was no member.
    nodes : tuple of int
        Nodes that the SuperLink lets in no more.
    suspended : bool
        Whether the federation has suspended it; otherwise more members have to vote.
    threshold : int
    """

    name: str
    address: str | None
    nodes: tuple[int, ...]
    suspended: bool
    threshold: int


def enroll(deployment: Deployment, request_file: Path, out: Path) -> Enrolled:
    """Let a hospital in: its node at the SuperLink, a vote for it on the chain, a start kit for it.

    Doing it again gives the same node number and casts no second vote.

    Raises
    ------
    EnrolmentError
        This hospital is no member, the other was suspended or has left, or name and account belong to two.
    RecordError
        The request is malformed or was changed.
    SuperLinkError, ChainError, ConfigError, SettingsError
    """
    request = JoinRequest.read(request_file)
    ledger = deployment.ledger
    federation = Federation(Chain.connect(ledger))
    signer = load_signer(deployment.hospital)
    _check_own(federation, deployment)
    found = federation.member(request.address)
    if found is not None and found.status is not Status.ACTIVE:
        raise EnrolmentError(
            f"{request_file}: {request.address} is {found.status.name.lower()} in the federation; the members must "
            "vote for it first ('medprov-node vote resume', or 'join' with a new account)"
        )
    if found is not None and found.name_hash != name_hash(request.name):
        raise EnrolmentError(f"{request_file}: {request.address} is a member under another name than {request.name}")
    if not deployment.rpc:
        raise EnrolmentError(
            f"{deployment.path}: the coordinator's own chain.rpc may hold a key, which no start kit may tell; name the "
            "address for members as superlink.rpc"
        )
    if any(rpc_address.shown(daemon) != daemon.rstrip("/") for daemon in ledger.store.daemons):
        raise EnrolmentError(f"{ledger.path}: the store's address may hold a key, which no start kit may tell")
    link = SuperLink(deployment)
    try:
        number = link.register(request.name, request.node_key)
    finally:
        link.close()
    voted = False
    if found is None:
        try:
            federation.join(request.address, request.name, request.reader_key, signer)
            voted = True
        except RevertedError as error:
            if error.error != "AlreadyVoted":
                raise
    kit = sign(
        StartKit(
            federation_id=ledger.federation_id,
            federation_name=ledger.federation_name,
            name=request.name,
            address=request.address,
            node_id=number,
            superlink=deployment.address,
            ca=_read(deployment.ca),
            rpc=deployment.rpc,
            chain_id=ledger.chain_id,
            federation=ledger.federation_address,
            registry=ledger.registry_address,
            confirmations=ledger.confirmations,
            store=_store(ledger.store),
            directory_key=ledger.directory_key if ledger.discoverable else None,
            app=bundle.bundle_hash(),
        ),
        signer,
    )
    try:
        files.write(out, kit.to_bytes())
    except OSError as error:
        raise EnrolmentError(f"{out}: cannot be written ({error.strerror}); run the same command again") from None
    return Enrolled(kit, federation.is_member(request.address), voted, federation.threshold())


def revoke(deployment: Deployment, who: str) -> Revoked:
    """Shut a hospital out at run time: its node is cut off, and this hospital votes to suspend it.

    Parameters
    ----------
    deployment : Deployment
    who : str
        Name or account.

    Raises
    ------
    EnrolmentError
        Nobody of that name or account, or it is this coordinator's own hospital.
    SuperLinkError, ChainError, ConfigError
    """
    federation = Federation(Chain.connect(deployment.ledger))
    member = _find(federation, who)
    if member is not None and member.address.lower() == deployment.hospital.address.lower():
        raise EnrolmentError(f"{who}: is this coordinator's own hospital; another member has to revoke it")
    wanted = name_hash(who) if member is None else member.name_hash
    link = SuperLink(deployment)
    try:
        nodes = [node for node in link.nodes() if name_hash(node.name) == wanted]
        if member is None and not nodes:
            raise EnrolmentError(f"{who}: no member and no enrolled node of that name or account")
        for node in nodes:
            link.unregister(node.number)
    finally:
        link.close()
    if member is not None and member.status is Status.ACTIVE:
        try:
            federation.suspend(member.address, load_signer(deployment.hospital))
        except RevertedError as error:
            if error.error != "AlreadyVoted":
                raise EnrolmentError(f"{who}: its node is shut out, but the vote was not cast: {error}") from None
    address = None if member is None else member.address
    return Revoked(
        name=nodes[0].name if nodes else who,
        address=address,
        nodes=tuple(node.number for node in nodes),
        suspended=address is None or not federation.is_member(address),
        threshold=federation.threshold(),
    )


def approve(deployment: Deployment) -> bool:
    """Approve this installation's app bundle with the accounts whose keys are here, until it is released.

    Returns
    -------
    bool
        Whether it is released now; otherwise other members have to approve it.

    Raises
    ------
    ChainError, ConfigError, StoreError, SettingsError
    """
    federation = Federation(Chain.connect(deployment.ledger))
    wanted = bundle.bundle_hash()
    if federation.is_app_released(wanted):
        return True
    open_store(deployment.ledger).put(bundle.build())
    own = deployment.hospital.name
    for house in sorted(deployment.ledger.hospitals.values(), key=lambda house: house.name != own):
        try:
            federation.release_app(wanted, load_signer(house))
        except RevertedError as error:
            if error.error not in ("AlreadyVoted", "NotMember"):
                raise
        if federation.is_app_released(wanted):
            return True
    return False


def check_ready(deployment: Deployment) -> Federation:
    """Check that this coordinator may run: its hospital is a member and its bundle is released.

    Raises
    ------
    EnrolmentError, UnreleasedError, ChainError, SettingsError
    """
    federation = Federation(Chain.connect(deployment.ledger))
    _check_own(federation, deployment)
    wanted = bundle.bundle_hash()
    if not federation.is_app_released(wanted):
        raise UnreleasedError(
            f"app bundle 0x{wanted.hex()}: the members have not released it, so no site would run it; approve it with "
            f"'medprov-coordinator bundle --approve --config {deployment.path}', and others with 'medprov-node "
            f"approve-app' ({federation.threshold()} needed)"
        )
    return federation


def _check_own(federation: Federation, deployment: Deployment) -> None:
    house = deployment.hospital
    if not federation.is_member(house.address):
        raise EnrolmentError(
            f"{house.name} ({house.address}): is no active member of the federation, so it cannot coordinate it; name "
            f"another in {deployment.path} under coordinator.hospital"
        )


def _find(federation: Federation, who: str) -> Member | None:
    members: Sequence[Member] = federation.members(former=True)
    for member in members:
        if member.address.lower() == who.lower() or member.name_hash == name_hash(who):
            return member
    return None


def _store(store: StoreConfig) -> dict[str, str | int | list[str]]:
    if store.path is not None:
        return {"kind": store.kind, "path": str(store.path.resolve())}
    if len(store.daemons) == 1:
        return {"kind": store.kind, "api": store.daemons[0]}
    return {"kind": store.kind, "apis": list(store.daemons), "copies": store.copies}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError as error:
        raise EnrolmentError(
            f"{file}: cannot be read ({error.strerror}); start 'medprov-coordinator up' first"
        ) from None
