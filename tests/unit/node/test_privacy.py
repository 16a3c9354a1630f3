"""What a hospital does to its own update, and what it insists on."""

import hashlib

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from medprov_node.privacy import bounded, wanted
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.privacy import PRIVACY, Privacy
from medprov_watermark.training.tasks.base import TaskError

LOCAL = Privacy("local-dp", 0.5, 2.0)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def ask(order=None, **node):
    content = RecordDict({PRIVACY: ConfigRecord(dict(order.to_config()))} if order else {})
    message = Message(content, dst_node_id=5, message_type="train")
    return wanted(message, Context(run_id=1, node_id=5, node_config=node, state=RecordDict(), run_config={}))


def test_the_coordinator_decides_where_the_hospital_says_nothing():
    assert ask() is None
    assert ask(LOCAL) == LOCAL
    assert ask(LOCAL, privacy="local-dp", **{"min-noise-multiplier": 2.0}) == LOCAL


@pytest.mark.parametrize(
    ("privacy", "node", "words"),
    [
        (None, {"privacy": "local-dp"}, "privacy 'none', this hospital insists on 'local-dp'"),
        (Privacy("central-dp", 1.0, 1.0), {"privacy": "local-dp"}, "'central-dp', this hospital insists"),
        (LOCAL, {"min-noise-multiplier": 3.0}, "noise-multiplier 2, this hospital insists on 3"),
        (None, {"min-noise-multiplier": 1}, "noise-multiplier 0, this hospital insists on 1"),
        (LOCAL, {"privacy": "locl"}, "in this node's configuration: choose one of"),
        (LOCAL, {"min-noise-multiplier": "2"}, "a number is needed"),
        (LOCAL, {"min-noise-multiplier": True}, "a number is needed"),
    ],
)
def test_the_hospital_insists(privacy, node, words):
    with pytest.raises(TaskError, match=words):
        ask(privacy, **node)


def test_bound():
    deltas = {"a": np.full((3, 2), 4.0, np.float32), "b": np.full((), 4.0, np.float32)}
    out = bounded(deltas, Privacy("central-dp", 0.5, 1.0))
    assert ex.shapes_of(out) == ex.shapes_of(deltas)
    assert np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in out.values())) == pytest.approx(0.5, rel=1e-6)
    assert all(a.dtype == np.float32 for a in out.values())
    assert not bounded({"a": np.zeros(2, np.float32)}, LOCAL, lambda n: bytes(n))["a"].dtype.hasobject


def test_local_noise_has_the_promised_size_and_is_never_the_same():
    deltas = {"a": np.zeros(40_000, np.float32), "b": np.full((), 0.1, np.float32)}
    first, second = (bounded(deltas, LOCAL) for _ in range(2))
    assert np.std(first["a"]) == pytest.approx(1.0, rel=0.03)
    assert not (first["a"] == second["a"]).any()
    assert first["b"] != deltas["b"]


def test_noise_does_not_depend_on_seeds_that_others_know():
    deltas = {"a": np.ones(10, np.float32)}
    out = []
    for _ in range(2):
        np.random.seed(3)
        out.append(bounded(deltas, LOCAL)["a"])
    assert not (out[0] == out[1]).any()


def test_a_given_source_gives_the_same_noise():
    deltas = {"a": np.ones(10, np.float32)}
    one, two = (bounded(deltas, LOCAL, lambda n: hashlib.shake_256(b"x").digest(n))["a"] for _ in range(2))
    assert (one == two).all()
