"""A local folder of blocks: one file per block, named by its CID; no service is needed.

``<folder>/<two digits>/<CID>`` is a block, ``<CID>.pin`` beside it says that the file of this CID is to be kept. A pin
is written together with the root, after all other blocks, so a pinned file is whole. Blocks that no pin reaches are
what a cut :meth:`BlockStore.put` or :meth:`BlockStore.unpin` left behind; :meth:`BlockStore.collect` removes them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import _files, cid
from .errors import RecordError, StoreError, UnreachableError

LOCK_PATIENCE = 60.0
"""Seconds that one process waits for the others at this folder."""

_PIN = ".pin"
# gate: whoever wants the folder for itself closes it, so that a stream of puts cannot keep it waiting for ever
_USE, _GATE, _ADOPTED = ".use", ".gate", ".pinned"


@dataclass(frozen=True)
class Collected:
    """What :meth:`BlockStore.collect` did.

    Parameters
    ----------
    blocks : int
        Blocks removed.
    size : int
        Their bytes.
    unfinished : int
        Files of writers that were killed, removed too.
    kept : int
        Blocks that pins reach.
    pins : int
    """

    blocks: int
    size: int
    unfinished: int
    kept: int
    pins: int


class BlockStore:
    """One file per block in a folder.

    Parameters
    ----------
    path : Path
        Made at the first :meth:`put`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, data: bytes) -> str:
        """See :meth:`medprov_ledger.store.Store.put`; the file is pinned. A damaged block of it is replaced."""
        if len(data) > cid.MAX_SIZE:
            raise StoreError(f"object: larger than {cid.MAX_SIZE} bytes; not an object of this format")
        *inner, root = cid.blocks(data)
        try:
            self._prepare()
            with self._lock(fcntl.LOCK_SH):
                # the root comes last: while it is missing, no reader takes the file for complete. What a failure leaves
                # is not removed here, because another process may by now count on the same blocks
                folders = {self._keep(block) for block in inner}
                for folder in folders:
                    _files.sync_folder(folder)
                folder = self._keep(root)
                self._pin(root.cid).touch()
                # also where nothing was new: who wrote it may have been killed before its folder was on the disk
                _files.sync_folder(folder)
        except OSError as error:
            raise self._failed("cannot store a block", error) from None
        return str(root.cid)

    def get(self, name: str, limit: int = cid.MAX_OBJECT) -> bytes:
        """See :meth:`medprov_ledger.store.Store.get`; every block is checked."""
        return cid.assemble(name, self._read, limit)

    def has(self, name: str) -> bool:
        """See :meth:`medprov_ledger.store.Store.has`."""
        return self._file(cid.parse(name)).is_file()

    def unpin(self, name: str) -> None:
        """See :meth:`medprov_ledger.store.Store.unpin`; the next :meth:`collect` removes its blocks."""
        pin = self._pin(cid.parse(name))
        if not self.path.is_dir():
            raise self._absent()
        try:
            self._prepare()
            with self._lock(fcntl.LOCK_SH):
                pin.unlink(missing_ok=True)
                if pin.parent.is_dir():
                    _files.sync_folder(pin.parent)
        except OSError as error:
            raise self._failed("cannot unpin", error) from None

    def pins(self) -> list[str]:
        """The CIDs that are kept, in order."""
        return sorted(str(pin) for pin in self._named(_PIN))

    def count(self) -> int:
        """How many blocks lie here."""
        return sum(1 for _ in self._named(""))

    def collect(self) -> Collected:
        """Remove all blocks that no pin reaches. Puts of other processes wait meanwhile, reads do not.

        A kill at any instruction leaves every pinned file whole, and no root without its blocks.

        Raises
        ------
        StoreError
            A node of a pinned file is missing or damaged, so that its blocks cannot be told from others (nothing was
            removed then); a block cannot be removed; others use the folder for more than :data:`LOCK_PATIENCE` seconds.
        """
        if not self.path.is_dir():
            raise self._absent()
        try:
            self._prepare()
            with self._lock(fcntl.LOCK_EX):
                present = set(self._named(""))
                pins = set(self._named(_PIN))
                kept = self._reached(pins)
                size = 0
                for level in self._levels(present - kept):
                    files = [self._file(block) for block in level]
                    size += sum(file.stat().st_size for file in files)
                    for file in files:
                        file.unlink()
                    if any(block.codec == cid.DAG_PB for block in level):
                        # nodes are gone for good before their blocks go; a leaf that comes back is garbage once more
                        for folder in {file.parent for file in files}:
                            _files.sync_folder(folder)
                unfinished = [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]
                for file in unfinished:
                    file.unlink()
        except OSError as error:
            raise self._failed("cannot remove what is not pinned", error) from None
        return Collected(len(present - kept), size, len(unfinished), len(present & kept), len(pins))

    def _prepare(self) -> None:
        """Make the folder; where it is older than pins, pin every file in it."""
        marker = self.path / _ADOPTED
        if marker.is_file():
            return
        self._make(self.path)
        with self._lock(fcntl.LOCK_EX):
            if marker.is_file():
                return
            blocks = set(self._named(""))
            below = {child for block in blocks for child in self._children(block)}
            for block in blocks - below:
                self._pin(block).touch()
            for folder in {self._file(block).parent for block in blocks - below}:
                _files.sync_folder(folder)
            _files.write(marker, b"")

    def _keep(self, block: cid.Block) -> Path:
        """Write a block where it is missing or damaged; the folder it lies in is still to be synced."""
        file = self._file(block.cid)
        if not file.is_file() or file.read_bytes() != block.data:
            self._make(file.parent)
            _files.replace(file, block.data)
        return file.parent

    def _read(self, block: cid.Cid) -> bytes:
        file = self._file(block)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            if not self.path.is_dir():
                raise self._absent() from None
            raise StoreError(f"{file}: no such block; copy it from another store or add the file again") from None
        except OSError as error:
            raise StoreError(f"{file}: cannot be read ({error.strerror})") from None
        try:
            cid.check(block, data)
        except StoreError:
            raise StoreError(f"{file}: damaged, its bytes do not match its name; add the file again") from None
        return data

    def _reached(self, pins: Iterable[cid.Cid]) -> set[cid.Cid]:
        reached: set[cid.Cid] = set()
        pending = list(pins)
        while pending:
            block = pending.pop()
            if block in reached:
                continue
            reached.add(block)
            if block.codec == cid.DAG_PB:
                try:
                    pending += cid.children(block, self._read(block))
                except StoreError as error:
                    raise StoreError(
                        f"{self.path}: nothing removed, the blocks of a pinned file are not known ({error})"
                    ) from None
        return reached

    def _levels(self, loose: set[cid.Cid]) -> Iterator[set[cid.Cid]]:
        """The same blocks, parents before children: a cut never leaves a root whose blocks are gone."""
        nodes = {block: set(self._children(block)) for block in loose if block.codec == cid.DAG_PB}
        while nodes:
            top = nodes.keys() - set[cid.Cid]().union(*nodes.values())
            yield top
            nodes = {block: below for block, below in nodes.items() if block not in top}
        yield {block for block in loose if block.codec == cid.RAW}

    def _children(self, block: cid.Cid) -> list[cid.Cid]:
        """The links of a node; none where it is damaged or of another layout."""
        if block.codec != cid.DAG_PB:
            return []
        try:
            return cid.children(block, self._read(block))
        except StoreError:
            return []

    def _named(self, suffix: str) -> Iterator[cid.Cid]:
        """The CIDs of all files in place whose names end in `suffix`; what is not the store's is passed over."""
        for folder in self.path.iterdir() if self.path.is_dir() else ():
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(suffix)]
            for name in names:
                text = name.removesuffix(suffix)
                if text[-3:-1] != folder.name:
                    continue
                try:
                    yield cid.parse(text)
                except RecordError:
                    continue

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Hold the folder together with others (``LOCK_SH``) or alone (``LOCK_EX``)."""
        gate, use = (os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o644) for name in (_GATE, _USE))
        try:
            self._wait(gate, kind)
            self._wait(use, kind)
            if kind == fcntl.LOCK_SH:
                fcntl.flock(gate, fcntl.LOCK_UN)
            yield
        finally:
            os.close(use)
            os.close(gate)

    def _wait(self, descriptor: int, kind: int) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{self.path}: other processes have held this folder for {LOCK_PATIENCE:g} s "
                        "(garbage collection, or writers that hang); wait for them or end them"
                    ) from None
                time.sleep(0.005)

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            _files.sync_folder(folder.parent)

    def _file(self, block: cid.Cid) -> Path:
        name = str(block)
        # the last digits are spread evenly, the first are the same in all CIDs
        return self.path / name[-3:-1] / name

    def _pin(self, block: cid.Cid) -> Path:
        file = self._file(block)
        return file.with_name(file.name + _PIN)

    def _absent(self) -> UnreachableError:
        return UnreachableError(f"{self.path}: no such folder; correct store.path or copy the blocks")

    def _failed(self, what: str, error: OSError) -> StoreError:
        return StoreError(f"{self.path}: {what} ({error.strerror}); check space and rights")
