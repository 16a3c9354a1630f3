"""How the picture at hand lies in the cover's frame: the eight orientations, and any affine map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

T = TypeVar("T", bound=np.generic)

Matrix = tuple[float, float, float, float, float, float]
"""An affine map (x, y) -> (a x + b y + c, d x + e y + f), as (a, b, c, d, e, f). Pixel centres lie at halves."""


@dataclass(frozen=True)
class Warp:
    """Where each place of the cover lies in the picture at hand.

    Parameters
    ----------
    matrix : Matrix
        From the cover's pixels to the picture's.
    height, width : int
        Of the cover's frame.
    """

    matrix: Matrix
    height: int
    width: int

    @property
    def scale(self) -> float:
        """Picture pixels for one pixel of the cover's frame, along a side."""
        a, b, _, d, e, _ = self.matrix
        return math.sqrt(abs(a * e - b * d))

    @property
    def degrees(self) -> float:
        """By how much the picture is turned counter-clockwise against the cover, -180..180."""
        a, b, _, d, e, _ = self.matrix
        flip = -1 if a * e - b * d < 0 else 1
        return math.degrees(math.atan2(-flip * d + b, flip * a + e))


def compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The map that applies `inner` first."""
    whole = _square(outer) @ _square(inner)
    a, b, c, d, e, f = whole[:2].ravel().tolist()
    return a, b, c, d, e, f


def inverse(matrix: Matrix) -> Matrix:
    """The map back."""
    a, b, c, d, e, f = np.linalg.inv(_square(matrix))[:2].ravel().tolist()
    return a, b, c, d, e, f


def _square(matrix: Matrix) -> NDArray[np.float64]:
    return np.vstack([np.reshape(matrix, (2, 3)), [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Geometry:
    """How the picture at hand differs from the cover's orientation.

    The picture is the cover, mirrored left to right if `flipped`, then turned by `turns` quarter turns
    counter-clockwise; or it is what `warp` says, and then the other two say nothing.
    """

    turns: int = 0
    flipped: bool = False
    warp: Warp | None = None

    @property
    def identity(self) -> bool:
        """Whether the picture stands as the cover did."""
        return self.turns == 0 and not self.flipped and self.warp is None

    def undo(self, image: NDArray[T]) -> NDArray[T]:
        """The picture in the cover's orientation and frame, a C-contiguous copy; black where it shows nothing."""
        if self.warp is not None:
            return _warped(image, self.warp)
        upright = np.rot90(image, -self.turns)
        return (upright[:, ::-1] if self.flipped else upright).copy(order="C")

    def apply(self, image: NDArray[T]) -> NDArray[T]:
        """Bring a picture from the cover's orientation into this one, a C-contiguous copy.

        Raises
        ------
        ValueError
            There is a warp: what it cut off cannot be brought back.
        """
        if self.warp is not None:
            raise ValueError("a warp cannot be applied, only undone")
        mirrored = image[:, ::-1] if self.flipped else image
        return np.rot90(mirrored, self.turns).copy(order="C")

    def shown(self, height: int, width: int) -> NDArray[np.bool_]:
        """Which places of the cover's frame a picture of this size shows, bool (H, W)."""
        return np.asarray(self.undo(np.full((height, width), 255, np.uint8)) >= 128)

    def __str__(self) -> str:
        if self.identity:
            return "upright"
        if self.warp is not None:
            return _described(self.warp)
        parts = (["mirrored"] if self.flipped else []) + ([f"turned {90 * self.turns} degrees"] if self.turns else [])
        return ", ".join(parts)


ALL = tuple(Geometry(turns, flipped) for flipped in (False, True) for turns in range(4))


def unit_matrix(geometry: Geometry) -> Matrix:
    """The map of an orientation on the unit square, from the cover to the picture."""
    quarter: Matrix = (0.0, 1.0, 0.0, -1.0, 0.0, 1.0)
    matrix: Matrix = (-1.0, 0.0, 1.0, 0.0, 1.0, 0.0) if geometry.flipped else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    for _ in range(geometry.turns):
        matrix = compose(quarter, matrix)
    return matrix


def _warped(image: NDArray[T], warp: Warp) -> NDArray[T]:
    if image.ndim == 3:
        return np.stack([_warped(image[..., c], warp) for c in range(image.shape[2])], axis=2)
    size = (warp.width, warp.height)
    plane = Image.fromarray(image.astype(np.float32))
    moved = plane.transform(size, Image.Transform.AFFINE, warp.matrix, Image.Resampling.BILINEAR)
    values = np.asarray(moved)
    if np.issubdtype(image.dtype, np.integer):
        values = np.rint(values)
    return values.astype(image.dtype)


def _described(warp: Warp) -> str:
    a, b, _, d, e, _ = warp.matrix
    parts = ["mirrored"] if a * e - b * d < 0 else []
    # the pilots know the angle no better, so a window is not called turned
    if abs(warp.degrees) >= 0.5:
        parts.append(f"turned {warp.degrees % 360:.1f} degrees")
    return ", ".join(parts) or "cut out or moved"
