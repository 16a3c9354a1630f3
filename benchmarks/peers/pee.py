"""Textbook reversible hiding: rhombus prediction, sorting, expansion of the errors -1 and 0 on one lattice.

V. Sachnev et al., "Reversible watermarking algorithm using sorting and prediction", IEEE TCSVT 19(7), 2009, reduced to
its first pass. Pixels of 0 and 255 become 1 and 254 first; a location map in the stream has a bit for each visited
pixel of 1 or 254 that says which it was. It measures what plain reversible hiding costs;
:mod:`medprov_watermark.integrity`, which adds a frame, a header and a checksum, is what it is compared with and so
cannot stand for it.

The bits lie in the grey plane or in the green one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.method import Bits, Picture, RefusedError

_LENGTH = 24
"""Bits that say how long the location map is."""

_WEIGHTS = 1 << np.arange(_LENGTH)[::-1]

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
        edge = _edge(inner)
        edges = np.cumsum(edge)
        stop = mapped = 0
        while True:  # the map grows with the visit, and the visit with the map
            need = _LENGTH + bits.size + mapped
            if room.size == 0 or room[-1] < need:
                raise RefusedError(f"{need} bits do not fit: there are {room[-1] if room.size else 0} places")
            stop = int(np.searchsorted(room, need)) + 1
            if int(edges[stop - 1]) == mapped:
                break
            mapped = int(edges[stop - 1])
        location = (inner != value)[:stop][edge[:stop]]
        stream = np.concatenate([_binary(mapped), bits, location]).astype(np.int32)
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
        _, values, location = found
        saturated = np.flatnonzero(_edge(values))[location]
        values[saturated] = np.where(values[saturated] == 1, 0, 255)
        plane.ravel()[visit.places[: values.size]] = values
        return _with_plane(image, plane)


def _undo(plane: Ints, visit: _Visit, bits: int) -> tuple[Bits, Ints, NDArray[np.bool_]] | None:
    """Message, values of the visited pixels before hiding, and the location map."""
    error = plane.ravel()[visit.places] - visit.predicted
    takes = (error >= -2) & (error <= 1)
    stream = (error[takes] & 1).astype(np.uint8)
    if stream.size < _LENGTH:
        return None
    need = _LENGTH + bits + int(stream[:_LENGTH] @ _WEIGHTS)
    if stream.size < need:
        return None
    stop = int(np.searchsorted(np.cumsum(takes), need)) + 1
    error, takes = error[:stop], takes[:stop]
    before = np.where(takes, error >> 1, error - np.sign(error))
    values = (visit.predicted[:stop] + before).astype(np.int32)
    location = stream[_LENGTH + bits : need].astype(np.bool_)
    if location.size != np.count_nonzero(_edge(values)):
        return None
    return stream[_LENGTH : _LENGTH + bits], values, location


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


def _edge(values: Ints) -> NDArray[np.bool_]:
    return np.asarray((values == 1) | (values == 254), np.bool_)


def _binary(number: int) -> Bits:
    return (number // _WEIGHTS & 1).astype(np.uint8)
