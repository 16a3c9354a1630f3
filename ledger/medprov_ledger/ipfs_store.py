"""One IPFS daemon as a store; Kubo and js-ipfs answer alike.

Only blocks are asked for, never files: each is hashed before the next is fetched, so whatever a daemon gives, a wrong
byte never gets further than this module, and "the daemon lies" is told from "the CID names no object of this format".
"""

from __future__ import annotations

from . import cid
from .errors import StoreError
from .ipfs_rpc import RefusedError, Session, Stop, address

MAX_BLOCK = 1 << 21
"""Largest block that any IPFS node passes on, bytes."""

_ADD = {
    "pin": "true",
    "cid-version": "1",
    "raw-leaves": "true",
    "cid-base": "base32",
    # the defaults of many years, said because a daemon's configuration may set others
    "chunker": f"size-{cid.CHUNK}",
    "hash": "sha2-256",
    "trickle": "false",
    "max-file-links": str(cid.WIDTH),
}


class IpfsStore:
    """An IPFS daemon's RPC interface.

    Parameters
    ----------
    api : str
        Where it listens: ``/ip4/127.0.0.1/tcp/5001/http`` or ``http://127.0.0.1:5001``.
    timeout : float
        Seconds that the daemon may be silent; an object may take ten times as long in all.

    Raises
    ------
    StoreError
        The address cannot be read.
    """

    def __init__(self, api: str, timeout: float = 10.0) -> None:
        address(api)
        self.api, self.timeout = api, timeout

    def put(self, data: bytes, stop: Stop | None = None) -> str:
        """See :meth:`medprov_ledger.store.Store.put`; done when the daemon lists the pin and gives all blocks back."""
        if len(data) > cid.MAX_SIZE:
            raise StoreError(f"object: larger than {cid.MAX_SIZE} bytes; not an object of this format")
        name = cid.of(data)
        with self._session("did not store an object", 10, stop) as session:
            answered = session.json("add", _ADD, upload=data).get("Hash")
            if answered != name:
                raise StoreError(
                    f"{self.api}: stored {name} as {str(answered)[:80]!r}; check the daemon's import settings"
                )
            if not self._pinned(session, name):
                raise StoreError(f"{self.api}: took {name} and does not list its pin; look into the daemon's log")
            self._read(session, name, len(data), here=True)
        return name

    def get(self, name: str, limit: int = cid.MAX_OBJECT, stop: Stop | None = None) -> bytes:
        """See :meth:`medprov_ledger.store.Store.get`; every block is hashed again."""
        with self._session(f"did not give {name}", 10, stop) as session:
            return self._read(session, name, limit, here=False)

    def has(self, name: str) -> bool:
        """See :meth:`medprov_ledger.store.Store.has`: whether it is pinned here.

        The pin is asked for and not the block, which js-ipfs waits for without end where it is absent.
        """
        cid.parse(name)
        with self._session(f"did not say whether it has {name}", 1) as session:
            return self._pinned(session, name)

    def holds(self, name: str, stop: Stop | None = None) -> bool:
        """Whether the file is pinned here and every block of it comes back right.

        Raises
        ------
        StoreError
            Not reachable, or it is pinned and does not come back.
        """
        cid.parse(name)
        with self._session(f"did not give {name}, which it has pinned,", 10, stop) as session:
            if not self._pinned(session, name):
                return False
            self._read(session, name, cid.MAX_SIZE, here=True)
        return True

    def unpin(self, name: str) -> None:
        """See :meth:`medprov_ledger.store.Store.unpin`; the daemon's own garbage collection removes the blocks."""
        cid.parse(name)
        with self._session(f"did not unpin {name}", 1) as session:
            try:
                session.post("pin/rm", {"arg": name, "recursive": "true", "cid-base": "base32"})
            except RefusedError as error:
                if "not pinned" not in error.reason:
                    raise

    def _pinned(self, session: Session, name: str) -> bool:
        try:
            answer = session.json("pin/ls", {"arg": name, "type": "recursive", "cid-base": "base32"})
        except RefusedError as error:
            if "not pinned" in error.reason:
                return False
            raise
        keys = answer.get("Keys")
        return isinstance(keys, dict) and name in keys

    def _read(self, session: Session, name: str, limit: int, here: bool) -> bytes:
        def fetch(block: cid.Cid) -> bytes:
            arguments = {"arg": str(block)}
            if here:
                # otherwise one daemon fetches the block from its neighbour, and two copies are one
                arguments["offline"] = "true"
            data = session.post("block/get", arguments, MAX_BLOCK)
            try:
                cid.check(block, data)
            except StoreError:
                raise StoreError(
                    f"{self.api}: gave other bytes than {block} names; do not trust this daemon, ask another"
                ) from None
            return data

        return cid.assemble(name, fetch, limit)

    def _session(self, purpose: str, times: int, stop: Stop | None = None) -> Session:
        return Session(self.api, purpose, self.timeout, times * self.timeout, stop)
