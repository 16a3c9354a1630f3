"""Training pictures on disk."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tifffile

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from medprov_watermark.carriers import SIZE  # noqa: E402
from medprov_watermark.training import data  # noqa: E402


@pytest.fixture()
def folder(tmp_path: Path, phantom) -> Path:  # type: ignore[no-untyped-def]
    (tmp_path / "a" / "scan_masks").mkdir(parents=True)
    Image.fromarray(phantom(90, 120)).save(tmp_path / "a" / "one.png")
    Image.fromarray(phantom(300, 280, seed=1)).save(tmp_path / "two.JPG")
    Image.fromarray(phantom(64, 64)).save(tmp_path / "a" / "scan_masks" / "one.png")
    tifffile.imwrite(tmp_path / "b.tif", phantom(80, 80, 4095))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_listing_is_sorted_and_leaves_masks_and_other_files_out(folder: Path) -> None:
    assert [path.name for path in data.list_images(folder)] == ["one.png", "b.tif", "two.JPG"]
    assert data.list_images(folder / "a" / "scan_masks") == []


def test_loading_gives_squares(folder: Path) -> None:
    tensor = data.load(data.list_images(folder))
    assert tensor.shape == (3, 1, SIZE, SIZE)
    assert tensor.dtype == torch.uint8
    assert all(picture.float().std() > 5 for picture in tensor)


def test_crops_are_added_and_the_seed_decides(folder: Path) -> None:
    paths = data.list_images(folder)
    first, again, other = data.load(paths, 3, 1), data.load(paths, 3, 1), data.load(paths, 3, 2)
    assert first.shape[0] == 9
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[::3], data.load(paths))


def test_the_centred_square_is_taken(tmp_path: Path) -> None:
    wide = np.zeros((SIZE, 3 * SIZE), np.uint8)
    wide[:, SIZE : 2 * SIZE] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (data.load([tmp_path / "wide.png"]) == 200).all()


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(30)])
def test_an_unreadable_file_is_skipped_and_named(folder: Path, content: bytes) -> None:
    (folder / "broken.png").write_bytes(content)
    with pytest.warns(UserWarning, match=r"broken\.png"):
        assert len(data.load(data.list_images(folder))) == 3


def test_a_truncated_file_is_skipped_and_named(folder: Path) -> None:
    whole = (folder / "a" / "one.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"cut\.png"):
        assert len(data.load(data.list_images(folder))) == 3


def test_a_file_that_claims_to_be_huge_is_skipped_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20000)  # two.JPG exceeds it more than twofold: an error, no warning
    with pytest.warns(UserWarning, match=r"two\.JPG"):
        assert len(data.load(data.list_images(folder))) == 2


def test_a_tiny_file_is_skipped_and_named(folder: Path) -> None:
    Image.new("L", (31, 400)).save(folder / "tiny.png")
    with pytest.warns(UserWarning, match=r"tiny\.png.*31x400"):
        assert len(data.load(data.list_images(folder))) == 3


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no readable"):
        data.load([])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_mode_is_read_as_grey(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("L", (40, 50), 255).convert(mode).save(tmp_path / f"x.{suffix}")
    grey = data.read_grey(tmp_path / f"x.{suffix}")
    assert grey.shape == (50, 40)
    assert grey.dtype == np.uint8
    assert (grey == 255).all()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.uint16, 0, 4095),
        (np.uint16, 300, 65535),
        (np.float32, 0.0, 900.0),
        (np.int16, -1024, 3000),
        (np.int32, 5, 9000),
    ],
)
def test_deep_samples_keep_their_order(tmp_path: Path, dtype: type, low: float, high: float) -> None:
    ramp = np.linspace(low, high, 64 * 64).astype(dtype).reshape(64, 64)
    tifffile.imwrite(tmp_path / "deep.tif", ramp)
    grey = data.read_grey(tmp_path / "deep.tif")
    assert grey.dtype == np.uint8
    assert (np.diff(grey.ravel().astype(int)) >= 0).all()
    assert grey.max() == 255


def test_a_source_lies_on_one_side_of_the_split() -> None:
    for patient in range(200):
        paths = [Path(f"ct/p{patient}a_{number}.png") for number in range(5)]
        assert len({data.source_of(path) for path in paths}) == 1
        assert len({data.held_back(path) for path in paths}) == 1


def test_about_a_seventh_is_held_back_wherever_the_folder_lies() -> None:
    paths = [Path(f"set/mdb{number}.png") for number in range(3000)]
    held = [data.held_back(path) for path in paths]
    assert np.mean(held) == pytest.approx(1 / 7, abs=0.025)
    assert [data.held_back(Path("/else/where") / path) for path in paths] == held
    assert not any(data.held_back(path, 0.0) for path in paths)
    assert all(data.held_back(path, 1.0) for path in paths)


def test_augmenting_keeps_shape_and_range_and_changes_something() -> None:
    pictures = torch.randint(0, 256, (2, 1, SIZE, SIZE), dtype=torch.uint8)
    before = pictures.clone()
    seen = set()
    rng = random.Random(0)
    for _ in range(20):
        out = data.augment(pictures, rng)
        assert out.shape == pictures.shape
        assert out.dtype == torch.float32
        assert out.is_contiguous()
        assert out.min() >= 0
        assert out.max() <= 255
        assert torch.equal(out, out.round())
        seen.add(out.numpy().tobytes())
    assert len(seen) > 4
    assert torch.equal(pictures, before)
