"""Whether a mark is there, and how the picture lies: decided by the pilots alone, before anything is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.extractor import F32, Reader
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.payload import Decoded, decode

FALSE_ALARM = 1e-9
"""Chance, computed over all that was tried, below which pilots count as a mark."""
THRESHOLD = 7.2
"""Least pilot score that counts as a mark in the eight orientations, in standard deviations of an unmarked carrier."""
FLAT = 0.5
"""A working picture whose grey values differ by less than this cannot hold a mark."""
SURE, LIKELY = 9.0, 2
"""Pilot score at which the search over orientations stops early, and orientations that are looked at besides."""
DOUBT = FALSE_ALARM / 25
"""Product of the pilots' and the codeword's chance below which a payload is believed. The two are independent on an
unmarked picture, so their product lies below p with a probability of ``p (1 - log p)``, less than FALSE_ALARM here."""
DEGREES, SPREAD = 400, 1.1
"""Law of the score on unmarked pictures: SPREAD times Student's t with DEGREES of freedom. The 725 coefficients of the
null carriers would give 725 degrees if all were alike; ``benchmarks/false_alarm.py`` measures 561 in the median, 347 at
least, and a spread below one, so that this law is on the safe side wherever it matters."""
MEASURED_FALSE_ALARM = 3 / 400
"""Bound at 95 % from counting: no mark in 400 unmarked pictures that were searched at all angles and windows
(``benchmarks/false_alarm.py``; rule of three). Counted with former weights and a smaller search; with these, none in
10 000 pictures that were read in the eight orientations, of which 40 were searched too."""


@dataclass(frozen=True)
class Detection:
    """What the pilots say.

    Parameters
    ----------
    score : float
        Pilot score in standard deviations of an unmarked carrier.
    geometry : Geometry
        How the picture lies, as the highest score has it.
    soft_bits : float32 array (CODE,)
        Answers of the code carriers in the same unit; positive means 1.
    tries : int
        Places, angles and sizes among which the score is the highest.
    """

    score: float
    geometry: Geometry
    soft_bits: NDArray[np.float32]
    tries: int = len(ALL)

    @property
    def false_alarm(self) -> float:
        """How many of the tries would be expected to score as high on an unmarked picture."""
        return self.tries * tail(self.score)

    @property
    def present(self) -> bool:
        """Whether that is too little to be chance."""
        return self.false_alarm <= FALSE_ALARM

    def read(self) -> Decoded | None:
        """The payload, if pilots and codeword together may be believed."""
        decoded = decode(self.soft_bits) if self.false_alarm < 1 else None
        if decoded is None or not (self.present or self.false_alarm * decoded.chance <= DOUBT):
            return None
        return decoded


NOTHING = Detection(0.0, Geometry(), np.zeros(cr.CODE, np.float32))


def tail(score: float) -> float:
    """Chance that one unmarked picture scores higher in one try: the upper tail of SPREAD times Student's t.

    By the normal approximation of D. Wallace, "Bounds on Normal Approximations to Student's and the Chi-Square
    Distributions", Ann. Math. Stat. 30(4), 1959, whose error is far below that of the law itself.
    """
    if not math.isfinite(score):
        return 1.0
    t, n = score / SPREAD, DEGREES
    z = math.copysign((8 * n + 1) / (8 * n + 3) * math.sqrt(n * math.log1p(t * t / n)), t)
    return 0.5 * math.erfc(z / math.sqrt(2))


def pilot_score(answers: NDArray[np.float32], carriers: cr.Carriers) -> NDArray[np.float64]:
    """Sum of the pilots with their known signs, scaled to unit variance on unmarked pictures; float64 (B,).

    Parameters
    ----------
    answers : float32 array (B, WRITTEN)
        What the reader gives.
    """
    pilots = answers[:, cr.CODE :].astype(np.float64)
    return np.asarray(pilots @ carriers.pilot_signs / np.sqrt(cr.PILOTS), np.float64)


def flat(picture: F32) -> bool:
    """Whether a picture has too few grey values to hold a mark."""
    return float(picture.max() - picture.min()) < FLAT


def each_way(picture: F32, reader: Reader) -> list[Detection]:
    """What the carriers answer in each of the eight orientations, whatever the pilots say.

    Whoever knows some covers and their marked pictures can take the pilots away, whose signs are the same in all
    pictures; the codeword stays (``benchmarks/surrogate.py``). It can still be looked for among known payloads.

    Parameters
    ----------
    picture : float32 array (SIZE, SIZE)

    Returns
    -------
    list of Detection
        In the order of :data:`medprov_watermark.geometry.ALL`; empty for a flat picture.
    """
    if flat(picture):
        return []
    (white,) = reader.extractor.white(picture[None])
    answers = reader.answers(reader.extractor.spectra(np.stack([g.undo(white) for g in ALL])))
    scores = pilot_score(answers, reader.carriers)
    return [Detection(float(score), g, own[: cr.CODE]) for score, g, own in zip(scores, ALL, answers, strict=True)]


def upright(pictures: F32, reader: Reader) -> list[Detection]:
    """The orientation of each picture whose pilots answer best.

    The extractor sees a picture as it stands, and the map that it gives is turned and mirrored instead, which costs a
    twentieth of the score. It sees the picture itself in the LIKELY best orientations, unless one is SURE.

    Parameters
    ----------
    pictures : float32 array (B, SIZE, SIZE)
        What :func:`medprov_watermark.extractor.working_picture` gives.

    Returns
    -------
    list of Detection
        NOTHING for a flat picture.
    """
    found = [NOTHING] * len(pictures)
    some = [i for i, picture in enumerate(pictures) if not flat(picture)]
    if not some:
        return found
    order = {}
    for i, white in zip(some, reader.extractor.white(pictures[some]), strict=True):
        answers = reader.answers(reader.extractor.spectra(np.stack([g.undo(white) for g in ALL])))
        scores = pilot_score(answers, reader.carriers)
        order[i] = [ALL[k] for k in np.argsort(-scores)[:LIKELY].tolist() if k]
        found[i] = Detection(float(scores[0]), ALL[0], answers[0, : cr.CODE])
    for place in range(LIKELY):
        waiting = [i for i in some if found[i].score < SURE and place < len(order[i])]
        if not waiting:
            break
        answers = reader(np.stack([order[i][place].undo(pictures[i]) for i in waiting]))
        for i, own, score in zip(waiting, answers, pilot_score(answers, reader.carriers), strict=True):
            if score > found[i].score:
                found[i] = Detection(float(score), order[i][place], own[: cr.CODE])
    return found
