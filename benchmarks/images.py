"""Evaluation pictures: the same for every benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark.training.data import held_back, list_images


@dataclass(frozen=True)
class Sample:
    """One evaluation picture: uint8 (S, S) or (S, S, 3)."""

    modality: str
    name: str
    size: int
    image: NDArray[np.uint8]


def read(path: Path) -> NDArray[np.uint8]:
    """Eight-bit grey or RGB; grey stored as RGB becomes grey, deeper samples are scaled to their maximum."""
    with Image.open(path) as picture:
        array = np.asarray(picture.convert("RGB") if picture.mode in ("P", "RGBA", "LA", "CMYK") else picture)
    if array.dtype != np.uint8:
        deep = array.astype(np.float64)
        array = np.rint(deep / max(1.0, float(deep.max())) * 255).astype(np.uint8)
    if array.ndim == 3 and np.abs(array.astype(np.int16) - array[..., :1]).mean() < 0.5:
        array = array[..., 0]
    return np.ascontiguousarray(array)


def square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The centred square at the given side."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(crop, (size, size), interpolation=method), np.uint8)


def choose(folder: Path, split: str, per_modality: int | None, offset: int = 0) -> list[Path]:
    """Files below a folder, evenly spread; `split` is ``validation`` or ``all``, `offset` moves the choice."""
    paths = [p for p in list_images(folder) if split == "all" or held_back(p)]
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(modality(path, folder), []).append(path)
    chosen: list[Path] = []
    for name in sorted(groups):
        group = groups[name]
        step = max(1, len(group) // per_modality) if per_modality else 1
        chosen += group[offset::step][:per_modality]
    return chosen


def modality(path: Path, folder: Path) -> str:
    """Name of the folder, or in a flat folder the file name up to the first underscore."""
    return path.parent.name if path.parent != folder else path.stem.split("_")[0]


def samples(folder: Path, sizes: list[int], split: str, per_modality: int | None, offset: int = 0) -> Iterator[Sample]:
    """All evaluation pictures at all sizes."""
    for path in choose(folder, split, per_modality, offset):
        image = read(path)
        for size in sizes:
            yield Sample(modality(path, folder), path.name, size, square(image, size))


def built_in() -> list[tuple[str, NDArray[np.uint8]]]:
    """Pictures that ship with scikit-image, for runs without a folder."""
    from skimage import data

    names = ("camera", "retina", "immunohistochemistry", "microaneurysms", "cell", "coins")
    found = []
    for name in names:
        try:
            found.append((name, np.ascontiguousarray(getattr(data, name)(), np.uint8)))
        except (OSError, RuntimeError, ImportError):  # needs a download that is not to be had
            continue
    return found


def collect(
    folder: Path | None, sizes: list[int], split: str, per_modality: int | None, offset: int = 0
) -> list[Sample]:
    """The pictures of a folder, or without one those that ship with scikit-image, at all sizes."""
    if folder is not None:
        return list(samples(folder, sizes, split, per_modality, offset))
    return [Sample(name, name, size, square(image, size)) for name, image in built_in() for size in sizes]
