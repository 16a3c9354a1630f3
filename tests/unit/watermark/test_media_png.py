"""PNG in and out, what the file system does to any format, and hostile bytes."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.hashing import content_hash
from medprov_watermark.media import files, png
from medprov_watermark.pixels import Pixels

PICTURES = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    st.one_of(
        st.tuples(st.integers(16, 40), st.integers(16, 40)),
        st.tuples(st.integers(16, 30), st.integers(16, 30), st.just(3)),
    ),
)
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def like(array: NDArray[np.uint8 | np.uint16]) -> Pixels:
    bits = 8 * array.dtype.itemsize
    return Pixels(np.ascontiguousarray(array), bits, (0, 2**bits - 1), None, None, "image/png")


def smooth(
    height: int = 40, width: int = 50, channels: int = 1, dtype: type = np.uint8
) -> NDArray[np.uint8 | np.uint16]:
    """A picture whose rows are best served by different filters."""
    y, x, c = np.mgrid[:height, :width, :channels]
    scale = np.iinfo(dtype).max / 255
    wave = 127 + 60 * np.sin(x / 7 + c) + 60 * np.cos(y / 5) + np.random.default_rng(3).normal(0, 2, x.shape)
    array: NDArray[Any] = (np.clip(wave, 0, 255) * scale).astype(dtype)
    array[5] = 0
    return array[:, :, 0] if channels == 1 else array


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def build(
    width: int, height: int, depth: int, colour: int, raw: bytes, extra: bytes = b"", interlaced: int = 0
) -> bytes:
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [png.SIGNATURE, chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    )


def filtered(lines: NDArray[Any], step: int, kinds: list[int]) -> bytes:
    """Filter rows one byte at a time, as the standard's section 9 is written."""
    out = bytearray()
    for row, line in enumerate(lines.astype(int)):
        kind = kinds[row % len(kinds)]
        out.append(kind)
        above = lines[row - 1].astype(int) if row else np.zeros_like(line)
        for at, value in enumerate(line):
            left = line[at - step] if at >= step else 0
            corner = above[at - step] if at >= step else 0
            up = above[at]
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda candidate: abs(guess - candidate))
            out.append((value - [0, left, up, (left + up) // 2, paeth][kind]) % 256)
    return bytes(out)


def put(folder: Path, data: bytes, name: str = "picture.bin") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path, *words: str) -> str:
    with pytest.raises(MediaError) as caught:
        media.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PICTURES)
def test_round_trip(tmp_path: Path, array: NDArray[np.uint8 | np.uint16]) -> None:
    path = tmp_path / "round.png"
    media.write(path, array, like(array), overwrite=True)
    again = media.read(path)
    assert again.array.dtype == array.dtype
    assert np.array_equal(again.array, array)
    assert content_hash(again.array) == content_hash(array)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_with_every_filter_of_ours(tmp_path: Path, channels: int, dtype: type) -> None:
    array = smooth(600, 30, channels, dtype)
    path = tmp_path / "smooth.png"
    media.write(path, array, like(array))
    again = media.read(path)
    assert np.array_equal(again.array, array)
    assert (again.bits, again.value_range, again.padding) == (8 * array.itemsize, (0, np.iinfo(dtype).max), None)
    assert again.media_type == "image/png"
    if dtype == np.uint8 or channels == 1:
        assert np.array_equal(np.asarray(Image.open(path)), array)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_reads_what_pillow_writes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "pillow.png"
    if mode == "I;16":
        expected: NDArray[np.uint8 | np.uint16] = smooth(dtype=np.uint16)
        image = Image.fromarray(expected)
    else:
        image = Image.fromarray(smooth(channels=3)).convert("RGB" if mode == "RGBA" else "L" if mode == "LA" else mode)
        shown = {"1": "L", "P": "RGB"}.get(mode, image.mode)
        expected = np.asarray(image.convert(shown))
        image = image.convert(mode)
    image.save(path)
    assert np.array_equal(media.read(path).array, expected)


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [0, 1, 2], [4, 3, 2, 1, 0, 4]])
@pytest.mark.parametrize(("depth", "channels", "colour"), [(8, 1, 0), (8, 3, 2), (16, 1, 0), (16, 3, 2)])
def test_every_filter(tmp_path: Path, kinds: list[int], depth: int, channels: int, colour: int) -> None:
    array = smooth(17, 19, channels, np.uint16 if depth == 16 else np.uint8)
    lines = array.astype(f">u{depth // 8}").view(np.uint8).reshape(17, -1)
    path = put(tmp_path, build(19, 17, depth, colour, filtered(lines, channels * depth // 8, kinds)))
    assert np.array_equal(media.read(path).array, array)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(16, 25), st.integers(16, 25), st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_interlaced(tmp_path: Path, height: int, width: int, kinds: list[int]) -> None:
    array = smooth(height, width, 3)
    raw = b""
    for row, column, down, right in PASSES:
        part = array[row::down, column::right]
        if part.size:
            raw += filtered(part.reshape(part.shape[0], -1), 3, kinds)
    path = put(tmp_path, build(width, height, 8, 2, raw, interlaced=1))
    assert np.array_equal(media.read(path).array, array)
    assert np.array_equal(np.asarray(Image.open(path)), array)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey_become_eight(tmp_path: Path, depth: int) -> None:
    values = np.random.default_rng(depth).integers(0, 2**depth, (16, 19), np.uint8)
    bits = (values[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
    lines = np.packbits(bits.reshape(16, -1), axis=1)
    array = media.read(put(tmp_path, build(19, 16, depth, 0, filtered(lines, 1, [0, 1, 4])))).array
    assert array.dtype == np.uint8
    assert np.array_equal(array, values * (255 // (2**depth - 1)))


def test_rgb_of_equal_channels_stays_rgb(tmp_path: Path) -> None:
    array = np.repeat(smooth()[:, :, None], 3, axis=2)
    media.write(tmp_path / "grey.png", array, like(array))
    assert media.read(tmp_path / "grey.png").array.shape == (40, 50, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_not_opaque_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (20, 20), 255 if mode == "LA" else (1, 2, 3, 255))
    image.putpixel((3, 4), (9, 254) if mode == "LA" else (9, 9, 9, 0))
    image.save(tmp_path / "alpha.png")
    refused(tmp_path / "alpha.png", "transparent", "flatten")


@pytest.mark.parametrize(("key", "legal"), [(0, False), (1, True)])
def test_transparent_key_counts_only_where_it_is_used(tmp_path: Path, key: int, legal: bool) -> None:
    raw = filtered(np.zeros((16, 16), np.uint8), 1, [0])
    path = put(tmp_path, build(16, 16, 8, 0, raw, chunk(b"tRNS", struct.pack(">H", key))))
    if legal:
        assert not media.read(path).array.any()
    else:
        refused(path, "transparent")


def test_transparent_palette_entry_counts_only_where_it_is_used(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    raw = filtered(np.ones((16, 16), np.uint8), 1, [0])
    opaque = media.read(put(tmp_path, build(16, 16, 8, 3, raw, palette + chunk(b"tRNS", b"\0"))))
    assert np.array_equal(opaque.array, np.full((16, 16, 3), [40, 50, 60]))
    refused(put(tmp_path, build(16, 16, 8, 3, raw, palette + chunk(b"tRNS", b"\xff\x7f"))), "transparent")
    refused(put(tmp_path, build(16, 16, 8, 3, raw, chunk(b"PLTE", bytes(3)))), "palette")
    refused(put(tmp_path, build(16, 16, 8, 3, raw)), "palette")


def test_text_and_colour_chunks_are_kept_and_transparency_is_not(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "phantom")
    info.add(b"gAMA", struct.pack(">I", 45455))
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save(tmp_path / "in.png", pnginfo=info, dpi=(300, 300))
    picture = media.read(tmp_path / "in.png")
    media.write(tmp_path / "out.png", picture.array, picture)
    out = Image.open(tmp_path / "out.png")
    assert out.mode == "RGB"
    assert out.info["Title"] == "phantom"
    assert out.info["gamma"] == pytest.approx(0.45455)
    assert round(out.info["dpi"][0]) == 300


# What is refused, and why it says so.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"\x00", ["not a PNG, TIFF, JPEG or DICOM"]),
        (b"GIF89a" + bytes(200), ["not a PNG, TIFF, JPEG or DICOM", "convert"]),
        (b"hello, this is no picture\n" * 50, ["not a PNG"]),
        (png.SIGNATURE, ["cut off"]),
        (png.SIGNATURE[:5], ["not a PNG"]),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes, words: list[str]) -> None:
    refused(put(tmp_path, data), *words)


def test_what_says_how_samples_are_shown_is_an_attribute(tmp_path: Path) -> None:
    raw = b"".join(b"\0" + bytes(range(row, row + 20)) for row in range(16))
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(build(20, 16, 8, 0, raw))
    other.write_bytes(build(20, 16, 8, 0, raw, chunk(b"gAMA", struct.pack(">I", 500)) + chunk(b"tEXt", b"Author\0me")))
    plain, dark = media.read(path), media.read(other)
    assert content_hash(plain.array) == content_hash(dark.array)
    before, after = media.attributes(plain), media.attributes(dark)
    assert [name for name in before if before[name] != after[name]] == ["PNG gAMA"]
    assert set(before.values()) == {""}
    media.write(tmp_path / "c.png", dark.array, dark)
    assert media.attributes(media.read(tmp_path / "c.png")) == after


def test_samples_without_their_file_have_no_attributes() -> None:
    assert media.attributes(like(smooth())) == {}


def test_more_pixels_than_the_caller_takes_are_refused(tmp_path: Path) -> None:
    media.write(tmp_path / "a.png", smooth(40, 50), like(smooth()))
    assert media.read(tmp_path / "a.png", max_pixels=2000).array.shape == (40, 50)
    with pytest.raises(media.TooManyPixelsError, match=r"a\.png: 50 x 40 pixels is more than the limit of 1999"):
        media.read(tmp_path / "a.png", max_pixels=1999)


def test_no_caller_takes_more_than_the_limit_of_all(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">2I5B", 20000, 20000, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(png.SIGNATURE + header)
    with pytest.raises(media.TooManyPixelsError, match=str(media.MAX_PIXELS)):
        media.read(tmp_path / "a.png", max_pixels=10**12)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (1, 1, ["1 x 1", "too small", "16"]),
        (15, 4000, ["too small"]),
        (20000, 20000, ["20000 x 20000", "limit", str(media.MAX_PIXELS)]),
        (2**31 - 1, 2**31 - 1, ["limit"]),
        (0, 0, ["too small"]),
    ],
)
def test_size_is_checked_before_anything_is_decoded(tmp_path: Path, width: int, height: int, words: list[str]) -> None:
    # No sample follows, so a reader that decoded first would complain of something else.
    refused(put(tmp_path, build(width, height, 8, 2, b"")), *words)


def test_inflating_stops_at_the_size_of_the_header(tmp_path: Path) -> None:
    refused(put(tmp_path, build(16, 16, 8, 0, bytes(50_000_000))), "more samples than its header says")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = png.encode(smooth(16, 16), like(smooth(16, 16)))
    for end in range(1, len(whole) - 12, 7):
        refused(put(tmp_path, whole[:end]))


def test_samples_that_are_missing_are_refused(tmp_path: Path) -> None:
    refused(put(tmp_path, build(16, 16, 8, 0, bytes(17 * 15))), "cut off")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_one_changed_byte_is_noticed_or_harmless(tmp_path: Path, draw: st.DataObject) -> None:
    array = smooth(16, 16, 3)
    whole = bytearray(png.encode(array, like(array)))
    whole[draw.draw(st.integers(0, len(whole) - 1))] ^= draw.draw(st.integers(1, 255))
    path = put(tmp_path, bytes(whole))
    try:
        assert np.array_equal(media.read(path).array, array)
    except MediaError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (build(16, 16, 3, 0, b""), "standard"),
        (build(16, 16, 8, 5, b""), "standard"),
        (build(16, 16, 8, 0, b"", interlaced=2), "standard"),
        (build(16, 16, 8, 0, b"\x05" * 17 * 16), "filter"),
        (build(16, 16, 8, 0, bytes(17 * 16), chunk(b"acTL", struct.pack(">2I", 2, 0))), "animated"),
        (png.SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "header"),
        (png.SIGNATURE + chunk(b"IEND", b"") + bytes(20), "cut off"),
        (build(16, 16, 8, 0, b"").replace(b"IDAT", b"IDAU"), "damaged"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, data: bytes, word: str) -> None:
    refused(put(tmp_path, data), word)


# The file system.


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.png", "no such file")
    refused(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    refused(Path("/dev/zero"), "not a regular file")


def test_a_file_larger_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    refused(put(tmp_path, bytes(101)), "100 bytes")


def test_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    path = put(tmp_path, b"precious", "out.png")
    with pytest.raises(MediaError, match="exists already"):
        media.write(path, smooth(), like(smooth()))
    assert path.read_bytes() == b"precious"
    media.write(path, smooth(), like(smooth()), overwrite=True)
    assert np.array_equal(media.read(path).array, smooth())
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    sync = os.fsync

    def intrude(handle: int) -> None:
        path.write_bytes(b"precious")
        sync(handle)

    monkeypatch.setattr(os, "fsync", intrude)
    with pytest.raises(MediaError, match="exists already"):
        media.write(path, smooth(), like(smooth()))
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["out.png"]


def test_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    media.write(tmp_path / "out.png", smooth(), like(smooth()))
    assert np.array_equal(media.read(tmp_path / "out.png").array, smooth())
    assert os.listdir(tmp_path) == ["out.png"]


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "out.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MediaError, match="exists already"):
        media.write(tmp_path / "out.png", smooth(), like(smooth()))


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MediaError, match="no space left"):
        media.write(tmp_path / "out.png", smooth(), like(smooth()))
    assert os.listdir(tmp_path) == []


def test_missing_folder_and_folder_as_target_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"out\.png: it cannot be written \(no such file"):
        media.write(tmp_path / "absent" / "out.png", smooth(), like(smooth()))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MediaError, match="cannot be written"):
        media.write(tmp_path / "folder.png", smooth(), like(smooth()), overwrite=True)
    assert os.listdir(tmp_path) == ["folder.png"]


def test_file_that_makes_the_folder_unreachable_is_refused(tmp_path: Path) -> None:
    put(tmp_path, b"", "plain")
    with pytest.raises(MediaError, match="not a directory"):
        media.write(tmp_path / "plain" / "out.png", smooth(), like(smooth()))


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    media.write(tmp_path / "out.png", smooth(), like(smooth()))
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.jpg", ["lossy", ".png"]),
        ("out.JPEG", ["lossy"]),
        ("out.dcm", ["read from DICOM"]),
        ("out.bmp", [".bmp", ".png or .tif"]),
        ("out", ["(none)"]),
    ],
)
def test_formats_that_are_not_written(tmp_path: Path, name: str, words: list[str]) -> None:
    with pytest.raises(MediaError) as caught:
        media.write(tmp_path / name, smooth(), like(smooth()))
    for word in words:
        assert word in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong", [np.zeros((20, 20), np.float32), np.zeros((20, 20, 4), np.uint8), np.zeros(5, np.uint8)]
)
def test_arrays_that_are_no_picture_are_not_written(tmp_path: Path, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(MediaError, match="must"):
        media.write(tmp_path / "out.png", wrong, like(smooth()))
    assert os.listdir(tmp_path) == []


def test_array_in_another_order_of_memory_is_written(tmp_path: Path) -> None:
    array = np.asfortranarray(smooth(channels=3))
    media.write(tmp_path / "out.png", array, like(array))
    assert np.array_equal(media.read(tmp_path / "out.png").array, array)


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(smooth()).save(buffer, "PNG")
    assert media.read(str(put(tmp_path, buffer.getvalue(), "picture.jpg"))).media_type == "image/png"
