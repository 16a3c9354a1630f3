"""What the evidence keeps of a released picture, so that changed places are found: an exact grid and ordinal features.

The exact grid is one digest per block of samples; it says which blocks are as released, to the last bit.

The ordinal features survive processing. Per cell of a fixed grid they hold the mean and an inner interval (35th to 65th
percentile, widened to hold the mean) of the luminance, in 8 bits of the picture's own range. Two pictures are compared
in one of two ways, whichever the pictures allow:

* The tone curve between them is a straight line (recompressed, resized, blurred, noise, brightness, contrast): the line
  is fitted and every cell must lie on it, within a tolerance that grows with the cell's inner interval and with the
  noise of the whole picture.
* It is any other curve (gamma, equalisation, window): only order counts. Cell A is brighter than cell B when A's
  interval lies above B's; quantiles and order are unchanged by every increasing curve. A cell differs when several
  other cells contradict it, and cells are taken away, the most contradicted first, until nothing contradicts.

Where the released picture has contrast and the other one has lost nearly all of it, the comparison has not failed: what
was released is not there. So the cells that the released picture alone lets compare are counted as well.

A picture may show only a part of the released one (a window, a turned picture whose corners are gone). Then it is
compared by the cells that it shows, as if the released picture had no others.

After D. Bhat, S. Nayar, "Ordinal Measures for Image Correspondence", IEEE PAMI 20(4), 1998, section 2 (order instead
of values).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.pixels import Samples

BLOCK = 32
"""Side of a block of the exact grid, pixels."""
DIGEST_BYTES = 8
VERSION = 1
"""Version of the ordinal features' bytes."""
CELLS = 32
"""Cells per side of the ordinal features."""
SAMPLES = 8
"""Samples per side of a cell."""
COPIED_SHARE = 0.5
"""From this share of differing cells on, the picture shows something else."""
MIN_OVERLAP = 0.25
"""Below this share of cells that could be compared in the released picture nothing is said about the content."""
SHOWN = 0.9
"""A cell at the edge of what is shown is compared by its rest, if that is at least so much of it."""
MIN_AGREEING = 2
"""Fewer agreeing informative blocks may be chance: a codec leaves a block of two grey values alone now and then."""

_HEAD = struct.Struct(">3sBH")
_MAGIC = b"MOF"
_QUANTILES = (35.0, 65.0)
_SPAN, _OFFSET = 216, 20
_TOP = 255 - _OFFSET
_TOLERANCE = 3.5
_NOISE = 1.5
_INNER = 0.8
_BENT = 2.5
_SPREAD = 2.0
_AGAINST = 6
_CONFIDENT = 12
# Of the pairs of cells whose order the released picture tells. Processing keeps over 0.2 of them in most cells, a flat
# picture with a few bright spots on the brightest places keeps 0.02.
_KEPT = 0.1
_CONTRADICTED = 0.15
# A black window over a quarter of the picture contradicts all the rest, which agrees once the window is taken away.
_COVERED = 1 / 3

Map = NDArray[np.bool_]


@dataclass(frozen=True)
class ExactComparison:
    """The exact grid against a picture.

    Parameters
    ----------
    agree : bool array (rows, columns)
    informative : bool array (rows, columns)
        Whether the block, as it now is, has enough texture that agreement cannot be chance.
    block : int
        Side of a block, pixels.
    """

    agree: Map
    informative: Map
    block: int

    @property
    def equal(self) -> bool:
        """Every block agrees."""
        return bool(self.agree.all())

    @property
    def agreeing(self) -> int:
        """Informative blocks that agree."""
        return int((self.agree & self.informative).sum())

    @property
    def mixed(self) -> bool:
        """Some blocks are surely as released, and some are not."""
        return not self.equal and self.agreeing >= MIN_AGREEING


@dataclass(frozen=True)
class Comparison:
    """The ordinal features against a picture.

    Parameters
    ----------
    differs : bool array (CELLS, CELLS)
    comparable : bool array (CELLS, CELLS)
    told : bool array (CELLS, CELLS)
        Cells that the released picture alone lets compare, as far as they are shown.
    shown : bool array (CELLS, CELLS)
        Cells that the picture shows.
    straight : bool
        Whether the tone curve between the pictures is a straight line (the more sensitive comparison).
    """

    differs: Map
    comparable: Map
    told: Map
    shown: Map
    straight: bool

    @property
    def share(self) -> float:
        """Differing part of the comparable cells, 0..1."""
        return float(self.differs.sum() / max(1, int(self.comparable.sum())))

    @property
    def overlap(self) -> float:
        """Comparable part of all cells, 0..1."""
        return float(self.comparable.mean())

    @property
    def expected(self) -> float:
        """Part of all cells that the released picture alone lets compare, 0..1; the upper bound of `overlap`."""
        return float(self.told.mean())

    @property
    def vanished(self) -> bool:
        """The released picture has contrasts and the other one has lost them: it shows something else, or nothing."""
        # in a window everything is less, and what it does not show is not lost
        return self.expected >= MIN_OVERLAP and self.overlap < MIN_OVERLAP * float(self.shown.mean())


def exact_grid(image: Samples, block: int = BLOCK) -> bytes:
    """Digest every block.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        The released picture, I2.
    block : int
        Side in pixels; blocks at the right and lower edge may be smaller.

    Returns
    -------
    bytes
        Row by row, per block the first 8 bytes of the SHA3-256 (FIPS 202) of its height, width and channels
        (little-endian uint32) and its samples (little-endian uint16).

    Raises
    ------
    ValueError
    """
    _check(image)
    if block < 1:
        raise ValueError(f"a block must have at least one pixel, not {block}")
    return b"".join(_digest(part) for row in _blocks(image, block) for part in row)


def compare_exact(grid: bytes, image: Samples, block: int = BLOCK) -> ExactComparison:
    """Compare the exact grid with a picture of the same shape.

    Parameters
    ----------
    grid : bytes
        What :func:`exact_grid` gave.
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        In the cover's orientation.
    block : int
        Side that the grid was made with.

    Raises
    ------
    ValueError
        The picture has another number of blocks than the grid.
    """
    _check(image)
    parts = _blocks(image, block)
    rows, columns = len(parts), len(parts[0])
    if len(grid) != rows * columns * DIGEST_BYTES:
        raise ValueError(f"a grid of {len(grid)} bytes does not belong to {rows} x {columns} blocks")
    found = np.frombuffer(b"".join(_digest(part) for row in parts for part in row), f"V{DIGEST_BYTES}")
    agree = (found == np.frombuffer(grid, f"V{DIGEST_BYTES}")).reshape(rows, columns)
    informative = np.array([[_informative(part) for part in row] for row in parts], np.bool_)
    return ExactComparison(agree, informative, block)


def ordinal_features(image: Samples) -> bytes:
    """The ordinal features of a picture.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        The released picture, I2.

    Returns
    -------
    bytes
        ``MOF``, version, the noise unit (1/256 of a level, big-endian uint16), then mean, lower and upper end of the
        inner interval of every cell, row by row, one byte each.

    Raises
    ------
    ValueError
    """
    cells, _ = _cells(image)
    planes = np.stack([cells.mean, cells.low, cells.high]) + _OFFSET
    unit = min(65535, round(cells.unit * 256))
    return _HEAD.pack(_MAGIC, VERSION, unit) + planes.astype(np.uint8).tobytes()


def compare(features: bytes, image: Samples, shown: Map | None = None) -> Comparison:
    """Compare the ordinal features with a picture of any size and tone curve.

    Parameters
    ----------
    features : bytes
        What :func:`ordinal_features` gave.
    image : uint8 or uint16 array (H, W) or (H, W, 3)
        In the cover's orientation and frame.
    shown : bool array (H, W) or None
        Which of its pixels show something of the cover; None: all. The samples of the others count for nothing, and a
        cell that is not nearly wholly shown is neither comparable nor differing nor missed.

    Raises
    ------
    ValueError
        The features are truncated or of another version, or `shown` has another shape.
    """
    whole, (found, seen) = _parse(features), _cells(image, shown)
    if seen.sum() <= _CONFIDENT:
        nothing = np.zeros((CELLS, CELLS), np.bool_)
        return Comparison(nothing, nothing, nothing, seen.reshape(CELLS, CELLS), False)
    released, found = whole.of(seen), found.of(seen)
    if shown is not None:
        # the levels of a part of the range would be taken for coarser than they are
        found = found.shrunk(_line(released.mean, found.mean)[0])
    own = max(_TOLERANCE, _NOISE * released.unit)
    noise = max(own, _NOISE * found.unit)
    contradicted, confident = _pairs((released.mean, released.mean), (found.mean, found.mean), noise)
    promised = _ordered((released.mean, released.mean), own).sum(axis=1)
    told, pairs = promised >= _CONFIDENT, confident.sum(axis=1)
    comparable = (pairs >= _CONFIDENT) & (pairs >= _KEPT * promised)
    elsewhere = comparable & (contradicted.sum(axis=1) > _CONTRADICTED * pairs)
    line = _straight(released.mean, found.mean)

    def placed(cells: Map) -> Map:
        out = np.zeros(CELLS * CELLS, np.bool_)
        out[seen] = cells
        return out.reshape(CELLS, CELLS)

    if _most(elsewhere, comparable, COPIED_SHARE) and _most(_peeled(contradicted), comparable, _COVERED):
        differs = placed(elsewhere)
    else:
        local = _off_line(released, found, *line, noise) if line else _out_of_order(released, found, 0.75 * noise)
        differs = _clustered(placed(local & comparable))
    return Comparison(differs, placed(comparable), placed(told), seen.reshape(CELLS, CELLS), line is not None)


def levels(features: bytes) -> NDArray[np.float64]:
    """Mean level of every cell of the released picture, float64 (CELLS, CELLS).

    Raises
    ------
    ValueError
        The features are truncated or of another version.
    """
    return _parse(features).mean.reshape(CELLS, CELLS)


def sampled(image: NDArray[np.generic]) -> NDArray[np.float32]:
    """Luminance, averaged to SAMPLES x SAMPLES samples a cell, float32 (CELLS * SAMPLES, CELLS * SAMPLES)."""
    side = CELLS * SAMPLES
    return _average(_average(image, side).T, side).T


def tone_curve(
    released: NDArray[np.float64], found: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The increasing curve between the levels of two pictures.

    Parameters
    ----------
    released, found : float64 array (n,)
        Of the same cells.

    Returns
    -------
    tuple of float64 array
        Released level, found level and weight of groups of cells of like level: medians, made increasing.
    """
    order = np.argsort(released, kind="stable")
    before, answers = released[order], found[order]
    groups: list[list[float]] = []
    sizes: list[int] = []
    start, total = 0, before.size
    x: list[float] = []
    while start < total:
        end = int(np.searchsorted(before, before[min(total, start + 16) - 1], side="right"))
        end = total if total - end < 16 else end
        x.append(float(np.median(before[start:end])))
        groups.append([float(np.median(answers[start:end])), float(end - start)])
        sizes.append(1)
        # pool adjacent violators: M. Ayer et al., Annals of Mathematical Statistics 26(4), 1955
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (value, weight), size = groups.pop(), sizes.pop()
            whole = groups[-1][1] + weight
            groups[-1] = [(groups[-1][0] * groups[-1][1] + value * weight) / whole, whole]
            sizes[-1] += size
        start = end
    y = np.repeat([value for value, _ in groups], sizes)
    w = np.repeat([weight / size for (_, weight), size in zip(groups, sizes, strict=True)], sizes)
    return np.array(x), y, w


def cell_edges(length: int) -> NDArray[np.int64]:
    """Pixel rows (or columns) at which the cells of an axis begin, and its end; int64 (CELLS + 1,)."""
    return np.asarray(np.rint(np.arange(CELLS + 1) * (length / CELLS)), np.int64)


@dataclass(frozen=True)
class _Cells:
    """Levels of all cells, float64 (CELLS * CELLS,), of one grey value of an 8-bit picture, and of black and white."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    unit: float
    range: tuple[float, float] = (-np.inf, np.inf)

    def of(self, chosen: Map) -> _Cells:
        """Some of the cells."""
        return replace(self, mean=self.mean[chosen], low=self.low[chosen], high=self.high[chosen])

    def shrunk(self, factor: float) -> _Cells:
        """The levels in steps that are larger by a factor, if it is above 1."""
        by = max(1.0, factor)
        ends = self.range[0] / by, self.range[1] / by
        return _Cells(self.mean / by, self.low / by, self.high / by, self.unit / by, ends)


def _cells(image: Samples, shown: Map | None = None) -> tuple[_Cells, Map]:
    """The cells of a picture, and which of them it shows, bool (CELLS * CELLS,)."""
    _check(image)
    if shown is not None and shown.shape != image.shape[:2]:
        raise ValueError(f"a picture of shape {image.shape} cannot be shown where {shown.shape} pixels are")
    tiles = _tiles(sampled(image))
    seen = np.ones(CELLS * CELLS, np.bool_)
    if shown is not None:
        part = _tiles(sampled(shown.astype(np.uint8)))
        seen = np.asarray(part.mean(axis=1) >= SHOWN)
        tiles = _rest(image, shown, part)
    used = tiles[seen] if seen.any() else tiles
    bottom, top = (float(q) for q in np.percentile(used, (1, 99)))
    scale = _SPAN / max(top - bottom, 8.0)
    mean = tiles.mean(axis=1, dtype=np.float64)
    low, high = np.percentile(tiles, _QUANTILES, axis=1)

    def level(values: NDArray[np.float64]) -> NDArray[np.float64]:
        levels = np.rint((values - bottom) * scale)
        # only the outer 1 % on either side can be clipped, and of a part nothing is
        return np.clip(levels, -_OFFSET, _TOP) if shown is None else levels

    planes = level(mean), level(np.minimum(low, mean)), level(np.maximum(high, mean))
    if image.dtype != np.uint8:
        return _Cells(*planes, 0.0), seen
    return _Cells(*planes, scale, (-bottom * scale, (255 - bottom) * scale)), seen


def _tiles(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples of each cell, (CELLS * CELLS, SAMPLES**2)."""
    return small.reshape(CELLS, SAMPLES, CELLS, SAMPLES).transpose(0, 2, 1, 3).reshape(CELLS * CELLS, -1)


def _rest(image: Samples, shown: Map, part: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples of each cell from what is shown alone; a sample that is not shown gets the mean of its cell's."""
    black = np.where(shown[..., None] if image.ndim == 3 else shown, image, image.dtype.type(0))
    sums = _tiles(sampled(black))
    whole = sums.sum(axis=1, keepdims=True) / np.maximum(part.sum(axis=1, keepdims=True), 1e-6)
    return np.asarray(np.where(part > 0.5, sums / np.maximum(part, 0.5), whole), np.float32)


def _parse(features: bytes) -> _Cells:
    if len(features) != _HEAD.size + 3 * CELLS * CELLS:
        raise ValueError(f"ordinal features: {len(features)} bytes instead of {_HEAD.size + 3 * CELLS * CELLS}")
    magic, version, unit = _HEAD.unpack_from(features)
    if magic != _MAGIC or version != VERSION:
        raise ValueError(f"ordinal features: not of version {VERSION}")
    planes = np.frombuffer(features, np.uint8, offset=_HEAD.size).astype(np.float64).reshape(3, -1) - _OFFSET
    if np.any(planes[1] > planes[2]):
        raise ValueError("ordinal features: an interval ends before it begins")
    return _Cells(planes[0], planes[1], planes[2], unit / 256)


def _average(samples: NDArray[np.generic], count: int) -> NDArray[np.float32]:
    """Luminance averaged over `count` equal stretches of the first axis, whole and broken pixels alike."""
    length = samples.shape[0]
    edges = np.arange(count + 1) * (length / count)
    out = np.empty((count, samples.shape[1]), np.float32)
    for row, (start, end) in enumerate(pairwise(edges)):
        first, last = int(start), min(length, int(np.ceil(end)))
        pixels = np.arange(first, last)
        weight = np.minimum(pixels + 1, end) - np.maximum(pixels, start)
        part = np.asarray(samples[first:last], np.float32)
        if part.ndim == 3:
            part = part @ np.array([0.299, 0.587, 0.114], np.float32)
        out[row] = (weight / weight.sum()).astype(np.float32) @ part
    return out


def _straight(released: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float] | None:
    """Slope and offset of the tone curve, or None where it is not a straight line."""
    slope, offset, apart = _line(released, found)
    if apart.size and slope > 0.3 and np.quantile(apart, 0.9) <= _BENT and apart.max() <= 3 * _BENT:
        return slope, offset
    return None


def _line(released: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float, NDArray[np.float64]]:
    """Slope and offset of the line next to the tone curve, and how far groups of cells lie from it (none: no line)."""
    x, y, weight = tone_curve(released, found)
    slope, offset, apart = 1.0, 0.0, np.zeros_like(x)
    if x.size < 3:
        return slope, offset, apart[:0]
    factor = weight
    for _ in range(5):
        total = factor.sum()
        cx, cy = float(factor @ x / total), float(factor @ y / total)
        slope = float(factor @ ((x - cx) * (y - cy)) / max(1e-9, float(factor @ np.square(x - cx))))
        offset = cy - slope * cx
        apart = np.abs(slope * x + offset - y)
        # a changed place must not bend the line
        factor = weight / np.maximum(apart, 1.0)
    return slope, offset, apart


def _off_line(released: _Cells, found: _Cells, slope: float, offset: float, noise: float) -> Map:
    # nothing can be darker than black or brighter than white
    expected = np.clip(slope * released.mean + offset, *found.range)
    signed = found.mean - expected
    # a clipped level is only a bound: what lies on its open side may well be on the line
    above = (released.mean >= _TOP) | (found.mean <= -_OFFSET)
    below = (released.mean <= -_OFFSET) | (found.mean >= _TOP)
    apart = np.abs(np.where(((signed > 0) & above) | ((signed < 0) & below), 0.0, signed))
    tolerance = max(noise, _SPREAD * float(np.quantile(apart, 0.9)))
    inner = slope * (released.high - released.low) + (found.high - found.low)
    return np.asarray(apart > tolerance * (1 + slope) / 2 + _INNER / 2 * inner, np.bool_)


def _out_of_order(released: _Cells, found: _Cells, margin: float) -> Map:
    return _peeled(_pairs((released.low, released.high), (found.low, found.high), margin)[0])


def _peeled(contradicted: Map) -> Map:
    """Cells to take away, the most contradicted first, until few contradictions are left; bool (n,)."""
    contradicted = contradicted.copy()
    count = contradicted.sum(axis=1)
    out = np.zeros(count.size, np.bool_)
    while True:
        worst = int(count.argmax())
        if count[worst] < _AGAINST:
            return out
        out[worst] = True
        count -= contradicted[worst]
        contradicted[worst] = False
        contradicted[:, worst] = False
        count[worst] = 0


def _pairs(
    released: tuple[NDArray[np.float64], NDArray[np.float64]],
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    margin: float,
) -> tuple[Map, Map]:
    """Which pairs of cells stand in opposite order, and which stand in a sure order in both; bool (n, n) each."""
    opposite = _above(released, margin) & _above(found, margin).T
    return opposite | opposite.T, _ordered(released, margin) & _ordered(found, margin)


def _above(cells: tuple[NDArray[np.float64], NDArray[np.float64]], margin: float) -> Map:
    return np.asarray(cells[0][:, None] > cells[1][None] + margin, np.bool_)


def _ordered(cells: tuple[NDArray[np.float64], NDArray[np.float64]], margin: float) -> Map:
    """Which pairs of cells stand in a sure order; bool (n, n)."""
    above = _above(cells, margin)
    return np.asarray(above | above.T, np.bool_)


def _most(cells: Map, comparable: Map, share: float) -> bool:
    """Whether so large a share of the comparable cells is among `cells`."""
    return bool(comparable.any() and (cells & comparable).sum() >= share * comparable.sum())


def _clustered(cells: Map) -> Map:
    """Only the cells that touch another one: a single cell may be a hard edge that processing moved."""
    padded = np.pad(cells, 1).astype(np.int64)
    around = sum(np.roll(padded, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    return np.asarray(cells & (np.asarray(around)[1:-1, 1:-1] > 1), np.bool_)


def _blocks(image: Samples, block: int) -> list[list[Samples]]:
    height, width = image.shape[:2]
    return [[image[y : y + block, x : x + block] for x in range(0, width, block)] for y in range(0, height, block)]


def _digest(part: Samples) -> bytes:
    shape = struct.pack("<3I", part.shape[0], part.shape[1], 1 if part.ndim == 2 else 3)
    return hashlib.sha3_256(shape + np.ascontiguousarray(part, "<u2").tobytes()).digest()[:DIGEST_BYTES]


def _informative(part: Samples) -> bool:
    """Whether a quarter of all neighbouring samples differ and eight values occur."""
    if part.shape[0] < 2 or part.shape[1] < 2:
        return False
    changes = (part[:, 1:] != part[:, :-1]).mean() + (part[1:] != part[:-1]).mean()
    return bool(changes >= 0.5 and np.unique(part).size >= 8)


def _check(image: Samples) -> None:
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype not in (np.uint8, np.uint16) or not fits or image.size == 0:
        raise ValueError(f"a picture is (H, W) or (H, W, 3) of uint8 or uint16, not {image.shape} of {image.dtype}")
