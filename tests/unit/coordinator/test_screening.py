"""The gate: what an honest reply is, what every hostile one is rejected for, and that nothing makes it raise."""

import dataclasses

import numpy as np
import pytest
from eth_account import Account
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_coordinator.screening import Limits, screen
from medprov_watermark.training import exchange as ex

pytestmark = pytest.mark.usefixtures("identity")

KEY = b"\x01" * 32
OTHER = b"\x02" * 32


def codes(screened):
    return {r.node: r.code for r in screened.rejected}


def honest(kit, count=3, **changes):
    return [kit.reply(node, kit.deltas(node), **changes) for node in kit.nodes[:count]]


def with_attacker(kit, attacker, limits=None, **expectation):
    """Screen two honest replies and one of node 103."""
    replies = [*honest(kit, 2), *(attacker if isinstance(attacker, list) else [attacker])]
    screened = screen(replies, kit.expectation(**expectation), limits)
    assert sorted(u.node for u in screened.accepted) == [101, 102]
    return codes(screened)[103]


def test_honest_replies_are_accepted_in_the_order_of_the_nodes(kit):
    screened = screen(list(reversed(honest(kit))), kit.expectation())
    assert sorted(u.node for u in screened.accepted) == [101, 102, 103]
    assert screened.rejected == ()
    first = screened.accepted[0]
    expected = kit.deltas(101)
    assert all(np.array_equal(first.deltas[name], expected[name]) for name in expected)
    assert first.deltas["scale"].shape == ()
    assert first.norm == pytest.approx(np.sqrt(sum(float(np.square(d).sum()) for d in expected.values())))
    assert first.update == ex.model_hash(expected)
    assert first.weight == 10


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite"), (-np.inf, "not_finite"), (0.0, "zero")]
)
def test_values_that_are_no_update(kit, value, code):
    deltas = {name: np.zeros(shape, np.float32) for name, shape in kit.shapes.items()}
    deltas["b.bias"][1] = value
    assert with_attacker(kit, kit.reply(103, deltas)) == code


def test_largest_floats_do_not_overflow_the_norm(kit):
    deltas = {name: np.full(shape, np.finfo(np.float32).max) for name, shape in kit.shapes.items()}
    assert with_attacker(kit, kit.reply(103, deltas), Limits(relative_norm=1e300)) == "norm"


def test_wrong_shape_missing_and_extra_tensor(kit):
    deltas = kit.deltas(3)
    assert with_attacker(kit, kit.reply(103, {**deltas, "b.bias": np.zeros(5, np.float32)})) == "malformed"
    assert with_attacker(kit, kit.reply(103, {**deltas, "b.bias": np.zeros((4, 1), np.float32)})) == "malformed"
    assert with_attacker(kit, kit.reply(103, {k: v for k, v in deltas.items() if k != "scale"})) == "malformed"
    assert with_attacker(kit, kit.reply(103, {**deltas, "more": deltas["scale"]})) == "malformed"
    assert with_attacker(kit, kit.reply(103, {})) == "malformed"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.complex64, ">f4"])
def test_other_types_are_rejected(kit, dtype):
    deltas = kit.deltas(3)
    assert with_attacker(kit, kit.reply(103, {**deltas, "b.bias": np.ones(4, dtype)})) == "malformed"


def test_array_that_lies_about_itself(kit):
    deltas = kit.deltas(3)
    whole = Array(np.ones(4, np.float32)).data
    huge = whole.replace(b"(4,)", b"(4000000000000,)")
    for data in (b"", whole[:-1], whole + b"x", whole[:20], b"\x93NUMPY\x01\x00\xff\xff", huge, b"(" * 9000):
        lie = Array(dtype="float32", shape=(4,), stype="numpy.ndarray", data=data)
        assert with_attacker(kit, kit.reply(103, {**deltas, "b.bias": lie})) == "malformed"


def test_pickled_objects_are_not_loaded(kit):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], object), allow_pickle=True)
    lie = Array(dtype="float32", shape=(4,), stype="numpy.ndarray", data=buffer.getvalue())
    assert with_attacker(kit, kit.reply(103, {**kit.deltas(3), "b.bias": lie})) == "malformed"


@pytest.mark.parametrize(
    "missing", [ex.ARRAYS, ex.METRICS, ex.RECEIPT, ex.LOSS, ex.NUM_EXAMPLES, ex.SIGNATURE, ex.BASE]
)
def test_missing_records_and_keys(kit, missing):
    assert with_attacker(kit, kit.reply(103, kit.deltas(3), drop=(missing,))) == "malformed"


def test_extra_records_and_keys(kit):
    for name, record in (("x", ArrayRecord()), ("x", MetricRecord()), ("x", ConfigRecord())):
        assert with_attacker(kit, kit.reply(103, kit.deltas(3), records={name: record})) == "malformed"
    assert with_attacker(kit, kit.reply(103, kit.deltas(3), metrics={"x": 1})) == "malformed"
    assert with_attacker(kit, kit.reply(103, kit.deltas(3), receipt={"x": 1})) == "malformed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ex.NUM_EXAMPLES, 0),
        (ex.NUM_EXAMPLES, -5),
        (ex.NUM_EXAMPLES, 10**9),
        (ex.NUM_EXAMPLES, 2.5),
        (ex.NUM_EXAMPLES, [1, 2]),
        (ex.LOSS, float("nan")),
        (ex.LOSS, float("inf")),
        (ex.BIT_ACCURACY, 1.01),
        (ex.BIT_ACCURACY, -0.1),
        ("target-db", 1e9),
        ("attack-probability", 7.0),
        (ex.SKIPPED, -1),
    ],
)
def test_figures_that_no_hospital_has(kit, name, value):
    reply = kit.reply(103, kit.deltas(3))
    reply.content.metric_records[ex.METRICS][name] = value
    assert with_attacker(kit, reply) == "malformed"


def test_error_empty_silent_unexpected_duplicate(kit):
    assert with_attacker(kit, Message(Error(7, "C:/patients/Jane Doe"), reply_to=kit.question(103))) == "error"
    assert with_attacker(kit, []) == "silent"
    assert with_attacker(kit, honest(kit)[2:] + honest(kit)[2:]) == "duplicate"
    screened = screen([*honest(kit, 2), kit.reply(999, kit.deltas(9))], kit.expectation())
    assert codes(screened) == {999: "unexpected", 103: "silent"}


def test_error_text_of_a_hospital_is_not_repeated(kit):
    screened = screen([Message(Error(7, "Jane Doe"), reply_to=kit.question(101))], kit.expectation())
    assert "Jane" not in str(screened.rejected)


def test_things_that_are_no_reply_at_all(kit):
    broken = Message(RecordDict(), reply_to=kit.question(103))
    broken.__dict__["_content"] = object()
    assert with_attacker(kit, broken) == "malformed"
    screened = screen([None, object(), 7, *honest(kit, 2)], kit.expectation())
    assert len(screened.accepted) == 2


def test_huge_norm_among_the_round_and_against_the_weights(kit):
    big = kit.deltas(3, size=0.01 * 4.5)
    assert with_attacker(kit, kit.reply(103, big)) == "norm"
    assert with_attacker(kit, kit.reply(103, kit.deltas(3, size=50.0)), Limits(norm_factor=1e9)) == "norm"
    fine = screen([*honest(kit, 2), kit.reply(103, kit.deltas(3, size=0.03))], kit.expectation())
    assert len(fine.accepted) == 3


def test_with_two_replies_the_large_one_cannot_lift_its_own_limit(kit):
    replies = [kit.reply(101, kit.deltas(1)), kit.reply(102, kit.deltas(2, size=0.9))]
    screened = screen(replies, kit.expectation(nodes=frozenset({101, 102})))
    assert codes(screened) == {102: "norm"}


def test_stale_and_unbound_updates(kit):
    deltas = kit.deltas(3)
    assert with_attacker(kit, kit.reply(103, deltas, number=2)) == "stale"
    assert with_attacker(kit, kit.reply(103, deltas, base=bytes(32))) == "stale"
    assert with_attacker(kit, kit.reply(103, deltas, receipt={ex.UPDATE: bytes(32)})) == "binding"
    assert with_attacker(kit, kit.reply(103, deltas, receipt={ex.SIGNER: b"x"})) == "malformed"


def test_copied_updates_are_rejected_on_both_sides(kit):
    same = [kit.reply(node, kit.deltas(7)) for node in (102, 103)]
    screened = screen([kit.reply(101, kit.deltas(1)), *same], kit.expectation())
    assert codes(screened) == {102: "copy", 103: "copy"}


def test_signatures(kit):
    members = frozenset({Account.from_key(KEY).address, Account.from_key(OTHER).address})
    expectation = kit.expectation(members=members, federation=kit.federation)

    def signed(node, key, **changes):
        return kit.reply(node, kit.deltas(node), key=key, federation=kit.federation, **changes)

    screened = screen([signed(101, KEY), signed(102, OTHER)], expectation)
    assert [u.signer for u in screened.accepted] == [Account.from_key(k).address for k in (KEY, OTHER)]
    assert len({u.leaf for u in screened.accepted}) == 2

    def why(reply):
        return codes(screen([signed(101, KEY), reply], expectation))[102]

    assert why(kit.reply(102, kit.deltas(102))) == "unsigned"
    assert why(signed(102, b"\x03" * 32)) == "foreign"
    assert why(kit.reply(102, kit.deltas(102), key=OTHER)) == "signature"  # signed for no federation
    assert why(signed(102, OTHER, receipt={ex.SIGNATURE: bytes(65)})) == "signature"
    assert why(signed(102, OTHER, receipt={ex.SIGNATURE: b"x"})) == "signature"
    assert why(signed(102, OTHER, receipt={ex.SIGNER: Account.from_key(KEY).address})) == "signature"
    inflated = signed(102, OTHER)
    inflated.content.metric_records[ex.METRICS][ex.NUM_EXAMPLES] = 5000
    assert why(inflated) == "signature"


def test_one_vote_for_each_member(kit):
    expectation = kit.expectation(members=frozenset({Account.from_key(KEY).address}))
    replies = [kit.reply(node, kit.deltas(node), key=KEY) for node in (101, 102)]
    screened = screen(replies, expectation)
    assert codes(screened) == {101: "votes", 102: "votes", 103: "silent"}


def test_direction_gate_is_off_unless_asked_for(kit):
    flipped = {name: -delta for name, delta in kit.deltas(103).items()}
    replies = [*honest(kit, 2), kit.reply(103, flipped)]
    assert len(screen(replies, kit.expectation()).accepted) == 3
    assert codes(screen(replies, kit.expectation(), Limits(min_cosine=0.0))) == {103: "direction"}


def test_weight_of_boasted_examples_is_limited(kit):
    replies = [*honest(kit, 2), kit.reply(103, kit.deltas(103), metrics={ex.NUM_EXAMPLES: 1_000_000})]
    screened = screen(replies, kit.expectation())
    assert {u.node: u.weight for u in screened.accepted} == {101: 10, 102: 10, 103: 100}


def test_details_are_short_and_printable(kit):
    reply = kit.reply(103, {**kit.deltas(3), "\x1b[2J" * 500: np.zeros(1, np.float32)})
    detail = screen([*honest(kit, 2), reply], kit.expectation()).rejected[0].detail
    assert len(detail) <= 203 and detail.isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=300),
    name=st.sampled_from(["a.weight", "b.bias", "scale"]),
    receipt=st.dictionaries(
        st.sampled_from(sorted(ex.RECEIPT_KEYS)), st.one_of(st.binary(max_size=80), st.integers(), st.text(max_size=50))
    ),
)
def test_random_bytes_never_raise_and_never_pass(kit, data, name, receipt):
    lie = Array(dtype="float32", shape=kit.shapes[name], stype="numpy.ndarray", data=data)
    replies = [*honest(kit, 2), kit.reply(103, {**kit.deltas(3), name: lie})]
    assert sorted(u.node for u in screen(replies, kit.expectation()).accepted) == [101, 102]
    reply = kit.reply(103, kit.deltas(103))
    for key, value in receipt.items():
        try:
            reply.content.config_records[ex.RECEIPT][key] = value
        except TypeError:
            continue
    for update in screen([*honest(kit, 2), reply], kit.expectation()).accepted:
        assert dataclasses.astuple(update)[0] in (101, 102, 103)
