"""A member's votes on other members, and its approvals of app bundles."""

from __future__ import annotations

from pathlib import Path

from medprov_ledger.chain import Chain
from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.enrolment import JoinRequest
from medprov_ledger.errors import RevertedError
from medprov_ledger.federation import Federation, name_hash
from medprov_ledger.keys import load_signer
from medprov_node.errors import JoinError

MOTIONS = ("join", "leave", "suspend", "resume")


def vote(motion: str, whom: str, hospital: HospitalConfig, config: Config) -> tuple[str, bool, int]:
    """Cast this hospital's vote.

    Parameters
    ----------
    motion : str
        One of :data:`MOTIONS`.
    whom : str
        ``join`` takes the file of the hospital's request, the others a member's account or name.
    hospital : HospitalConfig
        Who votes.
    config : Config

    Returns
    -------
    address : str
        Whom it is about.
    carried : bool
        Whether this vote decided it.
    threshold : int
        How many votes it takes.

    Raises
    ------
    JoinError, RecordError, ChainError, ConfigError
    """
    federation = Federation(Chain.connect(config))
    signer = load_signer(hospital)
    if motion == "join":
        request = JoinRequest.read(Path(whom))
        address = request.address
        before = federation.is_member(address)
        federation.join(address, request.name, request.reader_key, signer)
    else:
        address = _address(federation, whom)
        before = federation.is_member(address)
        {"leave": federation.leave, "suspend": federation.suspend, "resume": federation.resume}[motion](address, signer)
    return address, federation.is_member(address) != before, federation.threshold()


def approve_app(text: str, hospital: HospitalConfig, config: Config) -> tuple[bool, int]:
    """Approve an app bundle.

    Returns
    -------
    released : bool
        Whether it is released now.
    threshold : int

    Raises
    ------
    JoinError, ChainError, ConfigError
    """
    try:
        wanted = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        wanted = b""
    if len(wanted) != 32:
        raise JoinError(f"{text[:80]}: is no hash of a bundle; 0x and 64 hexadecimal digits are needed")
    federation = Federation(Chain.connect(config))
    try:
        if not federation.is_app_released(wanted):
            federation.release_app(wanted, load_signer(hospital))
    except RevertedError as error:
        if error.error != "AlreadyVoted":
            raise
    return federation.is_app_released(wanted), federation.threshold()


def _address(federation: Federation, whom: str) -> str:
    for member in federation.members(former=True):
        if member.address.lower() == whom.lower() or member.name_hash == name_hash(whom):
            return member.address
    raise JoinError(f"{whom[:80]}: no member of that account or name")
