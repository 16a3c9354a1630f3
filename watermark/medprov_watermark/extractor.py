"""The extractor: picture -> answer of every written carrier, by ONNX Runtime and one matrix product."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Before ONNX Runtime is imported: a hospital's software calls nobody unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from medprov_watermark import carriers as cr
from medprov_watermark.coupling import luminance
from medprov_watermark.errors import WeightsError
from medprov_watermark.resample import TABLE_BITS, resample_rows, table

TRIM = 0.001
"""Share of the darkest and of the brightest samples of a deep picture that is clipped before extraction."""
IMPULSE = 40.0
"""Grey levels by which a lone sample must stand out from all its neighbours to be taken for damage."""
_IMPULSE_SHRINK = 4
_QUANTILE_SAMPLES = 2**18
_BATCH = 16

F32 = NDArray[np.float32]


def grey_picture(image: NDArray[np.unsignedinteger]) -> F32:
    """Luminance on a scale of 0..255, without lone damaged samples.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)

    Returns
    -------
    float32 array (H, W)
        Eight-bit pictures keep their grey values; deeper ones are stretched between their extreme quantiles, so that
        one burnt pixel does not flatten the rest.
    """
    grey = luminance(image).astype(np.float32)
    if image.dtype != np.uint8:
        step = max(1, math.isqrt(grey.size // _QUANTILE_SAMPLES))
        low, high = (float(q) for q in np.quantile(grey[::step, ::step], [TRIM, 1 - TRIM]))
        grey = (np.clip(grey, low, high) - low) * (255 / max(1.0, high - low))
    if min(grey.shape) > 2 and max(grey.shape) < _IMPULSE_SHRINK * cr.SIZE:
        _mend(grey)
    return grey


def _mend(grey: F32) -> None:
    """Replace impulses (salt and pepper) by the median of their neighbours, in place; the border stays.

    A sample counts as one where it leaves the range of all eight neighbours but one by IMPULSE; after H. Hwang,
    R. Haddad, "Adaptive Median Filters", IEEE Trans. Image Processing 4(4), 1995.
    """
    inner = grey[1:-1, 1:-1]
    around = (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]) * 0.25
    rows, columns = np.nonzero(np.abs(inner - around) > IMPULSE / 2)
    if not rows.size:
        return
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    near = np.sort(np.stack([grey[rows + i, columns + j] for i, j in places]), axis=0)
    own = inner[rows, columns]
    lone = (own > near[-2] + IMPULSE) | (own < near[1] - IMPULSE)
    inner[rows[lone], columns[lone]] = (near[3, lone] + near[4, lone]) / 2


def working_picture(image: NDArray[np.unsignedinteger]) -> F32:
    """Luminance at the working size, float32 (SIZE, SIZE), 0..255; see :func:`grey_picture`."""
    return shrunk(grey_picture(image))


def shrunk(grey: F32, side: int = cr.SIZE) -> F32:
    """A grey picture at the working size, float32 (side, side)."""
    small = resample_rows(grey, side) @ table(grey.shape[1], side).T
    return np.asarray(small * 2.0 ** (-2 * TABLE_BITS), np.float32)


class Extractor:
    """A released extractor.

    Parameters
    ----------
    path : Path
        ONNX file.
    frequency : float array (WIDTH, WIDTH)
        Learned weights of the DCT coefficients.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA where ONNX Runtime has it).
    threads : int or None
        Threads of ONNX Runtime; None takes all cores.

    Raises
    ------
    WeightsError
        The file is missing or damaged, names other carriers, or the device is not there.
    """

    def __init__(
        self, path: Path, frequency: NDArray[np.floating], device: str = "auto", threads: int | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Spinning threads make everything else on a shared machine crawl and gain a few per cent at best.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        if device == "cuda" and "CUDAExecutionProvider" not in available:
            raise WeightsError("device cuda: this ONNX Runtime has no CUDA provider; install onnxruntime-gpu")
        wanted = ["CPUExecutionProvider"]
        if device in ("cuda", "auto") and "CUDAExecutionProvider" in available:
            wanted.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # ONNX Runtime's errors have no public base class
            raise WeightsError(f"{path}: not a readable ONNX extractor; install medprov-watermark again") from error
        meta = self._session.get_modelmeta().custom_metadata_map
        self.model = meta.get("model", "")
        if meta.get("carriers") != cr.digest() or [o.name for o in self._session.get_outputs()] != ["white"]:
            raise WeightsError(f"{path}: made for another version of medprov-watermark's carriers or extractor")
        if np.shape(frequency) != (cr.WIDTH, cr.WIDTH) or not np.isfinite(frequency).all():
            raise WeightsError(f"{path}: the weights of frequency beside it have another shape or are not finite")
        self.frequency: F32 = np.asarray(frequency, np.float32)
        self._basis: F32 = (cr.dct_table() / 2.0**cr.DCT_BITS).astype(np.float32)

    def white(self, pictures: F32) -> F32:
        """Pictures without the host, places weighed.

        Parameters
        ----------
        pictures : float32 array (B, SIZE, SIZE)
            What :func:`working_picture` gives.

        Returns
        -------
        float32 array (B, SIZE, SIZE)
        """
        parts = [
            self._session.run(None, {"picture": pictures[i : i + _BATCH, None]})[0]
            for i in range(0, len(pictures), _BATCH)
        ]
        return np.concatenate(parts).astype(np.float32, copy=False)

    def spectra(self, white: F32) -> F32:
        """Weighed DCT coefficients of what :meth:`white` gives, float32 (B, WIDTH, WIDTH)."""
        return np.asarray(self._basis @ white @ self._basis.T * self.frequency, np.float32)

    def template(self, spectrum: NDArray[np.floating]) -> F32:
        """What `white` is correlated with to give the sum of `spectrum` times its coefficients, (SIZE, SIZE)."""
        return np.asarray(self._basis.T @ (spectrum * self.frequency).astype(np.float32) @ self._basis, np.float32)


class Reader:
    """An extractor with the carriers that it shall listen to.

    Parameters
    ----------
    extractor : Extractor
    carriers : Carriers
    """

    def __init__(self, extractor: Extractor, carriers: cr.Carriers) -> None:
        self.extractor, self.carriers = extractor, carriers
        flat = carriers.index[..., 0].astype(np.intp) * cr.WIDTH + carriers.index[..., 1]
        self._flat, self._sign = flat, carriers.sign.astype(np.float32)

    def __call__(self, pictures: F32, shown: NDArray[np.bool_] | None = None) -> F32:
        """Answers of the code carriers and pilots of upright pictures, see :meth:`answers`.

        Parameters
        ----------
        pictures : float32 array (B, SIZE, SIZE)
        shown : bool array (B, SIZE, SIZE) or None
            Where the pictures show something; what the extractor says of other places does not count.
        """
        white = self.extractor.white(pictures)
        return self.answers(self.extractor.spectra(white if shown is None else white * shown))

    def answers(self, spectra: F32) -> F32:
        """Answers of the code carriers and pilots.

        An unmarked carrier's answer is a sum of coefficients with signs that know nothing of the picture, so its
        variance is the mean square of such coefficients; the null carriers' coefficients, which are never written,
        give it.

        Parameters
        ----------
        spectra : float32 array (B, WIDTH, WIDTH)

        Returns
        -------
        float32 array (B, WRITTEN)
            In standard deviations of an unmarked carrier.
        """
        parts = spectra.reshape(len(spectra), -1)[:, self._flat] * self._sign
        spread = np.sqrt(np.square(parts[:, cr.WRITTEN :]).mean((1, 2)))
        sums = parts[:, : cr.WRITTEN].sum(2) / np.sqrt(cr.COEFFICIENTS)
        return np.asarray(sums / np.maximum(spread, 1e-6)[:, None], np.float32)
