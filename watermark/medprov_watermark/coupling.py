"""The integer coupling: W1 goes in as an additive-coupling invertible network with integer lifting.

The pixels are split into the two halves of a checkerboard. The residual of one half is an integer function of the other
half, of the amplitudes and of a few settings, so whoever knows those can compute it again and take it off:

    A' = A + r(B),   B' = B + r(A')          and back:   B = B' - r(A'),   A = A' - r(B)

(Dinh et al., NICE, 2015, for the coupling; integer lifting as in Hoogeboom et al., Integer Discrete Flows, 2019.)
Colour pictures take the same residual in all three channels. Samples that would leave the legal range, or would become
the padding value, stay as they are and are listed as exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import FIELD_BITS, CouplingNetwork
from medprov_watermark.resample import TABLE_BITS, resample

GAIN_ONE = 4096
"""Gain at which one unit of the residual field moves a sample by one (before `shift`)."""
_GAIN_BITS = 12
FAINT_BITS = 1
"""An attenuated region gets the residual divided by two to this power; part of the format."""


@dataclass(frozen=True)
class Frozen:
    """What both sides of the coupling know besides the picture.

    Parameters
    ----------
    gain : int
        1..65535, in units of ``1 / GAIN_ONE``.
    base, shift : int
        The network sees ``(sample - base) >> shift``, and the residual is scaled by ``2**shift``.
    legal : (int, int)
        Smallest and largest sample allowed.
    padding : int or None
        Sample value that stands for "no pixel"; it never changes and never appears anew.
    roi : bool array (H, W) or None
        True where no sample may change, or where it changes less.
    attenuate : bool
        The residual is scaled down in `roi` instead of left out.
    """

    gain: int
    base: int
    shift: int
    legal: tuple[int, int]
    padding: int | None = None
    roi: NDArray[np.bool_] | None = None
    attenuate: bool = False


@dataclass(frozen=True)
class Coupled:
    """Result of :func:`forward`.

    Parameters
    ----------
    picture : int array, shape of the cover
    exceptions : int64 array (n,)
        Flat pixel positions (row-major, H x W) that were left unchanged, ascending.
    """

    picture: NDArray[np.int32]
    exceptions: NDArray[np.int64]


def luminance(picture: NDArray[np.integer]) -> NDArray[np.int32]:
    """Integer luminance (ITU-R BT.601 weights in 1/256), int32 (H, W)."""
    if picture.ndim == 2:
        return picture.astype(np.int32)
    p = picture.astype(np.int32)
    return (77 * p[..., 0] + 150 * p[..., 1] + 29 * p[..., 2] + 128) >> 8


def checkerboard(height: int, width: int) -> NDArray[np.bool_]:
    """True on half A: row + column even."""
    return np.asarray((np.arange(height)[:, None] + np.arange(width)[None]) % 2 == 0)


def _neighbours(plane: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    p = np.pad(plane, 1, mode="reflect")
    return [p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]]


def _residual(
    picture: NDArray[np.int32],
    known: NDArray[np.bool_],
    pattern: NDArray[np.int64],
    network: CouplingNetwork,
    frozen: Frozen,
) -> NDArray[np.int64]:
    """Residual (H, W) computed from the `known` half alone; only its values on the other half are meant."""
    grey = luminance(picture)
    height, width = grey.shape
    up, down, left, right = _neighbours(grey)
    fourfold = np.where(known, 4 * grey, up + down + left + right)
    small = resample(fourfold, cr.SIZE, cr.SIZE)
    mean = (small + (1 << (2 * TABLE_BITS + 1))) >> (2 * TABLE_BITS + 2)
    seen = np.clip((mean - frozen.base) >> frozen.shift, 0, 255)
    field = network(seen, pattern)
    wide = resample(field, height, width)
    bits = FIELD_BITS + 2 * TABLE_BITS + _GAIN_BITS
    moves = wide * (frozen.gain << frozen.shift)
    move = (moves + (1 << (bits - 1))) >> bits
    if frozen.roi is not None and frozen.attenuate:
        bits += FAINT_BITS
        move = np.where(frozen.roi, (moves + (1 << (bits - 1))) >> bits, move)
    colour = picture[..., None] if picture.ndim == 2 else picture
    low, high = frozen.legal
    smallest = np.min([np.min(_neighbours(colour[..., c]), axis=0) for c in range(colour.shape[2])], axis=0)
    largest = np.max([np.max(_neighbours(colour[..., c]), axis=0) for c in range(colour.shape[2])], axis=0)
    move = np.asarray(np.clip(move, np.minimum(low - smallest, 0), np.maximum(high - largest, 0)), np.int64)
    if frozen.roi is not None and not frozen.attenuate:
        move[frozen.roi] = 0
    return move


def _any_channel(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(mask.any(axis=2)) if mask.ndim == 3 else mask


def _like(plane: NDArray[np.int64], picture: NDArray[np.int32]) -> NDArray[np.int64]:
    return plane[..., None] if picture.ndim == 3 else plane


def _untouchable(picture: NDArray[np.int32], frozen: Frozen) -> NDArray[np.bool_]:
    if frozen.padding is None:
        return np.zeros(picture.shape[:2], np.bool_)
    return _any_channel(picture == frozen.padding)


def forward(
    cover: NDArray[np.unsignedinteger], values: NDArray[np.int64], network: CouplingNetwork, frozen: Frozen
) -> Coupled:
    """Put W1 into a picture.

    Parameters
    ----------
    cover : uint8 or uint16 array (H, W) or (H, W, 3)
    values : int64 array (WRITTEN,)
        Signed amplitudes in quarters.
    """
    picture = cover.astype(np.int32)
    pattern = network.synthesise(values)
    even = checkerboard(*picture.shape[:2])
    low, high = frozen.legal
    still = _untouchable(picture, frozen)
    skipped = np.zeros(picture.shape[:2], np.bool_)
    for target in (even, ~even):
        move = np.where(target & ~still, _residual(picture, ~target, pattern, network, frozen), 0)
        moved = picture + _like(move, picture)
        bad = _any_channel((moved < low) | (moved > high))
        if frozen.padding is not None:
            bad |= _any_channel(moved == frozen.padding)
        bad &= move != 0
        skipped |= bad
        picture = np.where(_like(bad.astype(np.int64), picture) != 0, picture, moved).astype(np.int32)
    return Coupled(picture, np.flatnonzero(skipped))


def inverse(
    marked: NDArray[np.unsignedinteger],
    values: NDArray[np.int64],
    exceptions: NDArray[np.int64],
    network: CouplingNetwork,
    frozen: Frozen,
) -> NDArray[np.int32]:
    """Take W1 out again, bit for bit.

    Parameters
    ----------
    marked : uint8 or uint16 array (H, W) or (H, W, 3)
        I1.
    exceptions : int64 array (n,)
        What :func:`forward` listed.

    Returns
    -------
    int32 array, shape of `marked`
    """
    picture = marked.astype(np.int32)
    pattern = network.synthesise(values)
    even = checkerboard(*picture.shape[:2])
    still = _untouchable(picture, frozen)
    still = np.ascontiguousarray(still)
    still.reshape(-1)[exceptions] = True
    for target in (~even, even):
        move = np.where(target & ~still, _residual(picture, ~target, pattern, network, frozen), 0)
        picture = (picture - _like(move, picture)).astype(np.int32)
    return picture
