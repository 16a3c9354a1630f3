"""PNG (W3C Recommendation, Third Edition), 8 and 16 bits.

Written here over zlib, because Pillow cuts colour of 16 bits down to 8, and because the header can be checked and the
inflated size bounded before anything is decoded.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.errors import MediaError
from medprov_watermark.media.appearance import Appearance
from medprov_watermark.media.files import check_size
from medprov_watermark.pixels import Pixels, Samples

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
# First row, first column, row step, column step of the seven passes of section 8.1.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
# How the samples are shown: colours, size, orientation.
_SHOWN = (b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"pHYs", b"eXIf")
# Also what the picture is in words; all of it stays true when samples change a little.
_KEPT = (*_SHOWN, b"tEXt", b"zTXt", b"iTXt")
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
_ROWS = 256
_IDAT = 2**20


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def channels(self) -> int:
        return _CHANNELS[self.colour]

    def row_bytes(self, width: int) -> int:
        return (width * self.channels * self.depth + 7) // 8

    def passes(self) -> list[tuple[slice, slice, int, int]]:
        """Rows, columns, height and width of each pass that holds pixels."""
        if not self.interlaced:
            return [(slice(None), slice(None), self.height, self.width)]
        found = []
        for row, column, down, right in _PASSES:
            height, width = -(-(self.height - row) // down), -(-(self.width - column) // right)
            if height > 0 and width > 0:
                found.append((slice(row, None, down), slice(column, None, right), height, width))
        return found


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Read a PNG file.

    Raises
    ------
    MediaError
        When it is damaged, cut off, animated, not fully opaque, too small or too large.
    """
    header: _Header | None = None
    palette = transparent = None
    packed: list[bytes] = []
    kept: list[tuple[bytes, bytes]] = []
    for kind, content in _chunks(data):
        if header is None:
            header = _header(kind, content)
            check_size(header.height, header.width, max_pixels)
        elif kind == b"PLTE":
            palette = content
        elif kind == b"tRNS":
            transparent = content
        elif kind == b"IDAT":
            packed.append(content)
        elif kind == b"acTL" and struct.unpack(">I", content[:4])[0] > 1:
            raise MediaError("animated PNG is not supported; save one frame as a picture of its own")
        elif kind in _KEPT:
            kept.append((kind, content))
    if header is None:
        raise MediaError(_CUT_OFF)
    samples = _samples(header, b"".join(packed))
    array = _opaque(header, samples, palette, transparent)
    bits = 8 * array.dtype.itemsize
    return Pixels(np.ascontiguousarray(array), bits, (0, 2**bits - 1), None, None, "image/png", tuple(kept))


def encode(array: Samples, like: Pixels) -> bytes:
    """Turn samples into a PNG file of 8 or 16 bits, grey or RGB.

    When ``like`` came from PNG, its colour space, resolution and text chunks are kept; when it came from JPEG, its
    colour profile, resolution and orientation.
    """
    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else 3
    size = array.dtype.itemsize
    header = struct.pack(">2I5B", width, height, 8 * size, _GREY if channels == 1 else _RGB, 0, 0, 0)
    raw = array.astype(f">u{size}").view(np.uint8).reshape(height, width * channels * size)
    packed = zlib.compress(_filter(raw, channels * size), 6)
    kept: Iterable[tuple[bytes, bytes]] = ()
    if like.media_type == "image/png" and isinstance(like.source, tuple):
        kept = like.source
    elif isinstance(like.source, Appearance):
        kept = like.source.png_chunks()
    parts = [SIGNATURE, _chunk(b"IHDR", header)]
    parts += [_chunk(kind, content) for kind, content in kept]
    parts += [_chunk(b"IDAT", packed[start : start + _IDAT]) for start in range(0, len(packed), _IDAT)]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def attributes(picture: Pixels) -> dict[str, str]:
    """What the file says about how its samples are shown: SHA-256 per kind of chunk, empty for an absent one."""
    if not isinstance(picture.source, tuple):
        return {}
    found: dict[bytes, bytes] = {}
    for kind, content in picture.source:
        found[kind] = found.get(kind, b"") + content
    return {f"PNG {kind.decode()}": hashlib.sha256(found[kind]).hexdigest() if kind in found else "" for kind in _SHOWN}


_CUT_OFF = "the PNG file is cut off; get it again from where it came"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        content = data[place + 8 : end]
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(kind + content):
            name = kind.decode("ascii", "replace")
            raise MediaError(f"the PNG file is damaged (checksum of chunk {name!r}); get it again from where it came")
        if kind == b"IEND":
            return
        yield kind, content
        place = end + 4
    raise MediaError(_CUT_OFF)


def _header(kind: bytes, content: bytes) -> _Header:
    if kind != b"IHDR" or len(content) != 13:
        raise MediaError("the PNG file does not begin with a header; get it again from where it came")
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">2I5B", content)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1:
        raise MediaError("the PNG header holds values that the standard does not know; get the file again")
    return _Header(width, height, depth, colour, bool(interlaced))


def _samples(header: _Header, packed: bytes) -> Samples:
    """(H, W, channels) as stored, uint8 or uint16."""
    passes = header.passes()
    expected = sum(height * (1 + header.row_bytes(width)) for _, _, height, width in passes)
    inflater = zlib.decompressobj()
    raw = inflater.decompress(packed, expected)
    if len(raw) == expected and inflater.decompress(inflater.unconsumed_tail, 1):
        raise MediaError("the PNG file holds more samples than its header says; get it again from where it came")
    if len(raw) < expected or not inflater.eof:
        raise MediaError(_CUT_OFF)
    whole: Samples = np.empty(
        (header.height, header.width, header.channels), np.uint16 if header.depth == 16 else np.uint8
    )
    place = 0
    for rows, columns, height, width in passes:
        row_bytes = header.row_bytes(width)
        end = place + height * (1 + row_bytes)
        block = np.frombuffer(raw, np.uint8)[place:end].reshape(height, 1 + row_bytes)
        lines = _unfilter(block, max(1, header.channels * header.depth // 8))
        whole[rows, columns] = _unpack(lines, header, height, width)
        place = end
    return whole


def _unpack(lines: NDArray[np.uint8], header: _Header, height: int, width: int) -> Samples:
    shape = height, width, header.channels
    if header.depth == 16:
        return lines.view(">u2").reshape(shape).astype(np.uint16)
    if header.depth == 8:
        return lines.reshape(shape)
    bits = np.unpackbits(lines, axis=1).reshape(height, -1, header.depth)[:, :width]
    values = np.zeros((height, width), np.uint8)
    for bit in range(header.depth):
        values <<= np.uint8(1)
        values |= bits[:, :, bit]
    return values.reshape(shape)


def _opaque(header: _Header, samples: Samples, palette: bytes | None, transparent: bytes | None) -> Samples:
    """(H, W) or (H, W, 3), with palette and alpha resolved."""
    if header.colour == _PALETTE:
        return _looked_up(samples[:, :, 0], palette, transparent)
    if header.colour in (_GREY_ALPHA, _RGB_ALPHA):
        _refuse_if(bool((samples[:, :, -1] != 2**header.depth - 1).any()))
        samples = samples[:, :, :-1]
    elif transparent is not None:
        key = np.frombuffer(transparent, ">u2")
        _refuse_if(key.size != header.channels or bool((samples == key).all(axis=2).any()))
    if header.depth < 8:
        samples = samples * np.uint8(255 // (2**header.depth - 1))
    return samples[:, :, 0] if samples.shape[2] == 1 else samples


def _looked_up(indices: Samples, palette: bytes | None, transparent: bytes | None) -> Samples:
    colours = np.frombuffer(palette or b"", np.uint8)
    if colours.size == 0 or colours.size % 3 or int(indices.max()) >= colours.size // 3:
        raise MediaError("the PNG palette does not go with the pixels; get the file again from where it came")
    alpha = np.full(256, 255, np.uint8)
    given = np.frombuffer(transparent or b"", np.uint8)[:256]
    alpha[: given.size] = given
    _refuse_if(bool((alpha[indices] != 255).any()))
    return colours.reshape(-1, 3)[indices]


def _refuse_if(transparent: bool) -> None:
    if transparent:
        raise MediaError("the picture is partly transparent, and alpha cannot be marked; flatten it onto a background")


def _unfilter(block: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Undo the filters of section 9: (H, 1 + row bytes) to (H, row bytes); ``step`` is the bytes of a whole pixel."""
    kinds = block[:, 0]
    if kinds.max() > _PAETH:
        raise MediaError("the PNG file uses a filter that does not exist; get it again from where it came")
    height, width = block.shape[0], (block.shape[1] - 1) // step
    if kinds.max() <= _UP:
        return _unfilter_rows(block, step)
    # A pixel needs its left, upper and upper left neighbour, so all pixels of one anti-diagonal can be done at once.
    # In the padded picture, flattened, they lie ``width`` pixels apart.
    padded = np.zeros((height + 1, width + 1, step), np.uint8)
    padded[1:, 1:] = block[:, 1:].reshape(height, width, step)
    flat = padded.reshape(-1, step)
    columns = kinds[:, None]
    is_sub, is_up, is_average, is_paeth = (columns == kind for kind in (_SUB, _UP, _AVERAGE, _PAETH))
    for diagonal in range(height + width - 1):
        top, bottom = max(0, diagonal - width + 1), min(height - 1, diagonal)
        first = (top + 1) * (width + 1) + diagonal - top + 1
        last = first + (bottom - top) * width + 1
        left = flat[first - 1 : last - 1 : width].astype(np.int16)
        up = flat[first - width - 1 : last - width - 1 : width].astype(np.int16)
        corner = flat[first - width - 2 : last - width - 2 : width].astype(np.int16)
        rows = slice(top, bottom + 1)
        guess = np.where(is_sub[rows], left, 0)
        np.copyto(guess, up, where=is_up[rows])
        np.copyto(guess, (left + up) >> 1, where=is_average[rows])
        np.copyto(guess, _paeth(left, up, corner), where=is_paeth[rows])
        flat[first:last:width] += guess.astype(np.uint8)
    return np.ascontiguousarray(padded[1:, 1:]).reshape(height, width * step)


def _unfilter_rows(block: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    lines = block[:, 1:].copy()
    for row, kind in enumerate(block[:, 0]):
        if kind == _SUB:
            pixels = lines[row].reshape(-1, step)
            np.add.accumulate(pixels, axis=0, dtype=np.uint8, out=pixels)
        elif kind == _UP and row:
            lines[row] += lines[row - 1]
    return lines


def _paeth(left: NDArray[np.int16], up: NDArray[np.int16], corner: NDArray[np.int16]) -> NDArray[np.int16]:
    """Section 9.4: the neighbour nearest to left + up - corner, ties in this order."""
    by_left, by_up = np.abs(up - corner), np.abs(left - corner)
    by_corner = np.abs(left + up - 2 * corner)
    return np.where((by_left <= by_up) & (by_left <= by_corner), left, np.where(by_up <= by_corner, up, corner))


def _filter(raw: NDArray[np.uint8], step: int) -> bytes:
    """Give each row the filter with the smallest sum of absolute differences (section 12.7)."""
    height, row_bytes = raw.shape
    padded = np.zeros((height + 1, row_bytes + step), np.uint8)
    padded[1:, step:] = raw
    filtered = np.empty((height, 1 + row_bytes), np.uint8)
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        below = slice(rows.start + 1, rows.stop + 1)
        here, left = padded[below, step:], padded[below, :-step]
        up, corner = padded[rows, step:], padded[rows, :-step]
        guess = _paeth(left.astype(np.int16), up.astype(np.int16), corner.astype(np.int16)).astype(np.uint8)
        choices = {_NONE: here, _SUB: here - left, _UP: here - up, _PAETH: here - guess}
        costs = [
            np.abs(choice.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for choice in choices.values()
        ]
        best = np.array(list(choices))[np.argmin(costs, axis=0)]
        filtered[rows, 0] = best
        for kind, choice in choices.items():
            filtered[rows, 1:][best == kind] = choice[best == kind]
    return filtered.tobytes()
