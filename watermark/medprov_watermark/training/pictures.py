"""A hospital's folder of pictures and DICOM files, as training takes them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprov_watermark.carriers import SIZE
from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import data
from medprov_watermark.training.tasks.base import TaskError

log = logging.getLogger("medprov.training")

DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
SMALLEST_SIDE = 32
MAX_IMAGES = 4000
"""Pictures in memory at most; 64 KiB each."""


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

    @property
    def examples(self) -> int:
        """Training pictures."""
        return len(self.train)


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
    paths = data.selection(list_pictures(folder), limit)
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
    from medprov_watermark import media  # needs pydicom, which training from other files does not

    pixels = media.read(path)
    array = np.asarray(pixels.array, np.float64)
    if array.ndim == 3:
        array = array @ np.array([0.299, 0.587, 0.114])
    used = array[array != pixels.padding] if pixels.padding is not None else array
    if not used.size:
        raise ValueError("every pixel is padding")
    low, high = float(used.min()), float(used.max())
    return np.rint((np.clip(array, low, high) - low) * (255 / max(1.0, high - low))).astype(np.uint8)
