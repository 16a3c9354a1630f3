"""The region of interest of a picture: what a doctor looks at, where the mark shall be faint or absent.

A small network knows the kinds of pictures that it was trained on (vessels of the retina and of the heart, lesions in
ultrasound, nuclei in stained tissue). Where it does not know the kind, or finds nothing, a plain rule takes what stands
out. Neither is a diagnosis; a mask that a doctor or a better program made (:func:`read_mask`) goes before both.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

# Before ONNX Runtime is imported: a hospital's software calls nobody unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from medprov_watermark.coupling import luminance
from medprov_watermark.errors import WeightsError
from medprov_watermark.media.masks import read as read_mask
from medprov_watermark.roi_picture import padded, scaled, standardised
from medprov_watermark.weights import FOLDER

__all__ = ["RELEASE", "RULE", "Finder", "Region", "by_rule", "dice", "read_mask"]

RELEASE = "medprov-roi-1"
"""Name of the network that ships."""
RULE = "rule"
"""Kind of a region that the rule found."""
_FORMAT = "1"
_UNKNOWN = "other"
_SURE = 0.5
"""Probability of the kind from which the network is believed, and of a pixel from which it belongs to the region."""
_LEAST = 0.0005
"""Share of the picture below which the network has found nothing."""
_TRIM = 0.001

_RULE_SIDE = 128
"""The rule looks at the picture at this longer side."""
_SMOOTH = 1 / 64
"""Spread of the Gaussian, in longer sides."""
_DARK = 0.06
"""Share of the contrast above the darkest grey that counts as background where it reaches the border."""
_CENTRE = 0.3
"""Spread of the weight of the centre, in sides."""
_MOST = 0.25
"""Largest share of the picture that the rule takes."""

Samples = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Region:
    """A region of interest.

    Parameters
    ----------
    mask : bool array (H, W)
        Of the picture's height and width.
    kind : str
        What the network took the picture for (the names of its training folders), or ``"rule"``.
    certainty : float
        Probability that the network gives to its most likely kind, 0..1.
    """

    mask: NDArray[np.bool_]
    kind: str
    certainty: float

    @property
    def share(self) -> float:
        """Share of the picture's pixels."""
        return float(self.mask.mean())


def dice(found: NDArray[np.bool_], meant: NDArray[np.bool_]) -> float:
    """Overlap of two masks (Dice, Ecology 26(3), 1945): twice the common pixels by the sum of both; 1 for two empty."""
    both = int(found.sum()) + int(meant.sum())
    return 2 * int((found & meant).sum()) / both if both else 1.0


def by_rule(image: Samples) -> NDArray[np.bool_]:
    """What stands out by its brightness, the centre before the border.

    Saliency is the distance of the smoothed grey value from the mean of all that is not background or its edge (after
    Achanta et al., Frequency-tuned salient region detection, CVPR 2009), weighed by a Gaussian about the centre (Judd
    et al., ICCV 2009); the threshold is Otsu's (IEEE SMC 9(1), 1979), raised where more than a quarter of the picture
    would be taken. Background is what is dark and joined to the border. Specks are opened away.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)

    Returns
    -------
    bool array (H, W)
        Empty where nothing stands out.
    """
    shown = _shown(image)
    height, width = shown.shape
    scale = min(1.0, _RULE_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(shown).resize(size, Image.Resampling.BOX)
    grey = np.asarray(small.filter(ImageFilter.GaussianBlur(max(size) * _SMOOTH)), np.float64)
    low, high = float(grey.min()), float(grey.max())
    nothing = np.zeros((height, width), np.bool_)
    if high - low < 1:
        return nothing
    inside = _without_edge(~_background(grey <= low + _DARK * (high - low)), 2 * math.ceil(max(size) * _SMOOTH))
    if not inside.any() or np.ptp(grey[inside]) == 0:
        return nothing
    saliency = np.where(inside, np.abs(grey - grey[inside].mean()), 0)
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in grey.shape)
    saliency *= np.exp(-(y[:, None] ** 2 + x**2) / (2 * _CENTRE**2))
    least = max(_otsu(saliency[inside]), float(np.quantile(saliency, 1 - _MOST)))
    taken = Image.fromarray(saliency > least).convert("L")
    opened = taken.filter(ImageFilter.MinFilter(3)).filter(ImageFilter.MaxFilter(3))
    return np.asarray(opened.resize((width, height), Image.Resampling.NEAREST)) > 0


class Finder:
    """Finds regions of interest with the network that ships, or another of its format.

    Parameters
    ----------
    path : path or None
        ONNX file; None takes the one that ships.
    threads : int or None
        Threads of ONNX Runtime; None takes all cores.

    Raises
    ------
    WeightsError
        The file is missing, damaged or of another format.
    """

    def __init__(self, path: Path | str | None = None, threads: int | None = None) -> None:
        file = FOLDER / f"{RELEASE}.onnx" if path is None else Path(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no public base class
            raise WeightsError(f"{file}: not a readable ONNX network; install medprov-watermark again") from error
        meta = self._session.get_modelmeta().custom_metadata_map
        if meta.get("medprov roi") != _FORMAT:
            raise WeightsError(f"{file}: no network for regions of interest of format {_FORMAT}; take another file")
        self.kinds: list[str] = json.loads(meta["kinds"])

    def answer(self, image: Samples) -> tuple[NDArray[np.float32], str, float]:
        """What the network says: probability of each pixel, float32 (H, W); the kind; its probability."""
        shown = _shown(image)
        small = scaled(shown)
        given = padded(standardised(small))[None, None]
        region, kinds = self._session.run(None, {"picture": given})
        found = np.ascontiguousarray(region[0, 0, : small.shape[0], : small.shape[1]])
        if small.shape != shown.shape:
            height, width = shown.shape
            found = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR))
        best = int(kinds[0].argmax())
        return found, self.kinds[best], float(kinds[0, best])

    def find(self, image: Samples) -> Region:
        """Find the region of interest.

        Parameters
        ----------
        image : uint8 or uint16 array (H, W) or (H, W, 3)
            Any size.

        Returns
        -------
        Region
            Its mask is empty where nothing was found, as in a picture without contrast.
        """
        found, kind, certainty = self.answer(image)
        mask = found >= _SURE
        if kind == _UNKNOWN or certainty < _SURE or mask.mean() < _LEAST:
            return Region(by_rule(image), RULE, certainty)
        return Region(mask, kind, certainty)


def _shown(image: Samples) -> NDArray[np.uint8]:
    """Luminance in eight bits; deep pictures are stretched between their extreme quantiles."""
    grey = luminance(image)
    if image.dtype == np.uint8:
        return grey.astype(np.uint8)
    low, high = np.quantile(grey, [_TRIM, 1 - _TRIM])
    return np.asarray((np.clip(grey, low, high) - low) * (255 / max(1.0, high - low)), np.uint8)


def _background(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The dark places that are joined to the border."""
    framed = Image.fromarray(np.pad(dark, 1, constant_values=True)).convert("L")
    ImageDraw.floodfill(framed, (0, 0), 128)
    return np.asarray(np.asarray(framed)[1:-1, 1:-1] == 128)


def _without_edge(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """An area without its edge, where smoothing has mixed it with the background; unchanged if nothing is left."""
    shrunk = Image.fromarray(inside).convert("L")
    for _ in range(width):
        shrunk = shrunk.filter(ImageFilter.MinFilter(3))
    core = np.asarray(shrunk) > 0
    return core if core.any() else inside


def _otsu(values: NDArray[np.float64]) -> float:
    """The threshold that separates two classes of values best."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])
