"""Released weights on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
from safetensors.numpy import load, save

from medprov_watermark.errors import WeightsError
from medprov_watermark.weights import FOLDER, RELEASE, load_release, released_model


@pytest.fixture()
def pair(tmp_path: Path) -> Path:
    for suffix in (".safetensors", ".onnx"):
        shutil.copy(FOLDER / f"{RELEASE}{suffix}", tmp_path / f"copy{suffix}")
    return tmp_path / "copy.safetensors"


def raw(header: dict[str, object], content: bytes = b"") -> bytes:
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + content


def test_the_shipped_release_loads_and_is_named_by_its_hash() -> None:
    release = load_release(device="cpu", threads=1)
    data = (FOLDER / f"{RELEASE}.safetensors").read_bytes()
    assert release.model == released_model() == hashlib.sha256(data).digest()
    assert release.extractor.model == release.model.hex()
    assert release.network.channels <= 64


def test_a_copy_elsewhere_loads(pair: Path) -> None:
    assert load_release(pair, "cpu", 1).model == released_model()


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_missing_file_is_named(pair: Path, suffix: str) -> None:
    gone = pair.with_suffix(suffix)
    gone.unlink()
    with pytest.raises(WeightsError) as caught:
        load_release(pair, "cpu", 1)
    assert str(gone) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        load_release(tmp_path, "cpu", 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        bytes(8),
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 9) + b"not json!",
        raw({"coupling.a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        raw({"coupling.a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 16]}}, bytes(16)),
        raw({"coupling.a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
        raw({"coupling.a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
        raw({"other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    ],
    ids=["empty", "short", "zeros", "huge", "none", "json", "cut", "shape", "bf16", "f8", "other"],
)
def test_a_damaged_safetensors_file_is_refused(pair: Path, content: bytes) -> None:
    pair.write_bytes(content)
    with pytest.raises(WeightsError):
        load_release(pair, "cpu", 1)


def test_a_truncated_safetensors_file_is_refused(pair: Path) -> None:
    pair.write_bytes(pair.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"copy\.safetensors"):
        load_release(pair, "cpu", 1)


def test_one_changed_weight_makes_another_model_and_is_refused(pair: Path) -> None:
    data = bytearray(pair.read_bytes())
    data[-1] ^= 1
    pair.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="another model"):
        load_release(pair, "cpu", 1)


def test_a_missing_tensor_is_refused(pair: Path) -> None:
    tensors = load(pair.read_bytes())
    del tensors["coupling.join.weight"]
    pair.write_bytes(save(tensors))
    with pytest.raises(WeightsError, match="join"):
        load_release(pair, "cpu", 1)


def test_a_damaged_extractor_is_refused(pair: Path) -> None:
    pair.with_suffix(".onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(WeightsError, match=r"copy\.onnx"):
        load_release(pair, "cpu", 1)
