"""Seconds and peak memory of one method on one picture, in a process that does nothing else.

    python -m benchmarks.memory METHOD FILE.npy [--threads N]

METHOD is medprov or what a peer's method is called in tables; medprov takes 16 bits too. Prints one line of JSON.
``benchmarks.speed`` starts it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ours, peers
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker, Samples


def peak_mib() -> float:
    """Peak resident memory of this process."""
    # What getrusage says starts with the memory of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def alone(method: str, file: Path, threads: int) -> dict[str, Any]:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", method, str(file), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(name: str, image: Samples, threads: int) -> dict[str, float]:
    """Mark, read and, where the method can, restore; before that the method is loaded."""
    rng = np.random.default_rng(1)
    figures: dict[str, float] = {}
    if name == ours.NAME:
        tool = DualWatermarker.load(device="cpu", threads=threads)
        payload = Payload(rng.bytes(8), rng.bytes(4))
        loaded = peak_mib()
        started = time.perf_counter()
        marked = tool.mark(image, payload, value_range=(0, int(np.iinfo(image.dtype).max)))
        figures["seconds_mark"] = time.perf_counter() - started
        figures["psnr"], picture = marked.psnr, marked.image
        started = time.perf_counter()
        tool.mark(image, payload, value_range=(0, int(np.iinfo(image.dtype).max)), quick=True)
        figures["seconds_mark_quick"] = time.perf_counter() - started
        started = time.perf_counter()
        tool.extract(picture)
        figures["seconds_read"] = time.perf_counter() - started
        started = time.perf_counter()
        tool.restore(picture)
        figures["seconds_restore"] = time.perf_counter() - started
    else:
        method = peers.find(name)
        cover = np.asarray(image, np.uint8)
        bits = rng.integers(0, 2, method.bits).astype(np.uint8)
        loaded = peak_mib()
        started = time.perf_counter()
        picture = method.mark(cover, bits)
        figures["seconds_mark"] = time.perf_counter() - started
        started = time.perf_counter()
        method.read(picture)
        figures["seconds_read"] = time.perf_counter() - started
    return {**figures, "loaded_mib": loaded, "peak_mib": peak_mib()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(json.dumps(measure(args.method, np.load(args.file), args.threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
