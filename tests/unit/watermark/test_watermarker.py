"""Mark, read, restore."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medprov_watermark import battery, coupling, detection, integrity, region, tuning
from medprov_watermark import body as w2
from medprov_watermark import carriers as cr
from medprov_watermark.coupling_network import CouplingNetwork
from medprov_watermark.errors import AlreadyMarkedError, CapacityError, EmbedError, RestoreError, WatermarkError
from medprov_watermark.extractor import working_picture
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.payload import Payload, commitment, find_in
from medprov_watermark.watermarker import DualWatermarker, Marked, Samples, psnr, salted
from medprov_watermark.weights import Release

pytestmark = pytest.mark.usefixtures("quick")


def correct_or_refused(wm: DualWatermarker, cover: Samples, payload: Payload) -> None:
    """A picture is marked so that all is right, or refused with one clear line."""
    try:
        marked = wm.mark(cover, payload)
    except EmbedError as error:
        assert "\n" not in str(error)
        assert len(str(error)) > 20
        return
    assert marked.image.dtype == cover.dtype
    found = wm.extract(marked.image)
    assert found.payload == payload
    assert found.integrity.state == "intact"
    np.testing.assert_array_equal(wm.restore(marked.image), cover)


# What marking promises, on every kind of picture.


def test_the_cover_comes_back_bit_for_bit(wm: DualWatermarker, case) -> None:  # type: ignore[no-untyped-def]
    assert case.marked.image.shape == case.cover.shape
    assert case.marked.image.dtype == case.cover.dtype
    assert not np.array_equal(case.marked.image, case.cover)
    back = wm.restore(case.marked.image)
    assert back.dtype == case.cover.dtype
    np.testing.assert_array_equal(back, case.cover)


def test_both_marks_read(wm: DualWatermarker, case, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    found = wm.extract(case.marked.image)
    assert found.payload == payload
    assert found.geometry == Geometry()
    assert found.presence >= detection.THRESHOLD
    assert found.soft_bits.shape == (cr.CODE,)
    assert found.integrity.state == "intact"
    assert found.integrity.payload == payload
    assert found.integrity.reason == ""
    assert wm.integrity(case.marked.image) == found.integrity


def test_the_codeword_answers_each_way_in_which_the_picture_may_lie(
    wm: DualWatermarker, case, payload: Payload
) -> None:  # type: ignore[no-untyped-def]
    turned = Geometry(1, True).apply(case.marked.image)
    found = [find_in(one.soft_bits, [payload], 8) is not None for one in wm.each_way(turned)]
    assert found == [one == Geometry(1, True) for one in ALL]


def test_the_statement_names_what_it_should(wm: DualWatermarker, case, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    marked, mark = case.marked, case.marked.image_mark
    assert mark.format == 2
    assert mark.model == wm.model
    assert mark.payload_commitment == commitment(payload)
    assert mark.marked_hash == marked.marked_hash
    assert mark.cover_hash == marked.cover_hash == salted(marked.salt, content_hash(case.cover))
    assert len(marked.salt) == 16
    assert marked.released_hash == content_hash(marked.image)
    assert marked.marked_hash != marked.released_hash
    frame = integrity.extract(marked.image)
    assert frame is not None
    assert content_hash(frame.image) == marked.marked_hash
    assert frame.header.gain == marked.gain


def test_the_signer_is_asked_for_this_statement_and_its_bytes_come_back(wm: DualWatermarker, case) -> None:  # type: ignore[no-untyped-def]
    assert not case.marked.short
    # Where a finished picture is made louder in vain, the last one that was asked about is not the one that leaves.
    assert case.notary.asked.count(case.marked.image_mark) == 1
    assert len(case.marked.signature) == 65
    found = wm.integrity(case.marked.image)
    assert found.signature == case.marked.signature
    assert found.image_mark == case.marked.image_mark


def test_the_stated_psnr_is_that_of_the_released_picture(case) -> None:  # type: ignore[no-untyped-def]
    error = np.mean((case.cover.astype(np.float64) - case.marked.image) ** 2)
    assert case.marked.psnr == pytest.approx(10 * np.log10(case.legal[1] ** 2 / error))
    assert case.marked.psnr > 25
    assert isinstance(case.marked.robust, bool)


def test_legal_range_and_padding_hold(case) -> None:  # type: ignore[no-untyped-def]
    assert case.marked.image.max() <= case.legal[1]
    if case.padding is not None:
        assert (case.cover == case.padding).any()
        np.testing.assert_array_equal(case.marked.image == case.padding, case.cover == case.padding)


def test_no_sample_of_the_region_changes(cases) -> None:  # type: ignore[no-untyped-def]
    case = cases["region"]
    whole = region.to_mask(region.from_mask(case.roi, 32), case.cover.shape)
    assert whole[case.roi].all()
    np.testing.assert_array_equal(case.marked.image[whole], case.cover[whole])
    assert (case.marked.image[~whole] != case.cover[~whole]).any()
    assert case.marked.roi_mode == "strict"
    assert case.marked.roi_share == whole.mean()
    assert cases["grey"].marked.roi_mode == "off"
    assert cases["grey"].marked.roi_share == 0


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Spots, lines and boxes, at the border too; never empty."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    row, column = np.indices(shape)
    y, x = random.uniform(0, 1, 2) * shape
    kind = draw(st.sampled_from(["spot", "line", "box", "pixel", "dust"]))
    if kind == "spot":
        mask = np.hypot(row - y, column - x) < random.uniform(1, 0.3 * min(shape))
    elif kind == "line":
        mask = np.abs(row - y - (column - x) * random.uniform(-2, 2)) < random.uniform(0.5, 6)
    elif kind == "box":
        mask = (row >= y * 0.8) & (row <= y) & (column >= x * 0.8) & (column <= x)
    elif kind == "pixel":
        mask = (row == int(y)) & (column == int(x))
    else:
        mask = random.random(shape) < 0.0005
    mask[int(y), int(x)] = True
    return np.asarray(mask)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_strict_means_that_not_one_pixel_differs(wm: DualWatermarker, payload: Payload, phantom, data) -> None:  # type: ignore[no-untyped-def]
    """W1 and W2 together, on any region that leaves room; the loop that chooses amplitudes is left out for its time."""
    shape = data.draw(st.sampled_from([(128, 128), (131, 200), (260, 257)]))
    mask, colour = data.draw(regions(shape)), data.draw(st.booleans())
    cover = phantom(*shape, seed=data.draw(st.integers(0, 9)))
    cover = np.stack([cover, cover // 2, 255 - cover], axis=-1) if colour else cover
    attenuate = data.draw(st.booleans())
    cells = region.from_mask(mask, data.draw(st.sampled_from(region.SIDES)))
    gain = data.draw(st.sampled_from([300, 2000, 20000]))
    codes = np.random.default_rng(0).integers(0, 4, cr.CODE).astype(np.uint8)
    tuned = tuning.Tuned(codes, 400, gain, np.zeros(len(battery.ATTACKS), np.bool_))
    frozen = coupling.Frozen(gain, 0, 0, (0, 255), None, region.to_mask(cells, shape), attenuate=attenuate)
    signs = wm._signs(payload)
    try:
        marked = wm._write(cover, payload, signs, tuned, frozen, cells, None, bytes(16), content_hash(cover))
    except CapacityError as error:
        assert attenuate or "region of interest covers" in str(error)
        return
    if attenuate:
        assert marked.roi_mode == "attenuate"
    else:
        assert marked.roi_mode == "strict"
        np.testing.assert_array_equal(marked.image[mask], cover[mask])
        np.testing.assert_array_equal(marked.image[frozen.roi], cover[frozen.roi])
    np.testing.assert_array_equal(wm.restore(marked.image), cover)


def test_an_attenuated_region_changes_less_and_comes_back(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    case = cases["region"]
    marked = wm.mark(case.cover, payload, roi=case.roi, roi_mode="attenuate")
    assert marked.roi_mode == "attenuate"
    assert marked.roi_share == case.marked.roi_share
    np.testing.assert_array_equal(wm.restore(marked.image), case.cover)
    frame = integrity.extract(marked.image)
    assert frame is not None and frame.roi is None and frame.body is not None
    np.testing.assert_array_equal(w2.parse(frame.body)[0].region, region.from_mask(case.roi, 32))
    error = np.square(marked.image.astype(np.float64) - case.cover)
    assert 0 < error[case.roi].mean() < 0.5 * error[~case.roi].mean()


def test_everything_may_be_attenuated(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    cover = cases["region"].cover
    marked = wm.mark(cover, payload, roi=np.ones(cover.shape, np.bool_), roi_mode="attenuate")
    assert (marked.roi_mode, marked.roi_share) == ("attenuate", 1.0)
    np.testing.assert_array_equal(wm.restore(marked.image), cover)


@pytest.mark.parametrize("mode", ["", "Strict", "none"])
def test_other_modes_are_refused(wm: DualWatermarker, payload: Payload, mode: str) -> None:
    with pytest.raises(EmbedError, match="roi_mode"):
        wm.mark(np.zeros((80, 80), np.uint8), payload, roi_mode=mode)


def test_the_region_of_mode_off_is_ignored(
    wm: DualWatermarker, cases, payload: Payload, salted_mark: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    cover = cases["odd"].cover
    monkeypatch.setattr("secrets.token_bytes", bytes)
    marked = wm.mark(cover, payload, roi=np.ones(cover.shape, np.bool_), roi_mode="off")
    assert marked.roi_mode == "off"
    np.testing.assert_array_equal(marked.image, salted_mark.image)


@pytest.mark.parametrize("geometry", ALL, ids=str)
@pytest.mark.parametrize("name", ["grey", "odd"])
def test_all_eight_orientations_read(
    wm: DualWatermarker, cases, payload: Payload, name: str, geometry: Geometry
) -> None:  # type: ignore[no-untyped-def]
    case = cases[name]
    turned = geometry.apply(case.marked.image)
    found = wm.extract(turned)
    assert found.payload == payload
    assert found.geometry == geometry
    assert (found.integrity.state == "intact") is geometry.identity
    upright = found.geometry.undo(turned)
    assert wm.integrity(upright).state == "intact"
    np.testing.assert_array_equal(wm.restore(upright), case.cover)


@pytest.mark.parametrize("quality", [90, 70])
def test_the_ownership_mark_survives_jpeg_and_the_integrity_mark_does_not(
    wm: DualWatermarker, cases, payload: Payload, quality: int
) -> None:  # type: ignore[no-untyped-def]
    buffer = io.BytesIO()
    Image.fromarray(cases["grey"].marked.image).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer))
    found = wm.extract(decoded)
    assert found.payload == payload
    assert found.integrity.state != "intact"
    with pytest.raises(RestoreError):
        wm.restore(decoded)


# One changed sample.


@pytest.mark.parametrize("name", ["odd", "colour", "deep", "region"])
def test_one_changed_sample_breaks_integrity_and_restoring_refuses(wm: DualWatermarker, cases, name: str) -> None:  # type: ignore[no-untyped-def]
    case = cases[name]
    random = np.random.default_rng(0)
    ring = np.ones(case.cover.shape[:2], np.bool_)
    ring[2:-2, 2:-2] = False
    channels = case.cover.size // ring.size
    outer = random.choice(np.flatnonzero(ring), 25, replace=False) * channels + random.integers(0, channels, 25)
    anywhere = random.choice(case.cover.size, 35, replace=False)
    for place in np.concatenate([outer, anywhere]):
        if case.cover.flat[place] == case.padding:
            continue  # see the next test
        changed = case.marked.image.copy()
        value = int(changed.flat[place])
        changed.flat[place] = value + 1 if value < case.legal[1] else value - 1
        found = wm.integrity(changed)
        assert found.state == "broken", place
        assert found.reason
        assert found.image_mark is None
        assert found.signature is None
        with pytest.raises(RestoreError, match="cannot be restored"):
            wm.restore(changed)


def test_one_changed_sample_of_the_padding_is_noticed(wm: DualWatermarker, cases) -> None:  # type: ignore[no-untyped-def]
    # a changed padding sample can move the header's place, and then nothing is found instead of something broken
    case = cases["deep"]
    for place in np.flatnonzero(case.cover == case.padding)[::17]:
        changed = case.marked.image.copy()
        changed.flat[place] += 1
        assert wm.integrity(changed).state != "intact", place


def test_a_large_change_inside_is_noticed_and_the_payload_is_still_known(
    wm: DualWatermarker, cases, payload: Payload
) -> None:  # type: ignore[no-untyped-def]
    changed = cases["grey"].marked.image.copy()
    changed[120:150, 110:150] = 0
    found = wm.extract(changed)
    assert found.payload == payload
    assert found.integrity.state == "broken"
    with pytest.raises(RestoreError):
        wm.restore(changed)


@pytest.mark.parametrize("cut", [np.s_[1:], np.s_[:, :-1], np.s_[:128]])
def test_a_crop_is_not_intact(wm: DualWatermarker, cases, cut) -> None:  # type: ignore[no-untyped-def]
    cropped = np.ascontiguousarray(cases["grey"].marked.image[cut])
    assert wm.integrity(cropped).state != "intact"
    with pytest.raises(RestoreError):
        wm.restore(cropped)


def test_the_container_of_the_samples_does_not_matter(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    case = cases["grey"]
    wide = case.marked.image.astype(np.uint16)
    found = wm.extract(wide)
    assert found.payload == payload
    assert found.integrity.state == "intact"
    assert found.integrity.image_mark == case.marked.image_mark
    np.testing.assert_array_equal(wm.restore(wide), case.cover)


def test_the_layout_in_memory_does_not_matter(wm: DualWatermarker, cases) -> None:  # type: ignore[no-untyped-def]
    for name in ("odd", "deep"):
        case = cases[name]
        for image in (np.asfortranarray(case.marked.image), case.marked.image[::-1].copy()[::-1]):
            assert wm.integrity(image).state == "intact"
            np.testing.assert_array_equal(wm.restore(image), case.cover)


def test_inputs_are_left_alone(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    image = cases["odd"].marked.image.copy()
    image.setflags(write=False)
    wm.extract(image)
    wm.restore(image)
    cover = cases["odd"].cover.copy()
    cover.setflags(write=False)
    assert wm.mark(cover, payload).gain > 0


# Marking again.


def test_a_marked_picture_is_not_marked_again(wm: DualWatermarker, case, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    for again in (payload, Payload(bytes(8), bytes(4))):
        with pytest.raises(AlreadyMarkedError, match=payload.serial.hex()):
            wm.mark(case.marked.image, again)


def test_a_turned_or_damaged_marked_picture_is_not_marked_again(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    marked = cases["grey"].marked.image
    changed = marked.copy()
    changed[100:110, 100:110] = 0
    for image in (np.ascontiguousarray(np.rot90(marked)), changed):
        with pytest.raises(AlreadyMarkedError):
            wm.mark(image, payload)


def test_a_restored_picture_is_marked_anew(wm: DualWatermarker, cases) -> None:  # type: ignore[no-untyped-def]
    case = cases["odd"]
    other = Payload(bytes(8), bytes(4))
    again = wm.mark(wm.restore(case.marked.image), other)
    assert wm.extract(again.image).payload == other
    assert again.signature is None
    assert wm.integrity(again.image).signature is None


@pytest.fixture(scope="module")
def salted_mark(wm: DualWatermarker, cases, payload: Payload) -> Marked:  # type: ignore[no-untyped-def]
    """A mark whose salt is all zeros: the gain, and with it the mark, may depend on the salt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_bytes", bytes)
        return wm.mark(cases["odd"].cover, payload)


@pytest.mark.parametrize("region", [False, True])
def test_the_salt_apart_the_mark_is_the_same_each_time_and_an_empty_region_is_none(
    wm: DualWatermarker, cases, payload: Payload, salted_mark: Marked, monkeypatch: pytest.MonkeyPatch, region: bool
) -> None:  # type: ignore[no-untyped-def]
    cover = cases["odd"].cover
    monkeypatch.setattr("secrets.token_bytes", bytes)
    again = wm.mark(cover, payload, roi=np.zeros(cover.shape, np.bool_) if region else None)
    np.testing.assert_array_equal(again.image, salted_mark.image)
    assert again.image_mark == salted_mark.image_mark


def test_every_mark_has_its_own_salt(cases, salted_mark: Marked) -> None:  # type: ignore[no-untyped-def]
    assert salted_mark.salt == bytes(16)
    salts = {case.marked.salt for case in (cases["odd"], cases["grey"])}
    assert len(salts) == 2
    assert cases["odd"].marked.cover_hash != salted_mark.cover_hash


def test_embed_is_the_picture_of_mark(wm: DualWatermarker, cases, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    cover = cases["odd"].cover
    image = wm.embed(cover, payload)
    assert wm.extract(image).payload == payload
    np.testing.assert_array_equal(wm.restore(image), cover)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_restores(threads: str, cases, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("grey", "deep"):
        np.save(tmp_path / f"{name}.npy", cases[name].marked.image)
    code = (
        "import sys, hashlib, numpy as np\n"
        "from medprov_watermark import DualWatermarker\n"
        "wm = DualWatermarker.load(device='cpu', threads=int(sys.argv[1]))\n"
        "for path in sys.argv[2:]:\n"
        "    print(hashlib.sha256(wm.restore(np.load(path)).tobytes()).hexdigest())\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", code, threads, str(tmp_path / "grey.npy"), str(tmp_path / "deep.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    wanted = [hashlib.sha256(cases[name].cover.tobytes()).hexdigest() for name in ("grey", "deep")]
    assert done.stdout.split() == wanted


# Difficult pictures.


@pytest.mark.parametrize("kind", ["black", "grey", "white", "deep black", "deep white", "checks", "noise", "dot"])
def test_difficult_pictures_are_marked_rightly_or_refused(wm: DualWatermarker, payload: Payload, kind: str) -> None:
    shape = (72, 80)
    covers: dict[str, Samples] = {
        "black": np.zeros(shape, np.uint8),
        "grey": np.full(shape, 128, np.uint8),
        "white": np.full(shape, 255, np.uint8),
        "deep black": np.zeros(shape, np.uint16),
        "deep white": np.full(shape, 65535, np.uint16),
        "checks": (np.indices(shape).sum(0) // 8 % 2 * 255).astype(np.uint8),
        "noise": np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16),
        "dot": np.zeros(shape, np.uint8),
    }
    covers["dot"][40, 40] = 255
    correct_or_refused(wm, covers[kind], payload)


def test_the_smallest_size_is_marked_rightly_or_refused(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    correct_or_refused(wm, phantom(64, 64), payload)


def test_a_long_strip_is_marked_rightly_or_refused(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    correct_or_refused(wm, phantom(64, 3000), payload)


def test_a_picture_of_padding_alone_is_refused(wm: DualWatermarker, payload: Payload) -> None:
    with pytest.raises(EmbedError):
        wm.mark(np.full((64, 64), 7, np.uint16), payload, padding=7, value_range=(0, 4095))


# Wrong arguments.


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((80, 80)), "float64"),
        (np.full((80, 80), np.nan, np.float32), "float32"),
        (np.zeros((80, 80), np.int16), "int16"),
        (np.zeros((80, 80), np.bool_), "bool"),
        (np.zeros((80, 80), ">u2"), "u2"),
        (np.zeros((80, 80, 4), np.uint8), "80, 80, 4"),
        (np.zeros((80, 80, 1), np.uint8), "80, 80, 1"),
        (np.zeros((2, 80, 80, 3), np.uint8), "2, 80, 80, 3"),
        (np.zeros(6400, np.uint8), "6400"),
        (np.zeros((63, 200), np.uint8), "at least 64"),
        (np.zeros((200, 63), np.uint8), "at least 64"),
        (np.zeros((1, 1), np.uint8), "at least 64"),
        (np.zeros((0, 0), np.uint8), "at least 64"),
    ],
    ids=lambda part: f"{part.dtype}{part.shape}" if isinstance(part, np.ndarray) else "",
)
def test_other_arrays_are_refused(wm: DualWatermarker, payload: Payload, image: Samples, words: str) -> None:
    with pytest.raises(EmbedError, match=words):
        wm.mark(image, payload)
    with pytest.raises(RestoreError):
        wm.restore(image)


@pytest.mark.parametrize("shape", [(0, 0), (0, 90), (7,), (80, 80, 2), (2, 80, 80, 3)])
def test_reading_no_picture_fails_clearly_or_finds_nothing(wm: DualWatermarker, shape: tuple[int, ...]) -> None:
    try:
        found = wm.extract(np.zeros(shape, np.uint8))
    except (WatermarkError, ValueError) as error:
        assert "picture" in str(error) or str(shape) in str(error)
    else:
        assert found.payload is None
        assert found.integrity.state == "absent"


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (20, 20), (63, 63, 3)])
def test_tiny_pictures_are_read_without_a_mark(wm: DualWatermarker, shape: tuple[int, ...]) -> None:
    found = wm.extract(np.full(shape, 9, np.uint8))
    assert found.payload is None
    assert found.integrity.state == "absent"


@pytest.mark.parametrize("legal", [(-1, 255), (0, 256), (255, 0), (9, 9), (10, 12)])
def test_an_impossible_range_is_refused(wm: DualWatermarker, payload: Payload, cases, legal: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EmbedError, match="legal range"):
        wm.mark(cases["odd"].cover, payload, value_range=legal)


@pytest.mark.parametrize(("width", "lift"), [(512, 1.0), (520, 1.1)])
def test_a_picture_larger_than_its_stand_in_begins_louder(
    wm: DualWatermarker, payload: Payload, phantom, monkeypatch: pytest.MonkeyPatch, width: int, lift: float
) -> None:  # type: ignore[no-untyped-def]
    gains: list[tuple[int, int]] = []
    write = DualWatermarker._write

    def written(self: DualWatermarker, *given) -> Marked:  # type: ignore[no-untyped-def]
        gains.append((given[3].gain, given[4].gain))
        return write(self, *given)

    monkeypatch.setattr(DualWatermarker, "_write", written)
    wm.mark(phantom(128, width), payload, quick=True)
    assert gains[0][1] == round(lift * gains[0][0])


@pytest.mark.parametrize("floor", [34.9, 55.1, float("nan"), float("inf")])
def test_an_impossible_floor_is_refused(wm: DualWatermarker, payload: Payload, cases, floor: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EmbedError, match=r"floor of .* dB is not within 35 to 55 dB"):
        wm.mark(cases["odd"].cover, payload, floor=floor)


@pytest.mark.parametrize("padding", [-1, 70000, 2**32, 2**40])
def test_an_impossible_padding_value_is_refused(wm: DualWatermarker, payload: Payload, cases, padding: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(EmbedError, match="padding"):
        wm.mark(cases["odd"].cover, payload, padding=padding)


@pytest.mark.parametrize("shape", [(60, 60), (129, 67), (67, 128), (3, 3), (0, 0), (67, 129, 1)])
def test_a_region_of_another_shape_is_refused(
    wm: DualWatermarker, payload: Payload, cases, shape: tuple[int, ...]
) -> None:  # type: ignore[no-untyped-def]
    roi = np.zeros(shape, np.bool_)
    if roi.size:
        roi.flat[roi.size // 2] = True
    with pytest.raises(EmbedError, match="region"):
        wm.mark(cases["odd"].cover, payload, roi=roi)


def test_a_region_that_is_not_boolean_is_refused(wm: DualWatermarker, payload: Payload, cases) -> None:  # type: ignore[no-untyped-def]
    cover = cases["odd"].cover
    with pytest.raises(EmbedError, match="region"):
        wm.mark(cover, payload, roi=np.ones(cover.shape, np.uint8))


def test_a_region_over_everything_is_refused_and_named(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(67, 129)
    with pytest.raises(EmbedError, match="region"):
        wm.mark(cover, payload, roi=np.ones(cover.shape, np.bool_))


def test_a_region_that_leaves_too_little_room_is_refused(wm: DualWatermarker, payload: Payload, cases) -> None:  # type: ignore[no-untyped-def]
    cover = cases["grey"].cover
    roi = np.ones(cover.shape, np.bool_)
    roi[100:160, 100:160] = False
    with pytest.raises(EmbedError, match=r"region of interest covers 9\d ?%"):
        wm.mark(cover, payload, roi=roi)


@pytest.mark.parametrize("written", [True, False])
def test_a_region_map_that_contradicts_the_block_map_or_is_missing_is_broken(
    wm: DualWatermarker, payload: Payload, phantom, written: bool
) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(128, 160)
    mask = np.zeros(cover.shape, np.bool_)
    mask[40:60, 50:90] = True
    area, other = region.block_map(region.from_mask(mask, 16)), region.from_mask(~mask, 16) if written else None
    body = w2.Body(payload, 0, 300, np.full(cr.CODE, 3, np.uint8), b"none", np.zeros(0, np.int64), None, None, other)
    packed = body.pack(w2.settings_bytes(9, 0, (0, 255), None, area, wm.model[:8]), content_hash(cover))
    image = integrity.embed(cover, packed, legal=(0, 255), gain=9, shift=0, model=wm.model[:8], roi=mask)
    found = wm.integrity(image)
    assert found.state == "broken"
    assert "contradict" in found.reason


@pytest.mark.parametrize("length", [0, 64, 66])
def test_a_signature_of_another_length_is_refused_and_named(
    wm: DualWatermarker, payload: Payload, cases, length: int
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((EmbedError, ValueError), match="signature"):
        wm.mark(cases["odd"].cover, payload, signer=lambda mark: bytes(length))


def test_an_error_of_the_signer_comes_through(wm: DualWatermarker, payload: Payload, cases) -> None:  # type: ignore[no-untyped-def]
    class LockedError(Exception):
        pass

    def locked(mark: object) -> bytes:
        raise LockedError

    with pytest.raises(LockedError):
        wm.mark(cases["odd"].cover, payload, signer=locked)


def test_the_short_form_says_so_and_restores(
    wm: DualWatermarker, payload: Payload, cases, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    cover, genuine = cases["odd"].cover, integrity.embed

    def narrow(image: Samples, body: bytes, **other: object) -> Samples:
        if not other["short"]:
            raise CapacityError("too little room", 1, 0)
        return genuine(image, body, **other)  # type: ignore[arg-type]

    monkeypatch.setattr(integrity, "embed", narrow)
    marked = wm.mark(cover, payload, signer=lambda mark: bytes(65))
    assert marked.short
    assert marked.signature is None
    found = wm.integrity(marked.image)
    assert found.state == "intact"
    assert found.payload == payload
    assert found.image_mark is None
    assert found.signature is None
    np.testing.assert_array_equal(wm.restore(marked.image), cover)


# Many pictures, other carriers, and what is believed.


def test_many_pictures_are_read_as_each_alone(wm: DualWatermarker, cases, phantom, payload: Payload) -> None:  # type: ignore[no-untyped-def]
    pictures = [
        cases["odd"].marked.image,
        phantom(90, 120),
        cases["colour"].marked.image,
        np.full((64, 64), 3, np.uint8),
        ALL[6].apply(cases["grey"].marked.image),
        cases["deep"].marked.image,
    ]
    together = wm.extract_many(pictures, search=False)
    assert [found.payload for found in together] == [payload, None, payload, None, payload, payload]
    for picture, found in zip(pictures, together, strict=True):
        alone = wm.extract(picture, search=False)
        assert (alone.payload, alone.geometry, alone.present) == (found.payload, found.geometry, found.present)
        assert alone.presence == pytest.approx(found.presence, abs=1e-2)
        assert alone.integrity == found.integrity
    assert wm.extract_many([]) == []
    with pytest.raises(EmbedError, match="float64"):
        wm.extract_many([pictures[0], np.zeros((80, 80))])  # type: ignore[list-item]


def test_without_the_consortium_s_key_w1_is_noise_and_the_cover_stays_lost(
    wm: DualWatermarker, payload: Payload, phantom
) -> None:  # type: ignore[no-untyped-def]
    cover = phantom(180, 220, seed=2)
    keyed, other = (DualWatermarker(wm._release, key) for key in (b"a consortium's secret", b"another consortium"))
    marked = keyed.mark(cover, payload)
    found = keyed.extract(marked.image)
    assert (found.payload, found.integrity.state) == (payload, "intact")
    np.testing.assert_array_equal(keyed.restore(marked.image), cover)
    for stranger in (wm, other):
        seen = stranger.extract(marked.image, search=False)
        assert seen.payload is None
        assert not seen.present
        assert abs(seen.presence) < 5
        assert seen.integrity.payload == payload  # W2 is no secret
        with pytest.raises(RestoreError, match="cannot be restored"):
            stranger.restore(marked.image)
    with pytest.raises(ValueError, match="16 bytes"):
        DualWatermarker.load(device="cpu", threads=1, key=b"short")


# Pictures that nobody marked.


def unmarked(phantom) -> list[Samples]:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    row, column = np.mgrid[:200, :200]
    made: list[Samples] = [phantom(160 + 8 * seed, 200, seed=100 + seed) for seed in range(8)]
    made += [random.integers(0, 256, (200, 200)).astype(np.uint8) for _ in range(4)]
    made += [
        np.where(np.hypot(row - 100, column - 100) < radius, 200, 0).astype(np.uint8) for radius in (44, 76, 92, 98)
    ]
    made += [np.where(row > edge, 255, 0).astype(np.uint8) for edge in (40, 100)]
    made += [np.full((200, 200), value, np.uint8) for value in (0, 9, 255)]
    deep = np.where(np.hypot(row - 100, column - 100) > 98, 0, phantom(200, 200, 2000).astype(np.int64) + 31744)
    return [*made, (row + column // 3).clip(0, 255).astype(np.uint8), deep.astype(np.uint16)]


@pytest.mark.slow
def test_unmarked_pictures_give_no_mark(wm: DualWatermarker, phantom) -> None:  # type: ignore[no-untyped-def]
    for number, image in enumerate(unmarked(phantom)):
        found = wm.extract(image, search=number % 3 == 0)  # a search takes seconds
        assert not found.present, number
        assert found.payload is None, number
        assert found.integrity.state == "absent", number
        with pytest.raises(RestoreError, match="no integrity mark"):
            wm.restore(image)


def test_the_pilots_of_unmarked_pictures_have_no_leaning(wm: DualWatermarker, phantom) -> None:  # type: ignore[no-untyped-def]
    """Without this the computed false alarm means nothing: the score must be centred on 0, not drawn to the pilots."""
    pictures = np.stack([working_picture(phantom(256, 256, seed=seed)) for seed in range(24)])
    scores = detection.pilot_score(wm._reader(pictures), wm._reader.carriers)
    assert abs(scores.mean()) < 1.0
    assert scores.std() < 1.6


# Forged and foreign marks.


def forge(wm: DualWatermarker, cover: Samples, payload: Payload, **header: object) -> Samples:
    """A picture whose W2 fits itself, as anybody can make it, around settings of the forger's choice."""
    fields = {"gain": 1000, "shift": 0, "legal": (0, 255), "padding": None, "model": wm.model[:8], **header}
    exceptions = fields.pop("exceptions", np.zeros(0, np.int64))
    settings = w2.settings_bytes(
        fields["gain"], fields["shift"], fields["legal"], fields["padding"], None, fields["model"]
    )  # type: ignore[arg-type]
    body = w2.Body(payload, 0, 300, np.full(cr.CODE, 3, np.uint8), b"none", exceptions, bytes(32), None)  # type: ignore[arg-type]
    return integrity.embed(cover, body.pack(settings, content_hash(cover)), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"gain": 0},
        {"gain": 65535},
        {"shift": 8, "gain": 65535},
        {"shift": 31, "gain": 65535},
        {"shift": 63, "gain": 65535},
        {"shift": 64, "gain": 1},
        {"shift": 255, "gain": 65535},
        {"exceptions": np.array([67 * 129])},
        {"exceptions": np.array([5, 2**33])},
        {"exceptions": np.arange(200)},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_forged_mark_never_restores_to_something_else(
    wm: DualWatermarker, payload: Payload, phantom, header: dict[str, object]
) -> None:  # type: ignore[no-untyped-def]
    forged = forge(wm, phantom(67, 129, seed=9), payload, **header)
    assert wm.integrity(forged).state == "intact"
    with pytest.raises(RestoreError, match="cannot be restored"):
        wm.restore(forged)


def test_a_mark_of_another_model_is_told_and_not_restored(wm: DualWatermarker, payload: Payload, phantom) -> None:  # type: ignore[no-untyped-def]
    foreign = forge(wm, phantom(67, 129), payload, model=b"\x00" * 8)
    found = wm.integrity(foreign)
    assert found.state == "intact"
    assert found.image_mark is None
    assert found.payload == payload
    with pytest.raises(RestoreError, match="model"):
        wm.restore(foreign)


def test_another_model_s_network_does_not_restore(wm: DualWatermarker, cases, tensors) -> None:  # type: ignore[no-untyped-def]
    release = wm._release
    other = DualWatermarker(Release(release.model, CouplingNetwork(tensors()), release.extractor))
    with pytest.raises(RestoreError):
        other.restore(cases["grey"].marked.image)


def test_a_body_that_is_none_is_broken(wm: DualWatermarker, phantom) -> None:  # type: ignore[no-untyped-def]
    for body in (b"", b"\x00" * 80, b"\xff" * 300):
        image = integrity.embed(phantom(67, 129), body, legal=(0, 255), gain=1, shift=0, model=wm.model[:8])
        found = wm.integrity(image)
        assert found.state == "broken"
        assert "integrity mark" in found.reason
        with pytest.raises(RestoreError):
            wm.restore(image)


def test_the_mark_of_one_picture_does_not_fit_another(wm: DualWatermarker, cases, phantom) -> None:  # type: ignore[no-untyped-def]
    frame = integrity.extract(cases["odd"].marked.image)
    assert frame is not None
    assert frame.body is not None
    header = frame.header
    other = integrity.embed(
        phantom(67, 129, seed=8),
        frame.body,
        legal=header.legal,
        gain=header.gain,
        shift=header.shift,
        model=header.model,
    )
    found = wm.integrity(other)
    assert found.state == "broken"
    assert found.image_mark is None
    with pytest.raises(RestoreError):
        wm.restore(other)


# Small parts.


def test_psnr() -> None:
    black, white = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    assert psnr(black, black, 255) == float("inf")
    assert psnr(black, white, 255) == pytest.approx(0)
    assert psnr(black, black + np.uint8(1), 255) == pytest.approx(48.13, abs=0.01)


def test_salted_hides_the_hash() -> None:
    assert salted(b"a" * 16, b"h" * 32) == hashlib.sha3_256(b"a" * 16 + b"h" * 32).digest()
    assert salted(b"b" * 16, b"h" * 32) != salted(b"a" * 16, b"h" * 32)
