"""Pictures of the demo, from what ships inside pydicom and scikit-image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from skimage import data

Samples = NDArray[np.unsignedinteger]
SIDE = 256


@dataclass(frozen=True)
class Case:
    """A picture that hospital A marks."""

    name: str
    title: str
    source: Path


def _dicom(name: str) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Path(str(get_testdata_file(name)))


def to_mark(folder: Path) -> list[Case]:
    """A CT and an MR as DICOM, a colour fundus picture and a histology picture as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    fundus, tissue = folder / "fundus.png", folder / "histology.png"
    Image.fromarray(data.retina()).resize((705, 705), Image.Resampling.LANCZOS).save(fundus)
    Image.fromarray(data.immunohistochemistry()).save(tissue)
    return [
        Case("ct", "CT, 16-bit DICOM", _dicom("CT_small.dcm")),
        Case("mr", "MR, 12-bit DICOM", _dicom("examples_overlay.dcm")),
        Case("fundus", "fundus, colour", fundus),
        Case("histology", "histology, colour", tissue),
    ]


def other_picture() -> NDArray[np.uint8]:
    """A picture that nobody marked."""
    return np.ascontiguousarray(data.cell(), np.uint8)


def host_for_copy(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Another colour picture of the given shape, for a mark that is moved."""
    tissue = Image.fromarray(data.retina()).resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
    return np.asarray(tissue, np.uint8)[::-1, ::-1].copy()


def _slices() -> list[Samples]:
    """Sections through a head of ellipses, each with another tilt (after Shepp and Logan, 1974)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    out: list[Samples] = []
    for _ in range(8):
        picture = np.full((SIDE, SIDE), 8.0)
        for size, level in (
            (0.9, 190.0),
            (0.82, 70.0),
            *((rng.uniform(0.05, 0.35), rng.uniform(20, 160)) for _ in range(9)),
        ):
            cx, cy, tilt = (0.0, 0.0, 0.0) if size > 0.5 else (*rng.uniform(-0.45, 0.45, 2), rng.uniform(0, 3.1))
            u = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)
            v = (y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)
            picture[(u / size) ** 2 + (v / (0.75 * size)) ** 2 < 1] = level
        out.append(np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8))
    return out


def _windows(picture: NDArray[np.uint8], count: int) -> list[Samples]:
    rng = np.random.default_rng(2)
    height, width = picture.shape[:2]
    corners = [(int(rng.integers(0, height - SIDE)), int(rng.integers(0, width - SIDE))) for _ in range(count)]
    return [picture[t : t + SIDE, left : left + SIDE] for t, left in corners]


def training_folders(folder: Path) -> dict[str, Path]:
    """One folder of training pictures for each hospital, each of another modality."""
    own: dict[str, list[Samples]] = {
        "hospital-a": _slices(),
        "hospital-b": _windows(data.retina(), 8),
        "hospital-c": _windows(data.immunohistochemistry(), 8),
    }
    folders = {}
    for name, pictures in own.items():
        folders[name] = folder / name
        folders[name].mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pictures):
            Image.fromarray(np.ascontiguousarray(picture)).save(folders[name] / f"picture{i}.png")
    return folders
