"""A batch's way onto the chain: built once, anchored, confirmed, stored, read back. Each step may be repeated.

The manifest waits for its anchor: who could read a record before it is anchored could copy it and anchor first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from medprov_ledger import cid, manifest
from medprov_ledger.errors import ChainError, RecordError, RevertedError
from medprov_ledger.outbox import Batch, Item, Outbox
from medprov_ledger.registry import Anchor
from medprov_ledger.signer import Account
from medprov_ledger.store import Store
from medprov_node import connect
from medprov_node.connect import Ledger
from medprov_node.errors import StateError


def store(outbox: Outbox, place: Store, item: Item) -> Item:
    """Put a picture's sealed evidence and bundle into the store; the chain need not answer.

    Raises
    ------
    StoreError
        The picture stays ``bundled``; calling again goes on here.
    RecordError
        The store names them by another CID.
    """
    if item.signed is None or item.evidence is None or item.bundle is None:
        raise StateError(f"{outbox.path}: job {item.job} is incomplete; please report this")
    record = item.signed.record
    for data, name in ((item.evidence, record.evidence_cid), (item.bundle, record.bundle_cid)):
        _same_cid("object", place.put(data), name)
    return outbox.set_stored(item.job)


def build(outbox: Outbox, ledger: Ledger, items: Sequence[Item]) -> Batch:
    """Put stored pictures into one batch; the manifest is kept before its root is sent.

    Parameters
    ----------
    outbox : Outbox
    ledger : Ledger
    items : sequence of Item
        All stored.
    """
    signed, payloads = [], []
    for item in items:
        if item.signed is None or item.payload is None:
            raise StateError(f"{outbox.path}: job {item.job} has no record yet; mark the picture again")
        signed.append(item.signed)
        payloads.append(item.payload)
    built = manifest.build(signed, ledger.domain, payloads, ledger.chain.config.directory_key)
    data = built.to_bytes()
    return outbox.add_batch(built.root, data, cid.of(data), [item.job for item in items])


def resume(outbox: Outbox, ledger: Ledger, account: Account) -> int:
    """Finish what an interrupted call left; the number of batches it finished."""
    open_ones = [batch for batch in outbox.batches("built", "anchored") if is_ours(batch, ledger)]
    send(outbox, ledger, [batch.root for batch in open_ones], account)
    for batch in open_ones:
        finish(outbox, ledger, batch.root, account)
    return len(open_ones)


def send(outbox: Outbox, ledger: Ledger, roots: Sequence[bytes], account: Account) -> None:
    """Send the anchors of several built batches together and wait for all at once.

    What fails is left to :func:`finish`, which is to be called for each afterwards and says why.

    Parameters
    ----------
    outbox : Outbox
    ledger : Ledger
    roots : sequence of bytes
        32 bytes each.
    account : LocalAccount or Signer

    Raises
    ------
    ChainError, StoreError
    """
    built = [outbox.batch(root) for root in roots]
    fresh = [one for one in built if ledger.registry.anchor(account.address, one.root, confirmed=False) is None]
    if len(fresh) > 1:
        # an anchor cannot be taken back: a store that is away must be noticed before it
        connect.check_store(ledger)
        ledger.registry.anchor_batches([(one.root, one.count, one.cid) for one in fresh], account)


def finish(outbox: Outbox, ledger: Ledger, root: bytes, account: Account) -> Anchor:
    """Take a batch from wherever it stands to confirmed.

    The chain is asked before anything is sent, so that a batch whose transaction went out just before a crash is not
    sent twice. Once the anchor is confirmed, the manifest is stored, then fetched and checked as a verifier would.

    Parameters
    ----------
    outbox : Outbox
    ledger : Ledger
    root : bytes
        32 bytes.
    account : LocalAccount or Signer
        The hospital's.

    Returns
    -------
    Anchor

    Raises
    ------
    ChainError, StoreError, RecordError
        The pictures of the batch must not leave; calling again goes on here.
    """
    ledger.chain.settle(account)
    batch = outbox.batch(root)
    found = ledger.registry.anchor(account.address, root, confirmed=False)
    if batch.state == "confirmed" and (found is None or (found.tx_hash, found.block) != (batch.tx_hash, batch.block)):
        # a reorganisation deeper than the confirmations
        batch = outbox.set_lost(root)
    if found is None:
        if batch.state == "anchored":
            batch = outbox.set_unanchored(root)
        # an anchor cannot be taken back: a store that is away must be noticed before it
        connect.check_store(ledger)
        try:
            ledger.registry.anchor_batch(root, batch.count, batch.cid, account)
        except RevertedError as error:
            # an earlier transaction of this batch was still on its way; what it anchored is checked below
            if error.error != "RootAlreadyAnchored":
                raise
    anchor = _confirmed(ledger, account, root)
    if (anchor.cid, anchor.count) != (batch.cid, batch.count) or anchor.tx_hash is None:
        raise RecordError(
            f"batch 0x{root.hex()}: {account.address} has anchored it for {anchor.cid} and not for {batch.cid}; "
            "find out who else has this hospital's key, its pictures must not be released"
        )
    if batch.state == "anchored" and (batch.tx_hash, batch.block) != (anchor.tx_hash, anchor.block):
        # a reorganisation moved the transaction into another block
        batch = outbox.set_unanchored(root)
    outbox.set_anchored(root, anchor.tx_hash, anchor.block)
    _same_cid("manifest", ledger.store.put(batch.manifest), batch.cid)
    stored = ledger.store.get(batch.cid, manifest.largest(batch.count))
    manifest.verify(manifest.parse(stored), anchor, ledger.domain)
    outbox.set_confirmed(root)
    return anchor


def _confirmed(ledger: Ledger, account: Account, root: bytes) -> Anchor:
    timeout = ledger.chain.config.confirmation_timeout
    deadline, pause = time.monotonic() + timeout, 0.05
    while True:
        anchor = ledger.registry.anchor(account.address, root)
        if anchor is not None:
            return anchor
        if time.monotonic() > deadline:
            raise ChainError(
                f"{ledger.chain.config.rpc_shown}: batch 0x{root.hex()} is not {ledger.chain.config.confirmations} "
                f"block(s) deep after {timeout:g} s; its pictures wait, run the same command again later"
            )
        ledger.chain.settle(account)
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)


def is_ours(batch: Batch, ledger: Ledger) -> bool:
    """Whether a batch was built for this registry; another one's cannot be anchored here."""
    return manifest.parse(batch.manifest).domain == ledger.domain


def _same_cid(what: str, stored: str, expected: str) -> None:
    if stored != expected:
        raise RecordError(f"{what} {expected}: the store calls it {stored}; check the store's settings")
