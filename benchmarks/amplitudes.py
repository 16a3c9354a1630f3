"""What the closed loop gains: its marked pictures against ones with the same amplitude on every carrier.

    python -m benchmarks.amplitudes [--images DIR] [--split validation|all] [--per-modality N] [--json FILE] [--quick]

Both take the lowest gain, found by bisection, at which they survive the attacks that the tuned one survives
(:mod:`medprov_watermark.battery`, under noise that the loop has not seen), so the proportions alone are compared. W2 is
left out. Without ``--images`` the pictures that ship with scikit-image are used.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from medprov_watermark import battery, tuning
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen, forward, luminance
from medprov_watermark.extractor import Reader
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import Payload, encode
from medprov_watermark.watermarker import psnr
from medprov_watermark.weights import Release, load_release

_MIDDLE = len(tuning.LEVELS) // 2
UNIFORM = np.full(cr.CODE, _MIDDLE, np.uint8), cr.PILOTS * int(tuning.LEVELS[_MIDDLE])
DRAW = 777
"""Which noise, windows and angles decide; the loop counts its own from 0."""
_release: Release | None = None


def measure(sample: images.Sample) -> dict[str, Any]:
    """PSNR (dB) of the tuned and of the uniform mark; None where no strength is enough."""
    global _release
    if _release is None:
        _release = load_release(device="cpu", threads=1)
    network = _release.network
    reader = Reader(_release.extractor, cr.derive(None))
    grey = np.asarray(np.clip(luminance(sample.image), 0, 255), np.uint8)
    payload = Payload(perceptual_hash(sample.image), b"\x5a\x01\x7e\xc3")
    signs = np.concatenate([encode(payload), reader.carriers.pilot_signs]).astype(np.int8)

    def marked(codes: NDArray[np.uint8], pilots: int, gain: int) -> NDArray[np.uint8]:
        frozen = Frozen(gain, 0, 0, (0, 255), None, None, reader.carriers)
        return forward(grey, tuning.values_of(codes, pilots, signs), network, frozen).picture.astype(np.uint8)

    def survived(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return tuning.survived(reader(*battery.seen(picture, DRAW)), signs, spare=0.0)

    row: dict[str, Any] = {"modality": sample.modality, "image": sample.name, "size": sample.size}
    tuned = tuning.tune(grey, signs, network, reader)
    wanted = survived(marked(tuned.codes, tuned.pilots, tuned.gain))
    row |= {"attacks": len(wanted), "survived": int(wanted.sum()), "tuned": None, "uniform": None}
    if not wanted[0]:
        return row

    def least(codes: NDArray[np.uint8], pilots: int) -> float | None:
        """PSNR at the least gain that survives the same attacks; None where no gain does."""
        low, high = 0, 20000
        if not (survived(marked(codes, pilots, high)) | ~wanted).all():
            return None
        while high - low > max(1, low // 50):
            middle = (low + high) // 2
            enough = bool((survived(marked(codes, pilots, middle)) | ~wanted).all())
            low, high = (low, middle) if enough else (middle, high)
        return psnr(grey, marked(codes, pilots, high), 255)

    return row | {"tuned": least(tuned.codes, tuned.pilots), "uniform": least(*UNIFORM)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int, default=2)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two pictures, under a minute")
    args = parser.parse_args()
    found = images.collect(args.images, [256], args.split, args.per_modality, args.offset)
    with ProcessPoolExecutor(args.workers) as pool:
        rows = list(pool.map(measure, found[:2] if args.quick else found))
    both = [r for r in rows if r["tuned"] is not None and r["uniform"] is not None]
    figures = {
        "pictures": len(rows),
        "attacks_survived_mean": float(np.mean([r["survived"] / r["attacks"] for r in rows])),
        "uniform_cannot": sum(r["uniform"] is None and r["tuned"] is not None for r in rows),
        "gain_db_mean": float(np.mean([r["tuned"] - r["uniform"] for r in both])) if both else None,
        "gain_db_min": float(np.min([r["tuned"] - r["uniform"] for r in both])) if both else None,
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps({"summary": figures, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
