"""Which of the records that were found still stand, and whose they are now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medprov_ledger.titles import Title
    from medprov_sdk.ledger_view import LedgerView
    from medprov_sdk.view import Found, Saying


def still_standing(
    ledger: LedgerView, found: Sequence[Found], released_hash: bytes, check: Saying
) -> tuple[list[Found], Found | None]:
    """Ask the chain what has become of records.

    An owner may revoke a record and anchor a better one of the same picture, so a revoked record counts only where
    none stands.

    Parameters
    ----------
    ledger : LedgerView
    found : sequence of Found
    released_hash : bytes
        32 bytes, of the picture at hand: of several revoked records that of exactly this picture is named.
    check : callable
        Takes what there is to say.

    Returns
    -------
    standing : list of Found
        Empty too where the chain does not answer; ``ledger.chain_trouble`` then says why.
    revoked : Found or None
        Where none stands, one that was revoked.
    """
    standing: list[Found] = []
    revoked: list[tuple[Found, Title]] = []
    for one in found:
        title = ledger.title(one)
        if title is None:
            return [], None
        if title.revoked is not None:
            revoked.append((one, title))
            continue
        standing.append(one)
        if title.owner != one.record.owner:
            check("owner", True, f"now {title.owner}, to whom the record or the owner's key has passed on")
        if title.contested_by is not None:
            check("uncontested", False, f"the owner of the earlier record 0x{title.contested_by.hex()} contests it")
    revoked.sort(key=lambda pair: pair[0].record.released_hash != released_hash)
    for one, title in revoked[: None if standing else 1]:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(title.revoked))
        why = title.reason.name.lower().replace("_", " ")
        detail = f"{one.claim.record_id} was revoked by its owner on {when}: {why}"
        check("record stands", None if standing else False, detail)
    return standing, revoked[0][0] if revoked and not standing else None
