"""Marked pictures that wait in the hospital's state folder until their anchor is confirmed.

A held picture is on the disk before anything about it is signed into a record, so a crash never leaves a record whose
picture is lost, and going on needs no second marking.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medprov_node.errors import StateError
from medprov_watermark.errors import MediaError
from medprov_watermark.hashing import content_hash
from medprov_watermark.media.files import store
from medprov_watermark.pixels import Samples
from medprov_watermark.watermarker import OFF, Marked

MARKING, ANCHORING = "marking.lock", "anchoring.lock"
"""Locks of a hospital's state folder: while a batch waits for its anchor, the next pictures can be marked."""
LOCK_TIMEOUT = 600.0
_HASHES = ("marked_hash", "released_hash", "cover_hash", "salt")


@dataclass(frozen=True)
class Held:
    """A marked picture and the facts for its record.

    Parameters
    ----------
    image : uint8 or uint16 array
        I2, the picture that leaves the hospital.
    marked_hash, released_hash, cover_hash : bytes
        32 bytes each; the cover's is salted.
    salt : bytes
        16 bytes.
    psnr : float
        dB.
    gain : int
    short : bool
        The short form of W2.
    roi_mode : str
    roi_share : float
        Share of the picture's pixels in the region of interest.
    """

    image: Samples = field(repr=False)
    marked_hash: bytes
    released_hash: bytes
    cover_hash: bytes
    salt: bytes = field(repr=False)
    psnr: float
    gain: int
    short: bool
    roi_mode: str = OFF
    roi_share: float = 0.0

    @classmethod
    def of(cls, marked: Marked) -> Held:
        """What must be kept of a marking's result."""
        image = np.ascontiguousarray(marked.image)
        hashes = (marked.marked_hash, marked.released_hash, marked.cover_hash, marked.salt)
        return cls(image, *hashes, marked.psnr, marked.gain, marked.short, marked.roi_mode, marked.roi_share)


class HeldFolder:
    """One file per held picture.

    Parameters
    ----------
    path : Path
        Made if absent, readable by the owner only.

    Raises
    ------
    StateError
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_private(path)

    def save(self, job: str, held: Held) -> None:
        """Store a picture durably; on return it is on the disk."""
        facts = {name: getattr(held, name).hex() for name in _HASHES}
        rest: dict[str, object] = {
            "psnr": held.psnr if math.isfinite(held.psnr) else None,
            "gain": held.gain,
            "short": held.short,
        }
        rest |= {"roi_mode": held.roi_mode, "roi_share": held.roi_share}
        buffer = io.BytesIO()
        np.savez(buffer, image=held.image, facts=np.frombuffer(json.dumps(facts | rest).encode(), np.uint8))
        try:
            store(self._file(job), buffer.getvalue(), True)
        except MediaError as error:
            raise StateError(f"{self._file(job)}: {error}") from None

    def load(self, job: str) -> Held | None:
        """A held picture; None where there is none.

        Raises
        ------
        StateError
            The file is damaged.
        """
        file = self._file(job)
        try:
            with np.load(file, allow_pickle=False) as content:
                image, facts = content["image"], json.loads(content["facts"].tobytes())
            held = Held(
                image=image,
                marked_hash=bytes.fromhex(facts["marked_hash"]),
                released_hash=bytes.fromhex(facts["released_hash"]),
                cover_hash=bytes.fromhex(facts["cover_hash"]),
                salt=bytes.fromhex(facts["salt"]),
                psnr=math.inf if facts["psnr"] is None else float(facts["psnr"]),
                gain=int(facts["gain"]),
                short=bool(facts["short"]),
                # a picture held by a former version has neither
                roi_mode=str(facts.get("roi_mode", OFF)),
                roi_share=float(facts.get("roi_share", 0.0)),
            )
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged archive raises errors of many kinds
            raise StateError(
                f"{file}: damaged ({type(error).__name__}); remove it, then mark the picture again"
            ) from None
        if content_hash(held.image) != held.released_hash:
            raise StateError(f"{file}: damaged, its picture has another hash; remove it, then mark the picture again")
        return held

    def has(self, job: str) -> bool:
        """Whether a picture is held for this job."""
        return self._file(job).exists()

    def remove(self, job: str) -> None:
        """Forget a picture that has left; twice is once."""
        try:
            self._file(job).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{self._file(job)}: cannot be removed ({error.strerror})") from None

    def _file(self, job: str) -> Path:
        return self.path / f"{job}.npz"


def held_hashes(folder: Path) -> frozenset[bytes]:
    """Content hashes of the pictures that wait in a folder, which need not be there; damaged files are left out."""
    found = set()
    for file in folder.glob("*.npz"):
        # a damaged archive raises errors of many kinds; it is named when its picture is needed
        with contextlib.suppress(Exception), np.load(file, allow_pickle=False) as content:
            found.add(bytes.fromhex(json.loads(content["facts"].tobytes())["released_hash"]))
    return frozenset(found)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter.

    Raises
    ------
    StateError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"{folder}: cannot be made ({error.strerror}); check the hospital's 'state' setting") from None


@contextmanager
def exclusive(
    folder: Path, timeout: float = LOCK_TIMEOUT, waiting: Callable[[], None] | None = None, name: str = MARKING
) -> Iterator[None]:
    """Let one command at a time mark for a hospital, or anchor.

    Parameters
    ----------
    folder : Path
    timeout : float
        Seconds to wait for another one.
    waiting : callable or None
        Called once where there is another one to wait for.
    name : str
        :data:`MARKING` or :data:`ANCHORING`.

    Raises
    ------
    StateError
    """
    make_private(folder)
    doing = name.removesuffix(".lock")
    deadline = time.monotonic() + timeout
    try:
        file = (folder / name).open("w")
    except OSError as error:
        raise StateError(f"{folder / name}: cannot be written ({error.strerror}); check its permissions") from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StateError(
                        f"{folder}: another command has been {doing} for this hospital for {timeout:g} s; "
                        "wait until it has finished"
                    ) from None
                if waiting is not None:
                    waiting()
                    waiting = None
                time.sleep(0.1)
        yield
