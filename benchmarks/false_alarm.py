"""How often a mark is seen where none is: random windows and tone curves of unmarked pictures.

    python -m benchmarks.false_alarm [--images DIR] [--count 10000] [--json FILE] [--quick]

Counts what :meth:`medprov_watermark.DualWatermarker.extract` says of unmarked pictures, and compares the scores in
the eight orientations with the law that the computed bound assumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.summaries import wilson
from benchmarks.unmarked import picture
from medprov_watermark import carriers as cr
from medprov_watermark import detection
from medprov_watermark.extractor import Extractor, working_picture
from medprov_watermark.geometry import ALL
from medprov_watermark.training.data import list_images
from medprov_watermark.watermarker import DualWatermarker
from medprov_watermark.weights import load_release

_tools: tuple[DualWatermarker, Extractor] | None = None


@dataclass(frozen=True)
class Seen:
    """What was read from one unmarked picture.

    Parameters
    ----------
    payload, intact : bool
        Whether a payload came out of W1, and whether W2 claims to be intact.
    presence : float
    scores : tuple of float
        Pilot scores in the eight orientations; empty for a flat picture.
    """

    payload: bool
    intact: bool
    presence: float
    scores: tuple[float, ...]


def read(paths: list[Path], index: int) -> Seen:
    """Read one unmarked picture."""
    global _tools
    if _tools is None:
        _tools = DualWatermarker.load(device="cpu", threads=1), load_release(device="cpu", threads=1).extractor
    watermarker, extractor = _tools
    image = picture(paths, index)
    found = watermarker.extract(image)
    working = working_picture(image)
    scores: tuple[float, ...] = ()
    if float(working.max() - working.min()) >= detection.FLAT:
        answers = extractor(np.stack([g.undo(working) for g in ALL]))
        scores = tuple(float(s) for s in detection.pilot_score(answers))
    return Seen(found.payload is not None, found.integrity.state == "intact", float(found.presence), scores)


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
        working = working_picture(picture(paths, index))
        if float(working.max() - working.min()) < detection.FLAT:
            continue
        with torch.no_grad():
            parts = model.eval().extractor.coefficients(torch.from_numpy(working)[None, None])[0, cr.WRITTEN :]
        rings = parts.square().mean(0).double()
        found.append(float(cr.NULLS * rings.sum() ** 2 / rings.square().sum()))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="120 pictures")
    args = parser.parse_args()
    count = 120 if args.quick else args.count
    paths = list_images(args.images) if args.images else []
    with ProcessPoolExecutor(args.workers) as pool:
        found = list(pool.map(partial(read, paths), range(count), chunksize=16))
    scores = np.array([score for seen in found for score in seen.scores])
    presence = np.array([seen.presence for seen in found])
    payloads = sum(seen.payload for seen in found)
    freedom = degrees(paths, min(count // 4, 250))
    figures = {
        "pictures": count,
        "files": len(paths),
        "payloads": payloads,
        "integrity_marks": sum(seen.intact for seen in found),
        "above_threshold": int((presence >= detection.THRESHOLD).sum()),
        "presence_max": float(presence.max()),
        "upper_bound_95_percent": wilson(payloads, count)[1],
        "computed_bound": detection.COMPUTED_FALSE_ALARM,
        "scores": int(scores.size),
        "score_mean": float(scores.mean()),
        "score_sd": float(scores.std()),
        "score_max": float(scores.max()),
        "score_quantiles": {str(q): float(np.quantile(scores, q)) for q in (0.5, 0.9, 0.99, 0.999)},
        "degrees_of_freedom_least": min(freedom),
        "degrees_of_freedom_median": float(np.median(freedom)),
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
