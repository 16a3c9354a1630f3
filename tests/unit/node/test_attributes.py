from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from medprov_ledger.bundle import Bundle
from medprov_node.attributes import ATTRIBUTES, BULK, describe, dicom_attributes, dicom_metadata
from medprov_node.errors import MarkError
from medprov_watermark import media


@pytest.fixture
def dataset() -> Dataset:
    return pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))


def test_every_listed_name_is_a_dicom_keyword() -> None:
    assert all(pydicom.datadict.tag_for_keyword(name) is not None for name in ATTRIBUTES)
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES)


def test_the_kinds_that_the_evidence_promises_are_listed() -> None:
    wanted = {"PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Laterality", "PixelSpacing"}
    wanted |= {"ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "PhotometricInterpretation"}
    assert wanted | {"InstanceNumber", "NumberOfFrames"} <= set(ATTRIBUTES)


def test_values_have_one_spelling(dataset) -> None:
    found = dicom_attributes(dataset, 1)
    assert found["PatientName"] == "CompressedSamples^CT1"
    assert found["PixelSpacing"] == "0.661468\\0.661468"
    assert found["InstanceNumber"] == "1.0"
    assert found["Laterality"] == ""
    assert tuple(found) == ATTRIBUTES


def test_another_encoding_of_the_same_file_spells_the_same(dataset, tmp_path) -> None:
    before = dicom_attributes(dataset, 1)
    dataset.PixelSpacing = ["0.6614680", "6.61468e-1"]
    dataset.PatientID = "1CT1 "
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "implicit.dcm", implicit_vr=True)
    again = pydicom.dcmread(tmp_path / "implicit.dcm")
    assert again.original_encoding == (True, True)
    assert dicom_attributes(again, 1) == before


@pytest.mark.parametrize(
    ("name", "value"), [("PatientID", "x"), ("Laterality", "R"), ("PixelSpacing", [0.7, 0.661468])]
)
def test_a_changed_value_spells_differently(dataset, name, value) -> None:
    before = dicom_attributes(dataset, 1)
    setattr(dataset, name, value)
    after = dicom_attributes(dataset, 1)
    assert [key for key in ATTRIBUTES if after[key] != before[key]] == [name]


def test_colour_is_named_as_it_is_written(dataset) -> None:
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    assert dicom_attributes(dataset, 3)["PhotometricInterpretation"] == "RGB"
    assert dicom_attributes(dataset, 1)["PhotometricInterpretation"] == "YBR_FULL_422"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_every_bit(value: float) -> None:
    dataset = Dataset()
    dataset.add_new("SpacingBetweenSlices", "FD", value)
    assert float(dicom_attributes(dataset, 1)["SpacingBetweenSlices"]) == value


def test_a_value_that_cannot_be_decoded_does_not_stop_it(tmp_path) -> None:
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    data = Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes()
    spoiled = data.replace(b"0.661468\\0.661468", b"0.66146x\\nonsense", 1)
    assert spoiled != data
    (tmp_path / "odd.dcm").write_bytes(spoiled)
    odd = dicom_attributes(pydicom.dcmread(tmp_path / "odd.dcm"), 1)
    assert odd["PixelSpacing"] not in ("", dicom_attributes(dataset, 1)["PixelSpacing"])


def test_metadata_is_the_json_model_without_pixels(dataset) -> None:
    found = dicom_metadata(dataset)
    assert found["00100010"]["Value"][0]["Alphabetic"] == "CompressedSamples^CT1"
    assert not any(tag.startswith("7FE0") for tag in found)
    assert "PixelData" in dataset


def test_metadata_that_json_cannot_hold_still_fits_a_bundle(dataset) -> None:
    dataset.add_new("SpacingBetweenSlices", "FD", math.nan)
    dataset.add_new((0x0009, 0x1010), "OB", bytes(BULK + 2))
    found = dicom_metadata(dataset)
    assert found["00180088"]["Value"] == ["nan"]
    assert found["00091010"]["BulkDataURI"].startswith("urn:sha256:")
    assert Bundle.from_bytes(Bundle(bytes(16), found).to_bytes()).metadata == found


def test_words_of_a_png_go_into_the_bundle(tmp_path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "Jane Doe")
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, pnginfo=info)
    found = describe(path, media.read(path))
    assert found.metadata["Patient"] == "Jane Doe"
    assert found.attributes == {}
    assert found.notes["file"] == "a.png" and found.notes["bytes"] == str(path.stat().st_size)
    json.dumps(found.metadata)


def test_the_digest_names_the_metadata_and_not_the_file(tmp_path) -> None:
    image = Image.fromarray(np.zeros((64, 64), np.uint8))
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "Jane Doe")
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.png")
    image.save(tmp_path / "c.png", pnginfo=info)
    a, b, c = (describe(tmp_path / f"{name}.png", media.read(tmp_path / f"{name}.png")).digest for name in "abc")
    assert a == b != c


def test_nothing_personal_in_the_representation(dataset) -> None:
    path = Path(pydicom.data.get_testdata_file("CT_small.dcm"))
    assert "CompressedSamples" not in repr(describe(path, media.read(path)))


def test_a_file_that_went_away_is_said(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    pixels = media.read(path)
    path.unlink()
    with pytest.raises(MarkError, match=r"a\.png: it cannot be read"):
        describe(path, pixels)
