"""A hospital's part in a round: reading its folder, training, measuring, and what it refuses."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from medprov_node import task
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Model, Settings

SMALL = Settings(steps=10, batch=2, channels=8, blocks=1, extractor_blocks=1)


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


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(3)
    return ex.state_of(Model(SMALL))


def assignment(weights, **changes):
    values = {
        "number": 1,
        "attempt": 1,
        "base": ex.model_hash(weights),
        "federation": ex.NO_FEDERATION,
        "steps": 1,
        "settings": SMALL,
        "curriculum": ex.Curriculum(step=2, db=35.0),
    }
    return ex.Assignment(**{**values, **changes})


@pytest.fixture(scope="module")
def pictures():
    train = torch.from_numpy(np.stack([picture(i, (256, 256)) for i in range(2)]))[:, None]
    return task.Pictures(train, train[:1], 0)


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
    found = task.load_pictures(folder)
    assert found.skipped == 4
    assert len(different(found)) == 6
    assert found.train.dtype == torch.uint8 and found.train.shape[1:] == (1, 256, 256)
    assert "empty.png" in caplog.text and "narrow.png" in caplog.text and "notes" not in caplog.text


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_dicom_files_are_read_with_and_without_suffix(tmp_path, name):
    data = Path(get_testdata_file(name)).read_bytes()
    for target in ("image.dcm", "IM0001", "1.2.840.113619"):
        (tmp_path / target).write_bytes(data)
        grey = task.read_picture(tmp_path / target)
        assert grey.dtype == np.uint8 and grey.ndim == 2
        assert grey.max() == 255 and grey.min() == 0
    assert len(task.list_pictures(tmp_path)) == 3


def test_broken_dicom_is_skipped(folder):
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    (folder / "cut.dcm").write_bytes(data[:2000])
    (folder / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (folder / "none.dcm").write_bytes(b"")
    assert task.load_pictures(folder).skipped == 3


def test_picture_larger_than_pillow_allows_is_skipped(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(task.TaskError, match="no usable picture among 3"):
        task.load_pictures(folder)


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(task.TaskError, match="no such folder"):
        task.load_pictures(tmp_path / "none")
    with pytest.raises(task.TaskError, match="no usable picture"):
        task.load_pictures(tmp_path)


def test_limit_takes_a_fixed_selection(folder):
    first = task.load_pictures(folder, limit=2)
    assert len(different(first)) == 2
    assert torch.equal(first.train, task.load_pictures(folder, limit=2).train)


def test_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture(1)).save(path)
    before = task.load_pictures(tmp_path).train
    Image.fromarray(picture(2, (200, 200))).save(path)
    assert not torch.equal(before, task.load_pictures(tmp_path).train)


def test_training_changes_the_weights_and_is_repeatable(weights, pictures):
    first = task.train(assignment(weights), weights, pictures, "a")
    assert first.deltas.keys() == weights.keys()
    assert all(first.deltas[n].shape == weights[n].shape and first.deltas[n].dtype == np.float32 for n in weights)
    assert all(isinstance(delta, np.ndarray) for delta in first.deltas.values())
    assert any(np.abs(delta).max() > 0 for delta in first.deltas.values())
    assert first.examples == 2 and np.isfinite(first.loss) and first.db == 35.0
    again = task.train(assignment(weights), weights, pictures, "a")
    assert ex.model_hash(first.deltas) == ex.model_hash(again.deltas)
    assert (first.loss, first.accuracy) == (again.loss, again.accuracy)


def test_node_attempt_and_seed_set_the_update_apart(weights, pictures):
    hashes = {
        ex.model_hash(task.train(order, weights, pictures, label).deltas)
        for order, label in (
            (assignment(weights), "a"),
            (assignment(weights), "b"),
            (assignment(weights, attempt=2), "a"),
            (assignment(weights, settings=Settings(**{**vars(SMALL), "seed": 5})), "a"),
        )
    }
    assert len(hashes) == 4


def test_random_states_are_left_alone(weights, pictures):
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    task.train(assignment(weights), weights, pictures, "a")
    assert (torch.rand(1), random.random()) == expected


def test_weights_that_the_assignment_does_not_name_are_refused(weights, pictures):
    order = assignment(weights, base=bytes(32))
    with pytest.raises(task.TaskError, match="not those"):
        task.train(order, weights, pictures, "a")
    with pytest.raises(task.TaskError, match="not those"):
        task.evaluate(order, weights, pictures)


def test_weights_of_another_size_are_refused(weights, pictures):
    order = assignment(weights, settings=Settings(**{**vars(SMALL), "channels": 16}))
    with pytest.raises(ex.ExchangeError, match="another size"):
        task.train(order, weights, pictures, "a")


def test_training_that_diverges_is_refused(weights, pictures):
    broken = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    with pytest.raises(task.TaskError, match="diverged"):
        task.train(assignment(broken), broken, pictures, "a")


def test_evaluation_is_repeatable(weights, pictures):
    count, loss, accuracy = task.evaluate(assignment(weights), weights, pictures)
    assert count == 1 and loss > 0 and 0 <= accuracy <= 1
    assert task.evaluate(assignment(weights), weights, pictures) == (count, loss, accuracy)
