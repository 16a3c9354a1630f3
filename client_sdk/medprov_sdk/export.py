"""A record for those who cannot ask the chain: as a proof file, and the anchors that a checkpoint pins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medprov_ledger import merkle
from medprov_ledger.checkpoint import Anchored, Checkpoint
from medprov_ledger.errors import StoreError
from medprov_ledger.proof_file import Batch, Proof, StatedAnchor
from medprov_sdk.errors import SdkError

if TYPE_CHECKING:
    from medprov_ledger.titles import Title
    from medprov_sdk.ledger_view import LedgerView
    from medprov_sdk.view import Found


def find(ledger: LedgerView, record_id: bytes) -> tuple[Found, Title]:
    """A record that the chain proves, and what has become of it.

    Parameters
    ----------
    ledger : LedgerView
    record_id : bytes
        32 bytes.

    Raises
    ------
    SdkError
        There is none, or chain or store do not answer.
    """
    ledger.refresh()
    found = None if ledger.chain_trouble else ledger.by_id(record_id)
    title = ledger.title(found) if found is not None else None
    if ledger.chain_trouble:
        raise SdkError(ledger.chain_trouble)
    if found is None or title is None:
        why = f" ({ledger.store_trouble})" if ledger.store_trouble else ""
        raise SdkError(
            f"record 0x{record_id.hex()}: the chain proves no such record{why}; give the id of an anchored one"
        )
    return found, title


def proof(ledger: LedgerView, found: Found, title: Title) -> tuple[Proof, str]:
    """The proof file of a record.

    Parameters
    ----------
    ledger : LedgerView
    found : Found
        From :func:`find`.
    title : Title

    Returns
    -------
    proof : Proof
    missing : str
        Why the evidence is not in it; empty where it is.

    Raises
    ------
    SdkError
        The record was revoked: a proof file cannot say that, and whoever reads it has nobody to ask.
    ChainError
    """
    claim, record = found.claim, found.record
    if title.revoked is not None:
        raise SdkError(f"record {claim.record_id}: was revoked by its owner; no proof file is made of it")
    chronicle = ledger.links().chronicle
    evidence, missing = None, ""
    try:
        evidence = ledger.store.get(record.evidence_cid)
    except StoreError as error:
        missing = str(error)
    signature, batch = _place(found)
    stated = StatedAnchor(
        owner=record.owner,
        block=claim.block,
        block_hash=chronicle.block(claim.block).hash,
        time=claim.time,
        transaction=bytes.fromhex(claim.transaction[2:]) if claim.transaction else None,
        members=chronicle.members_at(claim.block),
    )
    return Proof(ledger.domain, ledger.federation_id, record, signature, batch, stated, evidence), missing


def _place(found: Found) -> tuple[bytes | None, Batch | None]:
    from medprov_ledger.index import Entry

    entry = found.source
    if not isinstance(entry, Entry):
        return None, None
    batch = Batch(entry.root, entry.proof, entry.anchor.count, entry.anchor.cid)
    if not merkle.verify(batch.root, entry.leaf, batch.proof):
        raise SdkError(f"record {found.claim.record_id}: the proof in the index is damaged; delete the index")
    return entry.signature, batch


def signature_of(found: Found) -> bytes | None:
    """The owner's signature over a record, 65 bytes; None where it was registered by itself."""
    return _place(found)[0]


def checkpoint(ledger: LedgerView, block: int | None = None) -> Checkpoint:
    """All that the registry holds up to a block, unsigned.

    Parameters
    ----------
    ledger : LedgerView
    block : int or None
        None is the newest confirmed one.

    Raises
    ------
    ChainError
    """
    links = ledger.links()
    last = links.chronicle.block(block)
    anchors = {Anchored(a.block, a.owner, a.root, a.time) for a in links.registry.anchors(0, last.number)}
    single = links.registry.registrations(0, last.number)
    anchors |= {Anchored(one.block, one.record.owner, one.record_id, one.time) for one in single}
    return Checkpoint(
        domain=ledger.domain,
        federation_id=ledger.federation_id,
        block=last.number,
        block_hash=last.hash,
        time=last.time,
        anchors=tuple(sorted(anchors)),
        revoked=links.chronicle.revoked(last.number),
    )


def confirm(ledger: LedgerView, known: Checkpoint) -> None:
    """Check a checkpoint against the chain, before it is signed.

    Raises
    ------
    SdkError
        It says something else than the chain.
    ChainError
    """
    found = checkpoint(ledger, known.block)
    if found.message.digest != known.message.digest:
        raise SdkError(
            f"checkpoint of block {known.block}: is not what the chain says of that block; do not sign it, "
            "find out who made it, and make a new one"
        )
