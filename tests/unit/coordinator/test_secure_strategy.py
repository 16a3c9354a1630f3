"""Secure aggregation over a grid: the sum is exact, members drop out at every stage, hostile answers cost a round."""

import logging
from functools import partial

import numpy as np
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from medprov_coordinator.errors import RoundRefusedError
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.secure_strategy import SecureStrategy
from medprov_node import privacy as protection
from medprov_node import secure_aggregation as member
from medprov_node.client_app import receipt
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg
from medprov_watermark.training.moments import begin, moved

CLIP = 0.1
KEYS, SHARES, TRAIN, UNMASK = f"query.{secagg.KEYS}", f"query.{secagg.SHARES}", "train", f"query.{secagg.UNMASK}"


class Hospitals:
    """FakeHospitals that answer the questions of secure aggregation with the product's own code."""

    def __init__(self, kit):
        self.fake = kit.hospitals()
        self.kit = kit
        self.members = None
        self.long = frozenset()
        self.sent = {}
        app = self.fake.app = type(self.fake.app)()

        @app.query(secagg.KEYS)
        def make_keys(message: Message, context: Context) -> Message:
            return answer(member.make_keys(question(message), context, self.signer(context)), message)

        @app.query(secagg.SHARES)
        def make_shares(message: Message, context: Context) -> Message:
            return answer(member.make_shares(question(message), context, self.members), message)

        @app.query(secagg.UNMASK)
        def open_sum(message: Message, context: Context) -> Message:
            return answer(member.open_sum(question(message), context), message)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            privacy = protection.wanted(message, context)
            partition = int(context.node_config["partition-id"])
            task = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
            member.check_begun(context, task.number, task.attempt)
            deltas = kit.deltas(1000 * task.attempt + partition)
            if partition in self.long:
                deltas = {name: array + np.float32(5) for name, array in deltas.items()}
            deltas = protection.bounded(deltas, privacy)
            masked = member.make_masked(question(message), context, deltas, privacy.clip)
            self.sent[task.attempt, partition] = deltas
            key = self.fake.keys.get(partition)
            account = Account.from_key(key) if key else None
            figures = {"num-examples": 7, "skipped-images": 0, "loss": 0.5, "bit-accuracy": 0.8}
            figures |= {"attack-probability": 0.1, "target-db": 35.0}
            content = {
                ex.ARRAYS: ArrayRecord({secagg.MASKED: Array(masked)}),
                ex.METRICS: MetricRecord(figures),
                ex.RECEIPT: receipt(task, secagg.masked_hash(masked), 7, account),
            }
            return Message(RecordDict(content), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            figures = {ex.NUM_EXAMPLES: 3, ex.LOSS: 0.2, ex.BIT_ACCURACY: 0.75}
            return Message(RecordDict({ex.METRICS: MetricRecord(figures)}), reply_to=message)

    def signer(self, context):
        key = self.fake.keys.get(int(context.node_config["partition-id"]))
        if key is None:
            return lambda digest: ("", b"")
        account = Account.from_key(key)
        return lambda digest: (
            str(account.address),
            bytes(account.sign_message(encode_defunct(primitive=digest)).signature),
        )

    def run(self, strategy, nodes=5, faults=None):
        return self.fake.run(strategy, nodes, faults)


def question(message):
    return message.content.config_records[secagg.SECAGG]


def answer(record, message):
    return Message(RecordDict({secagg.SECAGG: record}), reply_to=message)


def strategy(kit, services=None, threshold=0, **changes):
    values = {
        "rounds": 1,
        "local_steps": 3,
        "deadline": 60.0,
        "quorum": 3,
        "rule": "mean",
        "server_step": 1.0,
        "max_refused": 1,
    }
    privacy = PrivacySettings("secagg", clip=CLIP, threshold=threshold)
    return SecureStrategy(RunConfig(**{**values, "privacy": privacy, **changes}), services, None, kit.probe())


def at(stage, change):
    """Change a node's reply of one stage."""
    return lambda reply: change(reply) if reply.metadata.message_type == stage else reply


def drop(stage):
    return at(stage, lambda reply: None)


def changed(stage, **values):
    def change(reply):
        reply.content.config_records[secagg.SECAGG].update(values)
        return reply

    return at(stage, change)


def expect_mean(kit, run, hospitals, partitions):
    for name in kit.base:
        mean = sum(hospitals.sent[1, i][name].astype(np.float64) for i in partitions) / len(partitions)
        assert run.weights[name] == pytest.approx(np.float32(kit.base[name] + mean), abs=2e-7)


def test_the_sum_is_that_of_the_updates(kit):
    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run)
    expect_mean(kit, run, hospitals, range(5))
    assert run.reports[0].privacy == {
        "mode": "secagg",
        "clip": CLIP,
        "noise-multiplier": 0.0,
        "members": 5,
        "threshold": 4,
    }
    assert run.reports[0].nodes == (101, 102, 103, 104, 105)


def test_a_shared_optimiser_steps_with_the_sum(kit):
    run, hospitals = strategy(kit, optimiser="shared"), Hospitals(kit)
    hospitals.run(run)
    mean = {name: sum(hospitals.sent[1, i][name].astype(np.float64) for i in range(5)) / 5 for name in kit.base}
    steps = [partial(run.task.adam, run.config.training, i) for i in range(3)]
    deltas, _ = moved(kit.base, begin(kit.base), mean, steps)
    for name in kit.base:
        assert run.weights[name] == pytest.approx(np.float32(kit.base[name] + deltas[name]), abs=2e-7)


def test_the_coordinator_sees_no_update(kit):
    seen = []

    def listen(reply):
        seen.append(reply.content.array_records[ex.ARRAYS][secagg.MASKED].numpy())
        return reply

    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={0: at(TRAIN, listen)})
    own = secagg.quantised(hospitals.sent[1, 0], CLIP, 5)
    assert len(seen[0]) == len(own) and not (seen[0] == own).any()


def test_several_rounds_with_fresh_masks(kit):
    seen = []
    run, hospitals = strategy(kit, rounds=3), Hospitals(kit)
    hospitals.run(run, faults={0: at(KEYS, lambda reply: seen.append(reply) or reply)})
    assert run.state.number == 3
    keys = [tuple(reply.content.config_records[secagg.SECAGG]["keys"]) for reply in seen]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("stage", "code", "left", "gone"),
    [
        (KEYS, "keys", (0, 1, 3, 4), 0),
        (SHARES, "shares", (0, 1, 3, 4), 0),
        (TRAIN, "silent", (0, 1, 3, 4), 1),
        (UNMASK, "", (0, 1, 2, 3, 4), 0),
    ],
)
def test_a_member_drops_out(kit, stage, code, left, gone):
    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={2: drop(stage)})
    expect_mean(kit, run, hospitals, left)
    assert [(r.node, r.code) for r in run.reports[0].rejected] == ([(103, code)] if code else [])
    assert f"{gone} gone" in run.reports[0].note


@pytest.mark.parametrize("stage", [KEYS, SHARES, TRAIN, UNMASK])
def test_too_many_drop_out(kit, stage):
    run, hospitals = strategy(kit), Hospitals(kit)
    left = 2 if stage == KEYS else 3
    with pytest.raises(RoundRefusedError):
        hospitals.run(run, faults={i: drop(stage) for i in range(left, 5)})
    assert all((run.weights[name] == kit.base[name]).all() for name in kit.base)


def test_a_refused_round_is_tried_again(kit):
    first = []

    def once(reply):
        first.append(reply)
        return None if len(first) <= 1 else reply

    run, hospitals = strategy(kit, max_refused=2, threshold=5, quorum=5), Hospitals(kit)
    hospitals.run(run, faults={1: at(TRAIN, once)})
    assert run.state.number == 1 and run.state.attempts == 2


@pytest.mark.parametrize(
    "fault",
    [
        changed(KEYS, keys=[b"no key", b"neither"]),
        changed(KEYS, keys=[b"x" * 100_000, b"y"]),
        changed(KEYS, keys="text"),
        at(KEYS, lambda reply: Message(RecordDict(), reply_to=reply)),
        changed(SHARES, sealed=[b""]),
        changed(SHARES, sealed=[b"z" * 100_000] * 5),
        changed(SHARES, commitment=b"short"),
    ],
)
def test_hostile_answers_leave_their_node_out(kit, fault):
    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={2: fault})
    expect_mean(kit, run, hospitals, (0, 1, 3, 4))
    assert [r.node for r in run.reports[0].rejected] == [103]


def test_keys_of_another_member_are_not_taken_twice(kit):
    seen = []

    def copy(reply):
        reply.content.config_records[secagg.SECAGG]["keys"] = seen[0]
        return reply

    def listen(reply):
        seen.append(list(reply.content.config_records[secagg.SECAGG]["keys"]))
        return reply

    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={0: at(KEYS, listen), 3: at(KEYS, copy)})
    assert [(r.node, r.detail) for r in run.reports[0].rejected] == [(104, "these keys came before")]


@pytest.mark.parametrize("shares", [[b"wrong"] * 5, [b"w" * 68] * 5])
def test_wrong_shares_of_one_member_are_found_out(kit, shares):
    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={0: changed(UNMASK, shares=shares)})
    expect_mean(kit, run, hospitals, range(5))


def test_wrong_shares_of_too_many_refuse_the_round(kit):
    run, hospitals = strategy(kit), Hospitals(kit)
    liar = changed(UNMASK, shares=[b"w" * 68] * 5)
    with pytest.raises(RoundRefusedError, match=r"the mask of node \d+ cannot be taken off"):
        hospitals.run(run, faults={0: liar, 1: liar})


def test_wrong_key_shares_are_found_out_too(kit):
    run, hospitals = strategy(kit, threshold=3), Hospitals(kit)

    def lie(reply):
        record = reply.content.config_records[secagg.SECAGG]
        record["shares"] = [*record["shares"][:-1], b"w" * len(record["shares"][-1])]
        return reply

    hospitals.run(run, faults={0: at(UNMASK, lie), 4: drop(TRAIN)})
    expect_mean(kit, run, hospitals, range(4))


def test_a_long_update_is_cut_by_its_member(kit):
    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.long = frozenset({1})
    hospitals.run(run)
    assert ex.shapes_of(hospitals.sent[1, 1]) == kit.shapes
    expect_mean(kit, run, hospitals, range(5))


def test_a_member_that_adds_anything_spoils_the_round_only(kit):
    def spoil(reply):
        record = reply.content.array_records[ex.ARRAYS]
        masked = record[secagg.MASKED].numpy() + np.uint32(2**30)
        record[secagg.MASKED] = Array(masked)
        reply.content.config_records[ex.RECEIPT][ex.UPDATE] = secagg.masked_hash(masked)
        return reply

    run, hospitals = strategy(kit), Hospitals(kit)
    with pytest.raises(RoundRefusedError, match="a member did not comply"):
        hospitals.run(run, faults={2: at(TRAIN, spoil)})


@pytest.mark.parametrize(
    "array", [np.zeros(3, np.uint32), np.zeros(11, np.float32), np.zeros((11, 1), np.uint32), np.zeros(0, np.uint32)]
)
def test_masked_arrays_of_other_forms_are_rejected(kit, array):
    def replace(reply):
        reply.content.array_records[ex.ARRAYS][secagg.MASKED] = Array(array)
        return reply

    run, hospitals = strategy(kit), Hospitals(kit)
    hospitals.run(run, faults={2: at(TRAIN, replace)})
    assert [(r.node, r.code) for r in run.reports[0].rejected] == [(103, "malformed")]
    expect_mean(kit, run, hospitals, (0, 1, 3, 4))


def test_members_sign_keys_and_masked_updates(kit):
    run, hospitals = signed(kit)
    hospitals.run(run)
    report = run.reports[0]
    assert {u.signer for u in report.updates} == {Account.from_key(key).address for key in hospitals.fake.keys.values()}
    assert len(report.updates) == 5
    assert all(u.signature for u in report.updates) and len(report.root) == 64


def test_unsigned_and_foreign_keys_are_left_out(kit):
    run, hospitals = signed(kit)
    hospitals.fake.keys[4] = b"\x99" * 32
    hospitals.run(run)
    assert [(r.node, r.code) for r in run.reports[0].rejected] == [(105, "keys")]


def test_members_do_not_take_keys_that_the_coordinator_made(kit, caplog):
    run, hospitals = signed(kit)
    # The coordinator that knows no members passes on what the members then refuse.
    run.services = Services(federation=kit.federation)
    hospitals.fake.keys[4] = b"\x99" * 32
    with caplog.at_level(logging.WARNING), pytest.raises(RoundRefusedError):
        hospitals.run(run)
    assert not hospitals.sent


def signed(kit):
    hospitals = Hospitals(kit)
    hospitals.fake.keys = {i: bytes([i + 1]) * 32 for i in range(5)}
    members = frozenset(str(Account.from_key(key).address) for key in hospitals.fake.keys.values())
    hospitals.members = members
    services = Services(federation=kit.federation, members=lambda: members)
    return strategy(kit, services), hospitals
