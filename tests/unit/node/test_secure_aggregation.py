"""What a hospital refuses a coordinator that wants to see its update."""

import numpy as np
import pytest
from cryptography.fernet import InvalidToken
from eth_account import Account
from eth_account.messages import encode_defunct
from flwr.app import ConfigRecord, Context, RecordDict

from medprov_node import secure_aggregation as member
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import secagg
from medprov_watermark.training.tasks.base import TaskError

FEDERATION = b"\x07" * 32
KEYS = {node: bytes([node]) * 32 for node in (1, 2, 3, 4)}
MEMBERS = frozenset(str(Account.from_key(key).address) for key in KEYS.values())
DELTAS = {"a": np.full(6, 0.01, np.float32)}
CLIP = 0.5


def context(node):
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def sign(node):
    account = Account.from_key(KEYS[node])
    return lambda digest: (
        str(account.address),
        bytes(account.sign_message(encode_defunct(primitive=digest)).signature),
    )


class Round:
    """A round up to where a test goes on, with the coordinator's questions open to change."""

    def __init__(self, attempt=1, contexts=None, signed=True):
        self.contexts = contexts or {node: context(node) for node in KEYS}
        self.signed = signed
        begin = ConfigRecord({ex.ROUND: 1, "attempt": attempt, "federation": FEDERATION})
        self.keys = {
            node: member.make_keys(begin, c, sign(node) if signed else lambda digest: ("", b""))
            for node, c in self.contexts.items()
        }

    def listing(self, **changes):
        nodes = sorted(self.keys)
        values = {
            "nodes": nodes,
            "masking": [self.keys[n]["keys"][0] for n in nodes],
            "sealing": [self.keys[n]["keys"][1] for n in nodes],
            "signers": [self.keys[n][ex.SIGNER] for n in nodes],
            "signatures": [self.keys[n][ex.SIGNATURE] for n in nodes],
            "threshold": 3,
        }
        return ConfigRecord({**values, **changes})

    def share(self, node=1, **changes):
        return member.make_shares(self.listing(**changes), self.contexts[node], MEMBERS if self.signed else None)

    def share_all(self):
        self.sealed = {node: self.share(node)["sealed"] for node in self.keys}
        return self

    def mask(self, node=1, sources=None, sealed=None):
        sources = [n for n in self.keys if n != node] if sources is None else sources
        sealed = [self.sealed[n][sorted(self.keys).index(node)] for n in sources] if sealed is None else sealed
        question = ConfigRecord({"sources": sources, "sealed": sealed})
        return member.make_masked(question, self.contexts[node], DELTAS, CLIP)

    def mask_all(self):
        self.share_all()
        self.masked = {node: self.mask(node) for node in self.keys}
        return self

    def unmask(self, came, gone, node=1):
        return member.open_sum(ConfigRecord({"came": came, "gone": gone}), self.contexts[node])


def test_all_masks_but_the_own_ones_cancel():
    r = Round()
    r.share_all()
    seeds = {n: c.state.config_records[member.STATE]["seed"] for n, c in r.contexts.items()}
    masked = [r.mask(node) for node in r.keys]
    total = np.sum(masked, axis=0, dtype=np.uint32)
    for seed in seeds.values():
        total = total - secagg.mask(seed, 6)
    restored = secagg.restored(total, CLIP, 4, {"a": (6,)})
    assert restored["a"] == pytest.approx(4 * DELTAS["a"].astype(np.float64), abs=4 * CLIP / secagg.levels(4))


def test_unsigned_rounds_where_nobody_signs():
    assert len(Round(signed=False).share()["sealed"]) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": 2}, "a threshold of 2 of 4 members does not protect"),
        ({"threshold": 5}, "a threshold of 5 of 4"),
        ({"threshold": 0}, "a threshold of 0"),
        ({"nodes": [1, 2, 3, 3]}, "do not fit together"),
        ({"nodes": [1, 2, 3]}, "do not fit together"),
        ({"nodes": [5, 2, 3, 4]}, "own keys are not among"),
        ({"nodes": [2, 1, 3, 4]}, "own keys are not among"),
    ],
)
def test_listings_that_do_not_protect(changes, words):
    with pytest.raises(TaskError, match=words):
        Round().share(**changes)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sum_of_two_hides_nothing(count):
    r = Round()
    short = {key: list(r.listing()[key])[:count] for key in ("nodes", "masking", "sealing", "signers", "signatures")}
    with pytest.raises(TaskError, match="a sum hides nothing"):
        r.share(**short, threshold=count)


@pytest.mark.parametrize("key", ["nodes", "masking", "sealing", "signers", "signatures", "threshold"])
def test_listings_of_other_types(key):
    for value in ("text", 1.5, [b"bytes", "text"] if key != "threshold" else b"x"):
        with pytest.raises((ex.ExchangeError, TypeError)):
            Round().share(**{key: value})


def test_keys_that_the_coordinator_made_are_not_taken():
    r, other = Round(), Round()
    listing = r.listing()
    for key, i in (("masking", 0), ("sealing", 1)):
        keys = list(listing[key])
        keys[1] = other.keys[2]["keys"][i]
        foreign = Account.from_key(b"\x55" * 32)
        digest = secagg.keys_digest(FEDERATION, 1, 1, 2, *other.keys[2]["keys"])
        signature = bytes(foreign.sign_message(encode_defunct(primitive=digest)).signature)
        signatures = [*listing["signatures"]]
        signatures[1] = signature
        signers = [*listing["signers"]]
        signers[1] = foreign.address
        with pytest.raises(TaskError, match="not signed by a member of the federation"):
            r.share(**{key: keys})
        with pytest.raises(TaskError, match="not signed by a member of the federation"):
            r.share(masking=keys if i == 0 else listing["masking"], signers=signers, signatures=signatures)


def test_one_member_as_two_and_missing_signatures():
    r = Round()
    listing = r.listing()
    with pytest.raises(TaskError, match="one member takes part twice"):
        r.share(signers=[listing["signers"][0]] * 2 + list(listing["signers"])[2:])
    with pytest.raises(TaskError, match="node 3's keys are not signed"):
        r.share(signatures=[*list(listing["signatures"])[:2], b"", list(listing["signatures"])[3]])


def test_the_same_key_twice():
    r = Round()
    with pytest.raises(TaskError, match="the same key"):
        r.share(masking=list(r.listing()["sealing"]))


def test_each_question_is_answered_once_and_in_turn():
    r = Round()
    with pytest.raises(TaskError, match="out of turn"):
        r.mask(sources=[2, 3, 4], sealed=[b"", b"", b""])
    with pytest.raises(TaskError, match="out of turn"):
        r.unmask([1, 2, 3, 4], [])
    r.mask_all()
    with pytest.raises(TaskError, match="out of turn"):
        r.mask()
    with pytest.raises(TaskError, match="out of turn"):
        r.share()
    r.unmask([1, 2, 3, 4], [])
    with pytest.raises(TaskError, match="out of turn"):
        r.unmask([1, 2, 3], [4])


def test_no_second_answer_to_an_attempt_with_other_members():
    r = Round().mask_all()
    with pytest.raises(TaskError, match="attempt 1 was answered before"):
        Round(contexts=r.contexts)
    assert Round(attempt=2, contexts=r.contexts).share_all()


def test_training_needs_the_keys_of_its_round():
    r = Round()
    with pytest.raises(TaskError, match="out of turn"):
        member.check_begun(r.contexts[1], 1, 1)
    r.share_all()
    member.check_begun(r.contexts[1], 1, 1)
    for number, attempt in ((2, 1), (1, 2)):
        with pytest.raises(TaskError, match="exchanged for round 1"):
            member.check_begun(r.contexts[1], number, attempt)


@pytest.mark.parametrize(
    ("sources", "words"),
    [([2], "2 members are left"), ([2, 3, 9], "do not come from"), ([2, 2, 3], "do not"), ([1, 2, 3], "do not")],
)
def test_shares_of_too_few_or_of_others(sources, words):
    r = Round().share_all()
    with pytest.raises(TaskError, match=words):
        r.mask(sources=sources, sealed=[b""] * len(sources))


def test_shares_for_another_are_not_kept():
    r = Round().share_all()
    swapped = [r.sealed[2][0], r.sealed[2][0], r.sealed[4][0]]
    with pytest.raises(InvalidToken):
        r.mask(sealed=swapped)
    # and the stage is over: no second answer with other masks
    with pytest.raises(TaskError, match="out of turn"):
        r.mask()


@pytest.mark.parametrize(
    ("came", "gone", "words"),
    [
        ([1, 2, 3, 4], [4], "named once"),
        ([1, 2, 3], [3, 4], "named once"),
        ([1, 2, 3, 3], [4], "named once"),
        ([1, 2, 3], [], "named once"),
        ([1, 2, 3, 4, 5], [], "named once"),
        ([1, 2], [3, 4], "a sum of 2 updates is not opened"),
        ([], [1, 2, 3, 4], "a sum of 0 updates"),
    ],
)
def test_both_secrets_of_a_member_are_never_given(came, gone, words):
    r = Round().mask_all()
    with pytest.raises(TaskError, match=words):
        r.unmask(came, gone)
    assert len(r.unmask([1, 2, 3], [4])["shares"]) == 4


def test_secrets_are_gone_after_the_round():
    r = Round().mask_all()
    assert not {"seed", "masking", "sealing"} & set(r.contexts[1].state.config_records[member.STATE])
    r.unmask([1, 2, 3], [4])
    assert member.STATE not in r.contexts[1].state
