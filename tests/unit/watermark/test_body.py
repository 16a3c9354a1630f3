"""The body of W2 as bytes."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medprov_watermark import body as w2
from medprov_watermark import carriers as cr
from medprov_watermark.body import Body, BodyError
from medprov_watermark.payload import Payload
from medprov_watermark.region import SIDES, pack


def scattered(side: int, seed: int = 0) -> NDArray[np.bool_]:
    """A region map of some cells."""
    cells = np.random.default_rng(seed).random((side, side)) < 0.1
    cells[0, 0] = True
    return cells


POSITIONS = st.one_of(
    st.lists(st.integers(0, 2**40), unique=True, max_size=20),
    st.lists(st.integers(0, 300), unique=True, max_size=60),
    st.integers(0, 400).map(lambda n: list(range(n))),
).map(lambda found: np.array(sorted(found), np.int64))
BODIES = st.builds(
    Body,
    payload=st.binary(min_size=12, max_size=12).map(Payload.from_data),
    base=st.integers(0, 65535),
    pilots=st.integers(0, 65535),
    codes=st.binary(min_size=cr.CODE, max_size=cr.CODE).map(lambda c: np.frombuffer(c, np.uint8) & 3),
    cover_check=st.binary(min_size=4, max_size=4),
    exceptions=POSITIONS,
    cover_hash=st.none() | st.binary(min_size=32, max_size=32),
    signature=st.none() | st.binary(min_size=65, max_size=65),
    region=st.none() | st.builds(lambda side, seed: scattered(side, seed), st.sampled_from(SIDES), st.integers(0, 99)),
)
SETTINGS = w2.settings_bytes(1200, 3, (0, 4095), 0, None, b"model678")


def make(**other: object) -> Body:
    positions: NDArray[np.int64] = np.array([0, 5, 6, 4000], np.int64)
    codes = (np.arange(cr.CODE) % 4).astype(np.uint8)
    made = Body(Payload(b"abcdefgh", b"1234"), 77, 520, codes, b"chek", positions, b"h" * 32, b"s" * 65)
    return replace(made, **other)


def same(a: Body, b: Body) -> bool:
    parts = [(x.payload, x.base, x.pilots, x.cover_check, x.cover_hash, x.signature) for x in (a, b)]
    regions = (a.region is None) == (b.region is None) and (a.region is None or np.array_equal(a.region, b.region))
    arrays = np.array_equal(a.codes, b.codes) and np.array_equal(a.exceptions, b.exceptions)
    return parts[0] == parts[1] and arrays and regions


@settings(max_examples=100, deadline=None)
@given(BODIES, st.binary(max_size=60), st.binary(min_size=32, max_size=32))
def test_round_trip(body: Body, rules: bytes, marked_hash: bytes) -> None:
    packed = body.pack(rules, marked_hash)
    found, raw, check = w2.parse(packed)
    assert same(found, body)
    assert raw + check == packed
    assert check == w2.mark_check(rules, raw, marked_hash)
    assert found.pack(rules, marked_hash) == packed


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=400))
def test_hostile_bytes_give_a_body_or_a_body_error(data: bytes) -> None:
    try:
        w2.parse(data)
    except BodyError:
        return


@settings(max_examples=250, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 7), st.binary(max_size=12))
def test_hostile_tails_give_a_body_or_a_body_error(tail: bytes, flags: int, count: bytes) -> None:
    head = bytes([w2.VERSION, flags]) + bytes(12 + 2 + 2 + 104 + 4)
    try:
        found, _, _ = w2.parse(head + count + tail)
    except BodyError:
        return
    assert (np.diff(found.exceptions) > 0).all()


@settings(max_examples=100, deadline=None)
@given(BODIES, st.data())
def test_a_changed_byte_is_refused_or_noticed(body: Body, data: st.DataObject) -> None:
    packed = bytearray(body.pack(SETTINGS, bytes(32)))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    try:
        _, raw, check = w2.parse(bytes(packed))
    except BodyError:
        return
    assert w2.mark_check(SETTINGS, raw, bytes(32)) != check


def test_every_truncation_and_extension_is_refused_or_noticed() -> None:
    packed = make().pack(SETTINGS, bytes(32))
    for cut in [packed[:n] for n in range(len(packed))] + [packed + bytes(n) for n in (1, 2, 65, 1000)]:
        try:
            _, raw, check = w2.parse(cut)
        except BodyError:
            continue
        assert w2.mark_check(SETTINGS, raw, bytes(32)) != check


@pytest.mark.parametrize(("place", "value"), [(0, 0), (0, 1), (0, 255), (1, 8), (1, 128), (1, 255)])
def test_unknown_versions_and_flags_are_refused(place: int, value: int) -> None:
    packed = bytearray(make().pack(SETTINGS, bytes(32)))
    packed[place] = value
    with pytest.raises(BodyError, match=r"version|flags"):
        w2.parse(bytes(packed))


def test_the_layout_is_that_of_the_format() -> None:
    packed = make().pack(SETTINGS, bytes(32))
    assert packed[:2] == b"\x02\x03"
    assert packed[2:14] == b"abcdefgh1234"
    assert struct.unpack(">HH", packed[14:18]) == (77, 520)
    assert packed[18:122] == bytes([0b00011011]) * 104
    assert packed[122:126] == b"chek"
    assert packed[126] == 4
    assert packed[-73 - 32 : -73] == b"h" * 32
    assert packed[-73:-8] == b"s" * 65
    brief = make(cover_hash=None, signature=None, exceptions=np.zeros(0, np.int64)).pack(SETTINGS, bytes(32))
    assert brief[1] == 0
    assert len(brief) == 126 + 1 + 8


def test_a_region_map_stands_behind_the_exceptions() -> None:
    cells = scattered(32)
    brief = make(cover_hash=None, signature=None, region=cells).pack(SETTINGS, bytes(32))
    plain = make(cover_hash=None, signature=None).pack(SETTINGS, bytes(32))
    assert brief[1] == 4
    assert brief[2 : len(plain) - 8] == plain[2:-8]
    assert brief[len(plain) - 8 : -8] == pack(cells)


@pytest.mark.parametrize("rest", [b"", b"\x20", b"\x20\x00\x00", b"\x11\x00\x01\x80", b"\x10\x00\xff\x80"])
def test_a_region_map_that_is_none_is_refused(rest: bytes) -> None:
    raw = bytes([w2.VERSION, 4]) + make(cover_hash=None, signature=None).unsigned()[2:] + rest
    with pytest.raises(BodyError, match="region map"):
        w2.parse(raw + bytes(8))


def test_the_check_covers_settings_body_and_picture() -> None:
    raw = make().unsigned()
    check = w2.mark_check(SETTINGS, raw, bytes(32))
    assert len(check) == 8
    assert w2.mark_check(SETTINGS[:-1] + b"\x01", raw, bytes(32)) != check
    assert w2.mark_check(SETTINGS, raw[:-1] + b"\x01", bytes(32)) != check
    assert w2.mark_check(SETTINGS, raw, bytes(31) + b"\x01") != check


def test_settings_are_told_apart() -> None:
    base: tuple[object, ...] = (1200, 3, (0, 4095), 0, None, b"model678")
    others: list[tuple[object, ...]] = [
        (1201, *base[1:]),
        (1200, 4, *base[2:]),
        (1200, 3, (1, 4095), *base[3:]),
        (1200, 3, (0, 4094), *base[3:]),
        (1200, 3, (0, 4095), None, None, b"model678"),
        (1200, 3, (0, 4095), 1, None, b"model678"),
        (1200, 3, (0, 4095), 0, bytes(32), b"model678"),
        (1200, 3, (0, 4095), 0, b"\x01" + bytes(31), b"model678"),
        (1200, 3, (0, 4095), 0, None, b"model679"),
    ]
    made = {w2.settings_bytes(*arguments) for arguments in [base, *others]}  # type: ignore[arg-type]
    assert len(made) == len(others) + 1


@pytest.mark.parametrize(
    "other",
    [
        {"payload": Payload(b"abcdefgh", b"1235")},
        {"base": 78},
        {"codes": np.zeros(cr.CODE, np.uint8)},
        {"pilots": 521},
        {"cover_check": b"Chek"},
        {"exceptions": np.array([0, 5, 6, 4001])},
        {"cover_hash": b"H" * 32},
        {"cover_hash": None},
    ],
    ids=lambda other: next(iter(other)),
)
def test_the_rest_hash_covers_every_field_but_the_signature(other: dict[str, object]) -> None:
    rest = w2.rest_hash(make(), SETTINGS)
    assert len(rest) == 32
    assert w2.rest_hash(make(**other), SETTINGS) != rest
    assert w2.rest_hash(make(signature=b"t" * 65), SETTINGS) == rest
    assert w2.rest_hash(make(signature=None), SETTINGS) == rest
    assert w2.rest_hash(make(), SETTINGS + b"x") != rest


def test_one_body_has_one_encoding() -> None:
    """The signature covers the meaning of a body, so bytes that it does not cover may not vary."""
    body = make(exceptions=np.zeros(0, np.int64), signature=None, cover_hash=None)
    canonical = body.unsigned()
    longer = canonical[:-1] + b"\x80\x00"
    with pytest.raises(BodyError):
        w2.parse(longer + w2.mark_check(SETTINGS, longer, bytes(32)))
    padded = make(exceptions=np.array([3]), signature=None, cover_hash=None).unsigned()
    loose = padded[:-1] + bytes([padded[-1] | 1])
    with pytest.raises(BodyError):
        w2.parse(loose + w2.mark_check(SETTINGS, loose, bytes(32)))


@settings(max_examples=200, deadline=None)
@given(POSITIONS, st.binary(max_size=5), st.binary(max_size=5))
def test_positions_round_trip_anywhere(positions: NDArray[np.int64], before: bytes, after: bytes) -> None:
    packed = w2.pack_positions(positions)
    found, place = w2.unpack_positions(before + packed + after, len(before))
    np.testing.assert_array_equal(found, positions)
    assert found.dtype == np.int64
    assert place == len(before) + len(packed)


def test_positions_are_short() -> None:
    assert w2.pack_positions(np.zeros(0, np.int64)) == b"\x00"
    assert len(w2.pack_positions(np.arange(1000))) < 140
    random = np.random.default_rng(0)
    spread = np.flatnonzero(random.random(262144) < 0.001)
    assert len(w2.pack_positions(spread)) < 1.6 * spread.size + 10


@pytest.mark.parametrize("count", [0, 1, 127, 128, 16383, 16384, 60000])
def test_counts_at_the_edges_of_their_code(count: int) -> None:
    packed = w2.pack_positions(np.arange(count))
    found, place = w2.unpack_positions(packed, 0)
    np.testing.assert_array_equal(found, np.arange(count))
    assert place == len(packed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xff" * 5,
        b"\xff" * 40,
        b"\xff\xff\xff\xff\x7f" + bytes(100),
        b"\x80\x80\x80\x80\x80\x01",
        b"\x01",
        b"\x01\x00",
        b"\x01\x1e" + bytes(20),
        b"\x01\xff" + bytes(20),
        b"\x01\x00" + b"\xff" * 3000,
        b"\x05\x1d" + bytes(3),
        b"\x05\x00\xff",
    ],
    ids=lambda data: data[:6].hex() or "nothing",
)
def test_hostile_positions_are_refused(data: bytes) -> None:
    with pytest.raises(BodyError):
        w2.unpack_positions(data, 0)


def test_positions_past_the_end_are_refused() -> None:
    with pytest.raises(BodyError):
        w2.unpack_positions(b"\x00\x00", 2)
