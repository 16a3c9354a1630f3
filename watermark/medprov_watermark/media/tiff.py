"""TIFF 6.0 and BigTIFF: one page, 8 or 16 bits, grey or RGB, uncompressed or losslessly compressed."""

from __future__ import annotations

import hashlib
import logging
import math
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, DATATYPE, PHOTOMETRIC, PLANARCONFIG, RESUNIT, SAMPLEFORMAT

from medprov_watermark.errors import MediaError
from medprov_watermark.media.appearance import Appearance
from medprov_watermark.media.files import check_size
from medprov_watermark.pixels import Pixels, Samples

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# tifffile logs what it finds odd; without a handler of the application that would land on the terminal.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_LOSSLESS = (COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.PACKBITS, *_DEFLATE)
_GREY = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
_FLOAT = SAMPLEFORMAT.IEEEFP
_ORIENTATION = 274


@dataclass(frozen=True)
class _Source:
    """Tags that stay true when samples change a little."""

    resolution: tuple[float, float] | None
    resolution_unit: int | None
    icc_profile: bytes | None
    description: str | None
    orientation: int = 1


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Read a TIFF file; its orientation tag is not applied, and WhiteIsZero is turned into BlackIsZero.

    Raises
    ------
    MediaError
        When it has several pages, a kind of sample or a compression that is not supported, alpha that is not fully
        opaque, missing data, or is too small or too large. Damaged bytes raise whatever tifffile raises.
    """
    with tifffile.TiffFile(BytesIO(data)) as file:
        if len(file.pages) != 1:
            raise MediaError(
                f"the TIFF file has {len(file.pages)} pages; save the one to be marked as a file of its own"
            )
        page = file.pages.first
        check_size(page.imagelength, page.imagewidth, max_pixels)
        _check_page(page)
        _check_segments(page, data)
        array = page.asarray()
        source = _source(page)
    if page.sampleformat == _FLOAT:
        _refuse_float(array)
    if _separate(page):
        array = np.moveaxis(array, 0, -1)
    array = _without_alpha(array, page)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        array = np.iinfo(array.dtype).max - array
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    bits = int(page.bitspersample)
    return Pixels(array, bits, (0, 2**bits - 1), None, None, "image/tiff", source)


def encode(array: Samples, like: Pixels) -> bytes:
    """Turn samples into a TIFF file with Deflate compression.

    When ``like`` came from TIFF or JPEG, its resolution, colour profile, description and orientation are kept.
    """
    source = like.source if isinstance(like.source, _Source) else _Source(None, None, None, None)
    if isinstance(like.source, Appearance):
        shown = like.source
        source = _Source(shown.resolution, RESUNIT.INCH, shown.icc_profile, None, shown.orientation)
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        array,
        byteorder="<",
        photometric="minisblack" if array.ndim == 2 else "rgb",
        planarconfig=None if array.ndim == 2 else "contig",
        compression="zlib",
        metadata=None,
        software=False,
        description=source.description,
        resolution=source.resolution,
        resolutionunit=source.resolution_unit,
        iccprofile=source.icc_profile,
        extratags=[(_ORIENTATION, DATATYPE.SHORT, 1, source.orientation, True)],
    )
    return buffer.getvalue()


def attributes(picture: Pixels) -> dict[str, str]:
    """What the file says about how its samples are shown: its orientation (1 where it says none), colour profile."""
    source = picture.source
    if not isinstance(source, _Source):
        return {}
    profile = hashlib.sha256(source.icc_profile).hexdigest() if source.icc_profile is not None else ""
    return {"TIFF Orientation": str(source.orientation), "TIFF InterColorProfile": profile}


def _check_page(page: Any) -> None:
    colour = page.photometric == PHOTOMETRIC.RGB
    if page.photometric not in (*_GREY, PHOTOMETRIC.RGB) or page.imagedepth != 1:
        raise MediaError(
            f"TIFF of kind {_name(PHOTOMETRIC, page.photometric)} is not supported; convert it to grey or RGB"
        )
    if page.samplesperpixel - len(page.extrasamples) != (3 if colour else 1) or len(page.extrasamples) > 1:
        raise MediaError(f"TIFF with {page.samplesperpixel} channels is not supported; convert it to grey or RGB")
    if page.compression not in _LOSSLESS:
        name = _name(COMPRESSION, page.compression)
        raise MediaError(f"TIFF compression {name} is not supported; save it uncompressed or with Deflate")
    if page.sampleformat != _FLOAT and (page.sampleformat != SAMPLEFORMAT.UINT or page.bitspersample not in (8, 16)):
        kind = _name(SAMPLEFORMAT, page.sampleformat)
        raise MediaError(
            f"TIFF samples of {page.bitspersample} bits ({kind}) are not supported; save 8 or 16 bits unsigned"
        )


def _refuse_float(array: NDArray[Any]) -> None:
    if np.isnan(array).any():
        raise MediaError("the TIFF samples are floats, some of them NaN; replace these and save 16 bits unsigned")
    raise MediaError("TIFF samples that are floats are not supported; scale them and save 16 bits unsigned")


def _check_segments(page: Any, data: bytes) -> None:
    """Refuse strips and tiles that are missing, short or swell: tifffile would fill what is missing with zeros."""
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = math.prod(page.chunked)
    if len(offsets) < expected or len(counts) < expected:
        raise MediaError("the TIFF file lacks strips or tiles; get it again from where it came")
    for index in range(expected):
        offset, count = offsets[index], counts[index]
        if count <= 0 or offset <= 0 or offset + count > len(data):
            raise MediaError("the TIFF file is cut off; get it again from where it came")
        # Some writers fill up the last strip, so it may be as long as the others.
        limit = _segment_bytes(page, page.chunks[0])
        if _unpacked_bytes(page, data[offset : offset + count], limit) < _segment_bytes(page, _rows(page, index)):
            raise MediaError("a strip or tile of the TIFF file is too short; get it again from where it came")


def _segment_bytes(page: Any, rows: int) -> int:
    """Bytes of a strip or tile of so many rows."""
    return int(rows * math.prod(page.chunks[1:]) * page.bitspersample // 8)


def _rows(page: Any, index: int) -> int:
    """Rows that strip or tile ``index`` must hold; the last strip may have fewer than the others."""
    rows = int(page.chunks[0])
    if page.is_tiled:
        return rows
    strips = page.chunked[1 if _separate(page) else 0]
    return int(min(rows, page.imagelength - index % strips * rows))


def _separate(page: Any) -> bool:
    """Whether the planes of a colour picture follow each other."""
    return bool(page.samplesperpixel > 1 and page.planarconfig == PLANARCONFIG.SEPARATE)


def _unpacked_bytes(page: Any, segment: bytes, limit: int) -> int:
    if page.compression == COMPRESSION.NONE:
        return len(segment)
    if page.compression in _DEFLATE:
        inflater = zlib.decompressobj()
        size = len(inflater.decompress(segment, limit))
        if inflater.unconsumed_tail and inflater.decompress(inflater.unconsumed_tail, 1):
            raise MediaError("a strip or tile of the TIFF file is too long; get it again from where it came")
        return size
    try:
        unpack = tifffile.TIFF.DECOMPRESSORS[page.compression]
        return len(unpack(segment, out=limit))
    except (ImportError, KeyError) as error:
        name = _name(COMPRESSION, page.compression)
        raise MediaError(
            f"TIFF compression {name} needs the package imagecodecs; install it or save with Deflate"
        ) from error


def _without_alpha(array: NDArray[Any], page: Any) -> NDArray[Any]:
    if not page.extrasamples:
        return array
    if (array[..., -1] != np.iinfo(array.dtype).max).any():
        raise MediaError("the picture is partly transparent, and alpha cannot be marked; flatten it onto a background")
    array = array[..., :-1]
    return array[..., 0] if array.shape[-1] == 1 else array


def _source(page: Any) -> _Source:
    x, y, unit = page.tags.get("XResolution"), page.tags.get("YResolution"), page.tags.get("ResolutionUnit")
    profile = page.tags.get("InterColorProfile")
    description, orientation = page.description, page.tags.get("Orientation")
    return _Source(
        resolution=(x.value[0] / x.value[1], y.value[0] / y.value[1]) if _is_ratio(x) and _is_ratio(y) else None,
        resolution_unit=int(unit.value) if unit is not None and unit.value in (1, 2, 3) else None,
        icc_profile=profile.value if profile is not None and isinstance(profile.value, bytes) else None,
        # TIFF text is ASCII; what is not cannot be written again.
        description=description if description and description.isascii() else None,
        orientation=int(orientation.value) if orientation is not None and orientation.value in range(1, 9) else 1,
    )


def _is_ratio(tag: Any) -> bool:
    value = getattr(tag, "value", None)
    return isinstance(value, tuple) and len(value) == 2 and min(value) > 0


def _name(kind: Any, value: object) -> str:
    try:
        return str(kind(value).name)
    except ValueError:
        return str(value)
