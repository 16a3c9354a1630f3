"""A proof file in place of chain and store, and what may be trusted without asking them.

The file's own consistency proves that the record's owner signed it and that it stands under the root. It cannot prove
that the root stands on the chain. For that the verifier takes one of two things that did not come with the file: a
checkpoint that enough members have signed, or an anchor that the caller has looked up and names. Without either, the
verdict is never more than ``unverifiable``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medprov_ledger import checkpoint as checkpoints
from medprov_ledger import eip712, model_package
from medprov_ledger.errors import ObjectError, RecordError, UnreachableError
from medprov_ledger.proof_file import Proof
from medprov_sdk.errors import SdkError
from medprov_sdk.verdict import Basis, Ledger, Verdict
from medprov_sdk.verification import Check, Claim, Offline, moment
from medprov_sdk.view import Found, Saying

if TYPE_CHECKING:
    from medprov_ledger.checkpoint import Anchored, Checkpoint
    from medprov_ledger.config import Config
    from medprov_ledger.record import Record

_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Home:
    """The federation that a verifier means, from a source of its own and not from the proof file.

    Parameters
    ----------
    domain : Domain
    federation_id : bytes
        32 bytes.
    names : mapping of str to str
        Members' names by their checksummed addresses, where they are known.
    members : frozenset of str
        Checksummed accounts whose signatures under a checkpoint count.
    threshold : int
        How many of them are needed.
    """

    domain: eip712.Domain
    federation_id: bytes
    names: Mapping[str, str] = field(default_factory=dict)
    members: frozenset[str] = frozenset()
    threshold: int = 0

    @classmethod
    def of(cls, config: Config) -> Home:
        """The federation of a configuration."""
        known = config.hospitals.values()
        return cls(
            domain=eip712.domain(config.chain_id, config.registry_address),
            federation_id=config.federation_id,
            names={eip712.address(one.address, "hospital"): one.name for one in known},
            members=frozenset(eip712.address(one, "trust.members") for one in config.trust.members),
            threshold=config.trust.threshold,
        )

    @classmethod
    def parse(cls, text: str) -> Home:
        """The federation of ``CHAIN_ID:REGISTRY:FEDERATION_ID``, as :meth:`spelled` writes it.

        Raises
        ------
        SdkError
        """
        chain_id, _, rest = text.partition(":")
        registry, _, federation_id = rest.partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,76}", chain_id, re.ASCII) or not _BYTES32.fullmatch(federation_id):
            raise SdkError(f"{text[:200]!r}: must be CHAIN_ID:REGISTRY:FEDERATION_ID, as 'medprov export' prints it")
        try:
            return cls(eip712.domain(int(chain_id), registry), bytes.fromhex(federation_id[2:]))
        except RecordError as error:
            raise SdkError(f"{text[:200]!r}: {error}") from None

    def spelled(self) -> str:
        """``CHAIN_ID:REGISTRY:FEDERATION_ID``."""
        return f"{self.domain.chain_id}:{self.domain.registry}:0x{self.federation_id.hex()}"


@dataclass(frozen=True)
class Trust:
    """What confirms anchors without the chain.

    Parameters
    ----------
    anchors : frozenset of (str, bytes)
        Owner and root, or owner and id of a record that was registered by itself, as the caller has looked them up.
    checkpoints : tuple of Checkpoint
        Signed by enough members.
    """

    anchors: frozenset[tuple[str, bytes]] = frozenset()
    checkpoints: tuple[Checkpoint, ...] = ()


def trust(home: Home, anchors: Iterable[str] = (), files: Iterable[Path] = ()) -> Trust:
    """Read what the caller trusts.

    Parameters
    ----------
    home : Home
    anchors : iterable of str
        ``OWNER:ROOT`` each.
    files : iterable of Path
        Checkpoints.

    Raises
    ------
    SdkError
        Malformed, of another federation, or signed by too few of the members that `home` knows.
    """
    return Trust(frozenset(_named(text) for text in anchors), tuple(_checkpoint(home, file) for file in files))


def _named(text: str) -> tuple[str, bytes]:
    owner, _, root = text.partition(":")
    try:
        if not _BYTES32.fullmatch(root):
            raise RecordError("the root must be 0x and 64 hexadecimal digits")
        return eip712.address(owner, "the owner"), bytes.fromhex(root[2:])
    except RecordError as error:
        raise SdkError(f"{text[:200]!r}: {error}; name an anchor as OWNER:ROOT") from None


def _checkpoint(home: Home, file: Path) -> Checkpoint:
    if not home.members:
        raise SdkError(f"{file}: nobody's signature counts; name members and threshold in [trust] of the configuration")
    try:
        found = checkpoints.read(file)
        _same_federation(home, found.domain, found.federation_id, str(file))
        found.accept(home.members, home.threshold)
        return found
    except RecordError as error:
        text = str(error)
        raise SdkError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def _same_federation(home: Home, domain: eip712.Domain, federation_id: bytes, what: str) -> None:
    if domain != home.domain:
        raise SdkError(
            f"{what}: is of chain {domain.chain_id} and registry {domain.registry}, not of chain "
            f"{home.domain.chain_id} and registry {home.domain.registry}; take the file of this federation"
        )
    if federation_id != home.federation_id:
        raise SdkError(f"{what}: is of another federation (0x{federation_id.hex()}); take the file of this one")


@dataclass(frozen=True)
class _Pin:
    """What confirms the anchor of a proof file."""

    basis: Basis
    sentence: str
    anchored: Anchored | None = None
    checkpoint: Checkpoint | None = None


class ProofView:
    """One proof file as a verifier sees it; see :class:`medprov_sdk.view.View`.

    Parameters
    ----------
    proof : Proof
    home : Home
    trusted : Trust
    name : str
        Of the file, for messages.

    Raises
    ------
    SdkError
        The file is of another federation, or contradicts what is trusted.
    """

    chain_trouble = ""
    left_out = 0

    def __init__(self, proof: Proof, home: Home, trusted: Trust, name: str = "proof file") -> None:
        _same_federation(home, proof.domain, proof.federation_id, name)
        self.proof, self.home, self.name = proof, home, name
        self.domain, self.federation_id = home.domain, home.federation_id
        self._pin = _pin(proof, trusted, name)

    def model_file(self, prefix: bytes) -> Path:
        """Weights file of a model that was fetched before.

        Raises
        ------
        ModelError
            It was not.
        """
        return model_package.find(prefix, None, None, model_package.folder())

    def versions(self) -> list[bytes]:
        """The model that the record names."""
        return [self.proof.record.model]

    @property
    def store(self) -> ProofView:
        """The file holds the one object that is asked for."""
        return self

    def get(self, name: str) -> bytes:
        """The sealed evidence.

        Raises
        ------
        UnreachableError
            The file does not hold it.
        """
        if self.proof.evidence is None:
            raise UnreachableError(f"{self.name}: holds no evidence; export it again where the store answers")
        if name != self.proof.record.evidence_cid:
            raise ObjectError(f"{self.name}: holds no object {name}")
        return self.proof.evidence

    def refresh(self) -> None:
        """Nothing is new in a file."""

    def find(self, record_key: bytes | None, released_hash: bytes) -> list[Found]:
        """The file's record, if it is of this record key or of this released picture."""
        record = self.proof.record
        return [self._found()] if released_hash == record.released_hash or record_key == record.key else []

    def _found(self) -> Found:
        record, stated, pinned = self.proof.record, self.proof.anchor, self._pin.anchored
        claim = Claim(
            owner=record.owner,
            member=self.home.names.get(record.owner),
            record_id="0x" + self.proof.record_id.hex(),
            record=record.to_json(),
            transaction="0x" + stated.transaction.hex() if stated.transaction is not None else None,
            block=pinned.block if pinned is not None else stated.block,
            time=pinned.time if pinned is not None else stated.time,
            manifest=self.proof.batch.manifest if self.proof.batch is not None else "",
        )
        return Found(record, claim, record.owner, self._pin.basis)

    def absence(self, read: bool) -> tuple[Ledger, Check]:
        """The file is about another picture; `read` tells whether there was a payload to compare."""
        detail = f"{self.name} is about the record 0x{self.proof.record_id.hex()}, which is of another picture"
        return Ledger.ANOTHER, Check("record found", False if read else None, detail)

    def payloads(self) -> list[bytes]:
        """None: a file holds no directory."""
        return []

    def remembered(self, record_key: bytes | None, released_hash: bytes) -> list[Record]:
        """None: nothing is kept between verifications."""
        return []

    def is_member(self, address: str) -> bool | None:
        """True for the accounts that the verifier knows by itself, None for all others."""
        return address in self.home.members or None

    def current_of(self, address: str) -> str:
        """The address itself: only the chain knows which keys were replaced."""
        return address

    def standing(self, found: Sequence[Found], released_hash: bytes, check: Saying) -> tuple[list[Found], Found | None]:
        """The record stands unless a checkpoint says that it was revoked."""
        known = self._pin.checkpoint
        if not found or known is None:
            return list(found), None
        if self.proof.record_id in known.revoked:
            check("record stands", False, f"{found[0].claim.record_id} was revoked by block {known.block}")
            return [], found[0]
        check("record stands", True, f"not revoked up to block {known.block} of {moment(known.time)}")
        return list(found), None

    def describe(self, found: Found) -> Check:
        """The check that the record's anchor stands for."""
        return Check("record anchored", None if self._pin.basis is Basis.FILE else True, self._pin.sentence)

    def conclude(self, found: Found | None, if_anchored: Verdict) -> Offline | None:
        """What the verdict rests on, what the file alone says, and what only the chain could tell."""
        if found is None:
            return None
        return Offline(self._pin.sentence, if_anchored, self._stated(), self._not_known())

    def _stated(self) -> dict[str, Any]:
        anchor = self.proof.anchor
        stated: dict[str, Any] = {} if self._pin.anchored is not None else {"block": anchor.block, "time": anchor.time}
        stated["block_hash"] = "0x" + anchor.block_hash.hex()
        stated["transaction"] = "0x" + anchor.transaction.hex() if anchor.transaction is not None else None
        stated["members"] = list(anchor.members)
        if self.proof.batch is not None:
            stated |= {"count": self.proof.batch.count, "manifest": self.proof.batch.manifest}
        return stated

    def _not_known(self) -> tuple[str, ...]:
        known, lines = self._pin.checkpoint, []
        if self._pin.basis is Basis.FILE:
            lines.append("whether the chain holds this anchor, and whether its owner was a member then")
        since = f"after block {known.block}" if known is not None else "since"
        lines.append(f"whether the owner has revoked the record {since}")
        lines.append("whether the record has passed to another owner, or the owner to another key")
        lines.append("whether another member has anchored a record of this picture, and who was first")
        return tuple(lines)


def _pin(proof: Proof, trusted: Trust, name: str) -> _Pin:
    """The strongest thing that confirms the file's anchor; a checkpoint tells more than a name."""
    owner, root, stated = proof.record.owner, proof.anchored, proof.anchor
    for one in sorted(trusted.checkpoints, key=lambda known: -known.block):
        anchored = one.anchor(owner, root)
        if anchored is None and one.block < stated.block:
            continue
        if anchored is None:
            raise SdkError(
                f"{name}: states an anchor of {owner} in block {stated.block}, but the checkpoint of block "
                f"{one.block} knows none with this root; do not trust this file"
            )
        if (anchored.block, anchored.time) != (stated.block, stated.time):
            raise SdkError(
                f"{name}: states the anchor's block {stated.block} and time {stated.time}, the checkpoint of block "
                f"{one.block} says {anchored.block} and {anchored.time}; do not trust this file"
            )
        sentence = f"anchored by {owner} in block {anchored.block}, says the checkpoint of block {one.block}"
        return _Pin(Basis.CHECKPOINT, sentence, anchored, one)
    if (owner, root) in trusted.anchors:
        sentence = (
            f"who asks has named the anchor of {owner} with the root 0x{root.hex()}; block and time are the file's"
        )
        return _Pin(Basis.NAMED, sentence)
    sentence = f"the file states an anchor of {owner} in block {stated.block} with the root 0x{root.hex()}; "
    late = f"no checkpoint reaches block {stated.block}" if trusted.checkpoints else "nothing trusted confirms it"
    return _Pin(Basis.FILE, sentence + late)
