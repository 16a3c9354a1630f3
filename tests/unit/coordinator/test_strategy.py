"""The strategy over hospitals whose updates are given: rounds, refusals, resume after every kind of crash, anchors."""

import hashlib
import json
import math
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, Message, RecordDict

from medprov_coordinator.audit_log import FILE, read
from medprov_coordinator.checkpoint import KEPT, CheckpointFolder
from medprov_coordinator.errors import CheckpointError, PendingError, QuorumError, RoundRefusedError, SettingsError
from medprov_coordinator.grid import InProcessGrid, task_identity
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Update
from medprov_coordinator.strategy import GatedStrategy, to_record
from medprov_ledger.errors import ChainAwayError, FeeLimitError, RevertedError, SignerAwayError, UnreachableError
from medprov_ledger.merkle import root, tree, verify
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import Adam, begin, moved

LONG = replace(RunConfig().settings, steps=20)


def config(**changes):
    return RunConfig(**{"rounds": 2, "local_steps": 3, "deadline": 60.0, **changes})


def strategy(kit, folder=None, probe=None, services=None, **changes):
    where = CheckpointFolder(folder) if folder else None
    return GatedStrategy(config(**changes), services, where, probe or kit.probe())


def nan_fault(reply: Message) -> Message:
    record = reply.content.array_records.get(ex.ARRAYS)
    if record is not None:
        record["b.bias"] = Array(np.full(4, np.nan, np.float32))
    return reply


def test_rounds_are_sums_of_the_honest_updates(kit):
    run, hospitals = strategy(kit), kit.hospitals()
    result = hospitals.run(run)
    expected = dict(kit.base)
    for attempt in (1, 2):
        deltas = [kit.deltas(1000 * attempt + i) for i in range(3)]
        for name in expected:
            mean = sum(d[name].astype(np.float64) for d in deltas) / 3
            expected[name] = np.asarray(expected[name].astype(np.float64) + mean, np.float32)
    for name in expected:
        assert run.weights[name] == pytest.approx(expected[name], abs=1e-7)
    assert run.state.number == 2 and run.state.model == ex.model_hash(run.weights).hex()
    assert {n: result.arrays[n].numpy().tobytes() for n in result.arrays} == {
        n: a.tobytes() for n, a in run.weights.items()
    }
    assert result.evaluate_metrics_clientapp[2]["bit-accuracy"] == pytest.approx(0.75)
    assert set(result.train_metrics_clientapp) == {1, 2}


def test_curriculum_and_steps_travel(kit):
    run = strategy(kit)
    kit.hospitals().run(run)
    assert run.state.progress == {"step": 6, "probability": 0.1, "db": 35.0, "accuracy": 0.8}


def test_one_liar_cannot_set_the_curriculum(kit):
    def liar(reply):
        if ex.ARRAYS in reply.content:
            reply.content.metric_records[ex.METRICS]["target-db"] = 79.0
        return reply

    run = strategy(kit, rounds=1)
    kit.hospitals().run(run, faults={0: liar})
    assert run.state.progress["db"] == 34.5


def test_reports_hold_what_the_root_is_made_of(kit, tmp_path):
    run = strategy(kit, tmp_path)
    kit.hospitals().run(run, faults={1: nan_fault})
    for report in run.reports:
        assert sorted(u.node for u in report.updates) == [101, 103]
        assert [(r.node, r.code) for r in report.rejected] == [(102, "not_finite")]
        leaves = [bytes.fromhex(u.leaf) for u in report.updates]
        assert root(leaves).hex() == report.root
        assert verify(bytes.fromhex(report.root), leaves[0], tree(leaves).proofs[0])
        text = (tmp_path / "rounds" / f"{report.number:06d}.json").read_text()
        assert text == report.record()
        assert json.loads(text)["updates"][0]["update"] == report.updates[0].update
        for entry in report.updates:
            digest = ex.update_digest(
                ex.NO_FEDERATION,
                report.number,
                bytes.fromhex(report.base),
                bytes.fromhex(entry.update),
                entry.examples,
            )
            assert entry.digest == digest.hex()
    assert run.reports[1].base == run.reports[0].model


def test_missed_quorum_refuses_and_leaves_the_model(kit):
    run = strategy(kit, quorum=3, max_refused=2)
    with pytest.raises(RoundRefusedError, match="2 updates accepted, the quorum is 3"):
        kit.hospitals().run(run, faults={1: nan_fault})
    assert run.state.number == 0 and run.state.attempts == 2
    assert ex.model_hash(run.weights) == ex.model_hash(kit.base)


def test_too_few_nodes_end_the_wait(kit):
    run = strategy(kit, quorum=4, deadline=0.05)
    with pytest.raises(QuorumError, match="3 hospitals are connected, the quorum is 4"):
        kit.hospitals().run(run)


def test_round_that_makes_the_probe_worse_is_tried_again_with_other_seeds(kit):
    # Evaluation 0 is the start, 1 to 3 the first candidate and parts of its step, 4 the second try.
    run, hospitals = strategy(kit, probe=kit.probe({1: 0.8, 2: 0.8, 3: 0.8}), rounds=1), kit.hospitals()
    events = []
    run.services = Services(on_event=events.append)
    hospitals.run(run)
    assert [(number, attempt) for number, attempt, partition in hospitals.trained if partition == 0] == [(1, 1), (1, 2)]
    assert run.reports[0].attempt == 2
    assert [e.kind for e in events].count("refused") == 1
    wanted = kit.base["scale"] + np.mean([kit.deltas(2000 + i)["scale"] for i in range(3)])
    assert run.weights["scale"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("scores", "length"), [({1: 0.8}, 0.5), ({1: 0.8, 2: 0.87}, 0.25)])
def test_shorter_step_that_the_probe_allows_is_made(kit, scores, length):
    run, hospitals = strategy(kit, probe=kit.probe(scores), rounds=1, evaluate=True), kit.hospitals()
    hospitals.run(run)
    (report,) = run.reports
    # what the hospitals measured is the model that was made, under its own hash
    assert len(report.sites) == 3 and report.evaluate
    assert report.attempt == 1
    wanted = kit.base["scale"] + length * np.mean([kit.deltas(1000 + i)["scale"] for i in range(3)])
    assert run.weights["scale"] == pytest.approx(wanted, abs=1e-6)
    assert f"only {length:g} of the step was made: worse" in report.note
    assert report.probe["accuracy"] == 0.9 == run.state.best


def test_slow_decline_is_measured_against_the_best_round(kit):
    run = strategy(kit, probe=kit.probe({1: 0.885, 2: 0.87, 3: 0.87, 4: 0.87}), max_refused=1)
    with pytest.raises(RoundRefusedError, match="worse"):
        kit.hospitals().run(run)
    assert run.state.number == 1 and run.state.best == 0.9


def test_sum_that_overflows_is_refused(kit):
    run, hospitals = strategy(kit, rounds=1, max_refused=1, rule="mean"), kit.hospitals()
    run.config = config(rounds=1, max_refused=1, limits=type(run.config.limits)(norm_factor=1e40, relative_norm=1e40))
    start = {name: np.full_like(array, 3.4e38) for name, array in kit.base.items()}
    original = kit.base.copy()
    kit.base.update(start)
    try:

        def big(reply):
            if ex.ARRAYS not in reply.content:
                return reply
            node = reply.metadata.src_node_id
            deltas = {n: np.asarray(1e38 + node * 1e33, np.float32) * np.ones_like(a) for n, a in start.items()}
            record = reply.content.array_records[ex.ARRAYS]
            for name, delta in deltas.items():
                record[name] = Array(np.asarray(delta))
            update = ex.model_hash({n: np.asarray(d) for n, d in deltas.items()})
            reply.content.config_records[ex.RECEIPT][ex.UPDATE] = update
            return reply

        with pytest.raises(RoundRefusedError, match="not finite"):
            hospitals.run(run, faults={0: big, 1: big, 2: big})
    finally:
        kit.base.update(original)
    assert math.isfinite(float(run.weights["scale"]))


def final(kit, folder, **more):
    run = strategy(kit, folder, **more)
    kit.hospitals().run(run)
    return run.state.model


@pytest.mark.parametrize("optimiser", ["own", "shared"])
@pytest.mark.parametrize("kind", ["asked", "screened", "aggregated", "saved", "round"])
def test_crash_at_any_event_and_resume_give_the_same_model(kit, tmp_path, kind, optimiser):
    undisturbed = final(kit, tmp_path / "whole", rounds=3, optimiser=optimiser)

    def crash(event):
        if event.kind == kind and event.number >= 1:
            raise KeyboardInterrupt

    broken = strategy(kit, tmp_path / "broken", services=Services(on_event=crash), rounds=3, optimiser=optimiser)
    with pytest.raises(KeyboardInterrupt):
        kit.hospitals().run(broken)
    resumed = strategy(kit, tmp_path / "broken", rounds=3, optimiser=optimiser)
    kit.hospitals().run(resumed)
    assert resumed.resumed_from >= 1
    assert resumed.state.model == undisturbed
    assert len(resumed.reports) == 3 - resumed.resumed_from


def test_refused_attempts_survive_a_crash(kit, tmp_path):
    undisturbed = final(kit, tmp_path / "whole", probe=kit.probe({1: 0.5, 2: 0.5, 3: 0.5}))
    broken = strategy(kit, tmp_path / "broken", probe=kit.probe({1: 0.5, 2: 0.5, 3: 0.5}), max_refused=1)
    with pytest.raises(RoundRefusedError):
        kit.hospitals().run(broken)
    assert final(kit, tmp_path / "broken") == undisturbed


def test_finished_run_does_nothing_more(kit, tmp_path):
    first = final(kit, tmp_path)
    hospitals = kit.hospitals()
    again = strategy(kit, tmp_path)
    hospitals.run(again)
    assert hospitals.trained == [] and again.state.model == first and again.resumed_from == 2
    assert final(kit, tmp_path, rounds=3) != first


def mean_of(kit, attempt):
    found = [kit.deltas(1000 * attempt + i) for i in range(3)]
    return {name: sum(d[name].astype(np.float64) for d in found) / 3 for name in kit.base}


def test_a_shared_optimiser_makes_the_steps_of_all(kit, tmp_path):
    run = strategy(kit, tmp_path, optimiser="shared")
    kit.hospitals().run(run)
    weights, moments = dict(kit.base), begin(kit.base)
    for attempt in (1, 2):
        # three steps a round, each with its own rate
        steps = [partial(run.task.adam, run.config.training, 3 * (attempt - 1) + i) for i in range(3)]
        deltas, moments = moved(weights, moments, mean_of(kit, attempt), steps)
        weights = {name: np.asarray(weights[name] + deltas[name], np.float32) for name in weights}
    for name in weights:
        assert run.weights[name] == pytest.approx(weights[name], abs=1e-7)
    for name in moments:
        assert run.moments[name] == pytest.approx(moments[name], rel=1e-6)
    last = ex.model_hash(run.moments).hex()
    assert run.reports[-1].moments == last == run.state.moments
    assert json.loads((tmp_path / "rounds" / "000002.json").read_text())["moments"] == last
    assert [path.stem for path in (tmp_path / "moments").iterdir()] == [last]
    assert run.reports[-1].bytes_down > 3 * run.reports[-1].bytes_up


def test_moments_go_down_to_those_who_train(kit):
    run, seen = strategy(kit, optimiser="shared"), []

    class Watching(InProcessGrid):
        def push_messages(self, messages):
            messages = list(messages)
            seen.extend((m.metadata.message_type, set(m.content)) for m in messages)
            return super().push_messages(messages)

    with task_identity():
        run.start(Watching(kit.hospitals().app, [{}] * 3), to_record(kit.base))
    assert {kind: names for kind, names in seen} == {
        "train": {ex.ARRAYS, ex.MOMENTS, ex.ASSIGNMENT},
        "evaluate": {ex.ARRAYS, ex.ASSIGNMENT},
    }


def test_a_refused_round_leaves_the_moments(kit):
    probe = kit.probe({1: 0.5, 2: 0.5, 3: 0.5})
    run = strategy(kit, probe=probe, rounds=1, optimiser="shared")
    kit.hospitals().run(run)
    steps = [partial(run.task.adam, run.config.training, i) for i in range(3)]
    _, once = moved(kit.base, begin(kit.base), mean_of(kit, 2), steps)
    for name in once:
        assert run.moments[name] == pytest.approx(once[name], rel=1e-6)


def test_a_robust_rule_compares_gradients_in_units_of_what_is_usual(kit):
    weights = {"a": np.ones(3, np.float32), "b": np.ones(1, np.float32)}
    run = strategy(kit, rule="mixed", optimiser="shared")
    run.weights = weights
    usual = {"a": np.full(3, 100.0), "b": np.full(1, 0.01)}
    _, run.moments = moved(weights, begin(weights), usual, [lambda name: Adam(0.1)])
    run.state = replace(run.state, progress={"step": 1.0})

    def update(node, a, b):
        deltas = {"a": np.full(3, a, np.float32), "b": np.full(1, b, np.float32)}
        norm = float(np.sqrt(3 * a * a + b * b))
        return Update(node, deltas, 1.0, {}, norm, bytes([node]) * 32, bytes(32), "", b"")

    # the small tensor tells liars from the others, which are alike in the large one
    honest = [update(i, 100.0 + i, 0.01) for i in range(4)]
    liar = update(9, 101.0, -0.04)
    merged = run._merge((*honest, liar))
    assert merged.rule == "mixed"
    assert merged.deltas["b"] == pytest.approx([0.01], rel=0.01)
    assert (merged.deltas["a"] >= 100).all() and (merged.deltas["a"] <= 103).all()


def test_damaged_moments_are_refused_and_lost_ones_said(kit, tmp_path):
    anchor, _, services = chain(kit)
    final(kit, tmp_path / "a", services=services, optimiser="shared")
    events = []
    elsewhere = replace(services, on_event=events.append)
    kit.hospitals().run(strategy(kit, tmp_path / "b", services=elsewhere, rounds=3, optimiser="shared"))
    assert [r.number for r in anchor.rounds] == [1, 2, 3]
    assert [e.text for e in events if e.kind == "moments"] == [
        "those of round 2 are not here: the optimiser begins anew"
    ]
    # a folder whose moments are those of a round before the chain's last one
    events.clear()
    kit.hospitals().run(strategy(kit, tmp_path / "a", services=elsewhere, rounds=4, optimiser="shared"))
    assert [e.text for e in events if e.kind == "moments"] == [
        "those of round 3 are not here: the optimiser begins anew"
    ]
    for file in (tmp_path / "a" / "moments").iterdir():
        file.unlink()
    events.clear()
    kit.hospitals().run(strategy(kit, tmp_path / "a", services=elsewhere, rounds=5, optimiser="shared"))
    assert "moments" in [e.kind for e in events]
    kit.hospitals().run(strategy(kit, tmp_path / "b", services=services, rounds=6, optimiser="shared"))
    (kept,) = (tmp_path / "b" / "moments").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="the moments are not those of hash"):
        final(kit, tmp_path / "b", services=services, rounds=7, optimiser="shared")


def test_a_start_without_sharing_by_mistake_loses_no_moments(kit, tmp_path):
    undisturbed = final(kit, tmp_path / "whole", rounds=3, optimiser="shared", settings=LONG)
    final(kit, tmp_path / "broken", optimiser="shared", settings=LONG)
    # nothing is left to train, so nothing may change
    final(kit, tmp_path / "broken", settings=LONG)
    assert final(kit, tmp_path / "broken", rounds=3, optimiser="shared", settings=LONG) == undisturbed


def sized(kit, size):
    """A reply with an update of this norm, in a direction of the node's own."""

    def change(reply):
        if ex.ARRAYS not in reply.content:
            return reply
        node = reply.metadata.src_node_id
        deltas = kit.deltas(node)
        norm = math.sqrt(sum(float(np.square(d).sum()) for d in deltas.values()))
        deltas = {n: np.asarray(size / norm * d, np.float32) for n, d in deltas.items()}
        for name, delta in deltas.items():
            reply.content.array_records[ex.ARRAYS][name] = Array(delta)
        reply.content.config_records[ex.RECEIPT][ex.UPDATE] = ex.model_hash(deltas)
        return reply

    return change


def test_who_has_much_to_learn_is_not_shut_out_by_those_who_have_learned(kit):
    faults = {0: sized(kit, 0.05), 1: sized(kit, 0.05), 2: sized(kit, 0.99)}
    run = strategy(kit, rounds=1, optimiser="shared")
    kit.hospitals().run(run, faults=faults)
    assert not run.reports[0].rejected
    # differences of weights have no such common size
    run = strategy(kit, rounds=1)
    kit.hospitals().run(run, faults=faults)
    assert [r.code for r in run.reports[0].rejected] == ["norm"]


@pytest.mark.parametrize("size", [2.1, 1e19])
def test_a_gradient_that_no_clipped_training_gives_is_rejected(kit, size):
    run = strategy(kit, rounds=1, max_refused=1, optimiser="shared")
    with pytest.raises(RoundRefusedError, match="1 updates accepted"):
        kit.hospitals().run(run, faults={0: sized(kit, size), 1: sized(kit, 1.01 * size)})


def test_the_server_step_changes_nothing_where_moments_are_shared(kit):
    runs = [strategy(kit, rule="mean", server_step=step, optimiser="shared") for step in (1.0, 5.0)]
    for run in runs:
        kit.hospitals().run(run)
    assert runs[0].state.model == runs[1].state.model


def test_a_run_that_shares_no_longer_forgets_the_moments(kit, tmp_path):
    final(kit, tmp_path, optimiser="shared")
    run = strategy(kit, tmp_path, rounds=3)
    kit.hospitals().run(run)
    assert run.state.moments == run.reports[-1].moments == "" and not list((tmp_path / "moments").iterdir())


def chain(kit):
    anchor, store = kit.anchor(), kit.store()
    return anchor, store, Services(federation=kit.federation, anchor=anchor, store=store)


def test_rounds_are_anchored_after_the_checkpoint(kit, tmp_path):
    anchor, store, services = chain(kit)
    kinds = []
    run = strategy(
        kit,
        tmp_path,
        services=Services(services.federation, anchor, store, None, lambda event: kinds.append(event.kind)),
    )
    kit.hospitals().run(run)
    assert kinds.index("saved") < kinds.index("anchored") < kinds.index("round")
    for report, (number, model, cid, updates_root, metrics) in zip(run.reports, anchor.arguments, strict=True):
        assert (number, model.hex(), cid, updates_root.hex()) == (report.number, report.model, report.cid, report.root)
        assert metrics == report.metrics_hash()
        assert ex.model_hash(ex.from_safetensors(store.get(cid))) == model
        assert report.transaction == f"0x{number:02x}"


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
def test_crash_while_anchoring(kit, tmp_path, when):
    undisturbed = final(kit, tmp_path / "whole", services=chain(kit)[2], rounds=3)
    anchor, _, services = chain(kit)
    setattr(anchor, when, 2)
    with pytest.raises(ConnectionError):
        kit.hospitals().run(strategy(kit, tmp_path / "broken", services=services, rounds=3))
    assert [entry.number for entry in CheckpointFolder(tmp_path / "broken").load_state().pending] == [2]
    setattr(anchor, when, None)
    assert final(kit, tmp_path / "broken", services=services, rounds=3) == undisturbed
    assert [r.number for r in anchor.rounds] == [1, 2, 3]


def test_empty_folder_goes_on_from_the_chain(kit, tmp_path):
    anchor, _, services = chain(kit)
    first = final(kit, tmp_path / "a", services=services)
    run = strategy(kit, tmp_path / "b", services=services, rounds=3)
    kit.hospitals().run(run)
    assert run.resumed_from == 2 and run.reports[0].base == first
    assert [r.number for r in anchor.rounds] == [1, 2, 3]


def test_store_that_gives_other_weights_is_refused(kit, tmp_path):
    _, store, services = chain(kit)
    final(kit, tmp_path / "a", services=services)
    for cid in store.blocks:
        store.blocks[cid] = ex.to_safetensors(kit.base)
    with pytest.raises(CheckpointError, match="not those of hash"):
        final(kit, tmp_path / "b", services=services, rounds=3)


def test_folder_and_chain_that_disagree_are_refused(kit, tmp_path):
    final(kit, tmp_path / "a", services=chain(kit)[2])
    _, _, other = chain(kit)
    kit.hospitals().run(strategy(kit, tmp_path / "c", services=other), faults={0: nan_fault})
    with pytest.raises(CheckpointError, match=r"another model.*start in an empty folder"):
        final(kit, tmp_path / "a", services=other, rounds=3)


def test_folder_of_another_federation_is_refused(kit, tmp_path):
    _, _, services = chain(kit)
    final(kit, tmp_path / "chained", services=services)
    final(kit, tmp_path / "local")
    with pytest.raises(CheckpointError, match=r"of federation .* this run is without a chain"):
        final(kit, tmp_path / "chained", rounds=3)
    with pytest.raises(CheckpointError, match="rounds without a chain, and this run is of federation"):
        final(kit, tmp_path / "local", services=services, rounds=3)
    with pytest.raises(CheckpointError, match="of federation"):
        final(kit, tmp_path / "chained", services=replace(services, federation=bytes(31) + b"x"), rounds=3)


def test_rounds_that_the_chain_has_lost_are_anchored_again(kit, tmp_path):
    anchor, _, services = chain(kit)
    final(kit, tmp_path / "a", services=services)
    before = list(anchor.arguments)
    # a reorganisation deeper than the confirmations
    anchor.rounds.clear()
    anchor.arguments.clear()
    final(kit, tmp_path / "a", services=services)
    assert anchor.arguments == before


def test_chain_that_loses_a_round_during_a_run_gets_it_again(kit, tmp_path):
    anchor, _, services = chain(kit)

    def lose(event):
        if event.kind == "asked" and event.number == 2:
            anchor.rounds.clear()

    final(kit, tmp_path / "a", services=replace(services, on_event=lose), rounds=3)
    assert [r.number for r in anchor.rounds] == [1, 2, 3]


def away(kit, thing, since, until):
    """Services whose chain or store is away between two events, and the events that came."""
    anchor, store, services = chain(kit)
    events = []
    faults = {
        "chain": (anchor, ChainAwayError("the chain does not answer")),
        "store": (store, UnreachableError("the store does not answer")),
        "fee": (anchor, FeeLimitError("the chain asks for more than the ceiling")),
        "paused": (anchor, RevertedError("Paused", "Paused")),
        "signer": (anchor, SignerAwayError("the signer does not answer")),
    }
    target, error = faults[thing]

    def on_event(event):
        events.append(event)
        if (event.kind, event.number) == since:
            target.away = error
        if (event.kind, event.number) == until:
            target.away = None

    return anchor, store, replace(services, on_event=on_event), events


@pytest.mark.parametrize("thing", ["chain", "store", "fee", "paused", "signer"])
def test_rounds_wait_while_chain_or_store_are_away_and_the_training_goes_on(kit, tmp_path, thing):
    undisturbed = final(kit, tmp_path / "whole", rounds=4)
    anchor, store, services, events = away(kit, thing, ("saved", 1), ("asked", 3))
    run = strategy(kit, tmp_path / "run", services=services, rounds=4)
    kit.hospitals().run(run)
    assert run.state.model == undisturbed and run.state.pending == ()
    assert [r.number for r in anchor.rounds] == [1, 2, 3, 4]
    waited = [e for e in events if e.kind == "pending"]
    assert [e.figures["rounds"] for e in waited if e.number == 1][-1] == [1, 2, 3]
    assert "waiting for the anchor" in waited[-1].text
    for number, model, name, updates_root, metrics in anchor.arguments:
        record = (tmp_path / "run" / "rounds" / f"{number:06d}.json").read_bytes()
        body = json.loads(record)
        assert (body["model"], body["cid"], body["root"]) == (model.hex(), name, updates_root.hex())
        assert hashlib.sha256(record).digest() == metrics
        assert ex.model_hash(ex.from_safetensors(store.get(name))) == model


def test_chain_that_stays_away_ends_in_a_clear_error_and_the_rounds_are_anchored_later(kit, tmp_path):
    anchor, _, services, _ = away(kit, "chain", ("saved", 2), None)
    run = strategy(kit, tmp_path, services=services, rounds=3, anchor_wait=0.0)
    with pytest.raises(PendingError, match=r"rounds 2, 3 not anchored yet \(the chain does not answer\): kept in .*"):
        kit.hospitals().run(run)
    state = CheckpointFolder(tmp_path).load_state()
    assert state.number == 3 and [entry.number for entry in state.pending] == [2, 3]
    anchor.away = None
    hospitals = kit.hospitals()
    hospitals.run(strategy(kit, tmp_path, services=replace(services, on_event=None), rounds=3))
    assert hospitals.trained == [] and [r.number for r in anchor.rounds] == [1, 2, 3]


def test_without_a_folder_waiting_rounds_are_kept_in_memory(kit):
    anchor, store, services, _ = away(kit, "store", ("asked", 0), ("asked", 1))
    kit.hospitals().run(strategy(kit, services=services))
    assert [r.number for r in anchor.rounds] == [1, 2] and len(store.blocks) == 2
    _, _, services, _ = away(kit, "store", ("asked", 0), None)
    with pytest.raises(PendingError, match="lost, for this run has no folder"):
        kit.hospitals().run(strategy(kit, services=services, anchor_wait=0.0))


def test_weights_can_be_fetched_before_the_anchor_names_them(kit, tmp_path):
    anchor, store, services = chain(kit)
    original = anchor.anchor

    def look(number, model_hash, name, *more):
        assert ex.model_hash(ex.from_safetensors(store.get(name))) == model_hash
        return original(number, model_hash, name, *more)

    anchor.anchor = look
    final(kit, tmp_path, services=services)
    assert len(anchor.rounds) == 2


def test_store_that_gives_other_bytes_back_holds_the_anchor_up(kit, tmp_path):
    anchor, store, services = chain(kit)
    store.get = lambda name: b"other"
    with pytest.raises(PendingError, match="does not give the weights of round 1 back"):
        final(kit, tmp_path, services=services, anchor_wait=0.0)
    assert anchor.rounds == []


def test_two_coordinators_on_one_chain_the_slower_one_stops(kit, tmp_path):
    anchor, _, services = chain(kit)

    def overtaken(event):
        if event.kind == "aggregated" and event.number == 1 and not anchor.rounds[1:]:
            # with one hospital less: another round 2
            kit.hospitals().run(strategy(kit, tmp_path / "fast", services=services), nodes=2)

    slow = strategy(kit, tmp_path / "slow", services=replace(services, on_event=overtaken), rounds=3)
    with pytest.raises(CheckpointError, match=r"round 2 on the chain is another one .* start in an empty folder"):
        kit.hospitals().run(slow)
    assert [r.number for r in anchor.rounds] == [1, 2]
    # and says the same when it is started again; an empty folder goes on from the chain
    with pytest.raises(CheckpointError, match="round 2 on the chain is another one"):
        final(kit, tmp_path / "slow", services=services, rounds=3)
    final(kit, tmp_path / "new", services=services, rounds=3)
    assert [r.number for r in anchor.rounds] == [1, 2, 3]


def test_members_of_the_last_known_list_while_the_chain_is_away(kit, tmp_path):
    from eth_account import Account

    hospitals = kit.hospitals()
    hospitals.keys = {0: b"\x01" * 32, 1: b"\x02" * 32}
    known = frozenset(Account.from_key(hospitals.keys[i]).address for i in (0, 1))
    answers = [known]

    def members():
        if not answers:
            raise ChainAwayError("the chain does not answer")
        return answers.pop()

    events = []
    run = strategy(kit, services=Services(kit.federation, members=members, on_event=events.append), rounds=1)
    hospitals.run(run)
    assert [(r.node, r.code) for r in run.reports[0].rejected] == [(103, "unsigned")]
    assert ["last known list of 2 members" in e.text for e in events if e.kind == "members"] == [True]
    with pytest.raises(ChainAwayError):
        hospitals.run(strategy(kit, services=Services(kit.federation, members=members), rounds=1))


def test_refused_attempts_are_recorded_with_their_updates(kit, tmp_path):
    run = strategy(kit, tmp_path, probe=kit.probe({1: 0.5, 2: 0.5, 3: 0.5}), rounds=1)
    kit.hospitals().run(run, faults={1: nan_fault})
    (path,) = (tmp_path / "refused").iterdir()
    body = json.loads(path.read_text())
    assert path.name == "000001-000001.json" and body["probe"]["accuracy"] == 0.5
    assert body["refused"] == "worse, and too bad at 0.5 and 0.25 of the step as well"
    assert [u["node"] for u in body["updates"]] == [101, 103] and body["rejected"][0]["code"] == "not_finite"
    (line,) = [e for e in read(tmp_path / FILE) if e.kind == "refused"]
    assert line.body["figures"]["updates"] == body["updates"] and "worse" in line.body["text"]
    # the record of the next round names a line after it
    heads = [e.hash.hex() for e in read(tmp_path / FILE) if e.seq >= line.seq]
    assert run.reports[0].audit in heads


def test_audit_log_holds_every_event_and_its_head_is_anchored(kit, tmp_path):
    anchor, _, services = chain(kit)
    events = []
    run = strategy(kit, tmp_path, services=replace(services, on_event=events.append))
    kit.hospitals().run(run)
    lines = list(read(tmp_path / FILE))
    assert [line.kind for line in lines] == [event.kind for event in events]
    for report, (_, _, _, _, metrics) in zip(run.reports, anchor.arguments, strict=True):
        assert any(line.hash.hex() == report.audit for line in lines)
        assert json.loads(report.record())["audit"] == report.audit and report.metrics_hash() == metrics
    assert run.reports[0].audit != run.reports[1].audit


def test_weights_of_old_rounds_are_left_to_the_store(kit, tmp_path):
    _, store, services = chain(kit)
    run = strategy(kit, tmp_path / "chained", services=services, rounds=KEPT + 3)
    kit.hospitals().run(run)
    kept = {path.stem for path in (tmp_path / "chained" / "models").iterdir()}
    models = [report.model for report in run.reports]
    assert kept == {ex.model_hash(kit.base).hex(), *models[-KEPT:]}
    assert all(ex.to_safetensors(run.weights) in store.blocks.values() for _ in [0]) and len(store.blocks) == KEPT + 3
    final(kit, tmp_path / "local", rounds=KEPT + 3)
    assert len(list((tmp_path / "local" / "models").iterdir())) == KEPT + 4


def test_absent_hospitals_are_said_while_waiting(kit):
    events = []
    run = strategy(kit, services=Services(on_event=events.append), quorum=4, deadline=0.05)
    with pytest.raises(QuorumError):
        kit.hospitals().run(run)
    assert ["3 hospitals are connected, the quorum is 4" in e.text for e in events if e.kind == "absent"] == [True]


def test_second_coordinator_on_one_folder_is_refused_with_its_process(kit, tmp_path):
    def second(event):
        if event.kind == "asked":
            with pytest.raises(CheckpointError, match=rf"{tmp_path}: another coordinator \(process {os.getpid()}\)"):
                final(kit, tmp_path)

    final(kit, tmp_path, services=Services(on_event=second))
    final(kit, tmp_path, rounds=3)


def test_anchor_without_store_is_refused(kit):
    with pytest.raises(SettingsError, match="store"):
        GatedStrategy(config(), Services(anchor=kit.anchor()), None, kit.probe())


def test_damaged_checkpoint_stops_the_run(kit, tmp_path):
    model = final(kit, tmp_path)
    (tmp_path / "models" / f"{model}.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        final(kit, tmp_path, rounds=3)


def test_signed_updates_are_asked_for_where_members_are_known(kit):
    from eth_account import Account

    hospitals = kit.hospitals()
    hospitals.keys = {0: b"\x01" * 32, 1: b"\x02" * 32}
    members = frozenset(Account.from_key(hospitals.keys[i]).address for i in (0, 1))
    run = strategy(kit, services=Services(kit.federation, members=lambda: members))
    hospitals.run(run)
    assert [u.signer for u in run.reports[0].updates] == [Account.from_key(hospitals.keys[i]).address for i in (0, 1)]
    assert [(r.node, r.code) for r in run.reports[0].rejected] == [(103, "unsigned")]


def test_hostile_evaluations_decide_nothing(kit):
    def hostile(reply):
        if ex.ARRAYS in reply.content:
            return reply
        reply.content = RecordDict()
        return reply

    run = strategy(kit)
    result = kit.hospitals().run(run, faults={0: hostile, 1: hostile, 2: hostile})
    assert run.state.number == 2 and result.evaluate_metrics_clientapp == {}


def test_flowers_configs_are_refused_and_the_summary_is_logged(kit, caplog):
    run = strategy(kit)
    with pytest.raises(SettingsError, match="RunConfig"):
        from flwr.app import ConfigRecord

        kit.hospitals().run(run, train_config=ConfigRecord({"lr": 1.0}))
    with caplog.at_level("INFO", logger="medprov.coordinator"):
        run.summary()
    assert "unsigned" in caplog.text


def test_small_federation_is_told_that_no_rule_protects_it(kit, caplog):
    with caplog.at_level("WARNING", logger="medprov.coordinator"):
        kit.hospitals().run(strategy(kit, rounds=1))
    assert "no rule tolerates an attacker" in caplog.text


def test_five_hospitals_with_two_attackers(kit):
    def flipped(reply):
        record = reply.content.array_records.get(ex.ARRAYS)
        if record is not None:
            deltas = {name: np.asarray(-3 * record[name].numpy(), np.float32) for name in record}
            for name, delta in deltas.items():
                record[name] = Array(delta)
            reply.content.config_records[ex.RECEIPT][ex.UPDATE] = ex.model_hash(deltas)
        return reply

    run = strategy(kit, rounds=1)
    kit.hospitals().run(run, nodes=5, faults={1: flipped, 3: flipped})
    assert run.reports[0].rule == "mixed" and len(run.reports[0].updates) == 5
    assert np.abs(run.weights["b.bias"] - 1.01).max() < 0.01


def test_training_is_not_aggregated_without_a_question(kit):
    with pytest.raises(SettingsError, match="configure_train"):
        strategy(kit).aggregate_train(1, [])


def test_to_record_keeps_shapes_and_order(kit):
    record = to_record(kit.base)
    assert list(record) == sorted(kit.shapes)
    assert {name: record[name].numpy().shape for name in record} == kit.shapes
