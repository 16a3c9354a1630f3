"""List decoding as the verifier does it, against a directory of many records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medprov_watermark.payload import DATA_BYTES, Directory, Payload, find_in
from medprov_watermark.watermarker import Extraction


def directory(true: Sequence[Payload], strangers: int, seed: int = 0) -> Directory:
    """Some payloads among random ones.

    Parameters
    ----------
    true : sequence of Payload
    strangers : int
        How many random payloads to add.
    """
    rng = np.random.default_rng(seed)
    return Directory.of([*true, *(Payload.from_data(rng.bytes(DATA_BYTES)) for _ in range(strangers))])


def without(records: Directory, payload: Payload) -> Directory:
    """The directory when the owner of `payload` has never registered it."""
    kept = [i for i, known in enumerate(records.payloads) if known != payload]
    return Directory(tuple(records.payloads[i] for i in kept), records.codewords[kept])


def find(read: Extraction, records: Directory) -> Payload | None:
    """The record that the soft bits of a picture name, or None."""
    # Pilots that are surely there say that the picture is marked, not that it is marked with one of these records.
    found = find_in(read.soft_bits, records, max(1.0, read.false_alarm))
    return None if found is None else found.payload
