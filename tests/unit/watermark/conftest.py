"""Phantoms, small random networks and marked pictures, made once for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark import tuning
from medprov_watermark.coupling_network import BLOCK, CouplingNetwork
from medprov_watermark.extractor import F32, Extractor
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import Payload
from medprov_watermark.watermarker import DualWatermarker, Marked, Samples

Phantom = Callable[..., NDArray[np.uint8] | NDArray[np.uint16]]
Tensors = Callable[..., dict[str, NDArray[np.float64]]]

PAYLOAD = Payload(bytes.fromhex("00ff10203040a5c3"), b"\x00\x01\xfe\xff")


def make_phantom(height: int, width: int, top: int = 255, seed: int = 0) -> NDArray[np.uint8] | NDArray[np.uint16]:
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    y, x = (row + 0.5) / height * 2 - 1, (column + 0.5) / width * 2 - 1
    base = 0.08 + 0.45 * (np.hypot(x / 0.75, y / 0.88) < 1)
    for _ in range(12):
        cx, cy, depth = random.uniform(-0.5, 0.5, 3)
        a, b = random.uniform(0.05, 0.3, 2)
        base += 0.6 * depth * (np.hypot((x - cx) / a, (y - cy) / b) < 1)
    base += random.normal(0, 0.02, base.shape)
    return np.clip(np.rint(base * top), 0, top).astype(np.uint8 if top <= 255 else np.uint16)


def make_tensors(channels: int = 8, blocks: int = 1, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    depth, half = BLOCK * BLOCK, channels // 2
    shapes = {"picture": (channels, depth, 3), "pattern": (channels, depth, 3), "join": (channels, channels, 1)}
    shapes |= {"correction": (depth, channels, 3), "gain": (1, channels, 3)}
    for block in range(blocks):
        shapes |= {f"body.{block}.first": (half, half, 3), f"body.{block}.second": (half, half, 3)}
    made: dict[str, NDArray[np.float64]] = {"frequency": random.uniform(0, 3, (cr.WIDTH, cr.WIDTH))}
    for name, (outputs, inputs, kernel) in shapes.items():
        made[f"{name}.weight"] = random.normal(0, 1.5 / np.sqrt(inputs * kernel), (outputs, inputs, kernel, kernel))
        made[f"{name}.bias"] = random.normal(0, 0.3, outputs)
    return made


class PlainExtractor(Extractor):
    """An extractor that has learned nothing: what it correlates is the picture without its mean, or without the means
    of its blocks. No test that takes it depends on released weights, and noise and marks add up exactly."""

    def __init__(self, block: int = cr.SIZE) -> None:
        self.block = block
        self.frequency = np.ones((cr.WIDTH, cr.WIDTH), np.float32)
        self._basis = (cr.dct_table() / 2.0**cr.DCT_BITS).astype(np.float32)

    def white(self, pictures: F32) -> F32:
        count, side = len(pictures), cr.SIZE // self.block
        means = pictures.reshape(count, side, self.block, side, self.block).mean((2, 4), keepdims=True)
        return (pictures.reshape(count, side, self.block, side, self.block) - means).reshape(pictures.shape)


@pytest.fixture(scope="session")
def plain_extractor() -> Extractor:
    return PlainExtractor()


@pytest.fixture(scope="session")
def blockwise_extractor() -> Extractor:
    return PlainExtractor(BLOCK)


@pytest.fixture(scope="session")
def plain_network() -> CouplingNetwork:
    """A coupling network whose residual is the carriers' pattern itself."""
    made = {name: np.zeros_like(part) for name, part in make_tensors().items()}
    return CouplingNetwork(made | {"frequency": np.ones((cr.WIDTH, cr.WIDTH))})


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return make_phantom


@pytest.fixture(scope="session")
def tensors() -> Tensors:
    return make_tensors


@pytest.fixture(scope="session")
def small_network() -> CouplingNetwork:
    return CouplingNetwork(make_tensors())


@pytest.fixture(scope="session")
def payload() -> Payload:
    return PAYLOAD


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """A short closed loop, where a test asks only for a mark and not for the quietest one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "ROUNDS", 2)
        yield


@pytest.fixture(scope="session")
def wm() -> DualWatermarker:
    return DualWatermarker.load(device="cpu", threads=1)


@dataclass
class Notary:
    """A signer that keeps what it was asked to sign; its 65 bytes depend on the statement."""

    asked: list[ImageMark] = field(default_factory=list)

    def __call__(self, mark: ImageMark) -> bytes:
        self.asked.append(mark)
        return (mark.marked_hash + mark.rest_hash + b"\x1b")[:65]


@dataclass(frozen=True)
class Case:
    """A cover and what marking gave."""

    cover: Samples
    marked: Marked
    notary: Notary
    legal: tuple[int, int]
    padding: int | None = None
    roi: NDArray[np.bool_] | None = None


def _case(
    wm: DualWatermarker,
    cover: Samples,
    legal: tuple[int, int],
    padding: int | None = None,
    roi: NDArray[np.bool_] | None = None,
) -> Case:
    notary = Notary()
    marked = wm.mark(cover, PAYLOAD, signer=notary, value_range=legal, padding=padding, roi=roi)
    return Case(cover, marked, notary, legal, padding, roi)


def _disc_of_padding(padding: int, top: int) -> Samples:
    cover = make_phantom(200, 180, top, seed=3).astype(np.uint16)
    row, column = np.mgrid[:200, :180]
    cover[np.hypot(row - 100, column - 90) > 95] = padding
    return cover


class Cases(dict[str, Case]):
    """Marked pictures by name, made when first asked for."""

    def __init__(self, wm: DualWatermarker) -> None:
        self.wm = wm

    def __missing__(self, name: str) -> Case:
        self[name] = made = self._make(name)
        return made

    def _make(self, name: str) -> Case:
        if name == "grey":
            return _case(self.wm, make_phantom(256, 256), (0, 255))
        if name == "odd":
            return _case(self.wm, make_phantom(131, 197), (0, 255))
        if name == "colour":
            colour = np.stack([make_phantom(128, 160, seed=seed) for seed in range(3)], axis=-1)
            return _case(self.wm, colour, (0, 255))
        if name == "deep":
            return _case(self.wm, _disc_of_padding(0, 4095), (0, 4095), padding=0)
        roi = np.zeros((256, 256), np.bool_)
        roi[100:150, 90:170] = True
        return _case(self.wm, make_phantom(256, 256, seed=5), (0, 255), roi=roi)


@pytest.fixture(scope="module")
def cases(wm: DualWatermarker, quick: None) -> Cases:
    return Cases(wm)


@pytest.fixture(scope="module", params=["grey", "odd", "colour", "deep", "region"])
def case(request: pytest.FixtureRequest, cases: Cases) -> Case:
    return cases[request.param]
