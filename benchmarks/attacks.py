"""Attacks of the robustness benchmark: uint8 (H, W) or (H, W, 3) in, the same kind out.

"crop" hands over the window alone; rotations other than quarter turns keep the canvas and lose the corners.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Attack = Callable[[Picture, np.random.Generator], Picture]


def _clip(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def codec(name: str, **options: object) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, name, **options)
        back = Image.open(io.BytesIO(buffer.getvalue()))
        return np.array(back.convert("L" if image.ndim == 2 else "RGB"))

    return attack


def rotate(degrees: float) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        if degrees % 90 == 0:
            return np.ascontiguousarray(np.rot90(image, int(degrees) // 90))
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), np.uint8)

    return attack


def rescale(factor: float, back: bool) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        height, width = image.shape[:2]
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(
            cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) if back else small, np.uint8
        )

    return attack


def _window(image: Picture, share: float, rng: np.random.Generator) -> tuple[slice, slice]:
    height, width = image.shape[:2]
    h, w = round(height * share**0.5), round(width * share**0.5)
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return slice(top, top + h), slice(left, left + w)


def crop(removed: float) -> Attack:
    return lambda image, rng: np.ascontiguousarray(image[_window(image, 1 - removed, rng)])


def blackout(share: float) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        out = image.copy()
        out[_window(image, share, rng)] = 0
        return out

    return attack


def equalise(image: Picture, rng: np.random.Generator) -> Picture:
    if image.ndim == 2:
        return np.asarray(cv2.equalizeHist(image), np.uint8)
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    luma[..., 0] = cv2.equalizeHist(luma[..., 0])
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB), np.uint8)


def contrast(amount: float) -> Attack:
    factor = 259 * (amount + 255) / (255 * (259 - amount))
    return lambda image, rng: _clip((image.astype(np.float64) - 128) * factor + 128)


def brightness(offset: float) -> Attack:
    return lambda image, rng: _clip(image.astype(np.float64) + offset)


def salt_and_pepper(share: float) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        out, u = image.copy(), rng.random(image.shape[:2])
        out[u < share / 2] = 0
        out[u > 1 - share / 2] = 255
        return out

    return attack


def gaussian(deviation: float) -> Attack:
    return lambda image, rng: _clip(image + rng.normal(0, deviation, image.shape))


def speckle(variance: float) -> Attack:
    return lambda image, rng: _clip(image * (1 + rng.normal(0, variance**0.5, image.shape)))


def chain(*parts: Attack) -> Attack:
    def attack(image: Picture, rng: np.random.Generator) -> Picture:
        for part in parts:
            image = part(image, rng)
        return image

    return attack


def jpeg(quality: int) -> Attack:
    return codec("JPEG", quality=quality)


ATTACKS: dict[str, Attack] = {
    "none": lambda image, rng: image,
    "rot90": rotate(90),
    "rot180": rotate(180),
    "rot270": rotate(270),
    "flip_h": lambda image, rng: np.ascontiguousarray(image[:, ::-1]),
    "flip_v": lambda image, rng: np.ascontiguousarray(image[::-1]),
    "jpeg90": jpeg(90),
    "jpeg70": jpeg(70),
    "jpeg50": jpeg(50),
    "jpeg30": jpeg(30),
    "jpeg20": jpeg(20),
    "webp50": codec("WEBP", quality=50),
    "jp2_20": codec("JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=True),
    "gblur7": lambda image, rng: np.asarray(cv2.GaussianBlur(image, (7, 7), 0), np.uint8),
    "mean3": lambda image, rng: np.asarray(cv2.blur(image, (3, 3)), np.uint8),
    "median3": lambda image, rng: np.asarray(cv2.medianBlur(image, 3), np.uint8),
    "gamma0.5": lambda image, rng: _clip(255 * (image / 255.0) ** 0.5),
    "histeq": equalise,
    "bright+50": brightness(50),
    "bright-50": brightness(-50),
    "contrast+50": contrast(50),
    "contrast-50": contrast(-50),
    "saltpep0.01": salt_and_pepper(0.01),
    "gauss_sd0.5": gaussian(0.5),
    "gauss_sd5": gaussian(5),
    "gauss_sd12.75": gaussian(12.75),
    "gauss_sd25": gaussian(25),
    "poisson": lambda image, rng: _clip(rng.poisson(image).astype(np.float64)),
    "speckle0.01": speckle(0.01),
    "blackout25": blackout(0.25),
    "resize0.5back": rescale(0.5, back=True),
    "rescale0.75": rescale(0.75, back=False),
    "jpeg70+resize": chain(jpeg(70), rescale(0.5, back=True)),
    "screenshot": chain(rescale(0.75, back=False), jpeg(70)),
    "rot5": rotate(5),
    "rot15": rotate(15),
    "rot45": rotate(45),
    "crop10": crop(0.10),
    "crop25": crop(0.25),
    "crop50": crop(0.50),
    "crop60": crop(0.60),
}
"""Name -> attack. A number after ``crop`` is the share of the area that is cut away, in per cent."""


@dataclass(frozen=True)
class Curve:
    """One attack at growing strength.

    Parameters
    ----------
    title : str
        What the strength is, for an axis.
    strengths : tuple of float
    make : callable
        Strength -> attack.
    """

    title: str
    strengths: tuple[float, ...]
    make: Callable[[float], Attack]


CURVES: dict[str, Curve] = {
    "jpeg": Curve("JPEG quality", (10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95), lambda q: jpeg(round(q))),
    "gauss_sd": Curve("standard deviation of Gaussian noise", (0, 2.5, 5, 7.5, 10, 12.75, 15, 20, 25, 30), gaussian),
    "crop": Curve("area cut away, %", (0, 5, 10, 20, 25, 30, 40, 50, 60, 70), lambda percent: crop(percent / 100)),
    "rot": Curve("rotation, degrees", (0, 1, 2, 5, 10, 15, 20, 30, 45, 60, 75, 85, 89, 90), rotate),
}
"""Name -> curve. Its points are attacks of their own, see :func:`point`."""


def point(curve: str, strength: float) -> str:
    """Name of one point of a curve; a strength that :data:`ATTACKS` has too is the same attack under the same name."""
    name = f"{curve}{strength:g}"
    return name if name in ATTACKS else f"{curve}={strength:g}"


def points() -> list[str]:
    """Names of all points of all curves."""
    return [point(name, strength) for name, curve in CURVES.items() for strength in curve.strengths]


def find(name: str) -> Attack:
    """An attack by its name.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    if name in ATTACKS:
        return ATTACKS[name]
    curve, _, strength = name.partition("=")
    try:
        return CURVES[curve].make(float(strength))
    except (KeyError, ValueError):
        raise ValueError(f"attack {name}: unknown; there are {', '.join(ATTACKS)}") from None


def attacked(image: Picture, names: Iterable[str], seed: str) -> Iterator[tuple[str, Picture]]:
    """A picture after each attack.

    Noise and windows depend on `seed` and the attack's name alone, so that every method meets the same ones.
    """
    for name in names:
        yield name, find(name)(image.copy(), np.random.default_rng(zlib.crc32(f"{seed}{name}".encode())))
