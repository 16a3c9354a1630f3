"""Regions of interest from files: a picture (PNG or TIFF) of the same size, or a DICOM segmentation.

A segmentation (PS3.3 A.51 and C.8.20) may hold frames for many pictures. Those count whose functional groups name the
picture's SOP Instance UID as their source (PS3.3 C.7.6.16.2.6); where no frame names a source, the only frame. All
segments together are the region.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import pixel_array

from medprov_watermark.errors import MediaError
from medprov_watermark.media import dicom, png, tiff
from medprov_watermark.media.files import MAX_PIXELS, first_line, load
from medprov_watermark.pixels import Pixels

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""


def read(path: str | os.PathLike[str], picture: Pixels) -> NDArray[np.bool_]:
    """Read the region of interest of a picture.

    Parameters
    ----------
    path : path
        PNG or TIFF, where every sample but 0 belongs to the region, or a DICOM segmentation: binary, label map, or
        fractional, where half of the largest value and more belongs to it.
    picture : Pixels
        The picture that the region is meant for.

    Returns
    -------
    bool array (H, W)

    Raises
    ------
    MediaError
        One line that names the file, the reason and what to do: not such a file, damaged, of another size, for
        another picture, or without a single pixel.
    """
    file = Path(path)
    try:
        data = load(file)
        mask = _decode(data, picture)
        if mask.shape != picture.array.shape[:2]:
            raise _other_size(mask.shape, picture)
        if not mask.any():
            raise MediaError("the region of interest holds no pixel; choose another mask, or no region")
    except MediaError as error:
        raise MediaError(f"{file}: {error}") from error
    # The parsers meet hostile bytes and raise whatever comes first.
    except Exception as error:
        raise MediaError(
            f"{file}: the file is damaged ({first_line(error)}); get it again from where it came"
        ) from error
    return mask


def _decode(data: bytes, picture: Pixels) -> NDArray[np.bool_]:
    if data[128:132] == dicom.SIGNATURE:
        with dicom.without_warnings():
            return _segmentation(data, picture)
    if data.startswith(png.SIGNATURE):
        samples = png.decode(data, MAX_PIXELS).array
    elif data.startswith(tiff.SIGNATURES):
        samples = tiff.decode(data, MAX_PIXELS).array
    else:
        raise MediaError("it is neither a PNG or TIFF mask nor a DICOM segmentation; convert it to one of these")
    return np.asarray(samples.any(axis=2) if samples.ndim == 3 else samples > 0)


def _segmentation(data: bytes, picture: Pixels) -> NDArray[np.bool_]:
    dicom.refuse_deflated(data)
    dataset = dcmread(BytesIO(data))
    if dataset.get("SOPClassUID") not in _SEGMENTATIONS:
        raise MediaError("it is DICOM but no segmentation; give a segmentation object or a PNG mask")
    if "PixelData" not in dataset:
        raise MediaError("the segmentation holds no pixels, it may be cut off before them; get it again")
    if "TotalPixelMatrixRows" in dataset:
        raise MediaError("a segmentation in tiles is not supported; give one of the whole picture")
    shape = (int(dataset.Rows), int(dataset.Columns))
    if shape != picture.array.shape[:2]:
        raise _other_size(shape, picture)
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise MediaError(f"a segmentation of type {kind or '(none)'} is not known; give a binary one")
    mask = np.zeros(shape, np.bool_)
    for frame in _frames(dataset, picture):
        try:
            samples = pixel_array(dataset, index=frame)
        except Exception as error:
            raise MediaError(
                f"frame {frame + 1} of the segmentation cannot be read, the file may be cut off ({first_line(error)}); "
                "get it again"
            ) from error
        least = max(1, -(-int(dataset.get("MaximumFractionalValue", 1)) // 2)) if kind == "FRACTIONAL" else 1
        mask |= samples >= least
    return mask


def _frames(dataset: FileDataset, picture: Pixels) -> list[int]:
    """Numbers, from 0, of the frames that belong to the picture."""
    count = int(dataset.get("NumberOfFrames") or 1)
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != count:
        raise MediaError(f"the segmentation has {count} frames but describes {len(groups)}; get it again")
    shared = set().union(*(_sources(group) for group in dataset.get("SharedFunctionalGroupsSequence") or []))
    sources = [_sources(group) | shared for group in groups] or [shared] * count
    named: set[str] = set().union(*sources)
    header = dicom.header(picture)
    own = None if header is None else str(header.get("SOPInstanceUID", ""))
    if own is None:
        if count > 1 and (len(named) != 1 or not all(sources)):
            raise MediaError("the segmentation has frames for several pictures, and this one is no DICOM; give a PNG")
        return list(range(count))
    if named:
        chosen = [number for number, source in enumerate(sources) if own in source]
        if not chosen:
            raise MediaError(f"the segmentation belongs to another picture: no frame names SOP instance {own}")
        return chosen
    listed = {
        str(instance.get("ReferencedSOPInstanceUID", ""))
        for series in dataset.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedInstanceSequence") or []
    }
    if listed and own not in listed:
        raise MediaError(f"the segmentation belongs to another picture: it does not name SOP instance {own}")
    if count > 1:
        raise MediaError(f"the segmentation does not say which of its {count} frames belongs to the picture")
    return [0]


def _sources(group: Dataset) -> set[str]:
    """SOP instances that a functional group was derived from."""
    found: list[Any] = [
        source.get("ReferencedSOPInstanceUID")
        for derivation in group.get("DerivationImageSequence") or []
        for source in derivation.get("SourceImageSequence") or []
    ]
    return {str(uid) for uid in found if uid}


def _other_size(shape: tuple[int, ...], picture: Pixels) -> MediaError:
    height, width = picture.array.shape[:2]
    return MediaError(
        f"the region of interest is {shape[1]} x {shape[0]} pixels and the picture {width} x {height}; "
        "give the mask of this picture"
    )
