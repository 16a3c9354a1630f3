"""Serves :class:`medprov_ledger.evm_chain.EvmChain` over JSON-RPC on the loopback interface.

Run as ``python -m medprov_ledger.evm_server --journal FILE --port PORT``. For development: it has no accounts of its
own, one block per transaction, no mempool, and only the methods that web3 needs for deploying, sending, calling and
reading logs (Ethereum JSON-RPC specification, https://ethereum.github.io/execution-apis).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .evm_chain import GAS_LIMIT, EvmChain, ExecutionError, JournalError, Log, Mined, RefusedError

HOST = "127.0.0.1"
MAX_BODY = 4 << 20
MAX_BRACKETS = 8000
TIP = 1_000_000_000
"""Priority fee that is proposed, wei."""

_log = logging.getLogger(__name__)


class RpcError(Exception):
    """A JSON-RPC error answer.

    Parameters
    ----------
    code : int
    message : str
    data : str or None
    """

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class Rpc:
    """The methods, on one chain.

    Parameters
    ----------
    chain : EvmChain
    """

    def __init__(self, chain: EvmChain) -> None:
        self.chain = chain
        self.lock = threading.Lock()
        self.methods: dict[str, Callable[..., Any]] = {
            "web3_clientVersion": lambda: "medprov-evm/1",
            "net_version": lambda: str(chain.chain_id),
            "eth_chainId": lambda: hex(chain.chain_id),
            "eth_accounts": lambda: [],
            "eth_syncing": lambda: False,
            "eth_blockNumber": lambda: hex(chain.head),
            "eth_gasPrice": lambda: hex(chain.base_fee + TIP),
            "eth_maxPriorityFeePerGas": lambda: hex(TIP),
            "eth_feeHistory": self.fee_history,
            "eth_getBlockByNumber": self.block_by_number,
            "eth_getBlockByHash": self.block_by_hash,
            "eth_getTransactionByHash": self.transaction,
            "eth_getTransactionReceipt": self.receipt,
            "eth_getTransactionCount": lambda address, block="latest": hex(self._account(address, block)[0]),
            "eth_getBalance": lambda address, block="latest": hex(self._account(address, block)[1]),
            "eth_getCode": lambda address, block="latest": _hex(self._account(address, block)[2]),
            "eth_sendRawTransaction": lambda raw: _hex(chain.send(_bytes(raw))),
            "eth_call": self.call,
            "eth_estimateGas": self.estimate,
            "eth_getLogs": self.logs,
        }

    def answer(self, body: bytes) -> bytes:
        """Answer one HTTP request's body: a call or a batch of calls."""
        # py-evm raises Python's recursion limit so far that a deeply nested text would overflow the C stack
        if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
            return _encode(_failure(None, RpcError(-32600, "too many lists and objects in one request")))
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return _encode(_failure(None, RpcError(-32700, "the body is not JSON")))
        if isinstance(request, list):
            return _encode([self._single(item) for item in request] or _failure(None, RpcError(-32600, "empty batch")))
        return _encode(self._single(request))

    def _single(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failure(None, RpcError(-32600, "not a JSON-RPC call"))
        identifier, parameters = request.get("id"), request.get("params") or []
        method = self.methods.get(request["method"])
        try:
            if method is None:
                raise RpcError(-32601, f"the method {request['method'][:80]} is not available here")
            if not isinstance(parameters, list):
                raise RpcError(-32602, "params must be a list")
            with self.lock:
                result = method(*parameters)
        except RpcError as error:
            return _failure(identifier, error)
        except ExecutionError as error:
            return _failure(identifier, RpcError(3, str(error), _hex(error.data)))
        except RefusedError as error:
            return _failure(identifier, RpcError(-32000, str(error)))
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            # whatever a client may send in place of an address, number or filter
            return _failure(identifier, RpcError(-32602, f"parameters not understood ({type(error).__name__})"))
        return {"jsonrpc": "2.0", "id": identifier, "result": result}

    def _number(self, block: Any) -> int:
        if block in (None, "latest", "pending", "safe", "finalized"):
            return self.chain.head
        if block == "earliest":
            return 0
        return int(block, 16)

    def _account(self, address: str, block: Any) -> tuple[int, int, bytes]:
        return self.chain.account(_address(address), self._number(block))

    def fee_history(self, count: Any, newest: Any = "latest", percentiles: Any = None) -> dict[str, Any]:
        """``eth_feeHistory``: base fees of the last blocks and of the next one."""
        last = min(self._number(newest), self.chain.head)
        wanted = int(count, 16) if isinstance(count, str) else int(count)
        headers = [self.chain.header(number) for number in range(max(0, last - min(wanted, 1024) + 1), last + 1)]
        known = [header for header in headers if header is not None]
        following = self.chain.header(last + 1)
        next_fee = self.chain.base_fee if following is None else int(following.base_fee_per_gas or 0)
        return {
            "oldestBlock": hex(last - len(known) + 1),
            "baseFeePerGas": [*(hex(header.base_fee_per_gas or 0) for header in known), hex(next_fee)],
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in known],
            "reward": [[hex(TIP)] * len(percentiles or []) for _ in known],
        }

    def block_by_number(self, block: Any, full: bool = False) -> dict[str, Any] | None:
        """``eth_getBlockByNumber``."""
        number = self._number(block)
        header = self.chain.header(number)
        if header is None:
            return None
        mined = self.chain.blocks[number - 1] if number else None
        transactions: list[Any] = []
        if mined is not None:
            transactions = [_transaction(mined) if full else _hex(mined.transaction.hash)]
        return {
            "number": hex(number),
            "hash": _hex(header.hash),
            "parentHash": _hex(header.parent_hash),
            "nonce": _hex(header.nonce),
            "sha3Uncles": _hex(header.uncles_hash),
            "logsBloom": _hex(header.bloom.to_bytes(256, "big")),
            "transactionsRoot": _hex(header.transaction_root),
            "receiptsRoot": _hex(header.receipt_root),
            "stateRoot": _hex(header.state_root),
            "miner": _hex(header.coinbase),
            "difficulty": hex(header.difficulty),
            "totalDifficulty": "0x0",
            "mixHash": _hex(header.mix_hash),
            "extraData": _hex(header.extra_data),
            "size": hex(mined.size if mined else 0),
            "gasLimit": hex(header.gas_limit),
            "gasUsed": hex(header.gas_used),
            "baseFeePerGas": hex(header.base_fee_per_gas or 0),
            "timestamp": hex(header.timestamp),
            "transactions": transactions,
            "uncles": [],
        }

    def block_by_hash(self, block_hash: str, full: bool = False) -> dict[str, Any] | None:
        """``eth_getBlockByHash``."""
        wanted = _bytes(block_hash)
        for number in range(self.chain.head, -1, -1):
            header = self.chain.header(number)
            if header is not None and header.hash == wanted:
                return self.block_by_number(hex(number), full)
        return None

    def transaction(self, transaction_hash: str) -> dict[str, Any] | None:
        """``eth_getTransactionByHash``."""
        mined = self.chain.by_hash.get(_bytes(transaction_hash))
        return _transaction(mined) if mined else None

    def receipt(self, transaction_hash: str) -> dict[str, Any] | None:
        """``eth_getTransactionReceipt``."""
        mined = self.chain.by_hash.get(_bytes(transaction_hash))
        if mined is None:
            return None
        transaction, header = mined.transaction, mined.header
        return {
            "transactionHash": _hex(transaction.hash),
            "transactionIndex": "0x0",
            "blockHash": _hex(header.hash),
            "blockNumber": hex(header.block_number),
            "from": _hex(transaction.sender),
            "to": _hex(transaction.to) if transaction.to else None,
            "cumulativeGasUsed": hex(mined.gas_used),
            "gasUsed": hex(mined.gas_used),
            "effectiveGasPrice": hex(_price(mined)),
            "contractAddress": _hex(mined.contract) if mined.contract else None,
            "logs": [self._log_fields(log) for log in mined.logs],
            "logsBloom": _hex(header.bloom.to_bytes(256, "big")),
            "status": hex(mined.ok),
            "type": hex(mined.type),
        }

    def call(self, message: dict[str, Any], block: Any = "latest", overrides: Any = None) -> str:
        """``eth_call``."""
        sender, to, data, value = _message(message)
        gas = min(int(message["gas"], 16), GAS_LIMIT) if message.get("gas") else GAS_LIMIT
        return _hex(self.chain.call(sender, to, data, value, gas, self._number(block)).output)

    def estimate(self, message: dict[str, Any], block: Any = "latest") -> str:
        """``eth_estimateGas``."""
        return hex(self.chain.estimate(*_message(message)))

    def logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """``eth_getLogs``: by block range or block hash, addresses and topics."""
        if wanted.get("blockHash"):
            block = self.block_by_hash(wanted["blockHash"])
            if block is None:
                raise RpcError(-32000, "unknown block")
            first = last = int(block["number"], 16)
        else:
            first = self._number(wanted.get("fromBlock", "latest"))
            last = self._number(wanted.get("toBlock", "latest"))
        given = wanted.get("address")
        addresses = {_address(item) for item in (given if isinstance(given, list) else [given] if given else [])}
        topics = [
            None if item is None else {_bytes(one) for one in (item if isinstance(item, list) else [item])}
            for item in wanted.get("topics") or []
        ]
        return [
            self._log_fields(log)
            for log in self.chain.logs
            if first <= log.block <= last and (not addresses or log.address in addresses) and _topics_fit(log, topics)
        ]

    def _log_fields(self, log: Log) -> dict[str, Any]:
        mined = self.chain.blocks[log.block - 1]
        return {
            "address": _hex(log.address),
            "topics": [_hex(topic) for topic in log.topics],
            "data": _hex(log.data),
            "blockNumber": hex(log.block),
            "blockHash": _hex(mined.header.hash),
            "transactionHash": _hex(mined.transaction.hash),
            "transactionIndex": "0x0",
            "logIndex": hex(log.index),
            "removed": False,
        }


def make_server(rpc: Rpc, port: int) -> ThreadingHTTPServer:
    """A server on the loopback interface, bound and not yet running; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        # headers and body go out in one packet: otherwise every answer waits for the client's delayed acknowledgement
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            if self.headers.get_content_type() != "application/json":
                # a web page may send text/plain to any address without asking; this it may not
                self.close_connection = True  # the unread body must not pass for the next request
                self._reply(415, b"application/json only\n")
                return
            try:
                length = int(self.headers.get("Content-Length", ""))
            except ValueError:
                length = -1
            if not 0 <= length <= MAX_BODY:
                self.close_connection = True
                self._reply(413, b"body too large, or its length is missing\n")
                return
            try:
                answer = rpc.answer(self.rfile.read(length))
            except JournalError as error:
                _log.critical("%s", error)
                os._exit(3)
            self._reply(200, answer)

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                # a client that is not told would send its next request into a closing connection
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: one line per request would fill the log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    return Server((HOST, port), Handler)


def _message(message: dict[str, Any]) -> tuple[bytes, bytes, bytes, int]:
    sender = _address(message["from"]) if message.get("from") else bytes(20)
    to = _address(message["to"]) if message.get("to") else b""
    data = _bytes(message.get("input") or message.get("data") or "0x")
    return sender, to, data, int(message.get("value") or "0x0", 16)


def _price(mined: Mined) -> int:
    transaction = mined.transaction
    if mined.type < 2:
        return int(transaction.max_fee_per_gas)
    base = int(mined.header.base_fee_per_gas or 0)
    return min(int(transaction.max_fee_per_gas), int(transaction.max_priority_fee_per_gas) + base)


def _transaction(mined: Mined) -> dict[str, Any]:
    transaction = mined.transaction
    fields: dict[str, Any] = {
        "hash": _hex(transaction.hash),
        "type": hex(mined.type),
        "blockHash": _hex(mined.header.hash),
        "blockNumber": hex(mined.header.block_number),
        "transactionIndex": "0x0",
        "from": _hex(transaction.sender),
        "to": _hex(transaction.to) if transaction.to else None,
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas),
        "gasPrice": hex(_price(mined)),
        "value": hex(transaction.value),
        "input": _hex(transaction.data),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
        "v": hex(getattr(transaction, "v", None) or transaction.y_parity),
    }
    if mined.type >= 2:
        fields["maxFeePerGas"] = hex(transaction.max_fee_per_gas)
        fields["maxPriorityFeePerGas"] = hex(transaction.max_priority_fee_per_gas)
    return fields


def _topics_fit(log: Log, topics: list[set[bytes] | None]) -> bool:
    if len(topics) > len(log.topics):
        return False
    return all(wanted is None or topic in wanted for wanted, topic in zip(topics, log.topics, strict=False))


def _hex(value: bytes) -> str:
    return "0x" + value.hex()


def _bytes(text: str) -> bytes:
    if text[:2] != "0x":
        raise ValueError
    return bytes.fromhex(text[2:])


def _address(text: str) -> bytes:
    value = _bytes(text)
    if len(value) != 20:
        raise ValueError
    return value


def _failure(identifier: Any, error: RpcError) -> dict[str, Any]:
    fields: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.data is not None:
        fields["data"] = error.data
    return {"jsonrpc": "2.0", "id": identifier, "error": fields}


def _encode(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status is 1 where the journal or the port cannot be used."""
    parser = argparse.ArgumentParser(description="Development chain on the Python EVM.")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chain-id", type=int, default=31337)
    parser.add_argument(
        "--fund", action="append", default=[], metavar="ADDRESS", help="give 10000 ether at the beginning"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        chain = EvmChain(options.journal, options.chain_id, {address: 10**22 for address in options.fund})
        server = make_server(Rpc(chain), options.port)
    except JournalError as error:
        _log.error("%s", error)
        return 1
    except OSError as error:
        _log.error("%s:%d: cannot listen (%s)", HOST, options.port, error.strerror)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _log.info("chain %d with %d blocks on %s:%d", options.chain_id, chain.head, HOST, server.server_port)
    stop.wait()
    server.shutdown()
    chain.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
