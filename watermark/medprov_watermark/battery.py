"""The battery of attacks by which a mark is tried before it leaves: what a picture meets in practice.

Attacks take and give uint8 arrays (H, W). What is random is drawn anew in every trial: a mark that is tuned under one
noise or in one window comes to suit that noise or window and no other. The same `draw` gives the same attack, so that
marking a picture twice gives the same file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medprov_watermark.carriers import SIZE
from medprov_watermark.extractor import F32, grey_picture, working_picture
from medprov_watermark.synchronisation import framed
from medprov_watermark.workers import each

Grey = NDArray[np.uint8]
Seen = tuple[F32, NDArray[np.bool_]]
_SEED = 20261120
FLOOR, LEAST_SIMILAR = 45.0, 0.975
"""PSNR (dB) and SSIM below which parts of the battery are given up rather than quality."""


@dataclass(frozen=True)
class Attack:
    """One attack of the battery.

    Parameters
    ----------
    name : str
    seen : callable
        Marked picture, uint8 (H, W), and a random generator -> what the extractor gets to see, float32 (SIZE, SIZE),
        and where that shows something, bool (SIZE, SIZE).
    reserve : float
        Bits by which the codeword shall fit better than needed: more where chance has a part in the attack.
    score : float
        Pilot score that is asked for, so that the place is found.
    tries : float
        Among about how many orientations, angles or places it must be found.
    repeats : float
        Which share of what the attack does to a carrier comes back when it is repeated on a slightly other picture.
    floor, similar : float
        PSNR (dB) and SSIM below which the attack is given up rather than quality.
    """

    name: str
    seen: Callable[[Grey, np.random.Generator], Seen]
    reserve: float
    score: float
    tries: float
    repeats: float
    floor: float = FLOOR
    similar: float = LEAST_SIMILAR


def codec(picture: Grey, name: str, **options: object) -> Grey:
    """Through a file of Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, name, **options)
    return np.asarray(Image.open(buffer).convert("L"))


def jpeg(picture: Grey, quality: int) -> Grey:
    """Through a JPEG file of the given quality (libjpeg's scale)."""
    return codec(picture, "JPEG", quality=quality)


def blur(picture: Grey, size: int = 7, sigma: float = 1.6) -> Grey:
    """Gaussian filter of `size` taps, a little stronger than the usual 7x7 filter with its sigma of 1.4."""
    t = np.arange(size) - size // 2
    kernel = np.exp(-t * t / (2 * sigma * sigma)).astype(np.float32)
    kernel /= kernel.sum()
    padded = np.pad(picture.astype(np.float32), size // 2, mode="reflect")
    height, width = picture.shape
    rows = sum((kernel[i] * padded[i : i + height] for i in range(size)), np.zeros((), np.float32))
    both = sum((kernel[i] * rows[:, i : i + width] for i in range(size)), np.zeros((), np.float32))
    return np.rint(both).astype(np.uint8)


def median(picture: Grey) -> Grey:
    """3x3 median."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.MedianFilter(3)))


def equalise(picture: Grey) -> Grey:
    """Histogram equalisation."""
    cumulative = np.bincount(picture.ravel(), minlength=256).cumsum()
    first = cumulative[cumulative > 0][0]
    curve = (cumulative - first) / max(1, cumulative[-1] - first) * 255
    return np.asarray(np.clip(np.rint(curve), 0, 255).astype(np.uint8)[picture])


def tone(picture: Grey, factor: float, offset: float) -> Grey:
    """Contrast about the middle grey, and brightness; what leaves 0..255 is lost."""
    curve = np.clip(np.rint((np.arange(256) - 128.0) * factor + 128 + offset), 0, 255).astype(np.uint8)
    return np.asarray(curve[picture])


def gamma(picture: Grey, exponent: float) -> Grey:
    """Power law on 0..1."""
    curve = np.rint(255 * (np.arange(256) / 255.0) ** exponent).astype(np.uint8)
    return np.asarray(curve[picture])


def _noisy(picture: Grey, deviation: F32 | float, rng: np.random.Generator) -> Grey:
    noise = rng.standard_normal(picture.shape, np.float32) * deviation
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def gaussian(picture: Grey, deviation: float, rng: np.random.Generator) -> Grey:
    """Gaussian noise of a standard deviation in grey levels."""
    return _noisy(picture, deviation, rng)


def speckle(picture: Grey, rng: np.random.Generator) -> Grey:
    """Noise of a tenth of the grey value."""
    return _noisy(picture, picture * np.float32(0.1), rng)


def impulses(picture: Grey, rng: np.random.Generator) -> Grey:
    """Salt and pepper on one pixel of a hundred."""
    u = rng.random(picture.shape, np.float32)
    return np.where(u < 0.005, 0, np.where(u > 0.995, 255, picture)).astype(np.uint8)


def _region(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> tuple[slice, slice]:
    height, width = (round(n * math.sqrt(share)) for n in shape)
    top, left = int(rng.integers(0, shape[0] - height + 1)), int(rng.integers(0, shape[1] - width + 1))
    return slice(top, top + height), slice(left, left + width)


def window(picture: Grey, share: float, rng: np.random.Generator) -> Seen:
    """A window of the given share of the area, found in its place."""
    height, width = picture.shape
    part = _region(picture.shape, share, rng)
    left, top = part[1].start, part[0].start
    return framed(grey_picture(picture[part]), (width, 0, -left, 0, height, -top))


def blackout(picture: Grey, share: float, rng: np.random.Generator) -> Grey:
    """A window of the given share of the area black."""
    out = picture.copy()
    out[_region(picture.shape, share, rng)] = 0
    return out


def turned(picture: Grey, degrees: float) -> Seen:
    """Turned on its canvas, and turned back as the verifier does it, a tenth of a degree off."""
    canvas = Image.fromarray(picture).rotate(degrees, Image.Resampling.BILINEAR)
    height, width = picture.shape
    back = math.radians(degrees + 0.1)
    c, s = math.cos(back), math.sin(back)
    x, y = width / 2, height / 2
    matrix = (c * width, s * height, x - c * x - s * y, -s * width, c * height, y + s * x - c * y)
    return framed(grey_picture(np.asarray(canvas)), matrix)


def halved(picture: Grey) -> Grey:
    """Half size, as a codec or a screen shows it."""
    return np.asarray(Image.fromarray(picture).reduce(2))


_UPRIGHT, _TURNED, _WINDOW = (5.5, 8.0), (6.5, 2e3), (8.0, 7e6)
_SURE, _CHANCY, _PLACED = 10.0, 16.0, 30.0
_STEADY, _CODEC, _RANDOM = 0.95, 0.5, 0.0
_MUST, _OFTEN = (43.5, 0.965), (44.3, 0.97)
_LUXURY = 46.5, 0.99
"""Quality that is given away for what every picture meets, and not for what spoils the picture itself."""

ATTACKS: tuple[Attack, ...] = (
    Attack("none", lambda p, r: whole(p), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("jpeg 50", lambda p, r: whole(jpeg(p, 50)), _SURE, *_UPRIGHT, _CODEC, *_MUST),
    Attack("jpeg 28", lambda p, r: whole(jpeg(p, 28)), _SURE, *_UPRIGHT, _CODEC),
    Attack("webp 50", lambda p, r: whole(codec(p, "WEBP", quality=50)), _SURE, *_UPRIGHT, _CODEC),
    Attack(
        "jpeg 2000",
        lambda p, r: whole(codec(p, "JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=True)),
        _SURE,
        *_UPRIGHT,
        _CODEC,
    ),
    Attack("blur", lambda p, r: whole(blur(p)), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("median", lambda p, r: whole(median(p)), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("equalise", lambda p, r: whole(equalise(p)), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("darker", lambda p, r: whole(tone(p, 1, -50)), _SURE, *_UPRIGHT, _STEADY),
    Attack("brighter", lambda p, r: whole(tone(p, 1, 50)), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("contrast", lambda p, r: whole(tone(p, 1.49, 0)), _SURE, *_UPRIGHT, _STEADY),
    Attack("gaussian", lambda p, r: whole(gaussian(p, 12.75, r)), _CHANCY, *_UPRIGHT, _RANDOM),
    Attack("speckle", lambda p, r: whole(speckle(p, r)), _CHANCY, *_UPRIGHT, _RANDOM),
    Attack("impulses", lambda p, r: whole(impulses(p, r)), _CHANCY, *_UPRIGHT, _RANDOM),
    Attack("half size", lambda p, r: whole(jpeg(halved(p), 80)), _SURE, *_UPRIGHT, _STEADY, *_MUST),
    Attack("blackout", lambda p, r: whole(blackout(p, 0.25, r)), _PLACED, *_UPRIGHT, _RANDOM),
    Attack("turned", lambda p, r: turned(p, float(r.uniform(5, 45))), _CHANCY, *_TURNED, _CODEC),
    Attack("window", lambda p, r: window(p, 0.5, r), _PLACED, *_WINDOW, _RANDOM),
    Attack("large window", lambda p, r: window(p, 0.8, r), _CHANCY, *_WINDOW, _RANDOM, *_OFTEN),
    Attack("strong gaussian", lambda p, r: whole(gaussian(p, 25, r)), _CHANCY, *_UPRIGHT, _RANDOM, *_LUXURY),
    Attack("small window", lambda p, r: window(p, 0.4, r), _PLACED, *_WINDOW, _RANDOM, *_LUXURY),
)


USUAL: tuple[int, ...] = tuple(k for k, attack in enumerate(ATTACKS) if attack.floor <= FLOOR)
"""The attacks without those that spoil the picture."""
QUICK: tuple[int, ...] = tuple(
    k for k, attack in enumerate(ATTACKS) if attack.name in ("none", "jpeg 28", "gaussian", "window")
)
"""The attacks that say most in little time."""


def whole(picture: Grey) -> Seen:
    """A picture that shows all of its frame."""
    return working_picture(picture), np.ones((SIZE, SIZE), np.bool_)


def seen(picture: Grey, draw: int = 0, tried: Iterable[int] = range(len(ATTACKS))) -> Seen:
    """What the extractor gets to see after each attack.

    Parameters
    ----------
    picture : uint8 array (H, W)
    draw : int
        Which noise, windows and angles.
    tried : iterable of int
        Which attacks.

    Returns
    -------
    pictures : float32 array (tried, SIZE, SIZE)
    shown : bool array (tried, SIZE, SIZE)
    """

    def one(which: int) -> Seen:
        return ATTACKS[which].seen(picture, np.random.default_rng([_SEED, draw, which]))

    parts = each(one, [int(k) for k in tried])
    return np.stack([p for p, _ in parts]), np.stack([s for _, s in parts])
