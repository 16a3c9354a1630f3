"""Seconds of ``medprov verify``: one picture from a cold start, and a warm verifier in a loop.

    python -m benchmarks.verify_time [--runs 5] [--json FILE] [--quick]

Brings a development federation up in a temporary folder, marks one picture of 512 x 512 and verifies it. The cold
start is given as a ratio to starting the same Python with ``-c 'import web3'`` alone, in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.federation import released
from medprov_sdk.verifier import Verifier


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    runs = 2 if args.quick else args.runs
    with released([512]) as federation:
        public, marked = str(federation.config), federation.files[0]
        program = str(Path(sys.executable).with_name("medprov"))
        cold = [timed([program, "verify", str(marked), "--config", public]) for _ in range(runs)]
        bare = [timed([sys.executable, "-c", "import web3"]) for _ in range(runs)]
        verifier = Verifier.from_config(public, cache=":memory:")
        verifier.verify(marked)
        warm = []
        for _ in range(4 * runs):
            started = time.perf_counter()
            verifier.verify(marked)
            warm.append(time.perf_counter() - started)
    figures = {
        "cold_seconds_median": statistics.median(cold),
        "import_web3_seconds_median": statistics.median(bare),
        "cold_ratio_to_import_web3": statistics.median(cold) / statistics.median(bare),
        "warm_seconds_median": statistics.median(warm),
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
