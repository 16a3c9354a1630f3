"""Attacks by somebody who has the software and its weights: marking over a mark, and subtracting it.

Pictures stand upright throughout, so they are read without the search for angle and window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from benchmarks.attacks import jpeg
from medprov_watermark import carriers as cr
from medprov_watermark import coupling, tuning
from medprov_watermark.coupling import Frozen
from medprov_watermark.detection import NOTHING, pilot_score
from medprov_watermark.errors import AlreadyMarkedError, EmbedError, RestoreError
from medprov_watermark.extractor import Reader, working_picture
from medprov_watermark.geometry import ALL
from medprov_watermark.hashing import content_hash, hamming, perceptual_hash
from medprov_watermark.payload import Payload, encode, find_in
from medprov_watermark.watermarker import DualWatermarker, Extraction, Integrity, psnr
from medprov_watermark.weights import Release, load_release

Picture = NDArray[np.uint8]
RECORDS = 100_000
"""Size of the directory that list decoding is as strict for; strangers' records could only win by chance."""
EQUAL_DB = 99.0
"""Stands for the infinite PSNR of two equal pictures, which JSON cannot say."""
FOREIGN_KEY = b"a second consortium's secret"
VICTIMS_KEY = b"the first consortium's secret"


class Unchecked(DualWatermarker):
    """The software with its refusal taken out: the first look of `mark` at a picture finds nothing."""

    _blind = False

    def mark_over(self, image: Picture, payload: Payload) -> Picture:
        """Mark a picture, whatever is in it."""
        self._blind = True
        return np.asarray(self.mark(image, payload).image, np.uint8)

    def extract(self, image: NDArray[np.unsignedinteger], search: bool = True) -> Extraction:
        if self._blind:
            self._blind = False
            empty = NOTHING
            absent = Integrity("absent")
            return Extraction(None, empty.soft_bits, 0.0, False, empty.false_alarm, empty.geometry, 0, absent)
        return super().extract(image, search)


class Software:
    """What everybody can install, with or without a consortium's key.

    Parameters
    ----------
    release : Release or None
        None loads the one that ships.
    key : bytes or None
    """

    def __init__(self, release: Release | None = None, key: bytes | None = None) -> None:
        self.release = release or load_release(None, "cpu", 1)
        self.reader = Reader(self.release.extractor, cr.derive(key))
        self.marker, self.unchecked = DualWatermarker(self.release, key), Unchecked(self.release, key)

    @property
    def carriers(self) -> cr.Carriers:
        return self.reader.carriers

    def answers(self, picture: Picture) -> NDArray[np.float32]:
        """Of all written carriers of an upright picture, float32 (WRITTEN,)."""
        return np.asarray(self.reader(working_picture(picture)[None])[0], np.float32)

    def signs(self, payload: Payload) -> NDArray[np.int8]:
        """Of all written carriers, int8 (WRITTEN,)."""
        return np.concatenate([encode(payload), self.carriers.pilot_signs]).astype(np.int8)

    def without(self, picture: Picture, amplitudes: NDArray[np.floating]) -> Picture:
        """Take carriers off a picture, as restoration does.

        Parameters
        ----------
        amplitudes : float array (WRITTEN,)
            Signed, in units of gain times quarters.
        """
        # Amplitudes as marking has them: the network has seen no pattern of another power.
        used = amplitudes[amplitudes != 0]
        gain = max(1, round(float(np.sqrt(np.square(used).mean())) / _PLAIN)) if used.size else 1
        values = np.asarray(np.clip(np.rint(amplitudes / gain), -_MOST, _MOST), np.int64)
        frozen = Frozen(gain, 0, 0, (0, 255), None, None, self.carriers)
        back = coupling.inverse(picture, values, np.zeros(0, np.int64), self.release.network, frozen)
        return np.asarray(np.clip(back, 0, 255), np.uint8)


_ROUNDS = 5
_PLAIN, _MOST = 4, 16
"""Quarters of a plain amplitude and of the largest."""


@dataclass(frozen=True)
class Victim:
    """A marked picture of a first owner."""

    name: str
    cover: Picture
    payload: Payload
    marked: Picture


def mark_all(
    software: Software, covers: Sequence[tuple[str, Picture]], rng: np.random.Generator
) -> tuple[list[Victim], int]:
    """Mark pictures; beside them, how many were refused."""
    victims: list[Victim] = []
    for name, cover in covers:
        payload = Payload(perceptual_hash(cover), rng.bytes(4))
        try:
            marked = software.marker.mark(cover, payload).image
        except EmbedError:
            continue
        victims.append(Victim(name, cover, payload, np.asarray(marked, np.uint8)))
    return victims, len(covers) - len(victims)


def decibels(a: Picture, b: Picture) -> float:
    """PSNR of two pictures, at most EQUAL_DB."""
    return min(EQUAL_DB, psnr(a, b, 255))


def paid(picture: Picture, before: Picture, cover: Picture) -> dict[str, float]:
    """What an attack has cost: against the picture that was attacked, and against the cover."""
    return {
        "psnr_paid": decibels(before, picture),
        "ssim_paid": float(structural_similarity(before, picture, data_range=255)),
        "psnr_cover": decibels(cover, picture),
    }


def named(soft: NDArray[np.floating], known: Sequence[Payload]) -> Payload | None:
    """The payload that list decoding names, as strictly as among RECORDS records."""
    found = find_in(soft, known, math.ceil(len(ALL) * RECORDS / max(1, len(known))))
    return None if found is None else found.payload


def reading(software: Software, picture: Picture, owner: Payload, known: Sequence[Payload]) -> dict[str, Any]:
    """What a verifier gets to know about a picture that `owner` claims.

    Returns
    -------
    dict
        pilots : their score; present : whether they count as a mark; payload : "owner", "known" (of `known`, but not
        the owner's), "other" or None, read blindly; listed : the same by list decoding, which a verifier with the
        directory does whatever the pilots say; bits : share of the owner's code bits with the right sign.
    """

    def who(payload: Payload | None) -> str | None:
        if payload is None:
            return None
        return "owner" if payload == owner else "known" if payload in known else "other"

    found, answers = software.marker.extract(picture, search=False), software.answers(picture)
    soft = answers[: cr.CODE]
    return {
        "pilots": float(pilot_score(answers[None], software.carriers)[0]),
        "present": found.present,
        "payload": who(found.payload),
        "listed": who(found.payload if found.payload in known else named(soft, known)),
        "bits": float(np.mean((soft > 0) == (encode(owner) > 0))),
        "integrity": found.integrity.state,
    }


def recompressed(picture: Picture, quality: int) -> Picture:
    return jpeg(quality)(picture, np.random.default_rng(0))


# --- a second owner ---------------------------------------------------------------------------------------------------


def overwriting(public: Software, foreign: Software) -> dict[str, Callable[[Victim, Payload], Picture]]:
    """The ways to put a second mark over the first."""
    return {
        "mark again": lambda v, p: np.asarray(public.marker.mark(v.marked, p).image, np.uint8),
        "JPEG 75, mark again": lambda v, p: np.asarray(
            public.marker.mark(recompressed(v.marked, 75), p).image, np.uint8
        ),
        "restore, mark": lambda v, p: np.asarray(
            public.marker.mark(public.marker.restore(v.marked), p).image, np.uint8
        ),
        "check taken out": lambda v, p: public.unchecked.mark_over(v.marked, p),
        "other key": lambda v, p: np.asarray(foreign.marker.mark(v.marked, p).image, np.uint8),
        "JPEG 75, other key": lambda v, p: np.asarray(
            foreign.marker.mark(recompressed(v.marked, 75), p).image, np.uint8
        ),
        "check taken out, other key": lambda v, p: foreign.unchecked.mark_over(v.marked, p),
    }


def overwrite(public: Software, foreign: Software, victim: Victim, second: Payload, way: str) -> dict[str, Any]:
    """One second mark over a first one, and what is read afterwards.

    Returns
    -------
    dict
        refused : why not, else: read, jpeg70 : "first", "second" or None, the payload that is read blindly from the
        picture and from it after JPEG 70; listed, jpeg70_listed : all owners whose codewords are found among the soft
        bits; keyed : the same as `read` with the second party's key, where it used one; beneath : who is read after
        the second mark is restored off; peeled : "first" where list decoding finds the first owner in the JPEG 70 copy
        once the second one's codeword is taken out of the soft bits; hash_distance : bits of 64 in which the perceptual
        hash of that copy differs from the first record's.
    """
    row: dict[str, Any] = {"picture": victim.name, "way": way}
    try:
        picture = overwriting(public, foreign)[way](victim, second)
    except (AlreadyMarkedError, EmbedError) as error:
        return {**row, "refused": str(error).split(" (")[0]}
    owners = {victim.payload: "first", second: "second"}
    used = foreign if "key" in way else public
    worn = recompressed(picture, 70)
    row |= {"refused": None, **paid(picture, victim.marked, victim.cover)}
    for label, shown in (("", picture), ("jpeg70_", worn)):
        found = public.marker.extract(shown, search=False)
        row[f"{label}read"] = owners.get(found.payload) if found.payload else None
        soft = public.answers(shown)[: cr.CODE]
        row[f"{label}listed"] = [who for payload, who in owners.items() if named(soft, [payload])]
    keyed = foreign.marker.extract(worn, search=False).payload if used is foreign else None
    row["keyed"] = owners.get(keyed) if keyed else None
    try:
        beneath = public.marker.extract(used.marker.restore(picture), search=False).payload
        row["beneath"] = owners.get(beneath) if beneath else None
    except RestoreError:
        row["beneath"] = None
    soft = public.answers(worn)[: cr.CODE]
    left = soft - np.mean(soft * encode(second)) * encode(second)
    row["peeled"] = "first" if named(left, [victim.payload]) else None
    row["hash_distance"] = hamming(perceptual_hash(worn), victim.payload.perceptual_hash)
    return row


# --- the mark subtracted ----------------------------------------------------------------------------------------------


def one_gain(software: Software, picture: Picture, signs: NDArray[np.int8]) -> Picture:
    """Take a mark of equal amplitudes off, at the gain that brings its answers closest to zero.

    Parameters
    ----------
    signs : int8 array (WRITTEN,)
        Of the mark; 0 for carriers that shall be left alone.
    """
    before = software.answers(picture) * signs
    strength = float(tuning.FIRST_GAIN)
    for _ in range(3):
        after = software.answers(software.without(picture, 4 * strength * signs)) * signs
        slope = (before - after) / strength
        strength = float(np.clip((before @ slope) / max(float(slope @ slope), 1e-12), 1.0, tuning.LARGEST_GAIN))
    return software.without(picture, 4 * strength * signs)


def answers_to_zero(software: Software, picture: Picture, signs: NDArray[np.int8]) -> Picture:
    """Take every carrier off by what it answers; this needs no payload, the answers' own signs do.

    Parameters
    ----------
    signs : int8 array (WRITTEN,)
        0 for carriers that shall be left alone.
    """
    chosen = (signs != 0).astype(np.float64)
    before = software.answers(picture) * chosen
    trial = 4.0 * tuning.FIRST_GAIN * np.sign(before)
    moved = np.abs(before - software.answers(software.without(picture, trial)) * chosen)
    slope = max(float(moved.sum() / chosen.sum()) / (4 * tuning.FIRST_GAIN), 1e-9)
    amplitudes, answers = np.zeros(cr.WRITTEN), before
    best, least = picture, float(before @ before)
    for _ in range(_ROUNDS):
        # Half a step: the slopes of the carriers differ, and the mean of them is the attacker's guess.
        amplitudes = amplitudes + 0.5 * answers / slope
        current = software.without(picture, amplitudes)
        answers = software.answers(current) * chosen
        if float(answers @ answers) < least:
            best, least = current, float(answers @ answers)
    return best


def _pilots_only(software: Software) -> NDArray[np.int8]:
    return np.concatenate([np.zeros(cr.CODE, np.int8), software.carriers.pilot_signs])


def removals(software: Software) -> dict[str, Callable[[Picture, Payload], Picture]]:
    """The ways to take W1 off a copy in which W2 is dead."""
    return {
        "left alone": lambda picture, payload: picture,
        "one gain": lambda picture, payload: one_gain(software, picture, software.signs(payload)),
        "every answer to zero": lambda picture, payload: answers_to_zero(software, picture, software.signs(payload)),
        "pilots alone": lambda picture, payload: one_gain(software, picture, _pilots_only(software)),
    }


def white_box(public: Software, victim: Victim, known: Sequence[Payload], quality: int = 75) -> list[dict[str, Any]]:
    """Take the mark off the untouched picture and off a recompressed copy.

    `hash_distance` says how far the result's perceptual hash is from the recorded one, in bits of 64.
    """

    def judged(way: str, picture: Picture, before: Picture) -> dict[str, Any]:
        return {
            "picture": victim.name,
            "way": way,
            **reading(public, picture, victim.payload, known),
            **paid(picture, before, victim.cover),
            "hash_distance": hamming(perceptual_hash(picture), victim.payload.perceptual_hash),
        }

    restored = np.asarray(public.marker.restore(victim.marked), np.uint8)
    rows = [judged("restore", restored, victim.marked)]
    rows[0]["cover_exact"] = content_hash(restored) == content_hash(victim.cover)
    copy = recompressed(victim.marked, quality)
    for way, remove in removals(public).items():
        rows.append(judged(f"JPEG {quality}, {way}", remove(copy, victim.payload), copy))
    return rows


def without_key(public: Software, keyed: Software, victim: Victim, known: Sequence[Payload]) -> dict[str, Any]:
    """The same attacker before a picture that was marked with a key that he does not have.

    Parameters
    ----------
    victim : Victim
        Marked with `keyed`.
    """
    try:
        public.marker.restore(victim.marked)
        restored = True
    except RestoreError:
        restored = False
    copy = recompressed(victim.marked, 75)
    attacked = answers_to_zero(public, copy, np.ones(cr.WRITTEN, np.int8))
    return {
        "picture": victim.name,
        "restored": restored,
        "read_without_key": public.marker.extract(victim.marked, search=False).payload is not None,
        **reading(keyed, attacked, victim.payload, known),
        **paid(attacked, copy, victim.cover),
    }
