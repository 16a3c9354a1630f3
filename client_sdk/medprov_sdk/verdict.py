"""The verdict: a pure function of what was found.

:func:`decide` takes only enumerations, asks nobody and cannot fail, so every combination of findings can be tested.
Its rules stand in one order; the first that fits wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a verification says about the pixels; the header is compared apart (:mod:`medprov_sdk.metadata`)."""

    REVOKED = "revoked"
    CONFLICTING_CLAIMS = "conflicting_claims"
    AUTHENTIC = "authentic"
    TAMPERED = "tampered"
    COPIED_MARK = "copied_mark"
    AUTHENTIC_DERIVED = "authentic_derived"
    UNVERIFIABLE = "unverifiable"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        """Exit code of the command line for this verdict."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.AUTHENTIC: 0,
    Verdict.AUTHENTIC_DERIVED: 10,
    Verdict.TAMPERED: 20,
    Verdict.COPIED_MARK: 21,
    Verdict.CONFLICTING_CLAIMS: 22,
    Verdict.REVOKED: 23,
    Verdict.UNVERIFIABLE: 24,
    Verdict.UNKNOWN: 25,
}

_SENTENCES = {
    Verdict.AUTHENTIC: "Every pixel is exactly as its owner released it. "
    "This is about the pixels alone; what the file says beside them is compared apart, as metadata.",
    Verdict.AUTHENTIC_DERIVED: "The picture comes from the recorded one and was processed on the way; "
    "no clear change of its content larger than about 1/10 of its side was found.",
    Verdict.TAMPERED: "The picture comes from the recorded one, but parts of its content have changed.",
    Verdict.COPIED_MARK: "The picture carries the mark of a recorded picture, but shows something else.",
    Verdict.CONFLICTING_CLAIMS: "More than one owner claims this picture; the earlier anchor has precedence.",
    Verdict.REVOKED: "The owner has revoked the record of this picture.",
    Verdict.UNVERIFIABLE: "The picture carries a mark, but its record could not be confirmed.",
    Verdict.UNKNOWN: "No mark and no record was found; this says nothing about where the picture comes from.",
}


class Reason(Enum):
    """Why the verdict is what it is; a stable code for programs, and its sentence."""

    RECORD_REVOKED = "record_revoked"
    SEVERAL_OWNERS = "several_owners"
    SIGNED_AND_ANCHORED = "signed_and_anchored"
    RELEASED_HASH = "released_hash"
    BLOCKS_DIFFER = "blocks_differ"
    CONTENT_DIFFERS_IN_PART = "content_differs_in_part"
    CONTENT_DIFFERS = "content_differs"
    TURNED_PIXELS_EXACT = "turned_pixels_exact"
    CONTENT_AGREES = "content_agrees"
    CONTENT_NOT_COMPARED = "content_not_compared"
    FOREIGN_SIGNATURE = "foreign_signature"
    NO_SIGNATURE = "no_signature"
    RECORD_MISMATCH = "record_mismatch"
    NO_RECORD = "no_record"
    CHAIN_UNREACHABLE = "chain_unreachable"
    STORE_UNREACHABLE = "store_unreachable"
    EVIDENCE_UNREACHABLE = "evidence_unreachable"
    EVIDENCE_UNREADABLE = "evidence_unreadable"
    ANCHOR_AS_STATED = "anchor_as_stated"
    PROOF_OF_ANOTHER = "proof_of_another"
    MARK_UNREADABLE = "mark_unreadable"
    NOTHING_FOUND = "nothing_found"

    @property
    def sentence(self) -> str:
        """The reason in one sentence."""
        return _REASONS[self]


_REASONS = {
    Reason.RECORD_REVOKED: "the record was found and is revoked",
    Reason.SEVERAL_OWNERS: "two or more members have anchored records of this picture",
    Reason.SIGNED_AND_ANCHORED: "the integrity mark is intact, a member signed it, and the record is anchored",
    Reason.RELEASED_HASH: "the integrity mark is intact and the picture is exactly the one in the anchored record; "
    "the integrity mark has no signature of its own that could be checked",
    Reason.BLOCKS_DIFFER: "some blocks are exactly as released and others are not",
    Reason.CONTENT_DIFFERS_IN_PART: "the content differs from the released picture in some places",
    Reason.CONTENT_DIFFERS: "the content differs from the released picture in half of the compared area or more, "
    "or has vanished from it",
    Reason.TURNED_PIXELS_EXACT: "turned or mirrored, pixels exact",
    Reason.CONTENT_AGREES: "the pixels were processed (for example recompressed, resized or cut out), "
    "what is shown agrees; after that, changes smaller than about 1/10 of the side and faint ones may go unseen",
    Reason.CONTENT_NOT_COMPARED: "the mark leads to an anchored record; content not compared, "
    "because too little of it is comparable",
    Reason.FOREIGN_SIGNATURE: "the integrity mark is intact, but nobody who was a member then has signed it",
    Reason.NO_SIGNATURE: "the integrity mark is intact, but carries no signature",
    Reason.RECORD_MISMATCH: "a record was found, but it belongs to another picture or signer",
    Reason.NO_RECORD: "a mark was read, but no confirmed record belongs to it",
    Reason.CHAIN_UNREACHABLE: "the chain could not be asked",
    Reason.STORE_UNREACHABLE: "the chain was asked, but not all records could be fetched from the store",
    Reason.EVIDENCE_UNREACHABLE: "the record is anchored, but its evidence could not be fetched from the store",
    Reason.EVIDENCE_UNREADABLE: "the record is anchored, but its evidence cannot be opened",
    Reason.ANCHOR_AS_STATED: "everything but the anchor was checked; that the record is anchored is the proof file's "
    "own word, and nothing that this verifier trusts confirms it",
    Reason.PROOF_OF_ANOTHER: "a mark was read, but the proof file is about another picture",
    Reason.MARK_UNREADABLE: "a mark is there, but too weak to read whose it is",
    Reason.NOTHING_FOUND: "neither mark nor record was found",
}


_SENTENCES_BY_REASON = {
    Reason.TURNED_PIXELS_EXACT: "The picture is the recorded one, turned or mirrored; no pixel has changed. "
    "This is about the pixels alone; what the file says beside them is compared apart, as metadata.",
    Reason.CONTENT_NOT_COMPARED: "The picture carries the mark of the recorded one; "
    "whether it shows the same content was not compared.",
}


def sentence(verdict: Verdict, reason: Reason) -> str:
    """A verdict in one or two sentences for a reader who knows nothing of watermarks.

    Parameters
    ----------
    verdict : Verdict
    reason : Reason
        What :func:`decide` gave beside it.
    """
    return _SENTENCES_BY_REASON.get(reason, _SENTENCES[verdict])


class Basis(Enum):
    """What says that the record is anchored."""

    CHAIN = "chain"
    CHECKPOINT = "checkpoint"
    """A checkpoint that enough of the members whom the verifier knows have signed."""
    NAMED = "named_anchor"
    """Who asks has looked the anchor up and names it."""
    FILE = "proof_file"
    """The proof file alone, which anybody could have written."""


class Seal(Enum):
    """State of the integrity mark W2."""

    INTACT = "intact"
    TURNED = "turned"
    """Intact once a lossless quarter turn or mirroring is undone."""
    BROKEN = "broken"
    ABSENT = "absent"


class Mark(Enum):
    """State of the payload, whether it was read from W1 or from W2."""

    READ = "read"
    UNREADABLE = "unreadable"
    """The pilots are there, the payload is not."""
    ABSENT = "absent"


class Signer(Enum):
    """Who signed the integrity mark."""

    MEMBER = "member"
    FOREIGN = "foreign"
    NONE = "none"
    UNCHECKED = "unchecked"
    """There is a signature, but the members could not be asked."""


class Ledger(Enum):
    """What the ledger says about the payload and about the picture's hash."""

    CONFIRMED = "confirmed"
    NONE = "none"
    MISMATCH = "mismatch"
    CONFLICT = "conflict"
    REVOKED = "revoked"
    CHAIN_AWAY = "chain_away"
    STORE_AWAY = "store_away"
    ANOTHER = "another"
    """The proof file is about another picture."""


class Blocks(Enum):
    """Comparison with the exact grid."""

    EQUAL = "equal"
    MIXED = "mixed"
    NONE = "none"
    NOT_COMPARED = "not_compared"


class Content(Enum):
    """Comparison with the ordinal features."""

    AGREES = "agrees"
    DIFFERS_IN_PART = "differs_in_part"
    DIFFERS = "differs"
    TOO_LITTLE = "too_little"
    UNREACHABLE = "unreachable"
    UNREADABLE = "unreadable"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True)
class Findings:
    """All that the verdict depends on.

    Parameters
    ----------
    seal : Seal
    mark : Mark
    signer : Signer
    ledger : Ledger
    same_pixels : bool
        The picture's content hash (in the orientation in which the seal was found) is the record's released hash.
    blocks : Blocks
    content : Content
    basis : Basis
        What says that the record is anchored, where there is one.
    """

    seal: Seal = Seal.ABSENT
    mark: Mark = Mark.ABSENT
    signer: Signer = Signer.NONE
    ledger: Ledger = Ledger.NONE
    same_pixels: bool = False
    blocks: Blocks = Blocks.NOT_COMPARED
    content: Content = Content.NOT_COMPARED
    basis: Basis = Basis.CHAIN


def decide(found: Findings) -> tuple[Verdict, Reason]:
    """Verdict and reason of any combination of findings.

    An intact seal whose signature is a stranger's never gives ``authentic_derived``: somebody who is not a member
    has sealed these very pixels, and the verdict must not lend them a member's name.

    What rests on a proof file's own word is never more than ``unverifiable``, and neither is it ``tampered``: whoever
    can read a picture's mark could write a file that accuses it. The verdict that would follow from a true file is that
    of the same findings on another basis.
    """
    verdict, reason = _as_anchored(found)
    if found.basis is Basis.FILE and found.ledger in _FOUND and verdict is not Verdict.UNVERIFIABLE:
        return Verdict.UNVERIFIABLE, Reason.ANCHOR_AS_STATED
    return verdict, reason


def _as_anchored(found: Findings) -> tuple[Verdict, Reason]:
    """The rules where the records that were found are anchored."""
    sealed = found.seal in (Seal.INTACT, Seal.TURNED)
    if not sealed and found.mark is Mark.ABSENT and found.ledger not in _FOUND:
        return Verdict.UNKNOWN, Reason.NOTHING_FOUND
    if found.ledger is Ledger.REVOKED:
        return Verdict.REVOKED, Reason.RECORD_REVOKED
    if found.ledger is Ledger.CONFLICT:
        return Verdict.CONFLICTING_CLAIMS, Reason.SEVERAL_OWNERS
    if found.ledger is Ledger.CONFIRMED:
        return _confirmed(found, sealed)
    return Verdict.UNVERIFIABLE, _unconfirmed(found, sealed)


_FOUND = (Ledger.CONFIRMED, Ledger.CONFLICT, Ledger.REVOKED)


def _confirmed(found: Findings, sealed: bool) -> tuple[Verdict, Reason]:
    """The rules below `conflicting_claims`, where one confirmed record was found."""
    exact = sealed and found.same_pixels
    proof = None
    if exact and found.signer is Signer.MEMBER:
        proof = Reason.SIGNED_AND_ANCHORED
    elif exact and found.signer is Signer.NONE:
        proof = Reason.RELEASED_HASH
    if proof is not None:
        if found.seal is Seal.INTACT:
            return Verdict.AUTHENTIC, proof
        return Verdict.AUTHENTIC_DERIVED, Reason.TURNED_PIXELS_EXACT
    if found.blocks is Blocks.MIXED:
        return Verdict.TAMPERED, Reason.BLOCKS_DIFFER
    if found.content is Content.DIFFERS_IN_PART:
        return Verdict.TAMPERED, Reason.CONTENT_DIFFERS_IN_PART
    if found.content is Content.DIFFERS:
        return Verdict.COPIED_MARK, Reason.CONTENT_DIFFERS
    if sealed:
        if found.signer is Signer.UNCHECKED:
            return Verdict.UNVERIFIABLE, Reason.CHAIN_UNREACHABLE
        if found.signer is Signer.FOREIGN:
            return Verdict.UNVERIFIABLE, Reason.FOREIGN_SIGNATURE
        return Verdict.UNVERIFIABLE, Reason.RECORD_MISMATCH
    if found.blocks is Blocks.EQUAL or found.content is Content.AGREES:
        return Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_AGREES
    if found.content is Content.UNREACHABLE:
        return Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREACHABLE
    if found.content is Content.UNREADABLE:
        return Verdict.UNVERIFIABLE, Reason.EVIDENCE_UNREADABLE
    return Verdict.AUTHENTIC_DERIVED, Reason.CONTENT_NOT_COMPARED


def _unconfirmed(found: Findings, sealed: bool) -> Reason:
    """Why a mark without a confirmed record cannot be verified."""
    if not sealed and found.mark is not Mark.READ:
        return Reason.MARK_UNREADABLE
    if sealed and found.signer is Signer.FOREIGN:
        return Reason.FOREIGN_SIGNATURE
    if found.ledger is Ledger.ANOTHER:
        return Reason.PROOF_OF_ANOTHER
    if found.ledger is Ledger.CHAIN_AWAY:
        return Reason.CHAIN_UNREACHABLE
    if found.ledger is Ledger.STORE_AWAY:
        return Reason.STORE_UNREACHABLE
    if found.ledger is Ledger.MISMATCH:
        return Reason.RECORD_MISMATCH
    if sealed and found.signer is Signer.NONE:
        return Reason.NO_SIGNATURE
    return Reason.NO_RECORD
