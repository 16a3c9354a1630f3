"""Whole numbers, masks and digests of secure aggregation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg

SHAPES = {"a": (2, 3), "b": (), "c": (0,)}
floats = st.floats(-2, 2, width=32)


def deltas():
    return st.fixed_dictionaries({name: arrays(np.float32, shape, elements=floats) for name, shape in SHAPES.items()})


@given(st.lists(deltas(), min_size=1, max_size=6), st.sampled_from([0.01, 1.0, 5.0]), st.integers(0, 60))
def test_the_sum_of_whole_numbers_is_the_sum(updates, clip, more):
    members = len(updates) + more
    total = np.sum([secagg.quantised(u, clip, members) for u in updates], axis=0, dtype=np.uint32)
    found = secagg.restored(total, clip, members, SHAPES)
    assert ex.shapes_of(found) == SHAPES
    step = clip / secagg.levels(members)
    for name in SHAPES:
        exact = sum(np.clip(u[name].astype(np.float64), -clip, clip) for u in updates)
        assert np.abs(found[name] - exact).max(initial=0) <= len(updates) * step * (0.5 + 1e-6)


@given(st.lists(deltas(), min_size=2, max_size=5), st.permutations(range(5)))
def test_the_order_does_not_matter(updates, order):
    whole = [secagg.quantised(u, 1.0, 5) for u in updates]
    mixed = [whole[i] for i in order if i < len(whole)]
    assert (np.sum(whole, axis=0, dtype=np.uint32) == np.sum(mixed, axis=0, dtype=np.uint32)).all()


@pytest.mark.parametrize("members", [1, 3, 10, 1000, 2**16])
def test_the_sum_of_the_largest_updates_has_room(members):
    largest = np.uint32(secagg.quantised({"a": np.ones(1, np.float32)}, 1.0, members)[0])
    total = np.array([int(largest) * members % 2**32], np.uint32)
    assert secagg.restored(total, 1.0, members, {"a": (1,)})["a"][0] == pytest.approx(members)


def test_members_that_cannot_be_summed():
    for members in (0, 2**16 + 1):
        with pytest.raises(ex.ExchangeError, match="cannot be summed"):
            secagg.levels(members)


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(1, 50))
def test_masks_depend_on_all_of_the_secret(one, other, size):
    first, second = secagg.mask(one, size), secagg.mask(other, size)
    assert (len(first), first.dtype) == (size, np.uint32)
    assert (secagg.mask(one, size) == first).all()
    if one != other and size > 4:
        assert (first != second).any()


def test_masks_are_spread_evenly():
    found = secagg.mask(b"seed", 100_000).astype(np.float64) / 2**32
    assert found.mean() == pytest.approx(0.5, abs=0.01) and found.std() == pytest.approx(math.sqrt(1 / 12), abs=0.01)
    # Flower's generator xors the seed down to 32 bits: this pair has the same mask there.
    assert (secagg.mask(b"\x01\0\0\0\x02\0\0\0", 8) != secagg.mask(b"\x02\0\0\0\x01\0\0\0", 8)).all()


def test_thresholds():
    assert [secagg.lowest_threshold(n) for n in (3, 4, 5, 10)] == [2, 3, 3, 6]
    assert [secagg.usual_threshold(n) for n in (3, 4, 5, 10)] == [3, 3, 4, 7]
    assert all(2 * secagg.lowest_threshold(n) > n for n in range(1, 200))


@pytest.mark.parametrize("changed", range(6))
def test_a_signature_over_keys_binds_everything(changed):
    values = [b"f" * 32, 1, 2, 3, b"first", b"second"]
    other = list(values)
    other[changed] = other[changed] + (1 if isinstance(other[changed], int) else b"x")
    assert secagg.keys_digest(*values) != secagg.keys_digest(*other)


def test_hash_and_values():
    masked = np.arange(5, dtype=np.uint32)
    assert len(secagg.masked_hash(masked)) == 32 != secagg.masked_hash(masked[::-1])
    record = {"a": [1, 2], "b": True, "c": [True]}
    assert secagg.values(record, "a", int, 2) == [1, 2]
    for key, kind, longest in (("a", int, 1), ("a", bytes, 2), ("b", int, 2), ("c", int, 2), ("none", int, 2)):
        with pytest.raises(ex.ExchangeError, match=f"{key} must be a list"):
            secagg.values(record, key, kind, longest)
    with pytest.raises(ex.ExchangeError, match="b must be of type int"):
        secagg.value(record, "b", int)
    assert secagg.value(record, "b", bool) is True
