"""Three hospitals, the real ServerApp and ClientApp, real (small) networks; attackers, crashes, a chain."""

import contextlib

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from PIL import Image

from medprov_coordinator.connect import connect
from medprov_coordinator.errors import RoundRefusedError
from medprov_coordinator.run import run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_ledger import development
from medprov_ledger.federation import Federation
from medprov_ledger.merkle import root
from medprov_node.client_app import app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Settings
from medprov_watermark.training.phantoms import phantom, vessels

CONFIG = RunConfig(
    rounds=2,
    local_steps=1,
    settings=Settings(steps=0, batch=2, channels=8, blocks=1, extractor_blocks=1, seed=11),
    probe_pictures=1,
    max_refused=1,
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    out = []
    for h in range(3):
        folder = tmp_path_factory.mktemp(f"hospital-{h}")
        for i in range(2):
            Image.fromarray(phantom(700 + 10 * h + i)).save(folder / f"p{h}_{i}.png")
        out.append({"images": str(folder)})
    return out


@pytest.fixture(scope="module")
def undisturbed(nodes):
    return run_federation(app, nodes, CONFIG)


def on_training(change):
    """Fault that changes training replies and leaves evaluations alone."""

    def fault(reply):
        return change(reply) if ex.ARRAYS in reply.content else reply

    return fault


def arrays(reply):
    return reply.content.array_records[ex.ARRAYS]


def nan(reply):
    arrays(reply)["log_scale"] = Array(np.asarray(np.nan, np.float32))
    return reply


def wrong_shape(reply):
    arrays(reply)["log_scale"] = Array(np.zeros((2, 2), np.float32))
    return reply


def missing_key(reply):
    del arrays(reply)["log_scale"]
    return reply


def huge_norm(reply):
    deltas = {n: np.asarray(arrays(reply)[n].numpy() * np.float32(1000)) for n in arrays(reply)}
    reply.content[ex.ARRAYS] = ArrayRecord({n: Array(d) for n, d in deltas.items()})
    reply.content.config_records[ex.RECEIPT][ex.UPDATE] = ex.model_hash(deltas)
    return reply


def raises(reply):
    raise RuntimeError("hospital down")


def test_two_rounds(undisturbed):
    assert undisturbed.number == 2 and len(undisturbed.rounds) == 2
    assert ex.model_hash(undisturbed.weights) == undisturbed.model_hash
    for report in undisturbed.rounds:
        assert sorted(u.node for u in report.updates) == [101, 102, 103] and report.rejected == ()
        assert 0.5 < report.probe["accuracy"] <= 1
        assert report.evaluate["hospitals"] == 3
    assert undisturbed.rounds[0].model == undisturbed.rounds[1].base != undisturbed.rounds[0].base


def test_same_seed_same_model(nodes, undisturbed):
    assert run_federation(app, nodes, CONFIG).model_hash == undisturbed.model_hash


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (nan, "not_finite"),
        (wrong_shape, "malformed"),
        (missing_key, "malformed"),
        (huge_norm, "norm"),
        (raises, "error"),
        (lambda reply: None, "silent"),
    ],
    ids=["nan", "wrong-shape", "missing-key", "huge-norm", "exception", "drop-out"],
)
def test_attacker_is_rejected_and_leaves_no_trace(nodes, fault, code, honest_pair):
    config = RunConfig(**{**vars(CONFIG), "rounds": 1})
    result = run_federation(app, nodes, config, faults={2: on_training(fault)})
    (report,) = result.rounds
    assert [(r.node, r.code) for r in report.rejected] == [(103, code)]
    assert sorted(u.node for u in report.updates) == [101, 102]
    assert result.model_hash == honest_pair


@pytest.fixture(scope="module")
def honest_pair(nodes):
    """Model of one round of the first two hospitals alone."""
    config = RunConfig(**{**vars(CONFIG), "rounds": 1, "settings": Settings(**{**vars(CONFIG.settings), "steps": 1})})
    return run_federation(app, nodes[:2], config).model_hash


def test_majority_of_attackers_ends_the_run_with_the_old_model(nodes, tmp_path):
    start = RunConfig(**{**vars(CONFIG), "rounds": 1})
    with pytest.raises(RoundRefusedError, match="quorum"):
        run_federation(app, nodes, start, folder=tmp_path, faults={0: on_training(nan), 1: on_training(raises)})
    assert len(list((tmp_path / "models").iterdir())) == 1


@pytest.mark.parametrize("kind", ["aggregated", "saved"])
def test_crash_and_resume_give_the_same_model(nodes, undisturbed, tmp_path, kind):
    def crash(event):
        if event.kind == kind and event.attempt == 2:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_federation(app, nodes, CONFIG, folder=tmp_path, on_event=crash)
    resumed = run_federation(app, nodes, CONFIG, folder=tmp_path)
    assert resumed.resumed_from == (1 if kind == "aggregated" else 2)
    assert resumed.model_hash == undisturbed.model_hash
    assert ex.model_hash(ex.from_safetensors(resumed.checkpoint.read_bytes())) == undisturbed.model_hash


def test_signed_rounds_on_a_chain(nodes, tmp_path):
    up = development.up(tmp_path / "chain")
    try:
        path = str(up.config.path)
        hospitals = sorted(up.config.hospitals)
        named = [{**n, "hospital": h, "medprov-config": path} for n, h in zip(nodes, hospitals, strict=True)]
        services = connect(path, hospitals[1])
        # The third hospital's node holds no key: what it sends is not signed.
        result = run_federation(app, [*named[:2], nodes[2]], CONFIG, folder=tmp_path / "run", services=services)
        federation: Federation = services.anchor.federation
        anchored = federation.rounds()
        assert [r.number for r in anchored] == [1, 2]
        for report, entry in zip(result.rounds, anchored, strict=True):
            assert entry.model_hash.hex() == report.model and entry.cid == report.cid
            assert entry.metrics_hash == report.metrics_hash()
            assert entry.updates_root == root([bytes.fromhex(u.leaf) for u in report.updates])
            assert entry.by == up.config.hospitals[hospitals[1]].address
            assert [u.signer for u in report.updates] == sorted(up.config.hospitals[h].address for h in hospitals[:2])
            assert [(r.node, r.code) for r in report.rejected] == [(103, "unsigned")]
            assert report.transaction.startswith("0x")
        # Another coordinator with an empty folder goes on from the chain and the store.
        config = RunConfig(**{**vars(CONFIG), "rounds": 3})
        third = run_federation(app, named, config, folder=tmp_path / "other", services=connect(path))
        assert third.resumed_from == 2 and third.rounds[0].base == result.model_hash.hex()
        assert len(third.rounds[0].updates) == 3
        assert federation.last_round().number == 3
    finally:
        development.down(tmp_path / "chain")


def test_the_region_network_is_trained_in_the_same_way(tmp_path):
    nodes = []
    for h in range(3):
        for i in range(3):
            grey, mask = vessels(10 * h + i)
            for name, picture in (("vessels", grey), ("vessels_masks", np.asarray(mask * np.uint8(255)))):
                (tmp_path / str(h) / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(tmp_path / str(h) / name / f"p{i}.png")
        nodes.append({"images": str(tmp_path / str(h))})
    flat = {"task": "region", "region-widths": "8,8", "region-crop": 64, "batch": 2, "rounds": 2, "local-steps": 1}
    config = RunConfig.from_flat({**flat, "probe-pictures": 1, "encoding": "int8"})
    result = run_federation(app, nodes, config)
    assert result.number == 2 and all(len(r.updates) == 3 for r in result.rounds)
    first = result.rounds[0]
    assert first.task == "region" and set(first.probe) == {"score", "loss", "dice"}
    assert set(first.sites) == {101, 102, 103} and all("dice" in found for found in first.sites.values())


def test_encodings_save_bytes_and_train_on(nodes, undisturbed):
    whole = undisturbed.rounds[0]
    for encoding, part in (("float16", 0.55), ("int8", 0.3)):
        result = run_federation(app, nodes, RunConfig(**{**vars(CONFIG), "encoding": encoding}))
        small = result.rounds[0]
        assert small.bytes_up < part * whole.bytes_up and small.bytes_down == whole.bytes_down
        assert result.model_hash != undisturbed.model_hash
        gap = max(np.abs(result.weights[n] - undisturbed.weights[n]).max() for n in result.weights)
        assert gap < 5e-3
