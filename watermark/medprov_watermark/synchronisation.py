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
from collections.abc import Iterable, Iterator
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
_ROUGH = 24
_APART = 0.02
_STEPS = (("angle", math.radians(0.3)), ("scale", 0.005), ("x", 0.002), ("y", 0.002))
_ROUNDS = 3
_SIZE = cr.SIZE
_IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class _Hypothesis:
    """Where the cover's frame lies.

    `matrix` goes from the cover's unit square to the unit square of `white`, of which the picture at hand fills the
    upper left `filled`; `onward` goes from there to its pixels, and the cover's frame is `height` x `width` of these.
    """

    score: float
    matrix: Matrix
    white: F32
    onward: Matrix
    height: float
    width: float
    filled: float = 1.0


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
    yield from _read(grey, found, reader, scores.size)


def turned(grey: F32, reader: Reader) -> Iterator[Detection]:
    """Marks turned by any angle on the same canvas, for which the extractor looks at the picture at every angle.

    A map does not turn quite as its picture does, and faint marks are lost on it; this takes some three seconds more.

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
    kept: list[Matrix] = []
    for place in np.argsort(scores, axis=None)[::-1].tolist():
        i, o = divmod(place, len(orientations))
        matrix = compose(angles[i], unit_matrix(orientations[o]))
        if any(_distance(matrix, other) < _APART for other in kept):
            continue
        kept.append(matrix)
        best, middle = _whole(grey, matrix, onward, reader, scores.size), angles[i]
        for step in (ANGLE_STEP / 2, ANGLE_STEP / 4, ANGLE_STEP / 8):
            for sign in (1.0, -1.0):
                moved = compose(_nudge("angle", sign * math.radians(step), height / width, 0.5), middle)
                found = _whole(grey, compose(moved, unit_matrix(orientations[o])), onward, reader, scores.size)
                if found.score > best.score:
                    best, middle = found, moved
                    break
        yield best
        if len(kept) == CANDIDATES:
            return


def _whole(grey: F32, matrix: Matrix, onward: Matrix, reader: Reader, tries: int) -> Detection:
    """What is read in a frame of the canvas' size, which `matrix` brings into the canvas' unit square."""
    height, width = grey.shape
    to_pixels = compose(onward, matrix)
    picture, shown = framed(grey, to_pixels)
    answers = reader(picture[None], shown[None])
    warp = Warp(compose(to_pixels, (1 / width, 0.0, 0.0, 0.0, 1 / height, 0.0)), height, width)
    score = float(pilot_score(answers, reader.carriers)[0])
    return Detection(score, Geometry(warp=warp), answers[0, : cr.CODE], tries)


def windows(grey: F32, reader: Reader) -> Iterator[Detection]:
    """Marks in a window of unknown place and size, cut out of a picture of the same proportions.

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
    scales = np.exp(np.arange(math.log(LEAST_WINDOW), math.log(0.995), SCALE_STEP))
    sides = np.unique(np.rint(scales * _SIZE).astype(int)).tolist()
    canvases = np.full((len(sides), _SIZE, _SIZE), picture.mean(), np.float32)
    shown = np.zeros(canvases.shape, np.bool_)
    for canvas, mask, side in zip(canvases, shown, sides, strict=True):
        canvas[:side, :side], mask[:side, :side] = shrunk(grey, side), True
    templates = np.fft.rfft2(np.stack([g.apply(_pilot_template(reader)) for g in ALL]))
    found: list[_Hypothesis] = []
    tries = 0
    for side, white in zip(sides, reader.extractor.white(canvases) * shown, strict=True):
        room = _SIZE - side + 1
        maps = np.fft.irfft2(templates * np.conj(np.fft.rfft2(white)), s=(_SIZE, _SIZE))
        maps = maps[:, :room, :room] / max(float(maps.std()), 1e-9)
        tries += maps.size
        onward: Matrix = (grey.shape[1] * _SIZE / side, 0.0, 0.0, 0.0, grey.shape[0] * _SIZE / side, 0.0)
        h, w = grey.shape[0] * _SIZE / side, grey.shape[1] * _SIZE / side
        for geometry, scores in zip(ALL, maps, strict=True):
            top, left = divmod(int(scores.argmax()), room)
            matrix = compose((1.0, 0.0, -left / _SIZE, 0.0, 1.0, -top / _SIZE), unit_matrix(geometry))
            shape = (w, h) if geometry.turns % 2 else (h, w)
            found.append(_Hypothesis(float(scores[top, left]), matrix, white, onward, *shape, side / _SIZE))
    found.sort(key=lambda h: -h.score)
    yield from _read(grey, found[:_ROUGH], reader, tries)


def _read(grey: F32, found: Iterable[_Hypothesis], reader: Reader, tries: int) -> Iterator[Detection]:
    """Refine hypotheses, bring the picture into their frames and read it."""
    ranked = sorted((replace(h, score=_score(h, reader)) for h in found), key=lambda h: -h.score)
    kept: list[_Hypothesis] = []
    for hypothesis in ranked:
        if len(kept) == CANDIDATES:
            return
        if any(_distance(hypothesis.matrix, k.matrix) < _APART for k in kept):
            continue
        kept.append(hypothesis)
        fine = _refined(hypothesis, grey.shape[0] / grey.shape[1], reader)
        matrix = compose(fine.onward, fine.matrix)
        picture, shown = framed(grey, matrix)
        answers = reader(picture[None], shown[None])
        height, width = max(1, round(fine.height)), max(1, round(fine.width))
        warp = Warp(compose(matrix, (1 / width, 0.0, 0.0, 0.0, 1 / height, 0.0)), height, width)
        score = float(pilot_score(answers, reader.carriers)[0])
        yield Detection(score, Geometry(warp=warp), answers[0, : cr.CODE], tries)


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
    return shrunk(np.where(seen, sampled, np.float32(mean))), np.asarray(shown)


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


def _refined(hypothesis: _Hypothesis, aspect: float, reader: Reader) -> _Hypothesis:
    """Climb to the nearest maximum of the pilot score over angle, size and place.

    Turns and sizes are about the middle of the picture at hand: about that of the frame they would move a window, and
    a better one would look worse.
    """
    best = hypothesis
    for halving in range(_ROUNDS):
        for name, step in _STEPS * 2:
            for sign in (1.0, -1.0):
                nudge = _nudge(name, sign * step / 2**halving, aspect, best.filled / 2)
                moved = replace(best, matrix=compose(nudge, best.matrix))
                moved = replace(moved, score=_score(moved, reader))
                if moved.score > best.score:
                    best = moved
                    break
    return best


def _nudge(name: str, amount: float, aspect: float, centre: float) -> Matrix:
    """A small change of the unit square: about a point on its diagonal, or along an axis."""
    if name == "x":
        return (1.0, 0.0, amount, 0.0, 1.0, 0.0)
    if name == "y":
        return (1.0, 0.0, 0.0, 0.0, 1.0, amount)
    if name == "scale":
        k = 1 + amount
        return (k, 0.0, (1 - k) * centre, 0.0, k, (1 - k) * centre)
    c, s = math.cos(amount), math.sin(amount)
    across, down = s * aspect, -s / aspect
    return (c, across, (1 - c - across) * centre, down, c, (1 - c - down) * centre)


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
