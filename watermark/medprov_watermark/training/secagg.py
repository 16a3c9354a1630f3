"""Secure aggregation as both sides see it: names, whole numbers instead of floats, masks, what is signed.

Protocol of Bonawitz et al., CCS 2017, figure 4, over the complete graph. Sums are taken modulo 2**32 in whole numbers:
masks cancel exactly, and the sum does not depend on the order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.training import exchange as ex

SECAGG = "secagg"
"""Record of configuration in both directions."""
MASKED = "masked"
"""Encoding of an update, and the one array that it is: uint32, all tensors in the order of their names."""
FEWEST = 3
"""Members: with two each learns the other's update from the sum."""

KEYS, SHARES, UNMASK = "secagg_keys", "secagg_shares", "secagg_unmask"
"""Actions of the questions beside training, in their order; training comes before the last."""

UInt32 = NDArray[np.uint32]


def levels(members: int) -> int:
    """Steps that an update's bound is divided into, as many as the sum of all members' has room for."""
    if not 1 <= members <= 2**16:
        raise ex.ExchangeError(f"{members} members cannot be summed: from 1 to 65536 can")
    return (2**31 - 1) // members


def quantised(deltas: ex.Arrays, clip: float, members: int) -> UInt32:
    """An update as whole numbers modulo 2**32.

    Parameters
    ----------
    deltas : mapping of str to float32 array
        Of an L2 norm of at most `clip`; coordinates beyond it are cut.
    clip : float
    members : int
        How many take part, dropouts included.

    Returns
    -------
    uint32 array (N,)
        Rounded to the nearest step; each is wrong by at most ``clip / levels(members) / 2``.
    """
    flat = np.concatenate([np.asarray(deltas[name], np.float64).ravel() for name in sorted(deltas)])
    steps = np.rint(np.clip(flat / clip, -1, 1) * levels(members)).astype(np.int64)
    return steps.astype(np.uint32)


def restored(total: UInt32, clip: float, members: int, shapes: ex.Shapes) -> dict[str, NDArray[np.float64]]:
    """The sum of `quantised` updates as tensors, float64."""
    flat = total.view(np.int32).astype(np.float64) * (clip / levels(members))
    out: dict[str, NDArray[np.float64]] = {}
    start = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name])
        out[name] = flat[start : start + size].reshape(shapes[name])
        start += size
    return out


def size_of(shapes: ex.Shapes) -> int:
    """Coordinates of all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def mask(seed: bytes, size: int) -> UInt32:
    """Uniform whole numbers out of a secret, by SHAKE-256 (FIPS 202, section 6.2): all bits of the secret count."""
    data = hashlib.shake_256(b"medprov mask 1" + seed).digest(4 * size)
    return np.frombuffer(data, "<u4").astype(np.uint32)


def masked_hash(masked: UInt32) -> bytes:
    """What a member's receipt names, 32 bytes."""
    return hashlib.sha256(b"medprov masked update 1" + masked.astype("<u4").tobytes()).digest()


def keys_digest(federation: bytes, number: int, attempt: int, node: int, first: bytes, second: bytes) -> bytes:
    """What a member signs so that the coordinator cannot put its own keys in the place of a member's, 32 bytes."""
    text = b"".join(
        [
            b"medprov secagg keys 1",
            federation,
            *(value.to_bytes(8, "big") for value in (number, attempt, node)),
            hashlib.sha256(first).digest(),
            hashlib.sha256(second).digest(),
        ]
    )
    return hashlib.sha256(text).digest()


def commitment(seed: bytes) -> bytes:
    """What a member says of its own mask's seed beforehand, 32 bytes: wrong shares are found by it."""
    return hashlib.sha256(b"medprov secagg seed 1" + seed).digest()


def lowest_threshold(members: int) -> int:
    """Fewest shares that may open a sum: more than half.

    With half of them the coordinator could ask one half for the shares of a member's own mask and the other half for
    those of its key, and open a single update (Bonawitz et al., section 6.2).
    """
    return members // 2 + 1


def usual_threshold(members: int) -> int:
    """Two thirds and one more: also a third of the members together with the coordinator opens no single update."""
    return 2 * members // 3 + 1


def values(record: Mapping[str, object], key: str, kind: type, longest: int) -> list[Any]:
    """A list of one type out of a record.

    Raises
    ------
    ExchangeError
        Absent, of other types, or too long.
    """
    found = record.get(key)
    if not isinstance(found, list) or len(found) > longest or not all(type(value) is kind for value in found):
        raise ex.ExchangeError(f"secure aggregation: {key} must be a list of {kind.__name__}, at most {longest}")
    return found


def value(record: Mapping[str, object], key: str, kind: type) -> Any:
    """One value of a type out of a record.

    Raises
    ------
    ExchangeError
        Absent or of another type.
    """
    found = record.get(key)
    if type(found) is not kind:
        raise ex.ExchangeError(f"secure aggregation: {key} must be of type {kind.__name__}")
    return found
