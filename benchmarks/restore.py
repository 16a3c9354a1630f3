"""Restoration bit for bit: real pictures of a folder, DICOM files, odd sizes and depths, with 1 and 2 threads.

    python -m benchmarks.restore [--images DIR] [--dicom DIR] [--split validation|all] [--json FILE] [--quick]

Without folders: generated phantoms and what ships with pydicom. Each picture is marked in one process and restored
in two others, one with one thread and one with two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from benchmarks.phantoms import phantom
from medprov_watermark import media
from medprov_watermark.errors import WatermarkError
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker

Case = tuple[str, NDArray[Any], dict[str, Any]]
"""Name, cover, and legal range and padding for :meth:`DualWatermarker.mark`."""
_wm: DualWatermarker | None = None

_CHILD = """
import sys
from pathlib import Path
from typing import Any
import numpy as np
from medprov_watermark.watermarker import DualWatermarker
wm = DualWatermarker.load(device="cpu", threads=int(sys.argv[1]))
for path in sorted(Path(sys.argv[2]).glob("*.npz")):
    data = np.load(path)
    try:
        same = np.array_equal(wm.restore(data["marked"]), data["cover"])
    except Exception as error:  # counted as a failure and named
        print(path.stem, "failed:", error)
        continue
    print(path.stem, "same" if same else "DIFFERS")
"""


def mark(case: Case, target: Path) -> str:
    """Mark one picture into a file beside its cover; says how that went."""
    global _wm
    if _wm is None:
        _wm = DualWatermarker.load(device="cpu", threads=1)
    name, cover, limits = case
    try:
        marked = _wm.mark(
            cover, Payload(perceptual_hash(cover), zlib.crc32(name.encode()).to_bytes(4, "big")), **limits
        )
    except WatermarkError as error:
        return f"refused: {error}"
    np.savez(target, cover=cover, marked=marked.image)
    return f"{marked.psnr:.1f} dB{'' if marked.robust else ', not robust'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    cases: list[Case] = []
    sizes = [(64, 64), (67, 129)] if args.quick else [(64, 64), (67, 129), (512, 512), (1411, 1411)]
    for seed, (height, width) in enumerate(sizes):
        for bits in (8, 12, 16):
            name = f"phantom_{height}x{width}_{bits}bit"
            cases.append((name, phantom(height, width, bits, False, seed), {"value_range": (0, 2**bits - 1)}))
        cases.append((f"phantom_{height}x{width}_rgb", phantom(height, width, 8, True, seed), {}))
    if args.images:
        for path in images.choose(args.images, args.split, 1 if args.quick else args.per_modality):
            cases.append((f"{images.modality(path, args.images)}_{path.stem}", images.read(path), {}))
    folder = args.dicom
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
    skipped = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not files:
            from pydicom.data import get_testdata_file

            files = [Path(str(get_testdata_file(n))) for n in ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm")]
        for path in files[:2] if args.quick else files:
            try:
                pixels = media.read(path)
            except WatermarkError as error:
                skipped.append(str(error))
                continue
            limits: dict[str, Any] = {"value_range": pixels.value_range, "padding": pixels.padding}
            cases.append((f"dicom_{path.stem}", pixels.array, limits))
    refused = []
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(args.workers) as pool:
        targets = [Path(temporary) / f"{i:05d}.npz" for i in range(len(cases))]
        for case, said in zip(cases, pool.map(mark, cases, targets), strict=True):
            if said.startswith("refused"):
                refused.append(f"{case[0]}: {said}")
            print(f"{case[0]}: {said}", flush=True)
        outcome: dict[str, dict[str, int]] = {}
        for threads in ("1", "2"):
            names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            env = {**os.environ, **dict.fromkeys(names, threads)}
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, threads, temporary], env=env, capture_output=True, text=True, check=True
            )
            lines = done.stdout.splitlines()
            bad = [line for line in lines if not line.endswith(" same")]
            outcome[f"{threads} threads"] = {"restored": len(lines) - len(bad), "failed": len(bad)}
            print(*bad, sep="\n")
    total = {"pictures": len(cases), "refused": refused, "unreadable_files": len(skipped), **outcome}
    print(json.dumps(total, indent=1))
    if args.json:
        args.json.write_text(json.dumps(total, indent=1))
    return 1 if any(o["failed"] for o in outcome.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
