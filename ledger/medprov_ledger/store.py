"""Where sealed objects lie: a local folder of blocks, or IPFS daemons. All name the same bytes by the same CID.

Nothing that a store gives is trusted: :meth:`Store.get` returns the bytes that the CID names, or fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .block_store import BlockStore
from .cid import MAX_OBJECT
from .errors import StoreError
from .ipfs_store import IpfsStore
from .replicated_store import ReplicatedStore

if TYPE_CHECKING:
    from .config import Config

__all__ = ["BlockStore", "IpfsStore", "ReplicatedStore", "Store", "open_store"]


class Store(Protocol):
    """Content-addressed storage."""

    def put(self, data: bytes) -> str:
        """Store `data` durably, pinned, and give its CID (version 1, base32, raw leaves). Twice is once.

        Raises
        ------
        StoreError
        """

    def get(self, name: str, limit: int = MAX_OBJECT) -> bytes:
        """Exactly the bytes that the CID `name` stands for.

        Raises
        ------
        StoreError
            Not there, not reachable, larger than `limit` bytes, or other bytes than the CID names.
        RecordError
            `name` is not a CID of this format.
        """

    def has(self, name: str) -> bool:
        """Whether the store holds this CID now; asks nobody else for it.

        Raises
        ------
        StoreError
            Not reachable.
        """

    def unpin(self, name: str) -> None:
        """No longer keep the file of this CID: garbage collection may remove its blocks. Twice is once.

        Raises
        ------
        StoreError
            Not reachable.
        RecordError
            `name` is not a CID of this format.
        """


def open_store(config: Config) -> Store:
    """The store that a configuration names.

    Raises
    ------
    StoreError
    """
    settings = config.store
    if settings.kind == "blocks" and settings.path is not None:
        return BlockStore(settings.path)
    daemons = [IpfsStore(api, config.timeout) for api in settings.daemons] if settings.kind == "ipfs" else []
    if len(daemons) == 1 and settings.copies == 1:
        return daemons[0]
    if daemons:
        return ReplicatedStore(daemons, settings.copies)
    raise StoreError(f"{config.path}: store.kind {settings.kind!r}: name 'blocks' with path or 'ipfs' with api or apis")
