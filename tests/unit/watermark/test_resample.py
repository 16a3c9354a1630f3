"""Resampling: exact integers, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_watermark.resample import TABLE_BITS, resample, table

ONE = 2**TABLE_BITS
SIZES = st.one_of(st.integers(1, 400), st.sampled_from([256, 512, 1411]))


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES)
def test_rows_are_whole_not_negative_and_sum_exactly(source: int, target: int) -> None:
    rows = table(source, target)
    assert rows.shape == (target, source)
    np.testing.assert_array_equal(rows, np.rint(rows))
    np.testing.assert_array_equal(rows.sum(axis=1), ONE)
    assert rows.min() >= 0


@pytest.mark.parametrize("size", [1, 2, 3, 64, 255, 256])
def test_the_same_size_is_the_identity(size: int) -> None:
    np.testing.assert_array_equal(table(size, size), np.eye(size) * ONE)


def test_a_table_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table(5, 7)[0, 0] = 1


@pytest.mark.parametrize(("source", "target"), [(1411, 256), (256, 1411), (129, 256), (67, 256), (256, 63), (2, 9)])
def test_every_source_sample_counts_and_order_is_kept(source: int, target: int) -> None:
    rows = table(source, target)
    assert rows.sum(axis=0).min() > 0
    centres = rows @ np.arange(source) / ONE
    assert (np.diff(centres) >= 0).all()
    wanted = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    assert np.abs(centres - wanted).max() < max(1.0, source / target)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.data())
def test_resample_equals_exact_arithmetic(
    source: tuple[int, int], target: tuple[int, int], data: st.DataObject
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    picture = random.integers(-(2**28) + 1, 2**28, source)
    rows = [[int(v) for v in row] for row in table(source[0], target[0])]
    columns = [[int(v) for v in row] for row in table(source[1], target[1])]
    exact = np.array(rows, object) @ picture.astype(object) @ np.array(columns, object).T
    found = resample(picture, *target)
    assert found.dtype == np.int64
    assert found.shape == target
    assert (found == exact).all()


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.integers(1, 90)), st.data())
def test_results_stay_between_the_extremes(
    source: tuple[int, int], target: tuple[int, int], data: st.DataObject
) -> None:
    picture = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).integers(0, 65536, source)
    found = resample(picture, *target)
    assert found.min() >= int(picture.min()) * ONE**2
    assert found.max() <= int(picture.max()) * ONE**2


@pytest.mark.parametrize("shape", [(1, 1), (48, 48), (67, 129), (131, 50)])
def test_a_constant_stays_constant(shape: tuple[int, int]) -> None:
    np.testing.assert_array_equal(resample(np.full(shape, -777), 256, 256), -777 * ONE**2)


def test_the_same_size_is_exact_scaling() -> None:
    picture = np.random.default_rng(0).integers(0, 4 * 65536, (256, 256))
    np.testing.assert_array_equal(resample(picture, 256, 256), picture * ONE**2)


def test_unsigned_samples_do_not_wrap() -> None:
    picture = np.full((5, 5), 65535, np.uint16)
    np.testing.assert_array_equal(resample(picture, 9, 3), 65535 * ONE**2)
