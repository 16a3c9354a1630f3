"""From a training checkpoint to a release: one safetensors file, one ONNX extractor, both under one name.

The safetensors file holds the averaged float parameters of both networks; the marking side quantises the coupling
network from it, a federated round starts from it, and its SHA-256 is the name of the model version. The ONNX file is
the extractor of the same parameters for ONNX Runtime and carries that hash in its metadata.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from safetensors.torch import save
from torch import Tensor

from medprov_watermark import carriers as cr
from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import exchange
from medprov_watermark.training.loop import Model, Settings
from medprov_watermark.training.networks import ReleasedExtractor
from medprov_watermark.training.tasks.watermark import marking_weights, model_of

_OPSET = 18


def release_bytes(model: Model) -> bytes:
    """The safetensors file of a model: all parameters, sorted by name, float32."""
    tensors = {k: v.detach().float().contiguous().cpu() for k, v in sorted(model.state_dict().items())}
    return save(tensors)


def extractor_onnx(model: Model, model_hash: str) -> bytes:
    """The extractor as an ONNX file: input ``picture`` (B, 1, SIZE, SIZE), output ``white`` (B, SIZE, SIZE)."""
    extractor = ReleasedExtractor(model.extractor).float().cpu().eval()
    extractor.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example: Tensor = torch.rand(2, 1, cr.SIZE, cr.SIZE) * 255
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but writes a plain graph that needs no further library.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            extractor,
            (example,),
            buffer,  # type: ignore[arg-type]
            input_names=["picture"],
            output_names=["white"],
            dynamic_axes={"picture": {0: "batch"}, "white": {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    for key, value in (("model", model_hash), ("carriers", cr.digest())):
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def write_release(model: Model, folder: Path, name: str) -> str:
    """Write ``NAME.safetensors`` and ``NAME.onnx``; returns the model hash (hex)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = release_bytes(model)
    model_hash = hashlib.sha256(weights).hexdigest()
    (folder / f"{name}.safetensors").write_bytes(weights)
    (folder / f"{name}.onnx").write_bytes(extractor_onnx(model, model_hash))
    return model_hash


def model_of_weights(path: Path) -> Model:
    """The model of a safetensors file, such as a federation's round; a discriminator in it is left out.

    Raises
    ------
    WatermarkError
        Not the weights of these networks.
    """
    try:
        arrays = marking_weights(exchange.from_safetensors(path.read_bytes()))
        settings = Settings(
            channels=len(arrays["coupling.picture.weight"]),
            blocks=len({n.split(".")[2] for n in arrays if n.startswith("coupling.body.")}),
            extractor_blocks=len({n.split(".")[2] for n in arrays if n.startswith("extractor.body.")}),
        )
        return model_of(settings, arrays)
    except (OSError, KeyError, ValueError, RuntimeError, exchange.ExchangeError) as error:
        raise WatermarkError(f"{path}: not the weights of the watermark networks ({error})") from error


def model_of_checkpoint(path: Path) -> tuple[Model, dict[str, object]]:
    """The averaged model of a checkpoint and its settings and progress."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = Model(Settings(**state["settings"]))
    model.load_state_dict(state["average"])
    return model.eval(), {"settings": state["settings"], "progress": state["progress"]}
