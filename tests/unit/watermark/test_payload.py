"""The payload survives what its error correction promises, and no more is accepted."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark.payload import _PLACES, MAX_CORRECTED, Payload, commitment, decode, encode

PAYLOADS = st.binary(min_size=12, max_size=12).map(Payload.from_data)
RANDOM = Payload(bytes.fromhex("0123456789abcdef"), bytes.fromhex("deadbeef"))


def places_of_bytes() -> NDArray[np.int64]:
    """(16, 8): the places of each codeword byte's bits."""
    return np.asarray(_PLACES).reshape(16, 8)


def test_data_is_hash_then_serial() -> None:
    assert RANDOM.data == bytes.fromhex("0123456789abcdefdeadbeef")
    assert Payload.from_data(RANDOM.data) == RANDOM


@pytest.mark.parametrize("size", [0, 11, 13])
def test_from_data_refuses_other_lengths(size: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        Payload.from_data(bytes(size))


@pytest.mark.parametrize(("first", "second"), [(7, 4), (8, 5), (9, 3), (0, 0)])
def test_payload_refuses_parts_of_other_lengths(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="8 bytes of hash and 4 of serial"):
        Payload(bytes(first), bytes(second))


def test_codeword_is_frozen() -> None:
    # Marks that were given out must stay readable: neither permutation, code nor interleaving may change.
    assert np.packbits(encode(RANDOM) > 0).tobytes().hex() == "e80f75ae54eb37b63cfdc3f451762ce2"


@given(PAYLOADS)
def test_round_trip(payload: Payload) -> None:
    signs = encode(payload)
    assert signs.dtype == np.int8
    assert signs.shape == (128,)
    assert set(signs.tolist()) <= {-1, 1}
    decoded = decode(signs.astype(np.float32))
    assert decoded is not None
    assert (decoded.payload, decoded.corrected_bits) == (payload, 0)


@given(PAYLOADS, st.integers(0, 31))
def test_payloads_that_differ_in_one_serial_bit_have_unrelated_codewords(payload: Payload, bit: int) -> None:
    serial = (int.from_bytes(payload.serial, "big") ^ 1 << bit).to_bytes(4, "big")
    other = encode(Payload(payload.perceptual_hash, serial))
    assert 25 <= np.count_nonzero(other != encode(payload)) <= 103


@given(PAYLOADS, st.lists(st.integers(0, 15), min_size=1, max_size=2, unique=True), st.data())
def test_two_wrong_bytes_are_corrected_or_beaten(payload: Payload, wrong: list[int], draw: st.DataObject) -> None:
    signs = encode(payload).astype(np.float32)
    flipped = 0
    for byte in wrong:
        bits = draw.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True))
        signs[places_of_bytes()[byte, bits]] *= -1
        flipped += len(bits)
    decoded = decode(signs)
    assert decoded is not None
    if decoded.payload == payload:
        assert decoded.corrected_bits == flipped
    else:
        # Codewords differ in at least five bits, so this takes three wrong ones.
        assert 3 <= flipped >= decoded.corrected_bits


@given(PAYLOADS, st.lists(st.integers(0, 15), min_size=3, max_size=3, unique=True), st.integers(0, 7))
def test_two_weak_bytes_and_a_wrong_one_are_corrected(payload: Payload, wrong: list[int], bit: int) -> None:
    signs = encode(payload).astype(np.float64)
    for byte in wrong[:2]:
        signs[places_of_bytes()[byte]] *= -0.1
    signs[places_of_bytes()[wrong[2], bit]] *= -1
    decoded = decode(signs)
    assert decoded is not None
    assert decoded.payload == payload
    assert decoded.corrected_bits == 17


def test_three_wrong_bytes_that_look_reliable_are_not_read_as_the_payload() -> None:
    signs = encode(RANDOM).astype(np.float64)
    signs[places_of_bytes()[[1, 5, 9]]] *= -1
    decoded = decode(signs)
    assert decoded is None or decoded.payload != RANDOM


def test_a_codeword_with_too_many_other_signs_is_refused() -> None:
    signs = encode(RANDOM).astype(np.float64)
    signs[places_of_bytes()[[3, 7]]] *= -0.1
    signs[places_of_bytes()[11, :4]] *= -1
    decoded = decode(signs)
    assert decoded is not None
    assert decoded.corrected_bits == MAX_CORRECTED
    signs[places_of_bytes()[11, 4]] *= -1
    assert decode(signs) is None


def test_neighbours_belong_to_different_bytes_mostly() -> None:
    byte_of = np.empty(128, np.int64)
    byte_of[places_of_bytes()] = np.arange(16)[:, None]
    assert np.count_nonzero(byte_of[1:] == byte_of[:-1]) < 20


@given(hnp.arrays(np.float64, 128, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_any_soft_bits_are_survived(soft: NDArray[np.float64]) -> None:
    decoded = decode(soft)
    if decoded is not None:
        assert decoded.corrected_bits <= MAX_CORRECTED
        finite = np.where(np.isfinite(soft), soft, 0)
        assert np.count_nonzero((encode(decoded.payload) > 0) != (finite > 0)) == decoded.corrected_bits


def test_values_that_are_not_finite_count_as_silent() -> None:
    signs = encode(RANDOM).astype(np.float64)
    signs[places_of_bytes()[2]] = [np.nan, np.inf, -np.inf, np.nan, np.inf, -np.inf, np.nan, np.nan]
    decoded = decode(signs)
    assert decoded is not None
    assert decoded.payload == RANDOM


def test_two_wrong_bytes_in_a_row_of_marks_are_corrected() -> None:
    rng = np.random.default_rng(12)
    for _ in range(50):
        payload = Payload.from_data(rng.bytes(12))
        soft = encode(payload) * rng.uniform(0.5, 1.5, 128)
        soft[places_of_bytes()[rng.choice(16, 2, replace=False), :4]] *= -0.5
        decoded = decode(soft)
        assert decoded is not None
        assert (decoded.payload, decoded.corrected_bits) == (payload, 8)


def test_noise_is_mostly_refused() -> None:
    rng = np.random.default_rng(11)
    accepted = sum(decode(rng.normal(size=128)) is not None for _ in range(1000))
    assert accepted <= 100


@pytest.mark.parametrize("shape", [(127,), (129,), (1, 128), ()])
def test_decode_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        decode(np.zeros(shape))


def test_commitment() -> None:
    assert commitment(RANDOM) == hashlib.sha3_256(b"medprov payload 1" + RANDOM.data).digest()
    assert commitment(Payload(RANDOM.perceptual_hash, bytes(4))) != commitment(RANDOM)
