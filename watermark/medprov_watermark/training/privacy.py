"""What coordinator and hospitals agree on for privacy: the mode, the bound on an update, Gaussian noise.

The noise is drawn from the operating system's random source. A seed that the federation knows would let anybody take
the noise off again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.training import exchange as ex

PRIVACY = "privacy"
"""Record of configuration on the way down; absent where the mode is ``none``."""

Mode = Literal["none", "central-dp", "local-dp", "secagg"]
MODES: tuple[str, ...] = get_args(Mode)
_, CENTRAL, LOCAL, SECURE = MODES

Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class Privacy:
    """What a hospital has to do to its update before it leaves.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    clip : float
        Largest L2 norm of the whole update.
    noise_multiplier : float
        Standard deviation of a coordinate's noise in units of `clip`; the hospital adds it in the mode ``local-dp``.
    """

    mode: str
    clip: float
    noise_multiplier: float

    def to_config(self) -> dict[str, float | str]:
        """Flat form for a configuration record."""
        return {"mode": self.mode, "clip": self.clip, "noise-multiplier": self.noise_multiplier}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Privacy:
        """Read and check what a coordinator sent.

        Raises
        ------
        ExchangeError
            A missing or surplus key, an unknown mode, a figure that protects nothing.
        """
        mode, clip, noise = config.get("mode"), config.get("clip"), config.get("noise-multiplier")
        if set(config) != {"mode", "clip", "noise-multiplier"} or mode not in MODES[1:]:
            raise ex.ExchangeError(f"privacy: mode {str(mode)[:40]} is not known here: use one release everywhere")
        if not _positive(clip):
            raise ex.ExchangeError(f"privacy: clip is {str(clip)[:40]}: a number above 0 is needed")
        if not (_positive(noise) or (mode == SECURE and noise == 0)):
            raise ex.ExchangeError(f"privacy: noise-multiplier is {str(noise)[:40]}: a number above 0 is needed")
        return cls(str(mode), float(str(clip)), float(str(noise)))


def withheld(ranges: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Figures that say nothing, one for each name and within its range: exact ones would be outside any epsilon."""
    return {name: min(max(0.0, low), high) for name, (low, high) in ranges.items()}


def gaussian(count: int, deviation: float, entropy: Entropy = os.urandom) -> NDArray[np.float64]:
    """Independent Gaussian noise.

    Parameters
    ----------
    count : int
        How many figures.
    deviation : float
        Standard deviation.
    entropy : callable
        Gives that many random bytes; another than the system's only in tests.

    Returns
    -------
    float64 array (count,)

    Notes
    -----
    Box and Muller (1958) over 53 random bits a figure. Not hardened against the attack on the gaps between floating
    point numbers (Mironov, CCS 2012): a sum that is rounded to float32 afterwards is what leaves here.
    """
    half = (count + 1) // 2
    bits = np.frombuffer(entropy(16 * half), "<u8").reshape(2, half) >> np.uint64(11)
    # Half a step off zero: its logarithm is taken.
    uniform = (bits.astype(np.float64) + 0.5) / 2.0**53
    radius = deviation * np.sqrt(-2 * np.log(uniform[0]))
    angle = 2 * math.pi * uniform[1]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def add_noise(
    arrays: Mapping[str, NDArray[np.float64]], deviation: float, entropy: Entropy = os.urandom
) -> dict[str, NDArray[np.float64]]:
    """Arrays with Gaussian noise on every coordinate, in the order of their names."""
    out: dict[str, NDArray[np.float64]] = {}
    for name in sorted(arrays):
        array = np.asarray(arrays[name], np.float64)
        out[name] = array + gaussian(array.size, deviation, entropy).reshape(array.shape)
    return out


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
