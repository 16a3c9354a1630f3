"""How likely a codeword that fits soft bits is chance: the count of words of a random code that would fit as well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BISECTIONS = 25


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
