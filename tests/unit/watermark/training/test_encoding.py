"""Updates in fewer bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medprov_watermark.training import encoding
from medprov_watermark.training import exchange as ex

FINITE = st.floats(-1e4, 1e4, width=32)
ARRAYS = st.dictionaries(
    st.sampled_from(["a", "b", "c.weight"]),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5), elements=FINITE),
    min_size=1,
)


@settings(max_examples=150, deadline=None)
@given(deltas=ARRAYS, name=st.sampled_from(sorted(encoding.TYPES)))
def test_what_is_read_is_near_what_was_meant(deltas, name):
    arrays, scales = encoding.encode(deltas, name)
    assert {key: array.dtype.str for key, array in arrays.items()} == dict.fromkeys(deltas, encoding.TYPES[name])
    assert (scales is not None) == (name == "int8")
    found = encoding.decode(arrays, scales)
    for key, meant in deltas.items():
        assert found[key].shape == meant.shape and found[key].dtype == np.float32
        largest = float(np.max(np.abs(meant), initial=0))
        step = {"float32": 0.0, "float16": 2.0**-10 * largest, "int8": 0.502 * largest / 127}[name]
        assert np.all(np.abs(found[key] - meant) <= step + 1e-6)
    assert ex.model_hash(found) == ex.model_hash(encoding.decode(*encoding.encode(deltas, name)))


def test_values_beyond_half_precision_stay_finite():
    found = encoding.decode(*encoding.encode({"a": np.array([1e30, -1e30], np.float32)}, "float16"))
    assert np.isfinite(found["a"]).all()


def test_tiny_values_do_not_divide_by_zero():
    tiny = {"a": np.array([1e-45, 0], np.float32)}
    assert np.isfinite(encoding.decode(*encoding.encode(tiny, "int8"))["a"]).all()


@pytest.mark.parametrize("scales", [[1.0], [1.0, -1.0], [1.0, np.nan], [np.inf, 1.0], [[1.0, 1.0]]])
def test_steps_that_no_honest_hospital_sends(scales):
    arrays = {"a": np.zeros(2, np.int8), "b": np.zeros((), np.int8)}
    with pytest.raises(ex.ExchangeError, match="steps"):
        encoding.decode(arrays, np.array(scales, np.float32))


def test_unknown_encodings_are_refused():
    with pytest.raises(ex.ExchangeError, match="int4"):
        encoding.encode({}, "int4")


def test_what_is_lost_comes_later():
    """A small constant difference that 8 bits cannot show beside a large one arrives in the sum over rounds."""
    meant = {"a": np.array([1.0, 0.001], np.float32)}
    memory, total = None, np.zeros(2)
    for _ in range(40):
        wanted = encoding.with_memory(meant, memory)
        sent = encoding.decode(*encoding.encode(wanted, "int8"))
        memory = encoding.lost(wanted, sent)
        total += sent["a"]
    assert np.allclose(total, 40 * meant["a"], atol=0.008)
    assert encoding.decode(*encoding.encode(meant, "int8"))["a"][1] == 0


def test_a_memory_of_other_networks_or_of_nan_is_left_out():
    deltas = {"a": np.ones(2, np.float32)}
    for memory in (None, {"b": np.ones(2, np.float32)}, {"a": np.ones(3, np.float32)}, {"a": np.full(2, np.nan, "f4")}):
        assert np.array_equal(encoding.with_memory(deltas, memory)["a"], deltas["a"])
