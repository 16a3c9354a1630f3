"""medprov_ledger.evm_server"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from eth_account import Account
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web3 import Web3
from web3.exceptions import TransactionNotFound

from medprov_ledger.chain import connect_http, transact
from medprov_ledger.contracts import artifact
from medprov_ledger.deploy import Founder, deploy
from medprov_ledger.evm_chain import EvmChain
from medprov_ledger.evm_server import MAX_BODY, Rpc, main, make_server

RICH = Account.from_key(b"\x01" * 32)


@pytest.fixture(scope="module")
def rpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rpc]:
    chain = EvmChain(tmp_path_factory.mktemp("evm") / "journal", 31337, {RICH.address: 10**21})
    yield Rpc(chain)
    chain.close()


@pytest.fixture(scope="module")
def url(rpc: Rpc) -> Iterator[str]:
    server = make_server(rpc, 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def w3(url: str) -> Web3:
    return connect_http(url)


def ask(rpc: Rpc, method: Any, *params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
    return json.loads(rpc.answer(body.encode()))


def test_web3_reads_everything(w3: Web3) -> None:
    other = Account.create().address
    receipt = transact(w3, {"to": other, "value": 5}, RICH)
    block = w3.eth.get_block(receipt.block)
    assert w3.eth.chain_id == 31337
    assert w3.net.version == "31337"
    assert w3.client_version.startswith("medprov")
    assert w3.eth.get_balance(other) == 5
    assert w3.eth.get_balance(other, receipt.block - 1) == 0
    assert w3.eth.get_code(other) == b""
    assert block["timestamp"] == receipt.time
    assert w3.eth.get_block(block["hash"])["number"] == receipt.block
    assert w3.eth.get_block("earliest")["number"] == 0
    full = w3.eth.get_block(receipt.block, full_transactions=True)["transactions"][0]
    found = w3.eth.get_transaction(receipt.tx_hash)
    assert full == found
    assert (found["from"], found["to"], found["value"]) == (RICH.address, other, 5)
    assert found["blockHash"] == block["hash"]
    assert w3.eth.gas_price > w3.eth.max_priority_fee > 0
    history = w3.eth.fee_history(2, "latest", [50])
    assert len(history["baseFeePerGas"]) == len(history["gasUsedRatio"]) + 1
    assert history["baseFeePerGas"][-2] == block["baseFeePerGas"]


def test_legacy_transaction(w3: Web3) -> None:
    fields = {"nonce": w3.eth.get_transaction_count(RICH.address), "to": RICH.address, "value": 1, "gas": 21000}
    signed = RICH.sign_transaction({**fields, "gasPrice": w3.eth.gas_price, "chainId": 31337})
    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(signed.raw_transaction))
    assert (receipt["status"], receipt["type"]) == (1, 0)
    assert w3.eth.get_transaction(receipt["transactionHash"])["v"] in (31337 * 2 + 35, 31337 * 2 + 36)


def test_a_failed_transaction_is_mined(w3: Web3) -> None:
    fields = {"nonce": w3.eth.get_transaction_count(RICH.address), "gas": 60000, "data": "0xfe", "chainId": 31337}
    signed = RICH.sign_transaction({**fields, "gasPrice": w3.eth.gas_price, "to": b""})
    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(signed.raw_transaction))
    assert receipt["status"] == 0
    assert receipt["contractAddress"] is None


def test_logs_by_range_address_and_topic(w3: Web3) -> None:
    made = deploy(w3, RICH, os.urandom(32), [Founder(RICH.address, "a", b"\1" * 32)], 1)
    federation: Any = w3.eth.contract(address=made.federation, abi=artifact("Federation").abi)
    blocks = [transact(w3, federation.functions.setReaderKey(bytes([n]) * 32), RICH).block for n in (2, 3, 4)]
    event = federation.events.ReaderKeyChanged()
    assert [log["args"]["readerKey"][0] for log in event.get_logs(from_block=0)] == [1, 2, 3, 4]
    assert len(event.get_logs(from_block=blocks[1], to_block=blocks[1])) == 1
    assert len(event.get_logs(from_block=0, argument_filters={"account": RICH.address})) == 4
    assert event.get_logs(from_block=0, argument_filters={"account": made.registry}) == []
    assert w3.eth.get_logs({"address": made.registry, "fromBlock": 0}) == []
    by_hash = w3.eth.get_logs({"blockHash": w3.eth.get_block(blocks[0])["hash"]})
    assert [log["blockNumber"] for log in by_hash] == [blocks[0]]
    assert len(w3.eth.get_logs({"fromBlock": 0, "topics": [None]})) >= 4
    assert len(w3.eth.get_logs({"fromBlock": 0, "address": [made.federation, made.registry]})) > 4


def test_what_is_not_there(w3: Web3, rpc: Rpc) -> None:
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction_receipt("0x" + "11" * 32)
    assert ask(rpc, "eth_getTransactionByHash", "0x" + "11" * 32)["result"] is None
    assert ask(rpc, "eth_getBlockByNumber", "0xffffff", False)["result"] is None
    assert ask(rpc, "eth_getBlockByHash", "0x" + "11" * 32, False)["result"] is None
    assert ask(rpc, "eth_getLogs", {"blockHash": "0x" + "11" * 32})["error"]["code"] == -32000
    assert ask(rpc, "eth_getBalance", "0x" + "11" * 20, "0xffffff")["error"]["message"].startswith("no block")
    assert ask(rpc, "eth_mining")["error"]["code"] == -32601


def test_batches(rpc: Rpc) -> None:
    calls = [{"jsonrpc": "2.0", "id": n, "method": "eth_chainId"} for n in range(3)] + [7]  # type: ignore[list-item]
    answers = json.loads(rpc.answer(json.dumps(calls).encode()))
    assert [answer.get("result") for answer in answers] == ["0x7a69"] * 3 + [None]
    assert answers[3]["error"]["code"] == -32600
    assert json.loads(rpc.answer(b"[]"))["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b"3", -32600),
        (b"{}", -32600),
        (b'{"method":5}', -32600),
        (b'{"method":"eth_chainId","params":{}}', -32600),
        (b'{"method":"eth_chainId","params":{"a":1}}', -32602),
        (b'{"method":"eth_chainId","params":[1,2,3]}', -32602),
        (b"[" * 1_000_000, -32600),
        (b'{"a":' * 1_000_000, -32600),
    ],
)
def test_malformed_bodies(rpc: Rpc, body: bytes, code: int) -> None:
    answer = json.loads(rpc.answer(body))
    if body == b'{"method":"eth_chainId","params":{}}':
        assert answer["result"] == "0x7a69", "an empty object stands for no parameters"
    else:
        assert answer["error"]["code"] == code


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(["0x", "0x1", "latest"])
PARAMETERS = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["to", "from", "data", "value", "gas", "topics", "address", "fromBlock"]), inner
        )
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), parameters=st.lists(PARAMETERS, max_size=3))
def test_any_parameters_get_an_answer(rpc: Rpc, data: Any, parameters: list[Any]) -> None:
    method = data.draw(st.sampled_from(sorted(rpc.methods)))
    answer = ask(rpc, method, *parameters)
    assert ("result" in answer) != ("error" in answer)


def test_only_json_is_taken(url: str) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}'
    session = requests.Session()
    session.trust_env = False
    assert session.post(url, data=body, headers={"Content-Type": "application/json"}).json()["result"] == "0x7a69"
    plain = session.post(url, data=body, headers={"Content-Type": "text/plain"})
    assert (plain.status_code, plain.headers["Connection"]) == (415, "close")
    huge = {"Content-Type": "application/json", "Content-Length": str(MAX_BODY + 1)}
    refused = session.post(url, data=b"", headers=huge)
    assert (refused.status_code, refused.headers["Connection"]) == (413, "close")
    assert session.get(url).status_code == 501


def test_command_line_names_a_damaged_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "journal").write_text("nonsense\n")
    assert main(["--journal", str(tmp_path / "journal"), "--port", "0"]) == 1
    assert "line 1 is not the beginning of a journal" in caplog.text


def test_command_line_names_a_taken_port(tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    port = url.rpartition(":")[2]
    assert main(["--journal", str(tmp_path / "journal"), "--port", port]) == 1
    assert f"127.0.0.1:{port}: cannot listen" in caplog.text
