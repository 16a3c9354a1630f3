"""medprov_ledger.transactions, on a node that does what the test says"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

import medprov_ledger.transactions
from medprov_ledger.errors import (
    ChainAwayError,
    ChainError,
    FeeLimitError,
    NoFundsError,
    NonceTakenError,
    RevertedError,
    SignerAwayError,
    SyncingError,
    WrongChainError,
)
from medprov_ledger.journal import Journal
from medprov_ledger.json_rpc import connect_http
from medprov_ledger.signer import LocalSigner
from medprov_ledger.transactions import Receipt, Sender, Terms, transact
from tests.unit.ledger.pool_node import PoolNode

Patch = pytest.MonkeyPatch
Steps = Callable[..., None]
RICH = Account.from_key(b"\x01" * 32)
OTHER = Account.from_key(b"\x02" * 32).address


@pytest.fixture
def node() -> Iterator[PoolNode]:
    with PoolNode() as made:
        yield made


@pytest.fixture
def steps(node: PoolNode, monkeypatch: Patch) -> Steps:
    """What happens at each pause; a block is mined where nothing is left."""

    def script(*actions: Callable[[], object]) -> None:
        left = iter(actions)
        monkeypatch.setattr(medprov_ledger.transactions.time, "sleep", lambda _: next(left, node.mine)())

    script()
    return script


def sender(node: PoolNode, path: Path | None = None, account: Any = RICH, **terms: Any) -> Sender:
    defaults = {"confirmations": 1, "timeout": 5.0, "bump_after": 1e9}
    journal = Journal(path, "31337", RICH.address)
    return Sender(connect_http(node.url, 5.0), account, journal, Terms(**{**defaults, **terms}), 31337)


def transfer(value: int = 1) -> Any:
    return {"to": OTHER, "value": value}


def test_many_in_flight_go_in_few_requests(node: PoolNode, steps: Steps) -> None:
    results = sender(node).send_many([transfer(n) for n in range(100, 160)])
    assert all(isinstance(one, Receipt) for one in results)
    assert [one.value for one in node.mined()] == list(range(100, 160))
    assert len({one.nonce for one in node.mined()}) == 60
    assert node.calls.count("eth_sendRawTransaction") == 60
    assert node.requests < 25


def test_a_node_that_takes_no_batches(node: PoolNode, steps: Steps) -> None:
    node.batches = False
    assert all(isinstance(one, Receipt) for one in sender(node).send_many([transfer(n) for n in range(20, 25)]))
    assert len(node.mined()) == 5


def test_equal_calls_are_one_transaction(node: PoolNode, steps: Steps) -> None:
    first, second, third = sender(node).send_many([transfer(1), transfer(2), transfer(1)])
    assert first == third != second
    assert len(node.mined()) == 2


def test_one_that_fails_does_not_stop_the_others(node: PoolNode, steps: Steps) -> None:
    good, bad, last = sender(node).send_many([transfer(1), transfer(13), transfer(2)])
    assert isinstance(bad, RevertedError)
    assert isinstance(good, Receipt)
    assert isinstance(last, Receipt)
    with pytest.raises(RevertedError, match="failed in block"):
        sender(node).send(transfer(13))


def test_a_legacy_chain(node: PoolNode, steps: Steps) -> None:
    node.base_fee = None
    sender(node).send(transfer())
    assert node.mined()[0].raw[0] != 2


def test_confirmations_are_waited_for(node: PoolNode, steps: Steps) -> None:
    receipt = sender(node, confirmations=5).send(transfer())
    assert len(node.blocks) - 1 == receipt.block + 4


# --- crashes and lost answers


def test_a_lost_answer_makes_no_second_transaction(node: PoolNode, steps: Steps) -> None:
    answers = iter(["drop", "drop"])
    node.before = lambda method: next(answers, None) if method == "eth_sendRawTransaction" else None
    sender(node).send(transfer())
    assert len(set(node.sent)) == 1 < len(node.sent)
    assert len(node.mined()) == 1


def test_a_lost_answer_of_a_transaction_that_is_mined_already(node: PoolNode, steps: Steps) -> None:
    def mine_and_drop(method: str) -> str | None:
        if method != "eth_sendRawTransaction" or node.sent:
            node.mine()
            return None
        return "drop"

    node.before = mine_and_drop
    sender(node).send(transfer())
    assert len(set(node.sent)) == 1 < len(node.sent)


@pytest.mark.parametrize("arrived", [True, False])
def test_a_process_that_dies_after_signing(node: PoolNode, steps: Steps, tmp_path: Path, arrived: bool) -> None:
    """The next process goes on with the same bytes, whether they had arrived or not."""
    first = sender(node, tmp_path / "j")
    pending = first.submit([transfer()])
    if not arrived:
        node.forget_pool()
    first.journal.close()
    again = sender(node, tmp_path / "j")
    receipt = again.send(transfer())
    assert len(set(node.sent)) == 1
    assert receipt.tx_hash == node.mined()[0].hash
    assert len(pending) == len(node.mined()) == 1


def test_a_node_that_is_away_while_sending(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    node.before = lambda method: "busy" if method == "eth_sendRawTransaction" else None
    with pytest.raises(ChainAwayError):
        sender(node, tmp_path / "j").send(transfer())
    node.before = lambda method: None
    sender(node, tmp_path / "j").send(transfer(7))
    assert [one.value for one in node.mined()] == [1, 7], "what was kept goes first, so that there is no gap"


def test_the_same_call_later_is_a_new_transaction(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    one = sender(node, tmp_path / "j")
    assert one.send(transfer()) != one.send(transfer())
    assert len(node.mined()) == 2


def test_what_a_dead_process_did_long_ago_is_not_adopted(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    """Set A, die; set B; set A: the third is a call of its own."""
    sender(node, tmp_path / "j").submit([transfer(1)])
    one = sender(node, tmp_path / "j")
    one.send(transfer(2))
    again = one.send(transfer(1))
    assert [t.value for t in node.mined()] == [1, 2, 1]
    assert again.tx_hash == node.mined()[-1].hash


def test_a_dead_process_with_many_in_flight(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    sender(node, tmp_path / "j").submit([transfer(n) for n in range(20, 25)])
    node.mine()
    one = sender(node, tmp_path / "j")
    for value in range(20, 25):
        one.send(transfer(value))
    assert [t.value for t in node.mined()] == list(range(20, 25))


def test_time_over_then_adopted(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    steps(*[lambda: None] * 100_000)
    with pytest.raises(ChainError, match=r"is not 1 block\(s\) deep after 0\.05 s, and is not mined at 3 gwei; it may"):
        sender(node, tmp_path / "j", timeout=0.05).send(transfer())
    steps()
    sender(node, tmp_path / "j").send(transfer())
    assert len(set(node.sent)) == 1


def test_a_node_that_does_not_count_its_pool(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    node.counts_pool = False
    for value in (1, 2, 3):
        sender(node, tmp_path / "j").submit([transfer(value)])
    sender(node, tmp_path / "j").send(transfer(4))
    assert [(t.nonce, t.value) for t in node.mined()] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def _send_ten(url: str, path: Path, first: int) -> None:
    journal = Journal(path, "31337", RICH.address)
    one = Sender(connect_http(url), RICH, journal, Terms(timeout=30.0), 31337)
    for value in range(first, first + 10):
        one.send(transfer(value))


def test_processes_of_one_hospital(node: PoolNode, tmp_path: Path) -> None:
    """Three at once: every transaction once, no nonce twice, no gap."""

    def mine_at_times(method: str) -> None:
        if method == "eth_blockNumber":
            node.mine()

    node.before = mine_at_times
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_send_ten, args=(node.url, tmp_path / "j", n)) for n in (100, 200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(one.value for one in node.mined()) == [n + i for n in (100, 200, 300) for i in range(10)]
    assert sorted(one.nonce for one in node.mined()) == list(range(30))
    assert len(node.sent) == 30


def test_another_program_with_the_same_key(node: PoolNode, steps: Steps, monkeypatch: Patch) -> None:
    """Its transaction is waiting in the node's pool: the next nonce is taken."""
    foreign = RICH.sign_transaction(
        {"to": OTHER, "value": 9, "nonce": 0, "gas": 21000, "gasPrice": 10**10, "chainId": 31337}
    )
    one = sender(node)
    right = one.w3.eth.get_transaction_count
    stale = iter([0])
    node._send(bytes(foreign.raw_transaction))
    monkeypatch.setattr(one.w3.eth, "get_transaction_count", lambda *args: next(stale, None) or right(*args))
    one.send(transfer())
    assert [(t.nonce, t.value) for t in node.mined()] == [(0, 9), (1, 1)]


# --- fees


def test_a_stuck_transaction_offers_more(node: PoolNode, steps: Steps) -> None:
    one = sender(node, bump_after=0.0)

    def dearer() -> None:
        node.base_fee, node.tip = 7 * 10**9, 2 * 10**9

    steps(dearer)
    receipt = one.send(transfer())
    offers = [node._decode(raw) for raw in node.sent]
    assert receipt.tx_hash == offers[-1].hash
    assert len(node.mined()) == 1
    assert len({offer.nonce for offer in offers}) == 1 < len(offers)
    for before, after in itertools.pairwise(offers):
        assert 10 * after.most >= 11 * before.most
        assert 10 * after.tip >= 11 * before.tip


def test_the_first_variant_may_win(node: PoolNode, steps: Steps) -> None:
    one = sender(node, bump_after=0.0)
    first: list[bytes] = []

    def first_wins() -> None:
        first.append(node.sent[0])
        node.pool = {key: node._decode(node.sent[0]) for key in node.pool}
        node.mine()

    steps(lambda: None, lambda: None, first_wins)
    receipt = one.send(transfer())
    assert len(node.sent) > 1
    assert receipt.tx_hash == node._decode(first[0]).hash
    assert len(node.mined()) == 1


def test_a_stuck_legacy_transaction(node: PoolNode, steps: Steps) -> None:
    node.base_fee = None
    steps(lambda: None, lambda: None)
    sender(node, bump_after=0.0).send(transfer())
    prices = [node._decode(raw).most for raw in node.sent]
    assert len(prices) > 1
    assert all(10 * after >= 11 * before for before, after in itertools.pairwise(prices))


def test_never_above_the_ceiling(node: PoolNode, steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    steps(*[lambda: None] * 40)
    with caplog.at_level(logging.WARNING):
        sender(node, bump_after=0.0, max_fee=4 * 10**9).send(transfer())
    assert max(node._decode(raw).most for raw in node.sent) <= 4 * 10**9
    assert "chain.max_fee_gwei allows no more" in caplog.text


@pytest.mark.parametrize("base", [None, 6 * 10**9])
def test_a_chain_that_asks_too_much(node: PoolNode, steps: Steps, base: int | None) -> None:
    node.base_fee, node.gas_price = base, 6 * 10**9
    with pytest.raises(FeeLimitError, match=r"asks 6 gwei per unit of gas, chain\.max_fee_gwei allows 5"):
        sender(node, max_fee=5 * 10**9).send(transfer())
    assert node.sent == []


def test_what_waits_behind_a_stuck_one(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    """A dead process left a transaction that offers too little: it is brought on before what comes after."""
    left = sender(node, tmp_path / "j")
    left.submit([transfer(1)])
    node.base_fee = 20 * 10**9
    sender(node, tmp_path / "j", bump_after=0.0).send(transfer(2))
    assert [one.value for one in node.mined()] == [1, 2]


def test_a_signer_that_is_away_does_not_end_the_wait(node: PoolNode, steps: Steps) -> None:
    class Leaves(LocalSigner):
        asked = 0

        def sign_transaction(self, fields: Any) -> bytes:
            self.asked += 1
            if self.asked > 1:
                raise SignerAwayError("signer: nobody answers there")
            return super().sign_transaction(fields)

    steps(lambda: None, lambda: None)
    sender(node, account=Leaves(RICH), bump_after=0.0).send(transfer())
    assert len(node.sent) == 1


# --- reorganisations


@pytest.mark.parametrize("depth", range(1, 7))
def test_a_reorganisation_before_it_is_confirmed(node: PoolNode, steps: Steps, tmp_path: Path, depth: int) -> None:
    node.mine(8)
    steps(*[node.mine] * min(depth, 4), lambda: node.reorganise(depth))
    receipt = sender(node, tmp_path / "j", confirmations=5).send(transfer())
    assert len(set(node.sent)) == 1
    assert len(node.sent) == 2
    assert [one.hash for one in node.mined()] == [receipt.tx_hash]
    assert node.mined() == node.blocks[receipt.block].transactions
    assert len(node.blocks) - 1 >= receipt.block + 4


def test_a_reorganisation_that_keeps_it_in_another_block(node: PoolNode, steps: Steps) -> None:
    node.mine(3)
    one = sender(node, confirmations=3)
    steps(
        node.mine,
        node.mine,
        lambda: node.reorganise(2, instead=[node.sent[0]]),
    )
    receipt = one.send(transfer())
    assert len(node.sent) == 1
    assert node.blocks[receipt.block].transactions[0].hash == receipt.tx_hash


def test_depth_is_counted_on_the_chain_that_is(node: PoolNode, steps: Steps, monkeypatch: Patch) -> None:
    """The head is asked, then a reorganisation comes, then the receipt is asked: it must not be believed."""
    one = sender(node, confirmations=2)
    steps(node.mine, node.mine, node.mine)
    original, moved = one._mined, []

    def behind(entries: Any) -> Any:
        found = original(entries)
        if found and len(node.blocks) > 2 and not moved:
            moved.append(True)
            node.reorganise(2)
        return found

    monkeypatch.setattr(one, "_mined", behind)
    receipt = one.send(transfer())
    assert moved
    assert node.blocks[receipt.block].transactions[0].hash == receipt.tx_hash


@pytest.mark.parametrize("deep", [False, True])
def test_another_transaction_in_its_place(node: PoolNode, steps: Steps, tmp_path: Path, deep: bool) -> None:
    other = bytes(
        RICH.sign_transaction(
            {"to": OTHER, "value": 99, "nonce": 0, "gas": 21000, "gasPrice": 10**10, "chainId": 31337}
        ).raw_transaction
    )
    one = sender(node, tmp_path / "j", confirmations=3)
    node.mine(4)
    if deep:
        steps(node.mine, lambda: node.reorganise(1, instead=[other]))
        with pytest.raises(NonceTakenError, match=r"another one of 0x\w+ has its nonce 0"):
            one.send(transfer())
        assert len(set(node.sent)) == 1, "nothing else may be sent before somebody has looked"
        assert one.send(transfer()).block
        assert [t.value for t in node.mined()] == [99, 1]
    else:
        # a second reorganisation takes the other one out again before it is deep
        steps(node.mine, lambda: node.reorganise(1, instead=[other]), lambda: node.reorganise(1))
        one.send(transfer())
        assert [t.value for t in node.mined()] == [1]


def test_a_reorganisation_after_it_was_confirmed(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    node.mine(3)
    one = sender(node, tmp_path / "j", confirmations=2)
    one.send_many([transfer(1), transfer(2)])
    node.mine(2)
    node.reorganise(5)
    assert node.mined() == []
    assert one.settle() == 2
    node.mine()
    assert [t.value for t in node.mined()] == [1, 2]
    assert one.settle() == 0
    assert len(set(node.sent)) == 2
    one.send(transfer(3))
    assert [t.value for t in node.mined()] == [1, 2, 3]


def test_asking_again_for_what_was_thrown_out(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    """The same bytes again, and not one transaction to repair the chain and another one for who asks."""
    node.mine(3)
    one = sender(node, tmp_path / "j", confirmations=2)
    first = one.send(transfer(1))
    node.reorganise(4)
    again = one.send(transfer(1))
    assert again.tx_hash == first.tx_hash
    assert len(set(node.sent)) == 1
    assert len(node.mined()) == 1


def test_settled_transactions_are_forgotten(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    one = sender(node, tmp_path / "j")
    one.send(transfer(1))
    node.mine(medprov_ledger.transactions.SETTLED + 5)
    one.send(transfer(2))
    one.settle()
    assert [entry.newest.fields["value"] for entry in one.journal.entries("done")] == [2]


# --- the node's state


def test_a_node_that_is_syncing(node: PoolNode, steps: Steps) -> None:
    node.syncing = {"startingBlock": "0x0", "currentBlock": "0x5", "highestBlock": "0x9"}
    with pytest.raises(SyncingError, match=r"still catching up with its chain \(block 5\)"):
        sender(node).send(transfer())
    assert node.sent == []


def test_a_node_that_serves_another_chain_now(node: PoolNode, steps: Steps) -> None:
    one = sender(node)
    one.chain_id = 5
    with pytest.raises(WrongChainError, match="serves chain 31337 now, and not 5"):
        one.send(transfer())


def test_no_money(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    node.balance = 10**6
    one = sender(node, tmp_path / "j")
    with pytest.raises(NoFundsError, match=rf"{RICH.address} has 1e-12 of the chain's money and the transaction may"):
        one.send(transfer())
    assert one.journal.entries("open") == []
    node.balance = 10**20
    one.send(transfer())
    assert [t.nonce for t in node.mined()] == [0]


def test_no_money_in_the_middle_leaves_no_gap(node: PoolNode, steps: Steps, tmp_path: Path) -> None:
    """The second of three is refused, the third is taken: it would wait for ever for the second's nonce."""
    seen: list[str] = []

    one = sender(node, tmp_path / "j")
    original = node._send

    def refuse_second(raw: bytes) -> str:
        seen.append("")
        if len(seen) == 2:
            raise RuntimeError("insufficient funds")
        return original(raw)

    node._send = refuse_second  # type: ignore[method-assign]
    first, second, third = one.send_many([transfer(1), transfer(2), transfer(3)])
    assert isinstance(first, Receipt)
    assert isinstance(third, Receipt)
    assert isinstance(second, NoFundsError)
    assert [t.value for t in node.mined()] == [1, 2, 3]


@pytest.mark.parametrize(("hours", "words"), [(1, "60 minutes ahead of"), (-1, "60 minutes behind")])
def test_a_clock_that_is_off(
    node: PoolNode, steps: Steps, caplog: pytest.LogCaptureFixture, hours: int, words: str
) -> None:
    node.hours_ahead = hours
    one = sender(node)
    with caplog.at_level(logging.WARNING):
        one.send(transfer(1))
        one.send(transfer(2))
    assert caplog.text.count(words) == 1


def test_an_idle_chain_is_no_wrong_clock(node: PoolNode, steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    node.blocks[0].time -= 30 * 3600
    with caplog.at_level(logging.WARNING):
        sender(node).send(transfer())
    assert caplog.text == ""


def test_without_a_journal(node: PoolNode, steps: Steps) -> None:
    account: LocalAccount = RICH
    receipt = transact(connect_http(node.url), transfer(), account)
    assert receipt.gas == 21000
