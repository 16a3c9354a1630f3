"""Waiting rounds: in order, once each, compared with the chain, published first."""

from dataclasses import replace

import pytest

from medprov_coordinator.anchoring import check_same, missing, settle
from medprov_coordinator.checkpoint import CheckpointFolder, PendingAnchor, State
from medprov_coordinator.errors import CheckpointError
from medprov_coordinator.round import Anchored, Services
from medprov_ledger import cid
from medprov_ledger.errors import ChainAwayError, RevertedError, UnreachableError, WrongChainError

DATA = {f"{n:064x}": f"weights {n}".encode() for n in range(1, 6)}


def entry(number):
    model = f"{number:064x}"
    return PendingAnchor(number, model, cid.of(DATA[model]), f"{number + 16:064x}", f"{number + 32:064x}")


def state(first, last):
    return State(last, last, f"{last:064x}", {}, None, "", tuple(entry(n) for n in range(first, last + 1)))


def on_chain(number):
    one = entry(number)
    return Anchored(number, *(bytes.fromhex(one.model), one.cid, bytes.fromhex(one.root), bytes.fromhex(one.metrics)))


@pytest.fixture
def town(kit):
    anchor, store = kit.anchor(), kit.store()
    return anchor, store, Services(anchor=anchor, store=store)


def run(services, begin, folder=None):
    told = []

    def done(new, one, transaction):
        told.append((one.number, transaction, len(new.pending)))

    return settle(begin, services, DATA.__getitem__, done, folder), told


def test_in_order_and_once_each(town):
    anchor, store, services = town
    settled, told = run(services, state(1, 3))
    assert settled.trouble == "" and settled.state.pending == ()
    assert told == [(1, "0x01", 2), (2, "0x02", 1), (3, "0x03", 0)]
    assert set(store.blocks) == {entry(n).cid for n in (1, 2, 3)}
    assert [arguments[0] for arguments in anchor.arguments] == [1, 2, 3]


def test_what_is_on_the_chain_already_is_not_anchored_again(town):
    anchor, _, services = town
    anchor.rounds = [on_chain(1), on_chain(2)]
    _, told = run(services, state(1, 3))
    assert told == [(1, None, 2), (2, None, 1), (3, "0x03", 0)] and len(anchor.arguments) == 1


def test_first_failure_holds_the_others_up(town):
    anchor, store, services = town
    anchor.away = ChainAwayError("away")
    settled, told = run(services, state(1, 3))
    assert settled.trouble == "away" and told == [] and len(settled.state.pending) == 3
    anchor.away, store.away = None, UnreachableError("no store")
    settled, told = run(services, state(1, 3))
    assert settled.trouble == "no store" and told == [] and anchor.arguments == []


def test_another_chain_stops(town):
    anchor, _, services = town
    anchor.away = WrongChainError("another chain")
    with pytest.raises(WrongChainError):
        run(services, state(1, 1))


@pytest.mark.parametrize("name", ["model_hash", "cid", "updates_root", "metrics_hash"])
def test_every_difference_to_the_chain_is_one(name):
    check_same(entry(1), on_chain(1))
    other = replace(on_chain(1), **{name: "x" if name == "cid" else bytes(32)})
    with pytest.raises(CheckpointError, match="round 1 on the chain is another one"):
        check_same(entry(1), other)


def test_refusal_by_the_contract_is_looked_up_on_the_chain(town):
    anchor, _, services = town

    def lost_answer(number, *more):
        anchor.rounds.append(on_chain(number))
        raise RevertedError("RoundNotNext", "RoundNotNext")

    anchor.anchor = lost_answer
    assert run(services, state(1, 1))[1] == [(1, None, 0)]

    def overtaken(number, *more):
        anchor.rounds.append(replace(on_chain(number), model_hash=bytes(32)))
        raise RevertedError("RoundNotNext", "RoundNotNext")

    anchor.anchor = overtaken
    with pytest.raises(CheckpointError, match="another coordinator has anchored it"):
        run(services, State(2, 2, f"{2:064x}", {}, None, "", (entry(2),)))


def test_gap_on_the_chain_is_filled_from_the_records(town, tmp_path):
    anchor, store, services = town
    folder = CheckpointFolder(tmp_path)
    for number in (1, 2):
        one = entry(number)
        folder.save_record(
            number, f'{{"round": {number}, "model": "{one.model}", "cid": "{one.cid}", "root": "{one.root}"}}'
        )
        store.put(DATA[one.model])
    settled, told = run(services, state(3, 3), folder)
    assert settled.state.pending == () and [number for number, _, _ in told] == [1, 2, 3]
    anchor.rounds.clear()
    settled, told = run(services, state(3, 3))
    assert settled.trouble == "RoundNotNext" and told == []


def test_missing_rounds_need_their_records(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert missing(state(1, 3), None, folder).pending == state(1, 3).pending
    with pytest.raises(CheckpointError, match=r"000001\.json: cannot be read"):
        missing(state(2, 3), None, folder)
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "000001.json").write_text('{"round": 2}')
    with pytest.raises(CheckpointError, match="damaged"):
        missing(state(2, 3), None, folder)
    with pytest.raises(CheckpointError, match="no folder"):
        missing(state(2, 3), None, None)
    assert missing(state(2, 3), on_chain(1), None).pending == state(2, 3).pending


def test_without_a_chain_nothing_is_done():
    assert run(Services(), state(1, 1))[0].state.pending == state(1, 1).pending


def test_weights_that_the_folder_has_left_to_the_store_are_found_there(town):
    _, store, services = town
    store.put(DATA[entry(1).model])

    def gone(model):
        raise CheckpointError("not in the folder")

    told = []
    settle(state(1, 1), services, gone, lambda new, one, transaction: told.append(one.number))
    assert told == [1]
