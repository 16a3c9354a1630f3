"""Regions of interest from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.media import masks
from medprov_watermark.pixels import Pixels

SHAPE = (128, 128)


def region() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, np.bool_)
    mask[30:61, 40:90] = True
    return mask


@pytest.fixture(scope="module")
def ct() -> Pixels:
    return media.read(str(get_testdata_file("CT_small.dcm")))


@pytest.fixture(scope="module")
def own() -> str:
    return str(dcmread(str(get_testdata_file("CT_small.dcm"))).SOPInstanceUID)


@pytest.fixture
def grey(tmp_path: Path) -> Pixels:
    path = tmp_path / "picture.png"
    Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (128, 1))).save(path)
    return media.read(path)


def segmentation(
    path: Path, frames: NDArray[Any], sources: list[str | None] | None = None, kind: str = "BINARY", **more: Any
) -> Path:
    """Write a segmentation; `sources` names the SOP instance of each frame, None writes no functional groups."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SegmentationStorage, generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    binary = kind == "BINARY"
    dataset.BitsAllocated = dataset.BitsStored = 1 if binary else 8
    dataset.HighBit = dataset.BitsStored - 1
    raw = pack_bits(frames.astype(np.uint8)) if binary else frames.astype(np.uint8).tobytes()
    dataset.PixelData = raw + bytes(len(raw) % 2)
    if sources is not None:
        dataset.PerFrameFunctionalGroupsSequence = [group(source) for source in sources]
    for name, value in more.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def group(source: str | None) -> Dataset:
    made = Dataset()
    if source is not None:
        reference, derivation = Dataset(), Dataset()
        reference.ReferencedSOPInstanceUID = source
        derivation.SourceImageSequence = [reference]
        made.DerivationImageSequence = [derivation]
    return made


# Pictures.


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "tif", "faint"])
def test_pictures_are_read(kind: str, grey: Pixels, tmp_path: Path) -> None:
    image = Image.fromarray((region() * (3 if kind == "faint" else 255)).astype(np.uint8))
    path = tmp_path / f"mask.{'tif' if kind == 'tif' else 'png'}"
    (image if kind in ("tif", "faint") else image.convert(kind)).save(path)
    np.testing.assert_array_equal(masks.read(path, grey), region())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.png", None, "cannot be read"),
        ("empty.png", b"", "empty"),
        ("text.png", b"no picture at all", "neither a PNG or TIFF mask nor a DICOM segmentation"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\x00\x00", "damaged|cut off|mask"),
    ],
)
def test_other_files_are_refused_and_named(
    name: str, content: bytes | None, words: str, grey: Pixels, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=words) as caught:
        masks.read(path, grey)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lossy_pictures_are_no_masks(grey: Pixels, tmp_path: Path) -> None:
    Image.fromarray((region() * 255).astype(np.uint8)).save(tmp_path / "mask.jpg")
    with pytest.raises(MediaError, match="neither a PNG"):
        masks.read(tmp_path / "mask.jpg", grey)


def test_a_mask_of_another_size_is_refused(grey: Pixels, tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 128), 255, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(MediaError, match=r"128 x 64 pixels and the picture 128 x 128"):
        masks.read(tmp_path / "mask.png", grey)


def test_an_empty_mask_is_refused(grey: Pixels, tmp_path: Path) -> None:
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(MediaError, match="holds no pixel"):
        masks.read(tmp_path / "mask.png", grey)


# Segmentations.


def test_the_frames_of_the_picture_are_chosen_and_joined(ct: Pixels, own: str, tmp_path: Path) -> None:
    frames = np.zeros((3, *SHAPE), np.bool_)
    frames[0, 5:9, 5:9] = frames[1, 60:70, 60:70] = frames[2, 100:103, 9:13] = True
    path = segmentation(tmp_path / "seg.dcm", frames, [own, "1.2.3.4", own])
    np.testing.assert_array_equal(masks.read(path, ct), frames[0] | frames[2])


def test_a_source_may_be_shared_by_all_frames(ct: Pixels, own: str, tmp_path: Path) -> None:
    frames = np.stack([region(), region().T])
    path = segmentation(tmp_path / "seg.dcm", frames, [None, None], SharedFunctionalGroupsSequence=[group(own)])
    np.testing.assert_array_equal(masks.read(path, ct), frames[0] | frames[1])


@pytest.mark.parametrize("sources", [None, [None]])
def test_a_single_frame_without_a_source_is_taken(
    sources: list[str | None] | None, ct: Pixels, grey: Pixels, tmp_path: Path
) -> None:
    path = segmentation(tmp_path / "seg.dcm", region()[None], sources)
    np.testing.assert_array_equal(masks.read(path, ct), region())
    np.testing.assert_array_equal(masks.read(path, grey), region())


def test_fractions_count_from_half_of_the_largest_value(ct: Pixels, own: str, tmp_path: Path) -> None:
    frames = np.zeros((1, *SHAPE), np.uint8)
    frames[0, 0, :3] = 49, 50, 100
    path = segmentation(tmp_path / "seg.dcm", frames, [own], "FRACTIONAL", MaximumFractionalValue=100)
    assert np.flatnonzero(masks.read(path, ct)).tolist() == [1, 2]


def test_labels_count_from_one(ct: Pixels, own: str, tmp_path: Path) -> None:
    frames = (region() * np.arange(128) % 5).astype(np.uint8)[None]
    path = segmentation(tmp_path / "seg.dcm", frames, [own], "LABELMAP")
    np.testing.assert_array_equal(masks.read(path, ct), frames[0] > 0)


def _listed(uid: str) -> list[Dataset]:
    instance, series = Dataset(), Dataset()
    instance.ReferencedSOPInstanceUID = uid
    series.ReferencedInstanceSequence = [instance]
    return [series]


def test_the_list_of_a_single_frame_s_pictures_counts(ct: Pixels, own: str, tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", region()[None], ReferencedSeriesSequence=_listed(own))
    np.testing.assert_array_equal(masks.read(path, ct), region())


@pytest.mark.parametrize(
    ("sources", "more", "words"),
    [
        (["1.2.3.4"], {}, "belongs to another picture"),
        (None, {"ReferencedSeriesSequence": _listed("1.2.3.4")}, "belongs to another picture"),
        (["own", "own"], {}, "has 1 frames but describes 2"),
        (["own"], {"Rows": 64, "Columns": 256}, "256 x 64 pixels and the picture 128 x 128"),
        (["own"], {"SegmentationType": "OTHER"}, "type OTHER"),
        (["own"], {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "no segmentation"),
        (["own"], {"TotalPixelMatrixRows": 4096}, "tiles"),
    ],
)
def test_segmentations_that_do_not_suit_are_refused(
    sources: list[str | None] | None, more: dict[str, Any], words: str, ct: Pixels, own: str, tmp_path: Path
) -> None:
    named = None if sources is None else [own if source == "own" else source for source in sources]
    path = segmentation(tmp_path / "seg.dcm", region()[None], named, **more)
    with pytest.raises(MediaError, match=words) as caught:
        masks.read(path, ct)
    assert str(path) in str(caught.value)


def test_several_frames_without_sources_are_refused(ct: Pixels, grey: Pixels, tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", np.stack([region()] * 2))
    with pytest.raises(MediaError, match="which of its 2 frames"):
        masks.read(path, ct)
    with pytest.raises(MediaError, match="no DICOM"):
        masks.read(path, grey)


def test_an_empty_segmentation_is_refused(ct: Pixels, own: str, tmp_path: Path) -> None:
    path = segmentation(tmp_path / "seg.dcm", np.zeros((1, *SHAPE), np.bool_), [own])
    with pytest.raises(MediaError, match="holds no pixel"):
        masks.read(path, ct)


def test_every_truncation_is_refused(ct: Pixels, own: str, tmp_path: Path) -> None:
    whole = segmentation(tmp_path / "seg.dcm", region()[None], [own]).read_bytes()
    for length in [*range(0, len(whole), 41), *range(len(whole) - 2000, len(whole) - 1, 97)]:
        path = tmp_path / "cut.dcm"
        path.write_bytes(whole[:length])
        with pytest.raises(MediaError) as caught:
            masks.read(path, ct)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), length


@pytest.mark.filterwarnings("ignore")
def test_a_shipped_segmentation_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((512, 512), np.uint8)).save(path)
    with pytest.raises(MediaError, match="has 1 frames but describes 3"):
        masks.read(str(get_testdata_file("liver_1frame.dcm")), media.read(path))
