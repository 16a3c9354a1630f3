"""What the benchmarks ask of a watermark, and the error for a peer that is not installed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(H, W) or (H, W, 3) in RGB order."""
Bits = NDArray[np.uint8]
"""(n,), 0 or 1."""


class MissingPeerError(Exception):
    """A peer's package is not installed."""


class RefusedError(Exception):
    """A method will not mark this picture, or the bits do not fit."""


class Method(Protocol):
    """A watermark that hides a fixed number of bits and reads them blindly."""

    @property
    def name(self) -> str:
        """As in tables."""
        ...

    @property
    def bits(self) -> int:
        """Length of the message."""
        ...

    def mark(self, image: Picture, bits: Bits) -> Picture:
        """A marked copy of the same height and width; RefusedError where the method will not."""
        ...

    def read(self, image: Picture) -> Bits | None:
        """The message after the method's own error correction; None where it says that there is none."""
        ...


@runtime_checkable
class Reversible(Method, Protocol):
    """A watermark that can be taken out again."""

    def restore(self, image: Picture) -> Picture:
        """The cover of an untouched marked picture."""
        ...


def require(module: str, package: str) -> ModuleType:
    """Import a peer's package.

    Raises
    ------
    MissingPeerError
        With the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPeerError(
            f"the package {package} cannot be imported ({error}); "
            "install it with: pip install --no-deps -r benchmarks/requirements.txt"
        ) from error


def to_bgr(image: Picture) -> Picture:
    """OpenCV's three channels, which the peers from PyPI take."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR), np.uint8)


def from_bgr(image: Picture, grey: bool) -> Picture:
    """Back from OpenCV's channels to grey or RGB."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY if grey else cv2.COLOR_BGR2RGB), np.uint8)
