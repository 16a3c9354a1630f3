"""A hospital's part in a round: read its own pictures, train a few steps from the federation's weights, measure.

Nothing is kept between rounds but the pictures on the disk, so that a round gives the same update whenever it is run.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprov_watermark import media
from medprov_watermark.carriers import SIZE
from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import data
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.evaluation import measure
from medprov_watermark.training.loop import Model, Progress, Trainer

log = logging.getLogger("medprov.node")

DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
SMALLEST_SIDE = 32
MAX_IMAGES = 4000
"""Pictures in memory at most; 64 KiB each."""


class TaskError(Exception):
    """A hospital cannot do what the round asks. One line that says why; it stays in the hospital's log."""


@dataclass(frozen=True)
class Pictures:
    """A hospital's pictures at the working size.

    Parameters
    ----------
    train, held_back : uint8 tensor (N, 1, SIZE, SIZE)
        At least one picture each; with very few pictures both are the same.
    skipped : int
        Files that could not be used.
    """

    train: Tensor
    held_back: Tensor
    skipped: int


@dataclass(frozen=True)
class Trained:
    """What a hospital answers with.

    Parameters
    ----------
    deltas : dict of str to float32 array
        Trained minus received weights.
    examples : int
        Training pictures.
    loss, accuracy : float
        Mean over the round's steps, running bit accuracy at its end.
    probability, db : float
        Where the curriculum stands.
    """

    deltas: dict[str, ex.Float32]
    examples: int
    loss: float
    accuracy: float
    probability: float
    db: float


def list_pictures(folder: Path) -> list[Path]:
    """Image files and DICOM files below `folder`, sorted.

    Raises
    ------
    TaskError
        No such folder.
    """
    if not folder.is_dir():
        raise TaskError(f"{folder}: no such folder of images: set 'images' in the node's configuration")
    dicom = [p for p in folder.rglob("*") if p.is_file() and _is_dicom(p)]
    return sorted({*data.list_images(folder), *dicom})


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Luminance of an image or DICOM file, uint8 (H, W); DICOM samples are stretched from their own range.

    Raises
    ------
    TaskError
        Unreadable, or too small.
    """
    try:
        if _is_dicom(path):
            grey = _read_dicom(path)
        else:
            with warnings.catch_warnings():
                # Pillow warns of large files and raises at twice that size; mammograms are large.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                grey = data.read_grey(path)
    except (OSError, ValueError, SyntaxError, WatermarkError, Image.DecompressionBombError) as error:
        raise TaskError(f"{path}: not used for training: {error}") from error
    if grey.ndim != 2 or min(grey.shape) < SMALLEST_SIDE:
        size = "x".join(str(side) for side in reversed(grey.shape))
        raise TaskError(f"{path}: not used for training: {size} is too small, {SMALLEST_SIDE} is needed")
    return grey


def load_pictures(folder: Path, limit: int = MAX_IMAGES) -> Pictures:
    """Read a hospital's folder; unusable files are skipped, logged and counted.

    Parameters
    ----------
    folder : Path
        Searched with all folders in it.
    limit : int
        Largest number of files to read; from more a fixed selection by name is taken.

    Raises
    ------
    TaskError
        No usable picture.
    """
    paths = list_pictures(folder)
    if len(paths) > limit:
        paths = sorted(sorted(paths, key=lambda p: hashlib.sha256(p.name.encode()).digest())[:limit])
    marks = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths)
    return _load(marks)


@lru_cache(maxsize=8)
def _load(files: tuple[tuple[str, int, int], ...]) -> Pictures:
    train: list[NDArray[np.uint8]] = []
    held: list[NDArray[np.uint8]] = []
    skipped = 0
    for name, _, _ in files:
        path = Path(name)
        try:
            grey = read_picture(path)
        except TaskError as error:
            log.warning("%s", error)
            skipped += 1
            continue
        h, w = grey.shape
        side = min(h, w)
        square = data.square(grey, (h - side) // 2, (w - side) // 2, side)
        (held if data.held_back(path) else train).append(square)
    if not train and not held:
        raise TaskError(f"no usable picture among {len(files)} files: check the folder named 'images'")
    return Pictures(_tensor(train or held), _tensor(held or train), skipped)


def train(
    assignment: ex.Assignment, weights: ex.Arrays, pictures: Pictures, label: str, device: str = "cpu"
) -> Trained:
    """Train a few steps from the federation's weights.

    Parameters
    ----------
    assignment : Assignment
        What the coordinator asks for.
    weights : mapping of str to float32 array
        Their hash must be ``assignment.base``.
    pictures : Pictures
        What to train on.
    label : str
        Sets this node's random numbers apart from the others'.
    device : str
        As torch names it.

    Raises
    ------
    TaskError
        Other weights than the assignment names, or the training diverged.
    """
    check_base(assignment, weights)
    seed = _seed(assignment, label)
    with own_randomness(seed):
        # Trainer seeds itself with the settings' seed, which is the same at all hospitals: seeded again below.
        trainer = Trainer(pictures.train, assignment.settings, torch.device(device))
        ex.load_state(trainer.model, weights)
        c = assignment.curriculum
        trainer.progress = Progress(step=c.step, accuracy=c.accuracy, probability=c.probability, db=c.db)
        torch.manual_seed(seed)
        random.seed(seed)
        trainer.random = random.Random(seed)
        trainer.model.train()
        losses = [trainer.step()["loss"] for _ in range(assignment.steps)]
    after = ex.state_of(trainer.model)
    # asarray: NumPy turns the difference of arrays without axes into a scalar.
    deltas = {name: np.asarray(after[name] - weights[name]) for name in sorted(after)}
    if not all(math.isfinite(loss) for loss in losses) or not all(np.isfinite(d).all() for d in deltas.values()):
        raise TaskError("the training diverged: a lower learning rate is needed")
    p = trainer.progress
    return Trained(deltas, len(pictures.train), sum(losses) / len(losses), p.accuracy, p.probability, p.db)


def evaluate(
    assignment: ex.Assignment, weights: ex.Arrays, pictures: Pictures, device: str = "cpu"
) -> tuple[int, float, float]:
    """Number of held-back pictures, loss and bit accuracy of the weights on them.

    Raises
    ------
    TaskError
        Other weights than the assignment names.
    """
    check_base(assignment, weights)
    with own_randomness(0):
        model = Model(assignment.settings)
    ex.load_state(model, weights)
    model.to(device).eval()
    held = pictures.held_back[:64]
    found = measure(model, held, db=assignment.curriculum.db)
    return len(held), found.loss, found.accuracy


def check_base(assignment: ex.Assignment, weights: ex.Arrays) -> None:
    """Refuse weights that are not those the assignment names."""
    if ex.model_hash(weights) != assignment.base:
        raise TaskError(f"round {assignment.number}: the weights are not those that the assignment names")


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch and `random` inside and leave them outside as they were."""
    before = random.getstate()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)


def _seed(assignment: ex.Assignment, label: str) -> int:
    text = f"{assignment.settings.seed}|{assignment.attempt}|{label}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _tensor(squares: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(squares)).view(-1, 1, SIZE, SIZE)


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    # Archives name DICOM files without a suffix or by UID: PS3.10, section 7.1, puts "DICM" after 128 bytes.
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _read_dicom(path: Path) -> NDArray[np.uint8]:
    pixels = media.read(path)
    array = np.asarray(pixels.array, np.float64)
    if array.ndim == 3:
        array = array @ np.array([0.299, 0.587, 0.114])
    used = array[array != pixels.padding] if pixels.padding is not None else array
    if not used.size:
        raise ValueError("every pixel is padding")
    low, high = float(used.min()), float(used.max())
    return np.rint((np.clip(array, low, high) - low) * (255 / max(1.0, high - low))).astype(np.uint8)
