"""What happens to a picture between the hospital and the verifier, differentiable or passed straight through.

All functions take and give float tensors (B, 1, H, W) with grey values 0..255.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from medprov_watermark.training.networks import straight_through

# ITU-T T.81, annex K.1, table K.1.
_LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)
_n = torch.arange(8, dtype=torch.float32)
_DCT = torch.cos((2 * _n[None] + 1) * _n[:, None] * math.pi / 16) * math.sqrt(2 / 8)
_DCT[0] = math.sqrt(1 / 8)


def jpeg(x: Tensor, quality: float) -> Tensor:
    """Baseline JPEG of the luminance: real tables, rounding passed straight through."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = torch.clamp(torch.floor((_LUMINANCE.to(x.device) * scale + 50) / 100), 1, 255)
    dct = _DCT.to(x.device)
    b, c, h, w = x.shape
    blocks = (x - 128).view(b, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    coefficients = dct @ blocks @ dct.T / table
    coefficients = straight_through(coefficients, coefficients.round()) * table
    blocks = dct.T @ coefficients @ dct
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w) + 128


def codec(x: Tensor, name: str, **options: object) -> Tensor:
    """A real codec of Pillow (WebP, JPEG 2000), passed straight through."""
    out = []
    for picture in x.detach().clamp(0, 255).round().byte().cpu().numpy()[:, 0]:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, name, **options)
        out.append(np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("L")))
    return straight_through(x, torch.from_numpy(np.stack(out))[:, None].to(x))


def gaussian_blur(x: Tensor, size: int, sigma: float) -> Tensor:
    t = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
    kernel = torch.exp(-t.square() / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    x = F.pad(x, [size // 2] * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def mean_filter(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(F.pad(x, [size // 2] * 4, mode="reflect"), size, 1)


def median_filter(x: Tensor) -> Tensor:
    """3x3 median; the gradient goes to the pixel that was picked."""
    padded = F.pad(x, [1] * 4, mode="reflect")
    h, w = x.shape[2:]
    shifted = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return torch.stack(shifted).median(0).values


def equalise(x: Tensor) -> Tensor:
    """Histogram equalisation; the gradient is the slope of the curve, limited."""
    out = []
    for picture in x:
        levels = picture.detach().clamp(0, 255).round().long().flatten()
        cumulative = torch.bincount(levels, minlength=256).float().cumsum(0)
        first = cumulative[levels.min()]
        curve = (cumulative - first) / (cumulative[-1] - first + 1e-6) * 255
        out.append(straight_through(picture, curve[levels].view_as(picture)))
    return torch.stack(out)


def gamma(x: Tensor, exponent: float) -> Tensor:
    return 255 * (x / 255).clamp(1e-4, 1) ** exponent


def contrast(x: Tensor, factor: float, offset: float) -> Tensor:
    return (x - 128) * factor + 128 + offset


def salt_and_pepper(x: Tensor, share: float) -> Tensor:
    u = torch.rand_like(x)
    return torch.where(u < share / 2, torch.zeros_like(x), torch.where(u > 1 - share / 2, torch.full_like(x, 255.0), x))


def warp(x: Tensor, angle: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Rotation (degrees), scale and shift (share of the half side), one of each per picture."""
    radians = angle * math.pi / 180
    c, s = torch.cos(radians) / scale, torch.sin(radians) / scale
    theta = torch.stack([torch.stack([c, -s, shift[:, 0]], 1), torch.stack([s, c, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="zeros")


def occlude(x: Tensor, kept: float, inside: bool) -> Tensor:
    """A random window of the given share of the area, in its place; with `inside`, all but one of the rest, black.

    Around a window the verifier puts the window's mean grey value.
    """
    h, w = x.shape[2:]
    share = 1 - kept if inside else kept
    wh, ww = round(h * share**0.5), round(w * share**0.5)
    top, left = random.randint(0, h - wh), random.randint(0, w - ww)
    window = torch.zeros_like(x)
    window[..., top : top + wh, left : left + ww] = 1
    if inside:
        return x * (1 - window)
    mean = x[..., top : top + wh, left : left + ww].mean((2, 3), keepdim=True)
    return torch.where(window > 0, x, mean)


def rotate_and_back(x: Tensor, degrees: float) -> Tensor:
    """Rotation on the same canvas and the verifier's turn back: two interpolations and the corners lost."""
    n = x.shape[0]
    still, there = torch.zeros(n, 2, device=x.device), torch.full((n,), degrees, device=x.device)
    turned = warp(x, there, torch.ones_like(there), still)
    return warp(straight_through(turned, turned.round()), -there, torch.ones_like(there), still)


def rescale(x: Tensor, factor: float) -> Tensor:
    small = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bicubic")


def misplaced(x: Tensor) -> tuple[str, Tensor, Callable[[Tensor], Tensor]]:
    """A picture as the verifier's search sees it: turned by any angle and perhaps mirrored, or a window in a corner.

    Returns
    -------
    name : str
    picture : float tensor (B, 1, H, W)
    back : callable
        Brings what the extractor makes of `picture`, (B, H, W), into the cover's frame.
    """
    if random.random() < 0.6:
        return _cornered(x)
    mirrored, n = random.random() < 0.5, x.shape[0]
    angle = torch.full((n,), random.uniform(0, 360), device=x.device)
    one, still = torch.ones(n, device=x.device), torch.zeros(n, 2, device=x.device)
    turned = warp(x.flip(3) if mirrored else x, angle, one, still)

    def back(white: Tensor) -> Tensor:
        upright = warp(white.float()[:, None], -angle, one, still)[:, 0]
        return upright.flip(2) if mirrored else upright

    return "search: angle", turned, back


def _cornered(x: Tensor) -> tuple[str, Tensor, Callable[[Tensor], Tensor]]:
    size = x.shape[2]
    height, width = (round(size * random.uniform(0.6, 1.0)) for _ in range(2))
    top, left = random.randint(0, size - height), random.randint(0, size - width)
    part = x[..., top : top + height, left : left + width]
    canvas = part.mean((2, 3), keepdim=True).expand_as(x).clone()
    canvas[..., :height, :width] = part

    def back(white: Tensor) -> Tensor:
        return F.pad(white[:, :height, :width], (left, size - left - width, top, size - top - height))

    return "search: window", canvas, back


def _tone(x: Tensor, strength: float) -> tuple[str, Tensor]:
    kind = random.random()
    if kind < 0.25:
        return "equalise", equalise(x)
    if kind < 0.5:
        return "gamma", gamma(x, math.exp(random.uniform(-0.75, 0.75)))
    if kind < 0.75:
        return "brightness", contrast(x, 1.0, random.uniform(-55, 55))
    return "contrast", contrast(x, math.exp(random.uniform(-0.45, 0.45)), 0.0)


def _noise(x: Tensor, strength: float) -> tuple[str, Tensor]:
    kind = random.random()
    if kind < 0.45:
        return "gaussian", x + random.uniform(2, 4 + 18 * strength) * torch.randn_like(x)
    if kind < 0.65:
        return "speckle", x * (1 + random.uniform(0.02, 0.03 + 0.08 * strength) * torch.randn_like(x))
    if kind < 0.8:
        return "poisson", straight_through(x, torch.poisson(x.detach().clamp(0, 255)))
    return "salt and pepper", salt_and_pepper(x, random.uniform(0.001, 0.002 + 0.009 * strength))


def _filter(x: Tensor, strength: float) -> tuple[str, Tensor]:
    kind = random.random()
    if kind < 0.4:
        return "blur", gaussian_blur(x, 7, random.uniform(0.8, 1.8))
    if kind < 0.7:
        return "mean", mean_filter(x, 3)
    return "median", median_filter(x)


def _compress(x: Tensor, strength: float) -> tuple[str, Tensor]:
    kind = random.random()
    if kind < 0.76:
        return "jpeg", jpeg(x, random.uniform(90 - 68 * strength, 95))
    if kind < 0.89:
        return "webp", codec(x, "WEBP", quality=random.randint(40, 90), method=0)
    rate = random.choice([10, 20])
    return "jpeg 2000", codec(x, "JPEG2000", quality_mode="rates", quality_layers=[rate], irreversible=True)


def _geometry(x: Tensor, strength: float) -> tuple[str, Tensor]:
    kind = random.random()
    if kind < 0.4:
        return "crop", occlude(x, random.uniform(1 - 0.62 * strength, 0.95), inside=False)
    if kind < 0.6:
        return "blackout", occlude(x, random.uniform(0.7, 0.95), inside=True)
    if kind < 0.8:
        return "rotation", rotate_and_back(x, random.uniform(-45, 45))
    return "rescale", rescale(x, random.uniform(0.4, 0.9))


_KINDS: tuple[tuple[float, Callable[[Tensor, float], tuple[str, Tensor]]], ...] = (
    (0.30, _compress),
    (0.28, _noise),
    (0.12, _filter),
    (0.12, _tone),
    (0.18, _geometry),
)
_SECOND = 0.2
"""Chance of a second attack behind the first, at full strength."""
_JITTER = 0.3
"""Chance of the small error that the verifier's search for angle, scale and place leaves."""


def random_attack(x: Tensor, probability: float, strength: float) -> tuple[str, Tensor]:
    """One or two random attacks in a random order, as the curriculum asks.

    Parameters
    ----------
    x : float tensor (B, 1, H, W)
        Marked pictures, 0..255.
    probability : float
        Chance that anything happens at all.
    strength : float
        0..1, scales compression, noise and loss of area.

    Returns
    -------
    name : str
        The first attack, ``"none"`` where there was none.
    attacked : float tensor (B, 1, H, W)
        Whole grey values, 0..255.
    """
    name = "none"
    if random.random() < probability:
        count = 2 if random.random() < _SECOND * strength else 1
        chosen = random.choices([k for _, k in _KINDS], [share for share, _ in _KINDS], k=count)
        for i, attack in enumerate(chosen):
            one, x = attack(x, strength)
            name = one if i == 0 else name
            x = x.clamp(0, 255)
    if random.random() < _JITTER * probability:
        n = x.shape[0]
        angle = torch.empty(n, device=x.device).uniform_(-0.4, 0.4)
        scale = torch.empty(n, device=x.device).uniform_(0.994, 1.006)
        x = warp(x, angle, scale, torch.empty(n, 2, device=x.device).uniform_(-0.005, 0.005))
    return name, straight_through(x, x.round())
