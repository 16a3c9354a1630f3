"""JPEG is read, never written."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from medprov_watermark import media
from medprov_watermark.errors import MediaError


def jpeg(mode: str = "L", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(data.astronaut()[: size[1], : size[0]]).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def put(folder: Path, content: bytes) -> Path:
    path = folder / "picture.png"
    path.write_bytes(content)
    return path


def refused(path: Path, word: str) -> None:
    with pytest.raises(MediaError) as caught:
        media.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert word in str(caught.value)


@pytest.mark.parametrize(("mode", "shape"), [("L", (30, 40)), ("RGB", (30, 40, 3))])
@pytest.mark.parametrize("progressive", [False, True])
def test_reads_grey_and_colour(tmp_path: Path, mode: str, shape: tuple[int, ...], progressive: bool) -> None:
    path = put(tmp_path, jpeg(mode, progressive=progressive))
    picture = media.read(path)
    assert picture.array.shape == shape
    assert (picture.bits, picture.value_range, picture.media_type) == (8, (0, 255), "image/jpeg")
    assert np.array_equal(picture.array, np.asarray(Image.open(path)))


def test_orientation_tag_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert media.read(put(tmp_path, jpeg("L", exif=exif))).array.shape == (30, 40)


def test_is_written_as_png(tmp_path: Path) -> None:
    picture = media.read(put(tmp_path, jpeg("RGB")))
    media.write(tmp_path / "out.png", picture.array, picture)
    assert np.array_equal(media.read(tmp_path / "out.png").array, picture.array)
    with pytest.raises(MediaError, match="lossy"):
        media.write(tmp_path / "out.jpg", picture.array, picture)


def test_refuses_four_colours_and_small_pictures(tmp_path: Path) -> None:
    refused(put(tmp_path, jpeg("CMYK")), "CMYK")
    refused(put(tmp_path, jpeg(size=(1, 1))), "too small")


def test_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    whole = bytearray(jpeg())
    at = whole.index(b"\xff\xc0")
    struct.pack_into(">2H", whole, at + 5, 20000, 20000)
    refused(put(tmp_path, bytes(whole)), "20000 x 20000")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = jpeg()
    for end in range(1, len(whole) - 2, 29):
        refused(put(tmp_path, whole[:end]), "")


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_never_give_more_than_one_line(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = np.frombuffer(jpeg("RGB"), np.uint8).copy()
    whole[rng.integers(3, whole.size, 5)] = rng.integers(0, 256, 5)
    path = put(tmp_path, whole.tobytes())
    try:
        picture = media.read(path)
    except MediaError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert picture.array.dtype == np.uint8
