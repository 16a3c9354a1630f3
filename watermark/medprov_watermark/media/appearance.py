"""How the samples of a JPEG are shown: what the file that is written in its place must say as well."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

_ORIENTATION, _SHORT = 0x0112, 3
_INCH = 0.0254


@dataclass(frozen=True)
class Appearance:
    """What a JPEG says beside its samples and its words.

    Parameters
    ----------
    icc_profile : bytes or None
    resolution : tuple of float or None
        Pixels per inch, horizontally and vertically.
    orientation : int
        1 to 8 (EXIF 2.32, section 4.6.4); 1 is upright.
    """

    icc_profile: bytes | None = field(default=None, repr=False)
    resolution: tuple[float, float] | None = None
    orientation: int = 1

    @classmethod
    def of(cls, info: dict[str | tuple[int, int], object]) -> Appearance:
        """Collect it from what Pillow calls an image's info; what is malformed is left out."""
        profile, exif = info.get("icc_profile"), info.get("exif")
        return cls(
            icc_profile=profile if isinstance(profile, bytes) and profile else None,
            resolution=_resolution(info.get("dpi")),
            orientation=_orientation(exif) if isinstance(exif, bytes) else 1,
        )

    def png_chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """The same in PNG: kind and content of chunks (sections 11.3.2.3, 11.3.4.3 and 11.3.4.4)."""
        if self.icc_profile is not None:
            yield b"iCCP", b"ICC profile\0\0" + zlib.compress(self.icc_profile)
        if self.resolution is not None:
            yield b"pHYs", struct.pack(">2IB", *(round(dots / _INCH) for dots in self.resolution), 1)
        if self.orientation != 1:
            entry = struct.pack(">HHIHH", _ORIENTATION, _SHORT, 1, self.orientation, 0)
            yield b"eXIf", b"MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def _resolution(dots: object) -> tuple[float, float] | None:
    try:
        across, down = (float(number) for number in dots)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if all(math.isfinite(n) and 1 <= n < 1e6 for n in (across, down)) else None


def _orientation(exif: bytes) -> int:
    """The tag of the first directory (TIFF 6.0, section 2); 1 where it is not there or cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for number in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number)
            if (tag, kind) == (_ORIENTATION, _SHORT):
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        # cut off
        return 1
    return 1
