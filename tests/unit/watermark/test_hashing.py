"""The content hash is exact, the perceptual hash is not."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.fft import dctn
from skimage import data

from medprov_watermark.hashing import content_hash, hamming, perceptual_hash

PICTURES = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    st.one_of(
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
    ),
)


def test_content_hash_follows_its_definition() -> None:
    array = np.array([[1, 2, 3], [400, 500, 65535]], np.uint16)
    expected = hashlib.sha3_256(
        b"medprov content 1" + struct.pack("<3I", 2, 3, 1) + struct.pack("<6H", 1, 2, 3, 400, 500, 65535)
    ).digest()
    assert content_hash(array) == expected


@given(PICTURES)
def test_content_hash_ignores_width_of_the_type_order_in_memory_and_the_single_channel(
    array: NDArray[np.uint8 | np.uint16],
) -> None:
    expected = content_hash(array)
    assert content_hash(array.astype(np.uint16)) == expected
    assert content_hash(np.asfortranarray(array)) == expected
    if array.ndim == 2:
        assert content_hash(array[:, :, None]) == expected


@given(PICTURES, st.data())
def test_content_hash_changes_with_every_sample(array: NDArray[np.uint8 | np.uint16], draw: st.DataObject) -> None:
    changed = array.copy()
    place = draw.draw(st.integers(0, array.size - 1))
    changed.flat[place] ^= np.asarray(1, array.dtype)
    assert content_hash(changed) != content_hash(array)


def test_content_hash_changes_with_the_shape() -> None:
    array = np.zeros((6, 4), np.uint8)
    hashes = {content_hash(array), content_hash(array.T), content_hash(array.reshape(2, 4, 3))}
    assert len(hashes) == 3


def test_content_hash_of_many_rows_does_not_depend_on_the_blocks_it_reads() -> None:
    array = np.random.default_rng(1).integers(0, 256, (600, 3), np.uint8)
    whole = hashlib.sha3_256(b"medprov content 1" + struct.pack("<3I", 600, 3, 1) + array.astype("<u2").tobytes())
    assert content_hash(array) == whole.digest()


@pytest.mark.parametrize("function", [content_hash, perceptual_hash])
@pytest.mark.parametrize(
    "wrong", [np.zeros((0, 5), np.uint8), np.zeros((5, 5), np.float32), np.zeros((5, 5, 4), np.uint8), np.uint8(3)]
)
def test_refuse_what_is_no_picture(function: object, wrong: NDArray[np.uint8]) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="must"):
        function(wrong)


def test_perceptual_hash_is_frozen() -> None:
    # These bytes are in marks that were given out: they must never change.
    ramp = np.add.outer(np.arange(50) ** 2, 3 * np.arange(61)).astype(np.uint16)
    assert perceptual_hash(ramp).hex() == "0804002000100000"
    assert perceptual_hash(data.camera()).hex() == "7fea2870281e523f"


def test_perceptual_hash_agrees_with_a_plain_dct() -> None:
    picture = data.camera()
    means = picture.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    spectrum = dctn(means, type=2)
    order = sorted(((u, v) for u in range(12) for v in range(12) if u + v), key=lambda p: (sum(p), p))[:64]
    lowest = np.array([spectrum[pair] for pair in order])
    expected = np.packbits(lowest > np.median(lowest)).tobytes()
    assert hamming(perceptual_hash(picture), expected) <= 1


@given(PICTURES)
def test_perceptual_hash_takes_any_picture_and_half_of_its_bits_are_set_at_most(
    array: NDArray[np.uint8 | np.uint16],
) -> None:
    value = perceptual_hash(array)
    assert len(value) == 8
    assert hamming(value, bytes(8)) <= 32


@given(st.integers(0, 65535), st.integers(1, 50), st.integers(1, 50))
def test_perceptual_hash_of_one_value_is_zero(value: int, height: int, width: int) -> None:
    assert perceptual_hash(np.full((height, width), value, np.uint16)) == bytes(8)


@given(st.integers(2, 257))
def test_perceptual_hash_does_not_depend_on_the_scale_of_the_values(factor: int) -> None:
    picture = data.camera()[::4, ::4]
    assert hamming(perceptual_hash(picture.astype(np.uint16) * factor), perceptual_hash(picture)) <= 1


def test_perceptual_hash_survives_size_noise_and_grey_as_rgb() -> None:
    picture = data.camera()
    value = perceptual_hash(picture)
    rng = np.random.default_rng(5)
    noisy = np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)
    assert hamming(perceptual_hash(noisy), value) <= 4
    assert hamming(perceptual_hash(picture[::2, ::2]), value) <= 6
    assert perceptual_hash(np.repeat(picture[:, :, None], 3, axis=2)) == value


def test_perceptual_hash_tells_pictures_apart() -> None:
    assert hamming(perceptual_hash(data.camera()), perceptual_hash(data.coins())) >= 16


def test_perceptual_hash_of_the_largest_samples_does_not_overflow() -> None:
    extreme = np.zeros((64, 96, 3), np.uint16)
    extreme[:, 48:] = 65535
    assert perceptual_hash(extreme) == perceptual_hash((extreme // 65535 * 255).astype(np.uint8))


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_hamming(a: bytes, b: bytes) -> None:
    assert hamming(a, b) == sum(bin(x ^ y).count("1") for x, y in zip(a, b, strict=True)) == hamming(b, a)


def test_hamming_refuses_different_lengths() -> None:
    with pytest.raises(ValueError, match="8 and 7"):
        hamming(bytes(8), bytes(7))
