"""The payload survives what its error correction promises, and noise is taken for one as seldom as it says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark import convolutional
from medprov_watermark.chance import chance
from medprov_watermark.payload import (
    CODE_BITS,
    LIST_FALSE_MATCH,
    MAX_CHANCE,
    PARITY_BITS,
    Decoded,
    Directory,
    Payload,
    commitment,
    decode,
    encode,
    find_in,
)

FROZEN = "1a834cdd8cd6de4e9b25b57c9b411549ad87f4758b555abe6c5a5160a8b5a6f16b14056ba2f622b090752f1dd1bdf33ed18489d6"
PAYLOADS = st.binary(min_size=12, max_size=12).map(Payload.from_data)
RANDOM = Payload(bytes.fromhex("0123456789abcdef"), bytes.fromhex("deadbeef"))


def payload_of(decoded: Decoded | None) -> Payload | None:
    return decoded.payload if decoded else None


def share_read(strength: float, words: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    right = 0
    for _ in range(words):
        sent = Payload.from_data(random.bytes(12))
        right += payload_of(decode(strength * encode(sent) + random.normal(size=CODE_BITS))) == sent
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
    # Marks that were given out must stay readable: neither permutation, check nor code may change.
    assert np.packbits(encode(RANDOM) > 0).tobytes().hex() == FROZEN


@settings(deadline=None)
@given(PAYLOADS)
def test_round_trip(payload: Payload) -> None:
    signs = encode(payload)
    assert signs.dtype == np.int8
    assert signs.shape == (CODE_BITS,)
    assert set(signs.tolist()) <= {-1, 1}
    decoded = decode(signs.astype(np.float32))
    assert decoded is not None
    assert (decoded.payload, decoded.corrected_bits) == (payload, 0)


@given(PAYLOADS, st.integers(0, 31))
def test_payloads_that_differ_in_one_serial_bit_have_unrelated_codewords(payload: Payload, bit: int) -> None:
    serial = (int.from_bytes(payload.serial, "big") ^ 1 << bit).to_bytes(4, "big")
    other = encode(Payload(payload.perceptual_hash, serial))
    assert 130 <= np.count_nonzero(other != encode(payload)) <= 286


@settings(deadline=None)
@given(PAYLOADS, st.lists(st.integers(0, CODE_BITS - 1), max_size=14, unique=True))
def test_wrong_bits_are_corrected_and_counted(payload: Payload, wrong: list[int]) -> None:
    soft = encode(payload).astype(np.float64)
    soft[wrong] *= -1
    decoded = decode(soft)
    assert decoded is not None
    assert (decoded.payload, decoded.corrected_bits) == (payload, len(wrong))


def test_answers_below_one_deviation_are_read() -> None:
    assert share_read(0.85, 100, 20) >= 0.95
    assert share_read(0.75, 100, 21) >= 0.8


def test_a_wrong_payload_is_hardly_ever_read() -> None:
    """At these strengths half of the words are beyond repair, and most of what decoders find then is nearly right."""
    random = np.random.default_rng(22)
    read = wrong = 0
    for _ in range(250):
        sent = Payload.from_data(random.bytes(12))
        decoded = decode(0.62 * encode(sent) + random.normal(size=CODE_BITS))
        read += payload_of(decoded) == sent
        wrong += payload_of(decoded) not in (sent, None)
    assert read > 50
    assert wrong <= 4


def test_a_word_without_its_check_is_no_payload() -> None:
    data = np.unpackbits(np.frombuffer(b"thirteen byte", np.uint8))
    word = convolutional.encode(data).astype(np.float64) * 2 - 1
    assert decode(word) is None


@given(PAYLOADS)
def test_words_of_payloads_pass_a_check_of_eight_bits(payload: Payload) -> None:
    """CRC-8 over the permuted bytes with polynomial 0x07, started with 0xFF: bit by bit."""
    word = np.packbits(convolutional.nearest(encode(payload).astype(np.float64))).tobytes()
    rest = 0xFF
    for bit in np.unpackbits(np.frombuffer(word[:12], np.uint8)).tolist():
        rest ^= bit << 7
        rest = (rest << 1 ^ (0x07 if rest & 0x80 else 0)) & 0xFF
    assert word[12] == rest


def test_noise_is_accepted_as_often_as_is_said() -> None:
    random, words = np.random.default_rng(23), 800
    accepted = sum(decode(random.normal(size=CODE_BITS)) is not None for _ in range(words))
    assert 1 <= accepted <= words * MAX_CHANCE + 4 * np.sqrt(words * MAX_CHANCE)


def test_the_chance_is_that_of_the_word() -> None:
    random = np.random.default_rng(24)
    for strength in (0.9, 1.2, 2.0):
        soft = strength * encode(RANDOM) + random.normal(size=CODE_BITS)
        decoded = decode(soft)
        assert decoded is not None
        assert decoded.payload == RANDOM
        assert 0 < decoded.chance <= MAX_CHANCE
        assert decoded.chance == pytest.approx(float(chance(soft * encode(RANDOM), PARITY_BITS)))
        assert decoded.corrected_bits == np.count_nonzero((soft > 0) != (encode(RANDOM) > 0))


@settings(deadline=None)
@given(hnp.arrays(np.float32, CODE_BITS, elements=st.floats(allow_nan=True, allow_infinity=True, width=32)))
def test_any_soft_bits_are_survived(soft: NDArray[np.float32]) -> None:
    decoded = decode(soft)
    if decoded is not None:
        assert 0 <= decoded.chance <= MAX_CHANCE
        finite = np.where(np.isfinite(soft), soft, 0)
        assert np.count_nonzero((encode(decoded.payload) > 0) != (finite > 0)) == decoded.corrected_bits


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_silence_is_no_payload(value: float) -> None:
    assert decode(np.full(CODE_BITS, value)) is None


def test_values_that_are_not_finite_count_as_silent() -> None:
    soft = encode(RANDOM).astype(np.float64)
    silent = soft.copy()
    soft[8:16] = [np.nan, np.inf, -np.inf, np.nan, np.inf, -np.inf, np.nan, np.nan]
    silent[8:16] = 0
    decoded = decode(soft)
    assert decoded is not None
    assert decoded.payload == RANDOM
    assert decoded == decode(silent)


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e300])
def test_the_unit_of_the_soft_bits_does_not_matter(scale: float) -> None:
    random = np.random.default_rng(25)
    for strength in (0.0, 0.9):
        soft = strength * encode(RANDOM) + random.normal(size=CODE_BITS)
        plain, scaled = decode(soft), decode(soft * scale)
        assert payload_of(scaled) == payload_of(plain)
        if plain is not None and scaled is not None:
            assert scaled.chance == pytest.approx(plain.chance)


def test_single_precision_is_enough() -> None:
    soft = 1.0 * encode(RANDOM) + np.random.default_rng(26).normal(size=CODE_BITS)
    assert payload_of(decode(soft.astype(np.float32))) == RANDOM


@pytest.mark.parametrize("shape", [(CODE_BITS - 1,), (CODE_BITS + 1,), (1, CODE_BITS), ()])
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
        soft = 0.5 * encode(payload) + random.normal(size=CODE_BITS)
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
    assert directory.codewords.shape == (len(payloads), CODE_BITS)
    assert directory.codewords.dtype == np.int8
    for payload, codeword in zip(payloads, directory.codewords, strict=True):
        np.testing.assert_array_equal(codeword, encode(payload))


def test_a_directory_is_searched_like_a_list() -> None:
    random, payloads = np.random.default_rng(32), known(50)
    directory = Directory.of(payloads)
    for payload in payloads[::10]:
        soft = 1.5 * encode(payload) + random.normal(size=CODE_BITS)
        assert payload_of(find_in(soft, directory, 1)) == payload
        assert find_in(soft, directory, 1) == find_in(soft, payloads, 1)
    assert find_in(encode(RANDOM).astype(np.float64), Directory.of([]), 1) is None


def test_noise_is_none_of_many_payloads() -> None:
    random, payloads = np.random.default_rng(31), known(2000)
    assert all(find_in(random.normal(size=CODE_BITS), payloads, 8) is None for _ in range(10))


def test_every_payload_and_every_try_count() -> None:
    """The bound on a false match is Hoeffding's times all that could have matched."""
    payloads = known(4)
    clean = encode(payloads[2]).astype(np.float64)
    match = find_in(clean, payloads, 8)
    assert match is not None
    assert (match.payload, match.corrected_bits) == (payloads[2], 0)
    assert match.chance == pytest.approx(8 * 4 * np.exp(-CODE_BITS / 2), rel=1e-2)
    most = LIST_FALSE_MATCH / (4 * np.exp(-CODE_BITS / 2))
    assert find_in(clean, payloads, int(most * 0.99)) is not None
    assert find_in(clean, payloads, int(most * 1.01)) is None
    assert find_in(clean, [*payloads, RANDOM], int(most * 0.99)) is None


def test_the_contrary_of_a_word_is_no_match() -> None:
    payloads = known(1)
    assert find_in(-encode(payloads[0]).astype(np.float64), payloads, 1) is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_silence_is_no_match(value: float) -> None:
    assert find_in(np.full(CODE_BITS, value), known(3), 1) is None


def test_an_empty_list_has_no_match() -> None:
    assert find_in(encode(RANDOM).astype(np.float64), [], 1) is None


def test_commitment() -> None:
    assert commitment(RANDOM) == hashlib.sha3_256(b"medprov payload 1" + RANDOM.data).digest()
    assert commitment(Payload(RANDOM.perceptual_hash, bytes(4))) != commitment(RANDOM)


@pytest.mark.parametrize("place", [0, 4095, 4096, 8999])
def test_a_long_directory_is_searched_to_its_end(place: int) -> None:
    rng = np.random.default_rng(place)
    words = (rng.integers(0, 2, (9000, CODE_BITS)) * 2 - 1).astype(np.int8)
    payloads = tuple(Payload(bytes(8), number.to_bytes(4, "big")) for number in range(len(words)))
    found = find_in(0.8 * words[place] + rng.normal(size=CODE_BITS), Directory(payloads, words), 1.0)
    assert found is not None
    assert found.payload == payloads[place]
