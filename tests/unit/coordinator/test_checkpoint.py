"""A run's folder: what is written comes back, what is damaged is refused, a crash leaves the former state."""

import hashlib
import json
import os

import numpy as np
import pytest

from medprov_coordinator.checkpoint import CheckpointFolder, PendingAnchor, State, check_model, write_atomic
from medprov_coordinator.errors import CheckpointError
from medprov_watermark.training import exchange as ex

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.asarray(1.5, np.float32)}
MODEL = ex.model_hash(ARRAYS).hex()


def test_state_comes_back(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    assert folder.load_state() is None
    pending = tuple(PendingAnchor(n, MODEL, f"cid{n}", "00" * 32, "11" * 32) for n in (1, 2))
    state = State(2, 5, MODEL, {"step": 7.0, "db": 35.25}, 0.9, "22" * 32, pending, "33" * 32)
    folder.save_state(state)
    assert folder.load_state() == state


def test_model_comes_back_under_its_hash(tmp_path):
    folder = CheckpointFolder(tmp_path)
    path = folder.save_model(ex.to_safetensors(ARRAYS), MODEL)
    assert path.name == f"{MODEL}.safetensors"
    loaded = folder.load_model(MODEL)
    assert all(np.array_equal(loaded[k], ARRAYS[k]) and loaded[k].shape == ARRAYS[k].shape for k in ARRAYS)


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\xff" * 100])
def test_damaged_model_is_refused(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    path = folder.save_model(ex.to_safetensors(ARRAYS), MODEL)
    path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=MODEL[:16]):
        folder.load_model(MODEL)


def test_one_flipped_bit_and_a_truncated_end_are_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    data = ex.to_safetensors(ARRAYS)
    path = folder.save_model(data, MODEL)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="not those of hash"):
        folder.load_model(MODEL)
    path.write_bytes(data[:-3])
    with pytest.raises(CheckpointError, match="safetensors"):
        folder.load_model(MODEL)


def test_moments_come_back_and_older_ones_go(tmp_path):
    folder = CheckpointFolder(tmp_path)
    older = ex.model_hash({"x": np.ones(1, np.float32)}).hex()
    folder.save_moments(ex.to_safetensors({"x": np.ones(1, np.float32)}), older)
    folder.save_moments(ex.to_safetensors(ARRAYS), MODEL)
    folder.drop_moments(MODEL)
    assert [path.stem for path in (tmp_path / "moments").iterdir()] == [MODEL]
    assert ex.model_hash(folder.load_moments(MODEL)).hex() == MODEL
    folder.moments_path(MODEL).write_bytes(b"x" * 30)
    with pytest.raises(CheckpointError, match=r"moments.*not a safetensors file"):
        folder.load_moments(MODEL)
    folder.moments_path(MODEL).write_bytes(ex.to_safetensors({"x": np.ones(1, np.float32)}))
    with pytest.raises(CheckpointError, match="the moments are not those of hash"):
        folder.load_moments(MODEL)
    (tmp_path / "moments" / ".half.part").write_bytes(b"x")
    with folder.held():
        assert not list((tmp_path / "moments").glob(".*"))
    assert folder.has_moments(MODEL) and not folder.has_moments("")
    folder.drop_moments("")
    assert not folder.has_moments(MODEL)
    with pytest.raises(CheckpointError, match="cannot be read"):
        folder.load_moments(MODEL)


def test_absent_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFolder(tmp_path).load_model(MODEL)


def test_model_of_another_hash_is_refused():
    with pytest.raises(CheckpointError, match="store:x"):
        check_model(ex.to_safetensors(ARRAYS), bytes(32), "store:x")


WAITING = {"number": 1, "model": MODEL, "cid": "cid", "root": "00" * 32, "metrics": "11" * 32}


def good(**changes):
    body = {
        "version": 2,
        "number": 1,
        "pending": [],
        "attempts": 1,
        "model": MODEL,
        "progress": {"step": 1.0, "db": 34.0},
    }
    return json.dumps({**body, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        good()[:-5],
        good(version=1),
        good(model="zz"),
        good(model="00"),
        good(number=-1),
        good(number=3),
        good(number="1"),
        good(progress=None),
        good(progress={"step": "1"}),
        good(surprise=1),
        good(moments="00"),
        good(moments=7),
        good(moments=0),
        good(moments=None),
        good(pending=None),
        good(pending=[{}]),
        good(pending=[WAITING, WAITING]),
        good(pending=[{**WAITING, "number": 2}]),
        good(pending=[{**WAITING, "root": "00"}]),
        good(number=2, attempts=2, pending=[WAITING]),
        good(number=0, pending=[{**WAITING, "number": 0}]),
        good(number=2**52, attempts=2**52, pending=[WAITING]),
        good(number=3, attempts=3, pending=[WAITING, {**WAITING, "number": 5}, {**WAITING, "number": 3}]),
        good(number=1.0),
        good(number=True),
        good(federation=7),
        good(best="0.5"),
        good(best=float("inf")),
        good(progress={"step": float("nan")}),
        good(pending=[{**WAITING, "cid": 7}]),
        good()[:-1] + ',"best":' + "[" * 5000,
    ],
)
def test_damaged_state_is_refused_with_its_name(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json.*start in an empty one"):
        CheckpointFolder(tmp_path).load_state()


RECORD = {"round": 1, "model": MODEL, "cid": "cid", "root": "00" * 32}


def test_a_record_gives_what_its_anchor_takes(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save_record(1, json.dumps(RECORD))
    digest = hashlib.sha256(json.dumps(RECORD).encode()).hexdigest()
    assert folder.read_record(1) == (MODEL, "cid", "00" * 32, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 5000,
        json.dumps({**RECORD, "round": 2}),
        json.dumps({**RECORD, "model": "00"}),
        json.dumps({**RECORD, "root": None}),
        json.dumps({**RECORD, "cid": ["cid"]}),
    ],
)
def test_damaged_record_is_refused_with_its_name(tmp_path, text):
    folder = CheckpointFolder(tmp_path)
    folder.save_record(1, text)
    with pytest.raises(CheckpointError, match=r"000001\.json: damaged: "):
        folder.read_record(1)


def test_state_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "state.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError):
        CheckpointFolder(tmp_path).load_state()


def test_crash_while_writing_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"former")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"former"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    write_atomic(tmp_path / "file", b"x")
    assert order == ["fsync", "replace", "fsync"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        CheckpointFolder(tmp_path / "file").save_record(1, "{}")
