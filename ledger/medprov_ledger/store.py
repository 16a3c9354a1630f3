"""Where sealed objects lie: a local folder of blocks, or an IPFS daemon. Both name the same bytes by the same CID.

Nothing that a store gives is trusted: :meth:`Store.get` returns the bytes that the CID names, or fails.
"""

from __future__ import annotations

import io
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ipfshttpclient

from . import _files, cid
from .errors import StoreError, UnreachableError

if TYPE_CHECKING:
    from .config import Config

# the client passes urllib3 an argument that has lost its meaning; nobody who sees the warning can do anything about it
warnings.filterwarnings("ignore", message="The 'strict' parameter is no longer needed", category=FutureWarning)

MAX_OBJECT = 1 << 28
"""Largest object that :meth:`Store.get` fetches unless told otherwise, bytes."""


class Store(Protocol):
    """Content-addressed storage."""

    def put(self, data: bytes) -> str:
        """Store `data` durably and give its CID (version 1, base32, raw leaves). Twice is once.

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


class BlockStore:
    """One file per block in a folder; needs no service.

    Parameters
    ----------
    path : Path
        Made at the first :meth:`put`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, data: bytes) -> str:
        """See :meth:`Store.put`. A damaged block of the same file is replaced."""
        _check_size("object", len(data), cid.MAX_SIZE)
        root = ""
        try:
            # the root comes last: while it is missing, no reader takes the file for complete
            for block in cid.blocks(data):
                file = self._file(block.cid)
                if not file.is_file() or file.read_bytes() != block.data:
                    self._folder(file.parent)
                    _files.write(file, block.data)
                root = str(block.cid)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot store a block ({error.strerror}); check space and rights") from None
        return root

    def get(self, name: str, limit: int = MAX_OBJECT) -> bytes:
        """See :meth:`Store.get`; every block is checked."""
        return cid.assemble(name, self._read, limit)

    def has(self, name: str) -> bool:
        """See :meth:`Store.has`."""
        return self._file(cid.parse(name)).is_file()

    def _read(self, block: cid.Cid) -> bytes:
        file = self._file(block)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            if not self.path.is_dir():
                raise UnreachableError(f"{self.path}: no such folder; correct store.path or copy the blocks") from None
            raise StoreError(f"{file}: no such block; copy it from another store or add the file again") from None
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error.strerror})") from None
        try:
            cid.check(block, data)
        except StoreError:
            raise StoreError(f"{file}: damaged, its bytes do not match its name; add the file again") from None
        return data

    def _file(self, block: cid.Cid) -> Path:
        name = str(block)
        # the last digits are spread evenly, the first are the same in all CIDs
        return self.path / name[-3:-1] / name

    def _folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _files.sync_folder(folder.parent)


class IpfsStore:
    """An IPFS daemon's RPC interface (``/api/v0``); Kubo and js-ipfs answer alike.

    Parameters
    ----------
    api : str
        The daemon's multiaddress, such as ``/ip4/127.0.0.1/tcp/5001/http``.
    timeout : float
        Seconds that the daemon may be silent, and that a whole fetch may take ten times.

    Raises
    ------
    StoreError
        The address cannot be read.
    """

    def __init__(self, api: str, timeout: float = 10.0) -> None:
        self.api, self.timeout = api, timeout
        try:
            # not connect(): that compares the daemon's version and refuses every recent one
            self._client: Any = ipfshttpclient.Client(api, timeout=timeout)
        except Exception as error:  # the multiaddress parser raises errors of many kinds
            why = _line(error)
            raise StoreError(f"{api}: not a daemon's multiaddress ({why}); write /ip4/HOST/tcp/PORT/http") from None

    def put(self, data: bytes) -> str:
        """See :meth:`Store.put`; the file is pinned."""
        _check_size("object", len(data), cid.MAX_SIZE)
        name = cid.of(data)
        try:
            # as keyword arguments: what is in `opts` under these names is overwritten without a word
            answer = self._client.add(
                io.BytesIO(data),
                pin=True,
                cid_version=1,
                raw_leaves=True,
                opts={"cid-base": "base32"},
                timeout=self.timeout,
            )
            answered = str(answer["Hash"])
        except _PROBLEMS as error:
            raise self._failed("did not store an object", error) from None
        if answered != name:
            raise StoreError(f"{self.api}: stored {name} as {answered[:80]!r}; check the daemon's import settings")
        return name

    def get(self, name: str, limit: int = MAX_OBJECT) -> bytes:
        """See :meth:`Store.get`; the whole is hashed again."""
        cid.parse(name)
        pieces: list[bytes] = []
        size = 0
        deadline = time.monotonic() + 10 * self.timeout
        try:
            stream = self._client.cat(name, length=limit + 1, stream=True, timeout=self.timeout)
            try:
                for piece in stream:
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        break
                    if time.monotonic() > deadline:
                        raise StoreError(f"{self.api}: too slow, {size} bytes of {name} in {10 * self.timeout:g} s")
            finally:
                stream.close()
        except _PROBLEMS as error:
            raise self._failed(f"did not give {name}", error) from None
        _check_size(f"{self.api}: {name}", size, limit)
        data = b"".join(pieces)
        if cid.of(data) != name:
            raise StoreError(f"{self.api}: gave other bytes than {name} names; do not trust this daemon, ask another")
        return data

    def has(self, name: str) -> bool:
        """See :meth:`Store.has`."""
        cid.parse(name)
        try:
            self._client.block.stat(name, offline=True, timeout=self.timeout)
        except ipfshttpclient.exceptions.ErrorResponse:
            # the daemon's way to say "not here"; all else is a real failure
            return False
        except _PROBLEMS as error:
            raise self._failed(f"did not say whether it has {name}", error) from None
        return True

    def _failed(self, what: str, error: Exception) -> StoreError:
        if isinstance(error, ipfshttpclient.exceptions.TimeoutError):
            return StoreError(f"{self.api}: {what} within {self.timeout:g} s; try again or raise chain.timeout")
        if isinstance(error, ipfshttpclient.exceptions.ConnectionError):
            return UnreachableError(f"{self.api}: no IPFS daemon answers; start it or correct store.api")
        return StoreError(f"{self.api}: {what} ({_line(error)}); look into the daemon's log")


_PROBLEMS: tuple[type[Exception], ...] = (
    ipfshttpclient.exceptions.Error,
    OSError,  # requests' own errors while a body is being read are not translated by the client
    ValueError,
    # an answer of another shape than the client expects
    AssertionError,
    KeyError,
    TypeError,
    AttributeError,
)


def open_store(config: Config) -> Store:
    """The store that a configuration names.

    Raises
    ------
    StoreError
    """
    settings = config.store
    if settings.kind == "blocks" and settings.path is not None:
        return BlockStore(settings.path)
    if settings.kind == "ipfs" and settings.api is not None:
        return IpfsStore(settings.api, config.timeout)
    raise StoreError(f"{config.path}: store.kind {settings.kind!r}: name 'blocks' with path or 'ipfs' with api")


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise StoreError(f"{what}: larger than {limit} bytes; not an object of this format")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
