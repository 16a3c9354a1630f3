"""The package blind-watermark (MIT): quantised singular values in the DCT of Haar blocks, with two passwords.

A grey picture is stored as grey again, as a medical archive needs it; the package itself would give back three
channels. Everything else is as the package has it by default.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np

from benchmarks.peers.method import Bits, Picture, from_bgr, require, to_bgr


@cache
def package() -> ModuleType:
    """The imported package, without its greeting."""
    # On import it chooses how processes start, which fails where that was chosen before and lasts where it was not.
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    try:
        module = require("blind_watermark", "blind-watermark")
    finally:
        multiprocessing.set_start_method(before, force=True)
    module.bw_notes.close()
    return module


@dataclass(frozen=True)
class BlindWatermark:
    """See the module.

    Parameters
    ----------
    key : int
        Both passwords.
    """

    key: int = 1
    name: str = "blind_watermark"
    bits: int = 64

    def mark(self, image: Picture, bits: Bits) -> Picture:
        tool = package().WaterMark(password_wm=self.key, password_img=self.key)
        tool.read_img(img=to_bgr(image))
        tool.read_wm(bits.astype(np.bool_).tolist(), mode="bit")
        marked = np.clip(np.rint(tool.embed()), 0, 255).astype(np.uint8)
        return from_bgr(marked, image.ndim == 2)

    def read(self, image: Picture) -> Bits:
        tool = package().WaterMark(password_wm=self.key, password_img=self.key)
        return np.asarray(tool.extract(embed_img=to_bgr(image), wm_shape=self.bits, mode="bit"), np.uint8)
