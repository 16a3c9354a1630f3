"""The eight orientations of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Geometry:
    """How the picture at hand differs from the cover's orientation.

    The picture is the cover, mirrored left to right if `flipped`, then turned by `turns` quarter turns
    counter-clockwise.
    """

    turns: int = 0
    flipped: bool = False

    @property
    def identity(self) -> bool:
        """Whether the picture stands as the cover did."""
        return self.turns == 0 and not self.flipped

    def undo(self, image: NDArray[T]) -> NDArray[T]:
        """The picture in the cover's orientation, a C-contiguous copy."""
        upright = np.rot90(image, -self.turns)
        return (upright[:, ::-1] if self.flipped else upright).copy(order="C")

    def apply(self, image: NDArray[T]) -> NDArray[T]:
        """Bring a picture from the cover's orientation into this one, a C-contiguous copy."""
        mirrored = image[:, ::-1] if self.flipped else image
        return np.rot90(mirrored, self.turns).copy(order="C")

    def __str__(self) -> str:
        if self.identity:
            return "upright"
        parts = (["mirrored"] if self.flipped else []) + ([f"turned {90 * self.turns} degrees"] if self.turns else [])
        return ", ".join(parts)


ALL = tuple(Geometry(turns, flipped) for flipped in (False, True) for turns in range(4))
