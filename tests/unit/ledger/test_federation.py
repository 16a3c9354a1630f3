"""medprov_ledger.federation and contracts/src/Federation.sol"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_account import Account

from medprov_ledger import cid
from medprov_ledger.chain import Chain
from medprov_ledger.errors import ModelError, RevertedError
from medprov_ledger.federation import ZERO_ADDRESS, Federation, Kind, Status, name_hash

HASH, OTHER = b"\x01" * 32, b"\x02" * 32
KEY = b"\x09" * 32


@pytest.fixture
def federation(make_chain: Any) -> Federation:
    return Federation(make_chain())


def refused(error: str, action: Callable[[], object]) -> None:
    with pytest.raises(RevertedError) as caught:
        action()
    assert caught.value.error == error


def test_founders_are_members(chain: Chain, people: Any) -> None:
    federation = Federation(chain)
    members = federation.members()
    assert [member.address for member in members] == [account.address for account in people.members]
    assert members[1].name_hash == name_hash("hospital 1")
    assert members[1].reader_key == b"\x02" * 32
    assert {member.status for member in members} == {Status.ACTIVE}
    assert federation.threshold() == 2
    assert federation.is_member(people.members[0].address)
    assert not federation.is_member(people.stranger.address)
    assert not federation.is_member(people.deployer.address), "deploying gives no rights"
    assert federation.member(people.stranger.address) is None
    assert federation.address == chain.config.federation_address


def test_join_by_two_votes(federation: Federation, people: Any) -> None:
    a, b, _ = people.members
    newcomer = people.stranger.address
    first = federation.join(newcomer, "new", KEY, a)
    assert not federation.is_member(newcomer)
    second = federation.join(newcomer, "new", KEY, b)
    assert federation.is_member(newcomer)
    member = federation.member(newcomer)
    assert member is not None
    assert (member.name_hash, member.reader_key, member.joined_block) == (name_hash("new"), KEY, second.block)
    assert not federation.is_member(newcomer, first.block)
    assert federation.is_member(newcomer, second.block)
    assert len(federation.members()) == 4


def test_history_of_a_member(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    joined = federation.member(c.address)
    assert joined is not None
    federation.suspend(c.address, a)
    suspended = federation.suspend(c.address, b).block
    federation.resume(c.address, a)
    resumed = federation.resume(c.address, b).block
    federation.leave(c.address, a)
    left = federation.leave(c.address, c).block
    at = {block: federation.is_member(c.address, block) for block in (suspended - 1, suspended, resumed, left)}
    assert at == {suspended - 1: True, suspended: False, resumed: True, left: False}
    assert not federation.is_member(c.address, joined.joined_block - 1)
    assert federation.is_member(c.address, joined.joined_block)
    assert federation.member(c.address).status is Status.LEFT  # type: ignore[union-attr]
    assert [m.address for m in federation.members()] == [a.address, b.address]
    assert len(federation.members(former=True)) == 3


def test_a_block_that_is_not_there_yet(chain: Chain, people: Any) -> None:
    refused("FutureBlock", lambda: Federation(chain).is_member(people.members[0].address, 10**9))


def test_who_left_may_join_again_under_the_same_name(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    federation.leave(c.address, a)
    federation.leave(c.address, b)
    successor = Account.create().address
    federation.join(successor, "hospital 2", KEY, a)
    federation.join(successor, "hospital 2", KEY, b)
    federation.join(c.address, "hospital 2 old", KEY, a)
    federation.join(c.address, "hospital 2 old", KEY, b)
    assert [m.address for m in federation.members()] == [a.address, b.address, c.address, successor]


def test_one_member_cannot_vote_twice(federation: Federation, people: Any) -> None:
    a, *_ = people.members
    federation.suspend(people.members[2].address, a)
    refused("AlreadyVoted", lambda: federation.suspend(people.members[2].address, a))
    assert federation.is_member(people.members[2].address)


def test_votes_for_different_motions_do_not_add_up(federation: Federation, people: Any) -> None:
    a, b, _ = people.members
    federation.join(people.stranger.address, "new", KEY, a)
    federation.join(people.stranger.address, "new", b"\x08" * 32, b)
    assert not federation.is_member(people.stranger.address)


def test_a_change_of_members_closes_open_votes(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    federation.join(people.stranger.address, "new", KEY, c)
    federation.release_model(HASH, "bafy", c)
    federation.suspend(c.address, a)
    federation.suspend(c.address, b)
    federation.join(people.stranger.address, "new", KEY, a)
    federation.release_model(HASH, "bafy", a)
    assert not federation.is_member(people.stranger.address), "the suspended member's vote must not count"
    assert not federation.is_released(HASH)


def test_suspended_members_have_no_rights(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    federation.suspend(c.address, a)
    federation.suspend(c.address, b)
    refused("NotMember", lambda: federation.anchor_round(1, HASH, "bafy", HASH, HASH, c))
    refused("NotMember", lambda: federation.resume(c.address, c))
    refused("NotMember", lambda: federation.set_reader_key(KEY, c))


def test_strangers_cannot_write(chain: Chain, people: Any) -> None:
    federation, stranger = Federation(chain), people.stranger
    for action in (
        lambda: federation.join(stranger.address, "new", KEY, stranger),
        lambda: federation.suspend(people.members[0].address, stranger),
        lambda: federation.set_threshold(1, stranger),
        lambda: federation.set_reader_key(KEY, stranger),
        lambda: federation.anchor_round(99, HASH, "bafy", HASH, HASH, stranger),
        lambda: federation.release_model(OTHER, "bafy", stranger),
    ):
        refused("NotMember", action)


def test_motions_that_make_no_sense(chain: Chain, people: Any) -> None:
    federation, (a, b, _) = Federation(chain), people.members
    stranger = people.stranger.address
    refused("AlreadyMember", lambda: federation.join(b.address, "new", KEY, a))
    refused("NameTaken", lambda: federation.join(stranger, "hospital 1", KEY, a))
    refused("ZeroHash", lambda: federation.join(stranger, "new", bytes(32), a))
    refused("BadMotion", lambda: federation.join(ZERO_ADDRESS, "new", KEY, a))
    refused("BadMotion", lambda: federation.vote(Kind.JOIN, stranger, b"", a))
    refused("BadMotion", lambda: federation.vote(Kind.JOIN, stranger, bytes(65), a))
    refused("BadMotion", lambda: federation.vote(Kind.LEAVE, b.address, b"x", a))
    refused("BadMotion", lambda: federation.vote(Kind.THRESHOLD, b.address, bytes(32), a))
    refused("BadMotion", lambda: federation.vote(Kind.THRESHOLD, ZERO_ADDRESS, bytes(31), a))
    refused("WrongStatus", lambda: federation.leave(stranger, a))
    refused("WrongStatus", lambda: federation.resume(b.address, a))
    refused("WrongStatus", lambda: federation.suspend(stranger, a))


def test_threshold_stays_reachable(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    refused("BadThreshold", lambda: federation.set_threshold(0, a))
    refused("BadThreshold", lambda: federation.set_threshold(4, a))
    federation.set_threshold(3, a)
    federation.set_threshold(3, b)
    assert federation.threshold() == 3
    refused("BadThreshold", lambda: federation.leave(c.address, a))
    refused("BadThreshold", lambda: federation.suspend(c.address, a))
    federation.set_threshold(1, a)
    federation.set_threshold(1, b)
    federation.set_threshold(1, c)
    federation.leave(c.address, a)
    assert not federation.is_member(c.address), "with k = 1 the first vote carries"


def test_reader_key_is_its_owners(federation: Federation, people: Any) -> None:
    a, *_ = people.members
    federation.set_reader_key(KEY, a)
    assert federation.members()[0].reader_key == KEY
    refused("ZeroHash", lambda: federation.set_reader_key(bytes(32), a))


def test_rounds_follow_each_other_and_stay(federation: Federation, people: Any) -> None:
    a, b, _ = people.members
    assert federation.last_round() is None
    assert federation.rounds() == []
    # one member alone must not be able to use up the numbers
    for number in (0, 2, 2**64 - 1):
        refused("RoundNotNext", lambda n=number: federation.anchor_round(n, HASH, "bafy", HASH, HASH, a))  # type: ignore[misc]
    first = federation.anchor_round(1, HASH, "bafy1", OTHER, KEY, a)
    second = federation.anchor_round(2, OTHER, "bafy2", HASH, KEY, b)
    for number in (0, 1, 2, 4, 2**64 - 1):
        refused("RoundNotNext", lambda n=number: federation.anchor_round(n, KEY, "bafy", HASH, HASH, b))  # type: ignore[misc]
    rounds = federation.rounds()
    assert [(r.number, r.model_hash, r.cid, r.updates_root, r.metrics_hash, r.by, r.block, r.time) for r in rounds] == [
        (1, HASH, "bafy1", OTHER, KEY, a.address, first.block, first.time),
        (2, OTHER, "bafy2", HASH, KEY, b.address, second.block, second.time),
    ]
    assert federation.last_round() == rounds[1] == federation.round(2)
    assert federation.round(1) == rounds[0]
    assert federation.round(3) is None
    assert federation.rounds(from_block=second.block) == rounds[1:]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((bytes(32), "bafy", HASH, HASH), "ZeroHash"),
        ((HASH, "bafy", bytes(32), HASH), "ZeroHash"),
        ((HASH, "bafy", HASH, bytes(32)), "ZeroHash"),
        ((HASH, "", HASH, HASH), "BadCid"),
        ((HASH, "b" * 129, HASH, HASH), "BadCid"),
    ],
)
def test_malformed_rounds(chain: Chain, people: Any, arguments: Any, error: str) -> None:
    federation = Federation(chain)
    refused(error, lambda: federation.anchor_round(1, *arguments, people.members[0]))


def test_model_released_by_two(federation: Federation, people: Any) -> None:
    a, b, c = people.members
    federation.release_model(HASH, "bafy", a)
    refused("AlreadyVoted", lambda: federation.release_model(HASH, "bafy", a))
    federation.release_model(HASH, "other", b)
    assert not federation.is_released(HASH), "approvals of different content must not add up"
    receipt = federation.release_model(HASH, "bafy", c)
    assert federation.is_released(HASH)
    assert not federation.is_released(OTHER)
    (model,) = federation.released_models()
    assert (model.model_hash, model.cid, model.block, model.time) == (HASH, "bafy", receipt.block, receipt.time)
    refused("AlreadyReleased", lambda: federation.release_model(HASH, "other", a))


def test_malformed_models(chain: Chain, people: Any) -> None:
    federation, (a, *_) = Federation(chain), people.members
    refused("ZeroHash", lambda: federation.release_model(bytes(32), "bafy", a))
    refused("BadCid", lambda: federation.release_model(HASH, "", a))
    refused("BadCid", lambda: federation.release_model(HASH, "b" * 200, a))


def test_unconfirmed_is_hidden(make_chain: Any, people: Any, tester: Any) -> None:
    chain = make_chain()
    Federation(chain).anchor_round(1, HASH, "bafy", HASH, HASH, people.members[0])
    deep = Chain(chain.config.__class__(**{**vars(chain.config), "confirmations": 2}), tester)
    assert Federation(deep).rounds() == []
    tester.provider.ethereum_tester.mine_block()
    assert len(Federation(deep).rounds()) == 1


def test_models_are_withdrawn_and_reinstated_by_k_approvals(federation: Federation, people: Any) -> None:
    first, second = people.members[:2]
    model = b"\x51" * 32
    with pytest.raises(ModelError, match="never released"):
        federation.withdraw_model(model, first)
    federation.release_model(model, cid.of(b"package"), first)
    federation.release_model(model, cid.of(b"package"), second)
    assert federation.is_usable(model) and federation.active_model().model_hash == model
    for change, usable in ((federation.withdraw_model, False), (federation.reinstate_model, True)) * 2:
        change(model, first)
        assert federation.is_usable(model) is not usable, "one approval is not enough"
        change(model, second)
        assert federation.is_usable(model) is usable
        assert (federation.active_model() is not None) is usable
        assert [one.model_hash for one in federation.released_models()] == [model]
        with pytest.raises(ModelError, match="already"):
            change(model, first)


def test_app_bundles_are_no_models(federation: Federation, people: Any) -> None:
    first, second = people.members[:2]
    bundle = b"\x52" * 32
    federation.release_app(bundle, first)
    assert not federation.is_app_released(bundle)
    federation.release_app(bundle, second)
    assert federation.is_app_released(bundle) and not federation.is_released(bundle)
    assert federation.released_models() == [] and federation.active_model() is None
    federation.withdraw_app(bundle, first)
    federation.withdraw_app(bundle, second)
    assert not federation.is_app_released(bundle) and federation.released_models() == []
