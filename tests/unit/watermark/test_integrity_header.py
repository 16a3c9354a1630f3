"""The header of the integrity mark, its block map and its places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_watermark.errors import EmbedError
from medprov_watermark.integrity import blocks, cells
from medprov_watermark.integrity.header import (
    THRESHOLDS,
    Header,
    max_threshold,
    parse,
    repair,
    size_of,
)

FIRST_CELLS = [4035, 320, 448, 4089, 48, 4087]
SECOND_CELLS = [48987, 57490, 15412, 48612, 17012, 23412]
PLAIN = Header(8, 2, 0, (0, 255), None, 7, 1234, 200, b"model678")


def block_maps() -> st.SearchStrategy[bytes | None]:
    rectangle = st.tuples(*[st.integers(0, 15)] * 4).map(_rectangle)
    return st.one_of(st.none(), rectangle, st.binary(min_size=32, max_size=32).filter(any))


def _rectangle(corners: tuple[int, int, int, int]) -> bytes:
    grid = np.zeros((16, 16), np.bool_)
    top, bottom = sorted(corners[:2])
    left, right = sorted(corners[2:])
    grid[top : bottom + 1, left : right + 1] = True
    return np.packbits(grid).tobytes()


@st.composite
def headers(draw: st.DrawFn) -> Header:
    bits = draw(st.integers(8, 16))
    legal = draw(
        st.sampled_from([(0, 2**bits - 1), (1, 2**bits - 1), (0, 2**bits - 2), (100, 200)]),
    )
    padding = draw(st.one_of(st.none(), st.integers(0, 65535)))
    draft = replace(PLAIN, legal=legal, padding=padding)
    return replace(
        draft,
        width=draw(st.integers(1, 1024)),
        threshold=draw(st.sampled_from([step for step in THRESHOLDS if step <= max_threshold(draft.span)])),
        share=draw(st.integers(0, 255)),
        shift=draw(st.integers(0, 255)),
        gain=draw(st.integers(0, 65535)),
        body_length=draw(st.integers(0, 65535)),
        model=draw(st.binary(min_size=8, max_size=8)),
        short=draw(st.booleans()),
        pair_top=draw(st.booleans()),
        roi=draw(block_maps()),
    )


@given(headers(), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_header_survives_with_anything_behind_it(header: Header, extra: int, seed: int) -> None:
    bits = header.pack()
    assert bits.size == size_of(header.legal, header.padding, header.roi)
    tail = np.random.default_rng(seed).integers(0, 2, extra).astype(np.uint8)
    assert parse(np.concatenate([bits, tail])) == header


def test_usual_header_is_small() -> None:
    assert PLAIN.pack().size == 180


@given(headers(), st.data())
def test_one_wrong_bit_is_refused_and_repaired(header: Header, data: st.DataObject) -> None:
    bits = header.pack()
    bits[data.draw(st.integers(0, bits.size - 1))] ^= 1
    assert parse(bits) is None
    tail = np.zeros(768 - bits.size, np.uint8)
    assert repair(np.concatenate([bits, tail])) == header


@given(headers(), st.data())
def test_two_wrong_bits_are_not_taken_for_a_header(header: Header, data: st.DataObject) -> None:
    bits = header.pack()
    first, second = data.draw(st.lists(st.integers(0, bits.size - 1), min_size=2, max_size=2, unique=True))
    bits[[first, second]] ^= 1
    assert parse(bits) is None


@given(headers(), st.data())
def test_truncated_header_is_refused(header: Header, data: st.DataObject) -> None:
    bits = header.pack()
    short = bits[: data.draw(st.integers(0, bits.size - 1))]
    assert parse(short) is None
    assert repair(short) is None


def test_noise_holds_no_header() -> None:
    random = np.random.default_rng(1)
    for _ in range(2000):
        bits = random.integers(0, 2, 768).astype(np.uint8)
        assert parse(bits) is None
        assert repair(bits) is None


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 1025},
        {"threshold": 5},
        {"threshold": 48},
        {"share": 256},
        {"legal": (0, 10)},
        {"legal": (9, 3)},
        {"legal": (0, 65536)},
        {"padding": -1},
        {"padding": 65536},
        {"shift": 256},
        {"gain": -1},
        {"gain": 65536},
        {"body_length": 65536},
        {"model": b"short"},
        {"version": 2},
        {"roi": bytes(32)},
        {"roi": b"x"},
    ],
)
def test_fields_out_of_range_are_not_packed(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(PLAIN, **change).pack()  # type: ignore[arg-type]


@given(block_maps())
def test_block_map_survives(data: bytes | None) -> None:
    if data is None:
        return
    bits = blocks.compress(data)
    assert 3 <= bits.size <= blocks.MAX_BITS
    assert blocks.expand(bits) == data


def test_rectangle_costs_18_bits() -> None:
    assert blocks.compress(_rectangle((3, 9, 2, 14))).size == 18


@given(st.lists(st.integers(0, 1), max_size=300))
def test_any_bits_are_a_block_map_or_none(bits: list[int]) -> None:
    array = np.array(bits, np.uint8)
    data = blocks.expand(array)
    assert data is None or np.array_equal(blocks.compress(data), array)


@given(st.integers(48, 150), st.integers(48, 150), st.data())
def test_every_pixel_of_the_mask_is_in_a_block(height: int, width: int, data: st.DataObject) -> None:
    mask = np.zeros((height, width), np.bool_)
    for _ in range(data.draw(st.integers(1, 5))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    area = blocks.from_mask(mask)
    assert area is not None
    wide = blocks.to_mask(area, (height, width))
    assert wide.shape == mask.shape
    assert wide[mask].all()
    assert blocks.from_mask(wide) == area


def test_empty_mask_and_wrong_mask() -> None:
    assert blocks.from_mask(np.zeros((48, 50), np.bool_)) is None
    with pytest.raises(EmbedError, match="bool"):
        blocks.from_mask(np.zeros((48, 50), np.uint8))
    with pytest.raises(EmbedError, match="bool"):
        blocks.from_mask(np.zeros((48, 50, 3), np.bool_))


@pytest.mark.parametrize("shape", [(48, 48), (67, 129), (49, 300), (256, 256), (1411, 1411), (48, 3000)])
def test_sites_are_distinct_pixels_inside(shape: tuple[int, int]) -> None:
    longest = replace(PLAIN, legal=(1, 65535), padding=3, roi=bytes(range(32))).pack().size
    for site in cells.sites(*shape):
        assert np.unique(site).size == site.size
        assert site.min() >= 0
        assert site.max() < shape[0] * shape[1]
    assert sum(site.size >= longest for site in cells.sites(*shape)) >= 21


def test_first_site_is_fixed() -> None:
    """A change here makes marked pictures unreadable: it needs a new header version."""
    assert cells.sites(64, 64)[0][:6].tolist() == FIRST_CELLS
    assert cells.sites(300, 200)[1][:6].tolist() == SECOND_CELLS


@given(
    st.integers(8, 16),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 65535)),
    st.lists(st.integers(0, 65535), min_size=1, max_size=50),
    st.integers(0, 3),
)
def test_partners_are_legal_pairs_of_both_parities(
    bits: int, top: bool, padding: int | None, numbers: list[int], cut: int
) -> None:
    legal = (cut % 2, 2**bits - 1 - cut // 2)
    values = np.array(numbers, np.int32)
    other, valid = cells.partner(values, legal, padding, top)
    back, again = cells.partner(other, legal, padding, top)
    assert (again[valid]).all()
    assert np.array_equal(back[valid], values[valid])
    assert (np.abs(other - values)[valid] == 1).all()
    assert ((other >= legal[0]) & (other <= legal[1]))[valid].all()
    assert padding is None or not (valid & ((other == padding) | (values == padding))).any()
