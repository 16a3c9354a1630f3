"""Pictures from files and into files: PNG, TIFF, DICOM, and JPEG for reading only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medprov_watermark.errors import MediaError, UnknownFormatError
from medprov_watermark.media import dicom, dicom_attributes, jpeg, png, tiff
from medprov_watermark.media.files import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE,
    TooManyPixelsError,
    check_vacant,
    first_line,
    load,
    store,
)
from medprov_watermark.pixels import Pixels, Samples, check_samples

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MIN_SIDE", "TooManyPixelsError", "attributes", "read", "write"]

_FORMATS = "PNG, TIFF, JPEG or DICOM"
_ATTRIBUTES: dict[str, Callable[[Pixels], dict[str, str]]] = {
    "application/dicom": dicom_attributes.of,
    "image/png": png.attributes,
    "image/tiff": tiff.attributes,
}


def read(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read a picture; the format is told by the content, not by the name.

    Nothing is scaled and no orientation tag is applied: the samples are those of the file. A palette is expanded to
    RGB, fully opaque alpha is dropped, 1, 2 and 4 bits of grey become 8.

    Parameters
    ----------
    path : path
        At most ``MAX_BYTES`` bytes, and ``MIN_SIDE`` pixels or more on each side.
    max_pixels : int
        Largest number of pixels, at most ``MAX_PIXELS``.

    Returns
    -------
    Pixels

    Raises
    ------
    MediaError
        One line that names the file, the reason and what to do; TooManyPixelsError where it has too many pixels.
    """
    file = Path(path)
    try:
        data = load(file)
        return _decoder(data)(data, min(max_pixels, MAX_PIXELS))
    except MediaError as error:
        raise type(error)(f"{file}: {error}") from error
    # The parsers meet hostile bytes and raise whatever comes first: struct.error, KeyError, RecursionError ...
    except Exception as error:
        raise MediaError(
            f"{file}: the file is damaged ({first_line(error)}); get it again from where it came"
        ) from error


def attributes(picture: Pixels) -> dict[str, str]:
    """What the file of a picture says beside its samples, by name, for comparison with another file's.

    The names depend on the format alone and are all there, with an empty text for what the file does not say. Two
    formats have no name in common: what one says about a picture, another cannot say in the same way.

    Parameters
    ----------
    picture : Pixels
        As :func:`read` gave it.

    Returns
    -------
    dict of str to str
        DICOM: :func:`medprov_watermark.media.dicom_attributes.of`. PNG: hashes of the chunks that say how the samples
        are shown. TIFF: orientation, and hash of the colour profile. Empty for JPEG, which is never released, and for
        samples without a file. Personal data, not to be shown.
    """
    of = _ATTRIBUTES.get(picture.media_type)
    return of(picture) if of is not None else {}


def write(path: str | os.PathLike[str], array: Samples, like: Pixels, *, overwrite: bool = False) -> None:
    """Write samples losslessly, in the format of the name's suffix.

    ``.png`` and ``.tif``/``.tiff`` take any picture; ``.dcm``, and any other or no suffix when ``like`` is DICOM, give
    a copy of the DICOM file with its samples replaced (see :mod:`medprov_watermark.media.dicom`). Samples of 9 to 15
    bits go unscaled into 16 bits, so reading back gives the same array and the same content hash.

    The file appears whole or not at all, and nothing is left behind when writing fails.

    Parameters
    ----------
    path : path
    array : ndarray of uint8 or uint16
        (H, W) or (H, W, 3); for DICOM of the shape and the bits of ``like``.
    like : Pixels
        The picture that the samples come from.
    overwrite : bool
        Replace a file that is there already.

    Raises
    ------
    MediaError
        One line that names the file, the reason and what to do.
    """
    file = Path(path)
    try:
        encode = _encoder(file, like)
        check_vacant(file, overwrite)
        try:
            check_samples(array)
        except ValueError as error:
            raise MediaError(f"{error}; pass the array that marking or restoring gave") from error
        store(file, encode(np.ascontiguousarray(array), like), overwrite)
    except MediaError as error:
        raise MediaError(f"{file}: {error}") from error


def _decoder(data: bytes) -> Callable[[bytes, int], Pixels]:
    if data.startswith(png.SIGNATURE):
        return png.decode
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.decode
    # A DICOM preamble may hold a TIFF header (PS3.10 section 7.1), so DICOM is asked first.
    if data[128:132] == dicom.SIGNATURE:
        return dicom.decode
    if data.startswith(tiff.SIGNATURES):
        return tiff.decode
    raise UnknownFormatError(
        f"it is not a {_FORMATS} file, or its beginning is missing; convert the picture to one of these"
    )


def _encoder(file: Path, like: Pixels) -> Callable[[Samples, Pixels], bytes]:
    suffix = file.suffix.lower()
    if suffix == ".png":
        return png.encode
    if suffix in (".tif", ".tiff"):
        return tiff.encode
    if suffix in (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".gif"):
        raise MediaError(f"{suffix} is not written, because lossy coding breaks the integrity mark; use .png or .tif")
    if like.media_type == "application/dicom":
        return dicom.encode
    if suffix in (".dcm", ".dicom"):
        raise MediaError("only a picture that was read from DICOM can be written as DICOM; use .png or .tif")
    raise MediaError(f"the suffix {suffix or '(none)'} names no known format; use .png or .tif")
