"""DICOM (PS3.3, PS3.5, PS3.10): one frame, 8 to 16 bits, MONOCHROME1/2 or colour that decodes to RGB.

Reading. PixelData becomes unsigned samples in the order of MONOCHROME2: the sample bits are cut out of their words
(PS3.5 section 8.1.1), signed samples get ``2**(bits - 1)`` added, MONOCHROME1 is inverted. The value range is always
``0 .. 2**bits - 1``, except where a PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2) makes one end of it padding.

Writing. A file with native pixels is copied byte for byte and only the sample bits change, so that a restored picture
gives the original file again. Compressed pixels and native YBR cannot be put back exactly; these files become Explicit
VR Little Endian (and RGB), every other element as it was. The SOP Instance UID is kept: the mark is reversible and
carries no new finding, and reports, presentation states and measurements that refer to the instance must go on
referring to it. That the pixels differ from the scanner's is said by the mark and its record, not by the header; for
the same reason SmallestImagePixelValue and its like are not computed again.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import FileDataset
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from medprov_watermark.errors import MediaError, NoPixelsError
from medprov_watermark.media._decompress import decompress, named
from medprov_watermark.media.files import check_size, first_line
from medprov_watermark.pixels import Pixels, Samples

SIGNATURE = b"DICM"

_GREY = ("MONOCHROME1", "MONOCHROME2")
_YBR = ("YBR_FULL", "YBR_FULL_422")
# The colour transforms of JPEG 2000 are undone by its decoders.
_DECODED_COLOUR = ("YBR_ICT", "YBR_RCT")
_QUIET = threading.RLock()
# Head of PixelData in fragments (PS3.5 section A.4). The icons of a DICOMDIR have a length and are not meant.
_ENCAPSULATED = re.compile(rb"\xe0\x7f\x10\x00O[BW]\0\0\xff\xff\xff\xff")


@dataclass(frozen=True)
class _Layout:
    """How samples lie in PixelData."""

    shape: tuple[int, ...]
    allocated: int
    bits: int
    shift: int
    signed: bool
    inverted: bool
    planar: bool
    big_endian: bool
    swapped: bool

    @property
    def largest(self) -> int:
        return (1 << self.bits) - 1

    @property
    def word(self) -> np.dtype[Any]:
        return np.dtype(f"{'>' if self.big_endian else '<'}u{self.allocated // 8}")

    def samples(self, words: NDArray[Any]) -> NDArray[np.uint16]:
        """Cut the samples out of their words and bring them into unsigned MONOCHROME2 order."""
        found: NDArray[np.uint16] = words.astype(np.uint16) >> np.uint16(self.shift) & np.uint16(self.largest)
        if self.signed:
            # Adding 2**(bits - 1) modulo 2**bits flips the sign bit.
            found ^= np.uint16(1 << (self.bits - 1))
        if self.inverted:
            np.subtract(np.uint16(self.largest), found, out=found)
        return found

    def words(self, samples: NDArray[Any]) -> NDArray[np.uint16]:
        """Undo :meth:`samples`; all bits that belong to no sample are 0."""
        found: NDArray[np.uint16] = samples.astype(np.uint16)
        if self.inverted:
            np.subtract(np.uint16(self.largest), found, out=found)
        if self.signed:
            found ^= np.uint16(1 << (self.bits - 1))
        found <<= np.uint16(self.shift)
        return found

    def extended(self, words: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Repeat the sign bit in the bits above it."""
        top = self.shift + self.bits
        above = ((1 << self.allocated) - 1) & ~((1 << top) - 1)
        return np.where(words >> (top - 1) & 1, words | above, words).astype(np.uint16)


@dataclass(frozen=True)
class _Source:
    """The file that was read, and how to put samples back into it.

    ``start`` is where the bytes of native pixels begin, None when the file must be written anew. ``unused`` holds the
    bits of each word that belong to no sample, None when they are all 0 or all copies of the sign (``extend``).
    """

    file: bytes
    layout: _Layout
    start: int | None
    unused: NDArray[np.uint16] | None
    extend: bool


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Read a DICOM file.

    Bits of a word that belong to no sample (old overlays, for instance) are left out of the samples and come back
    unchanged when the picture is written.

    Raises
    ------
    MediaError
        When the file has no picture, several frames, a transfer syntax that cannot be decoded, a kind of pixel that is
        not supported, contradictions, or is too small or too large. Damaged bytes raise whatever pydicom raises.
    """
    with without_warnings():
        refuse_deflated(data)
        dataset = dcmread(BytesIO(data))
        syntax = _syntax(dataset, data)
        layout = _layout(dataset, syntax, max_pixels)
        photometric = str(dataset.PhotometricInterpretation)
        start = None
        if syntax.is_compressed:
            words = decompress(dataset, syntax, layout.shape, data)
        elif photometric in _YBR:
            words = _native_ybr(dataset, layout, photometric)
        else:
            words, start = _native(dataset, layout)
        samples = layout.samples(words)
        unused, extend = _unused_bits(words, samples, layout)
        if unused is not None and syntax.is_compressed and syntax != RLELossless:
            raise MediaError(f"samples are larger than BitsStored {layout.bits} can hold; correct the header")
        padding, value_range = _padding(dataset, layout, samples, words)
        spacing = _spacing(dataset)
    array: Samples = samples.astype(np.uint8) if layout.bits == 8 else samples
    source = _Source(data, layout, start, unused, extend)
    array = np.ascontiguousarray(array)
    return Pixels(array, layout.bits, value_range, padding, spacing, "application/dicom", source)


def encode(array: Samples, like: Pixels) -> bytes:
    """Put samples back into the DICOM file that ``like`` was read from.

    Raises
    ------
    MediaError
        When the array does not go with that file: another shape, or a sample that needs more than its bits stored.
    """
    source = like.source
    if not isinstance(source, _Source):
        raise MediaError("only a picture that was read from DICOM can be written as DICOM; use .png or .tif")
    layout = source.layout
    if array.shape != layout.shape:
        raise MediaError(f"the array has the shape {array.shape}, the DICOM file {layout.shape}; write .png or .tif")
    if int(array.max()) > layout.largest:
        raise MediaError(f"a sample is larger than BitsStored {layout.bits} can hold; keep within the value range")
    words = layout.words(array)
    if source.extend:
        words = layout.extended(words)
    elif source.unused is not None:
        words |= source.unused
    if layout.planar:
        words = np.moveaxis(words, -1, 0)
    raw = np.ascontiguousarray(words, dtype=layout.word).tobytes()
    if source.start is not None:
        return _spliced(source.file, source.start, raw, layout.swapped)
    try:
        return _written_anew(source.file, layout, raw)
    except Exception as error:  # pydicom keeps elements unread, so what is wrong with them shows only here
        raise MediaError(
            f"an element of the DICOM header cannot be written again ({first_line(error)}); correct it"
        ) from error


def header(picture: Pixels) -> FileDataset | None:
    """The data set of the file that `picture` was read from; None where it was not read from a DICOM file."""
    if not isinstance(picture.source, _Source):
        return None
    with without_warnings():
        return dcmread(BytesIO(picture.source.file))


def unused_bits(picture: Pixels) -> bytes:
    """The words of `picture`'s file with all bits of samples cleared, little-endian; empty where nothing is left."""
    if not isinstance(picture.source, _Source) or picture.source.unused is None:
        return b""
    return picture.source.unused.astype("<u2").tobytes()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom quiet."""
    # pydicom warns about every oddity of a header. The filters are global to the process, hence the lock: two threads
    # that restored them in the wrong order would silence the application for good.
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_deflated(data: bytes) -> None:
    """Refuse a deflated file by its meta information alone."""
    # pydicom would inflate such a file without a limit before anything can be checked.
    meta = read_dataset(BytesIO(data[132:]), False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise MediaError(f"{named(DeflatedExplicitVRLittleEndian)} is not supported; convert it to Explicit VR")


def _syntax(dataset: FileDataset, data: bytes) -> UID:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise MediaError("the DICOM file does not say its transfer syntax; write it again with a complete header")
    syntax = UID(syntax)
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise MediaError("DICOM pixels that are floats are not supported; convert them to 16 bits")
        raise _no_pixels(dataset, data)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise MediaError(f"{named(syntax)} is not supported; convert the file to Explicit VR Little Endian")
    return syntax


def _no_pixels(dataset: FileDataset, data: bytes) -> MediaError:
    """Tell an image that has lost its pixels from an object that never had any."""
    if _ENCAPSULATED.search(data):
        # pydicom leaves an element out whose end is missing
        return MediaError("the DICOM file is cut off within its pixels; get it again")
    kind = UID(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if "Rows" in dataset or "Image Storage" in kind.name:
        return MediaError("the DICOM file holds no pixels, it may be cut off before them; get it again")
    return NoPixelsError("the DICOM file holds no pixels; choose an image object")


def _integer(dataset: FileDataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise MediaError(f"the DICOM file lacks {keyword}; it is not a complete image object")
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise MediaError(f"{keyword} of the DICOM file is not a number; correct the header") from error


def _layout(dataset: FileDataset, syntax: UID, max_pixels: int) -> _Layout:
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    check_size(rows, columns, max_pixels)
    frames = _integer(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise MediaError(f"the DICOM file has {frames} frames; split it, only single frames are supported")
    channels = _integer(dataset, "SamplesPerPixel", 1)
    photometric = str(dataset.get("PhotometricInterpretation", "(none)"))
    if not (channels == 1 and photometric in _GREY) and not (
        channels == 3 and photometric in ("RGB", *_YBR, *_DECODED_COLOUR)
    ):
        raise MediaError(
            f"DICOM pixels of kind {photometric} with {channels} channels are not supported; convert to grey or RGB"
        )
    allocated, bits = _integer(dataset, "BitsAllocated"), _integer(dataset, "BitsStored")
    high = _integer(dataset, "HighBit", bits - 1)
    signed = _integer(dataset, "PixelRepresentation", 0)
    if (
        allocated not in (8, 16)
        or not 8 <= bits <= allocated
        or not bits - 1 <= high < allocated
        or signed not in (0, 1)
    ):
        raise MediaError(
            f"BitsAllocated {allocated}, BitsStored {bits}, HighBit {high}, PixelRepresentation {signed} "
            "are not supported; convert the file to 8 to 16 bits stored in 8 or 16"
        )
    if high != bits - 1 and syntax.is_compressed and syntax != RLELossless:
        raise MediaError(
            f"HighBit {high} with BitsStored {bits} is not supported in {named(syntax)}; decompress the file"
        )
    native = not syntax.is_compressed
    planar = channels == 3 and photometric == "RGB" and native and _integer(dataset, "PlanarConfiguration", 0) == 1
    big_endian = native and not syntax.is_little_endian
    return _Layout(
        shape=(rows, columns) if channels == 1 else (rows, columns, channels),
        allocated=allocated,
        bits=bits,
        shift=high - bits + 1,
        signed=bool(signed),
        inverted=photometric == "MONOCHROME1",
        planar=planar,
        big_endian=big_endian,
        # Bytes that a big-endian file calls words are swapped in pairs (PS3.5 section 8.1.2).
        swapped=big_endian and allocated == 8 and dataset["PixelData"].VR == "OW",
    )


def _native(dataset: FileDataset, layout: _Layout) -> tuple[NDArray[np.uint16], int]:
    """Words in (H, W) or (H, W, 3), and where they begin in the file."""
    element = dataset["PixelData"]
    value = element.value
    size = int(np.prod(layout.shape)) * layout.allocated // 8
    raw = value[: size + size % 2] if layout.swapped else value[:size]
    if len(raw) < size or element.file_tell is None:
        raise MediaError(f"the DICOM file is cut off: {len(value)} of {size} bytes of pixels; get it again")
    if len(value) >= 2 * size:
        # a little filling behind the pixels is common, a second picture that is never looked at is not
        raise MediaError("the DICOM file holds more frames than its header says; correct the header or split it")
    if layout.swapped:
        raw = _swapped(raw)[:size]
    words = np.frombuffer(raw, layout.word).astype(np.uint16)
    if layout.planar:
        return np.moveaxis(words.reshape(3, *layout.shape[:2]), 0, -1), int(element.file_tell)
    return words.reshape(layout.shape), int(element.file_tell)


def _native_ybr(dataset: FileDataset, layout: _Layout, photometric: str) -> NDArray[np.uint16]:
    if layout.bits != layout.allocated or layout.signed or layout.big_endian:
        raise MediaError(f"DICOM pixels of kind {photometric} are supported with 8 bits only; convert them to RGB")
    array, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, raw=True)
    return np.asarray(convert_color_space(array, "YBR_FULL", "RGB"), np.uint16)


def _unused_bits(
    words: NDArray[np.uint16], samples: NDArray[np.uint16], layout: _Layout
) -> tuple[NDArray[np.uint16] | None, bool]:
    unused = words & ~np.uint16(layout.largest << layout.shift)
    if not unused.any():
        return None, False
    if layout.signed and np.array_equal(words, layout.extended(layout.words(samples))):
        return None, True
    return unused, False


def _padding(
    dataset: FileDataset, layout: _Layout, samples: NDArray[np.uint16], words: NDArray[np.uint16]
) -> tuple[int | None, tuple[int, int]]:
    """The padding sample and the value range that goes with it."""
    whole = 0, layout.largest
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "" or len(layout.shape) == 3:
        return None, whole
    first = _padding_number(dataset, "PixelPaddingValue", layout)
    if "PixelPaddingRangeLimit" in dataset and dataset.PixelPaddingRangeLimit not in (None, ""):
        last = _padding_number(dataset, "PixelPaddingRangeLimit", layout)
    else:
        last = first
    low, high = sorted((_shifted(first, layout), _shifted(last, layout)))
    if low < 0 or high > layout.largest:
        if low == high and not (words == first & 0xFFFF).any():
            return None, whole
        raise MediaError(
            f"PixelPaddingValue {first} does not fit into BitsStored {layout.bits} but occurs; correct the header"
        )
    if low == high:
        return low, whole
    if int(samples.min()) >= low and high < layout.largest:
        return _shifted(first, layout), (high + 1, layout.largest)
    if int(samples.max()) <= high and low > 0:
        return _shifted(first, layout), (0, low - 1)
    raise MediaError(f"samples lie on both sides of the padding range {first} to {last}; correct the header")


def _padding_number(dataset: FileDataset, keyword: str, layout: _Layout) -> int:
    """The value as PixelRepresentation says, whichever of US and SS the file chose for it."""
    number = _integer(dataset, keyword) & 0xFFFF
    return number - 0x10000 if layout.signed and number >= 0x8000 else number


def _shifted(number: int, layout: _Layout) -> int:
    shifted = number + 2 ** (layout.bits - 1) if layout.signed else number
    return layout.largest - shifted if layout.inverted else shifted


def _spacing(dataset: FileDataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            row, column = (float(value) for value in dataset.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if 0 < row < np.inf and 0 < column < np.inf:
            return row, column
    return None


def _swapped(raw: bytes) -> bytes:
    return np.frombuffer(raw + bytes(len(raw) % 2), np.uint16).byteswap().tobytes()


def _spliced(file: bytes, start: int, raw: bytes, swapped: bool) -> bytes:
    if swapped:
        # The byte that fills an odd length is part of a pair too: take it from the file before swapping.
        raw = _swapped(raw + _swapped(file[start : start + len(raw) + len(raw) % 2])[len(raw) :])
    return b"".join((file[:start], raw, file[start + len(raw) :]))


def _written_anew(file: bytes, layout: _Layout, raw: bytes) -> bytes:
    with without_warnings():
        dataset = dcmread(BytesIO(file))
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = raw + bytes(len(raw) % 2)
        element = dataset["PixelData"]
        element.VR = "OB" if layout.allocated == 8 else "OW"
        element.is_undefined_length = False
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in dataset:
                del dataset[keyword]
        if len(layout.shape) == 3:
            dataset.PhotometricInterpretation = "RGB"
            dataset.PlanarConfiguration = 0
        if any(element.VR is None for element in dataset.values()):
            # Against the standard, but found: implicit VR around compressed pixels. Reading each element finds its VR.
            for _ in dataset.iterall():
                pass
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=False)
    return buffer.getvalue()
