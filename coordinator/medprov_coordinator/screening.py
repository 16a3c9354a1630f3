"""The gate: every reply of a round is checked before anything is computed with it. Nothing in a reply is trusted.

The gate never raises on what a hospital sent; a reply is accepted or rejected, with a reason.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import ArrayRecord, Message
from numpy.typing import NDArray

from medprov_coordinator.errors import SettingsError
from medprov_watermark.training import encoding as encodings
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg, tasks
from medprov_watermark.training.tasks.base import Ranges


@dataclass(frozen=True)
class Limits:
    """Where an update stops being plausible.

    Parameters
    ----------
    max_examples : int
        Largest number of training pictures that a hospital may claim.
    examples_factor : float
        In a mean no update weighs as more than this many times the round's median number of pictures.
    norm_factor : float
        Largest L2 norm of an update, in units of the round's median norm.
    relative_norm : float
        Largest L2 norm of an update, in units of `Expectation.base_norm`: of the weights it changes, or of the longest
        plausible gradient.
    min_cosine : float or None
        Direction gate: smallest cosine between an update and the coordinate-wise median of the round. None (the
        default) is off: one modality per hospital makes honest updates differ.
    """

    max_examples: int = 10_000_000
    examples_factor: float = 10.0
    norm_factor: float = 4.0
    relative_norm: float = 1.0
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_examples", "examples_factor", "norm_factor"):
            if not getattr(self, name) >= 1:
                raise SettingsError(f"{name.replace('_', '-')} is {getattr(self, name)}: choose a value from 1")
        if not self.relative_norm > 0:
            raise SettingsError(f"relative-norm is {self.relative_norm}: choose a value above 0")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise SettingsError(f"min-cosine is {self.min_cosine}: choose a value from -1 to 1")


@dataclass(frozen=True)
class Expectation:
    """What an honest reply of this round looks like.

    Parameters
    ----------
    number : int
        Round.
    base : bytes
        Hash of the weights that were sent out.
    federation : bytes
        Federation id, 32 bytes.
    shapes : mapping of str to tuple of int
        Name and shape of every tensor.
    base_norm : float
        L2 norm of the weights that were sent out; with shared moments of the longest plausible gradient.
    nodes : frozenset of int
        Nodes that were asked.
    members : frozenset of str or None
        Addresses whose signatures count. None: signatures are not asked for.
    metrics : mapping of str to (float, float)
        The task's figures and their ranges.
    encoding : str
        How differences are sent.
    common_norm : float
        L2 norm up to which an update is never too long beside the others.
    """

    number: int
    base: bytes
    federation: bytes
    shapes: ex.Shapes
    base_norm: float
    nodes: frozenset[int]
    members: frozenset[str] | None = None
    metrics: Ranges = field(default_factory=lambda: tasks.find("watermark").metrics)
    encoding: str = "float32"
    common_norm: float = 0.0


@dataclass(frozen=True)
class Update:
    """An accepted reply.

    Parameters
    ----------
    node : int
    deltas : mapping of str to float32 array
        Trained minus received weights; under masks one uint32 array.
    weight : float
        Number of examples, limited by `Limits.examples_factor`.
    metrics : mapping of str to float
    norm : float
        L2 norm of all differences together.
    update : bytes
        Hash of the differences.
    digest : bytes
        What the hospital signed or would have signed.
    signer : str
        Address, or an empty string.
    signature : bytes
    """

    node: int
    deltas: ex.Arrays = field(repr=False)
    weight: float
    metrics: Mapping[str, float]
    norm: float
    update: bytes
    digest: bytes
    signer: str
    signature: bytes

    @property
    def leaf(self) -> bytes:
        """Leaf of the round's Merkle tree."""
        return ex.update_leaf(self.digest, self.signature)


def place(update: Update) -> tuple[str, bytes, int]:
    """Where an update stands in sums and records: by its member's address, unsigned ones by their hash.

    Never by the node's id alone: every simulation and every deployment draws other ids.
    """
    return update.signer, update.update, update.node


@dataclass(frozen=True)
class Rejection:
    """A reply that was not used: a code for programs and a sentence for people."""

    node: int
    code: str
    detail: str


@dataclass(frozen=True)
class Screened:
    """Outcome of the gate: accepted ones in the order of `place`, rejected ones by their nodes' ids."""

    accepted: tuple[Update, ...]
    rejected: tuple[Rejection, ...]


class _RejectedError(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def flatten(arrays: ex.Arrays) -> NDArray[np.float64]:
    """All tensors in the order of their names as one float64 vector."""
    return np.concatenate([np.asarray(arrays[name], np.float64).ravel() for name in sorted(arrays)])


def read_deltas(records: Mapping[str, ArrayRecord], shapes: ex.Shapes, encoding: str) -> dict[str, ex.Float32]:
    """Differences whose names, shapes and encoding are known.

    Raises
    ------
    ExchangeError
        Other records, names, shapes, types or lengths.
    """
    wanted = {ex.ARRAYS, ex.SCALES} if encoding == "int8" else {ex.ARRAYS}
    if set(records) != wanted:
        raise ex.ExchangeError(f"array records {_clip(sorted(records))} instead of {sorted(wanted)}")
    record = records[ex.ARRAYS]
    if set(record.keys()) != set(shapes):
        missing, extra = sorted(set(shapes) - set(record.keys())), sorted(set(record.keys()) - set(shapes))
        raise ex.ExchangeError(f"tensors missing: {_clip(missing)}; not expected: {_clip(extra)}")
    arrays = {
        name: ex.decode_array(record[name].data, shapes[name], encodings.TYPES[encoding]) for name in sorted(shapes)
    }
    scales = None
    if encoding == "int8":
        if set(records[ex.SCALES].keys()) != {ex.SCALES}:
            raise ex.ExchangeError("the steps of an int8 update are one array")
        scales = ex.decode_array(records[ex.SCALES][ex.SCALES].data, (len(shapes),))
    return encodings.decode(arrays, scales)


def screen(replies: Iterable[Message], expected: Expectation, limits: Limits | None = None) -> Screened:
    """Accept or reject every reply of a training round.

    Nodes that were asked and did not answer are rejected with the code ``silent``.

    Notes
    -----
    The median of the norms is the lower one of the two middle values where the number of replies is even: with two
    replies the larger one cannot lift the limit that it is measured against.
    """
    limits = limits or Limits()
    updates: list[Update] = []
    rejected: list[Rejection] = []
    replies = list(replies)
    count = Counter(_node_of(reply) for reply in replies)
    for reply in replies:
        node = _node_of(reply)
        try:
            if node not in expected.nodes:
                raise _RejectedError("unexpected", "this node was not asked")
            if count[node] > 1:
                raise _RejectedError("duplicate", f"{count[node]} replies from one node")
            updates.append(_check(reply, node, expected, limits))
        except _RejectedError as reason:
            rejected.append(Rejection(node, reason.code, _clip(reason.detail)))
        except ex.ExchangeError as error:
            rejected.append(Rejection(node, "malformed", _clip(str(error))))
        except Exception as error:  # a reply is foreign input: whatever it breaks, the round goes on without it
            rejected.append(Rejection(node, "malformed", type(error).__name__))
    rejected += [Rejection(node, "silent", "no reply before the deadline") for node in expected.nodes - set(count)]
    updates, more = _compare(updates, limits, expected.common_norm)
    return Screened(
        tuple(sorted(_reweigh(updates, limits), key=place)),
        tuple(sorted(rejected + more, key=lambda r: (r.node, r.code))),
    )


def read_metrics(
    reply: Message, ranges: Ranges, limits: Limits, also: frozenset[str] = frozenset({ex.NUM_EXAMPLES})
) -> dict[str, float]:
    """Metrics of a reply: exactly those of `ranges` and `also`, finite, in range.

    Raises
    ------
    ExchangeError
        Anything else.
    """
    records = reply.content.metric_records
    if set(records.keys()) != {ex.METRICS}:
        raise ex.ExchangeError(f"metric records {_clip(sorted(records.keys()))} instead of '{ex.METRICS}'")
    record = records[ex.METRICS]
    names = frozenset(ranges) | also
    if set(record.keys()) != names:
        raise ex.ExchangeError(f"metrics {_clip(sorted(record.keys()))} instead of {sorted(names)}")
    out: dict[str, float] = {}
    for name in sorted(names):
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(float(value)):
            raise ex.ExchangeError(f"metric {name} is not a finite number")
        out[name] = float(value)
    examples = record[ex.NUM_EXAMPLES]
    if not isinstance(examples, int) or not 1 <= examples <= limits.max_examples:
        raise ex.ExchangeError(f"{ex.NUM_EXAMPLES} is {_clip(examples)}: 1 to {limits.max_examples} is plausible")
    for name, (low, high) in {**ranges, ex.SKIPPED: (0, 1e12)}.items():
        if name in out and not low <= out[name] <= high:
            raise ex.ExchangeError(f"metric {name} is outside {low:g} to {high:g}")
    return out


def _node_of(reply: Message) -> int:
    try:
        return int(reply.metadata.src_node_id)
    except (AttributeError, TypeError, ValueError):
        return -1


def _clip(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    clean = "".join(c if c.isprintable() else "?" for c in text[:200])
    return clean if len(text) <= 200 else clean + "..."


def _check(reply: Message, node: int, expected: Expectation, limits: Limits) -> Update:
    if reply.has_error():
        raise _RejectedError("error", f"the hospital's app failed with code {reply.error.code}")
    if not reply.has_content():
        raise _RejectedError("empty", "no content")
    content = reply.content
    if set(content.config_records.keys()) != {ex.RECEIPT}:
        raise ex.ExchangeError(f"records {_clip(sorted(content.keys()))} instead of the protocol's")
    metrics = read_metrics(reply, expected.metrics, limits, frozenset({ex.NUM_EXAMPLES, ex.SKIPPED}))
    if expected.encoding == secagg.MASKED:
        deltas, norm, update = _masked(content.array_records, expected.shapes)
    else:
        deltas, norm, update = _open(content.array_records, expected, limits)
    signer, signature, digest = _receipt(content.config_records[ex.RECEIPT], update, metrics, expected)
    return Update(node, deltas, metrics[ex.NUM_EXAMPLES], metrics, norm, update, digest, signer, signature)


def _masked(records: Mapping[str, ArrayRecord], shapes: ex.Shapes) -> tuple[dict[str, NDArray[Any]], float, bytes]:
    """An update under masks, of which nothing but the form can be judged; its norm counts as 0."""
    if set(records) != {ex.ARRAYS} or set(records[ex.ARRAYS].keys()) != {secagg.MASKED}:
        raise ex.ExchangeError(f"records {_clip(sorted(records))} instead of one masked array")
    masked = ex.decode_array(records[ex.ARRAYS][secagg.MASKED].data, (secagg.size_of(shapes),), "<u4")
    return {secagg.MASKED: masked}, 0.0, secagg.masked_hash(masked)


def _open(
    records: Mapping[str, ArrayRecord], expected: Expectation, limits: Limits
) -> tuple[dict[str, ex.Float32], float, bytes]:
    deltas = read_deltas(records, expected.shapes, expected.encoding)
    flat = flatten(deltas)
    if not np.isfinite(flat).all():
        raise _RejectedError("not_finite", "the update holds NaN or infinity")
    norm = float(np.sqrt(np.dot(flat, flat)))
    if norm == 0:
        raise _RejectedError("zero", "the update changes nothing")
    if norm > limits.relative_norm * expected.base_norm:
        largest = limits.relative_norm * expected.base_norm
        raise _RejectedError("norm", f"norm {norm:.3g}, {largest:.3g} is the most that is plausible")
    return deltas, norm, ex.model_hash(deltas)


def _receipt(
    receipt: Mapping[str, object], update: bytes, metrics: Mapping[str, float], expected: Expectation
) -> tuple[str, bytes, bytes]:
    if set(receipt.keys()) != ex.RECEIPT_KEYS:
        raise ex.ExchangeError(f"receipt with {_clip(sorted(receipt.keys()))} instead of {sorted(ex.RECEIPT_KEYS)}")
    if receipt[ex.ROUND] != expected.number or receipt[ex.BASE] != expected.base:
        raise _RejectedError("stale", f"the update belongs to round {_clip(receipt[ex.ROUND])} or to other weights")
    if receipt[ex.UPDATE] != update:
        raise _RejectedError("binding", "the receipt names another update than the one that came")
    signer, signature = receipt[ex.SIGNER], receipt[ex.SIGNATURE]
    if not isinstance(signer, str) or not isinstance(signature, bytes):
        raise ex.ExchangeError("signer must be text and signature bytes")
    digest = ex.update_digest(
        expected.federation, expected.number, expected.base, update, int(metrics[ex.NUM_EXAMPLES])
    )
    if not signer and not signature:
        if expected.members is not None:
            raise _RejectedError("unsigned", "the update is not signed by a member")
        return "", b"", digest
    if len(signature) != 65:
        raise _RejectedError("signature", f"signature of {len(signature)} bytes instead of 65")
    try:
        recovered = str(Account.recover_message(encode_defunct(primitive=digest), signature=signature))
    except Exception as error:  # the library raises many types on foreign bytes
        raise _RejectedError("signature", f"no signature ({type(error).__name__})") from error
    if recovered.lower() != signer.lower():
        raise _RejectedError("signature", "the signature is not the signer's over this update")
    if expected.members is not None and recovered.lower() not in {m.lower() for m in expected.members}:
        raise _RejectedError("foreign", f"{recovered} is not a member")
    return recovered, signature, digest


def _compare(updates: list[Update], limits: Limits, common_norm: float) -> tuple[list[Update], list[Rejection]]:
    """Checks that need the whole round: one vote per member, no copies, norms, directions."""
    rejected: list[Rejection] = []

    def keep(test: Mapping[int, str], code: str) -> list[Update]:
        rejected.extend(Rejection(u.node, code, test[u.node]) for u in updates if u.node in test)
        return [u for u in updates if u.node not in test]

    votes = Counter(u.signer for u in updates if u.signer)
    many = {u.node: f"{u.signer} signed {votes[u.signer]} updates" for u in updates if votes[u.signer] > 1}
    updates = keep(many, "votes")
    copies = Counter(u.update for u in updates)
    updates = keep({u.node: "the same update came from several nodes" for u in updates if copies[u.update] > 1}, "copy")
    if updates:
        limit = max(common_norm, limits.norm_factor * statistics.median_low([u.norm for u in updates]))
        updates = keep(
            {u.node: f"norm {u.norm:.3g}, the round's limit is {limit:.3g}" for u in updates if u.norm > limit}, "norm"
        )
    if limits.min_cosine is not None and len(updates) > 1:
        flat = np.stack([flatten(u.deltas) for u in updates])
        middle = np.median(flat, axis=0)
        scale = float(np.linalg.norm(middle))
        cosines = flat @ middle / (np.linalg.norm(flat, axis=1) * scale + 1e-300)
        bad = {
            u.node: f"cosine {c:.2f} to the round's median, {limits.min_cosine:.2f} is asked for"
            for u, c in zip(updates, cosines, strict=True)
            if c < limits.min_cosine
        }
        updates = keep(bad, "direction")
    return updates, rejected


def _reweigh(updates: list[Update], limits: Limits) -> list[Update]:
    if not updates:
        return []
    cap = limits.examples_factor * statistics.median_low([u.weight for u in updates])
    return [Update(**{**u.__dict__, "weight": min(u.weight, cap)}) for u in updates]
