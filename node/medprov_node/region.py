"""The region of interest of a picture that is to be marked: from a file, or found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medprov_node.errors import RegionError
from medprov_watermark import roi
from medprov_watermark.errors import MediaError
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import OFF


@dataclass(frozen=True)
class Order:
    """What is asked for the regions of interest of a call's pictures.

    Parameters
    ----------
    mode : str
        ``"off"``, ``"attenuate"`` or ``"strict"`` (:meth:`medprov_watermark.watermarker.DualWatermarker.mark`).
    mask : Path or None
        PNG, TIFF or DICOM segmentation; None finds the region.
    """

    mode: str = OFF
    mask: Path | None = None


@dataclass(frozen=True)
class Chosen:
    """The region of one picture.

    Parameters
    ----------
    mode : str
    mask : bool array (H, W) or None
        None where the mode is ``"off"``.
    source : str
        The mask's file, the kind of picture that the network knew, or ``"rule"``; empty where the mode is ``"off"``.
    """

    mode: str = OFF
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    source: str = ""

    @property
    def digest(self) -> bytes:
        """Tells other regions and modes of the same picture apart; empty where the mode is ``"off"``."""
        if self.mask is None:
            return b""
        return hashlib.sha3_256(self.mode.encode() + b"\0" + np.packbits(self.mask).tobytes()).digest()


class Chooser:
    """Gives each picture of a call its region; loads the network when the first picture needs it."""

    def __init__(self, order: Order) -> None:
        self.order = order

    @cached_property
    def _finder(self) -> roi.Finder:
        return roi.Finder()

    def choose(self, source: Path, pixels: Pixels) -> Chosen:
        """The region of a picture.

        Parameters
        ----------
        source : Path
            For messages.
        pixels : Pixels

        Raises
        ------
        RegionError
            The mask does not suit the picture, or nothing was found.
        """
        if self.order.mode == OFF:
            return Chosen()
        if self.order.mask is not None:
            try:
                mask = roi.read_mask(self.order.mask, pixels)
            except MediaError as error:
                raise RegionError(f"{source}: region of interest refused: {error}") from error
            return Chosen(self.order.mode, mask, str(self.order.mask))
        found = self._finder.find(pixels.array)
        if not found.mask.any():
            raise RegionError(
                f"{source}: region of interest refused: none was found; give a mask, or mark it with --roi off"
            )
        return Chosen(self.order.mode, found.mask, found.kind)
