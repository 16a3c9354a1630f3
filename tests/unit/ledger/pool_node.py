"""A node that does what the test says: a pool and blocks without an EVM, over JSON-RPC."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes
from web3 import Web3


@dataclass(frozen=True)
class Transaction:
    raw: bytes
    hash: str
    sender: str
    nonce: int
    most: int
    tip: int
    value: int


@dataclass
class Block:
    number: int
    time: int
    transactions: list[Transaction] = field(default_factory=list)
    hash: str = field(default_factory=lambda: "0x" + os.urandom(32).hex())


class PoolNode:
    """Mines when it is told to; every account has `balance` wei; a transaction whose value is 13 fails when mined."""

    def __init__(self) -> None:
        self.blocks = [Block(0, int(time.time()))]
        self.pool: dict[tuple[str, int], Transaction] = {}
        self.base_fee: int | None = 10**9
        self.tip, self.gas_price, self.balance = 10**9, 10**9, 10**20
        self.syncing: Any = False
        self.sent: list[bytes] = []
        self.calls: list[str] = []
        self.requests = 0
        self.hours_ahead = 0
        self.before: Callable[[str], str | None] = lambda method: None
        """Called with each method; an answer "drop" closes the connection after the work, "busy" gives status 503."""
        self.batches = True
        self.counts_pool = True
        """Whether the pool is counted in "pending": Ganache does not."""
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    # --- what the test does

    def mine(self, count: int = 1) -> None:
        with self._lock:
            for _ in range(count):
                block = Block(len(self.blocks), int(time.time()) + 3600 * self.hours_ahead)
                while True:
                    ready = [
                        one
                        for one in self.pool.values()
                        if one.nonce == self.count(one.sender) + sum(t.sender == one.sender for t in block.transactions)
                        and one.most >= (self.base_fee or 0)
                    ]
                    if not ready:
                        break
                    block.transactions.append(self.pool.pop((ready[0].sender, ready[0].nonce)))
                self.blocks.append(block)

    def reorganise(self, depth: int, *, instead: list[bytes] | None = None) -> None:
        """Replace the last blocks by as many others; their transactions are forgotten."""
        with self._lock:
            del self.blocks[len(self.blocks) - depth :]
            others = [self._decode(raw) for raw in instead or []]
            for number in range(depth):
                self.blocks.append(Block(len(self.blocks), int(time.time()), others if number == 0 else []))

    def forget_pool(self) -> None:
        with self._lock:
            self.pool.clear()

    def count(self, sender: str, block: int | None = None) -> int:
        blocks = self.blocks if block is None else self.blocks[: block + 1]
        return sum(one.sender == sender for block_ in blocks for one in block_.transactions)

    def mined(self) -> list[Transaction]:
        return [one for block in self.blocks for one in block.transactions]

    # --- the server

    def __enter__(self) -> PoolNode:
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer, how = node._answer(body)
                if how == "drop":
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                data = json.dumps(answer).encode()
                self.send_response(503 if how == "busy" else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, body: Any) -> tuple[Any, str | None]:
        with self._lock:
            self.requests += 1
            calls = body if isinstance(body, list) else [body]
            hows = [self.before(call["method"]) for call in calls]
            how = next((one for one in hows if one), None)
            if how == "busy":
                return {}, how
            if isinstance(body, list) and not self.batches:
                return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches here"}}, None
            answers = []
            for call in calls:
                self.calls.append(call["method"])
                try:
                    answers.append({"jsonrpc": "2.0", "id": call["id"], "result": self._do(call)})
                except RuntimeError as error:
                    failure = {"code": -32000, "message": str(error)}
                    answers.append({"jsonrpc": "2.0", "id": call["id"], "error": failure})
            return (answers if isinstance(body, list) else answers[0]), how

    def _do(self, call: dict[str, Any]) -> Any:
        parameters = call["params"]
        match call["method"]:
            case "eth_chainId":
                return hex(31337)
            case "eth_syncing":
                return self.syncing
            case "eth_blockNumber":
                return hex(len(self.blocks) - 1)
            case "eth_gasPrice":
                return hex(self.gas_price)
            case "eth_maxPriorityFeePerGas":
                return hex(self.tip)
            case "eth_estimateGas":
                return hex(21000)
            case "eth_getBalance":
                return hex(self.balance)
            case "eth_getTransactionCount":
                return hex(self._next(*parameters))
            case "eth_getBlockByNumber":
                return self._block(parameters[0])
            case "eth_getTransactionByHash":
                there = [*self.mined(), *self.pool.values()]
                return next(({"hash": one.hash} for one in there if one.hash == parameters[0]), None)
            case "eth_getTransactionReceipt":
                return self._receipt(parameters[0])
            case "eth_sendRawTransaction":
                return self._send(bytes.fromhex(parameters[0][2:]))
        raise RuntimeError(f"no {call['method']} here")

    def _next(self, sender: str, block: str) -> int:
        sender = Web3.to_checksum_address(sender)
        if block not in ("latest", "pending"):
            return self.count(sender, int(block, 16))
        nonce = self.count(sender)
        while self.counts_pool and block == "pending" and (sender, nonce) in self.pool:
            nonce += 1
        return nonce

    def _send(self, raw: bytes) -> str:
        one = self._decode(raw)
        self.sent.append(raw)
        if any(one.hash == other.hash for other in [*self.mined(), *self.pool.values()]):
            raise RuntimeError("already known")
        if one.nonce < self.count(one.sender):
            raise RuntimeError("nonce too low")
        if one.most * 21000 > self.balance:
            raise RuntimeError("insufficient funds for gas * price + value")
        before = self.pool.get((one.sender, one.nonce))
        if before and (10 * one.most < 11 * before.most or 10 * one.tip < 11 * before.tip):
            raise RuntimeError("replacement transaction underpriced")
        self.pool[one.sender, one.nonce] = one
        return one.hash

    def _decode(self, raw: bytes) -> Transaction:
        sender = Account.recover_transaction(raw)
        if raw[0] == 2:
            fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
            nonce, most, tip, value = (
                fields[name] for name in ("nonce", "maxFeePerGas", "maxPriorityFeePerGas", "value")
            )
        else:
            items = rlp.decode(raw)
            nonce, most, value = (int.from_bytes(items[n], "big") for n in (0, 1, 4))
            tip = most
        return Transaction(raw, Web3.to_hex(Web3.keccak(raw)), sender, nonce, most, tip, value)

    def _block(self, name: str) -> dict[str, Any] | None:
        number = len(self.blocks) - 1 if name in ("latest", "pending") else int(name, 16)
        if number >= len(self.blocks):
            return None
        block = self.blocks[number]
        fees = {} if self.base_fee is None else {"baseFeePerGas": hex(self.base_fee)}
        fixed = {"number": hex(number), "hash": block.hash, "timestamp": hex(block.time), "gasLimit": hex(30_000_000)}
        return {**fixed, **fees, "extraData": "0x", "transactions": [one.hash for one in block.transactions]}

    def _receipt(self, tx_hash: str) -> dict[str, Any] | None:
        for block in self.blocks:
            for one in block.transactions:
                if one.hash == tx_hash:
                    status = hex(one.value != 13)
                    place = {"blockNumber": hex(block.number), "blockHash": block.hash, "transactionHash": one.hash}
                    return {**place, "status": status, "gasUsed": hex(21000), "contractAddress": None}
        return None
