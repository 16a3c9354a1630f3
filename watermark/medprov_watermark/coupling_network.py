"""F of the integer coupling, in NumPy: the same integers on every machine.

The network is fixed-point. Activations and weights are 8-bit integers with power-of-two scales; a convolution sums at
most 576 products of 8-bit integers, which stays below 2**24, so every partial sum is exact in float32 and neither the
order of summation nor the number of threads can matter. ``medprov_watermark.training.networks`` holds the torch twin
that is trained, and a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.errors import WeightsError

ACT_BITS = 5
FIELD_BITS = 8
GAIN_BITS = 5
FREQUENCY_BITS = 5
AMPLITUDE_BITS = 2
"""Amplitudes of carriers are whole quarters."""
BLOCK = 8
"""Space-to-depth factor: the network works on ``SIZE / BLOCK`` squares."""
SIDE = cr.SIZE // BLOCK
MAX_CHANNELS = 64
"""3 x 3 x 64 products of 8-bit factors stay below 2**24."""
_UNIT_BITS = 10
_UNIT = round(cr.SIZE / math.sqrt(cr.WRITTEN * cr.COEFFICIENTS) * 2**_UNIT_BITS)

F32 = NDArray[np.float32]


def scale_bits(inputs: int, kernel: int, gain: float) -> int:
    """Bits behind the point of a layer's weights, from its initial spread."""
    std = gain * math.sqrt(2.0 / (inputs * kernel * kernel))
    return math.floor(math.log2(127 / (4.2 * max(std, 0.02))))


@dataclass(frozen=True)
class Layer:
    """One convolution: integer weights (kernel * kernel * inputs, outputs) and biases, as float32."""

    weight: F32
    bias: F32
    bits: int
    kernel: int

    def __call__(self, x: F32) -> F32:
        """Accumulators in units of ``2**-(ACT_BITS + bits)``; `x` and the result are (SIDE, SIDE, channels)."""
        if self.kernel == 1:
            columns = x.reshape(SIDE * SIDE, -1)
        else:
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            windows = [padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]
            columns = np.concatenate(windows, axis=2).reshape(SIDE * SIDE, -1)
        sums = columns @ self.weight + self.bias
        return np.asarray(sums, np.float32).reshape(SIDE, SIDE, -1)


def _half_up(x: NDArray[np.floating], bits: int, low: float, high: float) -> F32:
    return np.asarray(np.clip(np.floor(x * 2.0**-bits + 0.5), low, high), np.float32)


def _signed(x: NDArray[np.floating], bits: int) -> F32:
    return _half_up(x, bits, -127, 127)


def _rectified(x: NDArray[np.floating], bits: int) -> F32:
    return _half_up(x, bits, 0, 127)


def _to_depth(picture: F32) -> F32:
    """(SIZE, SIZE) -> (SIDE, SIDE, BLOCK * BLOCK), channel = row in block * BLOCK + column in block."""
    return picture.reshape(SIDE, BLOCK, SIDE, BLOCK).transpose(0, 2, 1, 3).reshape(SIDE, SIDE, -1)


def _from_depth(deep: F32) -> F32:
    return deep.reshape(SIDE, SIDE, BLOCK, BLOCK).transpose(0, 2, 1, 3).reshape(cr.SIZE, cr.SIZE)


def _spread(coarse: F32) -> F32:
    """Bilinear enlargement (SIDE, SIDE) -> (SIZE, SIZE); weights are multiples of 1/16 and so exact."""
    position = (np.arange(cr.SIZE) + 0.5) / BLOCK - 0.5
    low = np.floor(position).astype(np.intp)
    share = (position - low).astype(np.float32)
    a, b = np.clip(low, 0, SIDE - 1), np.clip(low + 1, 0, SIDE - 1)
    rows = coarse[a] * (1 - share)[:, None] + coarse[b] * share[:, None]
    return np.asarray(rows[:, a] * (1 - share) + rows[:, b] * share, np.float32)


class CouplingNetwork:
    """The released coupling network.

    Parameters
    ----------
    tensors : mapping of str to float array
        Trained parameters as a weights file holds them, names as in the torch twin.

    Raises
    ------
    WeightsError
        A tensor is missing or has another shape.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        self._tensors = tensors
        try:
            self.channels = int(tensors["picture.weight"].shape[0])
            self.blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("body."))
            depth, half = BLOCK * BLOCK, self.channels // 2
            self._picture = self._layer("picture", depth, self.channels, 3, 1.0)
            self._pattern = self._layer("pattern", depth, self.channels, 3, 0.5)
            self._body = [
                (
                    self._layer(f"body.{i}.first", half, half, 3, 1.0),
                    self._layer(f"body.{i}.second", half, half, 3, 0.4),
                )
                for i in range(self.blocks)
            ]
            self._join = self._layer("join", self.channels, self.channels, 1, 1.0)
            self._correction = self._layer("correction", self.channels, depth, 3, 0.25)
            self._gain = self._layer("gain", self.channels, 1, 3, 0.5)
            frequency = np.asarray(tensors["frequency"], np.float64)
            if frequency.shape != (cr.WIDTH, cr.WIDTH) or not np.isfinite(frequency).all():
                raise ValueError(f"frequency is {frequency.shape} or not finite")
            if self.channels % 2 or not 2 <= self.channels <= MAX_CHANNELS:
                raise ValueError(f"{self.channels} channels, 2 to {MAX_CHANNELS} keep the sums exact")
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"coupling network: tensor missing or of another shape: {error}") from error
        self._frequency = np.clip(np.floor(frequency * 2**FREQUENCY_BITS + 0.5), 0, 127).astype(np.int64)

    def _layer(self, name: str, inputs: int, outputs: int, kernel: int, gain: float) -> Layer:
        bits = scale_bits(inputs, kernel, gain)
        weight = np.asarray(self._tensors[f"{name}.weight"], np.float64)
        bias = np.asarray(self._tensors[f"{name}.bias"], np.float64)
        if weight.shape != (outputs, inputs, kernel, kernel) or bias.shape != (outputs,):
            raise ValueError(f"{name}.weight is {weight.shape}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError(f"{name} is not finite")
        whole = np.clip(np.floor(weight * 2**bits + 0.5), -127, 127)
        columns = whole.transpose(2, 3, 1, 0).reshape(kernel * kernel * inputs, -1)
        shift = np.clip(np.floor(bias * 2 ** (bits + ACT_BITS) + 0.5), -(2**20), 2**20)
        return Layer(np.ascontiguousarray(columns, np.float32), shift.astype(np.float32), bits, kernel)

    def synthesise(self, values: NDArray[np.int64], carriers: cr.Carriers) -> NDArray[np.int64]:
        """Carrier pattern of signed amplitudes.

        Parameters
        ----------
        values : int array (WRITTEN,)
            Signed amplitudes in quarters.
        carriers : Carriers

        Returns
        -------
        int64 array (SIZE, SIZE)
            Units of ``2**-FIELD_BITS``; of unit power where all amplitudes are 4 quarters and all weights are 1.
        """
        spectrum = (carriers.scatter(values.astype(np.int64)) * self._frequency).astype(np.float64)
        basis = cr.dct_table().astype(np.float64)
        plain = (basis.T @ spectrum @ basis).astype(np.int64)
        shift = AMPLITUDE_BITS + FREQUENCY_BITS + 2 * cr.DCT_BITS + _UNIT_BITS - FIELD_BITS
        limit = 2 ** (FIELD_BITS + 3) - 1
        return np.asarray(np.clip((plain * _UNIT + (1 << (shift - 1))) >> shift, -limit, limit), np.int64)

    def __call__(self, picture: NDArray[np.integer], pattern: NDArray[np.int64]) -> NDArray[np.int64]:
        """Residual field.

        Parameters
        ----------
        picture : int array (SIZE, SIZE)
            0..255: the unchanged half, interpolated.
        pattern : int64 array (SIZE, SIZE)
            What `synthesise` gave.

        Returns
        -------
        int64 array (SIZE, SIZE)
            Units of ``2**-FIELD_BITS``.
        """
        y = _to_depth(((picture.astype(np.int64) - 128) >> 1).astype(np.float32))
        c = _to_depth(_signed(pattern.astype(np.float64), FIELD_BITS - ACT_BITS))
        seen, asked = self._picture(y).astype(np.float64), self._pattern(c).astype(np.float64)
        x = _signed(seen * 2.0 ** (self._pattern.bits - self._picture.bits) + asked, self._pattern.bits)
        half = self.channels // 2
        through, around = x[..., :half], x[..., half:]
        for first, second in self._body:
            inner = _rectified(first(through), first.bits)
            through = _signed(through.astype(np.float64) * 2**second.bits + second(inner), second.bits)
        x = _rectified(self._join(np.concatenate([through, around], axis=2)), self._join.bits)
        correction = _from_depth(
            _half_up(self._correction(x), self._correction.bits + ACT_BITS - FIELD_BITS, -2047, 2047)
        )
        raw = self._gain(x).astype(np.float64) + 2.0 ** (self._gain.bits + ACT_BITS)
        gain = _half_up(raw[..., 0], self._gain.bits + ACT_BITS - GAIN_BITS, 2, 127)
        wide = _spread(gain).astype(np.float64)
        field = np.floor(pattern * wide * 2.0**-GAIN_BITS + correction + 0.5)
        return np.clip(field, -8191, 8191).astype(np.int64)
