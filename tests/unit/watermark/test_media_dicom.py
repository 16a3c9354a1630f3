"""DICOM in and out: what the samples are, and that nothing else of the file changes."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from medprov_watermark import media
from medprov_watermark.errors import MediaError, NoPixelsError
from medprov_watermark.hashing import content_hash
from medprov_watermark.media import _decompress
from medprov_watermark.pixels import Pixels


def bundled(name: str) -> Path:
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    return Path(found)


def words(*shape: int, bits: int = 16, dtype: str = "<u2") -> NDArray[Any]:
    return np.random.default_rng(bits).integers(0, 2**bits, shape).astype(dtype)


def dataset(raw: bytes, shape: tuple[int, ...], syntax: UID = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.PatientName = "Phantom^One"
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 1 if len(shape) == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if len(shape) == 2 else "RGB"
    if len(shape) == 3:
        made.PlanarConfiguration = 0
    bits = elements.pop("bits", 16)
    made.BitsAllocated = 8 if bits == 8 else 16
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, 0
    made.PixelData = raw + bytes(len(raw) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def put(folder: Path, made: Dataset, name: str = "in.dcm") -> Path:
    path = folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
    return path


def refused(path: Path, *expected: str) -> None:
    with pytest.raises(MediaError) as caught:
        media.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in expected:
        assert word in message


def rewritten(path: Path, picture: Pixels, array: NDArray[Any]) -> Pixels:
    """Write and read again; the array must come back."""
    out = path.parent / "out.dcm"
    media.write(out, array, picture, overwrite=True)
    again = media.read(out)
    assert np.array_equal(again.array, array)
    assert content_hash(again.array) == content_hash(array)
    return again


def changed(picture: Pixels) -> NDArray[Any]:
    array = picture.array.copy()
    array[2:5, 3:9] ^= np.asarray(1, array.dtype)
    array[0, 0], array[0, 1] = picture.value_range
    return array


def test_a_second_picture_behind_the_first_is_refused(tmp_path: Path) -> None:
    raw = words(20, 30).tobytes()
    refused(put(tmp_path, dataset(raw + raw, (20, 30))), "more frames than its header says")
    # filling, as some writers leave it
    assert np.array_equal(media.read(put(tmp_path, dataset(raw + bytes(128), (20, 30)))).array, words(20, 30))


def test_more_pixels_than_the_caller_takes_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, dataset(words(20, 30).tobytes(), (20, 30)))
    assert media.read(path, max_pixels=600).array.shape == (20, 30)
    with pytest.raises(media.TooManyPixelsError, match=r"in\.dcm: 30 x 20 pixels is more than the limit of 599"):
        media.read(path, max_pixels=599)


# Real files.


def test_ct(tmp_path: Path) -> None:
    path = bundled("CT_small.dcm")
    picture = media.read(path)
    header = dcmread(path)
    assert np.array_equal(picture.array.astype(int), header.pixel_array.astype(int) + 2**15)
    assert (picture.bits, picture.value_range, picture.media_type) == (16, (0, 65535), "application/dicom")
    assert picture.padding == -2000 + 2**15
    assert picture.spacing == (0.661468, 0.661468)
    media.write(tmp_path / "same.dcm", picture.array, picture)
    assert (tmp_path / "same.dcm").read_bytes() == path.read_bytes()


def test_native_file_changes_only_where_samples_do(tmp_path: Path) -> None:
    path = bundled("MR_small.dcm")
    picture = media.read(path)
    array = changed(picture)
    media.write(tmp_path / "out.dcm", array, picture)
    before = np.frombuffer(path.read_bytes(), np.uint8)
    after = np.frombuffer((tmp_path / "out.dcm").read_bytes(), np.uint8)
    assert before.size == after.size
    differing = np.flatnonzero(before != after)
    assert 1 <= differing.size <= 2 * np.count_nonzero(array != picture.array)
    assert dcmread(tmp_path / "out.dcm").SOPInstanceUID == dcmread(path).SOPInstanceUID


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm", "ExplVR_BigEnd.dcm"]
)
def test_native_files_come_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    path = bundled(name)
    picture = media.read(path)
    media.write(tmp_path / "same.dcm", picture.array, picture)
    assert (tmp_path / "same.dcm").read_bytes() == path.read_bytes()
    media.write(tmp_path / "out.dcm", changed(picture), picture)
    assert np.array_equal(media.read(tmp_path / "out.dcm").array, changed(picture))


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_implicit.dcm"],
)
def test_lossless_transfer_syntaxes_have_the_same_content(tmp_path: Path, name: str) -> None:
    picture, plain = media.read(bundled(name)), media.read(bundled("MR_small.dcm"))
    assert content_hash(picture.array) == content_hash(plain.array)
    assert (picture.bits, picture.padding, picture.spacing) == (plain.bits, plain.padding, plain.spacing)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "examples_jpeg2k.dcm",
        "SC_rgb_jpeg.dcm",
    ],
)
def test_compressed_files_become_explicit_little_endian_with_all_other_elements(tmp_path: Path, name: str) -> None:
    path = bundled(name)
    picture = media.read(path)
    out = tmp_path / "out.dcm"
    media.write(out, changed(picture), picture)
    assert np.array_equal(media.read(out).array, changed(picture))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = dcmread(path), dcmread(out)
        assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        if picture.array.ndim == 3:
            assert (after.PhotometricInterpretation, after.PlanarConfiguration) == ("RGB", 0)
        for found in (before, after):
            for keyword in ("PixelData", "PhotometricInterpretation", "PlanarConfiguration"):
                found.pop(keyword, None)
            found.file_meta.pop("TransferSyntaxUID", None)
            # Group lengths are retired, and that of the pixels would be another now.
            for tag in [tag for tag in found.keys() if tag.element == 0]:  # noqa: SIM118
                del found[tag]
        assert list(before) == list(after)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm"])
def test_colour_is_rgb_as_pydicom_shows_it(name: str) -> None:
    assert np.array_equal(media.read(bundled(name)).array, dcmread(bundled(name)).pixel_array)


def test_reading_twice_gives_the_same_hash_after_compressed_writing(tmp_path: Path) -> None:
    picture = media.read(bundled("MR_small_RLE.dcm"))
    again = rewritten(tmp_path / "in.dcm", picture, picture.array)
    once_more = rewritten(tmp_path / "in.dcm", again, again.array)
    assert content_hash(once_more.array) == content_hash(picture.array)


# Synthetic files: each rule of PS3.5 section 8.1.1 and PS3.3 C.7.6.3.


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    bits=st.integers(8, 16),
    spare=st.integers(0, 8),
    signed=st.booleans(),
    inverted=st.booleans(),
    fill=st.sampled_from(["zero", "sign", "noise"]),
    syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]),
    seed=st.integers(0, 99),
)
def test_round_trip_of_every_word(
    tmp_path: Path, bits: int, spare: int, signed: bool, inverted: bool, fill: str, syntax: UID, seed: int
) -> None:
    high = min(15, bits - 1 + spare)
    shift = high - bits + 1
    values = np.random.default_rng(seed).integers(0, 2**bits, (16, 18))
    word = values << shift
    mask = (2**bits - 1) << shift
    if fill == "sign" and signed:
        word |= np.where(values >> (bits - 1), 0xFFFF & ~((1 << (high + 1)) - 1), 0)
    elif fill == "noise":
        word |= np.random.default_rng(seed + 1).integers(0, 65536, word.shape) & ~mask
    raw = word.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    made = dataset(
        raw,
        (16, 18),
        ExplicitVRLittleEndian if syntax == RLELossless else syntax,
        BitsStored=bits,
        HighBit=high,
        PixelRepresentation=int(signed),
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    if syntax == RLELossless:
        made.PixelData = encapsulate([get_encoder(RLELossless).encode(word.astype("<u2"), **_rle(made))])
        made.file_meta.TransferSyntaxUID = RLELossless
        made["PixelData"].VR = "OB"
        made["PixelData"].is_undefined_length = True
    path = put(tmp_path, made)
    picture = media.read(path)
    expected = (values + 2 ** (bits - 1)) % 2**bits if signed else values
    expected = 2**bits - 1 - expected if inverted else expected
    assert np.array_equal(picture.array, expected)
    assert picture.array.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert picture.value_range == (0, 2**bits - 1)

    media.write(tmp_path / "out.dcm", picture.array, picture, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = dcmread(tmp_path / "out.dcm")
    assert back.PixelData == word.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()

    rewritten(path, picture, changed(picture))
    if fill == "noise":
        kind = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
        after = np.frombuffer(dcmread(tmp_path / "out.dcm").PixelData, kind).reshape(16, 18)
        assert np.array_equal(after & (0xFFFF & ~mask), word & ~mask)


def _rle(made: Dataset) -> dict[str, Any]:
    # Words go in whole: the encoder must not cut them to the bits stored.
    return {
        "rows": made.Rows,
        "columns": made.Columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": 16,
        "pixel_representation": 0,
        "number_of_frames": 1,
        "encoding_plugin": "pydicom",
    }


def test_monochrome1_is_inverted_and_inverted_back(tmp_path: Path) -> None:
    values = words(20, 22, bits=12)
    path = put(tmp_path, dataset(values.tobytes(), (20, 22), bits=12, PhotometricInterpretation="MONOCHROME1"))
    picture = media.read(path)
    assert np.array_equal(picture.array, 4095 - values)
    array = changed(picture)
    rewritten(path, picture, array)
    assert np.array_equal(dcmread(tmp_path / "out.dcm").pixel_array, 4095 - array)


def test_monochrome1_and_monochrome2_of_the_same_picture_have_one_hash(tmp_path: Path) -> None:
    values = words(20, 22, bits=12)
    one = put(tmp_path, dataset((4095 - values).astype("<u2").tobytes(), (20, 22), bits=12), "one.dcm")
    other = dataset(values.tobytes(), (20, 22), bits=12, PhotometricInterpretation="MONOCHROME1")
    assert content_hash(media.read(one).array) == content_hash(media.read(put(tmp_path, other)).array)


@pytest.mark.parametrize(("signed", "photometric"), [(0, "MONOCHROME2"), (1, "MONOCHROME2"), (1, "MONOCHROME1")])
def test_padding_value_follows_the_samples(tmp_path: Path, signed: int, photometric: str) -> None:
    values = words(20, 22, bits=12)
    values[:4] = 0x800 if signed else 7
    made = dataset(values.tobytes(), (20, 22), bits=12, PixelRepresentation=signed)
    made.PhotometricInterpretation = photometric
    made.PixelPaddingValue = -2048 if signed else 7
    picture = media.read(put(tmp_path, made))
    assert picture.padding is not None
    assert (picture.array[:4] == picture.padding).all()
    assert picture.value_range == (0, 4095)


@pytest.mark.parametrize(
    ("signed", "written", "expected"),
    [(1, 63536, 2**15 - 2000), (1, -2000, 2**15 - 2000), (0, -2000, 63536), (0, 63536, 63536)],
)
def test_padding_value_of_the_wrong_sign_is_understood(
    tmp_path: Path, signed: int, written: int, expected: int
) -> None:
    made = dataset(words(20, 22).tobytes(), (20, 22), PixelRepresentation=signed)
    made.add_new("PixelPaddingValue", "SS" if written < 0 else "US", written)
    assert media.read(put(tmp_path, made)).padding == expected


def test_padding_value_beyond_the_bits_stored(tmp_path: Path) -> None:
    values = words(20, 22, bits=12)
    made = dataset(values.tobytes(), (20, 22), bits=12, PixelPaddingValue=63536)
    assert media.read(put(tmp_path, made)).padding is None
    values[3, 4] = 63536
    made.PixelData = values.tobytes()
    refused(put(tmp_path, made), "PixelPaddingValue 63536", "BitsStored 12")


def test_empty_padding_value_is_none(tmp_path: Path) -> None:
    made = dataset(words(20, 22).tobytes(), (20, 22))
    made.add_new("PixelPaddingValue", "US", None)
    assert media.read(put(tmp_path, made)).padding is None


@pytest.mark.parametrize(
    ("photometric", "expected", "value_range"),
    [("MONOCHROME2", 0, (31, 4095)), ("MONOCHROME1", 4095, (0, 4064))],
)
def test_padding_range_takes_one_end_of_the_value_range(
    tmp_path: Path, photometric: str, expected: int, value_range: tuple[int, int]
) -> None:
    made = dataset(words(20, 22, bits=12).tobytes(), (20, 22), bits=12, PhotometricInterpretation=photometric)
    made.PixelPaddingValue, made.PixelPaddingRangeLimit = 0, 30
    picture = media.read(put(tmp_path, made))
    assert (picture.padding, picture.value_range) == (expected, value_range)


def test_padding_range_in_the_middle_is_refused(tmp_path: Path) -> None:
    made = dataset(words(20, 22, bits=12).tobytes(), (20, 22), bits=12)
    made.PixelPaddingValue, made.PixelPaddingRangeLimit = 100, 200
    refused(put(tmp_path, made), "padding range 100 to 200")


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_rgb(tmp_path: Path, planar: int, syntax: UID, vr: str) -> None:
    # An odd number of bytes, so that the byte that fills up the pair is seen.
    values = words(17, 19, 3, bits=8, dtype="u1")
    stored = np.moveaxis(values, -1, 0) if planar else values
    raw = np.ascontiguousarray(stored).tobytes() + b"\0"
    if syntax == ExplicitVRBigEndian and vr == "OW":
        raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    made = dataset(raw, values.shape, syntax, bits=8, PlanarConfiguration=planar)
    made["PixelData"].VR = vr
    path = put(tmp_path, made)
    picture = media.read(path)
    assert np.array_equal(picture.array, values)
    assert (picture.bits, picture.padding) == (8, None)
    media.write(tmp_path / "same.dcm", picture.array, picture)
    assert (tmp_path / "same.dcm").read_bytes() == path.read_bytes()
    rewritten(path, picture, changed(picture))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("bits", "channels", "signed"), [(8, 1, 0), (8, 3, 0), (12, 1, 0), (16, 1, 0), (12, 1, 1)])
def test_what_pydicom_compresses(tmp_path: Path, syntax: UID, bits: int, channels: int, signed: int) -> None:
    if not get_encoder(syntax).is_available:
        pytest.skip(f"no encoder for {syntax.name}")
    shape = (64, 65) if channels == 1 else (64, 65, 3)
    values = words(*shape, bits=bits, dtype="u1" if bits == 8 else "<u2")
    stored = (values.astype(np.int32) - 2 ** (bits - 1)).astype("<i2") if signed else values
    made = dataset(stored.tobytes(), shape, bits=bits, PixelRepresentation=signed)
    plugin = "pydicom" if syntax == RLELossless else ""
    made.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    path = put(tmp_path, made)
    picture = media.read(path)
    assert np.array_equal(picture.array, values)
    rewritten(path, picture, changed(picture))


@pytest.mark.parametrize(("keyword", "value"), [("PixelSpacing", [0.5, 0.25]), ("ImagerPixelSpacing", [0.5, 0.25])])
def test_spacing(tmp_path: Path, keyword: str, value: list[float]) -> None:
    made = dataset(words(20, 22).tobytes(), (20, 22), **{keyword: value})
    assert media.read(put(tmp_path, made)).spacing == (0.5, 0.25)


@pytest.mark.parametrize("value", [[0, 1], [-1, 1], [1], []])
def test_impossible_spacing_is_none(tmp_path: Path, value: list[float]) -> None:
    assert media.read(put(tmp_path, dataset(words(20, 22).tobytes(), (20, 22), PixelSpacing=value))).spacing is None


# Into other formats and names.


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_other_formats_keep_the_content_hash(tmp_path: Path, suffix: str, bits: int) -> None:
    values = words(20, 22, bits=bits, dtype="u1" if bits == 8 else "<u2")
    picture = media.read(put(tmp_path, dataset(values.tobytes(), (20, 22), bits=bits)))
    media.write(tmp_path / f"out{suffix}", picture.array, picture)
    again = media.read(tmp_path / f"out{suffix}")
    assert np.array_equal(again.array, values)
    assert content_hash(again.array) == content_hash(picture.array)


@pytest.mark.parametrize("name", ["IM0001", "out.dcm", "1.2.840.1"])
def test_names_of_dicom_files_need_no_suffix(tmp_path: Path, name: str) -> None:
    picture = media.read(bundled("CT_small.dcm"))
    media.write(tmp_path / name, picture.array, picture)
    assert media.read(tmp_path / name).media_type == "application/dicom"


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((20, 21), np.uint16), "shape"),
        (np.zeros((20, 22, 3), np.uint16), "shape"),
        (np.full((20, 22), 4096, np.uint16), "BitsStored 12"),
    ],
)
def test_array_that_does_not_go_with_the_file_is_refused(tmp_path: Path, array: NDArray[Any], word: str) -> None:
    picture = media.read(put(tmp_path, dataset(words(20, 22, bits=12).tobytes(), (20, 22), bits=12)))
    with pytest.raises(MediaError, match=word):
        media.write(tmp_path / "out.dcm", array, picture)
    assert not (tmp_path / "out.dcm").exists()


# What is refused, and why it says so.


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"NumberOfFrames": 2}, ["2 frames"]),
        ({"Rows": 8}, ["too small"]),
        ({"Rows": 20000, "Columns": 20000}, ["20000 x 20000", "limit"]),
        ({"Rows": 21}, ["cut off"]),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ["PALETTE COLOR"]),
        ({"PhotometricInterpretation": "RGB"}, ["RGB with 1 channels"]),
        ({"SamplesPerPixel": 3}, ["MONOCHROME2 with 3 channels"]),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, ["BitsAllocated 32"]),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, ["BitsAllocated 1"]),
        ({"BitsStored": 17}, ["BitsStored 17"]),
        ({"BitsStored": 7, "HighBit": 6}, ["BitsStored 7"]),
        ({"BitsStored": 12, "HighBit": 5}, ["HighBit 5"]),
        ({"HighBit": 16}, ["HighBit 16"]),
        ({"PixelRepresentation": 2}, ["PixelRepresentation 2"]),
        ({"Rows": None}, ["lacks Rows"]),
        ({"BitsAllocated": None}, ["lacks BitsAllocated"]),
    ],
)
def test_headers_that_are_not_supported(tmp_path: Path, elements: dict[str, Any], expected: list[str]) -> None:
    refused(put(tmp_path, dataset(words(20, 22).tobytes(), (20, 22), **elements)), *expected)


def test_multi_valued_number_is_refused(tmp_path: Path) -> None:
    refused(put(tmp_path, dataset(words(20, 22).tobytes(), (20, 22), Rows=[20, 20])), "Rows")


@pytest.mark.parametrize("name", ["reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
def test_objects_without_pixels(name: str) -> None:
    refused(bundled(name), "no pixels; choose an image object")
    with pytest.raises(NoPixelsError):
        media.read(bundled(name))


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "MR_small_RLE.dcm"])
def test_fragments_that_are_cut_off(tmp_path: Path, name: str) -> None:
    content = bundled(name).read_bytes()
    file = tmp_path / name
    start = content.index(b"\xe0\x7f\x10\x00") + 12
    for end in (start, (start + len(content)) // 2):
        file.write_bytes(content[:end])
        refused(file, "cut off within its pixels")


def test_an_image_without_its_pixels_may_be_cut_off(tmp_path: Path) -> None:
    content = bundled("CT_small.dcm").read_bytes()
    file = tmp_path / "CT_small.dcm"
    for end in (content.index(b"\xe0\x7f\x10\x00"), 784):
        file.write_bytes(content[:end])
        refused(file, "holds no pixels, it may be cut off")
        with pytest.raises(MediaError) as caught:
            media.read(file)
        assert not isinstance(caught.value, NoPixelsError), "it must not pass for something else than a picture"


def test_float_pixels(tmp_path: Path) -> None:
    made = dataset(b"", (20, 22), BitsAllocated=32)
    del made.PixelData
    made.FloatPixelData = bytes(4 * 20 * 22)
    refused(put(tmp_path, made), "floats")


def test_truncated_pixels() -> None:
    refused(bundled("MR_truncated.dcm"), "8130 of 8192 bytes")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (MPEG4HP41, "MPEG-4"),
        (UID("1.2.840.10008.1.2.4.205"), "JPIP HTJ2K"),
        (UID("1.2.840.113619.5.2"), "1.2.840.113619.5.2"),
        (UID("1.2.3.4"), "1.2.3.4"),
    ],
)
def test_unknown_transfer_syntax_is_named(tmp_path: Path, syntax: UID, name: str) -> None:
    made = dataset(words(20, 22).tobytes(), (20, 22))
    path = put(tmp_path, made)
    old, new = str(ExplicitVRLittleEndian).encode(), str(syntax).encode()
    # Same place and length of the element, so that the rest of the file stays readable.
    content = path.read_bytes()
    at = content.index(b"\x02\x00\x10\x00UI")
    padded_old, padded_new = old + b"\0" * (len(old) % 2), new + b"\0" * (len(new) % 2)
    head = content[: at + 6] + len(padded_new).to_bytes(2, "little") + padded_new
    path.write_bytes(head + content[at + 8 + len(padded_old) :])
    refused(path, "transfer syntax", name)


def test_syntax_without_a_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import HTJ2KLosslessDecoder

    monkeypatch.setattr(HTJ2KLosslessDecoder, "_available", {})
    made = dataset(b"", (20, 22), bits=12)
    made.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    made.file_meta.TransferSyntaxUID = HTJ2KLossless
    made["PixelData"].is_undefined_length = True
    refused(put(tmp_path, made), "High-Throughput", str(HTJ2KLossless), "install")


def test_decoder_that_crashes_takes_nobody_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundled("SC_rgb_jpeg_gdcm.dcm")
    assert np.array_equal(media.read(path).array, dcmread(path).pixel_array)
    child = tmp_path / "child.py"
    child.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(_decompress, "_CHILD", child)
    refused(path, "JPEG Lossless", "could not be decoded", "code -6")
    child.write_text("raise ValueError('no such table')\n")
    refused(path, "no such table")


def test_twelve_bit_jpeg_names_the_syntax() -> None:
    refused(bundled("JPGExtended.dcm"), "JPEG Extended", "1.2.840.10008.1.2.4.51")


def test_deflated_file_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    made = dataset(words(20, 22).tobytes(), (20, 22))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = put(tmp_path, made)
    packer = zlib.compressobj(wbits=-15)
    path.write_bytes(path.read_bytes()[:400] + packer.compress(bytes(50_000_000)) + packer.flush())
    refused(path, "Deflated", "not supported")
    refused(bundled("image_dfl.dcm"), "Deflated")


@pytest.mark.parametrize(("syntax", "name"), [(JPEGLSLossless, "JPEG-LS"), (JPEGBaseline8Bit, "JPEG Baseline")])
def test_codestream_larger_than_the_header_is_not_decoded(tmp_path: Path, syntax: UID, name: str) -> None:
    start = b"\xff\xd8\xff\xe0\x00\x04ab\xff"
    frame = b"\xf7" if syntax == JPEGLSLossless else b"\xc0"
    stream = start + frame + b"\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00" + bytes(100)
    made = dataset(b"", (20, 22), bits=8)
    made.PixelData = encapsulate([stream])
    made.file_meta.TransferSyntaxUID = syntax
    made["PixelData"].is_undefined_length = True
    refused(put(tmp_path, made), "65535 x 65535")


def test_jpeg2000_codestream_larger_than_the_header_is_not_decoded(tmp_path: Path) -> None:
    content = bundled("MR_small_jp2klossless.dcm").read_bytes()
    at = content.index(b"\xff\x4f\xff\x51") + 8
    path = tmp_path / "bomb.dcm"
    path.write_bytes(content[:at] + b"\x00\x01\x00\x00" * 2 + content[at + 8 :])
    refused(path, "65536 x 65536")


def test_samples_beyond_the_bits_stored_are_refused_when_compressed(tmp_path: Path) -> None:
    if not get_encoder(JPEGLSLossless).is_available:
        pytest.skip("no JPEG-LS encoder")
    made = dataset(words(20, 22, bits=16).tobytes(), (20, 22))
    made.compress(JPEGLSLossless, generate_instance_uid=False)
    made.BitsStored, made.HighBit = 12, 11
    refused(put(tmp_path, made), "BitsStored 12")


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_cut_files_give_one_line(tmp_path: Path, name: str) -> None:
    whole = bundled(name).read_bytes()
    for end in range(1, len(whole) - 300, 311):
        path = tmp_path / "cut.dcm"
        path.write_bytes(whole[:end])
        refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sampled_from(["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm"]), st.data())
def test_damaged_files_give_one_line_or_a_picture(tmp_path: Path, name: str, draw: st.DataObject) -> None:
    whole = bytearray(bundled(name).read_bytes())
    for _ in range(draw.draw(st.integers(1, 5))):
        whole[draw.draw(st.integers(132, len(whole) - 1))] = draw.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(whole)
    try:
        picture = media.read(path)
        media.write(tmp_path / "out.dcm", picture.array, picture, overwrite=True)
    except MediaError as error:
        assert str(error).startswith(str(tmp_path))
        assert "\n" not in str(error)


def test_nothing_but_the_error_reaches_the_terminal(tmp_path: Path) -> None:
    names = ["JPGExtended.dcm", "badVR.dcm", "MR_truncated.dcm", "SC_rgb_jpeg.dcm", "693_J2KI.dcm", "JPEG-lossy.dcm"]
    code = (
        "import sys\nfrom medprov_watermark import media\nfrom medprov_watermark.errors import MediaError\n"
        "for name in sys.argv[1:]:\n    try:\n        media.read(name)\n    except MediaError:\n        pass\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *(str(bundled(name)) for name in names)], capture_output=True, check=True
    )
    assert (run.stdout, run.stderr) == (b"", b"")


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    threads = [threading.Thread(target=media.read, args=(bundled("MR_small_RLE.dcm"),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_the_picture_read_is_independent_of_later_changes_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "in.dcm"
    path.write_bytes(bundled("MR_small.dcm").read_bytes())
    picture = media.read(path)
    expected = copy.copy(picture.array)
    path.write_bytes(b"gone")
    media.write(tmp_path / "out.dcm", picture.array, picture)
    assert np.array_equal(media.read(tmp_path / "out.dcm").array, expected)
    assert dcmread(tmp_path / "out.dcm").PatientName == dcmread(bundled("MR_small.dcm")).PatientName
