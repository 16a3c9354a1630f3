"""The payload survives what its error correction promises, and noise is taken for one as seldom as it says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark.ordered_statistics import chance
from medprov_watermark.payload import (
    LIST_FALSE_MATCH,
    MAX_CHANCE,
    PARITY_BITS,
    PLACES,
    Decoded,
    Directory,
    Payload,
    binary_code,
    commitment,
    decode,
    encode,
    find_in,
)

PAYLOADS = st.binary(min_size=12, max_size=12).map(Payload.from_data)
RANDOM = Payload(bytes.fromhex("0123456789abcdef"), bytes.fromhex("deadbeef"))


def places_of_bytes() -> NDArray[np.int64]:
    """(16, 8): the places of each codeword byte's bits."""
    return np.asarray(PLACES).reshape(16, 8)


def payload_of(decoded: Decoded | None) -> Payload | None:
    return decoded.payload if decoded else None


def share_read(strength: float, words: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    right = 0
    for _ in range(words):
        sent = Payload.from_data(random.bytes(12))
        right += payload_of(decode(strength * encode(sent) + random.normal(size=128))) == sent
    return right / words


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


@settings(deadline=None)
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


def test_the_code_is_that_of_the_words() -> None:
    check = binary_code().check.astype(np.int64)
    assert check.shape == (PARITY_BITS, 128)
    assert PARITY_BITS == 32
    random = np.random.default_rng(3)
    for _ in range(50):
        word = encode(Payload.from_data(random.bytes(12))) > 0
        assert not (check @ word % 2).any()
        word[random.integers(128)] ^= True
        assert (check @ word % 2).any()


@settings(deadline=None)
@given(PAYLOADS, st.lists(st.integers(0, 127), max_size=2, unique=True))
def test_two_wrong_bits_are_corrected_and_counted(payload: Payload, wrong: list[int]) -> None:
    soft = encode(payload).astype(np.float64)
    soft[wrong] *= -1
    decoded = decode(soft)
    assert decoded is not None
    assert (decoded.payload, decoded.corrected_bits) == (payload, len(wrong))


@settings(deadline=None)
@given(PAYLOADS, st.lists(st.integers(0, 15), min_size=2, max_size=2, unique=True), st.integers(0, 7))
def test_a_weak_byte_and_a_wrong_bit_are_corrected(payload: Payload, wrong: list[int], bit: int) -> None:
    signs = encode(payload).astype(np.float64)
    signs[places_of_bytes()[wrong[0]]] *= -0.1
    signs[places_of_bytes()[wrong[1], bit]] *= -1
    decoded = decode(signs)
    assert decoded is not None
    assert decoded.payload == payload
    assert decoded.corrected_bits == 9


@pytest.mark.parametrize("lost", [2, 3, 4])
def test_bytes_that_say_nothing_are_filled_in(lost: int) -> None:
    # Four silent bytes leave as many bits as there are data: any word of the code fits, so one of the others decides.
    soft = encode(RANDOM) * np.linspace(1, 2, 128)
    soft[places_of_bytes()[:lost]] = 0
    assert payload_of(decode(soft)) == (RANDOM if lost < 4 else None)


def test_bytes_that_look_reliable_and_are_wrong_are_not_read_as_the_payload() -> None:
    signs = encode(RANDOM).astype(np.float64)
    signs[places_of_bytes()[[1, 5, 9]]] *= -1
    assert payload_of(decode(signs)) != RANDOM


def test_answers_of_less_than_two_deviations_are_read() -> None:
    assert share_read(1.9, 250, 20) >= 0.95
    assert share_read(1.75, 120, 21) >= 0.8


def test_what_is_read_is_right_wherever_its_chance_is_small() -> None:
    random = np.random.default_rng(22)
    read = 0
    for _ in range(120):
        sent = Payload.from_data(random.bytes(12))
        decoded = decode(1.6 * encode(sent) + random.normal(size=128))
        if decoded is not None and decoded.chance < 1e-4:
            read += 1
            assert decoded.payload == sent
    assert read > 15


def test_noise_is_accepted_as_often_as_is_said() -> None:
    random, words = np.random.default_rng(23), 800
    accepted = sum(decode(random.normal(size=128)) is not None for _ in range(words))
    assert 1 <= accepted <= words * MAX_CHANCE + 4 * np.sqrt(words * MAX_CHANCE)


def test_the_chance_is_that_of_the_word() -> None:
    random = np.random.default_rng(24)
    for strength in (1.9, 2.3, 3.0):
        soft = strength * encode(RANDOM) + random.normal(size=128)
        decoded = decode(soft)
        assert decoded is not None
        assert decoded.payload == RANDOM
        assert 0 < decoded.chance <= MAX_CHANCE
        assert decoded.chance == pytest.approx(float(chance(soft * encode(RANDOM), PARITY_BITS)))
        assert decoded.corrected_bits == np.count_nonzero((soft > 0) != (encode(RANDOM) > 0))


def test_neighbours_belong_to_different_bytes_mostly() -> None:
    byte_of = np.empty(128, np.int64)
    byte_of[places_of_bytes()] = np.arange(16)[:, None]
    assert np.count_nonzero(byte_of[1:] == byte_of[:-1]) < 20


@settings(deadline=None)
@given(hnp.arrays(np.float32, 128, elements=st.floats(allow_nan=True, allow_infinity=True, width=32)))
def test_any_soft_bits_are_survived(soft: NDArray[np.float32]) -> None:
    decoded = decode(soft)
    if decoded is not None:
        assert 0 <= decoded.chance <= MAX_CHANCE
        finite = np.where(np.isfinite(soft), soft, 0)
        assert np.count_nonzero((encode(decoded.payload) > 0) != (finite > 0)) == decoded.corrected_bits


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_silence_is_no_payload(value: float) -> None:
    assert decode(np.full(128, value)) is None


def test_values_that_are_not_finite_count_as_silent() -> None:
    soft = encode(RANDOM).astype(np.float64)
    silent = soft.copy()
    soft[places_of_bytes()[2]] = [np.nan, np.inf, -np.inf, np.nan, np.inf, -np.inf, np.nan, np.nan]
    silent[places_of_bytes()[2]] = 0
    decoded = decode(soft)
    assert decoded is not None
    assert decoded.payload == RANDOM
    assert decoded == decode(silent)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e300])
def test_the_unit_of_the_soft_bits_does_not_matter(scale: float) -> None:
    random = np.random.default_rng(25)
    for strength in (0.0, 1.7):
        soft = strength * encode(RANDOM) + random.normal(size=128)
        plain, scaled = decode(soft), decode(soft * scale)
        assert payload_of(scaled) == payload_of(plain)
        if plain is not None and scaled is not None:
            assert scaled.chance == pytest.approx(plain.chance)


def test_single_precision_is_enough() -> None:
    soft = 2.0 * encode(RANDOM) + np.random.default_rng(26).normal(size=128)
    assert payload_of(decode(soft.astype(np.float32))) == RANDOM


def test_six_weak_errors_in_a_row_of_marks_are_corrected() -> None:
    rng = np.random.default_rng(12)
    for _ in range(50):
        payload = Payload.from_data(rng.bytes(12))
        soft = encode(payload) * rng.uniform(0.5, 1.5, 128)
        soft[rng.choice(128, 6, replace=False)] *= -0.5
        decoded = decode(soft)
        assert decoded is not None
        assert (decoded.payload, decoded.corrected_bits) == (payload, 6)


@pytest.mark.parametrize("shape", [(127,), (129,), (1, 128), ()])
def test_decode_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        decode(np.zeros(shape))


# List decoding.


def known(count: int, seed: int = 0) -> list[Payload]:
    random = np.random.default_rng(seed)
    return [Payload.from_data(random.bytes(12)) for _ in range(count)]


def test_a_known_payload_is_found_where_the_code_fails() -> None:
    random, payloads = np.random.default_rng(30), known(200)
    found = 0
    for payload in payloads[::10]:
        soft = 0.9 * encode(payload) + random.normal(size=128)
        assert payload_of(decode(soft)) != payload
        match = find_in(soft.astype(np.float32), payloads, 1)
        assert payload_of(match) in (payload, None)
        if match is not None:
            found += 1
            assert match.corrected_bits == np.count_nonzero((soft > 0) != (encode(payload) > 0))
            assert match.chance <= LIST_FALSE_MATCH
    assert found > 10


@settings(deadline=None, max_examples=30)
@given(st.lists(PAYLOADS, max_size=12))
def test_a_directory_holds_the_codewords_in_order(payloads: list[Payload]) -> None:
    directory = Directory.of(payloads)
    assert directory.payloads == tuple(payloads)
    assert directory.codewords.shape == (len(payloads), 128)
    assert directory.codewords.dtype == np.int8
    for payload, codeword in zip(payloads, directory.codewords, strict=True):
        np.testing.assert_array_equal(codeword, encode(payload))


def test_a_directory_is_searched_like_a_list() -> None:
    random, payloads = np.random.default_rng(32), known(50)
    directory = Directory.of(payloads)
    for payload in payloads[::10]:
        soft = 1.5 * encode(payload) + random.normal(size=128)
        assert payload_of(find_in(soft, directory, 1)) == payload
        assert find_in(soft, directory, 1) == find_in(soft, payloads, 1)
    assert find_in(encode(RANDOM).astype(np.float64), Directory.of([]), 1) is None


def test_noise_is_none_of_many_payloads() -> None:
    random, payloads = np.random.default_rng(31), known(2000)
    assert all(find_in(random.normal(size=128), payloads, 8) is None for _ in range(10))


def test_every_payload_and_every_try_count() -> None:
    """The bound on a false match is Hoeffding's times all that could have matched."""
    payloads = known(4)
    clean = encode(payloads[2]).astype(np.float64)
    match = find_in(clean, payloads, 8)
    assert match is not None
    assert (match.payload, match.corrected_bits) == (payloads[2], 0)
    assert match.chance == pytest.approx(8 * 4 * np.exp(-64.0), rel=1e-3)
    most = LIST_FALSE_MATCH / (4 * np.exp(-64.0))
    assert find_in(clean, payloads, int(most * 0.99)) is not None
    assert find_in(clean, payloads, int(most * 1.01)) is None
    assert find_in(clean, [*payloads, RANDOM], int(most * 0.99)) is None


def test_the_contrary_of_a_word_is_no_match() -> None:
    payloads = known(1)
    assert find_in(-encode(payloads[0]).astype(np.float64), payloads, 1) is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_silence_is_no_match(value: float) -> None:
    assert find_in(np.full(128, value), known(3), 1) is None


def test_an_empty_list_has_no_match() -> None:
    assert find_in(encode(RANDOM).astype(np.float64), [], 1) is None


def test_commitment() -> None:
    assert commitment(RANDOM) == hashlib.sha3_256(b"medprov payload 1" + RANDOM.data).digest()
    assert commitment(Payload(RANDOM.perceptual_hash, bytes(4))) != commitment(RANDOM)
