"""Training pictures: every readable image under a folder, luminance, ``SIZE`` x ``SIZE``, kept in memory as bytes."""

from __future__ import annotations

import hashlib
import random
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprov_watermark.carriers import SIZE

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm"}


def source_of(path: Path) -> str:
    """Patient or source of a file as far as its name tells: the name without its last number."""
    return path.parent.name + "/" + re.sub(r"[ _(]*\d+[)a-z]*$", "", path.stem)


def held_back(path: Path, share: float = 1 / 7) -> bool:
    """Whether a file belongs to the validation split.

    A whole source goes to one side. A source of more pictures than a patient has (one that names a data set, such as
    ``mammo/mias_mdb``) would leave a modality without validation or without training, so such names are split by
    their full stem instead; the name decides alone, so that the split never moves.
    """
    number = re.search(r"(\d+)", path.stem)
    key = source_of(path)
    if number and re.fullmatch(r"[A-Za-z_()]*", key.split("/")[1]):
        key = path.parent.name + "/" + path.stem
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") < share * 2**32


def list_images(folder: Path) -> list[Path]:
    """Image files below `folder`, sorted; folders named ``*_masks`` are left out."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.parent.name.endswith("_masks"))
    return sorted(found)


def selection(paths: list[Path], limit: int) -> list[Path]:
    """At most `limit` of the paths, sorted; from more a fixed selection by name."""
    if len(paths) <= limit:
        return sorted(paths)
    return sorted(sorted(paths, key=lambda p: hashlib.sha256(p.name.encode()).digest())[:limit])


def read_grey(path: Path) -> NDArray[np.uint8]:
    """Luminance of an image file, uint8 (H, W); deeper samples are scaled, from 0 or a minimum below to the maximum."""
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            deep = np.asarray(image).astype(np.float64)
            if not np.isfinite(deep).all():
                raise ValueError("samples are not finite")
            low, high = min(0.0, float(deep.min())), max(1.0, float(deep.max()))
            return np.asarray(np.rint((deep - low) / (high - low) * 255), np.uint8)
        return np.asarray(image.convert("L"))


def square(grey: NDArray[np.uint8], top: int, left: int, side: int) -> NDArray[np.uint8]:
    crop = Image.fromarray(grey[top : top + side, left : left + side])
    return np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.LANCZOS if side >= SIZE else Image.Resampling.BICUBIC))


def load(paths: Iterable[Path], crops: int = 1, seed: int = 0) -> Tensor:
    """Read pictures into one tensor, the centred square of each and `crops` - 1 random windows.

    Unreadable files are skipped with a warning that names them.

    Returns
    -------
    uint8 tensor (N, 1, SIZE, SIZE)
    """
    rng = random.Random(seed)
    out: list[NDArray[np.uint8]] = []
    for path in paths:
        try:
            grey = read_grey(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            warnings.warn(f"{path}: not used for training: {error}", stacklevel=2)
            continue
        h, w = grey.shape
        side = min(h, w)
        if side < 32:
            warnings.warn(f"{path}: not used for training: {w}x{h} is too small", stacklevel=2)
            continue
        out.append(square(grey, (h - side) // 2, (w - side) // 2, side))
        for _ in range(crops - 1):
            window = int(side * rng.uniform(0.5, 1.0))
            out.append(square(grey, rng.randint(0, h - window), rng.randint(0, w - window), window))
    if not out:
        raise ValueError("no readable training image")
    return torch.from_numpy(np.stack(out))[:, None]


def augment(pictures: Tensor, rng: random.Random) -> Tensor:
    """Random flips, transposition and tone, so that a small collection lasts longer. uint8 -> float 0..255."""
    x = pictures.float()
    if rng.random() < 0.5:
        x = x.flip(3)
    if rng.random() < 0.5:
        x = x.transpose(2, 3)
    if rng.random() < 0.25:
        x = 255 * (x / 255) ** rng.uniform(0.7, 1.4)
    return x.round().contiguous()
