"""The header of the integrity mark: what a reader must know before it can undo the hiding.

Layout, most significant bit first; fields in brackets are present when their flag is set::

    version 4 | own range, padding, short, pair from top: 1 each | sample bits - 1: 4 | map length 9
    frame width - 1: 10 | threshold index 5 | share of the second pass 8 | shift 8 | gain 16 | body length 16
    model 64 | [legal smallest 16, legal largest 16] | [padding 16] | [map] | CRC-32

The usual header has 180 bits. Fields that decide its length come first, so that a reader can parse any bit string.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.integrity import blocks

VERSION = 1
MAX_BODY = 2**16 - 1
"""Longest body, in bytes."""
MAX_WIDTH = 2**10
"""Widest frame, in pixels."""
MAX_GAIN = 2**16 - 1
MAX_SHIFT = 2**8 - 1
MODEL_BYTES = 8
MIN_SPAN = 15
"""Smallest distance of the legal smallest and largest sample that the carrier works with."""
THRESHOLDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)

_FLAGS = 21  # bits whose values decide the length of the header
_FIXED = 148  # bits of the fields that every header has
_CRC = 32


@dataclass(frozen=True)
class Header:
    """What the integrity mark says about itself.

    Parameters
    ----------
    width : int
        Pixels from the border inwards that hold the body, 1..1024.
    threshold : int
        Prediction errors in ``-threshold..threshold - 1`` hold a bit; one of :data:`THRESHOLDS`.
    share : int
        256ths of the bits that lie in the second lattice; 0: there was one pass only.
    legal : tuple of int
        Smallest and largest sample that the mark may write.
    padding : int or None
        Sample value that means "no pixel here".
    shift, gain : int
        The caller's, 0..255 and 0..65535.
    body_length : int
        Bytes, 0..65535.
    model : bytes
        8 bytes, the caller's.
    short : bool
        The caller's.
    pair_top : bool
        Header cells are paired from the largest legal sample downwards (see :mod:`.cells`).
    roi : bytes or None
        32 bytes, the 16 x 16 block map (see :mod:`.blocks`), None: no region of interest.
    version : int
        Of this layout.
    """

    width: int
    threshold: int
    share: int
    legal: tuple[int, int]
    padding: int | None
    shift: int
    gain: int
    body_length: int
    model: bytes
    short: bool = False
    pair_top: bool = False
    roi: bytes | None = None
    version: int = VERSION

    @property
    def span(self) -> int:
        """Largest value of the line of legal samples without the padding value, which starts at 0."""
        low, high = self.legal
        return high - low - (self.padding is not None and low <= self.padding <= high)

    def problem(self) -> str | None:
        """Say what is wrong with the fields, or None."""
        low, high = self.legal
        if not 0 <= low < high <= 0xFFFF or self.span < MIN_SPAN:
            return f"legal range {low}..{high} is not at least {MIN_SPAN + 1} values within 0..65535"
        if self.padding is not None and not 0 <= self.padding <= 0xFFFF:
            return f"padding value {self.padding} is not within 0..65535"
        if not 1 <= self.width <= MAX_WIDTH:
            return f"frame width {self.width} is not within 1..{MAX_WIDTH}"
        if self.threshold not in THRESHOLDS or self.threshold > max_threshold(self.span):
            return f"threshold {self.threshold} does not suit {self.span + 1} legal values"
        if not 0 <= self.share <= 255:
            return f"share {self.share} is not within 0..255"
        if not 0 <= self.shift <= MAX_SHIFT:
            return f"shift {self.shift} is not within 0..{MAX_SHIFT}"
        if not 0 <= self.gain <= MAX_GAIN:
            return f"gain {self.gain} is not within 0..{MAX_GAIN}"
        if not 0 <= self.body_length <= MAX_BODY:
            return f"body of {self.body_length} bytes is not within 0..{MAX_BODY}"
        if len(self.model) != MODEL_BYTES:
            return f"model prefix has {len(self.model)} bytes instead of {MODEL_BYTES}"
        if self.version != VERSION:
            return f"version {self.version} is not {VERSION}"
        if self.roi is not None and (len(self.roi) != blocks.MAP_BYTES or not any(self.roi)):
            return f"block map is empty or has not {blocks.MAP_BYTES} bytes"
        return None

    def pack(self) -> NDArray[np.uint8]:
        """Bits of the header with its CRC-32, as 0 and 1.

        Raises
        ------
        ValueError
            A field is out of its range.
        """
        problem = self.problem()
        if problem is not None:
            raise ValueError(problem)
        low, high = self.legal
        depth = (high + 1).bit_length() - 1
        own_range = low != 0 or high != 2**depth - 1
        area = np.zeros(0, np.uint8) if self.roi is None else blocks.compress(self.roi)
        fields: list[tuple[int, int]] = [
            (self.version, 4),
            (int(own_range), 1),
            (int(self.padding is not None), 1),
            (int(self.short), 1),
            (int(self.pair_top), 1),
            (0 if own_range else depth - 1, 4),
            (area.size, 9),
            (self.width - 1, 10),
            (THRESHOLDS.index(self.threshold), 5),
            (self.share, 8),
            (self.shift, 8),
            (self.gain, 16),
            (self.body_length, 16),
            (int.from_bytes(self.model, "big"), 64),
        ]
        if own_range:
            fields += [(low, 16), (high, 16)]
        if self.padding is not None:
            fields.append((self.padding, 16))
        text = "".join(f"{value:0{size}b}" for value, size in fields)
        bits = np.concatenate([np.frombuffer(text.encode(), np.uint8) - ord("0"), area])
        return np.concatenate([bits, _to_bits(_crc(bits), _CRC)])


def max_threshold(span: int) -> int:
    """Largest threshold at which no expansion can leave ``0..span`` (see :mod:`.pee`)."""
    return (span + 1) // 8


def size_of(legal: tuple[int, int], padding: int | None, roi: bytes | None) -> int:
    """Bits of a header with these fields."""
    return Header(1, 1, 0, legal, padding, 0, 0, 0, bytes(MODEL_BYTES), roi=roi).pack().size


def parse(bits: NDArray[np.uint8]) -> Header | None:
    """Read a header from the start of a bit string.

    Parameters
    ----------
    bits : uint8 array (n,)
        0 and 1, any content and length.

    Returns
    -------
    Header or None
        None unless the CRC-32 and every field are right and the fields are coded as :meth:`Header.pack` codes them.
    """
    size = _size(bits)
    if size is None or _crc(bits[: size - _CRC]) != _to_int(bits[size - _CRC : size]):
        return None
    return _fields(bits[:size])


def repair(bits: NDArray[np.uint8]) -> Header | None:
    """Read a header in which exactly one bit is wrong.

    One changed pixel in the header must not make a marked picture look unmarked. The CRC-32 keeps a Hamming distance
    of at least 4 at all header lengths, so one wrong bit is named by the CRC difference; noise passes for a damaged
    header with a probability under 2**-28 per place.

    Returns
    -------
    Header or None
        As it was before the damage.
    """
    if bits.size < _FIXED + _CRC:
        return None
    wrong_version = _to_int(bits[:4]) ^ VERSION
    if wrong_version.bit_count() > 1:
        return None
    # A wrong bit here hides the length of the header: try each.
    for place in [4 - wrong_version.bit_length()] if wrong_version else range(4, _FLAGS):
        flipped = bits.copy()
        flipped[place] ^= 1
        header = parse(flipped)
        if header is not None:
            return header
    size = _size(bits)
    if size is None:
        return None
    difference = _crc(bits[: size - _CRC]) ^ _to_int(bits[size - _CRC : size])
    wrong = _syndromes(size).get(difference)
    if wrong is None:
        return None
    fixed = bits[:size].copy()
    fixed[wrong] ^= 1
    return _fields(fixed)


def _size(bits: NDArray[np.uint8]) -> int | None:
    """Length of the header that starts here, None when it cannot be one."""
    if bits.size < _FIXED + _CRC:
        return None
    flags = _to_int(bits[:_FLAGS])
    size = _FIXED + (flags & 0x1FF) + 32 * (flags >> 16 & 1) + 16 * (flags >> 15 & 1) + _CRC
    if flags >> 17 != VERSION or size > bits.size:
        return None
    return size


def _fields(bits: NDArray[np.uint8]) -> Header | None:
    """Header of a bit string of the right length whose CRC-32 is right; None when the fields make no sense."""
    place = 0

    def take(size: int) -> int:
        nonlocal place
        place += size
        return _to_int(bits[place - size : place])

    version, own_range, padded, short, pair_top, depth, area = (take(size) for size in (4, 1, 1, 1, 1, 4, 9))
    width, index, share, shift, gain, body_length, model = (take(size) for size in (10, 5, 8, 8, 16, 16, 64))
    legal = (take(16), take(16)) if own_range else (0, 2 ** (depth + 1) - 1)
    padding = take(16) if padded else None
    roi = blocks.expand(bits[place : place + area]) if area else None
    if index >= len(THRESHOLDS) or (area and roi is None):
        return None
    header = Header(
        width=width + 1,
        threshold=THRESHOLDS[index],
        share=share,
        legal=legal,
        padding=padding,
        shift=shift,
        gain=gain,
        body_length=body_length,
        model=model.to_bytes(MODEL_BYTES, "big"),
        short=bool(short),
        pair_top=bool(pair_top),
        roi=roi,
        version=version,
    )
    # One header, one bit string: what pack() would not write is refused.
    if header.problem() is not None or not np.array_equal(header.pack(), bits):
        return None
    return header


@lru_cache(maxsize=64)
def _syndromes(size: int) -> dict[int, int]:
    """CRC difference that one wrong bit at each place of a header of this size makes."""
    zero = np.zeros(size - _CRC, np.uint8)
    base = _crc(zero)
    table = {1 << (size - 1 - place): place for place in range(size - _CRC, size)}
    for place in range(size - _CRC):
        zero[place] = 1
        table[_crc(zero) ^ base] = place
        zero[place] = 0
    return table


def _crc(bits: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.packbits(bits).tobytes())


def _to_int(bits: NDArray[np.uint8]) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big") >> (-bits.size % 8)


def _to_bits(value: int, size: int) -> NDArray[np.uint8]:
    data = np.frombuffer(value.to_bytes((size + 7) // 8, "big"), np.uint8)
    return np.unpackbits(data)[-size:]
