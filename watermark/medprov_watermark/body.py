"""The body of W2: what restoration and verification need, as bytes.

Layout, big-endian (version 2)::

    1   version
    1   flags: 1 = long form, 2 = signed, 4 = region map
    12  payload
    2   base (see :class:`medprov_watermark.coupling.Frozen`)
    2   sum of the pilots' amplitudes, in quarters
    104 amplitude codes of the 416 code carriers, two bits each
    4   cover check: first bytes of SHA3-256 of the content hash of the cover
    var exceptions: count as LEB128, then if any one byte Rice parameter and the Rice-coded gaps, padded with zeros
    var region map, see :mod:`medprov_watermark.region`   (region map)
    32  salted cover hash                          (long form)
    65  signature                                  (signed)
    8   mark check: first bytes of SHA3-256 of the settings, all the above, and the content hash of I1

The header of the frame holds gain, shift, legal range, padding value, block map and model. With a block map, W1 leaves
the cells of the region map alone; without one, it is attenuated there.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark import region as regions
from medprov_watermark.payload import Payload

VERSION = 2
MARK_CHECK = 8
COVER_CHECK = 4
SIGNATURE = 65
_LONG, _SIGNED, _REGION = 1, 2, 4
_CODE_BITS = 2
_FIXED = struct.Struct(f">BB12sHH{cr.CODE * _CODE_BITS // 8}s4s")
_MAX_RICE = 30


class BodyError(ValueError):
    """The bytes are no body of this version."""


@dataclass(frozen=True)
class Body:
    """Fields of the body; see the module's docstring.

    Parameters
    ----------
    payload : Payload
    base : int
    pilots : int
    codes : uint8 array (CODE,)
    cover_check : bytes
    exceptions : int64 array (n,)
    cover_hash : bytes or None
        None in the short form.
    signature : bytes or None
    region : bool array (n, n) or None
        Cells in which W1 is absent or attenuated.
    """

    payload: Payload
    base: int
    pilots: int
    codes: NDArray[np.uint8]
    cover_check: bytes
    exceptions: NDArray[np.int64]
    cover_hash: bytes | None
    signature: bytes | None
    region: regions.Cells | None = None

    def unsigned(self) -> bytes:
        """All bytes before the signature, which the signature covers."""
        flags = (_LONG if self.cover_hash is not None else 0) | (_SIGNED if self.signature is not None else 0)
        area = b""
        if self.region is not None:
            flags, area = flags | _REGION, regions.pack(self.region)
        bits = np.unpackbits(self.codes.astype(np.uint8)[:, None], axis=1)[:, -_CODE_BITS:]
        packed = np.packbits(bits).tobytes()
        head = _FIXED.pack(VERSION, flags, self.payload.data, self.base, self.pilots, packed, self.cover_check)
        return head + pack_positions(self.exceptions) + area + (self.cover_hash or b"")

    def pack(self, settings: bytes, marked_hash: bytes) -> bytes:
        """The body with its check.

        Parameters
        ----------
        settings : bytes
            The header's settings, see :func:`settings_bytes`.
        marked_hash : bytes
            Content hash of I1.
        """
        raw = self.unsigned() + (self.signature or b"")
        return raw + mark_check(settings, raw, marked_hash)


def mark_check(settings: bytes, raw: bytes, marked_hash: bytes) -> bytes:
    """The check over settings, body and I1."""
    return hashlib.sha3_256(b"medprov mark check 1" + settings + raw + marked_hash).digest()[:MARK_CHECK]


def settings_bytes(
    gain: int, shift: int, legal: tuple[int, int], padding: int | None, roi: bytes | None, model: bytes
) -> bytes:
    """The settings that the frame's header carries, in a fixed layout."""
    pad = 0xFFFFFFFF if padding is None else padding
    return struct.pack(">HBIII8sB", gain, shift, *legal, pad, model, roi is not None) + (roi or b"")


def rest_hash(body: Body, settings: bytes) -> bytes:
    """What the signature says about the bytes of W2 that have no field of their own."""
    return hashlib.sha3_256(
        b"medprov rest 1" + settings + replace(body, signature=bytes(SIGNATURE)).unsigned()
    ).digest()


def parse(data: bytes) -> tuple[Body, bytes, bytes]:
    """Take a body apart.

    Returns
    -------
    body : Body
    raw : bytes
        What the mark check covers.
    check : bytes

    Raises
    ------
    BodyError
    """
    if len(data) < _FIXED.size + 1 + MARK_CHECK:
        raise BodyError(f"{len(data)} bytes are too few")
    raw, check = data[:-MARK_CHECK], data[-MARK_CHECK:]
    version, flags, payload, base, pilots, packed, cover_check = _FIXED.unpack_from(raw)
    if version != VERSION or flags & ~(_LONG | _SIGNED | _REGION):
        raise BodyError(f"version {version}, flags {flags} are not known")
    exceptions, place = unpack_positions(raw, _FIXED.size)
    cover_hash = signature = region = None
    if flags & _REGION:
        try:
            region, place = regions.unpack(raw, place)
        except regions.RegionError as error:
            raise BodyError(str(error)) from error
    if flags & _LONG:
        cover_hash, place = raw[place : place + 32], place + 32
    if flags & _SIGNED:
        signature, place = raw[place : place + SIGNATURE], place + SIGNATURE
    if place != len(raw):
        raise BodyError(f"{len(raw)} bytes where {place} are meant")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).reshape(cr.CODE, _CODE_BITS)
    codes = np.packbits(np.pad(bits, ((0, 0), (8 - _CODE_BITS, 0))), axis=1)[:, 0]
    body = Body(Payload.from_data(payload), base, pilots, codes, cover_check, exceptions, cover_hash, signature, region)
    if body.unsigned() + (signature or b"") != raw:
        raise BodyError("the bytes are not in their one canonical form")
    return body, raw, check


def pack_positions(positions: NDArray[np.int64]) -> bytes:
    """Ascending positions as Rice-coded gaps (R. Rice, JPL 79-22, 1979)."""
    count = len(positions)
    head = bytearray()
    n = count
    while n > 127:
        head.append(n & 127 | 128)
        n >>= 7
    head.append(n)
    if not count:
        return bytes(head)
    gaps = np.diff(positions, prepend=-1) - 1
    sizes = [int((gaps >> k).sum()) + count * (k + 1) for k in range(_MAX_RICE)]
    k = int(np.argmin(sizes))
    bits: list[NDArray[np.uint8]] = []
    for gap in gaps.tolist():
        bits.append(np.ones(gap >> k, np.uint8))
        bits.append(np.array([0, *(gap >> i & 1 for i in range(k - 1, -1, -1))], np.uint8))
    return bytes(head) + bytes([k]) + np.packbits(np.concatenate(bits)).tobytes()


def unpack_positions(data: bytes, place: int) -> tuple[NDArray[np.int64], int]:
    """Read what :func:`pack_positions` wrote; returns the positions and the place behind them.

    Raises
    ------
    BodyError
    """
    count = shift = 0
    while True:
        if place >= len(data) or shift > 28:
            raise BodyError("exception list is cut off")
        count |= (data[place] & 127) << shift
        shift += 7
        place += 1
        if data[place - 1] < 128:
            break
    if count == 0:
        return np.zeros(0, np.int64), place
    if place >= len(data) or data[place] >= _MAX_RICE or count > 8 * len(data):
        raise BodyError("exception list is malformed")
    k = data[place]
    place += 1
    bits = np.unpackbits(np.frombuffer(data[place:], np.uint8))
    zeros = np.flatnonzero(bits == 0)
    positions = np.empty(count, np.int64)
    at, last = 0, -1
    for i in range(count):
        z = np.searchsorted(zeros, at)
        if z >= len(zeros) or zeros[z] + k >= len(bits):
            raise BodyError("exception list is cut off")
        stop = int(zeros[z])
        low = int("".join(map(str, bits[stop + 1 : stop + 1 + k])) or "0", 2)
        last += 1 + ((stop - at) << k) + low
        positions[i] = last
        at = stop + 1 + k
    return positions, place + -(-at // 8)
