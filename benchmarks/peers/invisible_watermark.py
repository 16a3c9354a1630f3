"""The package invisible-watermark (MIT): dwtDct, dwtDctSvd and RivaGAN, none of which has a key.

All three mark the colours, so a grey picture comes back tinted and loses its mark when it is stored as grey. One more
method here is dwtDctSvd on the luma plane at the same strength, which a grey file can hold. RivaGAN's weights come with
the package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.peers.method import Bits, Picture, from_bgr, require, to_bgr


def package() -> ModuleType:
    """The imported package."""
    return require("imwatermark", "invisible-watermark")


@dataclass(frozen=True)
class InvisibleWatermark:
    """See the module.

    Parameters
    ----------
    algorithm : str
        ``"dwtDct"``, ``"dwtDctSvd"`` or ``"rivaGan"``.
    settings : dict
        For the package's encoder and decoder.
    grey : bool
        Whether a grey picture is stored as grey.
    """

    name: str
    algorithm: str
    bits: int = 64
    settings: dict[str, Any] = field(default_factory=dict)
    grey: bool = False

    def mark(self, image: Picture, bits: Bits) -> Picture:
        encoder = package().WatermarkEncoder()
        encoder.set_watermark("bits", [int(bit) for bit in bits])
        if self.algorithm == "rivaGan":
            encoder.loadModel()
        marked = encoder.encode(to_bgr(image), self.algorithm, **self.settings)
        return from_bgr(np.ascontiguousarray(marked), self.grey and image.ndim == 2)

    def read(self, image: Picture) -> Bits:
        decoder = package().WatermarkDecoder("bits", self.bits)
        if self.algorithm == "rivaGan":
            decoder.loadModel()
        return np.asarray(decoder.decode(to_bgr(image), self.algorithm, **self.settings)).astype(np.uint8)


def methods() -> tuple[InvisibleWatermark, ...]:
    """All that the package offers."""
    return (
        InvisibleWatermark("dwtDct", "dwtDct"),
        InvisibleWatermark("dwtDctSvd", "dwtDctSvd"),
        InvisibleWatermark("dwtDctSvd_luma", "dwtDctSvd", settings={"scales": [36, 0, 0]}, grey=True),
        InvisibleWatermark("rivaGan", "rivaGan", bits=32),
    )
