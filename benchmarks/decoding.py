"""What soft decoding is worth, and whether its chance of error is told rightly.

    python -m benchmarks.decoding [--words N] [--json FILE] [--quick]

Random codewords of RS(16, 12) are sent through Gaussian noise of standard deviation one at several amplitudes and
decoded twice: by bounded distance with up to two erasures (``reedsolo``), and by their soft bits as the watermark does.
Then noise alone is decoded, and the share of words that look at least as good as a given chance is compared with it;
last, noise is looked up in a directory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import reedsolo
from numpy.typing import NDArray

from medprov_watermark import payload as pl
from medprov_watermark.ordered_statistics import chance, nearest

AMPLITUDES = (1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.2, 2.5, 2.8, 3.1)
CHANCES = (1 / 4, 1 / 16, 1 / 64, 1 / 128)
_BYTES = reedsolo.RSCodec(pl.CODE_BYTES - pl.DATA_BYTES)


def bounded_distance(soft: NDArray[np.float64]) -> bytes | None:
    """The codeword that byte-wise decoding finds, without and with one or two erasures; None for none."""
    ordered = soft[pl.PLACES]
    word = np.packbits(ordered > 0).tobytes()
    weakest = np.argsort(np.abs(ordered).reshape(pl.CODE_BYTES, 8).min(1))
    best: tuple[float, bytes] | None = None
    for erased in range(3):
        try:
            found = bytes(_BYTES.decode(word, erase_pos=weakest[:erased].tolist())[1])
        except reedsolo.ReedSolomonError:
            continue
        fit = float((np.unpackbits(np.frombuffer(found, np.uint8)) * 2.0 - 1) @ ordered)
        if best is None or fit > best[0]:
            best = fit, found
    return None if best is None else best[1]


def measure(words: int, records: int, seed: int = 0) -> dict[str, Any]:
    """All figures; see the module's docstring."""
    rng = np.random.default_rng(seed)
    rows = []
    for amplitude in AMPLITUDES:
        hard = soft = wrong = 0
        for _ in range(words):
            sent = pl.Payload(rng.bytes(8), rng.bytes(4))
            signs = pl.encode(sent)
            received = amplitude * signs + rng.normal(size=pl.CODE_BITS)
            found = bounded_distance(received)
            hard += found == np.packbits(signs[pl.PLACES] > 0).tobytes()
            decoded = pl.decode(received)
            soft += decoded is not None and decoded.payload == sent
            wrong += decoded is not None and decoded.payload != sent
        rows.append(
            {"amplitude": amplitude, "bounded distance": hard / words, "soft": soft / words, "wrong": wrong / words}
        )
    code = pl.binary_code()
    chances = []
    for _ in range(4 * words):
        noise = rng.normal(size=pl.CODE_BITS)
        chances.append(float(chance(noise * (nearest(noise, code) * 2.0 - 1), code.parity)))
    known = [pl.Payload(rng.bytes(8), rng.bytes(4)) for _ in range(records)]
    listed = sum(pl.find_in(rng.normal(size=pl.CODE_BITS), known, 8) is not None for _ in range(words // 10))
    return {
        "words": words,
        "read": rows,
        "noise accepted": {f"{c:.4g}": float(np.mean(np.array(chances) <= c)) for c in CHANCES},
        "records": records,
        "noise found in the directory": listed,
        "noise looked up": words // 10,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="100 words, under a minute")
    args = parser.parse_args()
    found = measure(100 if args.quick else args.words, 10_000 if args.quick else 100_000)
    for row in found["read"]:
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    print(json.dumps({k: v for k, v in found.items() if k != "read"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
