"""medprov_ledger.json_rpc"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from eth_account import Account
from web3 import Web3

from medprov_ledger import json_rpc
from medprov_ledger.errors import ChainAwayError, ChainError, NoFundsError, RevertedError
from medprov_ledger.json_rpc import chain_errors, connect_http
from tests.unit.ledger.pool_node import PoolNode

Patch = pytest.MonkeyPatch
RICH = Account.from_key(b"\x01" * 32)


@pytest.fixture
def node() -> Iterator[PoolNode]:
    with PoolNode() as made:
        yield made


def raw(nonce: int, value: int = 1) -> bytes:
    fields = {"to": RICH.address, "value": value, "nonce": nonce, "gas": 21000, "gasPrice": 10**10, "chainId": 31337}
    return bytes(RICH.sign_transaction(fields).raw_transaction)


def test_sending_many(node: PoolNode, monkeypatch: Patch) -> None:
    monkeypatch.setattr(json_rpc, "CHUNK", 4)
    w3 = connect_http(node.url)
    transactions = [raw(nonce) for nonce in range(10)]
    assert json_rpc.send_raw(w3, transactions) == [None] * 10
    assert node.requests == 3
    assert json_rpc.send_raw(w3, transactions) == [None] * 10, "known is as good as new"
    node.mine()
    refusals = json_rpc.send_raw(w3, [raw(0, 2), raw(10)])
    assert "nonce too low" in str(refusals[0])
    assert refusals[1] is None


def test_looking_at_many(node: PoolNode) -> None:
    w3 = connect_http(node.url)
    transactions = [raw(0), raw(1), raw(5)]
    hashes = [bytes(Web3.keccak(one)) for one in [*transactions, b"unknown"]]
    json_rpc.send_raw(w3, transactions)
    node.mine()
    assert json_rpc.known(w3, hashes) == [True, True, True, False]
    places = json_rpc.receipts(w3, hashes)
    assert [place and place.block for place in places] == [1, 1, None, None]
    assert places[0] is not None
    assert places[0].tx_hash == hashes[0]
    assert (places[0].ok, places[0].gas, places[0].contract) == (True, 21000, None)
    assert json_rpc.estimate_gas(w3, [{"to": RICH.address, "value": n} for n in range(3)]) == [21000] * 3


def test_the_same_without_http(tester: Web3, chain: Any, people: Any) -> None:
    """eth-tester knows no batches, and answers in Python's types."""
    good = chain.registry.functions.anchorBatch(b"\x51" * 32, 1, "bafy")
    calls = [
        {"from": who.address, "to": good.address, "data": good._encode_transaction_data()}
        for who in (people.members[0], people.stranger)
    ]
    gas, refusal = json_rpc.estimate_gas(tester, calls)
    assert isinstance(gas, int)
    assert isinstance(refusal, RevertedError)
    assert refusal.error == "NotMember"
    receipt = chain.send(good, people.members[0])
    places = json_rpc.receipts(tester, [bytes.fromhex(receipt.tx_hash[2:]), b"\1" * 32])
    assert places[0] is not None
    assert (places[0].block, places[0].gas, places[1]) == (receipt.block, receipt.gas, None)
    assert json_rpc.known(tester, [bytes.fromhex(receipt.tx_hash[2:]), b"\1" * 32]) == [True, False]


@pytest.mark.parametrize("batches", [True, False])
def test_a_node_without_batches(node: PoolNode, batches: bool) -> None:
    node.batches = batches
    assert json_rpc.known(connect_http(node.url), [b"\1" * 32] * 5) == [False] * 5
    assert node.calls.count("eth_getTransactionByHash") == 5


@pytest.mark.parametrize("failure", ["busy", "drop"])
def test_asking_is_repeated(node: PoolNode, failure: str) -> None:
    left = iter([failure, failure])
    node.before = lambda method: next(left, None)
    assert connect_http(node.url).eth.block_number == 0
    assert node.requests == 3
    left = iter([failure])
    assert json_rpc.known(connect_http(node.url), [b"\1" * 32] * 2) == [False, False]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("failure", ["busy", "drop"])
def test_sending_is_not(node: PoolNode, failure: str, count: int) -> None:
    node.before = lambda method: failure
    with pytest.raises(ChainAwayError):
        json_rpc.send_raw(connect_http(node.url), [raw(nonce) for nonce in range(count)])
    assert node.requests == 1


@pytest.mark.parametrize(("method", "times"), [("eth_blockNumber", json_rpc.ATTEMPTS), ("eth_sendRawTransaction", 1)])
def test_only_reading_is_repeated(monkeypatch: Patch, method: Any, times: int) -> None:
    asked = []

    def drop(self: object, *args: object, **kwargs: object) -> None:
        asked.append(args)
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr(requests.Session, "request", drop)
    with pytest.raises(ChainError, match="no chain answers"), chain_errors("http://127.0.0.1:9"):
        connect_http("http://127.0.0.1:9").manager.request_blocking(method, ["0x00"])
    assert len(asked) == times


def test_pauses_grow_and_end(node: PoolNode, monkeypatch: Patch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(json_rpc.time, "sleep", pauses.append)
    node.before = lambda method: "busy"
    with pytest.raises(ChainAwayError, match="503"), chain_errors(node.url):
        connect_http(node.url).eth.get_block("latest")
    assert pauses == [json_rpc.PAUSE, 4 * json_rpc.PAUSE]


def test_a_refusal_is_not_asked_twice(node: PoolNode) -> None:
    with pytest.raises(ChainError, match="no eth_getLogs here"), chain_errors(node.url):
        connect_http(node.url).eth.get_logs({})
    assert node.requests == 1


@pytest.mark.parametrize(
    "words",
    [
        "insufficient funds for gas * price + value",
        "sender doesn't have enough funds to send tx",
        "The upfront cost is: 5 and the sender's account only has: 0",
        "insufficient balance",
    ],
)
def test_no_money_has_its_name(node: PoolNode, words: str) -> None:
    def refuse(raw: bytes) -> str:
        raise RuntimeError(words)

    node._send = refuse  # type: ignore[method-assign]
    assert isinstance(json_rpc.send_raw(connect_http(node.url), [raw(0)])[0], NoFundsError)


@pytest.mark.parametrize("error", [RecursionError("deep"), KeyError("result"), OSError(5, "Input/output error")])
def test_whatever_a_bad_node_causes(error: Exception) -> None:
    with pytest.raises(ChainError, match="http://node: "), chain_errors("http://node"):
        raise error


def test_programming_errors_pass() -> None:
    with pytest.raises(AssertionError), chain_errors("http://node"):
        raise AssertionError
