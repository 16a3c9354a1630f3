"""The integer coupling: W1 goes in as an additive-coupling invertible network with integer lifting.

The pixels are split into the two halves of a checkerboard. The residual of one half is an integer function of the other
half, of the amplitudes and of a few settings, so whoever knows those can compute it again and take it off:

    A' = A + r(B),   B' = B + r(A')          and back:   B = B' - r(A'),   A = A' - r(B)

(Dinh et al., NICE, 2015, for the coupling; integer lifting as in Hoogeboom et al., Integer Discrete Flows, 2019.)
Colour pictures take the same residual in all three channels. Samples that would leave the legal range, or would become
the padding value, stay as they are and are listed as exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import FIELD_BITS, CouplingNetwork
from medprov_watermark.resample import TABLE_BITS, resample, table, taps
from medprov_watermark.workers import each

GAIN_ONE = 4096
"""Gain at which one unit of the residual field moves a sample by one (before `shift`)."""
_GAIN_BITS = 12
FAINT_BITS = 1
"""An attenuated region gets the residual divided by two to this power; part of the format."""
_BAND = 128
"""Rows that are worked on at a time: even, and few enough to stay in a processor's cache."""


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
    carriers : Carriers
        Those of everybody, or of a consortium key.
    attenuate : bool
        The residual is scaled down in `roi` instead of left out.
    """

    gain: int
    base: int
    shift: int
    legal: tuple[int, int]
    padding: int | None = None
    roi: NDArray[np.bool_] | None = None
    carriers: cr.Carriers = field(default_factory=cr.derive)
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


class _Canvas:
    """A picture with a border of one reflected sample, changed in place, half by half.

    The moves of one half depend on the other half alone, so bands of rows are worked on in parallel and none needs
    more memory than itself.
    """

    def __init__(
        self, picture: NDArray[np.unsignedinteger], kept: NDArray[np.int64], frozen: Frozen, network: CouplingNetwork
    ) -> None:
        self.height, self.width = picture.shape[:2]
        self.frozen, self.network = frozen, network
        colour = picture if picture.ndim == 3 else picture[..., None]
        self.padded = np.pad(colour.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="reflect")
        self.kept = None
        if kept.size:
            self.kept = np.zeros((self.height, self.width), np.bool_)
            self.kept.reshape(-1)[kept] = True

    def picture(self, like: NDArray[np.unsignedinteger]) -> NDArray[np.int32]:
        inner = self.padded[1:-1, 1:-1]
        return np.ascontiguousarray(inner if like.ndim == 3 else inner[..., 0])

    def move(self, parity: int, sign: int, pattern: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Add (`sign` 1) or take off (-1) the residual of the half whose row + column is of this parity.

        Returns
        -------
        list of int64 array
            Flat positions of samples that would have left the legal range and stayed.
        """
        self._reflect()
        grey = self.padded[..., 0] if self.padded.shape[2] == 1 else luminance(self.padded)
        field = self.network(self._seen(grey, parity), pattern)
        across = field.astype(np.float64) @ table(cr.SIZE, self.width).T
        columns = across[:, 0::2].copy(), across[:, 1::2].copy()
        bands = [range(top, min(top + _BAND, self.height)) for top in range(0, self.height, _BAND)]
        index, weight = taps(cr.SIZE, self.height)

        def work(band: range) -> list[NDArray[np.int64]]:
            out = []
            for start in (band.start, band.start + 1):
                rows = slice(start, band.stop, 2)
                first = (parity + start) % 2
                wide = np.zeros((len(range(start, band.stop, 2)), columns[first].shape[1]))
                for k in range(index.shape[1]):
                    wide += weight[rows, k, None] * columns[first][index[rows, k]]
                out.append(self._shift(rows, first, wide, sign))
            return out

        return [part for parts in each(work, bands) for part in parts]

    def _reflect(self) -> None:
        p = self.padded
        p[0], p[-1] = p[min(2, self.height)], p[max(-3, -self.height - 1)]
        p[:, 0], p[:, -1] = p[:, min(2, self.width)], p[:, max(-3, -self.width - 1)]

    def _seen(self, grey: NDArray[np.int32], parity: int) -> NDArray[np.int64]:
        """What the network sees: the half of the other parity, interpolated, at the working size."""
        fourfold = np.empty((self.height, self.width), np.float32)

        def work(top: int) -> None:
            rows = slice(top, min(top + _BAND, self.height))
            band = grey[top : rows.stop + 2]
            around = band[:-2, 1:-1] + band[2:, 1:-1]
            around += band[1:-1, :-2]
            around += band[1:-1, 2:]
            for start in (0, 1):
                known = (parity + top + start + 1) % 2
                around[start::2, known::2] = 4 * band[1:-1, 1:-1][start::2, known::2]
            fourfold[rows] = around

        each(work, range(0, self.height, _BAND))
        small = resample(fourfold, cr.SIZE, cr.SIZE)
        mean = (small + (1 << (2 * TABLE_BITS + 1))) >> (2 * TABLE_BITS + 2)
        return np.asarray(np.clip((mean - self.frozen.base) >> self.frozen.shift, 0, 255), np.int64)

    def _shift(self, rows: slice, first: int, wide: NDArray[np.float64], sign: int) -> NDArray[np.int64]:
        """Move every second sample of every second row, from column `first` on."""
        frozen, p = self.frozen, self.padded
        low, high = frozen.legal

        def at(down: int, right: int) -> NDArray[np.int32]:
            return p[rows.start + 1 + down : rows.stop + 1 + down : 2, first + 1 + right : self.width + 1 + right : 2]

        target = at(0, 0)
        bits = FIELD_BITS + 2 * TABLE_BITS + _GAIN_BITS
        moves = wide.astype(np.int64) * (frozen.gain << frozen.shift)
        move = (moves + (1 << (bits - 1))) >> bits
        region = None if frozen.roi is None else frozen.roi[rows, first::2]
        if region is not None and frozen.attenuate:
            bits += FAINT_BITS
            move[region] = (moves[region] + (1 << (bits - 1))) >> bits
        neighbours = at(-1, 0), at(1, 0), at(0, -1), at(0, 1)
        smallest, largest = (reduce(f, neighbours) for f in (np.minimum, np.maximum))
        move = np.maximum(move, np.minimum(low - smallest.min(2), 0))
        move = np.minimum(move, np.maximum(high - largest.max(2), 0))
        if region is not None and not frozen.attenuate:
            move[region] = 0
        if frozen.padding is not None:
            move[(target == frozen.padding).any(2)] = 0
        if self.kept is not None:
            move[self.kept[rows, first::2]] = 0
        moved = target + sign * move[..., None].astype(np.int32)
        if sign < 0:
            target[...] = moved
            return np.zeros(0, np.int64)
        bad = ((moved < low) | (moved > high)).any(2)
        if frozen.padding is not None:
            bad |= (moved == frozen.padding).any(2)
        bad &= move != 0
        np.copyto(target, moved, where=~bad[..., None])
        down, right = np.nonzero(bad)
        return np.asarray((rows.start + 2 * down) * self.width + first + 2 * right, np.int64)


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
    pattern = network.synthesise(values, frozen.carriers)
    canvas = _Canvas(cover, np.zeros(0, np.int64), frozen, network)
    skipped = [part for parity in (0, 1) for part in canvas.move(parity, 1, pattern)]
    return Coupled(canvas.picture(cover), np.sort(np.concatenate(skipped)))


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
    pattern = network.synthesise(values, frozen.carriers)
    canvas = _Canvas(marked, exceptions, frozen, network)
    for parity in (1, 0):
        canvas.move(parity, -1, pattern)
    return canvas.picture(marked)
