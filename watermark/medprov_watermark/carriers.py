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

With a consortium key the same coefficients are dealt out to other carriers, with other signs: who does not have the key
reads noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

SIZE = 256
CODE = 416
PILOTS = 104
NULLS = 145
WRITTEN = CODE + PILOTS
TOTAL = WRITTEN + NULLS
BAND = (12, 68)
WIDTH = BAND[1]
"""Both DCT indices of every coefficient lie in ``1 .. WIDTH - 1``."""
DCT_BITS = 14
MIN_KEY = 16
"""Least length of a consortium key, bytes."""

COEFFICIENTS = 5
"""Coefficients of one carrier."""

_SEED = b"medprov carriers 2"


@dataclass(frozen=True)
class Carriers:
    """The carriers of everybody, or those of a consortium key.

    Parameters
    ----------
    index : int16 array (TOTAL, COEFFICIENTS, 2)
        Row and column DCT index of each coefficient.
    sign : int8 array (TOTAL, COEFFICIENTS)
        +1 or -1.
    pilot_signs : int8 array (PILOTS,)
        Known signs of the pilots.
    """

    index: NDArray[np.int16]
    sign: NDArray[np.int8]
    pilot_signs: NDArray[np.int8]

    def scatter(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
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
        spectrum = np.zeros((WIDTH, WIDTH), np.int64)
        used = self.index[:WRITTEN].astype(np.intp)
        spectrum[used[..., 0], used[..., 1]] = self.sign[:WRITTEN] * values[:, None]
        return spectrum


def _rings() -> NDArray[np.int16]:
    """The coefficients by ring, int16 (COEFFICIENTS, TOTAL, 2), from low to high frequency."""
    low, high = BAND
    pairs = [
        (u * u + v * v, u, v)
        for u in range(1, WIDTH)
        for v in range(1, WIDTH)
        if low * low <= u * u + v * v < high * high
    ]
    pairs.sort()
    return np.array([p[1:] for p in pairs[: COEFFICIENTS * TOTAL]], np.int16).reshape(COEFFICIENTS, TOTAL, 2)


@lru_cache(maxsize=8)
def derive(key: bytes | None = None) -> Carriers:
    """The carriers that belong to a key.

    Parameters
    ----------
    key : bytes or None
        A consortium's secret; None gives the carriers that everybody has.

    Raises
    ------
    ValueError
        The key is shorter than MIN_KEY bytes.
    """
    if key is not None and len(key) < MIN_KEY:
        raise ValueError(f"a consortium key has at least {MIN_KEY} bytes, not {len(key)}")
    # The label's length is in front, so that no key and label run into each other.
    seed = _SEED if key is None else _SEED + b"|key|" + len(key).to_bytes(4, "big") + key

    def stream(label: bytes, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(hashlib.shake_256(seed + b"|" + label).digest(8 * count), "<u8")

    def signs(label: bytes, count: int) -> NDArray[np.int8]:
        return np.where(stream(label, count) & np.uint64(1), 1, -1).astype(np.int8)

    rings = _rings()
    index = np.empty((TOTAL, COEFFICIENTS, 2), np.int16)
    for ring in range(COEFFICIENTS):
        index[:, ring] = rings[ring][np.argsort(stream(b"order%d" % ring, TOTAL), kind="stable")]
    parts = index, signs(b"sign", TOTAL * COEFFICIENTS).reshape(TOTAL, -1), signs(b"pilots", PILOTS)
    for part in parts:
        part.setflags(write=False)
    return Carriers(*parts)


@cache
def dct_table() -> NDArray[np.int64]:
    """Integer DCT-II basis, int64 (WIDTH, SIZE): row u is ``round(2**DCT_BITS * sqrt(2/SIZE) * cos(...))``."""
    u = np.arange(WIDTH)[:, None]
    x = np.arange(SIZE)[None]
    basis = np.sqrt(2 / SIZE) * np.cos(np.pi * (2 * x + 1) * u / (2 * SIZE))
    return np.asarray(np.rint(basis * 2**DCT_BITS), np.int64)


@cache
def digest() -> str:
    """SHA-256 of all integer tables without a key; a release names it and refuses any other."""
    public = derive()
    h = hashlib.sha256()
    for part in (public.index.astype("<i2"), public.sign, public.pilot_signs, dct_table().astype("<i8")):
        h.update(np.ascontiguousarray(part).tobytes())
    return h.hexdigest()
