"""medprov_ledger.chain"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from web3 import Web3
from web3.contract.contract import ContractFunction

import medprov_ledger.transactions
from medprov_ledger.chain import Chain, Receipt, connect_http, transact
from medprov_ledger.config import HospitalConfig
from medprov_ledger.errors import (
    ChainAwayError,
    ChainError,
    ContractAbsentError,
    RevertedError,
    SignerAwayError,
    WrongChainError,
)
from medprov_ledger.signer import LocalSigner

Patch = pytest.MonkeyPatch


def batch(chain: Chain) -> Any:
    return chain.registry.functions.anchorBatch(os.urandom(32), 1, "bafy")


def test_send_gives_a_receipt(chain: Chain, people: Any, tester: Web3) -> None:
    receipt = chain.send(batch(chain), people.members[0])
    mined = tester.eth.get_transaction_receipt(receipt.tx_hash)
    assert mined["blockNumber"] == receipt.block
    assert mined["gasUsed"] == receipt.gas
    assert chain.time_of(receipt.block) == receipt.time
    assert chain.head() >= receipt.block
    assert receipt.contract is None


def test_refusal_has_its_name(chain: Chain, people: Any) -> None:
    with pytest.raises(RevertedError, match="NotMember") as caught:
        chain.send(batch(chain), people.stranger)
    assert caught.value.error == "NotMember"
    assert "\n" not in str(caught.value)


def test_view_refusal_has_its_name(chain: Chain, people: Any) -> None:
    function = chain.federation.functions.isMemberAt(people.stranger.address, 10**9)
    with pytest.raises(RevertedError) as caught:
        chain.call(function)
    assert caught.value.error == "FutureBlock"


def test_refusal_after_mining_has_its_name(chain: Chain, people: Any, tester: Web3, monkeypatch: Patch) -> None:
    """Two equal transactions at once: each passes the estimate, the second fails in its block."""
    function = batch(chain)
    chain.send(function, people.members[0])
    monkeypatch.setattr(tester.eth, "estimate_gas", lambda *_: 300_000)
    before = chain.head()
    with pytest.raises(RevertedError) as caught:
        chain.send(function, people.members[0])
    assert caught.value.error == "RootAlreadyAnchored"
    assert chain.head() == before + 1


def test_wrong_chain_id(chain: Chain, tester: Web3) -> None:
    with pytest.raises(WrongChainError, match=r"but medprov\.toml says 5"):
        Chain(replace(chain.config, chain_id=5), tester)


@pytest.mark.parametrize("field", ["federation_address", "registry_address"])
def test_no_contract_at_the_address(chain: Chain, tester: Web3, field: str) -> None:
    with pytest.raises(ContractAbsentError, match="0x" + "12" * 20):
        Chain(replace(chain.config, **{field: "0x" + "12" * 20}), tester)


@pytest.mark.parametrize("name", ["Federation", "ProvenanceRegistry"])
def test_other_code_is_read_but_not_written_to(chain: Chain, people: Any, tester: Web3, name: str) -> None:
    """A contract that answers like ours, but was not compiled from our sources."""
    fresh = Chain(chain.config, tester)
    fresh._codes[name] = fresh._codes[name].replace(b"\x60\x80", b"\x60\x81", 1)
    assert fresh.call(fresh.federation.functions.threshold()) == 2
    with pytest.raises(ContractAbsentError, match=f"is not the {name} of this release"):
        fresh.send(batch(fresh), people.members[0])


def test_a_hospital_keeps_a_journal(make_chain: Any, people: Any, tmp_path: Path) -> None:
    files = (tmp_path / "keystore.json", tmp_path / "password", tmp_path / "reader.pem")
    home = HospitalConfig("a", people.members[0].address.lower(), *files, tmp_path / "state")
    chain = make_chain(hospitals={"a": home})
    receipt = chain.send(batch(chain), people.members[0])
    chain.send(batch(chain), people.members[1])
    kept = chain.sender(people.members[0]).journal
    assert kept.path == tmp_path / "state" / "transactions.sqlite"
    assert [Web3.to_hex(one.newest.tx_hash) for one in kept.entries("done")] == [receipt.tx_hash]
    assert not chain.sender(people.members[1]).journal.lasting
    assert chain.settle(people.members[0]) == 0


def test_several_at_once(chain: Chain, people: Any) -> None:
    good, other, bad = batch(chain), batch(chain), chain.registry.functions.anchorBatch(bytes(32), 1, "bafy")
    first, refused, last = chain.wait(chain.submit([good, bad, other], people.members[1]), people.members[1])
    assert isinstance(first, Receipt)
    assert isinstance(last, Receipt)
    assert isinstance(refused, RevertedError)
    assert refused.error == "ZeroHash"
    assert chain.send_many([batch(chain)], people.members[1])[0].block == chain.head()  # type: ignore[union-attr]


def test_another_contract_at_the_address(chain: Chain, tester: Web3) -> None:
    swapped = replace(
        chain.config,
        federation_address=chain.config.registry_address,
        registry_address=chain.config.federation_address,
    )
    with pytest.raises(ContractAbsentError, match="is not a Federation contract"):
        Chain(swapped, tester)


def test_another_federation(chain: Chain, make_chain: Any, tester: Web3) -> None:
    with pytest.raises(WrongChainError, match=r"federation\.id is not the id"):
        Chain(replace(chain.config, federation_id=bytes(32)), tester)
    other = make_chain().config
    with pytest.raises(WrongChainError, match="belongs to another federation"):
        Chain(replace(chain.config, registry_address=other.registry_address), tester)


def test_nobody_answers(chain: Chain) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ChainError, match=rf"127\.0\.0\.1:{port}: no chain answers there") as caught:
        Chain.connect(replace(chain.config, rpc=f"http://127.0.0.1:{port}"))
    assert "\n" not in str(caught.value)


@contextmanager
def web_server(status: int, body: bytes) -> Iterator[str]:
    """Something that speaks HTTP and is no chain."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"jsonrpc":"2.0","id":0,"result":null}'),
        (200, b'{"jsonrpc":"2.0","id":0,"result":"0xzz"}'),
        (200, b'{"jsonrpc":"2.0","id":0,"result":{"a":[1]}}'),
        (200, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no such\\nmethod"}}'),
        (200, b"[" * 5000),
        (404, b"not here"),
        (500, b"{}"),
    ],
)
def test_something_else_answers(chain: Chain, status: int, body: bytes) -> None:
    with web_server(status, body) as rpc, pytest.raises(ChainError) as caught:
        Chain.connect(replace(chain.config, rpc=rpc))
    assert "\n" not in str(caught.value)
    assert rpc in str(caught.value)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_node_s_password_and_key_are_not_said(chain: Chain, status: int) -> None:
    with web_server(status, b"<html>") as rpc, pytest.raises(ChainError) as caught:
        Chain.connect(replace(chain.config, rpc=rpc.replace("//", "//me:secret@") + "/v3/hidden?key=covered"))
    assert f"{rpc}/...: " in str(caught.value)
    assert not any(word in str(caught.value) for word in ("me:", "secret", "hidden", "covered"))


def test_nor_where_nobody_answers(chain: Chain, people: Any) -> None:
    with pytest.raises(ChainAwayError, match=r"^http://127\.0\.0\.1:9: no chain answers there"):
        Chain.connect(replace(chain.config, rpc="http://me:secret@127.0.0.1:9"))
    with pytest.raises(ChainAwayError, match=r"^http://127\.0\.0\.1:9: no chain answers there"):
        transact(connect_http("http://me:secret@127.0.0.1:9"), {"to": people.stranger.address}, people.stranger)


def test_a_node_that_goes_away_is_no_missing_contract(chain: Chain, tester: Web3, monkeypatch: Patch) -> None:
    def away(*_: object) -> None:
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr(ContractFunction, "call", away)
    with pytest.raises(ChainAwayError):
        Chain(chain.config, tester)


def test_node_hangs(chain: Chain) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        rpc = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ChainError, match="did not answer in time"):
            Chain.connect(replace(chain.config, rpc=rpc, timeout=0.1))


def test_waits_for_confirmations(make_chain: Any, people: Any, tester: Web3, monkeypatch: Patch) -> None:
    chain = make_chain(confirmations=3)
    mined: list[int] = []

    def mine(_: float) -> None:
        tester.provider.ethereum_tester.mine_block()  # type: ignore[attr-defined]
        mined.append(chain.head())

    monkeypatch.setattr(medprov_ledger.transactions.time, "sleep", mine)
    receipt = chain.send(batch(chain), people.members[0])
    assert len(mined) == 2
    assert receipt.block <= chain.confirmed_head() < receipt.block + 1


def test_confirmation_takes_too_long(make_chain: Any, people: Any) -> None:
    chain = make_chain(confirmations=3, confirmation_timeout=0.05)
    with pytest.raises(ChainError, match=r"is not 3 block\(s\) deep after 0\.05 s"):
        chain.send(batch(chain), people.members[0])


def test_reorganisation_throws_it_out(make_chain: Any, people: Any, tester: Web3, monkeypatch: Patch) -> None:
    chain = make_chain(confirmations=2)
    node = tester.provider.ethereum_tester  # type: ignore[attr-defined]
    before = node.take_snapshot()
    steps = iter([lambda: node.revert_to_snapshot(before), lambda: None, node.mine_block])
    monkeypatch.setattr(medprov_ledger.transactions.time, "sleep", lambda _: next(steps)())
    root = os.urandom(32)
    receipt = chain.send(chain.registry.functions.anchorBatch(root, 1, "bafy"), people.members[0])
    assert chain.registry.functions.anchor(people.members[0].address, root).call()[0] == receipt.block
    assert chain.head() == receipt.block + 1


def test_nonce_taken_by_another_process(chain: Chain, people: Any, tester: Web3, monkeypatch: Patch) -> None:
    right = tester.eth.get_transaction_count
    stale = iter([right(people.members[2].address) + 7])
    monkeypatch.setattr(tester.eth, "get_transaction_count", lambda *args: next(stale, None) or right(*args))
    assert chain.send(batch(chain), people.members[2]).block == chain.head()


def test_other_refusals_are_not_repeated(chain: Chain, people: Any, tester: Web3, monkeypatch: Patch) -> None:
    calls = []

    def refuse(raw: Any) -> Any:
        calls.append(raw)
        raise ValueError("insufficient funds")

    monkeypatch.setattr(tester.eth, "send_raw_transaction", refuse)
    with pytest.raises(ChainError, match="insufficient funds"):
        chain.send(batch(chain), people.members[2])
    assert len(calls) == 1


def test_plain_transfer(people: Any, tester: Web3) -> None:
    before = tester.eth.get_balance(people.stranger.address)
    receipt = transact(tester, {"to": people.stranger.address, "value": 5}, people.deployer)
    assert tester.eth.get_balance(people.stranger.address) == before + 5
    assert receipt.gas == 21000


class LimitedEvent:
    """An event of a node that answers for at most four blocks at once."""

    asked: list[tuple[int, int]]

    def __init__(self, hidden: int | None = None) -> None:
        self.asked, self.hidden = [], hidden

    def __call__(self) -> LimitedEvent:
        return self

    def get_logs(self, from_block: int, to_block: int, argument_filters: Any) -> list[dict[str, int]]:
        if to_block - from_block >= 4 or (self.hidden is not None and from_block <= self.hidden <= to_block):
            raise ValueError("block range too large")
        self.asked.append((from_block, to_block))
        return [{"blockNumber": n, "logIndex": i} for n in range(to_block, from_block - 1, -1) for i in (1, 0)]


def test_ranges_are_halved(chain: Chain) -> None:
    event = LimitedEvent()
    found = [(log["blockNumber"], log["logIndex"]) for log in chain.events(event, 3, 25)]
    assert found == [(n, i) for n in range(3, 26) for i in (0, 1)]
    assert all(last - first < 4 for first, last in event.asked)


def test_one_block_that_fails_is_an_error(chain: Chain) -> None:
    with pytest.raises(ChainError, match="block range too large"):
        list(chain.events(LimitedEvent(hidden=9), 3, 25))


def test_empty_range(chain: Chain) -> None:
    assert list(chain.events(LimitedEvent(), 5, 4)) == []


def test_who_signs_now_counts_and_not_who_signed_first(chain: Chain, people: Any) -> None:
    class Gone(LocalSigner):
        def sign_transaction(self, fields: Mapping[str, Any]) -> bytes:
            raise SignerAwayError("the service is gone")

    account = people.members[0]
    with pytest.raises(SignerAwayError):
        chain.send(batch(chain), Gone(account))
    assert chain.send(batch(chain), account).block > 0
