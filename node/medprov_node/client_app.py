"""Flower ClientApp of a hospital.

Node configuration (``flower-supernode --node-config``): ``images`` (folder), and where updates are to be signed
``medprov-config`` (path of medprov.toml) with ``hospital`` (a name in it); ``device`` and ``max-images`` are optional.

An answer holds the difference of the weights (trained minus received), the figures, and a receipt that binds them to
the round, the received weights and the federation. No picture and no file name leaves the hospital: errors go to the
hospital's own log, the coordinator hears only that there was one.
"""

from __future__ import annotations

import logging
import os

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from medprov_ledger.config import Config
from medprov_ledger.keys import load_account
from medprov_node import task
from medprov_watermark.training import exchange as ex

log = logging.getLogger("medprov.node")
app = ClientApp()


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
    raise task.TaskError("this node knows no images: set 'images' in its configuration to a folder")


def receipt(assignment: ex.Assignment, deltas: ex.Arrays, examples: int, account: LocalAccount | None) -> ConfigRecord:
    """Bind an update to its round, signed as EIP-191 personal message over the 32-byte digest."""
    update = ex.model_hash(deltas)
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
        return handler(message, context)
    except Exception:
        # An error text may hold file names, and those may hold patients' names: it must not travel.
        log.exception("round failed")
        raise RefusedError("this hospital could not do the round; its own log says why") from None


def _train(message: Message, context: Context) -> Message:
    assignment, weights, pictures, device = _prepare(message, context)
    account = _account(context, assignment)
    done = task.train(assignment, weights, pictures, _label(context), device)
    content = RecordDict(
        {
            ex.ARRAYS: ArrayRecord({name: Array(array) for name, array in done.deltas.items()}),
            ex.METRICS: MetricRecord(
                {
                    ex.NUM_EXAMPLES: done.examples,
                    ex.LOSS: done.loss,
                    ex.BIT_ACCURACY: done.accuracy,
                    ex.PROBABILITY: done.probability,
                    ex.TARGET_DB: done.db,
                    ex.SKIPPED: pictures.skipped,
                }
            ),
            ex.RECEIPT: receipt(assignment, done.deltas, done.examples, account),
        }
    )
    return Message(content, reply_to=message)


def _evaluate(message: Message, context: Context) -> Message:
    assignment, weights, pictures, device = _prepare(message, context)
    examples, loss, accuracy = task.evaluate(assignment, weights, pictures, device)
    metrics = MetricRecord({ex.NUM_EXAMPLES: examples, ex.LOSS: loss, ex.BIT_ACCURACY: accuracy})
    return Message(RecordDict({ex.METRICS: metrics}), reply_to=message)


def _prepare(message: Message, context: Context) -> tuple[ex.Assignment, dict[str, ex.Float32], task.Pictures, str]:
    assignment = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
    record = message.content.array_records[ex.ARRAYS]
    weights = {name: ex.decode_array(record[name].data, tuple(record[name].shape)) for name in sorted(record)}
    limit = context.node_config.get("max-images", task.MAX_IMAGES)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise task.TaskError(f"max-images is {limit}: a number of pictures from 1 up is needed")
    return (
        assignment,
        weights,
        task.load_pictures(images_folder(context), limit),
        str(context.node_config.get("device", "cpu")),
    )


def _label(context: Context) -> str:
    """What sets this node's random numbers apart: its place in a simulation, its own id in a deployment."""
    return str(context.node_config.get("partition-id", context.node_id))


def _account(context: Context, assignment: ex.Assignment) -> LocalAccount | None:
    hospital = context.node_config.get("hospital")
    if hospital is None:
        return None
    config, account = _load_account(str(context.node_config.get("medprov-config", "")), str(hospital))
    if assignment.federation != config.federation_id:
        raise task.TaskError(f"round {assignment.number}: the coordinator trains for another federation; not signed")
    return account


@lru_cache(maxsize=64)
def _load_account(path: str, hospital: str) -> tuple[Config, LocalAccount]:
    """Read a key once per process: opening the keystore is slow on purpose."""
    config = Config.load(Path(path) if path else None)
    return config, load_account(config.hospital(hospital))
