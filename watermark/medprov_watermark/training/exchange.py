"""What coordinator and hospitals say to each other: names, weights as arrays, model hash, the binding of an update.

Both sides import this module, so it names no transport. Weights and updates are float32 arrays by tensor name. A
model's hash is the SHA-256 of its safetensors file with the tensors in the order of their names; a hospital answers
with the difference (trained minus received weights) or with a mean gradient, not with weights, so that what is checked
is what was sent. What is trained is none of this module's business (:mod:`medprov_watermark.training.tasks`).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from medprov_watermark.errors import WatermarkError

PROTOCOL = 3

ARRAYS = "arrays"
"""Record of arrays: weights on the way down, differences on the way up."""
SCALES = "scales"
"""Record of arrays on the way up where differences come as integers: one array of that name, a step per tensor."""
MOMENTS = "moments"
"""Record of arrays on the way down where all share them, see :mod:`medprov_watermark.training.moments`."""
ASSIGNMENT = "assignment"
"""Record of configuration on the way down."""
METRICS = "metrics"
RECEIPT = "receipt"
"""Record of configuration on the way up: what the update is bound to, and the signature."""

NUM_EXAMPLES = "num-examples"
LOSS = "loss"
BIT_ACCURACY = "bit-accuracy"
SKIPPED = "skipped-images"

ROUND = "round"
BASE = "base"
UPDATE = "update"
SIGNER = "signer"
SIGNATURE = "signature"
RECEIPT_KEYS = frozenset({ROUND, BASE, UPDATE, SIGNER, SIGNATURE})

NO_FEDERATION = bytes(32)
"""Stands for the federation's id where none is configured."""

Float32 = NDArray[np.float32]
Arrays = Mapping[str, Float32]
Shapes = Mapping[str, tuple[int, ...]]


class ExchangeError(WatermarkError):
    """A message or a set of weights is not what the protocol asks for."""


def state_of(model: nn.Module) -> dict[str, Float32]:
    """Copies of all persistent tensors of `model`, float32, C order, sorted by name."""
    out: dict[str, Float32] = {}
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.dtype != torch.float32:
            raise ExchangeError(f"tensor {name} is {tensor.dtype}: only float32 tensors are trained together")
        out[name] = np.array(tensor.detach().cpu().numpy(), np.float32, order="C", copy=True)
    return out


def load_state(model: nn.Module, arrays: Arrays) -> None:
    """Put `arrays` into `model`; names and shapes must fit exactly.

    Raises
    ------
    ExchangeError
        Another network's weights.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if shapes_of(arrays) != expected:
        raise ExchangeError("the weights belong to a network of another size: use the settings they were trained with")
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Shape of every array."""
    return {name: tuple(array.shape) for name, array in arrays.items()}


def to_safetensors(arrays: Arrays) -> bytes:
    """Serialise float32 arrays, sorted by name, without metadata.

    Written here and not by the library so that the hash of a model cannot move with the library's version. Format:
    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, dict[str, object]] = {}
    parts: list[bytes] = []
    offset = 0
    for name in sorted(arrays):
        array = arrays[name]
        if array.dtype != np.float32:
            raise ExchangeError(f"tensor {name} is {array.dtype}: only float32 tensors are trained together")
        raw = array.astype("<f4", copy=False).tobytes(order="C")
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def from_safetensors(data: bytes) -> dict[str, Float32]:
    """Read what `to_safetensors` wrote.

    Raises
    ------
    ExchangeError
        Truncated or malformed bytes, or tensors that are not float32.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExchangeError(f"not a safetensors file: {error}") from error
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ExchangeError(f"tensor {name} is {array.dtype}: only float32 tensors are trained together")
    return {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}


def model_hash(arrays: Arrays) -> bytes:
    """SHA-256 of the safetensors bytes, 32 bytes. Updates are hashed in the same way."""
    return hashlib.sha256(to_safetensors(arrays)).digest()


def decode_array(data: bytes, shape: tuple[int, ...], dtype: str = "<f4") -> NDArray[Any]:
    """Read one array in NumPy's file format whose shape and type are known, and nothing else.

    The header is compared and the length counted before anything is allocated: a few bytes from outside could claim
    terabytes.

    Raises
    ------
    ExchangeError
        Anything but an array of this shape and type in C order.
    """
    stream = io.BytesIO(data)
    wanted = np.dtype(dtype)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ExchangeError(f"array file version {version} instead of (1, 0)")
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except ExchangeError:
        raise
    except Exception as error:  # the header is parsed as a Python literal: hostile text has many ways to fail
        raise ExchangeError(f"unreadable array header ({type(error).__name__})") from error
    if fortran or kind != wanted:
        raise ExchangeError(f"array of {kind}{' in Fortran order' if fortran else ''} instead of {wanted} in C order")
    if found != shape:
        raise ExchangeError(f"array of shape {str(found)[:60]} instead of {shape}")
    start, expected = stream.tell(), wanted.itemsize * math.prod(shape)
    if len(data) - start != expected:
        raise ExchangeError(f"array of {len(data) - start} bytes instead of {expected}")
    return np.frombuffer(data, wanted, offset=start).reshape(shape).astype(wanted.newbyteorder("="))


Scalar = int | float | str | bool
ConfigValue = int | float | str | bytes | bool

_SETTING, _PROGRESS = "set.", "at."
_MOST_VALUES = 200


@dataclass(frozen=True)
class Assignment:
    """What the coordinator asks of a hospital in one round.

    Parameters
    ----------
    number : int
        Round that this attempt is to become, from 1.
    attempt : int
        Counts refused rounds too; it goes into the seeds, so that a repeated round is not the refused one again.
    base : bytes
        Hash of the weights that come with it.
    federation : bytes
        Federation id, 32 bytes.
    task : str
        What is trained.
    steps : int
        Optimiser steps to make.
    settings : mapping of str to int, float, str or bool
        Settings of the task.
    progress : mapping of str to float
        How far the training has come; travels with the weights because a hospital keeps no state between rounds.
    encoding : str
        How the difference is to be sent, see :mod:`medprov_watermark.training.encoding`.
    feedback : bool
        Whether a hospital adds what the encoding lost to its next difference.
    optimiser : str
        ``shared``: moments come with the weights, and a mean gradient is the answer; see
        :mod:`medprov_watermark.training.moments`.
    """

    number: int
    attempt: int
    base: bytes
    federation: bytes
    task: str
    steps: int
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    progress: Mapping[str, float] = field(default_factory=dict)
    encoding: str = "float32"
    feedback: bool = True
    optimiser: str = "own"

    def to_config(self) -> dict[str, ConfigValue]:
        """Flat form for a configuration record."""
        return {
            "protocol": PROTOCOL,
            ROUND: self.number,
            "attempt": self.attempt,
            BASE: self.base,
            "federation": self.federation,
            "task": self.task,
            "steps": self.steps,
            "encoding": self.encoding,
            "feedback": self.feedback,
            "optimiser": self.optimiser,
            **{_SETTING + key: value for key, value in self.settings.items()},
            **{_PROGRESS + key: float(value) for key, value in self.progress.items()},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Assignment:
        """Read and check what a coordinator sent; the task checks its settings and progress.

        Raises
        ------
        ExchangeError
            A missing key, a wrong type, a figure that no honest run has, or another protocol.
        """
        protocol = _integer(config, "protocol", 0, 2**31)
        if protocol != PROTOCOL:
            raise ExchangeError(f"protocol {protocol} instead of {PROTOCOL}: install the coordinator's version")
        if len(config) > _MOST_VALUES:
            raise ExchangeError(f"assignment of {len(config)} values: at most {_MOST_VALUES} are plausible")
        feedback = config.get("feedback")
        if not isinstance(feedback, bool):
            raise ExchangeError(f"assignment: feedback is {str(feedback)[:40]}: true or false is needed")
        settings: dict[str, Scalar] = {}
        progress: dict[str, float] = {}
        for key, value in config.items():
            if key.startswith(_PROGRESS):
                progress[key.removeprefix(_PROGRESS)] = _number(config, key, -1e15, 1e15)
            elif key.startswith(_SETTING):
                if not isinstance(value, int | float | str):
                    raise ExchangeError(f"assignment: {key[:40]} is a {type(value).__name__}")
                settings[key.removeprefix(_SETTING)] = value
        return cls(
            number=_integer(config, ROUND, 1, 2**62),
            attempt=_integer(config, "attempt", 1, 2**62),
            base=_digest(config, BASE),
            federation=_digest(config, "federation"),
            task=_text(config, "task"),
            steps=_integer(config, "steps", 1, 10**6),
            settings=settings,
            progress=progress,
            encoding=_text(config, "encoding"),
            feedback=feedback,
            optimiser=_text(config, "optimiser"),
        )


def _integer(config: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ExchangeError(f"assignment: {key} is {str(value)[:40]}: an integer from {low} to {high} is needed")
    return value


def _number(config: Mapping[str, object], key: str, low: float, high: float) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ExchangeError(f"assignment: {key} is {str(value)[:40]}: a number from {low} to {high} is needed")
    return float(value)


def _text(config: Mapping[str, object], key: str) -> str:
    value = config.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 60 or not value.isprintable():
        raise ExchangeError(f"assignment: {key} is {str(value)[:40]}: a name is needed")
    return value


def _digest(config: Mapping[str, object], key: str) -> bytes:
    value = config.get(key)
    if not isinstance(value, bytes) or len(value) != 32:
        raise ExchangeError(f"assignment: {key} must be 32 bytes")
    return value


def update_digest(federation: bytes, number: int, base: bytes, update: bytes, examples: int) -> bytes:
    """What a hospital signs for one update, 32 bytes.

    Parameters
    ----------
    federation, base, update : bytes
        Federation id, hash of the received weights and of the differences, 32 bytes each.
    number : int
        Round.
    examples : int
        Number of training pictures, because it decides the update's weight in a mean.
    """
    if not len(federation) == len(base) == len(update) == 32:
        raise ExchangeError("federation id and hashes must be 32 bytes each")
    text = federation + number.to_bytes(8, "big") + base + update + examples.to_bytes(8, "big")
    return hashlib.sha256(b"medprov update 1" + text).digest()


def update_leaf(digest: bytes, signature: bytes) -> bytes:
    """Leaf of a round's Merkle tree for one update: the digest and its signature (empty where unsigned)."""
    return hashlib.sha256(b"medprov signed update 1" + digest + signature).digest()
