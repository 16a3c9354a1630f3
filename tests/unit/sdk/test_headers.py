"""The second field of a verdict: the header of the file, through the whole verifier."""

from pathlib import Path
from typing import Any

import pydicom
import pydicom.data

from medprov_sdk import Verdict
from medprov_sdk.metadata import State
from medprov_watermark import media


def dicom(tmp_path: Path, world: Any, **changes: Any) -> tuple[Path, Any]:
    """A DICOM file of the phantom with changed elements, and its attributes before the change."""
    made = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    image = world.phantom()
    made.Rows, made.Columns = image.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    del made.PixelPaddingValue
    made.PixelData = image.tobytes()
    made["PixelData"].VR = "OB"
    made.save_as(tmp_path / "a.dcm")
    attributes = media.attributes(media.read(tmp_path / "a.dcm"))
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    made.save_as(tmp_path / "b.dcm")
    return tmp_path / "b.dcm", attributes


def test_a_header_as_released_matches(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.MATCHES)
    assert result.metadata.compared == len(attributes) and result.metadata.differing == ()


def test_a_changed_header_is_told_beside_the_verdict(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world, PatientName="SOMEBODY^ELSE", Laterality="R", RescaleIntercept="-500")
    world.release(world.phantom(), world.alice, attributes)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.DIFFERS)
    assert result.metadata.differing == ("Laterality", "PatientName", "RescaleIntercept")
    assert "SOMEBODY" not in result.metadata.sentence and "not as released: Laterality" in result.metadata.sentence


def test_the_header_of_a_tampered_file_is_compared_too(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world, PatientID="another")
    world.release(world.phantom(), world.alice, attributes)
    pixels = media.read(file)
    changed = pixels.array.copy()
    changed[70, 40] ^= 1
    media.write(tmp_path / "c.dcm", changed, pixels)
    world.reader.say(changed, world.payload)
    result = world.verifier.verify(tmp_path / "c.dcm")
    assert (result.verdict, result.metadata.differing) == (Verdict.TAMPERED, ("PatientID",))


def test_the_same_picture_in_another_format_has_no_metadata_to_compare(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    pixels = media.read(file)
    for name in ("a.png", "a.tif"):
        media.write(tmp_path / name, pixels.array, pixels)
        result = world.verifier.verify(tmp_path / name)
        assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.NOT_AVAILABLE)


def test_the_header_of_an_authentic_file_stays_open_without_the_store(world: Any, tmp_path: Path) -> None:
    file, attributes = dicom(tmp_path, world)
    world.release(world.phantom(), world.alice, attributes)
    assert world.verifier.verify(file).metadata.state is State.MATCHES
    (tmp_path / "blocks").rename(tmp_path / "elsewhere")
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.AUTHENTIC, State.NOT_AVAILABLE)
    assert "could not be fetched" in result.metadata.sentence
    assert all(check.passed is not False for check in result.checks)


def test_without_a_record_the_header_is_not_compared(world: Any, tmp_path: Path) -> None:
    file, _ = dicom(tmp_path, world)
    result = world.verifier.verify(file)
    assert (result.verdict, result.metadata.state) == (Verdict.UNKNOWN, State.NOT_AVAILABLE)
    assert "no record" in result.metadata.sentence
