"""Who sealed a picture, and whose of the records that were found it is."""

from __future__ import annotations

from dataclasses import dataclass

from medprov_ledger import eip712
from medprov_ledger.errors import RecordError
from medprov_sdk.reading import Read, Work
from medprov_sdk.verdict import Basis, Ledger, Seal, Signer
from medprov_sdk.view import Found, View


@dataclass(frozen=True)
class Signed:
    """Who signed the seal."""

    standing: Signer
    address: str | None = None
    member: str | None = None
    """Present account of the member that the address is or was."""


def signer(ledger: View, work: Work, read: Read, found: list[Found]) -> Signed:
    """Who signed the seal, and whether that is a member (at the anchor's block, where there is a record)."""
    mark, signature = read.integrity.image_mark, read.integrity.signature
    if read.seal not in (Seal.INTACT, Seal.TURNED) or mark is None or signature is None:
        return Signed(Signer.NONE)
    try:
        address = eip712.recover_image_mark(mark, signature, ledger.domain)
    except RecordError as error:
        work.check("signature", False, str(error))
        return Signed(Signer.FOREIGN)
    work.offline.append(f"the integrity mark is signed by {address} for chain {ledger.domain.chain_id}")
    member = ledger.current_of(address)
    if any(one.member == member for one in found):
        # find() has asked for the owner's membership at the anchor's block
        stated = all(one.basis is Basis.FILE for one in found)
        detail = f"by {address}, a member at the anchor's block"
        work.check("signature", None if stated else True, detail + (" as the proof file states" if stated else ""))
        return Signed(Signer.MEMBER, address, member)
    active = ledger.is_member(address)
    if active is None:
        work.check("signature", None, f"by {address}; the members could not be asked")
        return Signed(Signer.UNCHECKED, address, member)
    work.check("signature", active, f"by {address}, {'a member now' if active else 'not a member'}")
    return Signed(Signer.MEMBER if active else Signer.FOREIGN, address, member)


def of_the_signer(work: Work, read: Read, found: list[Found], signed: Signed) -> list[Found]:
    """The records that count beside a seal whose signer has recorded these very pixels.

    Seal, record and anchor must be of one member. Whoever copies a public record and anchors it cannot make the seal,
    so another owner's record of these pixels does not count, and neither does a later one of the same payload. An
    earlier one of the payload does: there the seal may be the thief's.
    """
    own = [one for one in found if one.member == signed.member and one.record.released_hash == read.released_hash]
    if not own:
        return found
    first, kept = own[0].claim, []
    for one in found:
        copied = one.record.released_hash == read.released_hash or one.claim.block > first.block
        if one.member == signed.member or not copied:
            kept.append(one)
        else:
            detail = f"{one.record.owner} recorded this picture in block {one.claim.block}, "
            work.check("another's record", None, f"does not count: {detail}but {signed.address} has sealed it")
    return kept


def settle(ledger: View, work: Work, read: Read, found: list[Found], signed: Signed) -> tuple[Ledger, Found | None]:
    """What chain and index say, and the record that they say it of."""
    owners = {one.member for one in found}
    if len(owners) > 1:
        first = f"the earliest anchor is of {found[0].record.owner} in block {found[0].claim.block}"
        work.check("one owner", False, f"{len(owners)} owners claim this picture; {first}")
        return Ledger.CONFLICT, found[0]
    same = [one for one in found if one.record.released_hash == read.released_hash]
    if found:
        chosen = (same or found)[0]
        mark = read.integrity.image_mark
        # a proof file knows no other members, but that the signer is not the record's owner shows without them
        another = signed.member is not None and signed.member != chosen.member
        if another and (signed.standing is Signer.MEMBER or chosen.basis is not Basis.CHAIN):
            detail = f"signed by {signed.address}, recorded by {chosen.record.owner}"
            work.check("signer is the owner", False, detail)
            return Ledger.MISMATCH, chosen
        if same and mark is not None and not _agrees(chosen, mark.marked_hash, mark.cover_hash, mark.model):
            work.check("record and seal agree", False, "the record's hashes are not those of the integrity mark")
            return Ledger.MISMATCH, chosen
        return Ledger.CONFIRMED, chosen
    state, check = ledger.absence(read.payload is not None)
    work.checks.append(check)
    return state, None


def proved(read: Read, signer: Signer, chosen: Found | None) -> bool:
    """Whether seal and record settle it, so that the evidence need not be fetched."""
    return (
        chosen is not None
        and read.seal in (Seal.INTACT, Seal.TURNED)
        and signer in (Signer.MEMBER, Signer.NONE)
        and chosen.record.released_hash == read.released_hash
    )


def _agrees(found: Found, marked_hash: bytes, cover_hash: bytes, model: bytes) -> bool:
    record = found.record
    # the short form of the seal holds no cover hash
    cover = not any(cover_hash) or record.cover_hash == cover_hash
    return record.marked_hash == marked_hash and cover and record.model == model
