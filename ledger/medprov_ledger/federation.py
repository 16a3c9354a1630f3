"""The Python face of ``Federation``: members, votes, rounds and released models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from eth_abi.abi import encode
from eth_utils.crypto import keccak
from web3 import Web3

from .chain import Account, Chain, Receipt
from .cid import RAW, Cid, parse
from .errors import ModelError, RecordError

ZERO_ADDRESS = "0x" + "00" * 20


class Kind(IntEnum):
    """What members vote on; the order is the contract's."""

    JOIN = 0
    LEAVE = 1
    SUSPEND = 2
    RESUME = 3
    THRESHOLD = 4
    ROTATE = 5
    PAUSE = 6
    UNPAUSE = 7


class Status(IntEnum):
    """A member's standing; the order is the contract's."""

    NONE = 0
    ACTIVE = 1
    SUSPENDED = 2
    LEFT = 3
    ROTATED = 4


@dataclass(frozen=True)
class Member:
    """A hospital that is or was in the federation.

    Parameters
    ----------
    address : str
    name_hash : bytes
        32 bytes, see :func:`name_hash`.
    reader_key : bytes
        32 bytes, X25519 public key.
    status : Status
    joined_block : int
    """

    address: str
    name_hash: bytes
    reader_key: bytes
    status: Status
    joined_block: int


@dataclass(frozen=True)
class Round:
    """An anchored training round.

    Parameters
    ----------
    number : int
        From 1.
    model_hash : bytes
        32 bytes, SHA-256 of the aggregated weights.
    cid : str
        Where the weights are.
    updates_root : bytes
        32 bytes, Merkle root of the participants' update hashes.
    metrics_hash : bytes
        32 bytes.
    by : str
        The member that anchored it.
    block, time : int
        Time is in seconds since 1970.
    """

    number: int
    model_hash: bytes
    cid: str
    updates_root: bytes
    metrics_hash: bytes
    by: str
    block: int
    time: int


@dataclass(frozen=True)
class ReleasedModel:
    """A set of weights that the members approved for marking, at some time.

    Parameters
    ----------
    model_hash : bytes
        32 bytes, SHA-256 of the weights file.
    cid : str
    block, time : int
        Time is in seconds since 1970.
    """

    model_hash: bytes
    cid: str
    block: int
    time: int


def name_hash(name: str) -> bytes:
    """32 bytes that stand for a hospital's name on the chain: Keccak-256 of its UTF-8."""
    return keccak(text=name)


class Federation:
    """Reads and changes the federation.

    Parameters
    ----------
    chain : Chain
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.contract = chain.federation

    @property
    def address(self) -> str:
        """The contract's checksummed address."""
        return str(self.contract.address)

    def is_member(self, address: str, block: int | None = None) -> bool:
        """Whether `address` is an active member, now or at the end of `block`."""
        account = Web3.to_checksum_address(address)
        functions = self.contract.functions
        function = functions.isMember(account) if block is None else functions.isMemberAt(account, block)
        return bool(self.chain.call(function))

    def member(self, address: str) -> Member | None:
        """One member, of any standing; None for a stranger."""
        found = _member(self.chain.call(self.contract.functions.member(Web3.to_checksum_address(address))))
        return None if found.status is Status.NONE else found

    def members(self, *, former: bool = False) -> list[Member]:
        """The members in the order of joining.

        Parameters
        ----------
        former : bool
            True includes suspended members, those that left, and accounts that members no longer use.
        """
        count = self.chain.call(self.contract.functions.memberCount())
        found = [_member(self.chain.call(self.contract.functions.memberByIndex(index))) for index in range(count)]
        return [member for member in found if former or member.status is Status.ACTIVE]

    def threshold(self) -> int:
        """k: how many active members must agree."""
        return int(self.chain.call(self.contract.functions.threshold()))

    def vote(self, kind: Kind, address: str, data: bytes, account: Account) -> Receipt:
        """Cast one member's vote; the k-th equal vote carries the motion out.

        Votes count until any motion is carried: after that, open motions must be voted on anew.

        Raises
        ------
        RevertedError
            ``NotMember``, ``AlreadyVoted``, or why the motion makes no sense (``AlreadyMember``, ``NameTaken``,
            ``WrongStatus``, ``BadThreshold``, ``AccountUsed``, ``PauseUnchanged``, ``BadMotion``).
        """
        return self.chain.send(
            self.contract.functions.vote(int(kind), Web3.to_checksum_address(address), data), account
        )

    def join(self, address: str, name: str, reader_key: bytes, account: Account) -> Receipt:
        """Vote that a hospital joins; see :meth:`vote`.

        Parameters
        ----------
        address : str
            The hospital's account.
        name : str
            Its name; only the hash goes on the chain.
        reader_key : bytes
            32 bytes, X25519 public key.
        account : LocalAccount or Signer
            The voting member's.
        """
        return self.vote(Kind.JOIN, address, encode(["bytes32", "bytes32"], [name_hash(name), reader_key]), account)

    def leave(self, address: str, account: Account) -> Receipt:
        """Vote that a member leaves; see :meth:`vote`."""
        return self.vote(Kind.LEAVE, address, b"", account)

    def suspend(self, address: str, account: Account) -> Receipt:
        """Vote that a member is suspended; see :meth:`vote`."""
        return self.vote(Kind.SUSPEND, address, b"", account)

    def resume(self, address: str, account: Account) -> Receipt:
        """Vote that a suspended member is active again; see :meth:`vote`."""
        return self.vote(Kind.RESUME, address, b"", account)

    def set_threshold(self, k: int, account: Account) -> Receipt:
        """Vote for another k; see :meth:`vote`."""
        return self.vote(Kind.THRESHOLD, ZERO_ADDRESS, encode(["uint256"], [k]), account)

    def replace_key(self, address: str, following: str, account: Account) -> Receipt:
        """Vote that a member that has lost its key goes on as `following`; see :meth:`vote`."""
        data = encode(["address"], [Web3.to_checksum_address(following)])
        return self.vote(Kind.ROTATE, address, data, account)

    def pause(self, account: Account) -> Receipt:
        """Vote that nobody writes, here and in the registry; see :meth:`vote`."""
        return self.vote(Kind.PAUSE, ZERO_ADDRESS, b"", account)

    def unpause(self, account: Account) -> Receipt:
        """Vote that members may write again; see :meth:`vote`."""
        return self.vote(Kind.UNPAUSE, ZERO_ADDRESS, b"", account)

    def paused(self) -> bool:
        """Whether all writing is paused."""
        return bool(self.chain.call(self.contract.functions.paused()))

    def offer_key(self, following: str | None, account: Account) -> Receipt:
        """Offer to go on with another account, which must accept; None takes the offer back.

        Raises
        ------
        RevertedError
            ``NotMember``, ``AccountUsed`` (it is or was a member's).
        """
        return self.chain.send(
            self.contract.functions.offerKey(Web3.to_checksum_address(following or ZERO_ADDRESS)), account
        )

    def accept_key(self, former: str, account: Account) -> Receipt:
        """Go on with `account` as the member that was `former` so far; records stay with the key that signed them.

        Raises
        ------
        RevertedError
            ``NotOffered``, ``NotMember``, ``AccountUsed``.
        """
        return self.chain.send(self.contract.functions.acceptKey(Web3.to_checksum_address(former)), account)

    def current_of(self, address: str) -> str:
        """The account with which a member goes on; `address` itself where it was never rotated."""
        return str(self.chain.call(self.contract.functions.currentOf(Web3.to_checksum_address(address))))

    def set_reader_key(self, reader_key: bytes, account: Account) -> Receipt:
        """Replace the calling member's own X25519 public key (32 bytes)."""
        return self.chain.send(self.contract.functions.setReaderKey(reader_key), account)

    def anchor_round(
        self, number: int, model_hash: bytes, cid: str, updates_root: bytes, metrics_hash: bytes, account: Account
    ) -> Receipt:
        """Anchor a finished round.

        Parameters
        ----------
        number : int
            The last one's number plus one; 1 for the first.
        model_hash : bytes
            32 bytes, SHA-256 of the aggregated weights.
        cid : str
            Where the weights are.
        updates_root, metrics_hash : bytes
            32 bytes each.
        account : LocalAccount or Signer
            A member's.

        Raises
        ------
        RevertedError
            ``NotMember``, ``Paused``, ``RoundNotNext``, ``ZeroHash``, ``BadCid``.
        """
        return self.chain.send(
            self.contract.functions.anchorRound(number, model_hash, cid, updates_root, metrics_hash), account
        )

    def last_round(self) -> Round | None:
        """The newest anchored round; None before the first."""
        number = self.chain.call(self.contract.functions.lastRound())
        return self.round(number) if number else None

    def round(self, number: int) -> Round | None:
        """An anchored round; None where there is none of this number."""
        found = self.chain.call(self.contract.functions.round(number))
        model_hash, updates_root, metrics_hash, by, block, time, cid = found
        return Round(number, model_hash, cid, updates_root, metrics_hash, by, block, time) if block else None

    def rounds(self, from_block: int = 0) -> list[Round]:
        """All confirmed rounds since a block, oldest first."""
        last = self.chain.confirmed_head()
        return [
            Round(
                number=log["args"]["number"],
                model_hash=bytes(log["args"]["modelHash"]),
                cid=log["args"]["cid"],
                updates_root=bytes(log["args"]["updatesRoot"]),
                metrics_hash=bytes(log["args"]["metricsHash"]),
                by=log["args"]["by"],
                block=log["blockNumber"],
                time=log["args"]["time"],
            )
            for log in self.chain.events(self.contract.events.RoundAnchored, from_block, last)
        ]

    def release_model(self, model_hash: bytes, cid: str, account: Account) -> Receipt:
        """Approve a model version for marking; the k-th approval of the same hash and CID releases it.

        Parameters
        ----------
        model_hash : bytes
            32 bytes, SHA-256 of the weights file.
        cid : str
            Where the weights are.
        account : LocalAccount or Signer
            A member's.

        Raises
        ------
        RevertedError
            ``NotMember``, ``Paused``, ``AlreadyVoted``, ``AlreadyReleased``, ``ZeroHash``, ``BadCid``.
        """
        return self.chain.send(self.contract.functions.releaseModel(model_hash, cid), account)

    def is_released(self, model_hash: bytes) -> bool:
        """Whether k members approved these weights (32 bytes, SHA-256)."""
        return bool(self.chain.call(self.contract.functions.isReleased(model_hash)))

    def release_app(self, bundle_hash: bytes, account: Account) -> Receipt:
        """Approve an app bundle for the training; the k-th approval of the same hash releases it.

        The contract keeps it beside the models, under a hash that no model can have.

        Parameters
        ----------
        bundle_hash : bytes
            32 bytes, SHA-256 of the bundle.
        account : LocalAccount or Signer
            A member's.

        Raises
        ------
        RevertedError
            As :meth:`release_model`.
        """
        return self.release_model(_app(bundle_hash), str(Cid(RAW, bundle_hash)), account)

    def is_app_released(self, bundle_hash: bytes) -> bool:
        """Whether k members approved this bundle (32 bytes, SHA-256) and did not withdraw it."""
        return self.is_usable(_app(bundle_hash))

    def withdraw_app(self, bundle_hash: bytes, account: Account) -> Receipt:
        """Approve that sites run a bundle no more; see :meth:`withdraw_model`."""
        return self._change(_app(bundle_hash), False, account)

    def released_models(self, from_block: int = 0) -> list[ReleasedModel]:
        """All confirmed released models since a block, oldest first, the withdrawn ones too."""
        last = self.chain.confirmed_head()
        found = [
            ReleasedModel(bytes(log["args"]["modelHash"]), log["args"]["cid"], log["blockNumber"], log["args"]["time"])
            for log in self.chain.events(self.contract.events.ModelReleased, from_block, last)
        ]
        return [one for one in found if not _derived(one.model_hash, one.cid)]

    def withdraw_model(self, model_hash: bytes, account: Account) -> Receipt:
        """Approve that a released model marks no more; what it has marked stays good. The k-th approval counts.

        Parameters
        ----------
        model_hash : bytes
            32 bytes, SHA-256 of the weights file.
        account : LocalAccount or Signer
            A member's.

        Raises
        ------
        RevertedError
            As :meth:`release_model`.
        ModelError
            It is not in use.
        """
        return self._change(model_hash, False, account)

    def reinstate_model(self, model_hash: bytes, account: Account) -> Receipt:
        """Approve that a withdrawn model marks again; see :meth:`withdraw_model`."""
        return self._change(model_hash, True, account)

    def is_usable(self, model_hash: bytes) -> bool:
        """Whether a model (32 bytes, SHA-256) is released and not withdrawn."""
        return self.is_released(model_hash) and self._changes(model_hash) % 2 == 0

    def active_model(self) -> ReleasedModel | None:
        """The newest released model that is not withdrawn; None where there is none."""
        usable = (one for one in reversed(self.released_models()) if self._changes(one.model_hash) % 2 == 0)
        return next(usable, None)

    def _changes(self, model_hash: bytes) -> int:
        """How often a released model was withdrawn and reinstated."""
        count = 0
        while self.is_released(_standing(model_hash, count + 1)):
            count += 1
        return count

    def _change(self, model_hash: bytes, usable: bool, account: Account) -> Receipt:
        if not self.is_released(model_hash):
            raise ModelError(f"model {model_hash.hex()}: was never released here")
        count = self._changes(model_hash)
        if count == MOST_CHANGES:
            raise ModelError(f"model {model_hash.hex()}: its standing has changed {count} times; release another model")
        if (count % 2 == 0) == usable:
            raise ModelError(f"model {model_hash.hex()}: is {'in use' if usable else 'withdrawn'} already")
        return self.release_model(_standing(model_hash, count + 1), str(Cid(RAW, model_hash)), account)


MOST_CHANGES = 64
"""Withdrawals and reinstatements of one model that :meth:`Federation.released_models` tells from models."""


def _app(bundle_hash: bytes) -> bytes:
    return keccak(b"medprov app bundle" + bundle_hash)


def _standing(model_hash: bytes, number: int) -> bytes:
    """What is approved for a model's n-th change of standing: odd ones withdraw it, even ones reinstate it."""
    return keccak(b"medprov model standing" + model_hash + number.to_bytes(8, "big"))


def _derived(approved: bytes, cid: str) -> bool:
    """Whether an approved hash stands for an app bundle or a change of standing, whose CID names what it is about."""
    try:
        about = parse(cid).digest
    except RecordError:
        return False
    return approved == _app(about) or any(approved == _standing(about, n) for n in range(1, MOST_CHANGES + 1))


def _member(fields: tuple[str, bytes, bytes, int, int]) -> Member:
    account, name, reader_key, status, joined_block = fields
    return Member(account, name, reader_key, Status(status), joined_block)
