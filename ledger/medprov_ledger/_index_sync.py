"""How the index follows the chain: anchors that are gone are dropped, manifests of new ones are fetched and checked.

A hostile member can anchor manifests that never come, or that are large and false. A false one is looked at once. A
missing one is tried again after a pause that grows, and one sync loses only so much time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from . import _canonical, manifest, sealing
from ._index_file import IndexFile
from .errors import ObjectError, RecordError, SealError, StoreError, UnreachableError
from .registry import Anchor
from .store import Store

PATIENCE = 20.0
"""Seconds that one sync may lose on manifests that do not come or are false; it starts no fetch after that."""
PAUSES = (0.0, 5.0, 30.0, 180.0, 900.0, 3600.0)
"""Seconds until a missing manifest is tried again, by the number of failures before; the last holds for all further.

The first retry comes at once: a manifest is put into the store a moment after its anchor.
"""


class AnchorSource(Protocol):
    """What the index needs of :class:`medprov_ledger.registry.Registry`."""

    def anchors(self, from_block: int = 0) -> list[Anchor]:
        """All confirmed anchors, oldest first."""


class Membership(Protocol):
    """What the index needs of :class:`medprov_ledger.federation.Federation`."""

    def is_member(self, address: str, block: int | None = None) -> bool:
        """Whether `address` was an active member at `block`."""


@dataclass(frozen=True)
class Sources:
    """Where the index comes from; see :meth:`medprov_ledger.index.RecordIndex.sync`."""

    registry: AnchorSource
    federation: Membership
    store: Store
    directory_key: bytes | None


@dataclass(frozen=True)
class Problem:
    """A batch that is anchored but not in the index.

    Parameters
    ----------
    owner : str
        Address of the member that anchored it.
    root : bytes
    cid : str
    state : str
        ``"bad"``: the manifest is false, for ever. ``"missing"``: it could not be fetched; a later sync tries again.
    reason : str
    """

    owner: str
    root: bytes
    cid: str
    state: str
    reason: str


@dataclass(frozen=True)
class SyncReport:
    """What one sync did and left.

    Parameters
    ----------
    added : int
        Batches taken in.
    removed : int
        Batches dropped, because the chain no longer has them or their rows were damaged.
    problems : tuple of Problem
        Batches that this sync found to be false, and all that are missing, whether it tried them or not.
    """

    added: int
    removed: int
    problems: tuple[Problem, ...]


def sync(file: IndexFile, sources: Sources) -> SyncReport:
    """Bring the file to the state of the chain.

    Raises
    ------
    ChainError
        The chain does not answer; batches taken before that stay.
    DamagedError
        The file must be begun anew.
    """
    anchors = {(anchor.owner, anchor.root): anchor for anchor in sources.registry.anchors()}
    removed = _drop_absent(file, anchors.values())
    now = time.time()
    # a moment further away than any pause was noted by a clock that has been set back since
    query = "SELECT owner, root, state, reason, failures, next_try > ? AND next_try <= ? FROM batches"
    known = {(row[0], row[1]): row[2:] for row in file.read(query, (now, now + PAUSES[-1]))}
    waiting: list[Problem] = []
    due: list[tuple[int, Anchor]] = []
    for name, anchor in anchors.items():
        state, reason, failures, early = known.get(name, ("missing", "", 0, False))
        if state == "missing" and early:
            waiting.append(_problem(anchor, "missing", reason))
        elif state not in ("good", "bad"):
            due.append((failures, anchor))
    added, problems = _take_all(file, sources, sorted(due, key=lambda item: item[0]))
    if sources.directory_key is not None:
        _open_directories(file, sources.directory_key)
    return SyncReport(added, removed, (*waiting, *problems))


def _drop_absent(file: IndexFile, anchors: Collection[Anchor]) -> int:
    """Forget what the chain does not have, and batches whose rows are not whole."""
    standing = {(a.owner, a.root, a.block, a.time, a.count, a.cid, a.tx_hash) for a in anchors}
    torn = """
    SELECT id FROM batches
    WHERE (state = 'good' AND count != (SELECT count(*) FROM records WHERE batch = batches.id))
    OR typeof(state) != 'text' OR typeof(reason) != 'text' OR typeof(failures) != 'integer' OR failures < 0
    """
    with file.write() as db:
        rows = db.execute("SELECT id, owner, root, block, time, count, cid, tx_hash FROM batches").fetchall()
        gone = {row[0] for row in rows if row[1:] not in standing} | {row[0] for row in db.execute(torn).fetchall()}
        db.executemany("DELETE FROM batches WHERE id = ?", [(batch,) for batch in gone])
    return len(gone)


def _take_all(file: IndexFile, sources: Sources, due: Sequence[tuple[int, Anchor]]) -> tuple[int, list[Problem]]:
    """Take in what comes, until the patience with what does not come is at an end."""
    added, lost, stopped = 0, 0.0, ""
    problems: list[Problem] = []
    failing: set[str] = set()
    later: list[tuple[int, Anchor]] = []
    for turn in (due, later):
        for failures, anchor in turn:
            if turn is due and anchor.owner in failing:
                # one member's missing manifests must not use up the time of the others'
                later.append((failures, anchor))
                continue
            if stopped:
                problems.append(_problem(anchor, "missing", stopped))
                continue
            started = time.monotonic()
            try:
                problem = _take(file, sources, anchor, failures)
            except UnreachableError as error:
                # says nothing about this manifest: it is tried again as soon as the store is back
                problem = _problem(anchor, "missing", str(error))
                stopped = str(error)
            if problem is None:
                added += 1
                continue
            problems.append(problem)
            failing.add(anchor.owner)
            lost += time.monotonic() - started
            if lost > PATIENCE and not stopped:
                stopped = (
                    f"{lost:.0f} s were lost on manifests that do not come; verify again to go on ({problem.reason})"
                )
    return added, problems


def _take(file: IndexFile, sources: Sources, anchor: Anchor, failures: int) -> Problem | None:
    try:
        # the chain is asked first: a manifest of a stranger is not even fetched
        if not sources.federation.is_member(anchor.owner, anchor.block):
            raise RecordError(f"anchor of {anchor.owner}: not a member at block {anchor.block}")
        found = manifest.parse(sources.store.get(anchor.cid, manifest.largest(anchor.count)))
        manifest.verify(found, anchor, file.domain)
    except UnreachableError:
        raise
    except (ObjectError, RecordError) as error:
        return _reject(file, anchor, "bad", str(error), failures)
    except StoreError as error:
        return _reject(file, anchor, "missing", str(error), failures)
    rows = []
    for position, signed in enumerate(found.records):
        record, proof = signed.record, b"".join(found.tree.proofs[position])
        keys = (position, found.leaves[position], record.key, record.released_hash)
        text = _canonical.dumps(record.to_json(), "record").decode()
        rows.append((*keys, text, signed.signature, proof))
    with file.write() as db:
        batch = _insert(db, anchor, ("good", "", 0, 0.0), found.directory)
        db.executemany(f"INSERT INTO records VALUES ({batch}, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)
    return None


def _reject(file: IndexFile, anchor: Anchor, state: str, reason: str, failures: int) -> Problem:
    next_try = time.time() + PAUSES[min(failures, len(PAUSES) - 1)]
    with file.write() as db:
        _insert(db, anchor, (state, reason, failures + 1, next_try), None)
    return _problem(anchor, state, reason)


def _insert(
    db: sqlite3.Connection,
    anchor: Anchor,
    standing: tuple[str, str, int, float],
    directory: manifest.SealedDirectory | None,
) -> int:
    """Put a batch in place of what was known of it; gives its number."""
    a = anchor
    db.execute("DELETE FROM batches WHERE owner = ? AND root = ?", (a.owner, a.root))
    sealed = (None, None) if directory is None else (directory.key_id, directory.sealed)
    row = (a.owner, a.root, a.block, a.time, a.count, a.cid, a.tx_hash, *standing, *sealed)
    cursor = db.execute(f"INSERT INTO batches VALUES (NULL{', ?' * len(row)})", row)
    return int(cursor.lastrowid or 0)


def _open_directories(file: IndexFile, key: bytes) -> None:
    rows = file.read(
        "SELECT id, root, count, key_id, directory FROM batches WHERE key_id = ? AND typeof(directory) = 'blob'",
        (sealing.key_id(key),),
    )
    for batch, root, count, key_id, sealed in rows:
        reason = ""
        payloads: Sequence[bytes] = ()
        try:
            payloads = manifest.unseal_directory(manifest.SealedDirectory(key_id, sealed), key, root, count)
        except (SealError, RecordError) as error:
            # the records stand without it: their proofs do not depend on the directory
            reason = f"directory: {error}"
        with file.write() as db:
            db.execute("UPDATE batches SET directory = NULL, reason = ? WHERE id = ?", (reason, batch))
            db.executemany(
                "UPDATE records SET payload = ? WHERE batch = ? AND position = ?",
                [(payload, batch, position) for position, payload in enumerate(payloads)],
            )


def _problem(anchor: Anchor, state: str, reason: str) -> Problem:
    return Problem(anchor.owner, anchor.root, anchor.cid, state, reason)
