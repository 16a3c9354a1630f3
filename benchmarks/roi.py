"""Regions of interest: how well they are found, and what marking does to them.

    python -m benchmarks.roi [--images DIR] [--per-set N] [--grids] [--json FILE] [--quick]

Dice per set over all pictures of the validation split that have a mask (folder NAME with NAME_masks beside it), whether
the network knows the kind of every picture of that split, and for N pictures of each set the PSNR inside and outside
the region that was found, in each mode. ``--grids`` compares grids of the region map instead, with the masks of the
training split, on which the grid was chosen. Without ``--images``: generated vessels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks import images
from medprov_watermark import region
from medprov_watermark.errors import EmbedError
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import Payload
from medprov_watermark.roi import Finder, dice
from medprov_watermark.training.data import held_back, list_images
from medprov_watermark.training.masked import mask_of, read_mask
from medprov_watermark.watermarker import ATTENUATE, OFF, STRICT, DualWatermarker

PUBLISHED = {"fundus": 0.73, "angio": 0.61}
"""Dice of BlessMark on its retina and angiography pictures, as published there."""
MODES = (OFF, ATTENUATE, STRICT)


@dataclass(frozen=True)
class Task:
    """One picture to be marked in one mode, on a grid of so many cells a side (None: the one that marking takes)."""

    group: str
    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    mode: str
    side: int | None = None


@cache
def _watermarker() -> DualWatermarker:
    return DualWatermarker.load(device="cpu", threads=1)


@cache
def _finder() -> Finder:
    return Finder(threads=1)


def vessels(size: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A drawn fundus, a disc with dark winding lines, and where the lines are."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    inside = np.hypot(y, x) < 0.93
    mask = np.zeros((size, size), np.bool_)
    for side in (1, -1):
        for bend in rng.uniform(0.4, 1.0, 2):
            mask |= np.abs(y - side * bend * np.sqrt(np.maximum(0.8 - x, 0)) * 0.7) < 0.015
    mask &= inside
    picture = (120 - 30 * x - 35 * mask) * inside + rng.normal(0, 2, mask.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), mask


def _psnr(change: NDArray[np.float64]) -> float | None:
    mean = float(change.mean()) if change.size else 0.0
    return round(10 * math.log10(255**2 / mean), 2) if mean else None


def mark(task: Task) -> dict[str, Any]:
    """Mark one picture; PSNR is None where nothing differs."""
    wm = _watermarker()
    row: dict[str, Any] = {"set": task.group, "picture": task.name, "mode": task.mode, "side": task.side}
    payload = Payload(perceptual_hash(task.image), zlib.crc32(task.name.encode()).to_bytes(4, "big"))
    sides = mock.patch.object(region, "side_for", (lambda _: task.side) if task.side else region.side_for)
    try:
        with sides:
            marked = wm.mark(task.image, payload, roi=task.mask, roi_mode=task.mode)
    except EmbedError as error:
        return {**row, "refused": str(error)}
    change = np.square(task.image.astype(np.float64) - marked.image).reshape(*task.mask.shape, -1).mean(2)
    return {
        **row,
        "share": round(float(task.mask.mean()), 4),
        "cells": round(marked.roi_share, 4),
        "psnr": _psnr(change),
        "inside": _psnr(change[task.mask]),
        "outside": _psnr(change[~task.mask]),
        "changed inside": int((change[task.mask] > 0).sum()),
        "robust": marked.robust,
        "restored": bool(np.array_equal(wm.restore(marked.image), task.image)),
    }


def look(path: Path) -> tuple[str, str, NDArray[np.uint8], NDArray[np.bool_], float | None]:
    """Kind that the network sees, source of the region, picture, region, and Dice where there is a mask."""
    image = images.read(path)
    _, kind, _ = _finder().answer(image)
    found = _finder().find(image)
    overlap = dice(found.mask, read_mask(mask_of(path))) if mask_of(path).exists() else None
    return kind, found.kind, image, found.mask, overlap


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 2) if known else None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by set, mode and grid."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[" ".join(str(row[key]) for key in ("set", "mode", "side") if row[key] is not None)].append(row)
    out: dict[str, Any] = {}
    for name, group in groups.items():
        good = [row for row in group if "refused" not in row]
        out[name] = {"pictures": len(group), "refused": len(group) - len(good)}
        if good:
            out[name] |= {key: _mean([row[key] for row in good]) for key in ("share", "cells")}
            out[name] |= {key: _mean([row[key] for row in good]) for key in ("psnr", "inside", "outside")}
            out[name] |= {key: sum(row[key] for row in good) for key in ("changed inside", "robust", "restored")}
    return out


def _drawn(count: int, size: int) -> list[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    return [(f"vessels {seed}", *vessels(size, seed)) for seed in range(count)]


def _bits(mask: NDArray[np.bool_], side: int) -> int:
    return 8 * len(region.pack(region.from_mask(mask, side)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--per-set", type=int, default=2, help="pictures of each set that are marked")
    parser.add_argument("--grids", action="store_true", help="compare grids of the region map on training pictures")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one picture of each set, under a minute")
    args = parser.parse_args()
    per_set = 1 if args.quick else args.per_set
    total: dict[str, Any] = {}
    tasks: list[Task] = []
    paths = list_images(args.images) if args.images else []
    sides = region.SIDES if args.grids else (None,)
    if not args.images:
        drawn = _drawn(2 * per_set, 256)
        found = [(name, image, mask, _finder().find(image)) for name, image, mask in drawn]
        total["dice"] = {"drawn": {"n": len(found), "mean": _mean([dice(f.mask, mask) for _, _, mask, f in found])}}
        for name, image, mask, _ in found[:per_set]:
            tasks += [Task("drawn", name, image, mask, mode, side) for mode in MODES for side in sides]
    elif args.grids:
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            if mask_of(path).exists() and not held_back(path):
                groups[path.parent.name].append(path)
        total["grids"] = {}
        for group, members in sorted(groups.items()):
            masks = [mask for mask in map(read_mask, map(mask_of, members)) if mask.any()]
            total["grids"][group] = {
                str(side): {
                    "cells": _mean([float(region.from_mask(mask, side).mean()) for mask in masks]),
                    "bits": _mean([float(_bits(mask, side)) for mask in masks]),
                    "bits most": max(_bits(mask, side) for mask in masks),
                }
                for side in region.SIDES
            }
            for path in members[:: max(1, len(members) // per_set)][:per_set]:
                image, mask = images.read(path), read_mask(mask_of(path))
                tasks.append(Task(group, path.name, image, mask, OFF))
                tasks += [Task(group, path.name, image, mask, mode, side) for mode in MODES[1:] for side in sides]
    else:
        overlaps: dict[str, list[float]] = defaultdict(list)
        right: dict[str, list[bool]] = defaultdict(list)
        chosen: dict[str, int] = defaultdict(int)
        for path in (p for p in paths if held_back(p)):
            group = path.parent.name
            kind, _, image, mask, overlap = look(path)
            right[group].append(kind == (group if group in _finder().kinds else _finder().kinds[0]))
            if overlap is not None:
                overlaps[group].append(overlap)
            wanted = overlap is not None or group not in _finder().kinds
            if wanted and chosen[group] < (per_set if overlap is not None else 1) and mask.any():
                chosen[group] += 1
                tasks += [Task(group, path.name, image, mask, mode) for mode in MODES]
        if args.quick:
            tasks = [task for task in tasks if task.group in overlaps]
        total["dice"] = {
            group: {
                "n": len(values),
                "mean": round(float(np.mean(values)), 3),
                "least": round(min(values), 3),
                "published": PUBLISHED.get(group),
            }
            for group, values in sorted(overlaps.items())
        }
        total["kind right"] = {group: f"{sum(values)} of {len(values)}" for group, values in sorted(right.items())}
    print(json.dumps(total, indent=1), flush=True)
    rows = []
    with ProcessPoolExecutor(args.workers) as pool:
        for row in pool.map(mark, tasks):
            rows.append(row)
            print(json.dumps(row), flush=True)
    total["marking"] = summary(rows)
    print(json.dumps(total["marking"], indent=1))
    if args.json:
        args.json.write_text(json.dumps({**total, "rows": rows}, indent=1))
    good = [row for row in rows if "refused" not in row]
    whole = all(row["restored"] and not (row["mode"] == STRICT and row["changed inside"]) for row in good)
    return 0 if good and whole else 1


if __name__ == "__main__":
    sys.exit(main())
