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
from medprov_watermark.media.appearance import Appearance


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


def shown(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a patient's name"
    return jpeg("RGB", exif=exif, icc_profile=b"a profile", dpi=(300, 150))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_how_it_is_shown_goes_into_the_png(tmp_path: Path, orientation: int) -> None:
    picture = media.read(put(tmp_path, shown(orientation)))
    media.write(tmp_path / "out.png", picture.array, picture)
    with Image.open(tmp_path / "out.png") as image:
        exif = dict(image.getexif())
        assert image.info["icc_profile"] == b"a profile"
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert exif == ({0x0112: orientation} if orientation != 1 else {}), "nothing else of the EXIF data is let out"
    again = media.read(tmp_path / "out.png")
    media.write(tmp_path / "restored.png", again.array, again)
    assert dict(Image.open(tmp_path / "restored.png").getexif()) == exif


def test_how_it_is_shown_goes_into_the_tiff(tmp_path: Path) -> None:
    picture = media.read(put(tmp_path, shown(6)))
    media.write(tmp_path / "out.tif", picture.array, picture)
    with Image.open(tmp_path / "out.tif") as image:
        assert (image.info["icc_profile"], image.info["dpi"]) == (b"a profile", (300, 150))
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",
    ],
)
def test_malformed_exif_is_left_out(exif: bytes) -> None:
    assert Appearance.of({"exif": exif}) == Appearance()


@pytest.mark.parametrize("dots", [None, 72, (72,), (0, 0), (float("nan"), 1), (1e9, 1e9), ("a", "b"), (72, -1)])
def test_malformed_resolution_is_left_out(dots: object) -> None:
    assert Appearance.of({"dpi": dots}) == Appearance()


def test_refuses_four_colours_and_small_pictures(tmp_path: Path) -> None:
    refused(put(tmp_path, jpeg("CMYK")), "CMYK")
    refused(put(tmp_path, jpeg(size=(1, 1))), "too small")


def test_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    whole = bytearray(jpeg())
    at = whole.index(b"\xff\xc0")
    struct.pack_into(">2H", whole, at + 5, 20000, 20000)
    refused(put(tmp_path, bytes(whole)), "20000 x 20000")


def test_more_pixels_than_the_caller_takes_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, jpeg())
    assert media.read(path, max_pixels=1200).array.shape == (30, 40)
    with pytest.raises(media.TooManyPixelsError, match="40 x 30"):
        media.read(path, max_pixels=1199)


def test_a_jpeg_has_no_attributes(tmp_path: Path) -> None:
    assert media.attributes(media.read(put(tmp_path, jpeg()))) == {}


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
