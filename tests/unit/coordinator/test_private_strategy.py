"""Differential privacy: the noise is what is promised, epsilon is kept, and nothing passes by the noise."""

import hashlib
import json
import math
from functools import partial

import numpy as np
import pytest
from eth_account import Account
from flwr.app import Array, MetricRecord

from medprov_coordinator.accountant import epsilon_of
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.errors import CheckpointError, QuorumError, RoundRefusedError, SettingsError
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.private_strategy import FILE, PrivateStrategy, clipped, make_strategy
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.secure_strategy import SecureStrategy
from medprov_coordinator.strategy import GatedStrategy
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import begin, moved
from medprov_watermark.training.privacy import add_noise

CLIP, NOISE, DELTA = 0.02, 2.0, 1e-5


class Stream:
    """Random bytes that are the same each time."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(f"{self.seed}|{self.calls}".encode()).digest(count)


def config(mode="central-dp", max_epsilon=0.0, **changes):
    privacy = PrivacySettings(mode, CLIP, NOISE, DELTA, max_epsilon)
    values = {
        "rounds": 2,
        "local_steps": 3,
        "deadline": 60.0,
        "rule": "mean",
        "server_step": 1.0,
        "evaluate": False,
        "max_refused": 1,
    }
    return RunConfig(**{**values, "privacy": privacy, **changes})


def strategy(kit, mode="central-dp", folder=None, services=None, probe=None, entropy=None, **changes):
    where = CheckpointFolder(folder) if folder else None
    own = {"entropy": entropy} if entropy else {}
    return PrivateStrategy(config(mode, **changes), services, where, probe or kit.probe(), **own)


def test_central_is_the_clipped_mean_and_one_noise(kit):
    run = strategy(kit, rounds=1, entropy=Stream())
    kit.hospitals().run(run)
    updates = [clipped(kit.deltas(1000 + i), CLIP) for i in range(3)]
    mean = {name: sum(u[name] for u in updates) / 3 for name in kit.base}
    noised = add_noise(mean, NOISE * CLIP / 3, Stream())
    for name in kit.base:
        assert run.weights[name] == pytest.approx(np.float32(kit.base[name] + noised[name]), abs=1e-7)
    assert any(abs(noised[name] - mean[name]).max() > 1e-3 for name in kit.base)


def test_a_shared_optimiser_steps_with_the_noised_mean_and_nothing_else(kit):
    run = strategy(kit, rounds=2, entropy=Stream(), optimiser="shared")
    kit.hospitals().run(run)
    weights, moments, entropy = dict(kit.base), begin(kit.base), Stream()
    for number in (1, 2):
        updates = [clipped(kit.deltas(1000 * number + i), CLIP) for i in range(3)]
        mean = {name: sum(u[name] for u in updates) / 3 for name in kit.base}
        noised = add_noise(mean, NOISE * CLIP / 3, entropy)
        steps = [partial(run.task.adam, run.config.training, 3 * (number - 1) + i) for i in range(3)]
        deltas, moments = moved(weights, moments, noised, steps)
        weights = {name: np.float32(weights[name] + deltas[name]) for name in weights}
    for name in moments:
        assert run.moments[name] == pytest.approx(moments[name], rel=1e-5)
    for name in weights:
        assert run.weights[name] == pytest.approx(weights[name], abs=1e-7)


def test_noise_of_local_privacy_is_not_too_long_a_gradient(kit):
    run = strategy(kit, "local-dp", rounds=1, optimiser="shared")

    def noised(reply):
        if ex.ARRAYS not in reply.content:
            return reply
        node = reply.metadata.src_node_id
        deltas = {n: np.asarray(d + 50 + node, np.float32) for n, d in kit.deltas(node).items()}
        for name, delta in deltas.items():
            reply.content.array_records[ex.ARRAYS][name] = Array(delta)
        reply.content.config_records[ex.RECEIPT][ex.UPDATE] = ex.model_hash(deltas)
        return reply

    kit.hospitals().run(run, faults=dict.fromkeys(range(3), noised))
    assert run.state.number == 1 and not run.reports[0].rejected


def test_noise_is_never_the_same_by_default(kit):
    runs = [strategy(kit, rounds=1) for _ in range(2)]
    for run in runs:
        kit.hospitals().run(run)
    assert runs[0].state.model != runs[1].state.model


def test_with_a_given_source_runs_are_reproducible(kit):
    runs = [strategy(kit, entropy=Stream(7)) for _ in range(2)]
    for run in runs:
        kit.hospitals().run(run)
    assert runs[0].state.model == runs[1].state.model


def test_clipping():
    long = {"a": np.full((3, 3), 10, np.float32), "b": np.full((), 10, np.float32)}
    short = {"a": np.full((3, 3), 1e-3, np.float32), "b": np.zeros((), np.float32)}
    norm = math.sqrt(sum(float(np.square(a).sum()) for a in clipped(long, 0.5).values()))
    assert norm == pytest.approx(0.5) and norm <= 0.5 * (1 + 1e-12)
    assert (clipped(short, 0.5)["a"] == short["a"].astype(np.float64)).all()
    assert not clipped({"a": np.zeros(2, np.float32)}, 0.5)["a"].any()
    assert long["a"][0, 0] == 10


def test_epsilon_is_in_the_record_and_the_events(kit, tmp_path):
    events = []
    run = strategy(kit, folder=tmp_path, services=Services(on_event=events.append))
    kit.hospitals().run(run)
    expected = epsilon_of(math.sqrt(2) / NOISE, DELTA)
    record = json.loads((tmp_path / "rounds" / "000002.json").read_text())
    assert record["privacy"] == {
        "mode": "central-dp",
        "clip": CLIP,
        "noise-multiplier": NOISE,
        "delta": DELTA,
        "max_epsilon": 0.0,
        "epsilon": {f"node {n}": expected for n in (101, 102, 103)},
    }
    assert [e.figures["epsilon"]["node 101"] for e in events if e.kind == "privacy"][-1] == expected


def test_only_those_pay_whose_update_went_in(kit):
    run = strategy(kit, rounds=2)

    def once(reply):
        once.count += 1
        return None if once.count == 1 else reply

    once.count = 0
    kit.hospitals().run(run, faults={1: once})
    figures = run.accountant.figures()
    assert figures["node 102"] == epsilon_of(1 / NOISE, DELTA)
    assert figures["node 101"] == epsilon_of(math.sqrt(2) / NOISE, DELTA)


def test_locally_who_is_asked_pays(kit):
    run = strategy(kit, "local-dp", rounds=2)
    kit.hospitals().run(run, faults={1: lambda reply: None})
    assert run.accountant.figures()["node 102"] == epsilon_of(math.sqrt(2) / NOISE, DELTA)


def test_a_refused_round_is_paid_for(kit):
    run = strategy(kit, rounds=1, probe=kit.probe({1: 0.1, 2: 0.1, 3: 0.1}), max_refused=2)
    kit.hospitals().run(run)
    assert run.state.attempts == 2
    assert run.accountant.figures()["node 101"] == epsilon_of(math.sqrt(2) / NOISE, DELTA)


@pytest.mark.parametrize("mode", ["central-dp", "local-dp"])
def test_budget_ends_the_run(kit, mode):
    events = []
    limit = epsilon_of(math.sqrt(2) / NOISE, DELTA)
    run = strategy(kit, mode, rounds=5, max_epsilon=limit, services=Services(on_event=events.append))
    with pytest.raises(QuorumError, match="0 hospitals have privacy left to spend, the quorum is 2"):
        kit.hospitals().run(run)
    assert run.state.number == 2
    assert max(run.accountant.figures().values()) == limit
    assert [e.figures["nodes"] for e in events if e.kind == "budget"] == [[101, 102, 103]]


def test_who_has_nothing_left_is_left_out(kit, tmp_path):
    limit = epsilon_of(math.sqrt(2) / NOISE, DELTA)
    hospitals = kit.hospitals()
    hospitals.run(
        strategy(kit, folder=tmp_path, rounds=1), nodes=4, faults={0: lambda reply: None, 1: lambda reply: None}
    )
    again = strategy(kit, folder=tmp_path, rounds=3, max_epsilon=limit)
    hospitals.run(again, nodes=4)
    assert [r.nodes for r in again.reports] == [(101, 102, 103, 104), (101, 102)]
    assert [partition for number, _, partition in hospitals.trained if number == 3] == [0, 1]


def test_spent_survives_a_resume_and_follows_the_signer(kit, tmp_path):
    keys = {i: bytes([i + 1]) * 32 for i in range(3)}
    owners = [Account.from_key(key).address for key in keys.values()]
    services = Services(federation=kit.federation, members=lambda: frozenset(owners))
    for rounds in (1, 3):
        hospitals = kit.hospitals()
        hospitals.keys = keys
        run = strategy(kit, folder=tmp_path, services=services, rounds=rounds)
        hospitals.run(run)
    assert run.accountant.figures() == {o.lower(): epsilon_of(math.sqrt(3) / NOISE, DELTA) for o in sorted(owners)}


def test_rounds_without_the_file_are_not_taken_for_free(kit, tmp_path):
    kit.hospitals().run(strategy(kit, folder=tmp_path, rounds=1))
    (tmp_path / FILE).unlink()
    with pytest.raises(CheckpointError, match="nothing is known of what it cost"):
        kit.hospitals().run(strategy(kit, folder=tmp_path, rounds=2))


def test_figures_of_pictures_do_not_pass_by_the_noise(kit, tmp_path):
    run = strategy(kit, folder=tmp_path, rounds=1)
    result = kit.hospitals().run(run)
    text = (tmp_path / "rounds" / "000001.json").read_text() + (tmp_path / "state.json").read_text()
    assert "35.0" not in text and "0.8" not in text.replace(f"{run.reports[0].probe}", "")
    assert run.reports[0].train == {} and result.train_metrics_clientapp[1] == MetricRecord()
    assert run.state.progress == {**run.task.begin(run.config.training), "step": 3.0}


def test_one_member_does_not_decide_about_another(kit):
    def long(reply):
        if ex.ARRAYS not in reply.content.array_records:
            return reply
        deltas = {name: array * np.float32(50) for name, array in kit.deltas(1).items()}
        return kit.reply(101, deltas, base=ex.model_hash(kit.base))

    run = strategy(kit, rounds=1)
    kit.hospitals().run(run, faults={0: long})
    assert run.reports[0].nodes == (101, 102, 103) and not run.reports[0].rejected


def test_not_finite_is_still_rejected(kit):
    def nan(reply):
        deltas = {name: np.full_like(array, np.nan) for name, array in kit.base.items()}
        return kit.reply(101, deltas, base=ex.model_hash(kit.base))

    run = strategy(kit, rounds=1)
    kit.hospitals().run(run, faults={0: nan})
    assert [(r.node, r.code) for r in run.reports[0].rejected] == [(101, "not_finite")]


def test_too_few_updates_cost_nothing(kit):
    run = strategy(kit, rounds=1, quorum=3)
    with pytest.raises(RoundRefusedError):
        kit.hospitals().run(run, faults={0: lambda reply: None})
    assert run.accountant.figures() == {}


def test_the_mode_makes_the_strategy(kit, tmp_path):
    folder = CheckpointFolder(tmp_path)
    plain = RunConfig(rule="mean", quorum=3)
    secure = RunConfig(rule="mean", server_step=1.0, quorum=3, privacy=PrivacySettings("secagg", clip=1.0))
    assert type(make_strategy(config(), None, folder)) is PrivateStrategy
    assert type(make_strategy(plain, None, folder)) is GatedStrategy
    assert type(make_strategy(secure, None, folder)) is SecureStrategy
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(SettingsError, match="made with differential privacy and privacy is 'none'"):
        make_strategy(plain, None, folder)
