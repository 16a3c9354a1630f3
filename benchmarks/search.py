"""What the search for a mark's place finds, against the place being known, and what it costs.

    python -m benchmarks.search [--images DIR] [--split validation|all] [--per-modality 1] [--json FILE] [--quick]

Of each marked picture windows are cut and turned copies made. Each is read where it really lies, and by the search: for
windows with the extractor seeing them at one place among its blocks and at all of ``synchronisation.PASTED``; for
angles on the turned map and on the turned picture. Seconds are those of a search that finds nothing, in the unmarked
picture.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import attacks, images
from benchmarks.robustness import payload_for
from benchmarks.summaries import share, spread
from medprov_watermark import carriers as cr
from medprov_watermark import synchronisation as sync
from medprov_watermark.detection import Detection, pilot_score
from medprov_watermark.errors import EmbedError
from medprov_watermark.extractor import F32, Reader, grey_picture
from medprov_watermark.geometry import Geometry, Matrix
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker
from medprov_watermark.weights import load_release

KEPT, ANGLES = (0.9, 0.75, 0.5, 0.4), (15.0, 45.0)
Row = dict[str, Any]
Stage = Callable[[F32, Reader], Iterator[Detection]]
_tools: tuple[DualWatermarker, Reader] | None = None


def prepare() -> None:
    """Load marks and extractor in this process."""
    global _tools
    release = load_release(device="cpu", threads=1)
    _tools = DualWatermarker(release), Reader(release.extractor, cr.derive(None))


def measure(sample: images.Sample) -> Row:
    """One picture: every window and angle, and the time of the search where nothing is."""
    assert _tools is not None, "prepare was not called"
    watermarker, reader = _tools
    row: Row = {"modality": sample.modality, "image": sample.name, "size": sample.size}
    payload = payload_for(sample)
    try:
        marked = np.asarray(watermarker.mark(sample.image, payload).image, np.uint8)
    except EmbedError as error:
        return {**row, "refused": str(error)}
    rng = np.random.default_rng(sample.size)
    found: dict[str, dict[str, bool]] = {}
    for kept in KEPT:
        part, matrix = _window(marked, kept, rng)
        grey = grey_picture(part)
        found[f"window of {100 * kept:.0f} %"] = {
            "known": _reads([_at(grey, matrix, reader)], payload),
            "one place": _reads(sync.windows(grey, reader, sync.PASTED[:1]), payload),
            "search": _reads(sync.windows(grey, reader), payload),
        }
    for degrees in ANGLES:
        grey = grey_picture(attacks.rotate(degrees)(marked, rng))
        found[f"turned by {degrees:.0f} degrees"] = {
            "known": _reads([_at(grey, _turn(degrees, grey.shape), reader)], payload),
            "map": _reads(sync.rotated(grey, reader), payload),
            "search": _reads(sync.rotated(grey, reader), payload) or _reads(sync.turned(grey, reader), payload),
        }
    grey = grey_picture(sample.image)
    stages: tuple[Stage, ...] = (sync.rotated, sync.windows, sync.turned)
    row["seconds"] = {stage.__name__: _seconds(stage, grey, reader) for stage in stages}
    return {**row, "found": found}


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares by attack and way of reading, and seconds by stage."""
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, list[float]] = defaultdict(list)
    marked = [row for row in rows if "refused" not in row]
    for row in marked:
        for attack, ways in row["found"].items():
            for way, good in ways.items():
                hits[attack][way].append(good)
        for stage, spent in row["seconds"].items():
            seconds[stage].append(spent)
    return {
        "pictures": len(marked),
        "read": {attack: {way: share(good) for way, good in ways.items()} for attack, ways in hits.items()},
        "seconds": {stage: spread(spent) for stage, spent in seconds.items()},
    }


def _window(picture: NDArray[np.uint8], kept: float, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Matrix]:
    """A window of a share of the area, and the way from the whole picture's unit square to its pixels."""
    height, width = picture.shape[:2]
    h, w = round(height * math.sqrt(kept)), round(width * math.sqrt(kept))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = np.ascontiguousarray(picture[top : top + h, left : left + w])
    return part, (float(width), 0.0, -float(left), 0.0, float(height), -float(top))


def _turn(degrees: float, shape: tuple[int, ...]) -> Matrix:
    """The way from the unit square of a picture that was turned on its canvas to the canvas' pixels."""
    (height, width), a = shape, math.radians(degrees)
    c, s, x, y = math.cos(a), math.sin(a), width / 2, height / 2
    return (c * width, s * height, x - c * x - s * y, -s * width, c * height, y + s * x - c * y)


def _at(grey: F32, matrix: Matrix, reader: Reader) -> Detection:
    picture, shown = sync.framed(grey, matrix)
    answers = reader(picture[None], shown[None])
    return Detection(float(pilot_score(answers, reader.carriers)[0]), Geometry(), answers[0, : cr.CODE])


def _reads(detections: Iterable[Detection], payload: Payload) -> bool:
    """Whether one of some detections gives the payload; the search ends there."""
    for seen in detections:
        decoded = seen.read()
        if decoded is not None and decoded.payload == payload:
            return True
    return False


def _seconds(stage: Stage, grey: F32, reader: Reader) -> float:
    started = time.perf_counter()
    list(stage(grey, reader))
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0, help="choose other pictures of each modality")
    parser.add_argument("--workers", type=int, default=1, help="with more than one, seconds are of a busy machine")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one picture at 256 px, under a minute")
    args = parser.parse_args()
    sizes = [256] if args.quick else [int(s) for s in args.sizes.split(",")]
    samples = images.collect(args.images, sizes, args.split, args.per_modality, args.offset)
    rows = []
    with ProcessPoolExecutor(args.workers, initializer=prepare) as pool:
        for row in pool.map(measure, samples[:1] if args.quick else samples):
            rows.append(row)
            print(f"{row['modality']} {row['image']} {row['size']}", file=sys.stderr)
            if args.json:
                args.json.write_text(json.dumps({"summary": summary(rows), "rows": rows}, indent=1))
    print(json.dumps(summary(rows), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
