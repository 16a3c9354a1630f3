"""medprov itself behind the interface of the peers, and one who marks over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.peers import Bits, Picture, RefusedError
from medprov_watermark.errors import EmbedError
from medprov_watermark.payload import DATA_BYTES, Payload
from medprov_watermark.watermarker import DualWatermarker, Extraction, Integrity, Marked, Samples

NAME, QUICK = "medprov", "medprov quick"


def payload_of(bits: Bits) -> Payload:
    """A payload from its 96 data bits."""
    return Payload.from_data(np.packbits(bits).tobytes())


def bits_of(payload: Payload) -> Bits:
    """The 96 data bits of a payload."""
    return np.unpackbits(np.frombuffer(payload.data, np.uint8))


@dataclass(frozen=True)
class Medprov:
    """Both marks; the message is the payload of W1, read blindly."""

    watermarker: DualWatermarker
    name: str = NAME
    bits: int = 8 * DATA_BYTES
    quick: bool = False

    def mark(self, image: Picture, bits: Bits) -> Picture:
        try:
            return np.asarray(self.watermarker.mark(image, payload_of(bits), quick=self.quick).image, np.uint8)
        except EmbedError as error:
            raise RefusedError(str(error)) from error

    def read(self, image: Picture) -> Bits | None:
        found = self.watermarker.extract(image).payload
        return None if found is None else bits_of(found)

    def restore(self, image: Picture) -> Picture:
        return np.asarray(self.watermarker.restore(image), np.uint8)


class Rival(DualWatermarker):
    """A changed copy of the software: it does not look whether a picture is marked before it marks it."""

    _marking: Samples | None = None

    def mark(self, image: Samples, payload: Payload, **options: Any) -> Marked:
        self._marking = image
        return super().mark(image, payload, **options)

    def extract(self, image: Samples, search: bool = True) -> Extraction:
        found = super().extract(image, search)
        return replace(found, payload=None, integrity=Integrity("absent")) if image is self._marking else found
