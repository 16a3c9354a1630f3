"""Restore the cover of a marked picture, bit for bit; needs neither chain nor store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medprov_ledger.errors import LedgerError
from medprov_node import outputs
from medprov_node.errors import MarkError
from medprov_node.outputs import Job
from medprov_watermark import integrity, media
from medprov_watermark.errors import RestoreError
from medprov_watermark.hashing import content_hash
from medprov_watermark.media import MIN_SIDE
from medprov_watermark.pixels import Samples
from medprov_watermark.watermarker import DualWatermarker


@dataclass(frozen=True)
class RestoreResult:
    """One restored cover; hashes as 0x and hexadecimal digits.

    Parameters
    ----------
    input, output : Path
    marked_hash : str
        Content hash of the marked picture as it was given.
    cover_hash : str
        Content hash of the restored cover, without salt.
    payload : str or None
        24 hexadecimal digits, of the mark that was taken out.
    model : str
        SHA-256 of the weights.
    height, width, channels, bits : int
    changed : int
        Samples that marking had changed.
    milliseconds : dict of str to float
        ``read``, ``restore``, ``write``.
    """

    input: Path
    output: Path
    marked_hash: str
    cover_hash: str
    payload: str | None
    model: str
    height: int
    width: int
    channels: int
    bits: int
    changed: int
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return asdict(self) | {"input": str(self.input), "output": str(self.output)}


Others = Callable[[bytes], DualWatermarker]
"""Gets the first bytes of a model's hash and loads that model, or raises a `LedgerError`."""


def restore_file(
    source: Path, target: Path, *, watermarker: DualWatermarker | None = None, others: Others | None = None
) -> RestoreResult:
    """Take both marks out of a picture.

    Parameters
    ----------
    source, target : Path
    watermarker : DualWatermarker or None
        None loads the weights that ship.
    others : callable or None
        Where another model made the mark; None knows none.

    Raises
    ------
    RestoreError
        The picture has no mark, has changed since marking, or was marked by another model or with another key.
    MediaError, OutputError, WeightsError
    """
    return restore_files([(source, target)], watermarker=watermarker, others=others)[0]


def restore_files(
    jobs: Sequence[Job], *, watermarker: DualWatermarker | None = None, others: Others | None = None
) -> list[RestoreResult]:
    """Take both marks out of several pictures; the first that fails ends it.

    Parameters
    ----------
    jobs : sequence of (Path, Path)
    watermarker : DualWatermarker or None
    others : callable or None

    Raises
    ------
    RestoreError, MediaError, OutputError, WeightsError
    """
    outputs.check(jobs, smallest=MIN_SIDE)
    watermarker = watermarker or DualWatermarker.load()
    return [_restore(source, target, watermarker, others) for source, target in jobs]


def _restore(source: Path, target: Path, watermarker: DualWatermarker, others: Others | None) -> RestoreResult:
    times = [time.perf_counter()]
    pixels = media.read(source)
    times.append(time.perf_counter())
    if others is not None and (prefix := watermarker.integrity(pixels.array).other_model):
        try:
            watermarker = others(prefix)
        except LedgerError as error:
            raise RestoreError(
                f"{source}: marked by model {prefix.hex()}..., which cannot be had ({error}; or "
                "'medprov-node restore --weights FILE')"
            ) from error
    try:
        cover = watermarker.restore(pixels.array)
    except RestoreError as error:
        raise RestoreError(f"{source}: {error}{_advice(pixels.array, watermarker)}") from error
    times.append(time.perf_counter())
    cover_hash = content_hash(cover)
    media.write(target, cover, pixels)
    if content_hash(media.read(target).array) != cover_hash:
        target.unlink(missing_ok=True)
        raise MarkError(f"{target}: did not keep every sample of the cover; write it as .png or .tif")
    times.append(time.perf_counter())
    payload = watermarker.integrity(pixels.array).payload
    height, width = cover.shape[:2]
    stages = zip(("read", "restore", "write"), times, times[1:], strict=False)
    return RestoreResult(
        input=source,
        output=target,
        marked_hash="0x" + content_hash(pixels.array).hex(),
        cover_hash="0x" + cover_hash.hex(),
        payload=payload.data.hex() if payload else None,
        model="0x" + watermarker.model.hex(),
        height=height,
        width=width,
        channels=1 if cover.ndim == 2 else 3,
        bits=pixels.bits,
        changed=int((cover != pixels.array).sum()),
        milliseconds={stage: round(1000 * (end - start), 1) for stage, start, end in stages},
    )


def _advice(image: Samples, watermarker: DualWatermarker) -> str:
    """How to go on where nothing but the model or the key is another one; otherwise nothing helps."""
    frame = integrity.extract(image)
    if frame is None or watermarker.integrity(image).state != "intact":
        return ""
    if frame.header.model != watermarker.model[: len(frame.header.model)]:
        return " ('medprov-node restore --weights FILE')"
    how = "with another consortium key, or with none" if watermarker.key_id else "with a consortium key"
    return f", or the picture was marked {how} ('medprov-node restore --key-file FILE')"
