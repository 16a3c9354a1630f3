"""What a round leaves behind, and what a run needs from outside: anchor, store, members."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from medprov_coordinator.screening import Rejection
from medprov_watermark.training import exchange as ex


@dataclass(frozen=True)
class Anchored:
    """A round as the chain has it; hashes are of 32 bytes."""

    number: int
    model_hash: bytes
    cid: str
    updates_root: bytes
    metrics_hash: bytes


class RoundAnchor(Protocol):
    """Writes rounds to the chain."""

    def anchor(self, number: int, model_hash: bytes, cid: str, updates_root: bytes, metrics_hash: bytes) -> str | None:
        """Anchor a round; gives the transaction's hash."""

    def last(self) -> Anchored | None:
        """The last anchored round."""

    def round(self, number: int) -> Anchored | None:
        """An anchored round; None where there is none of this number."""


class Store(Protocol):
    """Content-addressed store that checkpoints are published in."""

    def put(self, data: bytes) -> str:
        """Store bytes; gives their CID, the one of `medprov_ledger.cid.of`."""

    def get(self, cid: str) -> bytes:
        """Bytes of a CID."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Parameters
    ----------
    kind : str
        ``started``, ``resumed``, ``absent`` (fewer hospitals than the quorum), ``members`` (the chain does not answer,
        the last list is used), ``asked``, ``screened``, ``refused``, ``aggregated``, ``saved``, ``pending`` (a round
        waits for its anchor), ``anchored``, ``round``, ``finished``,
        ``moments`` (those of the optimiser begin anew).
    number : int
        Rounds accepted so far; of ``anchored`` and ``pending`` the round that it is about.
    attempt : int
        Rounds tried so far, this one included.
    text : str
        One line for people.
    figures : mapping
        For programs.
    """

    kind: str
    number: int
    attempt: int
    text: str
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Services:
    """What a run is connected to. All of it may be absent: then rounds are kept in a folder or only in memory.

    Parameters
    ----------
    federation : bytes
        Federation id, 32 bytes; zeros stand for none.
    members : callable or None
        Gives the addresses of the members at this moment. None: updates need no signature.
    """

    federation: bytes = ex.NO_FEDERATION
    anchor: RoundAnchor | None = None
    store: Store | None = None
    members: Callable[[], frozenset[str]] | None = None
    on_event: Callable[[Event], None] | None = None


@dataclass(frozen=True)
class UpdateEntry:
    """One accepted update in a round's record; with it anybody can compute the round's root again."""

    node: int
    examples: int
    signer: str
    update: str
    digest: str
    signature: str
    leaf: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundReport:
    """An accepted round.

    Parameters
    ----------
    number, attempt : int
    base, model : str
        Hashes of the weights before and after, hexadecimal.
    updates : tuple of UpdateEntry
        Accepted updates in the order of the leaves.
    rejected : tuple of Rejection
    rule, note : str
        How they were aggregated.
    nodes : tuple of int
        Whose updates went in.
    train, evaluate, probe : mapping of str to float
        Figures: means over the accepted updates, means over the hospitals' held-back pictures, probe set.
    root : str
        Merkle root of the updates' leaves, hexadecimal.
    task, encoding : str
        What was trained, and how updates were sent.
    moments : str
        Hash of the optimiser's moments after the round, hexadecimal; empty where each hospital has its own.
    sites : mapping of int to mapping
        Each hospital's figures of the accepted model on its held-back pictures, by node.
    bytes_down, bytes_up : int
        Bytes of all arrays that were sent out and that came, evaluations included, without the transport's envelope.
    privacy : mapping
        Mode, bound and noise, and each member's epsilon where it has one; empty where updates are not protected.
    cid : str
        Where the weights are published; empty without a store.
    audit : str
        Hash of the audit log's last line before this record, hexadecimal; empty where there is no log.
    transaction : str or None
        Set once the round is anchored; not part of the record.
    """

    number: int
    attempt: int
    base: str
    model: str
    updates: tuple[UpdateEntry, ...]
    rejected: tuple[Rejection, ...]
    rule: str
    note: str
    nodes: tuple[int, ...]
    train: Mapping[str, float]
    evaluate: Mapping[str, float]
    probe: Mapping[str, float]
    root: str
    cid: str
    task: str = "watermark"
    encoding: str = "float32"
    moments: str = ""
    sites: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    privacy: Mapping[str, object] = field(default_factory=dict)
    audit: str = ""
    transaction: str | None = None

    def record(self) -> str:
        """Canonical JSON of the round: what the metrics hash is taken over."""
        body = {
            "version": 1,
            "round": self.number,
            "attempt": self.attempt,
            "base": self.base,
            "model": self.model,
            "updates": [vars(u) for u in self.updates],
            "rejected": [vars(r) for r in self.rejected],
            "rule": self.rule,
            "note": self.note,
            "nodes": list(self.nodes),
            "train": dict(self.train),
            "evaluate": dict(self.evaluate),
            "probe": dict(self.probe),
            "root": self.root,
            "cid": self.cid,
            "audit": self.audit,
            "task": self.task,
            "encoding": self.encoding,
            "moments": self.moments,
            "sites": {str(node): dict(found) for node, found in self.sites.items()},
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "privacy": dict(self.privacy),
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def metrics_hash(self) -> bytes:
        """SHA-256 of the record, 32 bytes."""
        return hashlib.sha256(self.record().encode()).digest()


@dataclass(frozen=True)
class Refusal:
    """An attempt at a round that was refused; the updates that came are kept as evidence.

    Parameters
    ----------
    number : int
        The round that was tried.
    attempt : int
    base : str
        Hash of the weights that were sent, hexadecimal.
    reason : str
    updates : tuple of UpdateEntry
        Those that passed the screening.
    rejected : tuple of Rejection
    probe : mapping of str to float
        What the candidate reached; empty where none was made.
    """

    number: int
    attempt: int
    base: str
    reason: str
    updates: tuple[UpdateEntry, ...]
    rejected: tuple[Rejection, ...]
    probe: Mapping[str, float]

    def record(self) -> str:
        """Canonical JSON."""
        body = {
            "version": 1,
            "refused": self.reason,
            "round": self.number,
            "attempt": self.attempt,
            "base": self.base,
            "updates": [vars(u) for u in self.updates],
            "rejected": [vars(r) for r in self.rejected],
            "probe": dict(self.probe),
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
