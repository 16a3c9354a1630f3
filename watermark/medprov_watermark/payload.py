"""The data bits of the ownership mark W1 and their error correction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import convolutional
from medprov_watermark.chance import chance

DATA_BYTES = 12
CODE_BITS = convolutional.LENGTH
PARITY_BITS = CODE_BITS - 8 * DATA_BYTES
"""What the code adds, the check included: one word of so many bits in ``2**PARITY_BITS`` holds a payload."""
MAX_CHANCE = 2.0**-7
"""A codeword is accepted when at most so many words of a random code would fit the soft bits as well."""

LIST_FALSE_MATCH = 1e-9
"""Largest accepted chance that list decoding names a payload that is not there."""

_BLOCK = 4096

_ROUNDS = 6
_HALF = DATA_BYTES // 2


def _crc_table() -> tuple[int, ...]:
    table = []
    for rest in range(256):
        for _ in range(8):
            rest = (rest << 1 ^ (0x07 if rest & 0x80 else 0)) & 0xFF
        table.append(rest)
    return tuple(table)


_CRC = _crc_table()


@dataclass(frozen=True)
class Payload:
    """What W1 carries.

    Parameters
    ----------
    perceptual_hash : bytes
        8 bytes, see :func:`medprov_watermark.hashing.perceptual_hash`, of the cover.
    serial : bytes
        4 bytes from the system's random source.

    Raises
    ------
    ValueError
        When a part has another length.
    """

    perceptual_hash: bytes
    serial: bytes

    def __post_init__(self) -> None:
        if len(self.perceptual_hash) != 8 or len(self.serial) != 4:
            raise ValueError(
                f"a payload is 8 bytes of hash and 4 of serial, not {len(self.perceptual_hash)} and {len(self.serial)}"
            )

    @property
    def data(self) -> bytes:
        """The 12 data bytes."""
        return self.perceptual_hash + self.serial

    @classmethod
    def from_data(cls, data: bytes) -> Payload:
        """Split 12 data bytes.

        Raises
        ------
        ValueError
            When there are not 12.
        """
        if len(data) != DATA_BYTES:
            raise ValueError(f"a payload is {DATA_BYTES} bytes, not {len(data)}")
        return cls(data[:8], data[8:])


@dataclass(frozen=True)
class Decoded:
    """A payload that was read.

    Parameters
    ----------
    payload : Payload
    corrected_bits : int
        Codeword bits whose sign was wrong.
    chance : float
        How many payloads would be expected to fit at least as well if the soft bits held none.
    """

    payload: Payload
    corrected_bits: int
    chance: float


def encode(payload: Payload) -> NDArray[np.int8]:
    """Turn a payload into its codeword.

    The 96 bits go through a fixed public permutation, so that two payloads with the same perceptual hash have
    unrelated codewords; eight bits of check follow, because the likeliest word after a heavy attack is often one that
    differs in a few neighbouring bits; all go through a tail-biting convolutional code
    (:mod:`medprov_watermark.convolutional`).

    Returns
    -------
    ndarray of int8
        (CODE_BITS,), +1 for a bit that is set and -1 for one that is not.
    """
    return np.asarray(_codewords([payload])[0], np.int8)


def decode(soft: NDArray[np.floating]) -> Decoded | None:
    """Find the payload in what was read from the carriers.

    By itself this cannot tell noise from a mark: one word of noise in ``1 / MAX_CHANCE`` is accepted. Ask the pilots
    first, and multiply `chance` with theirs.

    Parameters
    ----------
    soft : ndarray of float
        (CODE_BITS,), positive where the bit is likely set, its size the reliability. A value that is not finite says
        nothing and counts as 0.

    Returns
    -------
    Decoded or None
        None when not even the best codeword is better than chance.

    Raises
    ------
    ValueError
        When the shape is another.
    """
    if np.shape(soft) != (CODE_BITS,):
        raise ValueError(f"the soft bits must have the shape ({CODE_BITS},), not {np.shape(soft)}")
    values = np.asarray(soft, np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    # Only the ratios count, and so the sums cannot overflow.
    values = values / max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    data = convolutional.nearest(values)
    signs = convolutional.encode(data).astype(np.int8) * 2 - 1
    expected = float(chance(values * signs, PARITY_BITS))
    word = np.packbits(data).tobytes()
    if expected > MAX_CHANCE or word[DATA_BYTES:] != _check(word[:DATA_BYTES]):
        return None
    corrected = int(np.count_nonzero((signs > 0) != (values > 0)))
    return Decoded(Payload.from_data(_unpermute(word[:DATA_BYTES])), corrected, expected)


@dataclass(frozen=True)
class Directory:
    """Known payloads with their codewords, to be searched again and again.

    Parameters
    ----------
    payloads : tuple of Payload
    codewords : int8 array (payloads, CODE_BITS)
        +1 and -1.
    """

    payloads: tuple[Payload, ...]
    codewords: NDArray[np.int8]

    @classmethod
    def of(cls, payloads: Sequence[Payload]) -> Directory:
        """Encode payloads."""
        return cls(tuple(payloads), _codewords(payloads))


def find_in(soft: NDArray[np.floating], known: Directory | Sequence[Payload], tries: float) -> Decoded | None:
    """Decode against a list of known payloads, where the error correction alone fails.

    The soft bits are correlated with every codeword. For signs that are random and independent the normalised
    correlation exceeds z with a probability of at most ``exp(-z**2 / 2)`` (W. Hoeffding, "Probability Inequalities for
    Sums of Bounded Random Variables", 1963), whatever the soft bits are.

    Parameters
    ----------
    soft : float array (CODE_BITS,)
    known : Directory or sequence of Payload
    tries : float
        Among how many places, angles and sizes these soft bits were chosen. Where the choice was made by the pilots,
        :attr:`medprov_watermark.detection.Detection.false_alarm` counts those that could have been chosen by chance.
        Less than one counts as one: sure pilots say that a mark is there, not whose.

    Returns
    -------
    Decoded or None
        The best one, if ``payloads * tries * exp(-z**2 / 2)`` is at most LIST_FALSE_MATCH.
    """
    directory = known if isinstance(known, Directory) else Directory.of(known)
    length = float(np.linalg.norm(soft))
    if not directory.payloads or not length > 0 or not np.isfinite(length):
        return None
    scores, unit = np.empty(len(directory.payloads), np.float32), np.asarray(soft, np.float32) / np.float32(length)
    for first in range(0, len(scores), _BLOCK):  # NumPy makes floats of the words: of some at a time
        part = slice(first, first + _BLOCK)
        np.matmul(directory.codewords[part].astype(np.float32), unit, out=scores[part])
    best = int(np.argmax(scores))
    expected = len(directory.payloads) * max(1.0, tries) * float(np.exp(-(float(scores[best]) ** 2) / 2))
    if scores[best] <= 0 or expected > LIST_FALSE_MATCH:
        return None
    wrong = int(np.count_nonzero((np.asarray(soft) > 0) != (directory.codewords[best] > 0)))
    return Decoded(directory.payloads[best], wrong, expected)


def commitment(payload: Payload) -> bytes:
    """32 bytes, SHA3-256 of ``b"medprov payload 1"`` and the data: names a payload without showing it at once."""
    return hashlib.sha3_256(b"medprov payload 1" + payload.data).digest()


def _codewords(payloads: Sequence[Payload]) -> NDArray[np.int8]:
    words = (_permute(p.data) for p in payloads)
    data = np.frombuffer(b"".join(word + _check(word) for word in words), np.uint8).reshape(-1, DATA_BYTES + 1)
    return np.asarray(convolutional.encode(np.unpackbits(data, axis=1)).astype(np.int8) * 2 - 1, np.int8)


def _check(word: bytes) -> bytes:
    """CRC-8 with the polynomial 0x07 (ITU-T I.432.1), started with 0xFF so that zeros do not pass."""
    rest = 0xFF
    for byte in word:
        rest = _CRC[rest ^ byte]
    return bytes([rest])


def _round(number: int, half: bytes) -> bytes:
    return hashlib.shake_256(b"medprov payload permutation 1" + bytes([number]) + half).digest(_HALF)


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _permute(data: bytes) -> bytes:
    left, right = data[:_HALF], data[_HALF:]
    for number in range(_ROUNDS):
        left, right = right, _xor(left, _round(number, right))
    return left + right


def _unpermute(data: bytes) -> bytes:
    left, right = data[:_HALF], data[_HALF:]
    for number in reversed(range(_ROUNDS)):
        left, right = _xor(right, _round(number, left)), left
    return left + right
