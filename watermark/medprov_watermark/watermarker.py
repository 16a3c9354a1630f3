"""The dual watermark: one class that marks, reads and restores."""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import battery, coupling, integrity, synchronisation, tuning
from medprov_watermark import body as w2
from medprov_watermark import carriers as cr
from medprov_watermark.coupling import Frozen
from medprov_watermark.detection import FALSE_ALARM, NOTHING, Detection, upright
from medprov_watermark.errors import AlreadyMarkedError, CapacityError, EmbedError, RestoreError
from medprov_watermark.extractor import Reader, grey_picture
from medprov_watermark.geometry import Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark, Signer
from medprov_watermark.integrity import Frame, blocks
from medprov_watermark.integrity.header import MODEL_BYTES
from medprov_watermark.payload import Decoded, Payload, commitment, decode, encode
from medprov_watermark.weights import Release, load_release

FORMAT = 1
MIN_SIDE = 64
"""Smallest height and width of a picture that can be marked."""
STAND_IN = 512
"""Larger pictures are tuned on a stand-in of this longer side."""
MAX_SHIFT = 8
_LAST_DRAW = 1000
LIFTS = 5
"""Tries with more gain when the finished picture falls short of what its stand-in promised."""
_WINDOW = (0.005, 0.995)

Samples = NDArray[np.unsignedinteger]


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
        Whether W1 passed the whole battery of attacks (:mod:`medprov_watermark.battery`); small and hard pictures
        may be marked without.
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
    """

    state: str
    image_mark: ImageMark | None = None
    signature: bytes | None = None
    payload: Payload | None = None
    reason: str = ""


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


def _convincing(seen: Detection, read: Decoded) -> bool:
    """Whether a payload may be believed.

    The pilots' and the codeword's chance are independent on an unmarked picture, so their product lies below p with a
    probability of ``p (1 - log p)``, less than FALSE_ALARM for the bound taken here.
    """
    return seen.present or seen.false_alarm * read.chance <= FALSE_ALARM / 25


def salted(salt: bytes, cover: bytes) -> bytes:
    """The cover hash that a record shows: SHA3-256 of salt and content hash."""
    return hashlib.sha3_256(salt + cover).digest()


def _check_kind(image: Samples) -> None:
    kind = f"{image.dtype} array of shape {image.shape}"
    if image.dtype not in (np.uint8, np.uint16):
        raise EmbedError(f"{kind}: samples must be uint8 or uint16")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise EmbedError(f"{kind}: the shape must be (H, W) or (H, W, 3), at least 64 pixels a side to be marked")


def _largest(image: Samples) -> int:
    """Largest sample that the bits in use can hold."""
    if image.dtype == np.uint8:
        return 255
    return int((1 << max(8, int(image.max()).bit_length())) - 1)


def _window(image: Samples, padding: int | None) -> tuple[int, int]:
    """Base and shift that bring the bulk of a picture's samples into eight bits."""
    if image.dtype == np.uint8:
        return 0, 0
    grey = coupling.luminance(image)
    inside = grey[grey != padding] if padding is not None else grey
    if inside.size == 0:
        return 0, 0
    low, high = (int(q) for q in np.quantile(inside, _WINDOW, method="nearest"))
    return low, max(0, math.ceil(math.log2((high - low + 1) / 256)))


def _stand_in(image: Samples, base: int, shift: int) -> NDArray[np.uint8]:
    """Luminance in eight bits, the longer side at most STAND_IN."""
    shown = np.asarray(np.clip((coupling.luminance(image) - base) >> shift, 0, 255), np.uint8)
    longest = max(shown.shape)
    if longest <= STAND_IN:
        return shown
    size = (max(1, shown.shape[1] * STAND_IN // longest), max(1, shown.shape[0] * STAND_IN // longest))
    return np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BOX), np.uint8)


def psnr(a: Samples, b: Samples, peak: int) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    error = float(np.mean(np.square(a.astype(np.float64) - b)))
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)


class DualWatermarker:
    """Marks, reads and restores pictures with one model version.

    Use :meth:`load`. An instance holds no state of any picture and may be shared.
    """

    def __init__(self, release: Release, key: bytes | None = None) -> None:
        self._release = release
        self._reader = Reader(release.extractor, cr.derive(key))

    @classmethod
    def load(
        cls,
        weights: Path | str | None = None,
        device: str = "auto",
        threads: int | None = None,
        key: bytes | None = None,
    ) -> DualWatermarker:
        """Load released weights.

        Parameters
        ----------
        weights : path or None
            A ``.safetensors`` file with its ``.onnx`` beside it; None takes the release that ships.
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda"``: where the extractor runs. The integers of a mark do not depend on it.
        threads : int or None
            Threads of the extractor.
        key : bytes or None
            A consortium's secret of at least ``carriers.MIN_KEY`` bytes, which deals the coefficients out to other
            carriers: without it W1 cannot be read and the cover not be restored. None: everybody can.

        Raises
        ------
        WeightsError
        ValueError
            The key is too short.
        """
        return cls(load_release(Path(weights) if weights is not None else None, device, threads), key)

    @property
    def model(self) -> bytes:
        """Hash of the loaded weights, 32 bytes."""
        return self._release.model

    def embed(
        self,
        image: Samples,
        payload: Payload,
        signer: Signer | None = None,
        roi: NDArray[np.bool_] | None = None,
        value_range: tuple[int, int] | None = None,
    ) -> Samples:
        """Mark a picture; see :meth:`mark`, whose `image` this returns."""
        return self.mark(image, payload, signer=signer, roi=roi, value_range=value_range).image

    def mark(
        self,
        image: Samples,
        payload: Payload,
        *,
        signer: Signer | None = None,
        roi: NDArray[np.bool_] | None = None,
        value_range: tuple[int, int] | None = None,
        padding: int | None = None,
    ) -> Marked:
        """Put W1 and W2 into a picture and check that both read and that the cover comes back.

        Parameters
        ----------
        image : uint8 or uint16 array (H, W) or (H, W, 3)
            Height and width at least MIN_SIDE.
        payload : Payload
        signer : Signer or None
            Signs the image mark; None leaves W2 unsigned.
        roi : bool array (H, W) or None
            True where no sample may change; widened to the blocks of a 16 x 16 grid.
        value_range : (int, int) or None
            Legal samples. None: 0 to the largest value that the bits in use can hold.
        padding : int or None
            Sample value that means "no pixel here"; such samples never change.

        Raises
        ------
        AlreadyMarkedError
            There is a mark already.
        CapacityError
            W2 does not fit.
        EmbedError
            The picture is of another kind or too small, or the mark cannot be read in it.
        """
        self._check(image)
        legal = value_range or (0, _largest(image))
        if not 0 <= legal[0] < legal[1] <= np.iinfo(image.dtype).max:
            raise EmbedError(f"legal range {legal[0]}..{legal[1]} does not fit {image.dtype}")
        if padding is not None and not 0 <= padding <= 0xFFFF:
            raise EmbedError(f"padding value {padding} is not within 0..65535")
        if roi is not None and (roi.dtype != np.bool_ or roi.shape != image.shape[:2]):
            raise EmbedError(f"region of interest is {roi.dtype} of shape {roi.shape}: give bool of {image.shape[:2]}")
        found = self.extract(image, search=False)
        if found.payload is not None or found.integrity.state == "intact":
            seen = found.integrity.payload or found.payload
            serial = seen.serial.hex() if seen else "?"
            raise AlreadyMarkedError(f"the picture is marked already (serial {serial}); restore it to mark it anew")
        signs = self._signs(payload)
        area = None if roi is None else blocks.from_mask(roi)
        mask = None if area is None else blocks.to_mask(area, image.shape[:2])
        if mask is not None and mask.all():
            raise EmbedError("region of interest covers every block of the picture: nothing is left to mark")
        salt = secrets.token_bytes(16)
        base, shift = _window(image, padding)
        tuned = self._tune(image, signs, base, shift, mask)
        if not tuned.reads:
            raise EmbedError("the mark cannot be read in this picture at any strength: it is too flat or too busy")
        gain = tuned.gain
        finished: list[Marked] = []
        for _ in range(LIFTS):
            frozen = Frozen(gain, base, shift, legal, padding, mask, self._reader.carriers)
            marked = self._write(image, payload, signs, tuned, frozen, area, signer, salt)
            if self._reads(marked.image, payload):
                finished.append(marked)
                if self._survives(marked.image, base, shift, signs, tuned.passed):
                    break
            gain = min(tuning.LARGEST_GAIN, int(gain * 1.08) + 1)
        else:
            # W2 and the full size have cost what the stand-in promised; the loudest that reads comes closest
            marked = finished[-1] if finished else marked
        if not finished:
            raise EmbedError("the mark cannot be read in the finished picture: it is too flat or too busy")
        if not np.array_equal(self.restore(marked.image), image):
            raise EmbedError("the finished picture does not restore to its cover: please report this picture")
        return marked

    def _signs(self, payload: Payload) -> NDArray[np.int8]:
        return np.concatenate([encode(payload), self._reader.carriers.pilot_signs]).astype(np.int8)

    def _check(self, image: Samples) -> None:
        _check_kind(image)
        if min(image.shape[:2]) < MIN_SIDE:
            raise EmbedError(f"{image.shape[1]}x{image.shape[0]} pixels: width and height must be at least {MIN_SIDE}")

    def _tune(
        self,
        image: Samples,
        signs: NDArray[np.int8],
        base: int,
        shift: int,
        mask: NDArray[np.bool_] | None,
    ) -> tuning.Tuned:
        shown = _stand_in(image, base, shift)
        if mask is not None and mask.shape != shown.shape:
            size = (shown.shape[1], shown.shape[0])
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)

        return tuning.tune(shown, signs, self._release.network, self._reader, mask)

    def _write(
        self,
        image: Samples,
        payload: Payload,
        signs: NDArray[np.int8],
        tuned: tuning.Tuned,
        frozen: Frozen,
        area: bytes | None,
        signer: Signer | None,
        salt: bytes,
    ) -> Marked:
        coupled = coupling.forward(image, tuning.values_of(tuned.codes, signs), self._release.network, frozen)
        first = coupled.picture.astype(image.dtype)
        cover, marked_hash = content_hash(image), content_hash(first)
        prefix = self.model[:MODEL_BYTES]
        settings = w2.settings_bytes(frozen.gain, frozen.shift, frozen.legal, frozen.padding, area, prefix)
        check = hashlib.sha3_256(cover).digest()[: w2.COVER_CHECK]
        long = w2.Body(payload, frozen.base, tuned.codes, check, coupled.exceptions, salted(salt, cover), None)

        def statement(body: w2.Body) -> ImageMark:
            rest = w2.rest_hash(body, settings)
            return ImageMark(FORMAT, self.model, commitment(payload), marked_hash, body.cover_hash or bytes(32), rest)

        def hide(body: w2.Body, short: bool) -> Samples:
            return integrity.embed(
                first,
                body.pack(settings, marked_hash),
                legal=frozen.legal,
                padding=frozen.padding,
                gain=frozen.gain,
                shift=frozen.shift,
                model=prefix,
                roi=frozen.roi,
                short=short,
            )

        mark = statement(long)
        signature = signer(mark) if signer else None
        if signature is not None and len(signature) != w2.SIGNATURE:
            raise EmbedError(f"the signer gave {len(signature)} bytes: a signature is {w2.SIGNATURE} (r, s, v)")
        try:
            second, short = hide(replace(long, signature=signature), False), False
        except CapacityError as error:
            if frozen.roi is not None:
                raise
            brief = replace(long, cover_hash=None)
            try:
                second, short, signature, mark = hide(brief, True), True, None, statement(brief)
            except CapacityError:
                raise error from None
        return Marked(
            second,
            marked_hash,
            content_hash(second),
            salted(salt, cover),
            salt,
            mark,
            signature,
            psnr(image, second, frozen.legal[1]),
            frozen.gain,
            short,
            bool(tuned.passed.all()),
        )

    def _survives(
        self, image: Samples, base: int, shift: int, signs: NDArray[np.int8], passed: NDArray[np.bool_]
    ) -> bool:
        """Whether the finished picture passes what its stand-in passed, now under other noise."""
        answers = self._reader(*battery.seen(_stand_in(image, base, shift), _LAST_DRAW))
        return bool((tuning.survived(answers, signs, spare=0.0) | ~passed).all())

    def _reads(self, image: Samples, payload: Payload) -> bool:
        found = self.extract(image, search=False)
        return found.payload == payload and found.integrity.state == "intact"

    def extract(self, image: Samples, search: bool = True) -> Extraction:
        """Read both marks of a picture.

        Parameters
        ----------
        image : uint8 or uint16 array (H, W) or (H, W, 3)
            Any content. W2 is read as the picture stands.
        search : bool
            Whether to look for W1 at any angle and in windows too, where none of the eight orientations has it.

        Raises
        ------
        WatermarkError
            The array is no picture of this kind.
        """
        _check_kind(image)
        grey = grey_picture(image)
        best, decoded = NOTHING, None
        for stage in (upright, synchronisation.rotated, synchronisation.windows):
            for seen in stage(grey, self._reader):
                read = decode(seen.soft_bits) if seen.false_alarm < 1 else None
                if read is not None and _convincing(seen, read):
                    best, decoded = seen, read
                    break
                if seen.false_alarm < best.false_alarm:
                    best = seen
            if decoded is not None or best.present or not search:
                break
        return Extraction(
            decoded.payload if decoded else None,
            best.soft_bits,
            best.score,
            best.present or decoded is not None,
            best.false_alarm,
            best.geometry,
            decoded.corrected_bits if decoded else 0,
            self.integrity(image),
        )

    def integrity(self, image: Samples) -> Integrity:
        """Read W2 alone."""
        opened = self._open(image)
        if isinstance(opened, Integrity):
            return opened
        frame, body, settings, marked_hash = opened
        mark = None
        if body.cover_hash is not None and frame.header.model == self.model[: len(frame.header.model)]:
            rest = w2.rest_hash(body, settings)
            mark = ImageMark(FORMAT, self.model, commitment(body.payload), marked_hash, body.cover_hash, rest)
        return Integrity("intact", mark, body.signature, body.payload)

    def _open(self, image: Samples) -> Integrity | tuple[Frame, w2.Body, bytes, bytes]:
        frame = integrity.extract(image)
        if frame is None:
            return Integrity("absent", reason="no integrity mark")
        if frame.body is None:
            return Integrity("broken", reason=frame.reason or "the frame was changed after marking")
        try:
            body, raw, check = w2.parse(frame.body)
        except w2.BodyError as error:
            return Integrity("broken", reason=f"integrity mark: {error}")
        header = frame.header
        settings = w2.settings_bytes(header.gain, header.shift, header.legal, header.padding, header.roi, header.model)
        marked_hash = content_hash(frame.image)
        if w2.mark_check(settings, raw, marked_hash) != check:
            return Integrity("broken", payload=body.payload, reason="samples were changed after marking")
        return frame, body, settings, marked_hash

    def restore(self, marked: Samples) -> Samples:
        """Bring the cover back, bit for bit.

        Raises
        ------
        RestoreError
            There is no mark, the picture has changed since marking, or another model made the mark.
        """
        opened = self._open(marked)
        if isinstance(opened, Integrity):
            raise RestoreError(f"the cover cannot be restored: {opened.reason}; only the untouched picture restores")
        frame, body, _, _ = opened
        header = frame.header
        if header.shift > MAX_SHIFT:
            raise RestoreError(f"the cover cannot be restored: shift {header.shift} is forged, 8 is the largest")
        if header.model != self.model[: len(header.model)]:
            raise RestoreError(
                f"the cover cannot be restored: marked by model {header.model.hex()}..., loaded is "
                f"{self.model[:8].hex()}...; load that model's weights"
            )
        signs = self._signs(body.payload)
        values = tuning.values_of(body.codes, signs)
        frozen = Frozen(
            header.gain, body.base, header.shift, header.legal, header.padding, frame.roi, self._reader.carriers
        )
        if body.exceptions.size and body.exceptions[-1] >= frame.image.shape[0] * frame.image.shape[1]:
            raise RestoreError("the cover cannot be restored: the integrity mark names pixels outside the picture")
        cover = coupling.inverse(frame.image, values, body.exceptions, self._release.network, frozen)
        if cover.min() < 0 or cover.max() > np.iinfo(marked.dtype).max:
            raise RestoreError("the cover cannot be restored: samples leave their range; the mark is forged or damaged")
        back = cover.astype(marked.dtype)
        if hashlib.sha3_256(content_hash(back)).digest()[: w2.COVER_CHECK] != body.cover_check:
            raise RestoreError("the cover cannot be restored: its check differs; the mark is forged or damaged")
        return back
