"""The integrity frame: an opaque body of bytes hidden in a picture so that the picture comes back exactly.

The body lies in the outer frame of one colour plane, which is as thin as the body allows. The bits are, in this order,
the bits that the header displaced, the body, and a CRC-32 over the unmarked frame (all colour planes), the unmarked
header cells and the body. Header and region of interest: :mod:`.header`, :mod:`.cells`; hiding: :mod:`.pee`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.errors import CapacityError, EmbedError
from medprov_watermark.integrity import blocks, canvas, cells, pee, planning
from medprov_watermark.integrity import header as headers
from medprov_watermark.integrity.canvas import Places, Rules, Samples
from medprov_watermark.integrity.header import Header

MIN_SIDE = 48
"""Smallest height and width of a picture, in pixels."""

_CRC = 32
_MAX_READS = 4  # headers per picture whose body is read: bounds the time that a hostile picture can take


@dataclass(frozen=True)
class Frame:
    """What the integrity frame of a picture holds.

    Parameters
    ----------
    header : Header
    body : bytes or None
        None: the frame was changed after marking.
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        The picture before hiding; as received where `body` is None.
    roi : bool array (H, W) or None
        Blocks that the body kept out of.
    reason : str
        Why `body` is None, else empty.
    """

    header: Header
    body: bytes | None
    image: Samples
    roi: NDArray[np.bool_] | None
    reason: str = ""

    @property
    def state(self) -> str:
        """``"intact"`` or ``"broken"``."""
        return "broken" if self.body is None else "intact"


def embed(
    image: Samples,
    body: bytes,
    *,
    legal: tuple[int, int],
    padding: int | None = None,
    gain: int,
    shift: int,
    model: bytes,
    roi: NDArray[np.bool_] | None = None,
    short: bool = False,
) -> Samples:
    """Hide a body in a picture.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        Height and width at least 48.
    body : bytes
        At most 65535.
    legal : tuple of int
        Smallest and largest sample of the marked picture; samples outside are left alone.
    padding : int or None
        Sample value that means "no pixel here". Such samples do not change and no other sample becomes one.
    gain, shift : int
        0..65535 and 0..255, for the caller.
    model : bytes
        8 bytes, for the caller.
    roi : bool array (H, W) or None
        Pixels that must not change. The body keeps out of all blocks of a 16 x 16 grid that hold one; the header,
        whose place a reader finds without the map, only out of the pixels themselves.
    short : bool
        For the caller.

    Returns
    -------
    array like `image`

    Raises
    ------
    CapacityError
        The body does not fit.
    EmbedError
        An argument is out of its range.
    """
    _check(image, body)
    area = None if roi is None else blocks.from_mask(_checked_roi(roi, image))
    top = int(np.iinfo(image.dtype).max)
    if legal[1] > top:
        raise EmbedError(f"legal range {legal[0]}..{legal[1]} exceeds {image.dtype}: the largest sample is {top}")
    draft = Header(1, 1, 0, legal, padding, shift, gain, len(body), model, short, roi=area)
    problem = draft.problem()
    if problem is not None:
        raise EmbedError(f"integrity mark: {problem}")
    shape = image.shape[:2]
    mask = None if area is None else blocks.to_mask(area, shape)
    size = headers.size_of(legal, padding, area)
    need = size + 8 * len(body) + _CRC
    samples = _samples(image)
    data = np.unpackbits(np.frombuffer(body, np.uint8))

    best: tuple[tuple[int, ...], int, Places, Rules, planning.Choice] | None = None
    most = 0
    placed = False
    for channel in range(samples.shape[1]):
        values = np.ascontiguousarray(samples[:, channel])
        spot = _free_site(values, shape, size, Rules(legal, padding, False, mask), roi)
        if spot is None:
            continue
        placed = True
        site, rules = spot

        def stream(width: int, site: Places = site, values: Samples = values) -> NDArray[np.uint8]:
            check = _check_bits(samples, shape, width, site, body)
            return np.concatenate([(values[site] & 1).astype(np.uint8), data, check])

        found = planning.search(planning.Task(values, shape, site, rules, need, stream, samples.size))
        if isinstance(found, int):
            most = max(most, found)
            continue
        rank = (not found.fine, found.width if found.fine else 0, found.cost)
        if best is None or rank < best[0]:
            best = (rank, channel, site, rules, found)
    if best is None:
        raise _refusal(shape, mask, need, most, size + _CRC, placed)

    _, channel, site, rules, choice = best
    header = replace(draft, width=choice.width, threshold=choice.threshold, share=choice.share, pair_top=rules.pair_top)
    result = samples.copy()
    values = np.ascontiguousarray(samples[:, channel])
    result[choice.pixels, channel] = choice.values
    now = values[site].astype(np.int32)
    other, _ = cells.partner(now, legal, padding, rules.pair_top)
    result[site, channel] = np.where((now & 1) == header.pack(), now, other)
    marked = result.reshape(image.shape)
    back = extract(marked)
    if back is None or back.body != body or back.header != header or not np.array_equal(back.image, image):
        raise EmbedError(f"integrity mark: the picture of shape {image.shape} could not be restored: report this")
    return marked


def extract(image: Samples) -> Frame | None:
    """Find the integrity frame of a picture and undo it.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        Any content.

    Returns
    -------
    Frame or None
        None: there is no header, or the array is no picture that can hold one. One changed sample does not hide a
        header, with one exception: where padding is scattered over every site (see :mod:`.cells`) and a changed sample
        of the header's site becomes padding or was padding. More changes in the header hide it.
    """
    if not _suits(image):
        return None
    samples = _samples(image)
    shape = image.shape[:2]
    first: Frame | None = None
    for header, channel, site in islice(_headers(samples, shape, damaged=False), _MAX_READS):
        frame = _read(image, header, channel, site)
        if frame.body is not None:
            return frame
        first = first or frame
    if first is not None:
        return first
    for header, _, _ in _headers(samples, shape, damaged=True):
        roi = None if header.roi is None else blocks.to_mask(header.roi, shape)
        return Frame(header, None, image, roi, "one bit of the header was changed")
    return None


def _headers(samples: Samples, shape: tuple[int, int], *, damaged: bool) -> Iterator[tuple[Header, int, Places]]:
    """Headers at all sites of all planes that suit the picture, or such with one wrong bit."""
    top = int(np.iinfo(samples.dtype).max)
    for place in cells.sites(*shape):
        for channel in range(samples.shape[1]):
            held = samples[place, channel]
            seen: list[Places] = []
            for choice in cells.choices(held):
                bits = (held[choice] & 1).astype(np.uint8)
                header = headers.repair(bits) if damaged else headers.parse(bits)
                if header is None or header.legal[1] > top:
                    continue
                if 2 * (header.width - 1) >= min(shape) or canvas.frame_size(*shape, header.width) > canvas.MAX_PIXELS:
                    continue
                size = headers.size_of(header.legal, header.padding, header.roi)
                site = place[choice][:size]
                if not any(np.array_equal(site, other) for other in seen):
                    seen.append(site)
                    yield header, channel, site


def _read(image: Samples, header: Header, channel: int, site: Places) -> Frame:
    """Undo the hiding that a header describes."""
    shape = image.shape[:2]
    samples = _samples(image)
    mask = None if header.roi is None else blocks.to_mask(header.roi, shape)
    rules = Rules(header.legal, header.padding, header.pair_top, mask)
    values = np.ascontiguousarray(samples[:, channel])
    now = values[site].astype(np.int32)
    other, valid = cells.partner(now, rules.legal, rules.padding, rules.pair_top)
    if not valid.all():
        return Frame(header, None, image, mask, "a header cell holds a value that the mark does not write")
    area = canvas.build(values, shape, header.width, site, rules)
    total = site.size + 8 * header.body_length + _CRC
    parts: list[NDArray[np.uint8]] = []
    second = total * header.share // 256
    for which, bits in ((1, second), (0, total - second)):
        if which == 1 and header.share == 0:
            continue
        part = pee.seek(area.plane, area.lattice(which, rules), header.threshold, bits)
        if part is None:
            return Frame(header, None, image, mask, "the frame holds fewer bits than the header says")
        parts.insert(0, part)
    stream = np.concatenate(parts)
    displaced, data, check = np.split(stream, [site.size, total - _CRC])
    restored = samples.copy()
    for pixels, places in zip(area.pixels, area.places, strict=True):
        restored[pixels, channel] = rules.from_line(area.plane[places])
    restored[site, channel] = np.where((now & 1) == displaced, now, other)
    body = np.packbits(data).tobytes()
    if not np.array_equal(check, _check_bits(restored, shape, header.width, site, body)):
        return Frame(header, None, image, mask, "the check over the frame fails: its pixels were changed")
    return Frame(header, body, restored.reshape(image.shape), mask)


def _free_site(
    values: Samples, shape: tuple[int, int], size: int, rules: Rules, roi: NDArray[np.bool_] | None
) -> tuple[Places, Rules] | None:
    """First site whose cells can all change, with the pairing that allows it."""
    for place in cells.sites(*shape):
        held = values[place]
        for way, choice in enumerate(cells.choices(held)):
            site = place[choice][:size]
            if site.size < size or not cells.keeps(held, way, rules.legal, rules.padding):
                continue
            if roi is not None and roi.ravel()[site].any():
                continue
            for pair_top in (False, True):
                _, valid = cells.partner(values[site].astype(np.int32), rules.legal, rules.padding, pair_top)
                if valid.all():
                    return site, replace(rules, pair_top=pair_top)
    return None


def _check_bits(samples: Samples, shape: tuple[int, int], width: int, site: Places, body: bytes) -> NDArray[np.uint8]:
    """CRC-32 over frame, header cells and body as 32 bits."""
    crc = zlib.crc32(samples[canvas.frame_pixels(*shape, width)].astype("<u2").tobytes())
    crc = zlib.crc32(body, zlib.crc32(samples[site].astype("<u2").tobytes(), crc))
    return np.unpackbits(np.frombuffer(crc.to_bytes(4, "big"), np.uint8))


def _samples(image: Samples) -> Samples:
    """Picture as (H * W, planes)."""
    return np.ascontiguousarray(image).reshape(image.shape[0] * image.shape[1], -1)


def _suits(image: Samples) -> bool:
    return (
        isinstance(image, np.ndarray)
        and image.dtype in (np.uint8, np.uint16)
        and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
        and min(image.shape[:2]) >= MIN_SIDE
    )


def _check(image: Samples, body: bytes) -> None:
    if not _suits(image):
        raise EmbedError(
            f"integrity mark: a picture of shape {getattr(image, 'shape', None)} and type "
            f"{getattr(image, 'dtype', type(image))} cannot be marked: give uint8 or uint16, (H, W) or (H, W, 3), "
            f"at least {MIN_SIDE} x {MIN_SIDE} pixels"
        )
    if len(body) > headers.MAX_BODY:
        needed, largest = 8 * len(body), 8 * headers.MAX_BODY
        raise CapacityError(f"integrity mark: body of {len(body)} bytes exceeds {headers.MAX_BODY}", needed, largest)


def _checked_roi(roi: NDArray[np.bool_], image: Samples) -> NDArray[np.bool_]:
    if roi.shape != image.shape[:2] or roi.dtype != np.bool_:
        raise EmbedError(
            f"region of interest has shape {roi.shape} and type {roi.dtype}: give bool of shape {image.shape[:2]}"
        )
    return roi


def _refusal(
    shape: tuple[int, int], mask: NDArray[np.bool_] | None, need: int, most: int, overhead: int, placed: bool
) -> CapacityError:
    """Say why nothing fits. Bits in the error are those of the body."""
    inside = "" if mask is None else f"; the region of interest covers {round(100 * float(mask.mean()))} % of it"
    advice = "mark a larger picture" if mask is None else "make the region smaller"
    needed, available = need - overhead, max(most - overhead, 0)
    name = f"{shape[0]} x {shape[1]} picture"
    if not placed:
        cover = "padding or samples without a legal neighbour" if mask is None else "the region of interest or padding"
        sites = len(cells.sites(*shape))
        message = f"{name} has no place for the integrity header: {cover} meet all {sites} sites{inside}: {advice}"
        return CapacityError(message, needed, 0)
    if available == 0 and mask is None:
        # a larger picture of the same kind has no room either
        message = f"{name} has no room for reversible marking, its samples are as irregular as noise; choose another"
        return CapacityError(message, needed, 0)
    message = f"{name} holds {available} bits of integrity mark and needs {needed}{inside}: {advice}"
    return CapacityError(message, needed, available)
