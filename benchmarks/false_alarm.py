"""How often a mark is seen where none is: random windows and tone curves of unmarked pictures.

    python -m benchmarks.false_alarm [--images DIR] [--count 10000] [--searched 10000] [--scored 10000]
        [--json FILE] [--quick]

Counts what :meth:`medprov_watermark.DualWatermarker.extract` says of unmarked pictures, compares how small a chance of
error it claims with how often it claims that, and the scores in the eight orientations with the law behind the claim.
The first ``--searched`` pictures are searched at all angles and in all windows, which takes seconds each; the others
are read in the eight orientations only. Scores are taken of the first ``--scored``, which takes longer than reading.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.summaries import wilson
from benchmarks.unmarked import picture
from medprov_watermark import carriers as cr
from medprov_watermark import detection
from medprov_watermark.extractor import Reader, working_picture
from medprov_watermark.geometry import ALL
from medprov_watermark.training.data import list_images
from medprov_watermark.watermarker import DualWatermarker
from medprov_watermark.weights import load_release

_tools: tuple[DualWatermarker, Reader] | None = None


@dataclass(frozen=True)
class Seen:
    """What was read from one unmarked picture.

    Parameters
    ----------
    payload, present, intact : bool
        Whether a payload came out of W1, whether its pilots count as a mark, and whether W2 claims to be intact.
    presence, false_alarm : float
    scores : tuple of float
        Pilot scores in the eight orientations; empty for a flat picture and where they were not asked for.
    degrees : float
        Degrees of freedom of the null carriers' spread (Welch-Satterthwaite over the rings of coefficients); 0 for a
        flat picture.
    """

    payload: bool
    present: bool
    intact: bool
    presence: float
    false_alarm: float
    scores: tuple[float, ...] = ()
    degrees: float = 0.0


def read(paths: list[Path], searched: int, scored: int, index: int) -> Seen:
    """Read one unmarked picture."""
    global _tools
    if _tools is None:
        release = load_release(device="cpu", threads=1)
        _tools = DualWatermarker(release), Reader(release.extractor, cr.derive(None))
    watermarker, reader = _tools
    image = picture(paths, index)
    found = watermarker.extract(image, search=index < searched)
    intact = found.integrity.state == "intact"
    seen = Seen(found.payload is not None, found.present, intact, float(found.presence), float(found.false_alarm))
    working = working_picture(image)
    if index >= scored or detection.flat(working):
        return seen
    spectra = reader.extractor.spectra(reader.extractor.white(np.stack([g.undo(working) for g in ALL])))
    scores = detection.pilot_score(reader.answers(spectra), reader.carriers)
    nulls = reader.carriers.index[cr.WRITTEN :]
    rings = np.square(spectra[0][nulls[..., 0], nulls[..., 1]].astype(np.float64)).mean(0)
    degrees = cr.NULLS * rings.sum() ** 2 / np.square(rings).sum()
    return replace(seen, scores=tuple(float(s) for s in scores), degrees=float(degrees))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--searched", type=int, default=10000)
    parser.add_argument("--scored", type=int, default=10000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="40 pictures, under a minute")
    args = parser.parse_args()
    count, searched = (40, 8) if args.quick else (args.count, args.searched)
    paths = list_images(args.images) if args.images else []
    with ProcessPoolExecutor(args.workers) as pool:
        found = list(pool.map(partial(read, paths, searched, args.scored), range(count), chunksize=4))
    scores = np.array([score for seen in found for score in seen.scores])
    presence = np.array([seen.presence for seen in found])
    payloads = sum(seen.payload for seen in found)
    freedom = [seen.degrees for seen in found if seen.scores]
    claimed = np.array([seen.false_alarm for seen in found])
    figures = {
        "pictures": count,
        "searched": min(count, searched),
        "files": len(paths),
        "payloads": payloads,
        "integrity_marks": sum(seen.intact for seen in found),
        "present": sum(seen.present for seen in found),
        "presence_max": float(presence.max()),
        "share_below": {str(chance): float((claimed <= chance).mean()) for chance in (0.1, 0.01, 0.001)},
        "upper_bound_95_percent": wilson(payloads, count)[1],
        "computed_bound": detection.FALSE_ALARM,
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
