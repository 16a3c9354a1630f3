"""The working picture and the ONNX session."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from medprov_watermark import carriers as cr
from medprov_watermark.errors import WeightsError
from medprov_watermark.extractor import Extractor, working_picture
from medprov_watermark.weights import FOLDER, RELEASE, released_model

ONNX = FOLDER / f"{RELEASE}.onnx"


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(ONNX, "cpu", 1)


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (67, 129), (300, 41), (90, 70, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_working_picture_has_one_size_and_range(shape: tuple[int, ...], dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
    small = working_picture(image)
    assert small.shape == (cr.SIZE, cr.SIZE)
    assert small.dtype == np.float32
    assert small.min() >= 0
    assert small.max() <= 255.001


def test_eight_bit_pictures_keep_their_grey_values() -> None:
    image = np.arange(256, dtype=np.uint8)[None].repeat(256, 0)
    np.testing.assert_array_equal(working_picture(image), image)
    np.testing.assert_array_equal(working_picture(np.full((70, 91), 17, np.uint8)), 17)
    np.testing.assert_array_equal(working_picture(np.stack([image] * 3, axis=-1)), image)


def test_deep_pictures_are_stretched() -> None:
    ramp = np.linspace(1000, 3000, 256 * 256).astype(np.uint16).reshape(256, 256)
    small = working_picture(ramp)
    assert small.min() == pytest.approx(0, abs=0.1)
    assert small.max() == pytest.approx(255, abs=0.1)
    np.testing.assert_allclose(working_picture(ramp * 4 + 7), small, atol=0.2)


def test_one_burnt_pixel_does_not_flatten_a_deep_picture() -> None:
    ramp = np.linspace(1000, 3000, 256 * 256).astype(np.uint16).reshape(256, 256)
    burnt = ramp.copy()
    burnt[9, 9] = 65535
    assert np.median(np.abs(working_picture(burnt) - working_picture(ramp))) < 1


@pytest.mark.parametrize("value", [0, 500, 65535])
def test_a_constant_deep_picture_is_finite(value: int) -> None:
    assert np.isfinite(working_picture(np.full((64, 64), value, np.uint16))).all()


def test_the_layout_in_memory_does_not_matter() -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90), dtype=np.uint8)
    np.testing.assert_array_equal(working_picture(np.asfortranarray(image)), working_picture(image))


def test_answers(extractor: Extractor) -> None:
    pictures = np.random.default_rng(0).uniform(0, 255, (3, cr.SIZE, cr.SIZE)).astype(np.float32)
    answers = extractor(pictures)
    assert answers.shape == (3, cr.WRITTEN)
    assert answers.dtype == np.float32
    assert np.isfinite(answers).all()
    alone = np.concatenate([extractor(picture[None]) for picture in pictures])
    np.testing.assert_allclose(answers, alone, atol=1e-3)
    np.testing.assert_array_equal(extractor(pictures), answers)
    np.testing.assert_allclose(Extractor(ONNX, "cpu", 2)(pictures), answers, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 127.0, 255.0])
def test_flat_pictures_give_finite_answers(extractor: Extractor, value: float) -> None:
    assert np.isfinite(extractor(np.full((1, cr.SIZE, cr.SIZE), value, np.float32))).all()


def test_brightness_and_contrast_hardly_matter(extractor: Extractor) -> None:
    picture = np.random.default_rng(0).uniform(50, 150, (1, cr.SIZE, cr.SIZE)).astype(np.float32)
    answers = extractor(picture)
    assert np.corrcoef(extractor(picture * 1.5 + 10)[0], answers[0])[0, 1] > 0.99


def test_it_names_its_model(extractor: Extractor) -> None:
    assert extractor.model == released_model().hex()


def test_auto_falls_back_to_the_processor() -> None:
    assert Extractor(ONNX, "auto", 1).model == released_model().hex()


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 4000])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.onnx"):
        Extractor(path, "cpu", 1)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    path.write_bytes(ONNX.read_bytes()[:-5000])
    with pytest.raises(WeightsError, match=r"weights\.onnx"):
        Extractor(path, "cpu", 1)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.onnx"):
        Extractor(tmp_path / "nowhere.onnx", "cpu", 1)


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_other_carriers_are_refused(digest: str | None, tmp_path: Path) -> None:
    graph = onnx.load(str(ONNX))
    kept = [entry for entry in graph.metadata_props if entry.key != "carriers"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    if digest is not None:
        entry = graph.metadata_props.add()
        entry.key, entry.value = "carriers", digest
    path = tmp_path / "weights.onnx"
    onnx.save(graph, str(path))
    with pytest.raises(WeightsError, match="carriers"):
        Extractor(path, "cpu", 1)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = tmp_path / "weights.onnx"
    shutil.copy(ONNX, path)
    with pytest.raises(WeightsError, match="cuda"):
        Extractor(path, "cuda", 1)
