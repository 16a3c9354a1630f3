"""JPEG (ITU-T T.81), 8 bits, read only: writing it again would change samples and break the integrity mark."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from medprov_watermark.errors import MediaError
from medprov_watermark.media.appearance import Appearance
from medprov_watermark.media.files import check_size
from medprov_watermark.pixels import Pixels

SIGNATURE = b"\xff\xd8\xff"


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Read a grey or RGB JPEG; the EXIF orientation is not applied, but kept for the file that is written.

    Raises
    ------
    MediaError
        When the picture has other channels, or is too small or too large. Damaged bytes raise whatever Pillow raises.
    """
    # The class itself, not Image.open: that one also tries other formats and warns about sizes that are legal here.
    with JpegImageFile(BytesIO(data)) as image:
        check_size(image.height, image.width, max_pixels)
        if image.mode not in ("L", "RGB"):
            raise MediaError(f"JPEG of mode {image.mode} is not supported; convert it to grey or RGB")
        array = np.array(image)
        shown = Appearance.of(image.info)
    return Pixels(array, 8, (0, 255), None, None, "image/jpeg", shown)
