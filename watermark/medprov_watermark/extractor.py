"""The extractor: picture -> answer of every written carrier, by ONNX Runtime."""

from __future__ import annotations

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
from medprov_watermark.resample import TABLE_BITS, table

TRIM = 0.001
"""Share of the darkest and of the brightest samples of a deep picture that is clipped before extraction."""


def working_picture(image: NDArray[np.unsignedinteger]) -> NDArray[np.float32]:
    """Luminance at the working size.

    Parameters
    ----------
    image : uint8 or uint16 array (H, W) or (H, W, 3)

    Returns
    -------
    float32 array (SIZE, SIZE)
        0..255. Eight-bit pictures keep their grey values; deeper ones are stretched between their extreme
        quantiles, so that one burnt pixel does not flatten the rest.
    """
    grey = luminance(image).astype(np.float64)
    if image.dtype != np.uint8:
        low, high = np.quantile(grey, [TRIM, 1 - TRIM])
        grey = (np.clip(grey, low, high) - low) * (255 / max(1.0, high - low))
    height, width = grey.shape
    small = table(height, cr.SIZE) @ grey @ table(width, cr.SIZE).T
    return (small * 2.0 ** (-2 * TABLE_BITS)).astype(np.float32)


class Extractor:
    """A released extractor.

    Parameters
    ----------
    path : Path
        ONNX file.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"auto"`` (CUDA where ONNX Runtime has it).
    threads : int or None
        Threads of ONNX Runtime; None takes all cores.

    Raises
    ------
    WeightsError
        The file is missing or damaged, names other carriers, or the device is not there.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
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
        if meta.get("carriers") != cr.digest():
            raise WeightsError(f"{path}: made for other carriers than this version of medprov-watermark has")

    def __call__(self, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answers of the code carriers and pilots.

        Parameters
        ----------
        pictures : float32 array (B, SIZE, SIZE)
            What :func:`working_picture` gives.

        Returns
        -------
        float32 array (B, WRITTEN)
            In standard deviations of an unmarked carrier, which the coefficients of the null carriers give.
        """
        (answers,) = self._session.run(None, {"picture": pictures[:, None]})
        return np.asarray(answers, np.float32)
