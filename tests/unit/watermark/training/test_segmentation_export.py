"""From a checkpoint of ``train-roi`` to a network that ONNX Runtime reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medprov_watermark.roi import Finder  # noqa: E402
from medprov_watermark.roi_picture import standardised  # noqa: E402
from medprov_watermark.training import data, masked, segmentation_export  # noqa: E402
from medprov_watermark.training.segmentation import Settings, Trainer, answer  # noqa: E402


@pytest.fixture
def checkpoint(masked_pictures: Path, tmp_path: Path) -> Path:
    collection = masked.load(data.list_images(masked_pictures), 64)
    trainer = Trainer(collection, Settings(steps=3, batch=2, widths=(4, 6, 8, 8)), torch.device("cpu"))
    trainer.step()
    trainer.save(tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def test_the_released_network_answers_as_the_averaged_one(checkpoint: Path, tmp_path: Path) -> None:
    path = segmentation_export.write_release(checkpoint, tmp_path / "new" / "folder", "tiny")
    assert path == tmp_path / "new" / "folder" / "tiny.onnx"
    finder = Finder(path, threads=1)
    network, kinds = segmentation_export.network_of_checkpoint(checkpoint)
    assert finder.kinds == kinds == ["other", "lines", "spots"]
    for shape in ((96, 120), (33, 47), (64, 16)):
        picture = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
        region, kind, certainty = finder.answer(picture)
        wanted, probabilities = answer(network, torch.from_numpy(standardised(picture)))
        np.testing.assert_allclose(region, wanted.numpy(), atol=1e-4)
        assert kind == kinds[int(probabilities.argmax())]
        assert certainty == pytest.approx(float(probabilities.max()), abs=1e-4)


def test_the_bytes_depend_on_the_parameters_alone(checkpoint: Path) -> None:
    first, again = (
        segmentation_export.onnx_bytes(*segmentation_export.network_of_checkpoint(checkpoint)) for _ in "ab"
    )
    assert first == again
