"""Anchors per second: one by one, and together.

    python -m benchmarks.sending [--anchors 200] [--json FILE] [--quick]

Brings a development federation up in a temporary folder and anchors made-up roots for one hospital: each sent and
waited for before the next (``Registry.anchor_batch``), and all in as few requests as possible
(``Registry.anchor_batches``). Both keep their transactions in the hospital's journal before they send. The ratio is of
the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from medprov_ledger import development
from medprov_ledger.chain import Chain, Receipt
from medprov_ledger.keys import load_signer
from medprov_ledger.registry import Registry

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anchors", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    count = 40 if args.quick else args.anchors
    with tempfile.TemporaryDirectory() as temporary:
        up = development.up(Path(temporary))
        try:
            registry = Registry(Chain.connect(up.config))
            signer = load_signer(up.config.hospital("hospital-a"))
            registry.anchor_batch(os.urandom(32), 1, CID, signer)
            started = time.perf_counter()
            for _ in range(count):
                registry.anchor_batch(os.urandom(32), 1, CID, signer)
            alone = time.perf_counter() - started
            started = time.perf_counter()
            results = registry.anchor_batches([(os.urandom(32), 1, CID) for _ in range(count)], signer)
            together = time.perf_counter() - started
            anchored = sum(isinstance(result, Receipt) for result in results)
            found = len(registry.anchors())
        finally:
            development.down(Path(temporary))
    figures = {
        "chain": up.chain.kind,
        "anchors": count,
        "one_by_one_per_second": count / alone,
        "together_per_second": count / together,
        "ratio": alone / together,
        "anchored": anchored,
        "on_chain": found,
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0 if anchored == count and found == 2 * count + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
