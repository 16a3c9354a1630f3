"""The picture as the segmentation network sees it, the same for training and for use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST = 640
"""Larger pictures are brought down to this longer side; smaller ones keep their size, because thin vessels need it."""
MULTIPLE = 16
"""Height and width of what the network takes are multiples of this."""
_STILL = 4.0
"""Grey levels added to the spread, so that the noise of an empty picture does not become content."""


def working_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a picture is segmented."""
    longest = max(height, width)
    if longest <= LONGEST:
        return height, width
    return max(1, height * LONGEST // longest), max(1, width * LONGEST // longest)


def scaled(grey: NDArray[np.uint8], resample: Image.Resampling = Image.Resampling.BOX) -> NDArray[np.uint8]:
    """A picture (H, W) at its working size."""
    height, width = working_size(*grey.shape)
    if (height, width) == grey.shape:
        return grey
    return np.asarray(Image.fromarray(grey).resize((width, height), resample), np.uint8)


def standardised(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey values with mean 0 and a spread of about 1, float32 of the same shape."""
    levels = grey.astype(np.float32)
    return np.asarray((levels - levels.mean()) / (levels.std() + _STILL), np.float32)


def padded(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture with its last row and column repeated up to multiples of MULTIPLE."""
    height, width = picture.shape
    return np.pad(picture, ((0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="edge")
