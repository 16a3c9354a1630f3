"""Smaller updates: differences as half precision or as 8-bit integers, and the memory of what was lost by it.

What an encoding loses is not gone: a hospital adds it to its next difference (error feedback; Seide et al., Interspeech
2014; Karimireddy et al., "Error feedback fixes SignSGD", ICML 2019). Hash and signature of an update are over the
decoded differences, which both sides compute alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.training import exchange as ex

TYPES: Mapping[str, str] = {"float32": "<f4", "float16": "<f2", "int8": "|i1"}
"""NumPy type of the tensors on the way, by name of the encoding."""
_STEPS = 127
_LARGEST_HALF = float(np.finfo(np.float16).max)


def check(encoding: str) -> None:
    """Refuse an unknown name.

    Raises
    ------
    ExchangeError
    """
    if encoding not in TYPES:
        raise ex.ExchangeError(f"encoding is {encoding[:40]}: choose one of {', '.join(TYPES)}")


def encode(deltas: ex.Arrays, encoding: str) -> tuple[dict[str, NDArray[np.generic]], ex.Float32 | None]:
    """Differences as they are sent.

    Parameters
    ----------
    deltas : mapping of str to float32 array
        Finite.
    encoding : str

    Returns
    -------
    arrays : dict of str to array
        Of the same names and shapes.
    scales : float32 array (number of tensors,) or None
        For ``int8``: the step of each tensor, in the order of the names.
    """
    check(encoding)
    names = sorted(deltas)
    if encoding == "float32":
        return {name: deltas[name] for name in names}, None
    if encoding == "float16":
        # asarray: NumPy turns what it does with arrays without axes into scalars.
        limited = {name: np.clip(deltas[name], -_LARGEST_HALF, _LARGEST_HALF) for name in names}
        return {name: np.asarray(array, "<f2") for name, array in limited.items()}, None
    largest = np.array([np.max(np.abs(deltas[name]), initial=0.0) for name in names], np.float32)
    # as float32 the division may round a step down, and the largest value out of range: clipped below
    scales = np.asarray(largest / np.float32(_STEPS), np.float32)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, scale in zip(names, scales, strict=True):
        steps = np.rint(deltas[name].astype(np.float64) / float(scale)) if scale > 0 else np.zeros(deltas[name].shape)
        arrays[name] = np.asarray(np.clip(steps, -_STEPS, _STEPS), np.int8)
    return arrays, scales


def decode(arrays: Mapping[str, NDArray[np.generic]], scales: ex.Float32 | None) -> dict[str, ex.Float32]:
    """Differences from what was sent, float32.

    Raises
    ------
    ExchangeError
        A step that is negative or not finite, or not one for each tensor.
    """
    names = sorted(arrays)
    if scales is None:
        return {name: np.asarray(arrays[name], np.float32) for name in names}
    if scales.shape != (len(names),) or not np.isfinite(scales).all() or (scales < 0).any():
        raise ex.ExchangeError("the steps of an int8 update are not one finite number for each tensor")
    return {
        name: np.asarray(arrays[name].astype(np.float32) * scale, np.float32)
        for name, scale in zip(names, scales, strict=True)
    }


def with_memory(deltas: ex.Arrays, memory: ex.Arrays | None) -> dict[str, ex.Float32]:
    """Differences plus what former encodings lost; a memory of other networks is left out."""
    if memory is None or ex.shapes_of(memory) != ex.shapes_of(deltas):
        return dict(deltas)
    if not all(np.isfinite(array).all() for array in memory.values()):
        return dict(deltas)
    return {name: np.asarray(deltas[name] + memory[name], np.float32) for name in sorted(deltas)}


def lost(meant: ex.Arrays, sent: ex.Arrays) -> dict[str, ex.Float32]:
    """What the encoding lost."""
    return {name: np.asarray(meant[name] - sent[name], np.float32) for name in sorted(meant)}
