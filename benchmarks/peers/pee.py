"""Textbook reversible hiding: rhombus prediction, sorting, expansion of the errors -1 and 0 on one lattice.

V. Sachnev et al., "Reversible watermarking algorithm using sorting and prediction", IEEE TCSVT 19(7), 2009, reduced to
its first pass. Saturated pixels are listed by their place in the visit instead of a location map. It measures what
plain reversible hiding costs; :mod:`medprov_watermark.integrity`, which adds a frame, a header and a checksum and keeps
out of other pixels' ranges, is what it is compared with and so cannot stand for it.

The bits lie in the grey plane or in the green one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.method import Bits, Picture, RefusedError

_COUNT, _PLACE = 16, 24
"""Bits of the number of saturated pixels and of each of their places."""

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class _Visit:
    """Pixels from the smoothest surroundings to the roughest: flat places in the plane, and their predictions."""

    places: NDArray[np.int64]
    predicted: Ints


@dataclass(frozen=True)
class Pee:
    """See the module."""

    name: str = "pee"
    bits: int = 256

    def mark(self, image: Picture, bits: Bits) -> Picture:
        plane = _plane(image)
        visit = _visit(plane)
        value = plane.ravel()[visit.places]
        inner = np.clip(value, 1, 254)
        error = inner - visit.predicted
        room = np.cumsum((error == 0) | (error == -1))
        saturated = np.flatnonzero(inner != value)
        stop = listed = 0
        while True:
            need = _COUNT + bits.size + _PLACE * listed
            if visit.places.size == 0 or room[-1] < need:
                raise RefusedError(f"{need} bits do not fit: there are {room[-1] if room.size else 0} places")
            stop = int(np.searchsorted(room, need)) + 1
            met = int(np.searchsorted(saturated, stop))
            if met == listed:
                break
            listed = met
        stream = np.concatenate(
            [_binary(np.array([listed]), _COUNT), bits, _binary(saturated[:listed], _PLACE)]
        ).astype(np.int32)
        inner, error = inner[:stop], error[:stop]
        step = np.where(error > 0, 1, -1)
        takes = (error == 0) | (error == -1)
        step[takes] = error[takes] + stream
        plane.ravel()[visit.places[:stop]] = inner + step
        return _with_plane(image, plane)

    def read(self, image: Picture) -> Bits | None:
        plane = _plane(image)
        found = _undo(plane, _visit(plane), self.bits)
        return None if found is None else found[0]

    def restore(self, image: Picture) -> Picture:
        plane = _plane(image)
        visit = _visit(plane)
        found = _undo(plane, visit, self.bits)
        if found is None:
            raise RefusedError("there is no such mark in the picture")
        _, values, saturated = found
        values[saturated] = np.where(values[saturated] == 1, 0, 255)
        plane.ravel()[visit.places[: values.size]] = values
        return _with_plane(image, plane)


def _undo(plane: Ints, visit: _Visit, bits: int) -> tuple[Bits, Ints, NDArray[np.int64]] | None:
    """Message, values of the visited pixels before hiding, and which of them were saturated."""
    error = plane.ravel()[visit.places] - visit.predicted
    takes = (error >= -2) & (error <= 1)
    stream = (error[takes] & 1).astype(np.uint8)
    if stream.size < _COUNT:
        return None
    listed = int(_numbers(stream[:_COUNT], _COUNT)[0])
    need = _COUNT + bits + _PLACE * listed
    if stream.size < need:
        return None
    stop = int(np.searchsorted(np.cumsum(takes), need)) + 1
    saturated = _numbers(stream[_COUNT + bits : need], _PLACE)
    if saturated.size and saturated.max() >= stop:
        return None
    error, takes = error[:stop], takes[:stop]
    before = np.where(takes, error >> 1, error - np.sign(error))
    return stream[_COUNT : _COUNT + bits], (visit.predicted[:stop] + before).astype(np.int32), saturated


def _visit(plane: Ints) -> _Visit:
    near = np.stack([plane[:-2, 1:-1], plane[2:, 1:-1], plane[1:-1, :-2], plane[1:-1, 2:]])
    total = near.sum(0)
    predicted = (total + 2) // 4
    roughness = 4 * np.square(near).sum(0) - np.square(total)
    row, column = np.indices(predicted.shape)
    # a saturated background would fill the list of saturated pixels and carry nothing
    usable = ((row + column) % 2 == 0) & (predicted > 0) & (predicted < 255)
    inner = np.flatnonzero(usable)
    inner = inner[np.argsort(roughness.ravel()[inner], kind="stable")]
    row, column = np.unravel_index(inner, predicted.shape)
    return _Visit((row + 1) * plane.shape[1] + column + 1, predicted.ravel()[inner].astype(np.int32))


def _plane(image: Picture) -> Ints:
    return np.ascontiguousarray(image if image.ndim == 2 else image[..., 1], np.int32)


def _with_plane(image: Picture, plane: Ints) -> Picture:
    out = image.copy()
    (out if image.ndim == 2 else out[..., 1])[...] = plane.astype(np.uint8)
    return out


def _binary(numbers: NDArray[np.int64], width: int) -> Bits:
    return ((numbers[:, None] >> np.arange(width)[::-1]) & 1).astype(np.uint8).ravel()


def _numbers(bits: Bits, width: int) -> NDArray[np.int64]:
    return np.asarray(bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width)[::-1]), np.int64)
