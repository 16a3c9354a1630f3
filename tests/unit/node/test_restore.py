from __future__ import annotations

import numpy as np
import pydicom
import pytest
from PIL import Image

from medprov_node.errors import OutputError
from medprov_node.restore import restore_file
from medprov_watermark import media
from medprov_watermark.errors import MediaError, RestoreError
from medprov_watermark.hashing import content_hash


def test_the_cover_of_a_png_comes_back_bit_for_bit(done, watermarker, tmp_path) -> None:
    result = restore_file(done.png.output, tmp_path / "cover.png", watermarker=watermarker)
    cover = media.read(done.png.input).array
    assert np.array_equal(media.read(tmp_path / "cover.png").array, cover)
    assert result.cover_hash == "0x" + content_hash(cover).hex()
    assert result.marked_hash == done.png.released_hash
    assert result.payload == done.png.payload
    assert result.changed == int((media.read(done.png.output).array != cover).sum()) > 0


def test_the_cover_of_a_dicom_file_comes_back_byte_for_byte(done, watermarker, tmp_path) -> None:
    restore_file(done.dicom.output, tmp_path / "cover.dcm", watermarker=watermarker)
    assert (tmp_path / "cover.dcm").read_bytes() == done.dicom.input.read_bytes()


def test_a_lossless_copy_in_another_format_restores(done, watermarker, tmp_path) -> None:
    marked = media.read(done.dicom.output)
    media.write(tmp_path / "copy.png", marked.array, marked)
    result = restore_file(tmp_path / "copy.png", tmp_path / "cover.tif", watermarker=watermarker)
    assert result.cover_hash == "0x" + content_hash(media.read(done.dicom.input).array).hex()


def test_the_result_is_json(done, watermarker, tmp_path) -> None:
    found = restore_file(done.png.output, tmp_path / "cover.png", watermarker=watermarker).to_json()
    assert found["input"] == str(done.png.output)
    assert set(found["milliseconds"]) == {"read", "restore", "write"}


def _one_sample(path, done) -> None:
    array = media.read(done.png.output).array.copy()
    array[64, 64] ^= 1
    Image.fromarray(array).save(path)


def _jpeg(path, done) -> None:
    Image.open(done.png.output).save(path, "JPEG", quality=95)


def _half(path, done) -> None:
    Image.open(done.png.output).crop((0, 0, 128, 64)).save(path)


def _cover(path, done) -> None:
    path.write_bytes(done.png.input.read_bytes())


def _other_samples(path, done) -> None:
    dataset = pydicom.dcmread(done.dicom.output)
    dataset.PixelData = dataset.PixelData[:-2] + bytes(2)
    dataset.save_as(path)


@pytest.mark.parametrize("spoil", [_one_sample, _jpeg, _half, _cover, _other_samples])
def test_what_is_not_the_untouched_marked_picture_does_not_restore(done, watermarker, tmp_path, spoil) -> None:
    source, target = tmp_path / "spoiled", tmp_path / "cover.png"
    source = source.with_suffix(".dcm" if spoil is _other_samples else ".png")
    spoil(source, done)
    with pytest.raises(RestoreError, match=rf"{source.name}: the cover cannot be restored"):
        restore_file(source, target, watermarker=watermarker)
    assert not target.exists()


def test_an_output_that_exists_is_kept(done, watermarker, tmp_path) -> None:
    target = tmp_path / "cover.png"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        restore_file(done.png.output, target, watermarker=watermarker)
    assert target.read_bytes() == b"mine"


def test_what_is_not_a_picture_is_refused(watermarker, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"a\.png: it is not a PNG"):
        restore_file(tmp_path / "a.png", tmp_path / "b.png", watermarker=watermarker)
