"""The hospital's ClientApp, called as a SuperNode calls it."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from medprov_node import client_app
from medprov_watermark.training import encoding
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Settings
from medprov_watermark.training.moments import begin
from medprov_watermark.training.tasks.base import TaskError
from medprov_watermark.training.tasks.watermark import TASK

SMALL = Settings(steps=10, batch=2, channels=8, blocks=1, extractor_blocks=1)
FEDERATION = b"\x07" * 32


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def weights():
    return TASK.initial(SMALL)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(50, 200, (64, 64), np.uint8)).save(tmp_path / f"p{i}_1.png")
    (tmp_path / "Jane_Doe.png").write_bytes(b"broken")
    return tmp_path


def message(weights, kind="train", **changes):
    order = ex.Assignment(3, 4, ex.model_hash(weights), FEDERATION, "watermark", 1, TASK.flat(SMALL), TASK.begin(SMALL))
    config = {**order.to_config(), **changes}
    content = RecordDict(
        {
            ex.ARRAYS: ArrayRecord({name: Array(array) for name, array in weights.items()}),
            ex.ASSIGNMENT: ConfigRecord(config),
        }
    )
    return Message(content, dst_node_id=5, message_type=kind)


def context(node=None, run=None):
    return Context(run_id=1, node_id=5, node_config=node or {}, state=RecordDict(), run_config=run or {})


def test_training_reply(weights, folder):
    reply = client_app.app(message(weights), context({"images": str(folder)}))
    content = reply.content
    assert set(content) == {ex.ARRAYS, ex.METRICS, ex.RECEIPT}
    metrics = content.metric_records[ex.METRICS]
    assert set(metrics) == {*TASK.metrics, ex.NUM_EXAMPLES, ex.SKIPPED}
    assert metrics[ex.SKIPPED] == 1 and isinstance(metrics[ex.NUM_EXAMPLES], int)
    record = content.array_records[ex.ARRAYS]
    deltas = {n: ex.decode_array(record[n].data, weights[n].shape) for n in record}
    assert set(deltas) == set(weights)
    receipt = content.config_records[ex.RECEIPT]
    assert set(receipt) == ex.RECEIPT_KEYS
    assert receipt[ex.UPDATE] == ex.model_hash(deltas)
    assert (receipt[ex.ROUND], receipt[ex.BASE]) == (3, ex.model_hash(weights))
    assert (receipt[ex.SIGNER], receipt[ex.SIGNATURE]) == ("", b"")


def test_evaluation_reply(weights, folder):
    reply = client_app.app(message(weights, "evaluate"), context({"images": str(folder)}))
    assert set(reply.content) == {ex.METRICS}
    metrics = reply.content.metric_records[ex.METRICS]
    assert set(metrics) == {*TASK.figures, ex.NUM_EXAMPLES} and 0 <= metrics[ex.BIT_ACCURACY] <= 1


def test_no_file_name_leaves_the_hospital(weights, folder):
    reply = client_app.app(message(weights), context({"images": str(folder)}))
    assert "Jane" not in str(reply) and str(folder) not in str(reply)
    with pytest.raises(client_app.RefusedError) as caught:
        client_app.app(message(weights), context({"images": str(folder / "Jane_Doe.png")}))
    assert "Jane" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"steps": 10**9},
        {"set.channels": 10**6},
        {"base": bytes(32)},
        {"protocol": 1},
        {"round": 0},
        {"task": "os"},
        {"encoding": "zip"},
        {"optimiser": "sgd"},
        {"set.more": 1},
        {"at.more": 1.0},
    ],
)
def test_assignments_that_no_honest_coordinator_sends(weights, folder, changes):
    with pytest.raises(client_app.RefusedError):
        client_app.app(message(weights, **changes), context({"images": str(folder)}))


def test_weights_that_lie_about_their_size(weights, folder):
    order = message(weights)
    record = order.content.array_records[ex.ARRAYS]
    record["log_scale"] = Array("float32", (10**6, 10**6), "numpy.ndarray", record["log_scale"].data)
    with pytest.raises(client_app.RefusedError):
        client_app.app(order, context({"images": str(folder)}))


def shared(weights, moments, kind="train"):
    order = message(weights, kind, optimiser="shared")
    order.content[ex.MOMENTS] = ArrayRecord({name: Array(np.asarray(array)) for name, array in moments.items()})
    return order


def test_with_shared_moments_the_answer_is_a_gradient(weights, folder):
    at = {"images": str(folder)}
    replies = [client_app.app(one, context(at)) for one in (message(weights), shared(weights, begin(weights)))]
    own, mean = (
        {n: r.content.array_records[ex.ARRAYS][n].numpy() for n in r.content.array_records[ex.ARRAYS]} for r in replies
    )
    assert set(own) == set(mean) == set(weights)
    # a first step of Adam goes by the sign of the gradient
    name = "extractor.frequency"
    sure = np.abs(mean[name]) > 1e-6
    assert sure.any() and (np.sign(own[name]) == np.sign(mean[name]))[sure].all()
    assert replies[1].content.config_records[ex.RECEIPT][ex.UPDATE] == ex.model_hash(mean)

    # all coordinates of a first step of Adam are about equally long, those of a gradient are not
    def spread(arrays):
        return float(np.std(np.abs(arrays[name][sure])) / np.mean(np.abs(arrays[name][sure])))

    assert spread(own) < 0.05 < spread(mean)


def test_weights_that_are_only_measured_come_without_moments(weights, folder):
    order = message(weights, "evaluate", optimiser="shared")
    assert set(client_app.app(order, context({"images": str(folder)})).content) == {ex.METRICS}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda moments: moments.pop("first.log_scale"),
        lambda moments: moments.update({"second.log_scale": np.asarray(-1, np.float32)}),
        lambda moments: moments.update({"first.log_scale": np.asarray(np.nan, np.float32)}),
        lambda moments: moments.update({"first.log_scale": np.zeros(3, np.float32)}),
        lambda moments: moments.update({"first.log_scale": np.zeros((), np.float64)}),
    ],
)
def test_moments_that_no_honest_coordinator_sends(weights, folder, spoil):
    moments = begin(weights)
    spoil(moments)
    with pytest.raises(client_app.RefusedError):
        client_app.app(shared(weights, moments), context({"images": str(folder)}))


def test_moments_that_are_announced_and_do_not_come(weights, folder):
    with pytest.raises(client_app.RefusedError):
        client_app.app(message(weights, optimiser="shared"), context({"images": str(folder)}))


def test_what_gradients_lost_is_not_added_to_differences(weights, folder):
    node = context({"images": str(folder)})
    order = shared(weights, begin(weights))
    order.content.config_records[ex.ASSIGNMENT]["encoding"] = "int8"
    client_app.app(order, node)
    sent = client_app.app(message(weights, encoding="int8"), node).content.array_records[ex.ARRAYS]
    alone = client_app.app(message(weights, encoding="int8"), context({"images": str(folder)}))
    assert all(sent[n].data == alone.content.array_records[ex.ARRAYS][n].data for n in sent)


@pytest.mark.parametrize("limit", [0, -1, "many", True])
def test_limit_must_be_a_number(weights, folder, limit):
    with pytest.raises(client_app.RefusedError):
        client_app.app(message(weights), context({"images": str(folder), "max-images": limit}))


def test_own_configuration_goes_before_the_runs():
    folders = os.pathsep.join(["/a", "/b", ""])
    assert client_app.images_folder(context({"images": "/own", "partition-id": 0}, {"images": folders})).name == "own"
    assert client_app.images_folder(context({"partition-id": 1}, {"images": folders})).name == "b"
    for node, run in (
        ({}, {"images": folders}),
        ({"partition-id": 2}, {"images": folders}),
        ({"partition-id": 9}, {"images": folders}),
        ({"partition-id": -1}, {"images": folders}),
        ({"partition-id": 0}, {}),
    ):
        with pytest.raises(TaskError, match="set 'images'"):
            client_app.images_folder(context(node, run))


@pytest.fixture
def hospital(monkeypatch):
    account = Account.from_key(b"\x09" * 32)
    config = SimpleNamespace(federation_id=FEDERATION, hospital=lambda name: name)
    monkeypatch.setattr(client_app.Config, "load", lambda path: config)
    monkeypatch.setattr(client_app, "load_account", lambda hospital: account)
    client_app._load_account.cache_clear()
    yield account
    client_app._load_account.cache_clear()


def test_signature_covers_round_base_update_and_examples(weights, folder, hospital):
    node = {"images": str(folder), "hospital": "a", "medprov-config": "medprov.toml"}
    reply = client_app.app(message(weights), context(node))
    receipt = reply.content.config_records[ex.RECEIPT]
    examples = reply.content.metric_records[ex.METRICS][ex.NUM_EXAMPLES]
    digest = ex.update_digest(FEDERATION, 3, ex.model_hash(weights), receipt[ex.UPDATE], examples)
    recovered = Account.recover_message(encode_defunct(primitive=digest), signature=receipt[ex.SIGNATURE])
    assert recovered == receipt[ex.SIGNER] == hospital.address


def test_nothing_is_signed_for_another_federation(weights, folder, hospital):
    node = {"images": str(folder), "hospital": "a", "medprov-config": "medprov.toml"}
    with pytest.raises(client_app.RefusedError):
        client_app.app(message(weights, federation=bytes(32)), context(node))


def test_flower_is_told_not_to_call_out():
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0" and os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_what_an_encoding_loses_is_remembered_and_sent_later(weights, folder, name):
    node = context({"images": str(folder)})
    plain = client_app.app(message(weights), context({"images": str(folder)})).content.array_records[ex.ARRAYS]
    meant = {key: plain[key].numpy() for key in plain}
    order = message(weights, encoding=name)
    content = client_app.app(order, node).content
    assert set(content.array_records) == ({ex.ARRAYS, ex.SCALES} if name == "int8" else {ex.ARRAYS})
    arrays = {key: array.numpy() for key, array in content.array_records[ex.ARRAYS].items()}
    scales = content.array_records[ex.SCALES][ex.SCALES].numpy() if name == "int8" else None
    sent = encoding.decode(arrays, scales)
    assert content.config_records[ex.RECEIPT][ex.UPDATE] == ex.model_hash(sent)
    memory = node.state.array_records[client_app.MEMORY + "own"]
    kept = {key: memory[key].numpy() for key in memory}
    assert any(np.abs(array).max() > 0 for array in kept.values())
    assert all(np.allclose(sent[key] + kept[key], meant[key], atol=1e-7) for key in meant)
    again = client_app.app(message(weights, encoding=name), node).content.config_records[ex.RECEIPT][ex.UPDATE]
    forgetful = client_app.app(message(weights, encoding=name, feedback=False), node)
    assert again != ex.model_hash(sent) == forgetful.content.config_records[ex.RECEIPT][ex.UPDATE]


def test_the_region_network_is_a_task_too(tmp_path):
    from medprov_watermark.training.phantoms import vessels
    from medprov_watermark.training.tasks.region import TASK as REGION
    from medprov_watermark.training.tasks.region import Settings as RegionSettings

    small = RegionSettings(steps=4, batch=2, widths=(8, 8), crop=64)
    for folder in ("vessels", "vessels_masks"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        grey, mask = vessels(i)
        Image.fromarray(grey).save(tmp_path / "vessels" / f"v{i}.png")
        Image.fromarray(np.asarray(mask * np.uint8(255))).save(tmp_path / "vessels_masks" / f"v{i}.png")
    start = REGION.initial(small)
    changes = {f"set.{key}": value for key, value in REGION.flat(small).items()}
    order = message(start, task="region", **changes)
    config = order.content.config_records[ex.ASSIGNMENT]
    for key in [*TASK.flat(SMALL), *TASK.begin(SMALL)]:
        for prefix in ("set.", "at."):
            if key not in REGION.flat(small) or prefix == "at.":
                config.pop(f"{prefix}{key}", None)
    config["at.step"] = 0.0
    reply = client_app.app(order, context({"images": str(tmp_path)}))
    metrics = reply.content.metric_records[ex.METRICS]
    assert set(metrics) == {*REGION.metrics, ex.NUM_EXAMPLES, ex.SKIPPED}
