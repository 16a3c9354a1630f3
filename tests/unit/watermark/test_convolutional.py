"""The code is the one that is written down, and its decoder finds the word that fits best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medprov_watermark.convolutional import DATA_BITS, GENERATORS, LENGTH, MEMORY, encode, generator_matrix, nearest

U8 = NDArray[np.uint8]
WORDS = hnp.arrays(np.uint8, DATA_BITS, elements=st.integers(0, 1))
RATE = len(GENERATORS)


def shift_register(data: U8) -> U8:
    """The encoder as textbooks draw it: a register that is loaded with the last data bits before it starts."""
    register = [int(bit) for bit in data[-MEMORY:]]
    out = []
    for bit in data.tolist():
        window = [bit, *reversed(register)]
        for generator in GENERATORS:
            taps = [int(digit) for digit in f"{generator:0{MEMORY + 1}b}"]
            out.append(sum(tap & value for tap, value in zip(taps, window, strict=True)) % 2)
        register = [*register[1:], bit]
    return np.array(out, np.uint8)


def signs(word: U8) -> NDArray[np.float64]:
    return word * 2.0 - 1


def test_the_code_is_frozen() -> None:
    # Marks that were given out must stay readable.
    assert (DATA_BITS, MEMORY, LENGTH) == (104, 12, 416)
    assert GENERATORS == (0o11145, 0o12477, 0o15573, 0o16727)
    data = np.unpackbits(np.frombuffer(bytes(range(13)), np.uint8))
    assert np.packbits(encode(data)).tobytes() == np.packbits(shift_register(data)).tobytes()


@given(WORDS)
def test_the_encoder_is_a_shift_register(data: U8) -> None:
    word = encode(data)
    assert word.dtype == np.uint8
    np.testing.assert_array_equal(word, shift_register(data))


@given(WORDS, WORDS)
def test_the_code_is_linear(first: U8, second: U8) -> None:
    np.testing.assert_array_equal(encode(first ^ second), encode(first) ^ encode(second))


@given(WORDS, st.integers(1, DATA_BITS - 1))
def test_the_code_bites_its_tail(data: U8, shift: int) -> None:
    np.testing.assert_array_equal(encode(np.roll(data, shift)), np.roll(encode(data), RATE * shift))


def test_many_words_are_each_alone() -> None:
    data = np.random.default_rng(0).integers(0, 2, (3, 4, DATA_BITS)).astype(np.uint8)
    words = encode(data)
    assert words.shape == (3, 4, LENGTH)
    np.testing.assert_array_equal(words[2, 1], encode(data[2, 1]))


def test_different_data_have_different_words() -> None:
    matrix = generator_matrix().astype(np.uint8)
    assert matrix.shape == (DATA_BITS, LENGTH)
    rank, rows = 0, matrix.copy()
    for column in range(LENGTH):
        ones = np.flatnonzero(rows[rank:, column])
        if ones.size:
            rows[[rank, rank + ones[0]]] = rows[[rank + ones[0], rank]]
            others = rows[:, column].astype(bool)
            others[rank] = False
            rows[others] ^= rows[rank]
            rank += 1
            if rank == DATA_BITS:
                break
    assert rank == DATA_BITS


def test_words_of_few_data_bits_are_far_from_zero() -> None:
    spans = np.arange(1, 2**14, 2)
    data = np.zeros((len(spans), DATA_BITS), np.uint8)
    data[:, :14] = spans[:, None] >> np.arange(14) & 1
    assert encode(data).sum(axis=1).min() == 33


@settings(deadline=None, max_examples=30)
@given(WORDS, hnp.arrays(np.float64, LENGTH, elements=st.floats(0.01, 100)))
def test_a_hard_decision_that_is_a_word_is_kept(data: U8, size: NDArray[np.float64]) -> None:
    soft = signs(encode(data)) * size
    before = soft.copy()
    np.testing.assert_array_equal(nearest(soft), data)
    np.testing.assert_array_equal(soft, before)


@settings(deadline=None, max_examples=30)
@given(WORDS, st.permutations(range(LENGTH)))
def test_fewer_errors_than_half_the_distance_are_corrected(data: U8, order: list[int]) -> None:
    soft = signs(encode(data))
    soft[order[:16]] *= -1
    np.testing.assert_array_equal(nearest(soft), data)


def test_noise_of_the_strength_of_the_signal_is_survived() -> None:
    random = np.random.default_rng(1)
    right = 0
    for _ in range(60):
        data = random.integers(0, 2, DATA_BITS).astype(np.uint8)
        right += np.array_equal(nearest(0.85 * signs(encode(data)) + random.normal(size=LENGTH)), data)
    assert right >= 58


def test_nothing_better_than_what_was_sent_is_missed() -> None:
    random = np.random.default_rng(2)
    for strength in (0.6, 0.7, 0.8):
        for _ in range(25):
            data = random.integers(0, 2, DATA_BITS).astype(np.uint8)
            soft = strength * signs(encode(data)) + random.normal(size=LENGTH)
            assert signs(encode(nearest(soft))) @ soft >= signs(encode(data)) @ soft - 1e-4


def test_where_the_circle_is_cut_does_not_matter() -> None:
    random = np.random.default_rng(3)
    for shift in (1, 17, 52, 103):
        data = random.integers(0, 2, DATA_BITS).astype(np.uint8)
        soft = 0.8 * signs(encode(data)) + random.normal(size=LENGTH)
        np.testing.assert_array_equal(nearest(np.roll(soft, RATE * shift)), np.roll(nearest(soft), shift))


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_bits_that_say_nothing_do_no_harm(lost: int) -> None:
    random = np.random.default_rng(lost)
    data = random.integers(0, 2, DATA_BITS).astype(np.uint8)
    soft = signs(encode(data)) * random.uniform(0.5, 2, LENGTH)
    soft[random.choice(LENGTH, lost, replace=False)] = 0
    np.testing.assert_array_equal(nearest(soft), data)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_the_same_everywhere_gives_some_word(value: float) -> None:
    found = nearest(np.full(LENGTH, value))
    assert found.shape == (DATA_BITS,)
    assert set(found.tolist()) <= {0, 1}


def test_single_and_double_precision_agree() -> None:
    random = np.random.default_rng(4)
    data = random.integers(0, 2, DATA_BITS).astype(np.uint8)
    soft = 0.9 * signs(encode(data)) + random.normal(size=LENGTH)
    np.testing.assert_array_equal(nearest(soft.astype(np.float32)), nearest(soft))
