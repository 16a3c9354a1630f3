"""How well the ordinal features tell processing from changed content, on real pictures.

    python -m benchmarks.features --images DIR [--json FILE] [--quick]

DIR is searched for PNG files; the folder a file lies in names its group. For every kind of processing: the share of
pictures in which any cell differs (false alarms) and the largest share of differing cells. For every kind of change:
the share of pictures in which it is found at the right place, and of differing cells elsewhere. For other pictures: the
share that is taken for a copied mark.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from medprov_watermark import features

Picture = NDArray[np.uint8]
SIDE = 512


def load(file: Path) -> Picture:
    with Image.open(file) as opened:
        image = opened.convert("L" if opened.mode in ("1", "L", "I", "I;16", "F") else "RGB")
    image.thumbnail((SIDE, SIDE))
    array = np.asarray(image)
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]
    return np.ascontiguousarray(array)


def jpeg(a: Picture, quality: int) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(a).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def by_pillow(filter_: ImageFilter.Filter) -> Callable[[Picture], Picture]:
    return lambda a: np.asarray(Image.fromarray(a).filter(filter_))


def gamma(a: Picture, exponent: float) -> Picture:
    return np.rint(255 * (a / 255) ** exponent).astype(np.uint8)


def equalise(a: Picture) -> Picture:
    return on_luminance(a, lambda y: np.asarray(ImageOps.equalize(Image.fromarray(y))))


def clahe(a: Picture) -> Picture:
    from skimage.exposure import equalize_adapthist

    return on_luminance(a, lambda y: np.rint(255 * equalize_adapthist(y, clip_limit=0.01)).astype(np.uint8))


def on_luminance(a: Picture, change: Callable[[Picture], Picture]) -> Picture:
    if a.ndim == 2:
        return change(a)
    ycc = np.asarray(Image.fromarray(a).convert("YCbCr")).copy()
    ycc[..., 0] = change(np.ascontiguousarray(ycc[..., 0]))
    return np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))


def window(a: Picture, low: float, high: float) -> Picture:
    scale = 255 / (high - low)
    return on_luminance(a, lambda y: np.clip((y.astype(np.float64) - low) * scale, 0, 255).round().astype(np.uint8))


def noise(a: Picture, sigma: float) -> Picture:
    return np.clip(a + np.random.default_rng(1).normal(0, sigma, a.shape), 0, 255).round().astype(np.uint8)


def specks(a: Picture, share: float) -> Picture:
    u, out = np.random.default_rng(1).random(a.shape[:2]), a.copy()
    out[u < share / 2], out[u > 1 - share / 2] = 0, 255
    return out


def resize(a: Picture, factor: float) -> Picture:
    size = (max(8, round(a.shape[1] * factor)), max(8, round(a.shape[0] * factor)))
    return np.asarray(Image.fromarray(a).resize(size, Image.Resampling.LANCZOS))


def black_quarter(a: Picture) -> Picture:
    """A black window over a quarter of the area, a little off the centre."""
    height, width = a.shape[:2]
    out = a.copy()
    out[height // 5 : height // 5 + height // 2, width // 3 : width // 3 + width // 2] = 0
    return out


def without_contrast(a: Picture, rng: random.Random) -> Picture:
    """A black picture with a few white spots where `a` is brightest: what a forger of a moved mark may choose."""
    brightness = grey(a)
    out = np.zeros_like(a)
    for _ in range(11):
        row, column = (int(i) for i in np.unravel_index(brightness.argmax(), brightness.shape))
        place = slice(max(0, row - 8), row + 8), slice(max(0, column - 8), column + 8)
        out[place], brightness[place] = 255, -1 - rng.random()
    return out


def pattern(a: Picture, amplitude: float) -> Picture:
    """A band-limited pattern of 6 to 34 cycles with this standard deviation, as the ownership mark adds."""
    rng, (h, w) = np.random.default_rng(2), a.shape[:2]
    y, x = np.arange(h)[:, None] / h, np.arange(w)[None] / w
    total = np.zeros((h, w))
    for _ in range(40):
        radius, angle = rng.uniform(6, 34), rng.uniform(0, np.pi)
        waves = radius * (np.cos(angle) * y + np.sin(angle) * x)
        total += np.cos(2 * np.pi * waves + rng.uniform(0, 2 * np.pi))
    total *= amplitude / total.std()
    return np.clip(a + (total if a.ndim == 2 else total[..., None]), 0, 255).round().astype(np.uint8)


PROCESSING: dict[str, Callable[[Picture], Picture]] = {
    "nothing": lambda a: a,
    **{f"jpeg {quality}": partial(jpeg, quality=quality) for quality in (90, 70, 50, 30)},
    "blur sigma 1.4": by_pillow(ImageFilter.GaussianBlur(1.4)),
    "blur sigma 3": by_pillow(ImageFilter.GaussianBlur(3)),
    "median 5x5": by_pillow(ImageFilter.MedianFilter(5)),
    "sharpen": by_pillow(ImageFilter.UnsharpMask(2, 100)),
    "gamma 0.5": lambda a: gamma(a, 0.5),
    "gamma 2": lambda a: gamma(a, 2),
    "equalise": equalise,
    "adaptive equalise": clahe,
    "window 40..180": lambda a: window(a, 40, 180),
    "brightness +50": lambda a: window(a, -50, 205),
    "brightness -50": lambda a: window(a, 50, 305),
    "black quarter": lambda a: black_quarter(a),
    "black quarter, jpeg 50": lambda a: jpeg(black_quarter(a), 50),
    "contrast 0.5": lambda a: window(a, -128, 383),
    "noise 10": lambda a: noise(a, 10),
    "noise 20": lambda a: noise(a, 20),
    "salt and pepper 5 %": lambda a: specks(a, 0.05),
    "resize 0.5": lambda a: resize(a, 0.5),
    "resize 0.25": lambda a: resize(a, 0.25),
    "resize 2": lambda a: resize(a, 2),
    "pattern +-2": lambda a: pattern(a, 2),
    "pattern +-2, jpeg 50": lambda a: jpeg(pattern(a, 2), 50),
    "jpeg 50, equalise": lambda a: equalise(jpeg(a, 50)),
    "gamma 0.5, jpeg 50": lambda a: jpeg(gamma(a, 0.5), 50),
    "resize 0.5, jpeg 50": lambda a: jpeg(resize(a, 0.5), 50),
    "quarter turn and back": lambda a: np.ascontiguousarray(np.rot90(jpeg(np.ascontiguousarray(np.rot90(a)), 70), -1)),
}
AFTER: dict[str, Callable[[Picture], Picture]] = {
    "": lambda a: a,
    ", jpeg 50": lambda a: jpeg(a, 50),
    ", gamma 0.6": lambda a: gamma(a, 0.6),
}


def grey(a: Picture) -> NDArray[np.float64]:
    return a.astype(np.float64) if a.ndim == 2 else a @ np.array([0.299, 0.587, 0.114])


def paint(a: Picture, size: float, kind: str, rng: random.Random) -> tuple[Picture, NDArray[np.bool_]]:
    """Change an ellipse whose axes are about `size` of the sides; the picture and where it was changed."""
    h, w = a.shape[:2]
    brightness = grey(a)
    for _ in range(200):
        ry, rx = h * size / 2 * rng.uniform(0.8, 1.2), w * size / 2 * rng.uniform(0.8, 1.2)
        cy, cx = rng.uniform(ry + 2, h - ry - 2), rng.uniform(rx + 2, w - rx - 2)
        y, x = np.mgrid[:h, :w]
        radius = np.sqrt(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2)
        inside = np.asarray(radius <= 1, np.bool_)
        if 25 < brightness[inside].mean() < 235:
            break
    old = a.astype(np.float64).reshape(h, w, -1)
    if kind == "filled":
        keep = (radius > 1.1).astype(np.float32)
        sigma = max(ry, rx) * 0.7
        weight = np.maximum(_blurred(keep, sigma), 1e-6)
        planes = [old[..., channel].astype(np.float32) * keep for channel in range(old.shape[2])]
        new = np.stack([_blurred(plane, sigma) / weight for plane in planes], -1)
    elif kind == "added 40":
        new = old + (40 if brightness[inside].mean() < 150 else -40)
    elif kind == "added 20":
        new = old + (20 if brightness[inside].mean() < 150 else -20)
    else:
        new = np.roll(old, (h // 3, w // 3), (0, 1))
        for _ in range(200):
            moved = np.roll(old, (rng.randrange(h), rng.randrange(w)), (0, 1))
            if moved[inside].mean() > 25:
                new = moved
                break
    edge = np.clip((1.15 - radius) / 0.15, 0, 1)[..., None]
    out = np.clip(old * (1 - edge) + new * edge, 0, 255).round().astype(np.uint8)
    return out.reshape(a.shape), inside


def _blurred(a: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    """Gaussian blur that wraps around."""
    y, x = np.fft.fftfreq(a.shape[0])[:, None], np.fft.rfftfreq(a.shape[1])[None]
    return np.fft.irfft2(np.fft.rfft2(a) * np.exp(-2 * (np.pi * sigma) ** 2 * (y * y + x * x)), a.shape)


def near(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that the change touches, and their neighbours."""
    rows, columns = (features.cell_edges(n)[:-1] for n in inside.shape)
    cells = np.maximum.reduceat(np.maximum.reduceat(inside, rows, 0), columns, 1)
    padded = np.pad(cells, 1)
    n = features.CELLS
    return np.asarray(
        np.logical_or.reduce([padded[i : i + n, j : j + n] for i in range(3) for j in range(3)]), np.bool_
    )


def measure(pictures: list[tuple[str, Picture]], sizes: tuple[float, ...]) -> dict[str, object]:
    rng = random.Random(3)
    false_alarms: dict[str, list[float]] = defaultdict(list)
    blocks: dict[str, list[int]] = defaultdict(list)
    found: dict[str, list[bool]] = defaultdict(list)
    copied: dict[str, list[bool]] = defaultdict(list)
    differ: dict[str, list[bool]] = defaultdict(list)
    elsewhere: dict[str, list[int]] = defaultdict(list)
    mistaken: dict[str, list[bool]] = defaultdict(list)
    unmasked: list[bool] = []
    for number, (group, picture) in enumerate(pictures):
        released, grid = features.ordinal_features(picture), features.exact_grid(picture)
        for name, process in PROCESSING.items():
            after = process(picture)
            result = features.compare(released, after)
            false_alarms[name].append(result.share)
            mistaken[name].append(result.vanished or result.share >= features.COPIED_SHARE)
            if after.shape == picture.shape and name != "nothing":
                blocks[name].append(features.compare_exact(grid, after).mixed)
        for size in sizes:
            for kind in ("filled", "added 20", "added 40", "copied here"):
                changed, inside = paint(picture, size, kind, rng)
                for suffix, process in AFTER.items():
                    result = features.compare(released, process(changed))
                    name, place = f"{kind}, {size:.0%}{suffix}", near(inside)
                    found[name].append(bool((result.differs & place).any()))
                    copied[f"{size:.0%}"].append(result.share >= features.COPIED_SHARE)
                    if (result.differs & place).any():
                        elsewhere[name].append(int((result.differs & ~place).sum()))
        forged = features.compare(released, without_contrast(picture, rng))
        unmasked.append(forged.vanished or forged.share > 0)
        same = [p for g, p in pictures if g == group and p is not picture]
        other = [p for g, p in pictures if g != group]
        for kind, candidates in (("same group", same), ("other group", other)):
            for candidate in rng.sample(candidates, min(3, len(candidates))):
                share = features.compare(released, candidate).share
                copied[kind].append(share >= features.COPIED_SHARE)
                differ[kind].append(share > 0)
        print(f"{number + 1}/{len(pictures)} {group}", file=sys.stderr)
    return {
        "pictures": len(pictures),
        "processing": {
            name: {
                "any cell differs": _mean(np.array(v) > 0),
                "largest share": round(max(v), 4),
                "called a copied mark": _mean(mistaken[name]),
            }
            for name, v in false_alarms.items()
        },
        "exact blocks called mixed after processing": {name: _mean(v) for name, v in blocks.items()},
        "changes found": {name: _mean(v) for name, v in found.items()},
        "cells elsewhere, mean": {name: _mean(v) for name, v in elsewhere.items()},
        "called a copied mark": {name: _mean(v) for name, v in copied.items()},
        "picture without contrast found out": _mean(unmasked),
        "another picture differs": {name: _mean(v) for name, v in differ.items()},
    }


def _mean(values: object) -> float:
    return round(float(np.mean(np.asarray(values, np.float64))), 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder with PNG files, searched recursively")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="two pictures per folder, small changes only")
    parser.add_argument("--per-folder", type=int, default=10)
    arguments = parser.parse_args()
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(arguments.images.rglob("*.png")):
        if not file.parent.name.endswith("_masks"):
            groups[file.parent.name].append(file)
    if not groups:
        print(f"{arguments.images}: no PNG files; name a folder that has some", file=sys.stderr)
        return 2
    count = 2 if arguments.quick else arguments.per_folder
    pictures = [
        (group, load(file))
        for group, files in groups.items()
        for file in random.Random(1).sample(files, min(count, len(files)))
    ]
    result = measure(pictures, (0.05, 0.1) if arguments.quick else (0.03, 0.04, 0.05, 0.08, 0.1, 0.25, 0.5))
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
