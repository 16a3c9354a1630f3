"""What marking and reading a picture give."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medprov_watermark.geometry import Geometry
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import Payload
from medprov_watermark.workers import each

_BAND = 512
"""Rows that are worked on at a time."""
Samples = NDArray[np.unsignedinteger]
STRICT, ATTENUATE, OFF = "strict", "attenuate", "off"
"""What happens in a region of interest: no sample changes; W1 is halved; nothing special."""


@dataclass(frozen=True)
class Marked:
    """A marked picture and what its record says about it.

    Parameters
    ----------
    image : array, shape and dtype of the cover
        I2: cover + W1 + W2.
    marked_hash, released_hash : bytes
        Content hashes of I1 and I2, 32 bytes each.
    cover_hash : bytes
        Salted content hash of the cover, 32 bytes.
    salt : bytes
        16 bytes.
    image_mark : ImageMark
    signature : bytes or None
        65 bytes; None without a signer or in the short form.
    psnr : float
        Of I2 against the cover, dB, peak = largest legal sample.
    gain : int
    short : bool
        The short form of W2: no cover hash, no signature.
    robust : bool
        Whether W1 passed the battery of usual attacks (:data:`medprov_watermark.battery.USUAL`); small and hard
        pictures may be marked without, and marks that were tuned quickly have not been tried.
    roi_mode : str
        ``"strict"``, ``"attenuate"`` or ``"off"``.
    roi_share : float
        Share of the picture's pixels in the cells of the region, 0..1.
    """

    image: Samples
    marked_hash: bytes
    released_hash: bytes
    cover_hash: bytes
    salt: bytes
    image_mark: ImageMark
    signature: bytes | None
    psnr: float
    gain: int
    short: bool
    robust: bool
    roi_mode: str = OFF
    roi_share: float = 0.0


@dataclass(frozen=True)
class Integrity:
    """What W2 says.

    Parameters
    ----------
    state : str
        ``"intact"``: not one sample has changed since marking. ``"broken"``: there is a W2, but it does not fit the
        picture. ``"absent"``: there is none.
    image_mark : ImageMark or None
        The signed statement; None in the short form and where the model is not the one loaded.
    signature : bytes or None
    payload : Payload or None
    reason : str
        Why it is not intact.
    other_model : bytes
        Of an intact mark that another model than the loaded one has made: the first 8 bytes of that model's hash.
    """

    state: str
    image_mark: ImageMark | None = None
    signature: bytes | None = None
    payload: Payload | None = None
    reason: str = ""
    other_model: bytes = b""


@dataclass(frozen=True)
class Extraction:
    """What a picture says about itself.

    Parameters
    ----------
    payload : Payload or None
        Read from W1; None where the pilots find no mark or the codeword is beyond repair.
    soft_bits : float32 array (CODE,)
        Answers of the code carriers, in standard deviations of an unmarked carrier.
    presence : float
        Pilot score in standard deviations.
    present : bool
        Whether a mark is there: the pilots alone, or pilots and codeword together, are too good to be chance.
    false_alarm : float
        How many places, angles and sizes would be expected to give such pilots on an unmarked picture.
    geometry : Geometry
    corrected : int
        Codeword bits that were wrong.
    integrity : Integrity
    """

    payload: Payload | None
    soft_bits: NDArray[np.float32]
    presence: float
    present: bool
    false_alarm: float
    geometry: Geometry
    corrected: int
    integrity: Integrity


def salted(salt: bytes, cover: bytes) -> bytes:
    """The cover hash that a record shows: SHA3-256 of salt and content hash."""
    return hashlib.sha3_256(salt + cover).digest()


def psnr(a: Samples, b: Samples, peak: int) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""

    def squares(top: int) -> float:
        change = (a[top : top + _BAND].astype(np.float32) - b[top : top + _BAND]).ravel()
        return float(np.square(change, out=change).sum(dtype=np.float64))

    error = sum(each(squares, range(0, len(a), _BAND))) / a.size
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)
