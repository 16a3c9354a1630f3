"""Training pictures with masks: folders of pictures, beside each the folder ``NAME_masks`` with masks of equal names.

A folder with masks is a kind of picture that the network knows; all folders without are the kind ``other``. Pictures
of a known kind that have no mask of their own teach the kind only.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprov_watermark.roi_picture import scaled, standardised
from medprov_watermark.training.data import read_grey

OTHER = "other"
_MASKED = 0.8
"""Share of the windows of a known kind that are taken from pictures with a mask."""
_ZOOM = (0.75, 1.35)
_TURN = math.radians(25)


@dataclass(frozen=True)
class Picture:
    """One training picture.

    Parameters
    ----------
    grey : uint8 array (H, W)
        At its working size.
    mask : bool array (H, W) or None
    kind : int
        Index into the collection's kinds.
    """

    grey: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    kind: int


def mask_of(picture: Path) -> Path:
    """Where the mask of a picture lies, if it has one."""
    return picture.parent.with_name(picture.parent.name + "_masks") / f"{picture.stem}.png"


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file, bool (H, W): everything from the middle grey on is meant."""
    return read_grey(path) > 127


def read(path: Path, kind: int) -> Picture:
    """A picture with its mask, both at the working size.

    Raises
    ------
    ValueError
        Mask and picture differ in shape, or the picture is too small.
    """
    grey = read_grey(path)
    if min(grey.shape) < 32:
        raise ValueError(f"{grey.shape[1]}x{grey.shape[0]} is too small")
    file = mask_of(path)
    if not file.exists():
        return Picture(scaled(grey), None, kind)
    mask = read_mask(file)
    if mask.shape != grey.shape:
        raise ValueError(f"its mask is {mask.shape[1]}x{mask.shape[0]}, the picture {grey.shape[1]}x{grey.shape[0]}")
    return Picture(scaled(grey), scaled((mask * 255).astype(np.uint8)) > 127, kind)


class Collection:
    """Pictures by kind, and random windows of them.

    Parameters
    ----------
    pictures : sequence of Picture
    kinds : tuple of str
        The first is ``other``.
    crop : int
        Side of a window.
    """

    def __init__(self, pictures: list[Picture], kinds: tuple[str, ...], crop: int = 320) -> None:
        self.kinds, self.crop = kinds, crop
        self._groups = [
            ([p for p in pictures if p.kind == k and p.mask is not None], [p for p in pictures if p.kind == k])
            for k in range(len(kinds))
        ]
        self._groups = [group for group in self._groups if group[1]]

    @property
    def size(self) -> int:
        """Number of pictures."""
        return sum(len(every) for _, every in self._groups)

    def batch(self, count: int, rng: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random windows, the kinds in equal shares.

        Returns
        -------
        windows : float tensor (count, 1, crop, crop)
            Standardised and changed in tone.
        masks : float tensor (count, 1, crop, crop)
        known : bool tensor (count,)
            Whether there is a mask.
        kinds : int64 tensor (count,)
        """
        windows, masks, known, kinds = [], [], [], []
        for _ in range(count):
            masked, every = rng.choice(self._groups)
            picture = rng.choice(masked if masked and rng.random() < _MASKED else every)
            window, mask = self._window(picture, rng)
            windows.append(window)
            masks.append(mask)
            known.append(picture.mask is not None)
            kinds.append(picture.kind)
        return torch.stack(windows), torch.stack(masks), torch.tensor(known), torch.tensor(kinds)

    def _window(self, picture: Picture, rng: random.Random) -> tuple[Tensor, Tensor]:
        """A window, turned, zoomed, flipped and changed in tone, and its mask; (1, crop, crop) each."""
        height, width = picture.grey.shape
        layers = [torch.from_numpy(standardised(picture.grey))]
        if picture.mask is not None:
            layers.append(torch.from_numpy(picture.mask).float())
        half = self.crop / 2
        centre = [rng.uniform(min(half, size / 2), max(size - half, size / 2)) for size in (width, height)]
        zoom, turn = rng.uniform(*_ZOOM), rng.uniform(-_TURN, _TURN)
        across, along = zoom * math.cos(turn), zoom * math.sin(turn)
        flip_x, flip_y = rng.choice((-1, 1)), rng.choice((-1, 1))
        # from window to picture, both in the units of grid_sample: the picture reaches from -1 to 1
        place = torch.tensor(
            [
                [flip_x * across * self.crop / width, -flip_y * along * self.crop / width, 2 * centre[0] / width - 1],
                [flip_x * along * self.crop / height, flip_y * across * self.crop / height, 2 * centre[1] / height - 1],
            ]
        )
        grid = F.affine_grid(place[None], [1, 1, self.crop, self.crop], align_corners=False)
        taken = F.grid_sample(torch.stack(layers)[None], grid, padding_mode="reflection", align_corners=False)[0]
        window = taken[:1] * rng.uniform(0.7, 1.4) + rng.uniform(-0.4, 0.4)
        window = window + torch.randn(window.shape, generator=_generator(rng)) * rng.uniform(0, 0.15)
        mask = (taken[1:] > 0.5).float() if picture.mask is not None else torch.zeros_like(window)
        return window, mask


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(48))


def load(paths: Iterable[Path], crop: int = 320) -> Collection:
    """Read pictures and masks. Unreadable files are skipped with a warning that names them.

    Raises
    ------
    ValueError
        No picture has a mask.
    """
    paths = list(paths)
    kinds = (OTHER, *sorted({p.parent.name for p in paths if mask_of(p).exists()}))
    pictures = []
    for path in paths:
        kind = kinds.index(path.parent.name) if path.parent.name in kinds[1:] else 0
        try:
            pictures.append(read(path, kind))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            warnings.warn(f"{path}: not used for training: {error}", stacklevel=2)
    if not any(picture.mask is not None for picture in pictures):
        raise ValueError("no picture has a mask: masks of the folder NAME lie in NAME_masks beside it")
    return Collection(pictures, kinds, crop)
