"""A hospital's folder as training reads it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from medprov_watermark.training.pictures import list_pictures, load_pictures, read_picture
from medprov_watermark.training.tasks.base import TaskError


def picture(seed, shape=(80, 90)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (100 + 40 * np.sin(x / 9 + seed) + 0.5 * y + rng.normal(0, 3, shape)).clip(0, 255).astype(np.uint8)


def different(found):
    """Pictures of both splits; which file is held back depends on the folder's name, which pytest draws."""
    return {picture.numpy().tobytes() for picture in [*found.train, *found.held_back]}


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"patient{i}_1.png")
    return tmp_path


def test_folder_is_read_and_bad_files_are_counted(folder, caplog):
    Image.fromarray(picture(7)).convert("RGB").save(folder / "a.jpg", quality=95)
    Image.fromarray(picture(8).astype(np.uint16) * 200).save(folder / "deep.tif")
    (folder / "deeper").mkdir()
    Image.fromarray(picture(9)).save(folder / "deeper" / "b.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "patient0_1.png").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("not looked at")
    Image.fromarray(picture(1, (20, 300))).save(folder / "narrow.png")
    found = load_pictures(folder)
    assert found.skipped == 4
    assert len(different(found)) == 6
    assert found.train.dtype == torch.uint8 and found.train.shape[1:] == (1, 256, 256)
    assert "empty.png" in caplog.text and "narrow.png" in caplog.text and "notes" not in caplog.text


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_dicom_files_are_read_with_and_without_suffix(tmp_path, name):
    data = Path(get_testdata_file(name)).read_bytes()
    for target in ("image.dcm", "IM0001", "1.2.840.113619"):
        (tmp_path / target).write_bytes(data)
        grey = read_picture(tmp_path / target)
        assert grey.dtype == np.uint8 and grey.ndim == 2
        assert grey.max() == 255 and grey.min() == 0
    assert len(list_pictures(tmp_path)) == 3


def test_broken_dicom_is_skipped(folder):
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (folder / "cut.dcm").write_bytes(data[:2000])
    (folder / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (folder / "none.dcm").write_bytes(b"")
    assert load_pictures(folder).skipped == 3


def test_picture_larger_than_pillow_allows_is_skipped(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(TaskError, match="no usable picture among 3"):
        load_pictures(folder)


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(TaskError, match="no such folder"):
        load_pictures(tmp_path / "none")
    with pytest.raises(TaskError, match="no usable picture"):
        load_pictures(tmp_path)


def test_limit_takes_a_fixed_selection(folder):
    first = load_pictures(folder, limit=2)
    assert len(different(first)) == 2
    assert torch.equal(first.train, load_pictures(folder, limit=2).train)


def test_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture(1)).save(path)
    before = load_pictures(tmp_path).train
    Image.fromarray(picture(2, (200, 200))).save(path)
    assert not torch.equal(before, load_pictures(tmp_path).train)
