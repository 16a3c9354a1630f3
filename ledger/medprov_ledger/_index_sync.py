"""How the index is brought up to date: the chain is followed, manifests of new batches are fetched and checked.

A hostile member can anchor manifests that never come, or that are large and false. A false one is looked at once. A
missing one is tried again after a pause that grows, and one sync loses only so much time.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import _index_rows as rows
from . import manifest, sealing
from ._index_chain import AnchorSource, follow
from ._index_fetch import Fetches, ManifestSource
from ._index_file import DamagedError, IndexFile
from .errors import ObjectError, RecordError, SealError, StoreError, UnreachableError
from .registry import Anchor

PATIENCE = 20.0
"""Seconds that one sync may lose on manifests that do not come or are false; it starts no fetch after that."""
PAUSES = (0.0, 5.0, 30.0, 180.0, 900.0, 3600.0)
"""Seconds until a missing manifest is tried again, by the number of failures before; the last holds for all further.

The first retry comes at once: a manifest is put into the store a moment after its anchor.
"""
CHECKED = 100_000
"""Records that the first sync after the opening looks for in the file; beyond that a part, taken at random."""
_ANCHOR = "o.address, b.root, b.block, b.time, b.count, b.cid, b.tx_hash"


class Membership(Protocol):
    """What the index needs of :class:`medprov_ledger.federation.Federation`."""

    def is_member(self, address: str, block: int | None = None) -> bool:
        """Whether `address` was an active member at `block`."""


@dataclass(frozen=True)
class Sources:
    """Where the index comes from; see :meth:`medprov_ledger.index.RecordIndex.sync`."""

    registry: AnchorSource
    federation: Membership
    store: ManifestSource
    directory_keys: tuple[bytes, ...]


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


@dataclass(frozen=True)
class _Due:
    number: int
    anchor: Anchor
    failures: int


def sync(file: IndexFile, sources: Sources) -> SyncReport:
    """Bring the file to the state of the chain.

    Raises
    ------
    ChainError
        The chain does not answer; batches taken before that stay.
    DamagedError
        The file must be begun anew.
    """
    removed = 0 if file.checked else _check(file)
    file.checked = True
    removed += follow(file, sources.registry)
    now = time.time()
    # a moment further away than any pause was noted by a clock that has been set back since
    query = f"""
    SELECT b.id, b.state, b.reason, b.failures, b.next_try > ? AND b.next_try <= ?, {_ANCHOR}
    FROM batches b JOIN owners o ON o.id = b.owner WHERE b.state NOT IN ('good', 'bad') ORDER BY b.id
    """
    waiting: list[Problem] = []
    due: list[_Due] = []
    for number, state, reason, failures, early, *anchor in file.read(query, (now, now + PAUSES[-1])):
        if state == "missing" and early:
            waiting.append(_problem(to_anchor(anchor), "missing", reason))
        else:
            due.append(_Due(number, to_anchor(anchor), failures))
    added, problems = _take_all(file, sources, sorted(due, key=lambda one: one.failures))
    for key in sources.directory_keys:
        _open_directories(file, key)
    return SyncReport(added, removed, (*waiting, *problems))


def to_anchor(row: Sequence[Any]) -> Anchor:
    """An anchor of the columns owner, root, block, time, count, cid, tx_hash."""
    owner, root, block, moment, count, cid, tx_hash = row
    return Anchor(root, owner, block, moment, count, cid, tx_hash)


def _check(file: IndexFile) -> int:
    """Look at what no look-up would notice: changed batches end the file, those whose rows are not whole are reset."""
    kinds = "typeof(b.root) = 'blob' AND typeof(b.cid) = 'text' AND typeof(b.seal) = 'blob'"
    for whole, seal, *anchor in file.read(
        f"SELECT {kinds}, b.seal, {_ANCHOR} FROM batches b LEFT JOIN owners o ON o.id = b.owner"
    ):
        if not whole or rows.seal(to_anchor(anchor)) != seal:
            raise DamagedError(file.path, "a batch cannot be read")
    torn = """
    typeof(state) != 'text' OR state NOT IN ('new', 'good', 'bad', 'missing') OR typeof(reason) != 'text'
    OR typeof(failures) != 'integer' OR failures < 0 OR typeof(next_try) NOT IN ('real', 'integer')
    OR (state = 'good' AND (SELECT length(nodes) FROM trees WHERE batch = batches.id) IS NOT 64 * count - 32)
    OR (SELECT length(payloads) FROM directories WHERE batch = batches.id) != 12 * count
    """
    with file.write() as db:
        gone = {row[0] for row in db.execute(f"SELECT id FROM batches WHERE {torn}").fetchall()}
        good = db.execute("SELECT id, count FROM batches WHERE state = 'good'").fetchall()
        random.shuffle(good)
        looked = 0
        for number, count in good:
            if looked >= CHECKED:
                break
            looked += count
            if db.execute("SELECT count(*) FROM records WHERE batch = ?", (number,)).fetchone()[0] != count:
                gone.add(number)
        for number in gone:
            _clear(db, number)
            db.execute(
                "UPDATE batches SET state = 'new', reason = '', failures = 0, next_try = 0 WHERE id = ?", (number,)
            )
    return len(gone)


def _take_all(file: IndexFile, sources: Sources, due: Sequence[_Due]) -> tuple[int, list[Problem]]:
    """Take in what comes, until the patience with what does not come is at an end."""
    lost, stopped = 0.0, ""
    problems: list[Problem] = []

    def of_member(one: _Due) -> bool:
        # the chain is asked first: a manifest of a stranger is not even fetched
        owner, block = one.anchor.owner, one.anchor.block
        if sources.federation.is_member(owner, block):
            return True
        problems.append(_reject(file, one, "bad", f"anchor of {owner}: not a member at block {block}"))
        return False

    fetches, added = Fetches(sources.store, due, of_member), 0
    begun = time.monotonic()
    for fetched in fetches:
        if stopped:
            # it came while the last one was looked at; looking at it costs time too
            problems.append(_problem(fetched.wanted.anchor, "missing", stopped))
            continue
        problem, reachable = _take(file, fetched.wanted, fetched.answer)
        ended = time.monotonic()
        if problem is None:
            added += 1
            fetches.came += 1
        else:
            problems.append(problem)
            fetches.failing.add(problem.owner)
            # time that others' manifests took is not lost: this counts from the result before
            lost += ended - begun
        begun = ended
        if not reachable and problem is not None:
            stopped = problem.reason
        elif lost > PATIENCE and problem is not None:
            stopped = f"{lost:.0f} s were lost on manifests that do not come; verify again to go on ({problem.reason})"
        if stopped:
            fetches.stop()
    problems += [_problem(one.anchor, "missing", stopped) for one in fetches.left()]
    return added, problems


def _take(file: IndexFile, one: _Due, answer: bytes | Exception) -> tuple[Problem | None, bool]:
    """Check a manifest and put its records into the file; beside the problem, whether the store is there at all."""
    try:
        if isinstance(answer, Exception):
            raise answer
        found = manifest.parse(answer)
        manifest.verify(found, one.anchor, file.domain)
    except UnreachableError as error:
        # says nothing about this manifest: it is tried again as soon as the store is back
        return _problem(one.anchor, "missing", str(error)), False
    except (ObjectError, RecordError) as error:
        return _reject(file, one, "bad", str(error)), True
    except StoreError as error:
        return _reject(file, one, "missing", str(error)), True
    records = (
        (*rows.of_record(signed.record, leaf), signed.signature, place)
        for signed, leaf, place in zip(found.records, found.leaves, found.tree.places, strict=True)
    )
    sealed = (None, None) if found.directory is None else (found.directory.key_id, found.directory.sealed)
    with file.write() as db:
        insert(db, one.number, one.anchor, sealed, found.tree.nodes, records)
    return None, True


def insert(
    db: sqlite3.Connection,
    number: int,
    anchor: Anchor,
    directory: tuple[bytes | None, bytes | None],
    nodes: Sequence[bytes],
    records: Iterable[tuple[Any, ...]],
) -> None:
    """Put a batch's records into the file, where its anchor is already.

    Parameters
    ----------
    db : sqlite3.Connection
        In a transaction.
    number : int
        The batch's place on the chain.
    anchor : Anchor
    directory : tuple of bytes or None
        The key's id and the sealed directory.
    nodes : sequence of bytes
        Of its tree.
    records : iterable of tuple
        In the order of the manifest: the columns of :func:`medprov_ledger._index_rows.of_record` but for the owner,
        signature, place in the tree.
    """
    standing = """
    UPDATE batches SET state = 'good', reason = '', failures = 0, next_try = 0, key_id = ?, directory = ?
    WHERE id = ? AND seal = ?
    """
    # another process may have followed the chain further meanwhile
    if db.execute(standing, (*directory, number, rows.seal(anchor))).rowcount != 1:
        return
    _clear(db, number)
    owner = rows.owner(db, anchor.owner)
    db.execute("INSERT INTO trees VALUES (?, ?)", (number, b"".join(nodes)))
    db.executemany(
        f"INSERT INTO records VALUES ({number}, ?{', ?' * (rows.WIDTH - 1)}, {owner}, ?, ?)",
        ((position, *columns) for position, columns in enumerate(records)),
    )


def _clear(db: sqlite3.Connection, number: int) -> None:
    for table in ("records", "trees", "directories"):
        db.execute(f"DELETE FROM {table} WHERE batch = ?", (number,))


def _reject(file: IndexFile, one: _Due, state: str, reason: str) -> Problem:
    next_try = time.time() + PAUSES[min(one.failures, len(PAUSES) - 1)]
    with file.write() as db:
        db.execute(
            "UPDATE batches SET state = ?, reason = ?, failures = ?, next_try = ? WHERE id = ? AND seal = ?",
            (state, reason, one.failures + 1, next_try, one.number, rows.seal(one.anchor)),
        )
    return _problem(one.anchor, state, reason)


def _open_directories(file: IndexFile, key: bytes) -> None:
    closed = file.read(
        "SELECT id, root, count, key_id, directory FROM batches WHERE key_id = ? AND typeof(directory) = 'blob'",
        (sealing.key_id(key),),
    )
    for batch, root, count, key_id, sealed in closed:
        reason, payloads = "", None
        try:
            payloads = manifest.unseal_directory(manifest.SealedDirectory(key_id, sealed), key, root, count)
        except (SealError, RecordError) as error:
            # the records stand without it: their proofs do not depend on the directory
            reason = f"directory: {error}"
        with file.write() as db:
            still = "UPDATE batches SET directory = NULL, reason = ? WHERE id = ? AND directory = ?"
            if db.execute(still, (reason, batch, sealed)).rowcount and payloads is not None:
                db.execute("INSERT OR REPLACE INTO directories VALUES (?, ?)", (batch, b"".join(payloads)))


def _problem(anchor: Anchor, state: str, reason: str) -> Problem:
    return Problem(anchor.owner, anchor.root, anchor.cid, state, reason)
