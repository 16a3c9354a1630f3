"""Small networks that really learn, pictures of several modalities for them, and how many payloads they carry.

For benchmarks that train a federation many times over: networks of a few ten thousand parameters, trained by the
product's own code at the working size, judged by what counts in the end: whether a payload is read exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.phantoms import FAMILIES, look
from medprov_watermark import carriers as cr
from medprov_watermark.detection import Detection, pilot_score
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.payload import Payload, encode
from medprov_watermark.training import attacks, data
from medprov_watermark.training.loop import Model, Settings, embed

Picture = NDArray[np.uint8]
Attack = Callable[[Tensor], Tensor]

BATTERY: dict[str, Attack] = {
    "untouched": lambda x: x,
    "JPEG 70": lambda x: attacks.jpeg(x, 70.0),
    "JPEG 50": lambda x: attacks.jpeg(x, 50.0),
    "blur": lambda x: attacks.gaussian_blur(x, 5, 0.8),
    "gamma": lambda x: attacks.gamma(x, 0.7),
}
MODALITIES = ("cxr", "histo", "fundus", "us", "mammo", "brain_mri", "derm", "angio", "ct", "fluorescence")
"""Folders in the order in which they are given to hospitals; others follow by name."""


@dataclass(frozen=True)
class Modality:
    """Pictures of one kind, without a common source between the three sets.

    Parameters
    ----------
    name : str
    training, tuning, judged : uint8 array (N, SIZE, SIZE)
        To train on, to choose settings by, to report.
    """

    name: str
    training: Picture
    tuning: Picture
    judged: Picture


@dataclass(frozen=True)
class Carried:
    """What became of marked pictures.

    Parameters
    ----------
    exact : float
        Share of all pictures and attacks whose payload is read exactly, 0..1.
    wrong : int
        Payloads that were read and are others.
    tries : int
        Pictures times attacks.
    bits : float
        Share of the written carriers that are read with the right sign, 0..1.
    psnr : float
        Mean over the pictures, dB, measured.
    """

    exact: float
    wrong: int
    tries: int
    bits: float
    psnr: float


def modalities(folder: Path | None, count: int, training: int, judged: int) -> list[Modality]:
    """Pictures of several modalities.

    Parameters
    ----------
    folder : Path or None
        One folder per modality below it; None generates them.
    count : int
        Modalities; where there are fewer, a ValueError.
    training, judged : int
        Pictures of each at most; as many as of the judged ones are kept for tuning.

    Raises
    ------
    ValueError
        Too few folders, or one without pictures on both sides of the split.
    """
    if folder is None:
        if count > len(FAMILIES):
            raise ValueError(f"{count} modalities: {len(FAMILIES)} can be generated")
        return [_generated(name, training, judged) for name in list(FAMILIES)[:count]]
    order = {name: i for i, name in enumerate(MODALITIES)}
    found = [p for p in folder.iterdir() if p.is_dir() and any(data.list_images(p))]
    found.sort(key=lambda p: (order.get(p.name, len(order)), p.name))
    read = []
    for path in found:
        held = [p for p in data.list_images(path) if data.held_back(p)]
        used = [p for p in data.list_images(path) if not data.held_back(p)]
        if len(held) < 3 or len(used) < 4:
            continue
        read.append((path.name, _spread(used, training), _spread(held, 2 * judged)))
    if len(read) < count:
        raise ValueError(f"{folder}: {len(read)} modalities with enough pictures, {count} are needed")
    return [Modality(name, _load(used), _load(held[1::2]), _load(held[::2])) for name, used, held in read[:count]]


def settings(steps: int, batch: int, rate: float, seed: int = 0) -> Settings:
    """The small networks: 34 000 parameters."""
    return Settings(
        steps=steps,
        batch=batch,
        rate=rate,
        start_db=36.0,
        final_db=40.0,
        adversarial_weight=0.0,
        seed=seed,
        channels=8,
        blocks=1,
        extractor_blocks=1,
    )


@torch.no_grad()
def carried(model: Model, pictures: Picture, db: float, seed: int, battery: Mapping[str, Attack] = BATTERY) -> Carried:
    """Mark pictures with payloads at a fixed PSNR, attack them, read and decode as a verifier does.

    Parameters
    ----------
    model : Model
    pictures : uint8 array (N, SIZE, SIZE)
    db : float
        PSNR that the marks are scaled to before rounding.
    seed : int
        Draws the payloads.
    battery : mapping of str to callable
    """
    model.eval()
    x = torch.from_numpy(pictures)[:, None].float()
    payloads = [_payload(seed, i) for i in range(len(pictures))]
    pilots = cr.derive().pilot_signs
    signs = np.stack([np.concatenate([encode(p), pilots]) for p in payloads]).astype(np.float32)
    values = torch.from_numpy(signs)
    marked = embed(model.coupling, x, values, torch.full((len(x), 1, 1, 1), db))
    error = (marked - x).square().mean((1, 2, 3)).double().clamp(min=1e-9)
    psnr = float((10 * torch.log10(255**2 / error)).mean())
    exact = wrong = 0
    bits = []
    for attack in battery.values():
        answers = read(model, attack(marked).clamp(0, 255).round())
        bits.append(float(((answers > 0) == (signs > 0)).mean()))
        for own, payload in zip(answers, payloads, strict=True):
            found = decoded(own)
            exact += found == payload
            wrong += found is not None and found != payload
    tries = len(pictures) * len(battery)
    return Carried(exact / tries, wrong, tries, math.fsum(bits) / len(bits), psnr)


@torch.no_grad()
def read(model: Model, pictures: Tensor) -> NDArray[np.float32]:
    """Answers of the written carriers in standard deviations of an unmarked one, float32 (B, WRITTEN)."""
    parts = model.extractor.coefficients(pictures).float().numpy()
    spread = np.sqrt(np.square(parts[:, cr.WRITTEN :]).mean((1, 2)))
    sums = parts[:, : cr.WRITTEN].sum(2) / math.sqrt(cr.COEFFICIENTS)
    return np.asarray(np.nan_to_num(sums / np.maximum(spread, 1e-6)[:, None]), np.float32)


def decoded(answers: NDArray[np.float32]) -> Payload | None:
    """The payload, if pilots and codeword together may be believed; the picture stands upright."""
    score = float(pilot_score(answers[None], cr.derive())[0])
    found = Detection(score, Geometry(), answers[: cr.CODE], len(ALL)).read()
    return None if found is None else found.payload


def write(folder: Path, pictures: Picture, first: int = 0) -> None:
    """Put training pictures where a hospital reads them, under names that its own split does not hold back."""
    folder.mkdir(parents=True, exist_ok=True)
    number = first
    for picture in pictures:
        while data.held_back(path := folder / f"{number:05d}.png"):
            number += 1
        Image.fromarray(picture).save(path)
        number += 1


def _payload(seed: int, number: int) -> Payload:
    return Payload.from_data(hashlib.sha256(f"learning {seed} {number}".encode()).digest()[:12])


def _generated(name: str, training: int, judged: int) -> Modality:
    sets = (
        np.stack([look(name, cr.SIZE, 1000 * part + i) for i in range(count)])
        for part, count in enumerate((training, judged, judged))
    )
    return Modality(name, *sets)


def _spread(paths: list[Path], count: int) -> list[Path]:
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[i] for i in chosen]


def _load(paths: list[Path]) -> Picture:
    # Area averaging: what a smaller picture of a scanner looks like, and fast for mammograms.
    out = []
    for path in paths:
        grey = data.read_grey(path)
        side = min(grey.shape)
        top, left = ((n - side) // 2 for n in grey.shape)
        square = np.ascontiguousarray(grey[top : top + side, left : left + side])
        out.append(cv2.resize(square, (cr.SIZE, cr.SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(out).astype(np.uint8)


def check_plan(out: Path, plan: object, apart: Collection[str] = ("seed", "seeds")) -> None:
    """Refuse a folder that holds results of another plan; they are found by their names alone.

    Raises
    ------
    SystemExit
        Names the folder and what differs.
    """
    own = json.loads(json.dumps({name: value for name, value in vars(plan).items() if name not in apart}))
    file = out / "plan.json"
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(json.dumps(own))
    kept = json.loads(file.read_text())
    if other := sorted(name for name in own.keys() | kept.keys() if own.get(name) != kept.get(name)):
        raise SystemExit(f"{out}: holds results of a plan with other {', '.join(other)}: name another --out")
