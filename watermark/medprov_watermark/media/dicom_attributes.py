"""What a DICOM file says beside its samples, attribute by attribute, spelled so that two files can be compared.

A content hash covers samples only. Whose picture it is, which side it shows, what a sample means and what is drawn over
it stand in the header; the evidence of a released picture holds a code of each text that is spelled here.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from medprov_watermark.media import dicom
from medprov_watermark.pixels import Pixels

OVERLAYS = "OverlayData"
"""Name under which all overlays (PS3.3 C.9.2, groups 6000 to 601E) are spelled as one."""
ATTRIBUTES = (
    # patient
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    # study, series, object
    "StudyInstanceUID",
    "AccessionNumber",
    "StudyDate",
    "SeriesInstanceUID",
    "Modality",
    "SOPClassUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    # laterality, orientation, position
    "Laterality",
    "ImageLaterality",
    "ViewPosition",
    "PatientOrientation",
    "PatientPosition",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceLocation",
    # spacing
    "PixelSpacing",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "SliceThickness",
    "SpacingBetweenSlices",
    # meaning of the samples
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    "PhotometricInterpretation",
    # how they are shown
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
    OVERLAYS,
    # order of frames, and all of the above in enhanced objects
    "InstanceNumber",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""DICOM keywords (PS3.6) whose values a verifier can check."""

LONGEST = 1 << 10
"""Longer texts are spelled as their SHA-256."""
_OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


def of(pixels: Pixels) -> dict[str, str]:
    """Every name of :data:`ATTRIBUTES` with the text of its value; an absent attribute has the empty text.

    The text does not depend on how the file is encoded: numbers are written as the shortest decimal that gives the same
    double (IEEE 754), values of a list are joined by a backslash, padding at the ends is cut, and colour is always
    ``RGB`` because that is how a marked picture is written. Look-up tables and overlays are the exception: written with
    another VR or byte order they spell differently.

    Parameters
    ----------
    pixels : Pixels
        As read from a DICOM file; without its file there are no attributes.
    """
    dataset = dicom.header(pixels)
    if dataset is None:
        return {}
    with dicom.without_warnings():
        out = {name: _short(_attribute(dataset, name)) for name in ATTRIBUTES if name != OVERLAYS}
        out[OVERLAYS] = _short(_overlays(dataset, dicom.unused_bits(pixels)))
    if pixels.array.ndim == 3:
        out["PhotometricInterpretation"] = "RGB"
    return out


def clean_text(text: str) -> str:
    """The same text with nothing in it that UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else "sha256 " + hashlib.sha256(text.encode("utf-8")).hexdigest()


def _overlays(dataset: Dataset, unused: bytes) -> str:
    """All elements of the overlay groups; with them the bits beside the samples, where old overlays lie."""
    found = [_element(dataset, tag) for tag in sorted(dataset.keys()) if tag.group in _OVERLAY_GROUPS]
    return " ".join([*found, hashlib.sha256(unused).hexdigest()]) if found else ""


def _element(dataset: Dataset, tag: Any) -> str:
    return f"{tag:08x}={_attribute(dataset, tag)}"


def _attribute(dataset: Dataset, name: Any) -> str:
    try:
        value = dataset[name].value if name in dataset else None
        values = value if isinstance(value, (MultiValue, Sequence, list, tuple)) else [value]
        return "\\".join(_spelled(part) for part in values)
    except Exception:  # conversion of hostile values raises errors of any kind
        raw = getattr(dataset.get_item(name), "value", None)
        return "undecodable " + (raw.hex() if isinstance(raw, bytes) else "")


def _spelled(value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Dataset):
        # of a sequence's item only what the standard defines: other software may drop or recode private elements
        return "(" + " ".join(_element(value, tag) for tag in sorted(value.keys()) if not tag.is_private) + ")"
    if isinstance(value, PersonName):
        return clean_text(str(value).rstrip("^= \0"))
    if isinstance(value, (bytes, str)):
        return clean_text(value.hex() if isinstance(value, bytes) else value.strip(" \0"))
    try:
        # adding zero turns -0.0 into 0.0
        return repr(float(value) + 0.0)
    except (TypeError, ValueError, OverflowError):
        return clean_text(str(value).strip(" \0"))
