"""What is kept of a picture's metadata: codes of single attributes in the evidence, the whole in the private bundle.

The evidence holds one HMAC per name that :func:`medprov_watermark.media.attributes` gives, of the text that it gives.
An absent attribute has the empty text, so that adding one later shows as well.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image
from pydicom import Dataset, dcmread

from medprov_node.errors import MarkError
from medprov_watermark import media
from medprov_watermark.media.dicom_attributes import clean_text
from medprov_watermark.pixels import Pixels

BULK = 1 << 16
"""Binary elements longer than this go into the bundle as their SHA-256 only."""
_PIXELS = 0x7FE0
_LONGEST = 1 << 16


@dataclass(frozen=True)
class Description:
    """A picture's metadata; personal data, never to be shown.

    Parameters
    ----------
    attributes : mapping of str to str
        For the evidence's codes; empty where the format has none.
    metadata : mapping
        JSON object for the bundle. DICOM: the JSON model of PS3.18, annex F, without pixels. Others: what the file says
        about itself in words and numbers.
    notes : mapping of str to str
        For the bundle: the file's name, size and SHA-256.
    """

    attributes: Mapping[str, str] = field(repr=False)
    metadata: Mapping[str, Any] = field(repr=False)
    notes: Mapping[str, str] = field(repr=False)

    @property
    def digest(self) -> bytes:
        """32 bytes that name the metadata; the file's name does not count."""
        text = json.dumps([dict(self.attributes), dict(self.metadata)], sort_keys=True)
        return hashlib.sha3_256(text.encode("utf-8")).digest()


def describe(path: Path, pixels: Pixels) -> Description:
    """Collect the metadata of a picture.

    Parameters
    ----------
    path : Path
        The file that `pixels` was read from.
    pixels : Pixels

    Raises
    ------
    MarkError
        The file cannot be read any more.
    """
    try:
        data = path.read_bytes()
        notes = {
            "file": clean_text(path.name),
            "media_type": pixels.media_type,
            "bytes": str(len(data)),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        metadata = dicom_metadata(dcmread(path)) if pixels.media_type == "application/dicom" else _words(path)
    except OSError as error:
        raise MarkError(f"{path}: it cannot be read ({error.strerror or error}); check the path") from None
    return Description(media.attributes(pixels), metadata, notes)


def dicom_metadata(dataset: Dataset) -> dict[str, Any]:
    """All elements but the pixels, in the JSON model of PS3.18, annex F.

    Numbers that JSON cannot hold (NaN, infinities) become text. Elements that cannot be decoded are left out.
    """
    slim = Dataset({element.tag: element for element in dataset.values() if element.tag.group != _PIXELS})
    slim.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
    found = slim.to_json_dict(BULK, _bulk, suppress_invalid_tags=True)
    cleaned = _clean(found)
    assert isinstance(cleaned, dict)
    return cleaned


def _bulk(element: Any) -> str:
    value = element.value
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
    return "urn:sha256:" + hashlib.sha256(data).hexdigest()


def _words(path: Path) -> dict[str, Any]:
    """Texts and numbers that Pillow finds in a file: PNG text, TIFF and EXIF tags, JPEG comments."""
    found: dict[str, Any] = {}
    try:
        with Image.open(path) as image:
            exif: dict[Any, Any] = {
                ExifTags.TAGS.get(tag, f"tag {tag}"): value for tag, value in image.getexif().items()
            }
            words: dict[Any, Any] = exif | image.info
            for name, value in words.items():
                text = value.decode("utf-8", "replace") if name == "comment" and isinstance(value, bytes) else value
                if isinstance(text, (str, int, float)) and len(str(text)) <= _LONGEST:
                    found[clean_text(str(name))] = _clean(text)
    except Exception:  # the samples were read already; what Pillow cannot parse beside them is simply not there
        return {}
    return found


def _clean(value: Any) -> Any:
    """The same value with nothing in it that canonical JSON in UTF-8 cannot hold."""
    if isinstance(value, dict):
        return {clean_text(str(name)): _clean(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(part) for part in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return clean_text(str(value))
