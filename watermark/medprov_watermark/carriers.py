"""The carriers of the ownership mark W1: fixed integer tables that belong to the format, not to the weights.

The working picture is ``SIZE`` x ``SIZE``. A carrier is a set of ``COEFFICIENTS`` coefficients of its two-dimensional
DCT-II, each with a sign; no coefficient belongs to two carriers, so the carriers are exactly orthogonal. Every carrier
takes one coefficient from each of ``COEFFICIENTS`` rings of equal population, so that all carriers see the same mixture
of frequencies (6 to 34 cycles per picture).

Three kinds of carrier share the band:

* ``CODE`` carriers hold the codeword bits,
* ``PILOTS`` have known signs and decide presence and geometry,
* ``NULLS`` are never written: they measure, in the very picture at hand, how strongly an unmarked carrier answers.

On an unmarked picture the three kinds are exchangeable, which is what makes the presence test honest.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

SIZE = 256
CODE = 128
PILOTS = 64
NULLS = 64
WRITTEN = CODE + PILOTS
TOTAL = WRITTEN + NULLS
BAND = (12, 68)
WIDTH = BAND[1]
"""Both DCT indices of every coefficient lie in ``1 .. WIDTH - 1``."""
DCT_BITS = 14

_SEED = b"medprov carriers 1"


def _stream(label: bytes, count: int) -> NDArray[np.uint64]:
    raw = hashlib.shake_256(_SEED + b"|" + label).digest(8 * count)
    return np.frombuffer(raw, dtype="<u8")


@cache
def table() -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Coefficients and signs of all carriers.

    Returns
    -------
    index : int16 array (TOTAL, COEFFICIENTS, 2)
        Row and column DCT index of each coefficient.
    sign : int8 array (TOTAL, COEFFICIENTS)
        +1 or -1.
    """
    low, high = BAND
    pairs = [
        (u * u + v * v, u, v)
        for u in range(1, WIDTH)
        for v in range(1, WIDTH)
        if low * low <= u * u + v * v < high * high
    ]
    pairs.sort()
    per = len(pairs) // TOTAL
    index = np.zeros((TOTAL, per, 2), np.int16)
    for ring in range(per):
        order = np.argsort(_stream(b"order%d" % ring, TOTAL), kind="stable")
        chunk = np.array([p[1:] for p in pairs[ring * TOTAL : (ring + 1) * TOTAL]], np.int16)
        index[:, ring] = chunk[order]
    sign = np.where(_stream(b"sign", TOTAL * per) & np.uint64(1), 1, -1).astype(np.int8).reshape(TOTAL, per)
    return index, sign


COEFFICIENTS = int(table()[0].shape[1])


@cache
def pilot_signs() -> NDArray[np.int8]:
    """Known signs of the pilots, int8 (PILOTS,)."""
    return np.where(_stream(b"pilots", PILOTS) & np.uint64(1), 1, -1).astype(np.int8)


@cache
def dct_table() -> NDArray[np.int64]:
    """Integer DCT-II basis, int64 (WIDTH, SIZE): row u is ``round(2**DCT_BITS * sqrt(2/SIZE) * cos(...))``."""
    u = np.arange(WIDTH)[:, None]
    x = np.arange(SIZE)[None]
    basis = np.sqrt(2 / SIZE) * np.cos(np.pi * (2 * x + 1) * u / (2 * SIZE))
    return np.asarray(np.rint(basis * 2**DCT_BITS), np.int64)


def digest() -> str:
    """SHA-256 of all integer tables; a release names it and refuses any other."""
    index, sign = table()
    h = hashlib.sha256()
    for part in (index.astype("<i2"), sign, pilot_signs(), dct_table().astype("<i8")):
        h.update(np.ascontiguousarray(part).tobytes())
    return h.hexdigest()


def scatter(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put one value per written carrier on its coefficients.

    Parameters
    ----------
    values : int array (WRITTEN,)
        Signed amplitude of each code carrier and pilot.

    Returns
    -------
    int64 array (WIDTH, WIDTH)
        The spectrum, before the weights of frequency.
    """
    index, sign = table()
    spectrum = np.zeros((WIDTH, WIDTH), np.int64)
    used = index[:WRITTEN].astype(np.intp)
    spectrum[used[..., 0], used[..., 1]] = sign[:WRITTEN] * values[:, None]
    return spectrum
