"""List decoding as the verifier does it, against a directory of many records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.geometry import ALL
from medprov_watermark.payload import DATA_BYTES, Payload, encode, find_in


@dataclass(frozen=True)
class Directory:
    """Payloads and their codewords.

    Parameters
    ----------
    payloads : tuple of Payload
    codewords : float32 array (n, 128)
        As float32, because every look-up multiplies all of them with soft bits.
    """

    payloads: tuple[Payload, ...]
    codewords: NDArray[np.float32]


def directory(true: Sequence[Payload], strangers: int, seed: int = 0) -> Directory:
    """Some payloads among random ones.

    Parameters
    ----------
    true : sequence of Payload
    strangers : int
        How many random payloads to add.
    """
    rng = np.random.default_rng(seed)
    payloads = (*true, *(Payload.from_data(rng.bytes(DATA_BYTES)) for _ in range(strangers)))
    return Directory(payloads, np.array([encode(p) for p in payloads], np.float32))


def find(soft: NDArray[np.float32], records: Directory, without: Payload | None = None) -> Payload | None:
    """The payload that :func:`medprov_watermark.payload.find_in` names among all records.

    Parameters
    ----------
    soft : float32 array (128,)
    records : Directory
    without : Payload or None
        Taken out of the directory first.
    """
    scores = records.codewords @ soft
    size = len(records.payloads)
    if without is not None:
        own = [i for i, p in enumerate(records.payloads) if p == without]
        scores[own] = -np.inf
        size -= len(own)
    if size == 0:
        return None
    # Only the best record can pass, and the bound counts records times tries: so this is find_in over all of them,
    # without encoding all of them anew for every picture.
    best = records.payloads[int(np.argmax(scores))]
    found = find_in(soft, [best], len(ALL) * size)
    return None if found is None else found.payload
