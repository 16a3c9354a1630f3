"""What the code of W1 is worth beside Reed-Solomon, and whether its chance of error is told rightly.

    python -m benchmarks.decoding [--words N] [--json FILE] [--quick]

Random payloads are sent through Gaussian noise of standard deviation one at several amplitudes and decoded: the
convolutional code of the watermark by its soft bits and by their signs alone, and RS(16, 12) of the same 96 bits by
bounded distance with up to two erasures (``reedsolo``; where that is not installed, this column is left out). Both
codes have the same energy in all: the amplitude is that of the 128 bits of RS(16, 12), and the longer code has less in
each bit. Then noise alone is decoded, and the share of words that look at least as good as a given chance is compared
with it; last, noise is looked up in a directory.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import convolutional
from medprov_watermark import payload as pl
from medprov_watermark.chance import chance

AMPLITUDES = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 1.9, 2.2, 2.5, 2.8, 3.1)
CHANCES = (1 / 4, 1 / 16, 1 / 64, 1 / 128)
RECORDS = 100_000
"""Size of the directory in which noise is looked up."""
RS_BYTES = 16
RS_BITS = 8 * RS_BYTES


@cache
def reed_solomon() -> Any:
    """The codec of RS(16, 12); None where ``reedsolo`` is not installed."""
    try:
        from reedsolo import RSCodec
    except ImportError:
        return None
    return RSCodec(RS_BYTES - pl.DATA_BYTES)


def bounded_distance(soft: NDArray[np.float64]) -> bytes | None:
    """The data that byte-wise decoding of RS(16, 12) finds, with none to two erasures; None for none.

    Parameters
    ----------
    soft : float array (RS_BITS,)
    """
    from reedsolo import ReedSolomonError

    word = np.packbits(soft > 0).tobytes()
    weakest = np.argsort(np.abs(soft).reshape(RS_BYTES, 8).min(1))
    best: tuple[float, bytes] | None = None
    for erased in range(3):
        try:
            found = bytes(reed_solomon().decode(word, erase_pos=weakest[:erased].tolist())[1])
        except ReedSolomonError:
            continue
        fit = float(signs_of(found) @ soft)
        if best is None or fit > best[0]:
            best = fit, found[: pl.DATA_BYTES]
    return None if best is None else best[1]


def signs_of(word: bytes) -> NDArray[np.float64]:
    return np.asarray(np.unpackbits(np.frombuffer(word, np.uint8)) * 2.0 - 1, np.float64)


def spread(amplitude: float) -> float:
    """The amplitude of a bit of W1 at which the codeword has the energy of RS_BITS bits of the given amplitude."""
    return amplitude * math.sqrt(RS_BITS / pl.CODE_BITS)


def read(amplitude: float, words: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of words that are read at an amplitude, and of those that W1 reads as another payload."""
    counts = {"soft": 0, "signs": 0, "wrong": 0}
    if reed_solomon():
        counts = {"bounded distance": 0, **counts}
    for _ in range(words):
        sent = pl.Payload(rng.bytes(8), rng.bytes(4))
        if reed_solomon():
            short = amplitude * signs_of(bytes(reed_solomon().encode(sent.data))) + rng.normal(size=RS_BITS)
            counts["bounded distance"] += bounded_distance(short) == sent.data
        received = spread(amplitude) * pl.encode(sent) + rng.normal(size=pl.CODE_BITS)
        decoded, hard = pl.decode(received), pl.decode(np.sign(received))
        counts["soft"] += decoded is not None and decoded.payload == sent
        counts["signs"] += hard is not None and hard.payload == sent
        counts["wrong"] += decoded is not None and decoded.payload != sent
    return {"amplitude": amplitude, **{name: count / words for name, count in counts.items()}}


def measure(words: int, records: int, seed: int = 0) -> dict[str, Any]:
    """All figures; see the module's docstring."""
    rng = np.random.default_rng(seed)
    rows = [read(amplitude, words, rng) for amplitude in AMPLITUDES]
    chances, accepted = [], 0
    for _ in range(4 * words):
        noise = rng.normal(size=pl.CODE_BITS)
        found = convolutional.encode(convolutional.nearest(noise)) * 2.0 - 1
        chances.append(float(chance(noise * found, pl.CODE_BITS - convolutional.DATA_BITS)))
        accepted += pl.decode(noise) is not None
    known = pl.Directory.of([pl.Payload(rng.bytes(8), rng.bytes(4)) for _ in range(records)])
    listed = sum(pl.find_in(rng.normal(size=pl.CODE_BITS), known, 8) is not None for _ in range(words // 10))
    return {
        "words": words,
        "read": rows,
        "noise accepted": {f"{c:.4g}": float(np.mean(np.array(chances) <= c)) for c in CHANCES},
        "noise decoded to a payload": accepted / (4 * words),
        "records": records,
        "noise found in the directory": listed,
        "noise looked up": words // 10,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="50 words, under a minute")
    args = parser.parse_args()
    if not reed_solomon():
        print("reedsolo is not installed: no figures for RS(16, 12); pip install reedsolo")
    found = measure(*((50, RECORDS // 10) if args.quick else (args.words, RECORDS)))
    for row in found["read"]:
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    print(json.dumps({k: v for k, v in found.items() if k != "read"}, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
