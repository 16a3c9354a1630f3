"""The attributes of a DICOM file: one spelling for one meaning, another for another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from medprov_watermark import media
from medprov_watermark.hashing import content_hash
from medprov_watermark.media import dicom_attributes
from medprov_watermark.media.dicom_attributes import ATTRIBUTES, LONGEST, OVERLAYS


def path_of(name: str) -> Path:
    return Path(str(get_testdata_file(name, download=False)))


def attributes_of(made: Dataset, folder: Path, **how: Any) -> dict[str, str]:
    """The attributes of a data set once it is a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(folder / "made.dcm", **how)
    return media.attributes(media.read(folder / "made.dcm"))


def spelled(keyword: str, vr: str, value: Any) -> str:
    made = Dataset()
    made.add_new(keyword, vr, value)
    return dicom_attributes._attribute(made, keyword)


@pytest.fixture
def dataset() -> Dataset:
    return pydicom.dcmread(path_of("CT_small.dcm"))


@pytest.fixture
def before() -> dict[str, str]:
    return media.attributes(media.read(path_of("CT_small.dcm")))


def test_every_listed_name_is_a_dicom_keyword() -> None:
    assert all(pydicom.datadict.tag_for_keyword(name) is not None for name in set(ATTRIBUTES) - {OVERLAYS})
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES)


def test_the_kinds_that_the_evidence_promises_are_listed() -> None:
    wanted = {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Laterality", "PixelSpacing"}
    wanted |= {"ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "PhotometricInterpretation"}
    assert wanted | {"InstanceNumber", "NumberOfFrames", OVERLAYS} <= set(ATTRIBUTES)


def test_values_have_one_spelling(before: dict[str, str]) -> None:
    assert before["PatientName"] == "CompressedSamples^CT1"
    assert before["PixelSpacing"] == "0.661468\\0.661468"
    assert before["InstanceNumber"] == "1.0"
    assert before["Laterality"] == before[OVERLAYS] == ""
    assert set(before) == set(ATTRIBUTES)


def test_another_encoding_of_the_same_file_spells_the_same(
    dataset: Dataset, before: dict[str, str], tmp_path: Path
) -> None:
    dataset.PixelSpacing = ["0.6614680", "6.61468e-1"]
    dataset.PatientID = "1CT1 "
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert attributes_of(dataset, tmp_path, implicit_vr=True) == before
    assert pydicom.dcmread(tmp_path / "made.dcm").original_encoding == (True, True)


@pytest.mark.parametrize(
    "encoding", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"]
)
def test_every_transfer_syntax_spells_the_same(encoding: str) -> None:
    assert media.attributes(media.read(path_of(f"MR_small_{encoding}.dcm"))) == media.attributes(
        media.read(path_of("MR_small.dcm"))
    )


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "examples_overlay.dcm",
        "examples_jpeg2k.dcm",
    ],
)
def test_a_marked_file_spells_as_its_original(tmp_path: Path, name: str) -> None:
    picture = media.read(path_of(name))
    media.write(tmp_path / name, picture.array ^ np.asarray(1, picture.array.dtype), picture)
    assert media.attributes(media.read(tmp_path / name)) == media.attributes(picture)


def _set(keyword: str, value: Any) -> Callable[[Dataset], None]:
    return lambda made: setattr(made, keyword, value)


def _overlay(made: Dataset, data: bytes = b"\xff" * 2048) -> None:
    for element, vr, value in ((0x10, "US", 128), (0x11, "US", 128), (0x40, "CS", "G"), (0x50, "SS", [1, 1])):
        made.add_new(0x60020000 + element, vr, value)
    made.add_new(0x60020100, "US", 1)
    made.add_new(0x60020102, "US", 0)
    made.add_new(0x60023000, "OW", data)


def _lut(made: Dataset) -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTExplanation = [2, 0, 16], "turns black into white"
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "US", [65535, 0])
    made.ModalityLUTSequence = [item]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("PatientName", _set("PatientName", "Somebody^Else")),
        ("PatientID", _set("PatientID", "x")),
        ("Laterality", _set("Laterality", "R")),
        ("PixelSpacing", _set("PixelSpacing", [0.7, 0.661468])),
        ("ImageOrientationPatient", _set("ImageOrientationPatient", [-1, 0, 0, 0, 1, 0])),
        ("RescaleIntercept", _set("RescaleIntercept", "-500")),
        ("WindowCenter", _set("WindowCenter", "-5000")),
        ("ModalityLUTSequence", _lut),
        (OVERLAYS, _overlay),
    ],
)
def test_a_changed_value_spells_differently(
    dataset: Dataset, before: dict[str, str], tmp_path: Path, name: str, change: Callable[[Dataset], None]
) -> None:
    change(dataset)
    after = attributes_of(dataset, tmp_path)
    assert [key for key in ATTRIBUTES if after[key] != before[key]] == [name]


def test_every_part_of_an_overlay_counts(dataset: Dataset, tmp_path: Path) -> None:
    _overlay(dataset)
    one = attributes_of(dataset, tmp_path)[OVERLAYS]
    dataset[0x60020050].value = [1, 9]
    moved = attributes_of(dataset, tmp_path)[OVERLAYS]
    _overlay(dataset, b"\xff" * 2047 + b"\xfe")
    drawn = attributes_of(dataset, tmp_path)[OVERLAYS]
    assert len({"", one, moved, drawn}) == 4


def test_an_overlay_in_the_bits_beside_the_samples_counts(dataset: Dataset, tmp_path: Path) -> None:
    words = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    del dataset.PixelPaddingValue
    dataset.add_new(0x60000010, "US", 128)
    dataset.add_new(0x60000102, "US", 15)
    dataset.PixelData = words.tobytes()
    without = attributes_of(dataset, tmp_path)
    plain = content_hash(media.read(tmp_path / "made.dcm").array)
    dataset.PixelData = (words | 0x8000).tobytes()
    within = attributes_of(dataset, tmp_path)
    assert content_hash(media.read(tmp_path / "made.dcm").array) == plain
    assert [name for name in ATTRIBUTES if within[name] != without[name]] == [OVERLAYS]


def test_samples_that_only_look_the_same_are_told_apart(
    dataset: Dataset, before: dict[str, str], tmp_path: Path
) -> None:
    # the content hash counts signed samples from their lowest value, so this file has the same hash and other numbers
    shifted = (np.frombuffer(dataset.PixelData, "<i2").astype(np.int32) + 2**15).astype("<u2")
    dataset.PixelRepresentation = 0
    dataset.PixelData = shifted.tobytes()
    del dataset.PixelPaddingValue
    after = attributes_of(dataset, tmp_path)
    same = content_hash(media.read(tmp_path / "made.dcm").array) == content_hash(
        media.read(path_of("CT_small.dcm")).array
    )
    assert same and after["PixelRepresentation"] != before["PixelRepresentation"]


def test_colour_is_named_as_it_is_written() -> None:
    path = path_of("SC_ybr_full_422_uncompressed.dcm")
    assert pydicom.dcmread(path).PhotometricInterpretation == "YBR_FULL_422"
    assert media.attributes(media.read(path))["PhotometricInterpretation"] == "RGB"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_every_bit(value: float) -> None:
    assert float(spelled("SpacingBetweenSlices", "FD", value)) == value


@given(st.text(max_size=200))
def test_any_text_fits_into_utf_8(value: str) -> None:
    spelled("PatientComments", "LT", value).encode("utf-8")


def test_long_values_are_spelled_as_their_hash(dataset: Dataset, tmp_path: Path) -> None:
    dataset.PatientID = "x" * (LONGEST + 1)
    one = attributes_of(dataset, tmp_path)["PatientID"]
    dataset.PatientID = "x" * LONGEST + "y"
    assert one != attributes_of(dataset, tmp_path)["PatientID"] and len(one) < 100


def test_a_value_that_cannot_be_decoded_does_not_stop_it(before: dict[str, str], tmp_path: Path) -> None:
    data = path_of("CT_small.dcm").read_bytes()
    spoiled = data.replace(b"0.661468\\0.661468", b"0.66146x\\nonsense", 1)
    assert spoiled != data
    (tmp_path / "odd.dcm").write_bytes(spoiled)
    odd = media.attributes(media.read(tmp_path / "odd.dcm"))
    assert odd["PixelSpacing"] not in ("", before["PixelSpacing"])


def test_a_sequence_that_contains_itself_often_does_not_stop_it(dataset: Dataset, tmp_path: Path) -> None:
    inner = Dataset()
    inner.LUTExplanation = "at the bottom"
    for _ in range(120):
        outer = Dataset()
        outer.VOILUTSequence = [inner]
        inner = outer
    dataset.VOILUTSequence = [inner]
    assert attributes_of(dataset, tmp_path)["VOILUTSequence"] != ""


def test_samples_without_their_file_have_no_attributes() -> None:
    picture = media.read(path_of("CT_small.dcm"))
    assert media.attributes(replace(picture, source=None)) == {}
