"""Seconds per megapixel and peak memory, beside the peers on the same pictures in the same process.

    python -m benchmarks.speed [--images DIR] [--sizes 256,512,1024,2048] [--peer NAME,NAME] [--runs 3] [--threads N]
        [--json FILE] [--quick]

Also: a 4096 x 4096 phantom of a mammogram with 16 bits in a process of its own, many pictures at once, and reading
with a GPU where ONNX Runtime has CUDA. Without ``--images`` the pictures that ship with scikit-image are used.
"Verify" asks a development federation with a warm verifier. Memory is measured in one fresh process per method.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import attacks, images, memory, ours, peers
from benchmarks.federation import released
from benchmarks.phantoms import mammogram, phantom
from benchmarks.robustness import payload_for
from medprov_sdk.verifier import Verifier
from medprov_watermark.watermarker import DualWatermarker, Samples

LIMIT_SECONDS, LIMIT_MIB = 3.0, 1536.0
"""What marking the mammogram may cost on two cores."""
_wm: DualWatermarker | None = None

Times = dict[str, dict[int, dict[str, float]]]
"""Method -> size -> part -> seconds per megapixel."""


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    found: Sequence[images.Sample], methods: Sequence[peers.Method], runs: int
) -> tuple[Times, dict[str, float]]:
    """Medians over pictures and runs; and the share of pictures that each method reads after JPEG 50, in per cent.

    The methods take turns, so that whatever else the machine does meets all of them.
    """
    parts: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    after_jpeg: dict[str, list[bool]] = defaultdict(list)
    for sample in found:
        for method in methods:
            if isinstance(method, ours.Medprov):
                bits = ours.bits_of(payload_for(sample))
            else:
                bits = np.random.default_rng(sample.size).integers(0, 2, method.bits).astype(np.uint8)
            try:
                marked = method.mark(sample.image, bits)
            except peers.RefusedError:
                continue
            megapixels = sample.size**2 / 1e6
            work: dict[str, Callable[[], Any]] = {
                "mark": partial(method.mark, sample.image, bits),
                "read": partial(method.read, marked),
            }
            if isinstance(method, peers.Reversible):
                work["restore"] = partial(method.restore, marked)
            for name, part in work.items():
                parts[method.name, sample.size, name] += [seconds(part) / megapixels for _ in range(runs)]
            message = method.read(attacks.find("jpeg50")(marked, np.random.default_rng(0)))
            after_jpeg[method.name].append(message is not None and bool(np.array_equal(message, bits)))
        print(f"{sample.modality} {sample.name} {sample.size}", file=sys.stderr)
    times: Times = defaultdict(lambda: defaultdict(dict))
    for (method_name, size, part_name), values in parts.items():
        times[method_name][size][part_name] = statistics.median(values)
    return times, {name: 100 * float(np.mean(values)) for name, values in after_jpeg.items()}


def verify_times(sizes: Sequence[int], runs: int) -> dict[int, float]:
    """Seconds per megapixel of a warm verifier, from the file to the verdict."""
    found = {}
    with released(sizes) as federation:
        verifier = Verifier.from_config(str(federation.config), cache=":memory:")
        for size, file in zip(sizes, federation.files, strict=True):
            verifier.verify(file)
            found[size] = (
                statistics.median(seconds(partial(verifier.verify, file)) for _ in range(runs)) / size**2 * 1e6
            )
    return found


def ratios(own: str, times: Times, after_jpeg: dict[str, float], size: int) -> dict[str, dict[str, float]]:
    """Our time by the peer's: below 1 we are faster."""
    mine = times[own].get(size)
    out: dict[str, dict[str, float]] = {}
    for name, by_size in times.items():
        if mine is None or name in (ours.NAME, ours.QUICK) or size not in by_size:
            continue
        out[name] = {part: mine[part] / by_size[size][part] for part in ("mark", "read")}
        out[name]["exact_after_jpeg50_percent"] = after_jpeg[name]
    return out


def large(side: int, threads: int) -> dict[str, Any]:
    """The mammogram of 16 bits, alone in a process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mammogram.npy"
        np.save(file, mammogram(side, side, 16, seed=1))
        figures = memory.alone(ours.NAME, file, threads)
    return {"side": side, "bits": 16, "limit_seconds_mark": LIMIT_SECONDS, "limit_mib": LIMIT_MIB, **figures}


def memories(names: Sequence[str], side: int, threads: int) -> dict[str, dict[str, Any]]:
    """Peak memory of every method on an 8-bit phantom."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "phantom.npy"
        np.save(file, phantom(side, side, 8, False, seed=1))
        return {name: memory.alone(name, file, threads) for name in names}


def mark_one(sample: images.Sample) -> None:
    global _wm
    if _wm is None:
        _wm = DualWatermarker.load(device="cpu", threads=1)
    _wm.mark(sample.image, payload_for(sample))


def batch(found: Sequence[images.Sample], workers: int, repeat: int) -> dict[str, float]:
    """Pictures per second when many are marked by one process per core."""
    many = [sample for sample in found for _ in range(repeat)]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(mark_one, many[:workers]))  # loads the weights
        spent = seconds(lambda: list(pool.map(mark_one, many)))
    return {"pictures": len(many), "side": many[0].size, "processes": workers, "marked_per_second": len(many) / spent}


def read_rates(marked: Samples, device: str, threads: int, sizes: Sequence[int]) -> dict[str, float]:
    """Pictures read per second, by the number in one call."""
    watermarker = DualWatermarker.load(device=device, threads=threads)
    rates = {}
    for size in sizes:
        many = [marked] * size
        watermarker.extract_many(many)
        rates[str(size)] = size / min(seconds(partial(watermarker.extract_many, many)) for _ in range(3))
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--sizes", default="256,512,1024,2048")
    parser.add_argument("--peer", default="", help=f"names from {', '.join(peers.NAMES)}")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="256 px, one picture, a mammogram of 1024 px")
    args = parser.parse_args()
    sizes = [256] if args.quick else [int(s) for s in args.sizes.split(",")]
    runs = 1 if args.quick else args.runs
    rivals = [name for name in args.peer.split(",") if name]
    try:
        peers.check(rivals)
    except peers.MissingPeerError as error:
        print(f"speed: {error}", file=sys.stderr)
        return 2
    found = images.collect(args.images, sizes, args.split, 1)
    if args.quick:
        found = found[:1]
    software = DualWatermarker.load(device="cpu", threads=args.threads)
    own = [ours.Medprov(software), ours.Medprov(software, ours.QUICK, quick=True)]
    methods = [*own, *peers.load(rivals)]
    times, after_jpeg = measure(found, methods, runs)
    for size, value in verify_times(sizes, runs).items():
        times[ours.NAME][size]["verify"] = value
    compared = 512 if 512 in sizes else sizes[-1]
    smallest = [sample for sample in found if sample.size == sizes[0]]
    marked = methods[0].mark(smallest[0].image, ours.bits_of(payload_for(smallest[0])))
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    figures = {
        "cores": os.cpu_count(),
        "threads": args.threads,
        "pictures": len({sample.name for sample in found}),
        "seconds_per_megapixel": times,
        "exact_after_jpeg50_percent": after_jpeg,
        "compared_at": compared,
        "ours_by_peer": {one.name: ratios(one.name, times, after_jpeg, compared) for one in own},
        "memory": memories([method.name for method in methods if method.name != ours.QUICK], compared, args.threads),
        "large": large(1024 if args.quick else 4096, args.threads),
        "batch": batch(smallest, os.cpu_count() or 1, 1 if args.quick else 4),
        "read_per_second_cpu": read_rates(marked, "cpu", args.threads, (1, 8, 32)),
        "read_per_second_cuda": read_rates(marked, "cuda", args.threads, (1, 8, 32, 128)) if cuda else None,
    }
    print(json.dumps(figures, indent=1))
    if not cuda:
        print("no GPU figure: this ONNX Runtime has no CUDA provider", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
