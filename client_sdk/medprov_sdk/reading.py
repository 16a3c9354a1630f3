"""A picture as it was given, and what it says about itself: its marks, before anybody is asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from medprov_sdk.errors import UnreadableError
from medprov_sdk.verdict import Mark, Seal
from medprov_sdk.verification import Check
from medprov_watermark import detection, media
from medprov_watermark.errors import MediaError
from medprov_watermark.geometry import Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.payload import CODE_BITS, Decoded, Payload
from medprov_watermark.pixels import Pixels, Samples

if TYPE_CHECKING:
    from medprov_watermark.detection import Detection
    from medprov_watermark.watermarker import Extraction, Integrity

UPRIGHT = Geometry()


class Watermarker(Protocol):
    """What is needed of :class:`medprov_watermark.watermarker.DualWatermarker`."""

    @property
    def model(self) -> bytes:
        """SHA-256 of the loaded weights, 32 bytes."""

    def extract(self, image: Samples, search: bool = True) -> Extraction:
        """Both marks of a picture; W1 at any angle and in windows only where `search` says so."""

    def integrity(self, image: Samples) -> Integrity:
        """W2 alone."""

    def each_way(self, image: Samples) -> list[Detection]:
        """Soft bits of W1 in the eight orientations, whatever the pilots say."""


@dataclass
class Work:
    """What is known so far of one picture."""

    image: Samples
    pixels: Pixels | None
    """With the file that it came from; None for bare samples."""
    checks: list[Check] = field(default_factory=list)
    offline: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)

    @cached_property
    def attributes(self) -> dict[str, str]:
        """What the file says beside its samples; empty for bare samples."""
        return media.attributes(self.pixels) if self.pixels is not None else {}

    def check(self, name: str, passed: bool | None, detail: str) -> None:
        """Note one thing that was looked at."""
        self.checks.append(Check(name, passed, detail))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that something takes to what this stage has taken."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + round((time.perf_counter() - start) * 1000, 2)


@dataclass(frozen=True)
class Read:
    """What the picture says about itself."""

    extraction: Extraction
    seal: Seal
    integrity: Integrity
    stands: Geometry
    """How the picture stands to the one that the seal and the evidence are about."""
    payload: Payload | None
    released_hash: bytes
    """Content hash of the picture in the orientation in which its seal was found."""
    listed: Decoded | None = None
    """What list decoding read in place of the error correction."""

    versions: int = 1
    """Model versions that the picture was read with until one of them read something."""

    @property
    def corrected(self) -> int:
        """Codeword bits that were wrong."""
        return self.listed.corrected_bits if self.listed else self.extraction.corrected

    @property
    def chance(self) -> float:
        """Bound on how often a picture without a mark would seem to have one as clear as this."""
        if self.listed is not None and not self.extraction.present:
            return self.versions * self.listed.chance
        # pilots that fall short by themselves were believed together with the codeword, by the same bound
        return self.versions * min(self.extraction.false_alarm, detection.FALSE_ALARM)


def read_marks(watermarker: Watermarker, work: Work) -> Read:
    """Both marks; the seal also in the orientation that the pilots found.

    Other angles and windows are searched where nothing else tells of a mark. No seal survives these.
    """
    with work.stage("extract"):
        extraction = watermarker.extract(work.image, search=False)
    if not extraction.present and extraction.integrity.state != Seal.INTACT.value:
        with work.stage("search"):
            extraction = watermarker.extract(work.image)
    integrity, seal, stands = extraction.integrity, Seal(extraction.integrity.state), UPRIGHT
    if seal is not Seal.INTACT and extraction.present:
        stands = extraction.geometry
    if not stands.identity and stands.warp is None:
        with work.stage("extract"):
            turned = watermarker.integrity(stands.undo(work.image))
        if turned.state == "intact":
            integrity, seal = turned, Seal.TURNED
    sealed = seal in (Seal.INTACT, Seal.TURNED)
    with work.stage("hash"):
        released_hash = content_hash(stands.undo(work.image) if seal is Seal.TURNED else work.image)
    # a broken seal's payload is only a hint where to look; the comparison of the content decides
    payload = integrity.payload if sealed else extraction.payload or integrity.payload
    work.check(
        "ownership mark",
        extraction.present or None,
        f"pilot score {extraction.presence:.1f} (chance {extraction.false_alarm:.1e}), {stands}, "
        + (f"{extraction.corrected} of {CODE_BITS} bits corrected" if extraction.payload else "payload not read"),
    )
    if sealed:
        turn = ", once the picture is turned back" if seal is Seal.TURNED else ""
        work.check("integrity mark", True, "every sample is as it was sealed" + turn)
        work.offline.append("no sample has changed since the integrity mark was put in")
    else:
        passed = False if seal is Seal.BROKEN else None
        work.check("integrity mark", passed, integrity.reason or "no integrity mark")
    if sealed and extraction.payload is not None:
        same = extraction.payload == integrity.payload
        detail = "both marks carry the same payload" if same else "the two marks carry different payloads"
        work.check("marks belong together", same, detail)
    return Read(extraction, seal, integrity, stands, payload, released_hash)


def given(image: str | os.PathLike[str] | Pixels | Samples) -> tuple[Samples, int, str, Pixels | None]:
    """Samples, bits stored and name of what was given, and the picture with its file where there is one."""
    if isinstance(image, Pixels):
        return image.array, image.bits, "pixels", image
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype not in (np.uint8, np.uint16) or not fits or image.size == 0:
            raise UnreadableError(
                f"array of shape {image.shape} and type {image.dtype}: give (H, W) or (H, W, 3) of uint8 or uint16"
            )
        return np.ascontiguousarray(image), image.dtype.itemsize * 8, "array", None
    try:
        pixels = media.read(image)
    except MediaError as error:
        raise UnreadableError(str(error)) from None
    return pixels.array, pixels.bits, Path(image).name, pixels


def mark_of(read: Read) -> Mark:
    """State of the payload."""
    if read.payload is not None:
        return Mark.READ
    return Mark.UNREADABLE if read.extraction.present else Mark.ABSENT
