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
    """A round as the chain has it."""

    number: int
    model_hash: bytes
    cid: str


class RoundAnchor(Protocol):
    """Writes rounds to the chain."""

    def anchor(self, number: int, model_hash: bytes, cid: str, updates_root: bytes, metrics_hash: bytes) -> str | None:
        """Anchor a round; gives the transaction's hash."""

    def last(self) -> Anchored | None:
        """The last anchored round."""


class Store(Protocol):
    """Content-addressed store that checkpoints are published in."""

    def put(self, data: bytes) -> str:
        """Store bytes; gives their CID."""

    def get(self, cid: str) -> bytes:
        """Bytes of a CID."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Parameters
    ----------
    kind : str
        ``started``, ``resumed``, ``asked``, ``screened``, ``refused``, ``aggregated``, ``saved``, ``anchored``,
        ``round``, ``finished``.
    number : int
        Rounds accepted so far.
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
    cid : str
        Where the weights are published; empty without a store.
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
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def metrics_hash(self) -> bytes:
        """SHA-256 of the record, 32 bytes."""
        return hashlib.sha256(self.record().encode()).digest()
