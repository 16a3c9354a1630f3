"""What a decibel buys: quality and share of exact messages when marks may cost more or less than by default.

    python -m benchmarks.tradeoff [--images DIR] [--split validation|all] [--floors 41,43,45,47] [--json FILE] [--quick]

Every picture is marked once with each floor (``DualWatermarker.mark(floor=...)``); marked pictures include W2, messages
are read blindly, and every floor meets the same noise and windows. ``benchmarks.plots --tradeoff FILE`` draws the
curves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import attacks, images
from benchmarks.robustness import payload_for
from benchmarks.summaries import quality, share, spread
from medprov_watermark.battery import FLOOR
from medprov_watermark.errors import EmbedError
from medprov_watermark.watermarker import DualWatermarker

ATTACKS = ("jpeg30", "jpeg20", "webp50", "jp2_20", "gauss_sd12.75", "gauss_sd25", "blackout25", "crop25", "crop50")
"""What the default gives up in some pictures."""
Row = dict[str, Any]
_watermarker: DualWatermarker | None = None


def prepare() -> None:
    """Load the marks in this process."""
    global _watermarker
    _watermarker = DualWatermarker.load(device="cpu", threads=1)


def measure(job: tuple[images.Sample, float], names: Sequence[str]) -> Row:
    """One picture with one floor."""
    assert _watermarker is not None, "prepare was not called"
    sample, floor = job
    row: Row = {"modality": sample.modality, "image": sample.name, "size": sample.size, "floor": floor}
    payload = payload_for(sample)
    try:
        marked = np.asarray(_watermarker.mark(sample.image, payload, floor=floor).image, np.uint8)
    except EmbedError as error:
        return {**row, "refused": str(error)}
    row["psnr"], row["ssim"] = quality(sample.image, marked)
    seen = attacks.attacked(marked, names, f"{sample.name}{sample.size}")
    row["exact"] = {name: _watermarker.extract(picture).payload == payload for name, picture in seen}
    return row


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One entry per floor: quality, the worst modality, and shares by attack and size.

    Parameters
    ----------
    rows : sequence of Row
        What :func:`measure` gives.
    """
    floors: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        floors[row["floor"]].append(row)
    out = []
    for floor, of_floor in sorted(floors.items()):
        marked = [row for row in of_floor if "refused" not in row]
        entry: dict[str, Any] = {"floor": floor, "pictures": len(of_floor), "refused": len(of_floor) - len(marked)}
        if marked:
            groups: dict[str, list[float]] = defaultdict(list)
            for row in marked:
                groups[row["modality"]].append(row["psnr"])
            entry["psnr"] = spread([row["psnr"] for row in marked])
            entry["ssim"] = spread([row["ssim"] for row in marked])
            entry["worst_modality"] = min(float(np.mean(values)) for values in groups.values())
            sizes: dict[str, list[Row]] = {"all": marked}
            for row in marked:
                sizes.setdefault(f"size {row['size']}", []).append(row)
            entry["exact"] = {
                size: {name: share([row["exact"][name] for row in some]) for name in some[0]["exact"]}
                for size, some in sizes.items()
            }
        out.append(entry)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0, help="choose other pictures of each modality")
    parser.add_argument("--floors", default=f"41,43,{FLOOR:g},47,49", help="dB (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one picture at 256 px, two floors, under a minute")
    args = parser.parse_args()
    sizes = [256] if args.quick else [int(s) for s in args.sizes.split(",")]
    floors = [43.0, 47.0] if args.quick else [float(f) for f in args.floors.split(",")]
    names = ATTACKS[:4] if args.quick else ATTACKS
    found = images.collect(args.images, sizes, args.split, args.per_modality, args.offset)
    jobs = [(sample, floor) for sample in (found[:1] if args.quick else found) for floor in floors]
    rows: list[Row] = []
    with ProcessPoolExecutor(args.workers, initializer=prepare) as pool:
        for row in pool.map(partial(measure, names=names), jobs):
            rows.append(row)
            said = row.get("refused") or f"{row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, missed " + (
                ", ".join(name for name, good in row["exact"].items() if not good) or "none"
            )
            print(f"{row['modality']} {row['image']} {row['size']} floor {row['floor']:g}: {said}", flush=True)
            if args.json:
                args.json.write_text(json.dumps({"summary": summary(rows), "rows": rows}, indent=1))
    for entry in summary(rows):
        if "exact" in entry:
            shares = "  ".join(f"{name} {found['percent']:.0f}" for name, found in entry["exact"]["all"].items())
            print(
                f"floor {entry['floor']:g}: {entry['psnr']['mean']:.2f} dB, SSIM {entry['ssim']['mean']:.4f}  {shares}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
