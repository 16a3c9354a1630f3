"""What marking gives back for each picture."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medprov_watermark.watermarker import OFF


@dataclass(frozen=True)
class MarkResult:
    """One marked picture; hashes as 0x and hexadecimal digits.

    Parameters
    ----------
    input, output : Path
    hospital : str
        Name in the configuration.
    owner : str
        Chain address.
    payload : str
        24 hexadecimal digits: perceptual hash and serial. It opens the evidence.
    record_id : str
        The record's leaf in the batch.
    record_key : str
        The public name that the payload gives.
    released_hash : str
        Content hash of the marked picture.
    model : str
        SHA-256 of the weights.
    evidence_cid, bundle_cid, manifest_cid : str
    root : str
        Merkle root of the batch.
    transaction : str
    block : int
    time : int
        Time of the block, seconds since 1970.
    height, width, channels, bits : int
    psnr : float
        Of the marked picture against the cover, dB.
    gain : int
    short : bool
        True where the integrity mark had no room for cover hash and signature.
    roi_mode : str
        ``"off"``, ``"attenuate"`` or ``"strict"``.
    roi_source : str
        Where the region of interest is from: a file, the kind of picture that the network knew, or ``"rule"``.
    roi_share : float
        Share of the picture's pixels in it, 0..1.
    milliseconds : dict of str to float
        ``read``, ``region``, ``mark``, ``seal``, ``store``, ``write`` of this picture, ``anchor`` of the whole batch.
    """

    input: Path
    output: Path
    hospital: str
    owner: str
    payload: str
    record_id: str
    record_key: str
    released_hash: str
    model: str
    evidence_cid: str
    bundle_cid: str
    manifest_cid: str
    root: str
    transaction: str
    block: int
    time: int
    height: int
    width: int
    channels: int
    bits: int
    psnr: float
    gain: int
    short: bool
    roi_mode: str = OFF
    roi_source: str = ""
    roi_share: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        psnr = round(self.psnr, 2) if math.isfinite(self.psnr) else None
        return asdict(self) | {"input": str(self.input), "output": str(self.output), "psnr": psnr}
