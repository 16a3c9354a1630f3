"""TIFF in and out."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.hashing import content_hash
from medprov_watermark.pixels import Pixels

PICTURES = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    st.one_of(
        st.tuples(st.integers(16, 40), st.integers(16, 40)),
        st.tuples(st.integers(16, 30), st.integers(16, 30), st.just(3)),
    ),
)


def like(array: NDArray[np.uint8 | np.uint16]) -> Pixels:
    bits = 8 * array.dtype.itemsize
    return Pixels(np.ascontiguousarray(array), bits, (0, 2**bits - 1), None, None, "image/png")


def random(*shape: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, **options})
    return buffer.getvalue()


def put(folder: Path, content: bytes) -> Path:
    path = folder / "picture.bin"
    path.write_bytes(content)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(MediaError) as caught:
        media.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PICTURES)
def test_round_trip(tmp_path: Path, array: NDArray[np.uint8 | np.uint16]) -> None:
    path = tmp_path / "round.tiff"
    media.write(path, array, like(array), overwrite=True)
    again = media.read(path)
    assert again.array.dtype == array.dtype
    assert np.array_equal(again.array, array)
    assert content_hash(again.array) == content_hash(array)
    assert np.array_equal(tifffile.imread(path), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"tile": (16, 32)},
        {"tile": (16, 32), "compression": "zlib"},
    ],
)
def test_reads_every_layout(tmp_path: Path, dtype: type, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    array = random(*shape, dtype=dtype)
    kind = "rgb" if len(shape) == 3 else "minisblack"
    picture = media.read(put(tmp_path, tiff(array, photometric=kind, **options)))
    assert np.array_equal(picture.array, array)
    assert picture.array.dtype == dtype
    assert picture.array.dtype.isnative
    assert (picture.bits, picture.media_type) == (8 * np.dtype(dtype).itemsize, "image/tiff")


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 7, "compression": "zlib"}, {"tile": (16, 16)}])
def test_reads_separate_planes(tmp_path: Path, options: dict[str, Any]) -> None:
    array = random(40, 50, 3, dtype=np.uint16)
    planes = np.moveaxis(array, -1, 0)
    path = put(tmp_path, tiff(planes, photometric="rgb", planarconfig="separate", **options))
    assert np.array_equal(media.read(path).array, array)


@pytest.mark.parametrize("compression", ["lzw", "packbits"])
def test_reads_other_lossless_codes(tmp_path: Path, compression: str) -> None:
    pytest.importorskip("imagecodecs", exc_type=ImportError)
    array = random(40, 50, dtype=np.uint16) // 1000
    path = put(tmp_path, tiff(array, compression=compression, rowsperstrip=9))
    assert np.array_equal(media.read(path).array, array)


def test_code_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Codecs:
        def __getitem__(self, key: int) -> None:
            raise KeyError(f"{key} requires the 'imagecodecs' package")

    path = put(tmp_path, with_tag(tiff(random(20, 20)), 259, 5))
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Codecs())
    refused(path, "LZW", "install", "imagecodecs")


def test_white_is_zero_is_inverted(tmp_path: Path) -> None:
    array = random(20, 20)
    assert np.array_equal(media.read(put(tmp_path, tiff(array, photometric="miniswhite"))).array, 255 - array)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 4), (np.uint16, 4), (np.uint8, 2)])
def test_opaque_alpha_is_dropped_and_other_alpha_refused(tmp_path: Path, dtype: type, channels: int) -> None:
    array = random(20, 20, channels, dtype=dtype)
    array[..., -1] = np.iinfo(dtype).max
    kind = "rgb" if channels == 4 else "minisblack"
    options = {"photometric": kind, "extrasamples": ["unassalpha"], "planarconfig": "contig"}
    read = media.read(put(tmp_path, tiff(array, **options))).array
    assert np.array_equal(read, array[..., 0] if channels == 2 else array[..., :3])
    array[3, 4, -1] -= 1
    refused(put(tmp_path, tiff(array, **options)), "transparent", "flatten")


def test_resolution_profile_and_description_are_kept(tmp_path: Path) -> None:
    array = random(20, 20)
    path = put(
        tmp_path, tiff(array, resolution=(300, 150), resolutionunit=3, iccprofile=b"profile", description="phantom")
    )
    picture = media.read(path)
    media.write(tmp_path / "out.tif", picture.array, picture)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        tags = file.pages.first.tags
        assert tags["XResolution"].value == (300, 1)
        assert tags["YResolution"].value == (150, 1)
        assert tags["ResolutionUnit"].value == 3
        assert tags["InterColorProfile"].value == b"profile"
        assert tags["ImageDescription"].value == "phantom"


def test_files_are_the_same_every_time(tmp_path: Path) -> None:
    array = random(20, 20)
    for name in ("a.tif", "b.tif"):
        media.write(tmp_path / name, array, like(array))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (random(3, 20, 20), {"photometric": "minisblack"}, ["3 pages"]),
        (np.zeros((20, 20), np.float32), {}, ["floats", "16 bits"]),
        (np.full((20, 20), np.nan, np.float64), {}, ["NaN"]),
        (np.zeros((20, 20), np.float16), {}, ["floats"]),
        (np.zeros((20, 20), np.int16), {}, ["INT", "unsigned"]),
        (np.zeros((20, 20), np.uint32), {}, ["32 bits"]),
        (np.zeros((20, 20), bool), {}, ["1 bits"]),
        (random(20, 20, 5), {"photometric": "minisblack", "planarconfig": "contig"}, ["5 channels"]),
        (random(20, 20), {"photometric": "palette", "colormap": random(3, 256, dtype=np.uint16)}, ["PALETTE"]),
        (random(8, 20), {}, ["too small"]),
    ],
)
def test_what_is_not_supported(tmp_path: Path, array: NDArray[Any], options: dict[str, Any], words: list[str]) -> None:
    refused(put(tmp_path, tiff(array, **options)), *words)


def with_tag(content: bytes, tag: int, value: int, kind: int | None = None) -> bytes:
    """Change the first value of a tag in a little-endian file."""
    changed = bytearray(content)
    (at,) = struct.unpack_from("<I", changed, 4)
    (count,) = struct.unpack_from("<H", changed, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", changed, entry)[0] == tag:
            form = kind or struct.unpack_from("<H", changed, entry + 2)[0]
            struct.pack_into("<H", changed, entry + 2, form)
            struct.pack_into("<H" if form == 3 else "<I", changed, entry + 8, value)
    return bytes(changed)


def test_the_orientation_is_kept_and_is_an_attribute(tmp_path: Path) -> None:
    array = random(20, 30)
    turned = media.read(put(tmp_path, tiff(array, extratags=[(274, 3, 1, 3, True)])))
    plain = media.read(put(tmp_path, tiff(array)))
    upright = media.read(put(tmp_path, tiff(array, extratags=[(274, 3, 1, 1, True)])))
    assert content_hash(turned.array) == content_hash(plain.array)
    assert (
        media.attributes(plain) == media.attributes(upright) == {"TIFF Orientation": "1", "TIFF InterColorProfile": ""}
    )
    assert media.attributes(turned)["TIFF Orientation"] == "3"
    media.write(tmp_path / "out.tif", turned.array, turned)
    assert media.attributes(media.read(tmp_path / "out.tif")) == media.attributes(turned)


def test_the_colour_profile_is_an_attribute(tmp_path: Path) -> None:
    one, other = (media.read(put(tmp_path, tiff(random(20, 30, 3), iccprofile=name * 40))) for name in (b"a", b"b"))
    assert media.attributes(one) != media.attributes(other)
    media.write(tmp_path / "out.tif", one.array, one)
    assert media.attributes(media.read(tmp_path / "out.tif")) == media.attributes(one)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_none(tmp_path: Path, value: int) -> None:
    picture = media.read(put(tmp_path, tiff(random(20, 30), extratags=[(274, 3, 1, value, True)])))
    assert media.attributes(picture)["TIFF Orientation"] == "1"


def test_more_pixels_than_the_caller_takes_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, tiff(random(20, 30)))
    assert media.read(path, max_pixels=600).array.shape == (20, 30)
    with pytest.raises(media.TooManyPixelsError, match="30 x 20"):
        media.read(path, max_pixels=599)


def test_size_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    content = with_tag(with_tag(tiff(random(20, 20)), 256, 20000, 4), 257, 20000, 4)
    refused(put(tmp_path, content), "20000 x 20000", "limit")


def test_deflate_that_swells_is_refused(tmp_path: Path) -> None:
    plain = tiff(random(20, 20), compression="zlib")
    bomb = zlib.compress(bytes(30_000_000))
    content = with_tag(with_tag(plain + bomb, 273, len(plain), 4), 279, len(bomb), 4)
    refused(put(tmp_path, content), "too long")


def test_deflate_that_is_short_is_refused(tmp_path: Path) -> None:
    plain = tiff(random(20, 20), compression="zlib")
    short = zlib.compress(bytes(399))
    content = with_tag(with_tag(plain + short, 273, len(plain), 4), 279, len(short), 4)
    refused(put(tmp_path, content), "too short")


def test_lossy_compression_is_refused(tmp_path: Path) -> None:
    refused(put(tmp_path, with_tag(tiff(random(20, 20)), 259, 7)), "JPEG", "Deflate")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 5}, {"tile": (16, 16)}])
def test_every_cut_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = tiff(random(20, 20), **options)
    for end in range(1, len(whole), 13):
        refused(put(tmp_path, whole[:end]))


def test_directory_that_points_to_itself_ends(tmp_path: Path) -> None:
    whole = bytearray(tiff(random(20, 20)))
    (at,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, at)
    struct.pack_into("<I", whole, at + 2 + 12 * count, at)
    path = put(tmp_path, bytes(whole))
    try:
        assert np.array_equal(media.read(path).array, random(20, 20))
    except MediaError as error:
        assert "\n" not in str(error)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_headers_never_give_more_than_one_line(tmp_path: Path, draw: st.DataObject) -> None:
    whole = bytearray(tiff(random(16, 16), compression="zlib"))
    for _ in range(draw.draw(st.integers(1, 4))):
        whole[draw.draw(st.integers(4, 220))] = draw.draw(st.integers(0, 255))
    path = put(tmp_path, bytes(whole))
    try:
        picture = media.read(path)
    except MediaError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert picture.array.dtype in (np.uint8, np.uint16)
