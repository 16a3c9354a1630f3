"""The code of W1: a tail-biting convolutional code and its soft decoder.

Every data bit gives ``len(GENERATORS)`` code bits, each the parity of some of the last ``MEMORY + 1`` data bits; the
encoder begins in the state in which it will end, so no bit is spent on closing it (H. Ma, J. Wolf, "On Tail Biting
Convolutional Codes", IEEE Trans. Communications 34(2), 1986). The decoder is Viterbi's, carried around the circle until
it closes (R. Shao, S. Lin, M. Fossorier, "Two Decoding Algorithms for Tailbiting Codes", IEEE Trans. Communications
51(10), 2003).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

DATA_BITS = 104
MEMORY = 12
GENERATORS = (0o11145, 0o12477, 0o15573, 0o16727)
"""Of the largest free distance for this rate and memory (K. Larsen, "Short Convolutional Codes with Maximal Free
Distance for Rates 1/2, 1/3, and 1/4", IEEE Trans. Inf. Theory 19(3), 1973)."""
LENGTH = DATA_BITS * len(GENERATORS)
_STATES = 1 << MEMORY
_LAPS = 3
"""Times around the circle; more gain nothing that could be measured."""

Bits = NDArray[np.uint8]


@cache
def generator_matrix() -> Bits:
    """What each data bit does to the codeword, uint8 (DATA_BITS, LENGTH)."""
    matrix = np.zeros((DATA_BITS, DATA_BITS, len(GENERATORS)), np.uint8)
    for output, generator in enumerate(GENERATORS):
        for delay in range(MEMORY + 1):
            if generator >> (MEMORY - delay) & 1:
                data = np.arange(DATA_BITS)
                matrix[data, (data + delay) % DATA_BITS, output] ^= 1
    return matrix.reshape(DATA_BITS, LENGTH)


def encode(data: Bits) -> Bits:
    """Codewords, uint8 (..., LENGTH), of data bits (..., DATA_BITS)."""
    # float32 is exact here and has a fast product.
    sums = data.astype(np.float32) @ generator_matrix().astype(np.float32)
    return np.asarray(sums.astype(np.uint8) & 1, np.uint8)


def nearest(soft: NDArray[np.floating]) -> Bits:
    """The data bits whose codeword agrees best with soft bits, as far as the decoder sees.

    Parameters
    ----------
    soft : float array (LENGTH,)
        Positive where the bit is likely set, its size the reliability; finite.

    Returns
    -------
    uint8 array (DATA_BITS,)
    """
    received = np.asarray(soft, np.float32).reshape(DATA_BITS, len(GENERATORS))
    gains = received @ _words().T  # of each combination of output bits
    # A register is the new data bit before the state; the next state is the register without its last bit.
    branches = gains[:, _labels()]
    metric = np.zeros(_STATES, np.float32)
    choices = np.empty((DATA_BITS, _STATES), np.bool_)
    best, best_gain = _follow(choices, 0), -np.inf
    for _ in range(_LAPS):
        begun = metric
        for step, branch in enumerate(branches):
            into = (np.concatenate([metric, metric]) + branch).reshape(_STATES, 2)
            np.greater(into[:, 1], into[:, 0], out=choices[step])
            metric = np.maximum(into[:, 0], into[:, 1])
        origins = _origins(choices)
        gained = metric - begun[origins]
        closed = np.flatnonzero(origins == np.arange(_STATES))
        if closed.size:
            end = int(closed[gained[closed].argmax()])
            if gained[end] > best_gain:
                best, best_gain = _follow(choices, end), float(gained[end])
            if best_gain >= float(gained.max()):
                break
    if best_gain == -np.inf:
        return _follow(choices, int(metric.argmax()))
    return best


@cache
def _words() -> NDArray[np.float32]:
    """Signs of the output bits by label, float32 (labels, outputs)."""
    outputs = len(GENERATORS)
    return np.asarray((np.arange(1 << outputs)[:, None] >> np.arange(outputs) & 1) * 2 - 1, np.float32)


@cache
def _labels() -> NDArray[np.intp]:
    """The output bits that each register gives, as a number; (registers,)."""
    registers = np.arange(2 * _STATES)
    labels = np.zeros(2 * _STATES, np.intp)
    for output, generator in enumerate(GENERATORS):
        parity = registers & generator
        for shift in (16, 8, 4, 2, 1):
            parity ^= parity >> shift
        labels |= (parity & 1) << output
    return labels


def _origins(choices: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The state in which the best path to each state began."""
    states = np.arange(_STATES)
    for chosen in choices[::-1]:
        states = (2 * states + chosen[states]) & (_STATES - 1)
    return states


def _follow(choices: NDArray[np.bool_], state: int) -> Bits:
    """The data bits of the best path to a state."""
    data = np.empty(DATA_BITS, np.uint8)
    for step in range(DATA_BITS - 1, -1, -1):
        register = 2 * state + int(choices[step, state])
        data[step], state = register >> MEMORY, register & (_STATES - 1)
    return data
