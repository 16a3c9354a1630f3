"""Flower ClientApp of a hospital.

Node configuration (``flower-supernode --node-config``): ``images`` (folder), and where updates are to be signed
``medprov-config`` (path of medprov.toml) with ``hospital`` (a name in it); ``device``, ``max-images``, ``threads`` (of
the processor, 1 unless it is set) and those of :mod:`medprov_node.privacy` are optional.

An answer holds the difference of the weights (trained minus received; the mean negative gradient where the federation
shares its optimiser), the figures, and a receipt that binds them to the round, the received weights and the federation.
No picture and no file name leaves the hospital: errors go to the hospital's own log, the coordinator hears only that
there was one.
"""

from __future__ import annotations

import logging
import os

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation
from medprov_ledger.keys import load_account
from medprov_node import privacy as protection
from medprov_node import secure_aggregation
from medprov_watermark.training import encoding, secagg, tasks
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import OPTIMISERS, check
from medprov_watermark.training.pictures import MAX_IMAGES
from medprov_watermark.training.privacy import SECURE, Privacy, withheld
from medprov_watermark.training.tasks.base import Data, Task, TaskError, Work, work_seed

log = logging.getLogger("medprov.node")
app = ClientApp()

MEMORY = "medprov-lost-"
"""Records in the node's state, by optimiser: what encodings of former differences or gradients lost."""


@dataclass(frozen=True)
class _Prepared:
    assignment: ex.Assignment
    task: Task
    weights: dict[str, ex.Float32]
    data: Data
    work: Work


class RefusedError(Exception):
    """What the coordinator hears when a round fails here: that it failed, and nothing from this hospital."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the hospital's own pictures and answer with a signed difference."""
    return _guarded(_train, message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure weights on the pictures that the hospital holds back."""
    return _guarded(_evaluate, message, context)


@app.query(secagg.KEYS)
def make_keys(message: Message, context: Context) -> Message:
    """Begin a round of secure aggregation."""
    return _guarded(_make_keys, message, context)


@app.query(secagg.SHARES)
def make_shares(message: Message, context: Context) -> Message:
    """Share this hospital's secrets of the round among the others."""
    return _guarded(_make_shares, message, context)


@app.query(secagg.UNMASK)
def open_sum(message: Message, context: Context) -> Message:
    """Help to open the sum of a round."""
    return _guarded(_open_sum, message, context)


def images_folder(context: Context) -> Path:
    """The folder of this node's images.

    The node's own configuration decides. Only in a simulation (no ``images`` there, but a ``partition-id``) the run
    configuration's ``images`` is taken: folders joined by the system's path separator, one per partition.

    Raises
    ------
    TaskError
        Neither names a folder.
    """
    own = context.node_config.get("images")
    if own is not None:
        return Path(str(own))
    partition, shared = context.node_config.get("partition-id"), context.run_config.get("images")
    if isinstance(partition, int) and isinstance(shared, str):
        folders = shared.split(os.pathsep)
        if 0 <= partition < len(folders) and folders[partition]:
            return Path(folders[partition])
    raise TaskError("this node knows no images: set 'images' in its configuration to a folder")


def receipt(assignment: ex.Assignment, update: bytes, examples: int, account: LocalAccount | None) -> ConfigRecord:
    """Bind an update to its round by its hash, signed as EIP-191 personal message over the 32-byte digest."""
    signer, signature = "", b""
    if account is not None:
        digest = ex.update_digest(assignment.federation, assignment.number, assignment.base, update, examples)
        signer = str(account.address)
        signature = bytes(account.sign_message(encode_defunct(primitive=digest)).signature)
    return ConfigRecord(
        {
            ex.ROUND: assignment.number,
            ex.BASE: assignment.base,
            ex.UPDATE: update,
            ex.SIGNER: signer,
            ex.SIGNATURE: signature,
        }
    )


def _guarded(handler: Callable[[Message, Context], Message], message: Message, context: Context) -> Message:
    try:
        with _own_threads(context):
            return handler(message, context)
    except Exception:
        # An error text may hold file names, and those may hold patients' names: it must not travel.
        log.exception("round failed")
        raise RefusedError("this hospital could not do the round; its own log says why") from None


def _train(message: Message, context: Context) -> Message:
    p = _prepare(message, context)
    privacy = protection.wanted(message, context)
    if privacy is not None and privacy.mode == SECURE:
        secure_aggregation.check_begun(context, p.assignment.number, p.assignment.attempt)
    account = _account(context, p.assignment.federation)
    done = p.task.train(p.work, p.weights, p.data)
    examples, skipped, figures = p.data.examples, p.data.skipped, done.metrics
    if privacy is not None and privacy.mode != SECURE:
        examples, skipped, figures = 1, 0, withheld(p.task.metrics)
    records, update = _outgoing(done.deltas, privacy, p.assignment, message, context)
    metrics = MetricRecord({**figures, ex.NUM_EXAMPLES: examples, ex.SKIPPED: skipped})
    bound = receipt(p.assignment, update, examples, account)
    return Message(RecordDict({**records, ex.METRICS: metrics, ex.RECEIPT: bound}), reply_to=message)


def _outgoing(
    deltas: dict[str, ex.Float32],
    privacy: Privacy | None,
    assignment: ex.Assignment,
    message: Message,
    context: Context,
) -> tuple[dict[str, ArrayRecord], bytes]:
    """An update as it leaves, and its hash."""
    if privacy is not None:
        if assignment.encoding != "float32":
            raise TaskError(f"privacy '{privacy.mode}' and encoding '{assignment.encoding}' do not go together")
        deltas = protection.bounded(deltas, privacy)
        if privacy.mode == SECURE:
            question = message.content.config_records[secagg.SECAGG]
            masked = secure_aggregation.make_masked(question, context, deltas, privacy.clip)
            return {ex.ARRAYS: ArrayRecord({secagg.MASKED: Array(masked)})}, secagg.masked_hash(masked)
    arrays, scales, sent = _encoded(deltas, assignment, context)
    records = {ex.ARRAYS: ArrayRecord({name: Array(array) for name, array in arrays.items()})}
    if scales is not None:
        records[ex.SCALES] = ArrayRecord({ex.SCALES: Array(scales)})
    return records, ex.model_hash(sent)


def _make_keys(message: Message, context: Context) -> Message:
    question = message.content.config_records[secagg.SECAGG]
    account = _account(context, secagg.value(question, "federation", bytes))

    def sign(digest: bytes) -> tuple[str, bytes]:
        if account is None:
            return "", b""
        return str(account.address), bytes(account.sign_message(encode_defunct(primitive=digest)).signature)

    return _secagg(secure_aggregation.make_keys(question, context, sign), message)


def _make_shares(message: Message, context: Context) -> Message:
    question = message.content.config_records[secagg.SECAGG]
    return _secagg(secure_aggregation.make_shares(question, context, _members(context)), message)


def _open_sum(message: Message, context: Context) -> Message:
    return _secagg(secure_aggregation.open_sum(message.content.config_records[secagg.SECAGG], context), message)


def _secagg(answer: ConfigRecord, message: Message) -> Message:
    return Message(RecordDict({secagg.SECAGG: answer}), reply_to=message)


def _encoded(
    deltas: dict[str, ex.Float32], assignment: ex.Assignment, context: Context
) -> tuple[dict[str, NDArray[np.generic]], ex.Float32 | None, dict[str, ex.Float32]]:
    """What is sent, its steps, and what the coordinator will read in it."""
    if assignment.encoding == "float32":
        arrays, scales = encoding.encode(deltas, assignment.encoding)
        return arrays, scales, deltas
    memory, place = None, MEMORY + assignment.optimiser
    if assignment.feedback and place in context.state.array_records:
        kept = context.state.array_records[place]
        memory = {name: np.asarray(kept[name].numpy(), np.float32) for name in kept}
    meant = encoding.with_memory(deltas, memory)
    arrays, scales = encoding.encode(meant, assignment.encoding)
    sent = encoding.decode(arrays, scales)
    if assignment.feedback:
        lost = encoding.lost(meant, sent)
        context.state[place] = ArrayRecord({name: Array(array) for name, array in lost.items()})
    return arrays, scales, sent


def _evaluate(message: Message, context: Context) -> Message:
    p = _prepare(message, context)
    examples, figures = p.task.evaluate(p.work, p.weights, p.data)
    metrics = MetricRecord({**figures, ex.NUM_EXAMPLES: examples})
    return Message(RecordDict({ex.METRICS: metrics}), reply_to=message)


def _prepare(message: Message, context: Context) -> _Prepared:
    assignment = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
    task = tasks.find(assignment.task)
    encoding.check(assignment.encoding)
    settings = task.settings(assignment.settings)
    # a setting that one side does not know would be trained with two different values
    for what, came, known in (
        ("settings", set(assignment.settings), set(task.flat(settings))),
        ("progress", set(assignment.progress), set(task.begin(settings))),
    ):
        if came != known:
            raise TaskError(f"round {assignment.number}: {what} {sorted(came ^ known)[:5]} are known to one side only")
    weights = _arrays(message, ex.ARRAYS)
    if ex.model_hash(weights) != assignment.base:
        raise TaskError(f"round {assignment.number}: the weights are not those that the assignment names")
    limit = context.node_config.get("max-images", MAX_IMAGES)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise TaskError(f"max-images is {limit}: a number of pictures from 1 up is needed")
    data = task.load(images_folder(context), settings, limit)
    work = Work(
        moments=_moments(message, assignment, weights),
        settings=settings,
        steps=assignment.steps,
        progress=assignment.progress,
        seed=work_seed(settings.seed, assignment.attempt, _label(context, _account(context, assignment.federation))),
        device=str(context.node_config.get("device", "cpu")),
    )
    return _Prepared(assignment, task, weights, data, work)


def _moments(
    message: Message, assignment: ex.Assignment, weights: dict[str, ex.Float32]
) -> dict[str, ex.Float32] | None:
    """The federation's moments where the assignment says so; weights that are only to be measured come without."""
    if assignment.optimiser not in OPTIMISERS:
        raise TaskError(f"optimiser '{assignment.optimiser}' is unknown: install the coordinator's version")
    if assignment.optimiser == "own" or message.metadata.message_type != MessageType.TRAIN:
        return None
    moments = _arrays(message, ex.MOMENTS)
    check(moments, weights)
    return moments


def _arrays(message: Message, name: str) -> dict[str, ex.Float32]:
    record = message.content.array_records[name]
    return {key: ex.decode_array(record[key].data, tuple(record[key].shape)) for key in sorted(record)}


def _label(context: Context, account: LocalAccount | None) -> str:
    """What sets this node's random numbers apart: its member's address, the same wherever the member's node runs.

    A node that does not sign has its place in a simulation and, last, the id that the SuperLink drew for it.
    """
    if account is not None:
        return str(account.address)
    return str(context.node_config.get("partition-id", context.node_id))


@contextmanager
def _own_threads(context: Context) -> Iterator[None]:
    """Compute with the node's number of threads: with another number a training's sums end in other bits."""
    threads = context.node_config.get("threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise TaskError(f"threads is {threads}: a number from 1 up is needed")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _members(context: Context) -> frozenset[str] | None:
    """Addresses of the federation's members by its contract; None where this hospital does not sign."""
    if context.node_config.get("hospital") is None:
        return None
    path = str(context.node_config.get("medprov-config", ""))
    federation = Federation(Chain.connect(Config.load(Path(path) if path else None)))
    return frozenset(member.address for member in federation.members())


def _account(context: Context, federation: bytes) -> LocalAccount | None:
    hospital = context.node_config.get("hospital")
    if hospital is None:
        return None
    config, account = _load_account(str(context.node_config.get("medprov-config", "")), str(hospital))
    if federation != config.federation_id:
        raise TaskError("the coordinator trains for another federation; not signed")
    return account


@lru_cache(maxsize=64)
def _load_account(path: str, hospital: str) -> tuple[Config, LocalAccount]:
    """Read a key once per process: opening the keystore is slow on purpose."""
    config = Config.load(Path(path) if path else None)
    return config, load_account(config.hospital(hospital))
