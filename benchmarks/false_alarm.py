"""How often a mark is seen where none is: random windows and tone curves of unmarked pictures.

    python -m benchmarks.false_alarm [--images DIR] [--count 1000] [--json FILE] [--quick]

Counts payloads and scores above the threshold, and compares the scores with the law that the computed bound assumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from benchmarks.phantoms import phantom
from medprov_watermark import carriers as cr
from medprov_watermark import detection
from medprov_watermark.extractor import working_picture
from medprov_watermark.geometry import ALL
from medprov_watermark.payload import decode
from medprov_watermark.training.data import list_images
from medprov_watermark.weights import load_release

_extractor: Any = None


def unmarked(paths: list[Path], index: int) -> NDArray[np.unsignedinteger]:
    """A random window of a random picture under a random tone curve; every eighth is synthetic."""
    rng = np.random.default_rng([7, index])
    if not paths or index % 8 == 0:
        kind = index // 8 % 3
        size = int(rng.integers(64, 400))
        if kind == 0:
            return phantom(size, int(rng.integers(64, 400)), 8, False, index)
        y, x = np.mgrid[:size, :size]
        if kind == 1:
            cy, cx, r = rng.uniform(0.2, 0.8, 3) * size
            inside = np.hypot(y - cy, x - cx) < r / 2
        else:
            inside = (x * rng.normal() + y * rng.normal()) > rng.normal() * size / 2
        low, high = sorted(rng.integers(0, 256, 2))
        return np.asarray(np.where(inside, high, low), np.uint8)
    image = images.read(paths[int(rng.integers(len(paths)))])
    height, width = image.shape[:2]
    share = rng.uniform(0.4, 1.0)
    h, w = max(48, int(height * share)), max(48, int(width * share * rng.uniform(0.8, 1.0)))
    top, left = int(rng.integers(0, max(1, height - h))), int(rng.integers(0, max(1, width - w)))
    window = image[top : top + h, left : left + w]
    curve = 255 * (np.arange(256) / 255) ** float(np.exp(rng.uniform(-0.7, 0.7)))
    return np.ascontiguousarray(np.rint(curve).astype(np.uint8)[window])


def score(paths: list[Path], index: int) -> tuple[list[float], bool]:
    """Pilot scores in all eight orientations, and whether a payload came out."""
    global _extractor
    if _extractor is None:
        _extractor = load_release(device="cpu", threads=1).extractor
    picture = working_picture(unmarked(paths, index))
    if float(picture.max() - picture.min()) < detection.FLAT:
        return [0.0] * 8, False
    answers = _extractor(np.stack([g.undo(picture) for g in ALL]))
    scores = detection.pilot_score(answers)
    best = int(np.argmax(scores))
    payload = bool(scores[best] >= detection.THRESHOLD and decode(answers[best, : cr.CODE]) is not None)
    return [float(s) for s in scores], payload


def degrees(paths: list[Path], count: int) -> list[float]:
    """Degrees of freedom of the null carriers' spread (Welch-Satterthwaite over the rings of coefficients).

    Takes the trained networks and so needs torch, because a released extractor gives the spread's result only.
    """
    import torch
    from safetensors.torch import load_file

    from medprov_watermark.training.loop import Model, Settings
    from medprov_watermark.weights import FOLDER, RELEASE

    torch.set_num_threads(1)
    model = Model(Settings())
    model.load_state_dict(load_file(FOLDER / f"{RELEASE}.safetensors"))
    found = []
    for index in range(count):
        picture = working_picture(unmarked(paths, index))
        if float(picture.max() - picture.min()) < detection.FLAT:
            continue
        with torch.no_grad():
            parts = model.eval().extractor.coefficients(torch.from_numpy(picture)[None, None])[0, cr.WRITTEN :]
        rings = parts.square().mean(0).double()
        found.append(float(cr.NULLS * rings.sum() ** 2 / rings.square().sum()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    count = 120 if args.quick else args.count
    paths = list_images(args.images) if args.images else []
    with ProcessPoolExecutor(args.workers) as pool:
        found = list(pool.map(partial(score, paths), range(count), chunksize=16))
    scores = np.array([s for s, _ in found])
    freedom = degrees(paths, count // 4)
    figures = {
        "pictures": count,
        "extractions": int(scores.size),
        "payloads": sum(payload for _, payload in found),
        "above_threshold": int((scores.max(1) >= detection.THRESHOLD).sum()),
        "score_mean": float(scores.mean()),
        "score_sd": float(scores.std()),
        "score_max": float(scores.max()),
        "degrees_of_freedom_least": min(freedom),
        "degrees_of_freedom_median": float(np.median(freedom)),
        "score_quantiles": {str(q): float(np.quantile(scores, q)) for q in (0.5, 0.9, 0.99, 0.999)},
        "bound_95_percent": 3 / count,
        "computed_bound": detection.COMPUTED_FALSE_ALARM,
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
