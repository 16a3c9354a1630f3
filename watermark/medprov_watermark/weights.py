"""Released weights: where they lie, what they are called, how they are loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.errors import WeightsError
from medprov_watermark.extractor import Extractor

FOLDER = Path(__file__).parent / "weights"
RELEASE = "medprov-w1-3"
_PREFIX = "coupling."


@dataclass(frozen=True)
class Release:
    """One model version.

    Parameters
    ----------
    model : bytes
        32 bytes, SHA-256 of the safetensors file.
    network : CouplingNetwork
    extractor : Extractor
    """

    model: bytes
    network: CouplingNetwork
    extractor: Extractor


def released_model() -> bytes:
    """Hash of the weights that ship with this package, 32 bytes."""
    return hashlib.sha256(_read(FOLDER / f"{RELEASE}.safetensors")).digest()


def load_release(weights: Path | None = None, device: str = "auto", threads: int | None = None) -> Release:
    """Load a model version.

    Parameters
    ----------
    weights : Path or None
        A ``.safetensors`` file with its ``.onnx`` beside it; None takes the one that ships.
    device : str
        See :class:`medprov_watermark.extractor.Extractor`.

    Raises
    ------
    WeightsError
        A file is missing or damaged, or the two do not belong together.
    """
    path = weights or FOLDER / f"{RELEASE}.safetensors"
    data = _read(path)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}); fetch the weights again") from error
    model = hashlib.sha256(data).digest()
    network = CouplingNetwork({k.removeprefix(_PREFIX): v for k, v in tensors.items() if k.startswith(_PREFIX)})
    onnx = path.with_suffix(".onnx")
    _read(onnx)
    try:
        extractor = Extractor(onnx, tensors["extractor.frequency"], device, threads)
    except KeyError:
        raise WeightsError(f"{path}: extractor.frequency is missing; fetch the weights again") from None
    if extractor.model != model.hex():
        raise WeightsError(f"{onnx}: extractor of another model than {path.name}; fetch both again")
    return Release(model, network, extractor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: weights cannot be read ({error.strerror}); install them again") from error
