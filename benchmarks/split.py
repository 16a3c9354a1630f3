"""Pictures for the benchmarks that train something: some to train on and others to judge by, grey, at working size."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from medprov_watermark.carriers import SIZE
from medprov_watermark.coupling import luminance
from medprov_watermark.training import data

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Split:
    """Two sets without a common source.

    Parameters
    ----------
    training : uint8 array (N, SIZE, SIZE)
    judged : list of (str, uint8 array (SIZE, SIZE))
        With names to print.
    """

    training: Picture
    judged: list[tuple[str, Picture]]


def make(folder: Path | None, training: int, judged: int, seed: int = 0) -> Split:
    """Draw pictures.

    Parameters
    ----------
    folder : Path or None
        Training pictures come from the training split below it, the others from the validation split, taking turns
        between its modalities. None: from the pictures that ship with scikit-image.
    training : int
        How many; where there are fewer files, windows of them fill up.
    judged : int
        How many at most.
    """
    if training < 1 or judged < 1:
        raise ValueError("at least one picture to train on and one to judge by")
    return _built_in(training, judged, seed) if folder is None else _below(folder, training, judged, seed)


def _below(folder: Path, training: int, judged: int, seed: int) -> Split:
    paths = [p for p in data.list_images(folder) if not data.held_back(p)]
    held = images.choose(folder, "validation", None)
    if not paths or not held:
        raise ValueError(f"{folder}: no pictures, or none in the validation split")
    random.Random(seed).shuffle(paths)
    used = paths[:training]
    windows = data.load(used, math.ceil(training / len(used)), seed)[:, 0].numpy()
    groups: dict[str, list[Path]] = {}
    for path in held:
        groups.setdefault(images.modality(path, folder), []).append(path)
    turns = max(len(group) for group in groups.values())
    chosen = [group[i] for i in range(turns) for _, group in sorted(groups.items()) if i < len(group)][:judged]
    return Split(
        windows[:training],
        [(f"{images.modality(p, folder)} {p.name}", data.load([p])[0, 0].numpy()) for p in chosen],
    )


def _built_in(training: int, judged: int, seed: int) -> Split:
    found = [(name, np.asarray(luminance(image), np.uint8)) for name, image in images.built_in()]
    held = max(1, len(found) // 3)
    rng, windows = random.Random(seed), []
    for i in range(training):
        grey = found[held + i % (len(found) - held)][1]
        height, width = grey.shape
        side = int(min(height, width) * rng.uniform(0.5, 1.0))
        windows.append(data.square(grey, rng.randint(0, height - side), rng.randint(0, width - side), side))
    centred = [(name, images.square(grey, SIZE)) for name, grey in found[:held]]
    return Split(np.stack(windows), centred[:judged])
