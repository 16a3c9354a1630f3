"""Restoration bit for bit: pictures of a folder, DICOM files, phantoms of 64 to 4096 pixels and 8 to 16 bits.

    python -m benchmarks.restore [--images DIR] [--dicom DIR] [--split validation|all] [--json FILE] [--quick]

Phantoms are grey and RGB, at 8, 10, 12 and 16 bits. Without folders: phantoms and what ships with pydicom. Each
picture is marked in one process and restored in two others, one with one thread and one with two.
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
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from benchmarks.phantoms import phantom
from medprov_watermark import media
from medprov_watermark.errors import MediaError, WatermarkError
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker

SIZES = ((64, 64), (67, 129), (256, 256), (512, 512), (1411, 1411), (2048, 2048), (4096, 4096))
Limits = dict[str, Any]
_wm: DualWatermarker | None = None

_CHILD = """
import sys
from pathlib import Path
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


@dataclass(frozen=True)
class Case:
    """One picture, read or made where it is marked.

    Parameters
    ----------
    group, name : str
    make : callable
        Gives the cover and the legal range and padding for :meth:`DualWatermarker.mark`.
    """

    group: str
    name: str
    make: Callable[[], tuple[NDArray[Any], Limits]]


def from_phantom(height: int, width: int, bits: int, colour: bool, seed: int) -> tuple[NDArray[Any], Limits]:
    return phantom(height, width, bits, colour, seed), {"value_range": (0, 2**bits - 1)}


def from_picture(path: Path) -> tuple[NDArray[Any], Limits]:
    return images.read(path), {}


def from_dicom(path: Path) -> tuple[NDArray[Any], Limits]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = media.read(path)
    return pixels.array, {"value_range": pixels.value_range, "padding": pixels.padding}


def phantoms(quick: bool) -> list[Case]:
    """Sizes times depths times colours."""
    return [
        Case(
            f"phantoms, {bits} bits, {'RGB' if colour else 'grey'}",
            f"phantom_{height}x{width}_{bits}bit{'_rgb' if colour else ''}",
            partial(from_phantom, height, width, bits, colour, seed),
        )
        for seed, (height, width) in enumerate(SIZES[:2] if quick else SIZES)
        for bits in ((8, 16) if quick else (8, 10, 12, 16))
        for colour in (False, True)
    ]


def dicoms(folder: Path | None) -> list[Case]:
    """All files of a folder; without one three that ship with pydicom."""
    files = sorted(p for p in folder.rglob("*") if p.is_file()) if folder else []
    if not files:
        from pydicom.data import get_testdata_file

        files = [Path(str(get_testdata_file(n))) for n in ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm")]
    return [Case("DICOM", f"dicom_{path.stem}", partial(from_dicom, path)) for path in files]


def mark(case: Case, target: Path) -> str:
    """Mark one picture into a file beside its cover; says how that went."""
    global _wm
    if _wm is None:
        _wm = DualWatermarker.load(device="cpu", threads=1)
    try:
        cover, limits = case.make()
    except MediaError as error:
        return f"unreadable: {error}"
    payload = Payload(perceptual_hash(cover), zlib.crc32(case.name.encode()).to_bytes(4, "big"))
    try:
        marked = _wm.mark(cover, payload, **limits)
    except WatermarkError as error:
        return f"refused: {error}"
    np.savez(target, cover=cover, marked=marked.image)
    return f"{marked.psnr:.1f} dB{'' if marked.robust else ', not robust'}"


def failures(folder: Path, threads: str) -> list[str]:
    """What a fresh process could not restore, by the file's stem."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, threads)}
    command = [sys.executable, "-c", _CHILD, threads, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.endswith(" same")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--dicom", type=Path)
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="the two smallest sizes at 8 and 16 bits, two DICOM files")
    args = parser.parse_args()
    cases = phantoms(args.quick)
    if args.images:
        for path in images.choose(args.images, args.split, 1 if args.quick else args.per_modality):
            name = f"{images.modality(path, args.images)}_{path.stem}"
            cases.append(Case("pictures", name, partial(from_picture, path)))
    files = dicoms(args.dicom)
    cases += files[:2] if args.quick else files
    refused, unreadable = [], 0
    marked: dict[str, Case] = {}
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(args.workers) as pool:
        folder = Path(temporary)
        targets = [folder / f"{i:05d}.npz" for i in range(len(cases))]
        for case, target, said in zip(cases, targets, pool.map(mark, cases, targets), strict=True):
            if said.startswith("unreadable"):
                unreadable += 1
            elif said.startswith("refused"):
                refused.append(f"{case.name}: {said}")
            else:
                marked[target.stem] = case
            print(f"{case.name}: {said}", flush=True)
        bad = {f"{threads} threads": failures(folder, threads) for threads in ("1", "2")}
    failed = {line.split()[0] for lines in bad.values() for line in lines}
    groups = Counter(case.group for case in marked.values())
    restored = Counter(case.group for stem, case in marked.items() if stem not in failed)
    total = {
        "pictures": len(cases),
        "refused": refused,
        "unreadable_files": unreadable,
        **{name: {"restored": len(marked) - len(lines), "failed": len(lines)} for name, lines in bad.items()},
        "groups": {name: {"marked": n, "restored": restored[name]} for name, n in groups.items()},
    }
    for stem in sorted(failed):
        print(f"{marked[stem].name}: NOT RESTORED")
    print(json.dumps(total, indent=1))
    if args.json:
        args.json.write_text(json.dumps(total, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
