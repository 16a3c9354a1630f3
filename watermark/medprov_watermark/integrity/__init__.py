"""W2, the integrity mark's carrier: bytes hidden in the frame of a picture so that the picture comes back exactly."""

from medprov_watermark.integrity.frame import Frame, embed, extract
from medprov_watermark.integrity.header import Header

__all__ = ["Frame", "Header", "embed", "extract"]
