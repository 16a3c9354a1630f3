"""Where the cover lies in the picture at hand, more exactly than the pilots know it: by what the evidence holds of it.

The pilots place the cover's frame to about a quarter of a degree and a hundredth of its side. At that distance smooth
pictures with steep gradients differ in many cells. The released picture's levels (:mod:`medprov_watermark.features`)
are a picture of it in 32 x 32 cells; the frame is moved a little until they fit best, whatever increasing tone curve
lies between the pictures. It is moved by no more than REACH, so that no other picture is made to fit.

After B. Lucas, T. Kanade, "An Iterative Image Registration Technique with an Application to Stereo Vision", IJCAI 1981,
with weights against changed places and the tone curve estimated beside the displacement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import features
from medprov_watermark.geometry import Geometry, Matrix, Warp, compose
from medprov_watermark.pixels import Samples

REACH = 0.03
"""Farthest that a corner of the cover's frame is moved, as a share of its side."""
_NUDGE = 0.004
_STEPS = 10
_HALVINGS = 4
_ENOUGH = 64
"""Fewest cells that can say how to move the frame."""
_PULL = 4.0
"""Deviations beyond which a cell does not pull: it may have been changed."""
_SIDE = features.CELLS * features.SAMPLES
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def refined(released: bytes, image: Samples, geometry: Geometry) -> Geometry:
    """The geometry, its warp moved to where the released picture's levels fit best.

    Parameters
    ----------
    released : bytes
        What :func:`medprov_watermark.features.ordinal_features` gave.
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        As it was given.
    geometry : Geometry
        As the pilots have it; without a warp it comes back as it is.

    Raises
    ------
    ValueError
        The features are truncated or of another version.
    """
    levels, warp = features.levels(released).ravel(), geometry.warp
    if warp is None:
        return geometry
    part = features.sampled(geometry.shown(*image.shape[:2]).astype(np.uint8))
    # `undo` is black where nothing is shown, so its averages are sums over what is
    best = _search(levels, _Moved(features.sampled(geometry.undo(image)), part))
    pixels: Matrix = (float(warp.width), 0.0, 0.0, 0.0, float(warp.height), 0.0)
    units: Matrix = (1 / warp.width, 0.0, 0.0, 0.0, 1 / warp.height, 0.0)
    matrix = compose(warp.matrix, compose(pixels, compose(best, units)))
    return Geometry(warp=Warp(matrix, warp.height, warp.width))


class _Moved:
    """The picture in the cover's frame, which can be moved a little."""

    def __init__(self, sums: F32, part: F32) -> None:
        self._sums, self._part = Image.fromarray(sums), Image.fromarray(part)

    def cells(self, move: Matrix) -> tuple[F64, NDArray[np.bool_]]:
        """Mean of each cell, and which cells are shown, both (CELLS * CELLS,)."""
        a, b, c, d, e, f = move
        data = (a, b, c * _SIDE, d, e, f * _SIDE)
        sums, part = (
            np.asarray(plane.transform((_SIDE, _SIDE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))
            .reshape(features.CELLS, features.SAMPLES, features.CELLS, features.SAMPLES)
            .mean((1, 3), dtype=np.float64)
            .ravel()
            for plane in (self._sums, self._part)
        )
        return sums / np.maximum(part, 1e-6), np.asarray(part >= features.SHOWN)

    def slopes(self, move: Matrix) -> tuple[F64, NDArray[np.bool_]]:
        """Change of each cell along all directions, (CELLS * CELLS, 6), and which cells stay in sight."""
        slopes, seen = [], np.ones(features.CELLS**2, np.bool_)
        for direction in _DIRECTIONS:
            ahead, behind = (
                self.cells(compose(move, _changed([sign * _NUDGE * value for value in direction]))) for sign in (1, -1)
            )
            slopes.append((ahead[0] - behind[0]) / (2 * _NUDGE))
            seen &= ahead[1] & behind[1]
        return np.stack(slopes, axis=1), seen


def _search(levels: F64, picture: _Moved) -> Matrix:
    """The move of the unit square after which the picture's cells fit the levels best (Gauss and Newton's method)."""
    best = _IDENTITY
    for _ in range(_STEPS):
        means, seen = picture.cells(best)
        slopes, staying = picture.slopes(best)
        seen &= staying
        if seen.sum() < _ENOUGH:
            return best
        wanted = _answer(levels[seen], means[seen])
        off = wanted - means[seen]
        limit = _PULL * 1.5 * float(np.median(np.abs(off)))
        if limit <= 0:
            return best
        weight = np.square(np.clip(1 - np.square(off / limit), 0, None))
        # brightness and contrast are free too, or they would be explained by a move
        free = np.column_stack([slopes[seen], wanted - wanted.mean(), np.ones(off.size)])
        root = np.sqrt(weight)
        step = np.linalg.lstsq(free * root[:, None], off * root, rcond=1e-4)[0][:6] @ np.array(_DIRECTIONS)
        least = _misfit(levels, picture, best, limit)
        for halving in range(_HALVINGS):
            move = compose(best, _changed((step / 2**halving).tolist()))
            if _distance(move) <= REACH and _misfit(levels, picture, move, limit) < least:
                break
        else:
            return best
        best = move
    return best


def _answer(levels: F64, means: F64) -> F64:
    """What the tone curve between the pictures makes of the levels."""
    x, y, _ = features.tone_curve(levels, means)
    return np.asarray(np.interp(levels, x, y))


def _misfit(levels: F64, picture: _Moved, move: Matrix, limit: float) -> float:
    means, seen = picture.cells(move)
    if seen.sum() < _ENOUGH:
        return math.inf
    off = np.abs(means[seen] - _answer(levels[seen], means[seen]))
    return float(np.minimum(off, limit).mean())


_DIRECTIONS: tuple[Matrix, ...] = (
    (0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (2.0, 0.0, -1.0, 0.0, 0.0, 0.0),
    (0.0, 2.0, -1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 2.0, 0.0, -1.0),
    (0.0, 0.0, 0.0, 0.0, 2.0, -1.0),
)
"""Changes of the unit square, about its centre or along an axis, that move its corners by 1."""


def _changed(change: Sequence[float]) -> Matrix:
    a, b, c, d, e, f = change
    return (1 + a, b, c, d, 1 + e, f)


def _distance(move: Matrix) -> float:
    """Largest shift of a corner of the unit square."""
    a, b, c, d, e, f = move
    return max(math.hypot(a * x + b * y + c - x, d * x + e * y + f - y) for x in (0.0, 1.0) for y in (0.0, 1.0))
