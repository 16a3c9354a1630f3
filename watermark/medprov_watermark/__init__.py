"""Dual watermark for medical images: a robust ownership mark (W1) and a fragile, reversible integrity mark (W2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medprov_watermark.payload import Payload
    from medprov_watermark.pixels import Pixels
    from medprov_watermark.watermarker import DualWatermarker

__version__ = "0.1.0"
__all__ = ["DualWatermarker", "Payload", "Pixels", "__version__"]

_HOMES = {"DualWatermarker": "watermarker", "Payload": "payload", "Pixels": "pixels"}


def __getattr__(name: str) -> object:
    # Loaded on first use, so that medprov_watermark.training imports on a machine that has only torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
