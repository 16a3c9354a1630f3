"""The two networks of W1 as they are trained: the coupling network (fixed point, straight-through) and the extractor.

The coupling network is the torch twin of :mod:`medprov_watermark.coupling_network`, which a marking node runs with
NumPy alone; both give the same integers. Everything here is in float, but every value of the coupling network is a
multiple of a power of two and every sum stays below 2**24, so that the order of summation cannot matter.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import ACT_BITS, BLOCK, FIELD_BITS, FREQUENCY_BITS, GAIN_BITS, scale_bits


def straight_through(value: Tensor, target: Tensor) -> Tensor:
    """`target` in the forward pass, the gradient of `value` in the backward pass."""
    return value + (target - value).detach()


def quantise(x: Tensor, bits: int, low: float, high: float) -> Tensor:
    """Round half up to multiples of ``2**-bits`` and clip to ``low .. high`` (both in units of ``2**-bits``)."""
    x = x.clamp(low / 2**bits, high / 2**bits)
    with torch.no_grad():
        q = torch.floor(x * 2**bits + 0.5).clamp_(low, high) / 2**bits
    return straight_through(x, q)


class FixedConv(nn.Module):
    """Convolution with 8-bit weights at a fixed power-of-two scale; zero padding keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        std = gain * math.sqrt(2.0 / (inputs * kernel * kernel))
        self.scale_bits = scale_bits(inputs, kernel, gain)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * std)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.padding = kernel // 2

    def quantised(self) -> tuple[Tensor, Tensor]:
        """Weights as multiples of ``2**-scale_bits`` and biases as multiples of ``2**-(scale_bits + ACT_BITS)``."""
        weight = quantise(self.weight, self.scale_bits, -127, 127)
        bias = quantise(self.bias, self.scale_bits + ACT_BITS, -(2**20), 2**20)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.quantised()
        return F.conv2d(x, weight, bias, padding=self.padding)


def signed(x: Tensor) -> Tensor:
    return quantise(x, ACT_BITS, -127, 127)


def rectified(x: Tensor) -> Tensor:
    return quantise(x, ACT_BITS, 0, 127)


class FixedResidual(nn.Module):
    """``x + conv(relu(conv(x)))`` on 8-bit activations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = FixedConv(channels, channels)
        self.second = FixedConv(channels, channels, gain=0.4)

    def forward(self, x: Tensor) -> Tensor:
        return signed(x + self.second(rectified(self.first(x))))


class CouplingNetwork(nn.Module):
    """F of the integer coupling: (half picture, carrier pattern) -> residual field.

    The body is cross-stage partial (CSP): half of the channels go through the residual blocks, half go around
    (Wang et al., CSPNet, 2020).

    Parameters
    ----------
    channels, blocks : int
    partial : bool
        False sends all channels through the blocks: a plain body, which ``benchmarks/csp.py`` compares with. Releases
        and the NumPy twin know only the partial one.
    """

    _rows: Tensor
    _cols: Tensor
    _sign: Tensor
    _basis: Tensor

    def __init__(self, channels: int = 64, blocks: int = 3, partial: bool = True) -> None:
        super().__init__()
        depth = BLOCK * BLOCK
        self.channels, self.blocks = channels, blocks
        self.through = channels // 2 if partial else channels
        self.frequency = nn.Parameter(torch.ones(cr.WIDTH, cr.WIDTH))
        self.picture = FixedConv(depth, channels)
        self.pattern = FixedConv(depth, channels, gain=0.5)
        self.body = nn.ModuleList(FixedResidual(self.through) for _ in range(blocks))
        self.join = FixedConv(channels, channels, kernel=1)
        self.correction = FixedConv(channels, depth, gain=0.25)
        self.gain = FixedConv(channels, 1, gain=0.5)
        public = cr.derive()
        index, sign = public.index, public.sign
        self.register_buffer("_rows", torch.from_numpy(index[..., 0].astype(np.int64)), persistent=False)
        self.register_buffer("_cols", torch.from_numpy(index[..., 1].astype(np.int64)), persistent=False)
        self.register_buffer("_sign", torch.from_numpy(sign.astype(np.float32)), persistent=False)
        basis = cr.dct_table().astype(np.float32) / 2**cr.DCT_BITS
        self.register_buffer("_basis", torch.from_numpy(basis), persistent=False)

    def synthesise(self, values: Tensor) -> Tensor:
        """Carrier pattern of signed amplitudes.

        Parameters
        ----------
        values : float tensor (B, n)
            The first n carriers: +-1 for one of plain amplitude, 0 for one that is left out.

        Returns
        -------
        float tensor (B, 1, SIZE, SIZE)
            Multiples of ``2**-FIELD_BITS``, of unit power where all amplitudes and weights are 1.
        """
        batch = values.shape[0]
        spectrum = values.new_zeros(batch, cr.WIDTH, cr.WIDTH)
        n = values.shape[1]
        spectrum[:, self._rows[:n], self._cols[:n]] = values[:, :, None] * self._sign[:n]
        spectrum = spectrum * quantise(self.frequency, FREQUENCY_BITS, 0, 127)
        plain = self._basis.T @ spectrum @ self._basis
        unit = cr.SIZE / math.sqrt(cr.WRITTEN * cr.COEFFICIENTS)
        limit = 2.0 ** (FIELD_BITS + 3) - 1
        return quantise(plain * unit, FIELD_BITS, -limit, limit)[:, None]

    def forward(self, picture: Tensor, pattern: Tensor) -> Tensor:
        """Residual field.

        Parameters
        ----------
        picture : float tensor (B, 1, SIZE, SIZE)
            Integers 0..255: the unchanged half, interpolated.
        pattern : float tensor (B, 1, SIZE, SIZE)
            What `synthesise` gave.

        Returns
        -------
        float tensor (B, 1, SIZE, SIZE)
            Multiples of ``2**-FIELD_BITS``.
        """
        last = torch.channels_last
        y = F.pixel_unshuffle(torch.floor((picture - 128) / 2) / 2**ACT_BITS, BLOCK).contiguous(memory_format=last)
        c = F.pixel_unshuffle(signed(pattern), BLOCK).contiguous(memory_format=last)
        x = signed(self.picture(y) + self.pattern(c))
        through, around = x[:, : self.through], x[:, self.through :]
        for block in self.body:
            through = block(through)
        x = rectified(self.join(torch.cat([through, around], 1)))
        correction = quantise(F.pixel_shuffle(self.correction(x).float(), BLOCK), FIELD_BITS, -2047, 2047)
        gain = quantise(1 + self.gain(x).float(), GAIN_BITS, 2, 127)
        gain = F.interpolate(gain, scale_factor=BLOCK, mode="bilinear", align_corners=False)
        return quantise(pattern * gain + correction, FIELD_BITS, -8191, 8191)


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.second.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(F.gelu(self.first(self.norm(x))))
        return x + inner


class Extractor(nn.Module):
    """Picture -> answer of every carrier.

    A convolutional network predicts the host and weighs the places; what is left is correlated with the carriers.
    Code, pilot and null carriers pass through the same arithmetic.
    """

    _flat: Tensor
    _sign: Tensor
    _basis: Tensor

    def __init__(self, channels: int = 64, blocks: int = 4) -> None:
        super().__init__()
        depth = BLOCK * BLOCK
        self.channels, self.blocks = channels, blocks
        self.enter = nn.Conv2d(depth, channels, 3, padding=1)
        self.body = nn.ModuleList(_Residual(channels, dilation=1 + i % 2) for i in range(blocks))
        self.norm = nn.GroupNorm(8, channels)
        self.host = nn.Conv2d(channels, depth, 3, padding=1)
        self.place = nn.Conv2d(channels, 4, 3, padding=1)
        self.frequency = nn.Parameter(torch.ones(cr.WIDTH, cr.WIDTH))
        nn.init.normal_(self.host.weight, std=0.01)
        nn.init.normal_(self.place.weight, std=0.01)
        public = cr.derive()
        index, sign = public.index, public.sign
        flat = index[..., 0].astype(np.int64) * cr.WIDTH + index[..., 1]
        self.register_buffer("_flat", torch.from_numpy(flat.reshape(-1)), persistent=False)
        self.register_buffer("_sign", torch.from_numpy(sign.astype(np.float32)), persistent=False)
        basis = cr.dct_table().astype(np.float32) / 2**cr.DCT_BITS
        self.register_buffer("_basis", torch.from_numpy(basis), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """Answers of all carriers.

        Parameters
        ----------
        picture : float tensor (B, 1, SIZE, SIZE)
            Grey values on any scale; mean and contrast are normalised here.

        Returns
        -------
        float tensor (B, TOTAL)
            Code carriers, pilots, nulls.
        """
        return self.coefficients(picture).sum(2) / math.sqrt(cr.COEFFICIENTS)

    def coefficients(self, picture: Tensor) -> Tensor:
        """What `forward` sums: float tensor (B, TOTAL, COEFFICIENTS), each coefficient times its carrier's sign."""
        return self.correlated(self.white(picture))

    def correlated(self, white: Tensor) -> Tensor:
        """`coefficients` of what `white` gave, float tensor (B, SIZE, SIZE)."""
        spectrum = self._basis @ white @ self._basis.T * self.frequency
        answers = spectrum.flatten(1)[:, self._flat].view(-1, cr.TOTAL, cr.COEFFICIENTS)
        signed: Tensor = answers * self._sign
        return signed

    def white(self, picture: Tensor) -> Tensor:
        """The picture without the host, places weighed: float tensor (B, SIZE, SIZE) of unit power."""
        mean = picture.mean((2, 3), keepdim=True)
        centred = picture - mean
        contrast = centred.square().mean((2, 3), keepdim=True).sqrt()
        u = centred / (contrast + 1e-3 * (mean.abs() + 1e-3))
        deep = F.pixel_unshuffle(u, BLOCK).contiguous(memory_format=torch.channels_last)
        x = self.enter(deep)
        for block in self.body:
            x = block(x)
        x = F.gelu(self.norm(x))
        host = F.pixel_shuffle(self.host(x), BLOCK)
        place = F.interpolate(
            F.pixel_shuffle(self.place(x), 2), scale_factor=BLOCK // 2, mode="bilinear", align_corners=False
        )
        coarse = F.avg_pool2d(u, BLOCK, BLOCK)
        local = F.interpolate(coarse, scale_factor=BLOCK, mode="bilinear", align_corners=False)
        white = (u - local - host.float()) * torch.exp(place.float().clamp(-4, 4))
        return (white / (white.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-6))[:, 0]


class ReleasedExtractor(nn.Module):
    """What ONNX Runtime runs: everything that is learned but the weights of frequency.

    The carriers come behind it, so that other carriers (a consortium key) and other places (rotation, crop) can be
    tried on one run.
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, picture: Tensor) -> Tensor:
        """Float tensor (B, SIZE, SIZE); `picture` as for the extractor."""
        return self.extractor.white(picture)
