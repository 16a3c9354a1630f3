"""Training pictures with masks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from medprov_watermark.training import data, masked  # noqa: E402


def test_folders_with_masks_are_kinds(masked_pictures: Path) -> None:
    collection = masked.load(data.list_images(masked_pictures), 64)
    assert collection.kinds == ("other", "lines", "spots")
    assert collection.size == 7


def test_windows_carry_their_masks(masked_pictures: Path) -> None:
    collection = masked.load(data.list_images(masked_pictures), 64)
    windows, masks, known, kinds = collection.batch(40, random.Random(0))
    assert windows.shape == masks.shape == (40, 1, 64, 64)
    assert windows.dtype == masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert set(kinds.tolist()) == {0, 1, 2}
    assert not known[kinds == 0].any()
    assert not masks[~known].any()
    for window, mask in zip(windows[known], masks[known] > 0, strict=True):
        if 50 < mask.sum() < mask.numel() - 50:
            assert window[mask].mean() < window[~mask].mean()  # what is meant is dark in these pictures


def test_the_generator_decides(masked_pictures: Path) -> None:
    collection = masked.load(data.list_images(masked_pictures), 64)
    first, again, other = (collection.batch(3, random.Random(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_large_pictures_are_brought_down_with_their_masks(tmp_path: Path) -> None:
    for name, top in (("big", 200), ("big_masks", 255)):
        (tmp_path / name).mkdir()
        array = np.zeros((700, 1280), np.uint8)
        array[:, 640:] = top
        Image.fromarray(array).save(tmp_path / name / "one.png")
    picture = masked.read(tmp_path / "big" / "one.png", 1)
    assert picture.mask is not None
    assert picture.grey.shape == picture.mask.shape == (350, 640)
    np.testing.assert_array_equal(picture.grey > 100, picture.mask)


def test_bad_files_are_named_and_left_out(masked_pictures: Path, phantom: Any) -> None:
    Image.fromarray(phantom(40, 90)).save(masked_pictures / "lines_masks" / "lines1.png")
    (masked_pictures / "spots" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.warns(UserWarning) as caught:
        collection = masked.load(data.list_images(masked_pictures), 64)
    assert collection.size == 6
    told = " ".join(str(one.message) for one in caught)
    assert "its mask is 90x40, the picture 120x96" in told
    assert "cut.png: not used for training" in told


def test_pictures_without_any_mask_are_refused(tmp_path: Path, phantom: Any) -> None:
    (tmp_path / "plain").mkdir()
    Image.fromarray(phantom(64, 64)).save(tmp_path / "plain" / "one.png")
    with pytest.raises(ValueError, match="no picture has a mask"):
        masked.load(data.list_images(tmp_path))
    with pytest.raises(ValueError, match="no picture has a mask"):
        masked.load([])
