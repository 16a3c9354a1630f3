"""The integrity frame as a whole: hide, find, restore, notice changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.data import get_testdata_file

from medprov_watermark.errors import CapacityError, EmbedError
from medprov_watermark.integrity import Frame, blocks, cells, embed, extract
from medprov_watermark.integrity.header import Header

Samples = NDArray[np.uint8 | np.uint16]
MODEL = b"model678"
KINDS = ["flat 0", "flat top", "gradient", "soft noise", "half black", "white edge", "padding", "squares"]


def picture(kind: str, shape: tuple[int, ...], bits: int, seed: int) -> Samples:
    random = np.random.default_rng(seed)
    top = 2**bits - 1
    row, column = np.mgrid[: shape[0], : shape[1]]
    base = 0.3 * top + random.normal(0, 2, shape[:2])
    if kind.startswith("flat"):
        base = np.full(shape[:2], 0 if kind == "flat 0" else top)
    elif kind == "gradient":
        base = top * (row + 2.0 * column) / (shape[0] + 2 * shape[1])
    elif kind == "half black":
        base[:, shape[1] // 3 :] = 0
    elif kind == "white edge":
        base[:20] = top
    elif kind == "padding":
        base[np.hypot(row / shape[0] - 0.5, column / shape[1] - 0.5) > 0.52] = 7
    elif kind == "squares":
        base = top * ((row // 8 + column // 8) % 2)
    made = np.clip(np.rint(base), 0, top).astype(np.uint8 if bits == 8 else np.uint16)
    return np.stack([made] * 3, axis=-1) if len(shape) == 3 else made


def mark(image: Samples, body: bytes, **other: object) -> Samples:
    top = 255 if image.dtype == np.uint8 else 4095
    arguments: dict[str, object] = {"legal": (0, top), "gain": 4321, "shift": 9, "model": MODEL}
    return embed(image, body, **{**arguments, **other})  # type: ignore[arg-type]


def read(image: Samples) -> Frame:
    frame = extract(image)
    assert frame is not None
    return frame


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.tuples(st.integers(64, 131), st.integers(64, 131)),
    st.booleans(),
    st.sampled_from([8, 10, 12, 16]),
    st.binary(max_size=60),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_body_and_picture_come_back(
    kind: str, shape: tuple[int, int], colour: bool, bits: int, body: bytes, short: bool, seed: int
) -> None:
    image = picture(kind, (*shape, 3) if colour else shape, bits, seed)
    before = image.copy()
    padding = 7 if kind == "padding" else None
    marked = mark(image, body, legal=(0, 2**bits - 1), padding=padding, short=short)
    assert np.array_equal(image, before)
    assert marked.dtype == image.dtype
    assert marked.shape == image.shape
    assert not np.array_equal(marked, image)
    assert int(marked.max()) < 2**bits
    if padding is not None:
        assert np.array_equal(marked == padding, image == padding)
    frame = read(marked)
    assert frame.state == "intact"
    assert frame.body == body
    assert np.array_equal(frame.image, image)
    assert frame.roi is None
    header = frame.header
    assert (header.gain, header.shift, header.model, header.short) == (4321, 9, MODEL, short)
    assert (header.legal, header.padding, header.body_length) == ((0, 2**bits - 1), padding, len(body))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "checkerboard", "rough"]),
    st.tuples(st.integers(48, 99), st.integers(48, 99)),
    st.binary(max_size=300),
    st.integers(0, 2**32 - 1),
)
def test_hard_pictures_are_restored_or_refused(kind: str, shape: tuple[int, int], body: bytes, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, shape).astype(np.uint8)
    if kind == "checkerboard":
        image = (np.indices(shape).sum(axis=0) % 2 * 255).astype(np.uint8)
    elif kind == "rough":
        image = np.clip(random.normal(20, 15, shape), 0, 255).astype(np.uint8)
    try:
        marked = mark(image, body)
    except CapacityError as error:
        assert error.needed == 8 * len(body)
        assert error.available < error.needed or not body
        assert "\n" not in str(error)
        return
    frame = read(marked)
    assert frame.body == body
    assert np.array_equal(frame.image, image)


@pytest.mark.parametrize("shape", [(48, 48), (67, 129), (256, 256), (1411, 1411), (48, 1000), (301, 200, 3)])
def test_sizes(shape: tuple[int, ...]) -> None:
    image = picture("soft noise", shape, 8, 3)
    body = bytes(range(40)) if 48 in shape else bytes(212)
    frame = read(mark(image, body))
    assert frame.body == body
    assert np.array_equal(frame.image, image)


@pytest.mark.parametrize("kind", ["flat 0", "flat top", "half black", "padding", "soft noise"])
def test_room_and_error_at_256(kind: str) -> None:
    image = picture(kind, (256, 256), 8, 1)
    marked = mark(image, bytes(range(212)), padding=7 if kind == "padding" else None)
    error = np.mean((marked.astype(np.float64) - image) ** 2)
    assert 10 * np.log10(255**2 / error) > 57


@pytest.mark.parametrize("kind", ["flat 0", "flat top", "half black", "padding", "soft noise"])
def test_room_at_64(kind: str) -> None:
    image = picture(kind, (64, 64), 8, 1)
    assert read(mark(image, bytes(range(100)), padding=7 if kind == "padding" else None)).body == bytes(range(100))


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_dicom_samples(name: str) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    pixels = pydicom.dcmread(path).pixel_array.astype(np.int32) + 2**15
    image = pixels.astype(np.uint16)
    body = bytes(range(100))
    marked = mark(image, body, legal=(0, 65535))
    frame = read(marked)
    assert frame.body == body
    assert np.array_equal(frame.image, image)
    assert np.abs(marked.astype(np.int32) - image).max() <= 64


def test_thin_frame_of_a_large_picture() -> None:
    image = picture("soft noise", (1000, 1000), 8, 1)
    marked = mark(image, bytes(200))
    width = read(marked).header.width
    assert width <= 8
    assert np.array_equal(marked[width:-width, width:-width], image[width:-width, width:-width])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_region_of_interest_does_not_change(data: st.DataObject, seed: int) -> None:
    height, width = data.draw(st.integers(80, 140)), data.draw(st.integers(80, 140))
    image = picture("soft noise", (height, width), 8, seed)
    roi = np.zeros(image.shape, np.bool_)
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        roi[top : top + data.draw(st.integers(1, 60)), left : left + data.draw(st.integers(1, 60))] = True
    try:
        marked = mark(image, b"short body", roi=roi)
    except CapacityError as error:
        assert roi.mean() > 0.2
        assert "region of interest" in str(error)
        return
    assert np.array_equal(marked[roi], image[roi])
    frame = read(marked)
    assert frame.body == b"short body"
    assert np.array_equal(frame.image, image)
    assert frame.roi is not None
    assert frame.roi[roi].all()
    # in the blocks around the region only the header may lie, in lowest bits
    moved = np.abs(marked.astype(np.int64) - image)[frame.roi]
    assert moved.max() <= 1
    assert moved.sum() <= frame.header.pack().size
    area = blocks.from_mask(roi)
    assert area is not None
    assert np.array_equal(frame.roi, blocks.to_mask(area, (height, width)))


def test_region_over_everything_is_refused_by_name() -> None:
    image = picture("soft noise", (96, 96), 8, 1)
    with pytest.raises(CapacityError, match=r"no place for the integrity header.*region of interest covers 100 %"):
        mark(image, b"body", roi=np.ones(image.shape, np.bool_))
    roi = np.ones(image.shape, np.bool_)
    roi[-36:, 30:66] = False
    with pytest.raises(CapacityError, match=r"holds .* bits .* region of interest covers 8. %"):
        mark(image, bytes(100), roi=roi)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_noise_is_told_by_its_name(dtype: type) -> None:
    noise = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (128, 128), dtype, endpoint=True)
    with pytest.raises(CapacityError, match=r"128 x 128 picture has no room for reversible marking.*noise") as caught:
        embed(noise, bytes(100), legal=(0, int(np.iinfo(dtype).max)), gain=0, shift=0, model=bytes(8))
    assert "larger" not in str(caught.value)


def test_empty_region_is_no_region() -> None:
    image = picture("soft noise", (64, 64), 8, 1)
    assert read(mark(image, b"body", roi=np.zeros(image.shape, np.bool_))).roi is None


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_every_changed_pixel_of_the_frame_is_noticed(shape: tuple[int, ...]) -> None:
    image = picture("soft noise", shape, 8, 8)
    roi = np.zeros((64, 64), np.bool_)
    roi[20:30, 2:30] = True
    marked = mark(image, bytes(range(20)), roi=roi)
    header = read(marked).header
    site = next(place for place in cells.sites(64, 64) if not roi.ravel()[place[: header.pack().size]].any())
    row, column = np.mgrid[:64, :64]
    depth = np.minimum(np.minimum(row, 63 - row), np.minimum(column, 63 - column))
    frame = np.flatnonzero(depth.ravel() < header.width)
    random = np.random.default_rng(1)
    places = np.concatenate([random.choice(frame, 120, replace=False), site[: header.pack().size : 3]])
    for place in places:
        changed = marked.copy()
        pixel = changed.reshape(64 * 64, -1)[place]
        pixel[random.integers(pixel.size)] ^= 1 << random.integers(0, 3)
        found = read(changed)
        assert found.body is None
        assert found.state == "broken"
        assert found.reason
        assert found.header == header
        assert np.array_equal(found.image, changed)


def test_padding_and_samples_outside_the_legal_range_stay() -> None:
    random = np.random.default_rng(4)
    image = random.integers(91, 99, (80, 80)).astype(np.uint16)
    image[random.random((80, 80)) < 0.1] = 90
    image[70:, 40:] = 300
    image[30:36, 30:40] = 2
    marked = mark(image, b"some bytes", legal=(90, 120), padding=90)
    assert np.array_equal(marked == 90, image == 90)
    kept = (image < 90) | (image > 120)
    assert np.array_equal(marked[kept], image[kept])
    assert not np.array_equal(marked, image)
    assert int(marked[~kept].min()) >= 90
    assert int(marked[~kept].max()) <= 120
    assert np.array_equal(read(marked).image, image)


@pytest.mark.parametrize(("level", "legal", "padding"), [(254, (0, 254), None), (254, (0, 255), 255), (1, (0, 255), 0)])
def test_flat_picture_beside_the_padding_value_or_an_odd_end(
    level: int, legal: tuple[int, int], padding: int | None
) -> None:
    image = np.full((64, 64), level, np.uint8)
    marked = mark(image, bytes(40), legal=legal, padding=padding)
    assert int(marked.max()) <= legal[1]
    assert padding is None or not (marked == padding).any()
    assert np.array_equal(read(marked).image, image)


@pytest.mark.parametrize(("padding", "legal"), [(0, (0, 4095)), (4095, (0, 4095)), (30768, (0, 65535))])
def test_scattered_padding(padding: int, legal: tuple[int, int]) -> None:
    random = np.random.default_rng(6)
    image = (np.abs(random.normal(0, 3, (96, 96))) + abs(padding - 5000 * (padding > 4095) - 20)).astype(np.uint16)
    image[random.random(image.shape) < 0.2] = padding
    marked = mark(image, bytes(30), legal=legal, padding=padding)
    assert np.array_equal(marked == padding, image == padding)
    assert np.array_equal(read(marked).image, image)


def test_picture_of_padding_is_refused() -> None:
    with pytest.raises(CapacityError, match=r"no place for the integrity header: padding"):
        mark(np.full((64, 64), 7, np.uint8), b"body", padding=7)


def test_marking_twice_nests() -> None:
    states = [picture("soft noise", (96, 96, 3), 8, 2)]
    for number in range(5):
        states.append(mark(states[-1], bytes([number] * 20)))
    for number in reversed(range(5)):
        frame = read(states[number + 1])
        assert frame.body == bytes([number] * 20)
        assert np.array_equal(frame.image, states[number])


def test_same_input_same_output() -> None:
    image = picture("soft noise", (64, 64), 8, 2)
    assert np.array_equal(mark(image, b"body"), mark(np.asfortranarray(image), b"body"))


def test_empty_body() -> None:
    image = picture("soft noise", (64, 64), 8, 2)
    assert read(mark(image, b"")).body == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(48, 48), (67, 129), (64, 64, 3)])
def test_unmarked_picture_has_no_frame(kind: str, shape: tuple[int, ...]) -> None:
    assert extract(picture(kind, shape, 8, 0)) is None


def test_random_pictures_have_no_frame() -> None:
    random = np.random.default_rng(9)
    for _ in range(100):
        assert extract(random.integers(0, 256, (48, 50, 3)).astype(np.uint8)) is None


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((47, 100), np.uint8),
        np.zeros((0, 0), np.uint8),
        np.zeros((64, 64), np.float32),
        np.zeros((64, 64), np.int16),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros(64, np.uint8),
        None,
    ],
)
def test_what_is_no_picture_has_no_frame_and_is_not_marked(image: Samples) -> None:
    assert extract(image) is None
    with pytest.raises(EmbedError, match="cannot be marked"):
        embed(image, b"body", legal=(0, 255), gain=1, shift=1, model=MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"legal": (0, 256)}, "exceeds uint8"),
        ({"legal": (9, 3)}, "legal range"),
        ({"legal": (0, 9)}, "legal range"),
        ({"padding": -1}, "padding"),
        ({"gain": 65536}, "gain"),
        ({"shift": -1}, "shift"),
        ({"model": b"1"}, "model"),
        ({"roi": np.zeros((64, 63), np.bool_)}, "region of interest"),
        ({"roi": np.zeros((64, 64), np.uint8)}, "region of interest"),
    ],
)
def test_arguments_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(EmbedError, match=message):
        mark(np.zeros((64, 64), np.uint8), b"body", **change)


def test_body_too_long() -> None:
    with pytest.raises(CapacityError, match="65535"):
        mark(np.zeros((64, 64), np.uint8), bytes(65536))
    with pytest.raises(CapacityError, match=r"holds .* needs 8000") as caught:
        mark(np.zeros((64, 64), np.uint8), bytes(1000))
    assert caught.value.needed == 8000
    assert 3000 < caught.value.available < 4096


def plant(image: Samples, header: Header, site: int = 0, channel: int = 0) -> None:
    """Write a header with a right CRC over whatever the picture holds."""
    bits = header.pack()
    place = cells.sites(*image.shape[:2])[site][: bits.size]
    plane = image.reshape(image.shape[0] * image.shape[1], -1)
    plane[place, channel] = plane[place, channel] & ~np.ones(1, image.dtype) | bits.astype(image.dtype)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_hostile_headers_are_broken_or_absent(data: st.DataObject, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = data.draw(st.sampled_from([(48, 48), (67, 129), (64, 64, 3)]))
    wide = data.draw(st.booleans())
    spread = data.draw(st.sampled_from([1, 4, 256]))
    noise = random.integers(0, spread, shape)
    image: Samples = noise.astype(np.uint16) if wide else noise.astype(np.uint8)
    low, high = data.draw(st.sampled_from([(0, 255), (0, 65535), (3, 40), (60000, 65535)]))
    header = Header(
        width=data.draw(st.integers(1, 1024)),
        threshold=data.draw(st.sampled_from([1, 2, 4])),
        share=data.draw(st.integers(0, 255)),
        legal=(low, high),
        padding=data.draw(st.one_of(st.none(), st.integers(0, 65535))),
        shift=255,
        gain=65535,
        body_length=data.draw(st.sampled_from([0, 1, 50, 65535])),
        model=MODEL,
        pair_top=data.draw(st.booleans()),
        roi=data.draw(st.one_of(st.none(), st.binary(min_size=32, max_size=32).filter(any))),
    )
    plant(image, header, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)) if len(shape) == 3 else 0)
    before = image.copy()
    frame = extract(image)
    assert np.array_equal(image, before)
    if frame is None:
        assert high > (65535 if wide else 255) or header.width > (min(shape[:2]) + 1) // 2
    else:
        assert frame.body is None
        assert frame.header == header
        assert frame.reason


def test_true_header_survives_a_planted_one() -> None:
    image = picture("soft noise", (64, 64, 3), 8, 2)
    plant(image, Header(4, 1, 0, (0, 255), None, 0, 0, 10, MODEL), site=0, channel=2)
    marked = mark(image, b"body")
    frame = read(marked)
    assert frame.body == b"body"
    assert np.array_equal(frame.image, image)


def test_many_planted_headers_cost_four_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    from medprov_watermark.integrity import frame as module

    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    header = Header(32, 1, 128, (0, 255), None, 0, 0, 100, MODEL)
    for site in (0, 5, 8):
        for channel in range(3):
            plant(image, replace(header, gain=site), site, channel)
    calls = []
    real = module._read

    def count(*arguments: object) -> Frame:
        calls.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read", count)
    assert read(image).body is None
    assert len(calls) == 4
