"""The dual watermark: one class that marks, reads and restores."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import battery, coupling, integrity, synchronisation, tuning
from medprov_watermark import body as w2
from medprov_watermark import carriers as cr
from medprov_watermark import region as regions
from medprov_watermark.coupling import Frozen
from medprov_watermark.detection import Detection, each_way, upright
from medprov_watermark.errors import AlreadyMarkedError, CapacityError, EmbedError, RestoreError
from medprov_watermark.extractor import F32, Reader, grey_picture, shrunk, working_picture
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark, Signer
from medprov_watermark.integrity import Frame
from medprov_watermark.integrity.header import MODEL_BYTES
from medprov_watermark.payload import Payload, commitment, encode
from medprov_watermark.results import (
    ATTENUATE as ATTENUATE,
)
from medprov_watermark.results import (
    OFF as OFF,
)
from medprov_watermark.results import (
    STRICT as STRICT,
)
from medprov_watermark.results import (
    Extraction as Extraction,
)
from medprov_watermark.results import (
    Integrity as Integrity,
)
from medprov_watermark.results import (
    Marked as Marked,
)
from medprov_watermark.results import (
    Samples as Samples,
)
from medprov_watermark.results import (
    psnr as psnr,
)
from medprov_watermark.results import (
    salted as salted,
)
from medprov_watermark.weights import Release, load_release

FORMAT = 2
MIN_SIDE = 64
"""Smallest height and width of a picture that can be marked."""
STAND_IN = 512
"""Larger pictures are tuned on a stand-in of this longer side."""
MAX_SHIFT = 8
_LAST_DRAW = 1000
LOWEST_FLOOR, HIGHEST_FLOOR = 35.0, 55.0
LIFTS = (1.0, 1.04, 1.08, 1.16, 1.3)
"""Gains that are tried in turn when the finished picture falls short of what its stand-in promised."""
LARGE_LIFTS = (1.1, 1.3)
"""The same for pictures that are larger than their stand-in, of which each trial takes a second and most fall short."""
_WINDOW = (0.005, 0.995)

_Opened = tuple[Frame, w2.Body, bytes, bytes]
"""Frame, body, settings and content hash of I1."""


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


class DualWatermarker:
    """Marks, reads and restores pictures with one model version.

    Use :meth:`load`. An instance holds no state of any picture and may be shared.
    """

    def __init__(self, release: Release, key: bytes | None = None) -> None:
        self._release = release
        self._key_id = b"" if key is None else hashlib.sha3_256(b"medprov key id 1" + key).digest()[:8]
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

    @property
    def key_id(self) -> bytes:
        """Tells keys apart, 8 bytes; empty without one. Not for others: a weak key could be guessed from it."""
        return self._key_id

    def embed(
        self,
        image: Samples,
        payload: Payload,
        signer: Signer | None = None,
        roi: NDArray[np.bool_] | None = None,
        value_range: tuple[int, int] | None = None,
        roi_mode: str = STRICT,
    ) -> Samples:
        """Mark a picture; see :meth:`mark`, whose `image` this returns."""
        return self.mark(image, payload, signer=signer, roi=roi, value_range=value_range, roi_mode=roi_mode).image

    def mark(
        self,
        image: Samples,
        payload: Payload,
        *,
        signer: Signer | None = None,
        roi: NDArray[np.bool_] | None = None,
        value_range: tuple[int, int] | None = None,
        padding: int | None = None,
        roi_mode: str = STRICT,
        quick: bool = False,
        floor: float = battery.FLOOR,
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
            Region of interest, widened to the cells of a grid (:mod:`medprov_watermark.region`); W2 keeps out of the
            blocks of a coarser one. Without a single pixel it is no region.
        value_range : (int, int) or None
            Legal samples. None: 0 to the largest value that the bits in use can hold.
        padding : int or None
            Sample value that means "no pixel here"; such samples never change.
        roi_mode : str
            ``"strict"``: not one sample of the region changes. ``"attenuate"``: W1 is halved there. ``"off"``: the
            region is ignored.
        quick : bool
            Tune the mark with two trials and a few attacks only: faster, but not tried against most of what may happen.
        floor : float
            PSNR (dB) at which attacks of the battery are given up rather than quality. It holds for most of them; the
            floors of what every picture meets and of what spoils pictures lie below and above and move with it.
            ``benchmarks/tradeoff.py`` shows what a decibel buys.

        Raises
        ------
        AlreadyMarkedError
            There is a mark already.
        CapacityError
            W2 does not fit, or not beside a strict region.
        EmbedError
            The picture is of another kind or too small, or the mark cannot be read in it.
        """
        self._check(image)
        legal = value_range or (0, _largest(image))
        if not 0 <= legal[0] < legal[1] <= np.iinfo(image.dtype).max:
            raise EmbedError(f"legal range {legal[0]}..{legal[1]} does not fit {image.dtype}")
        if not LOWEST_FLOOR <= floor <= HIGHEST_FLOOR:
            raise EmbedError(f"a floor of {floor} dB is not within {LOWEST_FLOOR:g} to {HIGHEST_FLOOR:g} dB")
        if padding is not None and not 0 <= padding <= 0xFFFF:
            raise EmbedError(f"padding value {padding} is not within 0..65535")
        if roi is not None and (roi.dtype != np.bool_ or roi.shape != image.shape[:2]):
            raise EmbedError(f"region of interest is {roi.dtype} of shape {roi.shape}: give bool of {image.shape[:2]}")
        if roi_mode not in (STRICT, ATTENUATE, OFF):
            raise EmbedError(f"roi_mode {roi_mode!r} is not known: give {STRICT!r}, {ATTENUATE!r} or {OFF!r}")
        found = self.extract(image, search=False)
        if found.payload is not None or found.integrity.state == "intact":
            seen = found.integrity.payload or found.payload
            serial = seen.serial.hex() if seen else "?"
            raise AlreadyMarkedError(f"the picture is marked already (serial {serial}); restore it to mark it anew")
        signs = self._signs(payload)
        cells = None
        if roi is not None and roi_mode != OFF and roi.any():
            cells = regions.from_mask(roi, regions.side_for(image.shape[:2]))
            if roi_mode == STRICT and cells.all():
                raise EmbedError("region of interest covers every block of the picture: nothing is left to mark")
        mask = None if cells is None else regions.to_mask(cells, image.shape[:2])
        attenuate = cells is not None and roi_mode == ATTENUATE
        salt = secrets.token_bytes(16)
        base, shift = _window(image, padding)
        tuned = self._tune(image, signs, base, shift, mask, attenuate, quick, floor)
        why = "it is too flat or too busy"
        if mask is not None and not attenuate:
            why = f"the strict region of interest covers {mask.mean():.0%} of it: make it smaller, or attenuate"
        if not tuned.reads:
            raise EmbedError(f"the mark cannot be read in this picture at any strength: {why}")
        finished: list[tuple[Marked, _Opened]] = []
        cover = content_hash(image)
        for lift in LARGE_LIFTS if max(image.shape[:2]) > STAND_IN else LIFTS:
            gain = min(tuning.LARGEST_GAIN, round(tuned.gain * lift))
            frozen = Frozen(gain, base, shift, legal, padding, mask, self._reader.carriers, attenuate)
            marked = self._write(image, payload, signs, tuned, frozen, cells, signer, salt, cover)
            if finished and marked.psnr < floor:
                break
            opened = self._open(marked.image)
            if not isinstance(opened, Integrity) and self._reads(marked.image, payload):
                kept = quick or self._survives(marked.image, base, shift, signs, tuned.passed)
                finished.append((replace(marked, robust=marked.robust and kept), opened))
                if kept:
                    break
        if not finished:
            raise EmbedError(f"the mark cannot be read in the finished picture: {why}")
        # Where none keeps what the stand-in promised, the loudest that is still good enough comes closest.
        marked, opened = finished[-1]
        if not np.array_equal(self._cover(opened, image.dtype), image):
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
        attenuate: bool,
        quick: bool,
        floor: float,
    ) -> tuning.Tuned:
        shown = _stand_in(image, base, shift)
        if mask is not None and mask.shape != shown.shape:
            size = (shown.shape[1], shown.shape[0])
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)
        allowance = 10 ** ((battery.FLOOR - floor) / 10)
        return tuning.tune(shown, signs, self._release.network, self._reader, mask, quick, attenuate, allowance)

    def _write(
        self,
        image: Samples,
        payload: Payload,
        signs: NDArray[np.int8],
        tuned: tuning.Tuned,
        frozen: Frozen,
        cells: regions.Cells | None,
        signer: Signer | None,
        salt: bytes,
        cover: bytes,
    ) -> Marked:
        coupled = coupling.forward(
            image, tuning.values_of(tuned.codes, tuned.pilots, signs), self._release.network, frozen
        )
        first = coupled.picture.astype(image.dtype)
        marked_hash = content_hash(first)
        prefix = self.model[:MODEL_BYTES]
        strict = None if frozen.attenuate else frozen.roi
        area = None if cells is None or strict is None else regions.block_map(cells)
        settings = w2.settings_bytes(frozen.gain, frozen.shift, frozen.legal, frozen.padding, area, prefix)
        check = hashlib.sha3_256(cover).digest()[: w2.COVER_CHECK]
        long = w2.Body(
            payload, frozen.base, tuned.pilots, tuned.codes, check, coupled.exceptions, salted(salt, cover), None, cells
        )

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
                roi=strict,
                short=short,
            )

        mark = statement(long)
        signature = signer(mark) if signer else None
        if signature is not None and len(signature) != w2.SIGNATURE:
            raise EmbedError(f"the signer gave {len(signature)} bytes: a signature is {w2.SIGNATURE} (r, s, v)")
        try:
            second, short = hide(replace(long, signature=signature), False), False
        except CapacityError as error:
            if strict is not None:
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
            bool(tuned.passed[list(battery.USUAL)].all()),
            OFF if frozen.roi is None else ATTENUATE if frozen.attenuate else STRICT,
            0.0 if frozen.roi is None else float(frozen.roi.mean()),
        )

    def _survives(
        self, image: Samples, base: int, shift: int, signs: NDArray[np.int8], passed: NDArray[np.bool_]
    ) -> bool:
        """Whether the finished picture passes what its stand-in passed, now under other noise."""
        which = np.flatnonzero(passed)
        answers = self._reader(*battery.seen(_stand_in(image, base, shift), _LAST_DRAW, which))
        return bool(tuning.survived(answers, signs, which, spare=0.0).all())

    def _reads(self, image: Samples, payload: Payload) -> bool:
        (standing,) = upright(working_picture(image)[None], self._reader)
        decoded = standing.read()
        return decoded is not None and decoded.payload == payload

    def extract(self, image: Samples, search: bool = True) -> Extraction:
        """Read both marks of a picture; see :meth:`extract_many`."""
        return self.extract_many([image], search)[0]

    def extract_many(self, images: Sequence[Samples], search: bool = True) -> list[Extraction]:
        """Read both marks of pictures, which go through the extractor together.

        Parameters
        ----------
        images : sequence of uint8 or uint16 arrays (H, W) or (H, W, 3)
            Any content and sizes. W2 is read as a picture stands.
        search : bool
            Whether to look for W1 at any angle and in windows too, where none of the eight orientations has it.

        Raises
        ------
        WatermarkError
            An array is no picture of this kind.
        """
        for image in images:
            _check_kind(image)
        greys = [grey_picture(image) for image in images]
        standing = upright(np.stack([shrunk(grey) for grey in greys]), self._reader) if greys else []
        return [self._extraction(*one, search) for one in zip(images, greys, standing, strict=True)]

    def each_way(self, image: Samples) -> list[Detection]:
        """Soft bits in each of the eight orientations; see :func:`medprov_watermark.detection.each_way`.

        Raises
        ------
        WatermarkError
            The array is no picture of this kind.
        """
        _check_kind(image)
        return each_way(shrunk(grey_picture(image)), self._reader)

    def _extraction(self, image: Samples, grey: F32, standing: Detection, search: bool) -> Extraction:
        best, decoded = standing, standing.read()
        if decoded is None and not standing.present and search:
            for stage in (synchronisation.rotated, synchronisation.windows, synchronisation.turned):
                for seen in stage(grey, self._reader):
                    decoded = seen.read()
                    if decoded is not None or seen.false_alarm < best.false_alarm:
                        best = seen
                    if decoded is not None:
                        break
                if decoded is not None or best.present:
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
        other = frame.header.model if frame.header.model != self.model[: len(frame.header.model)] else b""
        if body.cover_hash is not None and not other:
            rest = w2.rest_hash(body, settings)
            mark = ImageMark(FORMAT, self.model, commitment(body.payload), marked_hash, body.cover_hash, rest)
        return Integrity("intact", mark, body.signature, body.payload, other_model=other)

    def _open(self, image: Samples) -> Integrity | _Opened:
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
        if header.roi is not None and (body.region is None or header.roi != regions.block_map(body.region)):
            return Integrity("broken", payload=body.payload, reason="region map and block map contradict each other")
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
        return self._cover(opened, marked.dtype)

    def _cover(self, opened: _Opened, dtype: np.dtype[np.unsignedinteger]) -> Samples:
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
        values = tuning.values_of(body.codes, body.pilots, signs)
        roi = None if body.region is None else regions.to_mask(body.region, frame.image.shape[:2])
        frozen = Frozen(
            header.gain,
            body.base,
            header.shift,
            header.legal,
            header.padding,
            roi,
            self._reader.carriers,
            attenuate=header.roi is None,
        )
        if body.exceptions.size and body.exceptions[-1] >= frame.image.shape[0] * frame.image.shape[1]:
            raise RestoreError("the cover cannot be restored: the integrity mark names pixels outside the picture")
        cover = coupling.inverse(frame.image, values, body.exceptions, self._release.network, frozen)
        if cover.min() < 0 or cover.max() > np.iinfo(dtype).max:
            raise RestoreError("the cover cannot be restored: samples leave their range; the mark is forged or damaged")
        back = cover.astype(dtype)
        if hashlib.sha3_256(content_hash(back)).digest()[: w2.COVER_CHECK] != body.cover_check:
            raise RestoreError("the cover cannot be restored: its check differs; the mark is forged or damaged")
        return back
