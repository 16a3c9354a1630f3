from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

from medprov_ledger.bundle import Bundle
from medprov_node.attributes import BULK, describe, dicom_metadata
from medprov_node.errors import MarkError
from medprov_watermark import media


@pytest.fixture
def dataset() -> Dataset:
    return pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))


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
    assert found.attributes == media.attributes(media.read(path)) and "PNG gAMA" in found.attributes
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


def test_the_attributes_of_a_dicom_file_are_those_that_a_verifier_lists(dataset) -> None:
    path = Path(pydicom.data.get_testdata_file("CT_small.dcm"))
    pixels = media.read(path)
    found = describe(path, pixels)
    assert found.attributes == media.attributes(pixels)
    assert found.attributes["PatientName"] == str(dataset.PatientName)


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
