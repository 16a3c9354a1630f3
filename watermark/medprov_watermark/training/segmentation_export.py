"""From a checkpoint of ``train-roi`` to the ONNX file that ships: probabilities instead of logits, any picture size."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from medprov_watermark.roi_picture import MULTIPLE
from medprov_watermark.training.segmentation import Network, Settings

FORMAT = "1"
"""Of the file's inputs, outputs and metadata; :mod:`medprov_watermark.roi` reads no other."""
_OPSET = 18


class _Released(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        logits, kinds = self.network(picture)
        return torch.sigmoid(logits), torch.softmax(kinds, 1)


def network_of_checkpoint(path: Path) -> tuple[Network, list[str]]:
    """The averaged network of a checkpoint, and the kinds that it knows."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    settings = Settings(**state["settings"])
    network = Network(settings.widths, len(state["kinds"]), settings.norm)
    network.load_state_dict(state["average"])
    return network.eval(), [str(kind) for kind in state["kinds"]]


def onnx_bytes(network: Network, kinds: list[str]) -> bytes:
    """The network as an ONNX file: ``picture`` (1, 1, H, W) -> ``region`` (1, 1, H, W), ``kind`` (1, kinds)."""
    buffer = io.BytesIO()
    example = torch.zeros(1, 1, 4 * MULTIPLE, 5 * MULTIPLE)
    size = {2: "height", 3: "width"}
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but writes a plain graph that needs no further library.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            _Released(network).float().cpu().eval().to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (example,),
            buffer,  # type: ignore[arg-type]
            input_names=["picture"],
            output_names=["region", "kind"],
            dynamic_axes={"picture": size, "region": size},
            opset_version=_OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    for key, value in (("medprov roi", FORMAT), ("kinds", json.dumps(kinds))):
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def write_release(checkpoint: Path, folder: Path, name: str) -> Path:
    """Write ``NAME.onnx``; returns its path."""
    data = onnx_bytes(*network_of_checkpoint(checkpoint))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    return path
