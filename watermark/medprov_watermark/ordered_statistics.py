"""Soft decoding of a binary linear code, and how likely what it finds is chance.

Ordered-statistics decoding (M. Fossorier, S. Lin, "Soft-Decision Decoding of Linear Block Codes Based on Ordered
Statistics", IEEE Trans. Inf. Theory 41(5), 1995): the most reliable independent positions are taken as read, the others
follow from the code; then a few of the reliable ones are flipped, the likeliest errors first, and the codeword that
contradicts the soft bits least is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

FLIPPED = (None, None, 64, 36)
"""One entry per number of flipped positions: among how many of the least reliable ones they are chosen, None for all.
Measured against an exhaustive fourth order, this loses nothing visible and takes 3 ms."""
_BISECTIONS = 40

Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class Code:
    """A systematic binary linear code of at most 32 parity bits.

    Parameters
    ----------
    check : uint8 array (parity, length)
        Parity-check matrix of full rank.
    """

    check: Bits

    @property
    def length(self) -> int:
        """Bits of a codeword."""
        return int(self.check.shape[1])

    @property
    def parity(self) -> int:
        """Parity bits."""
        return int(self.check.shape[0])


def nearest(soft: NDArray[np.float64], code: Code) -> Bits:
    """The codeword that fits soft bits best, as far as the search goes.

    Parameters
    ----------
    soft : float array (length,)
        Positive where the bit is likely set, its size the reliability; finite.

    Returns
    -------
    uint8 array (length,)
    """
    size = np.abs(soft)
    check, dependent, basis = _reduced(code.check, np.argsort(size, kind="stable"))
    hard = (soft > 0).astype(np.uint8)
    place = np.uint64(1) << np.arange(code.parity, dtype=np.uint64)
    words = check.T.astype(np.uint64) @ place  # which dependent bits a position flips
    start = np.uint64(int(np.bitwise_xor.reduce(words[hard.astype(bool)], initial=np.uint64(0))))
    costs = _byte_costs(size[dependent])
    words, reliability = words[basis], size[basis]

    best_cost, best = float(_cost(np.array([start]), costs)[0]), np.zeros(0, np.intp)
    for count, among in enumerate(FLIPPED, 1):
        chosen = _patterns(count, min(among or len(basis), len(basis)))
        changed = np.full(len(chosen), start)
        cost = np.zeros(len(chosen))
        for column in chosen.T:
            changed ^= words[column]
            cost += reliability[column]
        cost += _cost(changed, costs)
        first = int(cost.argmin())
        if cost[first] < best_cost:
            best_cost, best = float(cost[first]), chosen[first]
    out = hard.copy()
    out[basis[best]] ^= 1
    word = np.bitwise_xor.reduce(words[best], initial=start)
    out[dependent] ^= (word & place != 0).astype(np.uint8)
    return out


def chance(signed: NDArray[np.floating], parity: int) -> NDArray[np.float64]:
    """How many words of a random code would fit soft bits at least as well as a given one does.

    The sign patterns whose contradicted soft bits sum to no more than the given word's are counted by a saddle-point
    approximation (H. Daniels, "Saddlepoint Approximations in Statistics", 1954; the count without its prefactor is
    Chernoff's bound); each is a codeword with probability ``2**-parity``. ``tests`` and ``benchmarks/false_alarm.py``
    compare it with what decoding noise gives.

    Parameters
    ----------
    signed : float array (..., length)
        Soft bits times the word's signs.
    parity : int
        Parity bits of the code.

    Returns
    -------
    float64 array (...)
        0..1.
    """
    s = np.asarray(signed, np.float64)
    t = tilt(s)
    share = _share(s, t)
    count = np.logaddexp(0.0, -t[..., None] * s).sum(-1)
    width = t * np.sqrt(2 * np.pi * (s * s * share * (1 - share)).sum(-1))
    exponent = count - np.log(np.maximum(width, 1.0)) - parity * np.log(2.0)
    return np.asarray(np.exp(np.minimum(exponent, 0.0)), np.float64)


def tilt(signed: NDArray[np.floating], weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The scale on which soft bits are log-likelihood ratios as far as the word tells: the saddle point, > 0.

    Parameters
    ----------
    signed : float array (..., length)
    weights : float array (length,) or None
        How much each soft bit counts; None: all the same.
    """
    s = np.asarray(signed, np.float64)
    w = 1.0 if weights is None else weights
    unit = np.maximum(np.abs(s).mean(-1), np.finfo(np.float64).tiny)
    low, high = np.full(s.shape[:-1], 1e-3), np.full(s.shape[:-1], 1e3)
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        falling = (w * s * _share(s, middle / unit)).sum(-1) > 0
        low, high = np.where(falling, middle, low), np.where(falling, high, middle)
    return np.asarray(np.sqrt(low * high) / unit, np.float64)


def _share(s: NDArray[np.float64], tilt: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(np.clip(tilt[..., None] * s, -700, 700))), np.float64)


def _reduced(matrix: Bits, order: NDArray[np.intp]) -> tuple[Bits, NDArray[np.intp], NDArray[np.intp]]:
    """Gauss-Jordan elimination that makes the first independent columns of `order` the identity.

    Returns the reduced matrix, those columns (row by row), and the other columns in the given order.
    """
    check = matrix.copy()
    rows = len(check)
    pivots: list[int] = []
    for column in order.tolist():
        row = len(pivots)
        ones = np.flatnonzero(check[row:, column])
        if not ones.size:
            continue
        if ones[0]:
            check[[row, row + ones[0]]] = check[[row + ones[0], row]]
        others = check[:, column].astype(bool)
        others[row] = False
        check[others] ^= check[row]
        pivots.append(column)
        if len(pivots) == rows:
            break
    dependent = np.array(pivots, np.intp)
    return check, dependent, order[~np.isin(order, dependent)]


@cache
def _patterns(count: int, among: int) -> NDArray[np.intp]:
    return np.array(list(combinations(range(among), count)), np.intp).reshape(-1, count)


_BYTE_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.float64)


def _byte_costs(size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the reliabilities that the bits of each byte value stand for, float64 (bytes, 256)."""
    padded = np.zeros(-(-len(size) // 8) * 8)
    padded[: len(size)] = size
    return np.stack([_BYTE_BITS @ part for part in padded.reshape(-1, 8)])


def _cost(words: NDArray[np.uint64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = words[:, None].astype("<u8").view(np.uint8)
    return np.asarray(sum((row[parts[:, i]] for i, row in enumerate(costs)), np.zeros(len(words))), np.float64)
