"""Quality of marked pictures and share of exact payloads after every attack.

    python -m benchmarks.robustness --images DIR [--sizes 256,512] [--split validation|all] [--json FILE] [--quick]

Without ``--images`` the pictures that ship with scikit-image are used. The marked picture includes W2; the payload is
read blindly. ``validation`` is the split that training leaves out (``medprov_watermark.training.data.held_back``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from benchmarks import images
from benchmarks.attacks import ATTACKS
from medprov_watermark.errors import EmbedError
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker, psnr

_wm: DualWatermarker | None = None


def measure(sample: images.Sample) -> dict[str, Any]:
    """Mark one picture, attack it in all ways, read."""
    global _wm
    if _wm is None:
        _wm = DualWatermarker.load(device="cpu", threads=1)
    rng = np.random.default_rng(zlib.crc32(f"{sample.name}{sample.size}".encode()))
    payload = Payload(perceptual_hash(sample.image), rng.bytes(4))
    row: dict[str, Any] = {"modality": sample.modality, "image": sample.name, "size": sample.size}
    row["channels"] = sample.image.ndim
    started = time.perf_counter()
    try:
        marked = _wm.mark(sample.image, payload)
    except EmbedError as error:
        return {**row, "error": str(error)}
    row["seconds_mark"] = time.perf_counter() - started
    row["psnr"] = psnr(sample.image, marked.image, 255)
    axis = -1 if sample.image.ndim == 3 else None
    row["ssim"] = float(structural_similarity(sample.image, marked.image, data_range=255, channel_axis=axis))
    row["gain"], row["short"] = marked.gain, marked.short
    row["restored"] = bool(np.array_equal(_wm.restore(marked.image), sample.image))
    started = time.perf_counter()
    _wm.extract(marked.image)
    row["seconds_extract"] = time.perf_counter() - started
    exact, bits, score = {}, {}, {}
    for name, attack in ATTACKS.items():
        seed = zlib.crc32(f"{sample.name}{sample.size}{name}".encode())
        found = _wm.extract(attack(marked.image.copy(), np.random.default_rng(seed)))
        exact[name] = found.payload == payload
        bits[name] = found.corrected if exact[name] else None
        score[name] = round(found.presence, 2)
    row["unmarked"] = _wm.extract(sample.image).payload is not None
    return {**row, "exact": exact, "corrected": bits, "score": score}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by size and modality, and the share of exact payloads by attack."""
    good = [r for r in rows if "error" not in r]
    out: dict[str, Any] = {"images": len(rows), "refused": len(rows) - len(good)}
    if not good:
        return out

    def quality(group: list[dict[str, Any]]) -> dict[str, float]:
        values = np.array([r["psnr"] for r in group])
        return {
            "n": len(group),
            "psnr_mean": float(values.mean()),
            "psnr_p10": float(np.quantile(values, 0.1)),
            "psnr_min": float(values.min()),
            "ssim_mean": float(np.mean([r["ssim"] for r in group])),
        }

    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in good:
        groups["all"].append(row)
        groups[f"size {row['size']}"].append(row)
        groups[str(row["modality"])].append(row)
    out["quality"] = {name: quality(group) for name, group in groups.items()}
    out["exact_percent"] = {
        name: {
            attack: round(100 * float(np.mean([r["exact"][attack] for r in group])), 2) for attack in group[0]["exact"]
        }
        for name, group in groups.items()
    }
    out["restored_percent"] = 100 * float(np.mean([r["restored"] for r in good]))
    out["false_payloads"] = int(sum(r["unmarked"] for r in good))
    out["short_form"] = int(sum(r["short"] for r in good))
    out["seconds_mark_median"] = float(np.median([r["seconds_mark"] for r in good]))
    out["seconds_extract_median"] = float(np.median([r["seconds_extract"] for r in good]))
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int)
    parser.add_argument("--offset", type=int, default=0, help="choose other pictures of each modality")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one picture per modality at 256 px, under a minute")
    args = parser.parse_args()
    sizes = [256] if args.quick else [int(s) for s in args.sizes.split(",")]
    if args.images:
        found = list(
            images.samples(args.images, sizes, args.split, 1 if args.quick else args.per_modality, args.offset)
        )
    else:
        found = [images.Sample("scikit-image", n, s, images.square(i, s)) for n, i in images.built_in() for s in sizes]
    rows = []
    with ProcessPoolExecutor(args.workers) as pool:
        for row in pool.map(measure, found):
            rows.append(row)
            if "error" in row:
                print(f"{row['modality']} {row['image']} {row['size']}: REFUSED {row['error']}", flush=True)
                continue
            missed = [name for name, good in row["exact"].items() if not good]
            print(
                f"{row['modality']} {row['image']} {row['size']}: {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, "
                f"missed {', '.join(missed) or 'none'}",
                flush=True,
            )
    total = summary(rows)
    for name, figures in total.get("quality", {}).items():
        print(f"{name:14s}" + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    print(json.dumps(total.get("exact_percent", {}).get("all", {}), indent=1))
    if args.json:
        args.json.write_text(json.dumps({"summary": total, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
