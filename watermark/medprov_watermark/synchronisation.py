"""Marks in pictures that were turned by any angle or cut out of larger ones: search by the pilots.

The extractor removes the host once per picture (and per size, for windows); what is left is correlated with the pilots
of all eight orientations at every angle, or at every place of a window by one Fourier transform each. The best few
hypotheses are refined on the same maps, and only then is the picture itself brought into the cover's frame and read.

Template registration after S. Pereira, T. Pun, "Robust Template Matching for Affine Resistant Image Watermarks", IEEE
Trans. Image Processing 9(6), 2000; the search over places by Fourier correlation after T. Kalker et al., "A Video
Watermarking System for Broadcast Monitoring", SPIE 3657, 1999.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import carriers as cr
from medprov_watermark.detection import Detection, flat, pilot_score
from medprov_watermark.extractor import F32, Reader, shrunk
from medprov_watermark.geometry import ALL, Geometry, Matrix, Warp, compose, unit_matrix
from medprov_watermark.workers import each

ANGLE_STEP = 0.75
"""Degrees between two angles that are tried."""
SCALE_STEP = 0.012
"""Relative difference between two sizes that are tried of a window's whole picture."""
LEAST_WINDOW = 0.58
"""Smallest side of a window that is searched for, as a share of the cover's side."""
CANDIDATES = 3
"""Hypotheses that are refined and read."""
PASTED = ((0, 0), (4, 4), (0, 4), (4, 0))
"""Places (row, column) at which the extractor sees a window: its answer depends on the place modulo 8."""
_ROUGH, _LOOKED = 24, 8
_APART = 0.02
_STEPS = (("angle", math.radians(0.3)), ("scale", 0.005), ("x", 0.002), ("y", 0.002))
_ON_MAP, _ON_PICTURE = (1.0, 1.0, 0.5, 0.25), (1.0, 0.5)
_SIZE = cr.SIZE
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class _Hypothesis:
    """Where the cover's frame lies.

    `matrix` goes from the cover's unit square to the unit square of `white`, in which `centre` (x, y) is the middle of
    what the picture at hand shows; `onward` goes from there to its pixels, and the cover's frame is `height` x `width`
    of these.
    """

    score: float
    matrix: Matrix
    white: F32
    onward: Matrix
    height: float
    width: float
    centre: tuple[float, float] = (0.5, 0.5)

    @property
    def frame(self) -> Matrix:
        """From the cover's unit square to pixels of the picture at hand."""
        return compose(self.onward, self.matrix)


Look = Callable[[Iterable[_Hypothesis]], list[_Hypothesis]]


def rotated(grey: F32, reader: Reader) -> Iterator[Detection]:
    """Marks turned by any angle, on the same canvas or on one that was enlarged to hold the corners.

    Parameters
    ----------
    grey : float32 array (H, W)

    Yields
    ------
    Detection
        At most CANDIDATES, the best first.
    """
    picture = shrunk(grey)
    if flat(picture):
        return
    white = reader.extractor.white(picture[None])[0]
    height, width = grey.shape
    orientations, reach = _orientations(height, width)
    frames: list[tuple[Matrix, float, float]] = []
    for degrees in np.arange(ANGLE_STEP, reach, ANGLE_STEP).tolist():
        for h, w in _canvases(degrees, height, width):
            frames.append((_turn(degrees, (h, w), (height, width)), h, w))
    spectra = np.concatenate([reader.extractor.spectra(_moved(white, m)[None]) for m, _, _ in frames])
    scores = _oriented_scores(spectra, reader, orientations)
    onward: Matrix = (float(width), 0.0, 0.0, 0.0, float(height), 0.0)
    found = []
    for place in np.argsort(scores, axis=None)[::-1][:_ROUGH].tolist():
        i, o = divmod(place, len(orientations))
        matrix, h, w = frames[i]
        matrix = compose(matrix, unit_matrix(orientations[o]))
        h, w = (w, h) if orientations[o].turns % 2 else (h, w)
        found.append(_Hypothesis(float(scores[i, o]), matrix, white, onward, h, w))
    look = _on_picture(grey, reader)
    for hypothesis in _ranked(look(_apart(_on_map(reader)(found))[:_LOOKED]))[:CANDIDATES]:
        (fine,) = look([_refined(hypothesis, _on_map(reader), _ON_MAP)])
        yield _detection(fine, reader, scores.size)


def turned(grey: F32, reader: Reader) -> Iterator[Detection]:
    """Marks turned by any angle on the same canvas, for which the extractor looks at the picture at every angle.

    A map does not turn quite as its picture does, and faint marks are lost on it; this takes some seconds more.

    Parameters
    ----------
    grey : float32 array (H, W)

    Yields
    ------
    Detection
        At most CANDIDATES, the best first.
    """
    if flat(shrunk(grey)):
        return
    height, width = grey.shape
    orientations, reach = _orientations(height, width)
    onward: Matrix = (float(width), 0.0, 0.0, 0.0, float(height), 0.0)
    angles = [_turn(d, grey.shape, grey.shape) for d in np.arange(ANGLE_STEP, reach, ANGLE_STEP).tolist()]
    seen = each(lambda matrix: framed(grey, compose(onward, matrix)), angles)
    white = reader.extractor.white(np.stack([picture for picture, _ in seen])) * np.stack([shown for _, shown in seen])
    scores = _oriented_scores(reader.extractor.spectra(white), reader, orientations)
    found = []
    for place in np.argsort(scores, axis=None)[::-1][:_ROUGH].tolist():
        i, o = divmod(place, len(orientations))
        matrix = compose(angles[i], unit_matrix(orientations[o]))
        found.append(_Hypothesis(float(scores[i, o]), matrix, white[i], onward, height, width))
    look = _on_picture(grey, reader)
    for hypothesis in _ranked(look(_apart(found)[:CANDIDATES])):
        yield _detection(_refined(hypothesis, look, _ON_PICTURE), reader, scores.size)


def windows(grey: F32, reader: Reader, places: Sequence[tuple[int, int]] = PASTED) -> Iterator[Detection]:
    """Marks in a window of unknown place and size, cut out of a picture of the same proportions.

    Parameters
    ----------
    grey : float32 array (H, W)
    places : sequence of (int, int)
        Rows and columns at which the extractor is shown the window.

    Yields
    ------
    Detection
        One for each of the places, then the best CANDIDATES of all.
    """
    picture = shrunk(grey)
    if flat(picture):
        return
    scales = np.exp(np.arange(math.log(LEAST_WINDOW), math.log(0.995), SCALE_STEP))
    sides = np.unique(np.rint(scales * _SIZE).astype(int)).tolist()
    parts = [shrunk(grey, side) for side in sides]
    templates = np.fft.rfft2(np.stack([g.apply(_pilot_template(reader)) for g in ALL]))
    tries = sum((_SIZE - side + 1) ** 2 for side in sides) * len(ALL) * len(places)
    look, best = _on_picture(grey, reader), []
    for place in places:
        whites = _pasted(parts, place, reader)
        found = [
            h for part, white in zip(parts, whites, strict=True) for h in _fitted(white, len(part), grey, templates)
        ]
        seen = _ranked(look(_apart(_on_map(reader)(_ranked(found)[:_ROUGH]))[:_LOOKED]))
        (fine,) = look([_refined(seen[0], _on_map(reader), _ON_MAP)])
        yield _detection(fine, reader, tries)
        best += [fine, *seen[1:]]
    for hypothesis in _apart(best)[:CANDIDATES]:
        yield _detection(_refined(hypothesis, look, _ON_PICTURE), reader, tries)


def _pasted(parts: Sequence[F32], place: tuple[int, int], reader: Reader) -> F32:
    """What the extractor makes of a window of each size at `place`, moved to the upper left corner."""
    canvases = np.empty((len(parts), _SIZE, _SIZE), np.float32)
    corners = []
    for canvas, part in zip(canvases, parts, strict=True):
        side = len(part)
        y, x = (min(p, _SIZE - side) for p in place)
        canvas[:] = part.mean()
        canvas[y : y + side, x : x + side] = part
        corners.append((y, x))
    out = np.zeros_like(canvases)
    for white, map_, part, (y, x) in zip(out, reader.extractor.white(canvases), parts, corners, strict=True):
        side = len(part)
        white[:side, :side] = map_[y : y + side, x : x + side]
    return out


def _fitted(white: F32, side: int, grey: F32, templates: NDArray[np.complexfloating]) -> Iterator[_Hypothesis]:
    """Where a window of one size fits best in each orientation."""
    room = _SIZE - side + 1
    maps = np.fft.irfft2(templates * np.conj(np.fft.rfft2(white)), s=(_SIZE, _SIZE))
    maps = maps[:, :room, :room] / max(float(maps.std()), 1e-9)
    height, width = (n * _SIZE / side for n in grey.shape)
    onward: Matrix = (width, 0.0, 0.0, 0.0, height, 0.0)
    for geometry, scores in zip(ALL, maps, strict=True):
        top, left = divmod(int(scores.argmax()), room)
        matrix = compose((1.0, 0.0, -left / _SIZE, 0.0, 1.0, -top / _SIZE), unit_matrix(geometry))
        frame = (width, height) if geometry.turns % 2 else (height, width)
        yield _Hypothesis(float(scores[top, left]), matrix, white, onward, *frame)


def _ranked(found: Iterable[_Hypothesis]) -> list[_Hypothesis]:
    return sorted(found, key=lambda h: -h.score)


def _apart(found: Iterable[_Hypothesis]) -> list[_Hypothesis]:
    """The best first, without those that nearly repeat a better one."""
    kept: list[_Hypothesis] = []
    for hypothesis in _ranked(found):
        near = _APART * max(hypothesis.height, hypothesis.width)
        if all(_distance(hypothesis.frame, k.frame) >= near for k in kept):
            kept.append(hypothesis)
    return kept


def _on_map(reader: Reader) -> Look:
    """Scores of hypotheses from the map that each of them has."""

    def look(found: Iterable[_Hypothesis]) -> list[_Hypothesis]:
        return [replace(h, score=_score(h, reader)) for h in found]

    return look


def _on_picture(grey: F32, reader: Reader) -> Look:
    """Hypotheses with what the extractor makes of the picture in the frame that each of them supposes.

    Its answer depends on where a picture lies among its blocks, so this is more than a map that was moved there.
    """

    def look(found: Iterable[_Hypothesis]) -> list[_Hypothesis]:
        supposed = list(found)
        views = each(lambda h: framed(grey, h.frame), supposed)
        maps = reader.extractor.white(np.stack([p for p, _ in views])) * np.stack([shown for _, shown in views])
        scores = pilot_score(reader.answers(reader.extractor.spectra(maps)), reader.carriers)
        return [
            replace(h, score=float(score), matrix=_IDENTITY, white=white, onward=h.frame, centre=_middle(shown))
            for h, score, white, (_, shown) in zip(supposed, scores, maps, views, strict=True)
        ]

    return look


def _detection(hypothesis: _Hypothesis, reader: Reader, tries: int) -> Detection:
    """What is read in the frame of a hypothesis that was looked at."""
    answers = reader.answers(reader.extractor.spectra(hypothesis.white[None]))
    height, width = max(1, round(hypothesis.height)), max(1, round(hypothesis.width))
    warp = Warp(compose(hypothesis.frame, (1 / width, 0.0, 0.0, 0.0, 1 / height, 0.0)), height, width)
    return Detection(hypothesis.score, Geometry(warp=warp), answers[0, : cr.CODE], tries)


def _middle(shown: NDArray[np.bool_]) -> tuple[float, float]:
    """Centre of gravity (x, y) in the unit square."""
    rows, columns = np.nonzero(shown)
    if not rows.size:
        return 0.5, 0.5
    return (float(columns.mean()) + 0.5) / _SIZE, (float(rows.mean()) + 0.5) / _SIZE


def framed(grey: F32, matrix: Matrix) -> tuple[F32, NDArray[np.bool_]]:
    """The working picture of a cover's frame.

    Parameters
    ----------
    grey : float32 array (H, W)
    matrix : Matrix
        From the unit square of the cover to pixels of `grey`.

    Returns
    -------
    picture : float32 array (SIZE, SIZE)
        The mean of the rest where `grey` shows nothing.
    shown : bool array (SIZE, SIZE)
    """
    fine = 2 * _SIZE
    a, b, c, d, e, f = matrix
    factor = max(1, int(math.sqrt(abs(a * e - b * d)) / fine + 0.25))
    image = Image.fromarray(grey)
    if factor > 1:
        image = image.reduce(factor)
        a, b, c, d, e, f = (value / factor for value in (a, b, c, d, e, f))
    data = (a / fine, b / fine, c, d / fine, e / fine, f)
    outside = -1e6
    sampled = np.asarray(
        image.transform((fine, fine), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=outside)
    )
    seen = sampled > outside / 2
    mean = float(sampled[seen].mean()) if seen.any() else 0.0
    shown = seen.reshape(_SIZE, 2, _SIZE, 2).all((1, 3))
    return _halved(np.where(seen, sampled, np.float32(mean))), np.asarray(shown)


def _halved(picture: F32) -> F32:
    """Half the size by the filter that :func:`medprov_watermark.extractor.shrunk` has there."""
    rows = np.pad(picture, 1, mode="edge")
    rows = (rows[:-3:2] + rows[3::2] + 3 * (rows[1:-2:2] + rows[2:-1:2])) * np.float32(0.125)
    return np.asarray((rows[:, :-3:2] + rows[:, 3::2] + 3 * (rows[:, 1:-2:2] + rows[:, 2:-1:2])) * np.float32(0.125))


def _orientations(height: int, width: int) -> tuple[tuple[Geometry, ...], float]:
    """Orientations to be tried at every angle, and the angle in degrees at which they repeat.

    On a square canvas a quarter turn is one of the orientations; elsewhere it would change the frame.
    """
    if abs(math.log(height / width)) < 0.02:
        return ALL, 90.0
    return tuple(g for g in ALL if g.turns % 2 == 0), 180.0


def _canvases(degrees: float, height: int, width: int) -> Iterator[tuple[float, float]]:
    """Shapes of a cover that, turned by so much, may have this canvas: the same, or one that the canvas just holds."""
    yield height, width
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    if height == width:
        yield height / (c + s), width / (c + s)
    elif abs(c * c - s * s) > 0.1:
        h, w = (c * height - s * width) / (c * c - s * s), (c * width - s * height) / (c * c - s * s)
        if min(h, w) > 0.3 * min(height, width):
            yield h, w


def _turn(degrees: float, cover: tuple[float, float], canvas: tuple[int, int]) -> Matrix:
    """From the unit square of a cover to that of a canvas on which it lies turned about the common centre."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    out = compose((1 / canvas[1], 0.0, 0.5, 0.0, 1 / canvas[0], 0.5), (c, s, 0.0, -s, c, 0.0))
    return compose(out, (cover[1], 0.0, -cover[1] / 2, 0.0, cover[0], -cover[0] / 2))


def _moved(white: F32, matrix: Matrix) -> F32:
    """A map brought into the cover's frame at the working size."""
    a, b, c, d, e, f = matrix
    data = (a, b, c * _SIZE, d, e, f * _SIZE)
    image = Image.fromarray(white).transform((_SIZE, _SIZE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _score(hypothesis: _Hypothesis, reader: Reader) -> float:
    spectra = reader.extractor.spectra(_moved(hypothesis.white, hypothesis.matrix)[None])
    return float(pilot_score(reader.answers(spectra), reader.carriers)[0])


def _refined(start: _Hypothesis, look: Look, rounds: Sequence[float]) -> _Hypothesis:
    """Climb to the nearest maximum of the pilot score over angle, size and place.

    Each round looks to both sides along each of the four, by so many of the _STEPS, and then at where parabolas have
    their tops. Turns and sizes are about the middle of what the picture at hand shows: about that of the frame they
    would move a window, and a better one would look worse.
    """
    best = start
    for share in rounds:
        aspect = best.height / best.width

        def moved(nudges: Iterable[tuple[str, float]], best: _Hypothesis = best, aspect: float = aspect) -> _Hypothesis:
            matrix = best.matrix
            for name, amount in nudges:
                matrix = compose(_nudge(name, amount, aspect, best.centre), matrix)
            return replace(best, matrix=matrix)

        steps = [(name, share * step) for name, step in _STEPS]
        sides = look([moved([(name, sign * step)]) for name, step in steps for sign in (-1.0, 1.0)])
        scores = np.array([h.score for h in sides]).reshape(-1, 2)
        tops = [
            (name, step * _top(low, best.score, high)) for (name, step), (low, high) in zip(steps, scores, strict=True)
        ]
        best = max([best, *sides, *look([moved(tops)])], key=lambda h: h.score)
    return best


def _top(low: float, middle: float, high: float) -> float:
    """Where the parabola through values at -1, 0 and 1 has its top, within these."""
    bend = 2 * middle - low - high
    if bend <= 0:
        return 1.0 if high > low else -1.0
    return max(-1.0, min(1.0, (high - low) / (2 * bend)))


def _nudge(name: str, amount: float, aspect: float, centre: tuple[float, float]) -> Matrix:
    """A small change of the unit square: about a point (x, y), or along an axis."""
    if name == "x":
        return (1.0, 0.0, amount, 0.0, 1.0, 0.0)
    if name == "y":
        return (1.0, 0.0, 0.0, 0.0, 1.0, amount)
    x, y = centre
    if name == "scale":
        k = 1 + amount
        return (k, 0.0, (1 - k) * x, 0.0, k, (1 - k) * y)
    c, s = math.cos(amount), math.sin(amount)
    across, down = s * aspect, -s / aspect
    return (c, across, (1 - c) * x - across * y, down, c, (1 - c) * y - down * x)


def _distance(first: Matrix, second: Matrix) -> float:
    """Largest shift of a corner of the unit square."""
    corners = np.array([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]).T
    apart = (np.reshape(first, (2, 3)) - np.reshape(second, (2, 3))) @ corners
    return float(np.sqrt(np.square(apart).sum(0)).max())


def _pilot_template(reader: Reader) -> F32:
    values = np.zeros(cr.WRITTEN, np.int64)
    values[cr.CODE :] = reader.carriers.pilot_signs
    return reader.extractor.template(reader.carriers.scatter(values).astype(np.float32))


def _oriented_scores(spectra: F32, reader: Reader, orientations: tuple[Geometry, ...]) -> NDArray[np.float64]:
    """Pilot scores (B, orientations): turning a picture permutes its DCT coefficients and flips their signs."""
    alternating = np.where(np.arange(cr.WIDTH) % 2, -1.0, 1.0).astype(np.float32)
    out = np.empty((len(spectra), len(orientations)))
    for o, geometry in enumerate(orientations):
        turned = spectra
        for _ in range(geometry.turns):  # back by a quarter turn: transpose, then mirror left to right
            turned = turned.transpose(0, 2, 1) * alternating
        if geometry.flipped:
            turned = turned * alternating
        out[:, o] = pilot_score(reader.answers(np.ascontiguousarray(turned)), reader.carriers)
    return out
