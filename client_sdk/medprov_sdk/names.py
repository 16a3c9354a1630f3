"""URIs and times for what leaves the federation: exports in the formats of others.

A chain account, and so the registry itself, is named by did:pkh with its CAIP-10 identifier; what the registry knows is
a fragment of it. No personal data can be in a name: all are hashes, addresses and CIDs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medprov_ledger.eip712 import Domain

VOCABULARY = "https://medprov.invalid/ns#"
"""Terms of this project; the host is one that never resolves (RFC 2606)."""


def account(domain: Domain, address: str) -> str:
    """The URI of an account on the chain."""
    return f"did:pkh:eip155:{domain.chain_id}:{address}"


def thing(domain: Domain, kind: str, name: bytes) -> str:
    """The URI of what the registry knows by 32 bytes, for example a record by its id."""
    return f"{account(domain, domain.registry)}#{local(kind, name)}"


def local(kind: str, name: bytes) -> str:
    """The fragment of :func:`thing`."""
    return f"{kind}-0x{name.hex()}"


def content(cid: str) -> str:
    """The URI of an object in the store."""
    return f"ipfs://{cid}"


def instant(seconds: int) -> str | None:
    """A time as RFC 3339 in UTC; None where it lies outside the years 1 to 9999 and only its maker means it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return None
