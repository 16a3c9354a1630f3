"""What coordinator and hospitals exchange: weights as bytes, arrays from outside, assignments, bindings."""

import dataclasses
import hashlib
import io

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Model, Settings

SMALL = Settings(channels=8, blocks=1, extractor_blocks=1)
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable())
ARRAYS = st.dictionaries(
    NAMES, hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)), max_size=6
)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@settings(max_examples=100, deadline=None)
@given(arrays=ARRAYS)
def test_safetensors_bytes_are_the_librarys_and_come_back(arrays):
    data = ex.to_safetensors(arrays)
    assert data == safetensors.numpy.save(arrays)
    back = ex.from_safetensors(data)
    assert list(back) == sorted(arrays)
    assert all(back[n].tobytes() == a.tobytes() and back[n].shape == a.shape for n, a in arrays.items())


def test_hash_does_not_depend_on_order_or_memory_layout():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(1) * np.ones(2, np.float32)
    one = ex.model_hash({"a": a, "b": b})
    assert (
        one
        == ex.model_hash({"b": b, "a": np.asfortranarray(a)})
        == ex.model_hash({"a": a.astype(">f4").astype("<f4"), "b": b})
    )
    assert one == hashlib.sha256(ex.to_safetensors({"a": a, "b": b})).digest()
    assert one != ex.model_hash({"a": a.reshape(3, 2), "b": b})
    assert one != ex.model_hash({"a": a, "c": b})


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_no_weights(data):
    with pytest.raises(ex.ExchangeError):
        ex.from_safetensors(data)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8])
def test_other_types_are_refused(dtype):
    with pytest.raises(ex.ExchangeError, match="only float32"):
        ex.to_safetensors({"a": np.zeros(2, dtype)})
    with pytest.raises(ex.ExchangeError, match="only float32"):
        ex.from_safetensors(safetensors.numpy.save({"a": np.zeros(2, dtype)}))


def test_truncated_weights_are_refused():
    data = ex.to_safetensors({"a": np.ones(5, np.float32)})
    for end in range(len(data)):
        with pytest.raises(ex.ExchangeError):
            ex.from_safetensors(data[:end])


def test_state_of_a_model_and_back():
    first, second = Model(SMALL), Model(SMALL)
    state = ex.state_of(first)
    assert list(state) == sorted(first.state_dict())
    assert state["log_scale"].shape == ()
    assert ex.model_hash(state) != ex.model_hash(ex.state_of(second))
    ex.load_state(second, state)
    assert ex.model_hash(ex.state_of(second)) == ex.model_hash(state)
    with torch.no_grad():
        first.log_scale.add_(1)
    assert state["log_scale"] == 0


def test_memory_format_does_not_change_the_hash():
    model = Model(SMALL)
    before = ex.model_hash(ex.state_of(model))
    assert ex.model_hash(ex.state_of(model.to(memory_format=torch.channels_last))) == before


def test_other_networks_weights_are_refused():
    model = Model(SMALL)
    state = ex.state_of(model)
    for other in (
        {k: v for k, v in state.items() if k != "log_scale"},
        {**state, "more": np.zeros(1, np.float32)},
        {**state, "log_scale": np.zeros(1, np.float32)},
        ex.state_of(Model(dataclasses.replace(SMALL, blocks=2))),
    ):
        with pytest.raises(ex.ExchangeError, match="another size"):
            ex.load_state(model, other)


def test_double_precision_models_are_refused():
    with pytest.raises(ex.ExchangeError, match="only float32"):
        ex.state_of(torch.nn.Linear(2, 2).double())


@settings(max_examples=60, deadline=None)
@given(array=hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_arrays_come_back(array):
    back = ex.decode_array(npy(array), array.shape)
    assert back.shape == array.shape and back.tobytes() == array.tobytes() and back.flags.writeable


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_no_array(data):
    for prefix in (b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x10\x00"):
        with pytest.raises(ex.ExchangeError):
            ex.decode_array(prefix + data, (3,))


@pytest.mark.parametrize(
    "data",
    [
        npy(np.zeros((3, 2), np.float32)),
        npy(np.zeros(3, np.float64)),
        npy(np.zeros(3, ">f4")),
        npy(np.asfortranarray(np.zeros((2, 3), np.float32))),
        npy(np.zeros((2, 3), np.float32))[:-1],
        npy(np.zeros((2, 3), np.float32)) + b"\0",
        npy(np.zeros((2, 3), np.float32)).replace(b"\x01\x00", b"\x02\x00", 1),
        npy(np.zeros((2, 3), np.float32)).replace(b"(2, 3)", b"(9**99)"[:6].ljust(6)),
        npy(np.zeros((2, 3), np.float32)).replace(b"(2, 3)", b"(-2,3)"),
        b"",
    ],
)
def test_arrays_that_are_not_what_was_asked_for(data):
    with pytest.raises(ex.ExchangeError):
        ex.decode_array(data, (2, 3))


def assignment(**changes):
    values = {
        "number": 3,
        "attempt": 4,
        "base": b"\x01" * 32,
        "federation": b"\x02" * 32,
        "task": "watermark",
        "steps": 5,
        "settings": {"batch": 2, "rate": 0.01, "kinds": "a,b", "flag": True},
        "progress": {"step": 10.0, "db": 36.5},
        "encoding": "int8",
        "feedback": False,
    }
    return ex.Assignment(**{**values, **changes})


def test_assignment_comes_back():
    assert ex.Assignment.from_config(assignment().to_config()) == assignment()


@pytest.mark.parametrize("key", [k for k in sorted(assignment().to_config()) if not k.startswith("set.")])
def test_assignment_with_a_missing_or_foreign_value_is_refused(key):
    config = assignment().to_config()
    for value in (None, -1, float("nan"), float("inf"), 2**70, b"short", [1], {}):
        if key.startswith("at.") and value == -1:
            continue
        with pytest.raises(ex.ExchangeError):
            ex.Assignment.from_config({**config, key: value})
    if not key.startswith("at."):
        with pytest.raises(ex.ExchangeError):
            ex.Assignment.from_config({k: v for k, v in config.items() if k != key})


def test_settings_are_flat_values_and_not_many():
    config = assignment().to_config()
    for value in (None, b"x", [1], {}):
        with pytest.raises(ex.ExchangeError, match="batch"):
            ex.Assignment.from_config({**config, "set.batch": value})
    with pytest.raises(ex.ExchangeError, match="at most"):
        ex.Assignment.from_config({**config, **{f"set.{i}": i for i in range(1000)}})


def test_truth_is_no_number_and_another_protocol_is_named():
    config = assignment().to_config()
    with pytest.raises(ex.ExchangeError, match="steps is True"):
        ex.Assignment.from_config({**config, "steps": True})
    with pytest.raises(ex.ExchangeError, match="protocol 9"):
        ex.Assignment.from_config({**config, "protocol": 9})


def test_binding_covers_every_part():
    parts = [b"\1" * 32, 5, b"\2" * 32, b"\3" * 32, 100]
    one = ex.update_digest(*parts)
    others = [b"\4" * 32, 6, b"\4" * 32, b"\4" * 32, 101]
    digests = {ex.update_digest(*parts[:i], other, *parts[i + 1 :]) for i, other in enumerate(others)}
    assert len({one, *digests}) == 6 and len(one) == 32
    assert ex.update_leaf(one, b"") != ex.update_leaf(one, b"\0" * 65) != one
    with pytest.raises(ex.ExchangeError):
        ex.update_digest(b"", 1, bytes(32), bytes(32), 1)
