"""A signing service in a process of its own: ``python signing_service.py KEY``, says its port.

The path of the address chooses what it is like: ``/web3signer`` and ``/clef`` are honest, all others are not.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data

ACCOUNT = Account.from_key(sys.argv[1]) if __name__ == "__main__" else None
STRANGER = Account.from_key(b"\x99" * 32)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CHANGES = {
    "/other-nonce": ("nonce", "0x63"),
    "/other-recipient": ("to", STRANGER.address),
    "/other-value": ("value", "0x63"),
    "/other-data": ("data", "0xdeadbeef"),
    "/other-gas": ("gas", "0x7a1200"),
    "/other-fee": ("maxFeePerGas", "0x174876e800"),
    "/other-tip": ("maxPriorityFeePerGas", "0x1"),
    "/other-chain": ("chainId", "0x1"),
    "/other-price": ("gasPrice", "0x174876e800"),
}
failures = {"/busy": 2}


class RefusedError(Exception):
    pass


def transaction(order: dict[str, Any], path: str) -> str:
    fields = {name: value for name, value in order.items() if name != "from"}
    if path in CHANGES:
        name, value = CHANGES[path]
        fields[name] = value
    if path == "/another-kind":
        fields = {**{n: v for n, v in fields.items() if not n.startswith("max")}, "gasPrice": "0x3b9aca00"}
    signer = STRANGER if path == "/other-account" else ACCOUNT
    return "0x" + bytes(signer.sign_transaction(fields).raw_transaction).hex()


def typed(document: dict[str, Any], path: str) -> str:
    if path == "/other-message":
        document["message"]["count"] = 99
    signer = STRANGER if path == "/other-account" else ACCOUNT
    signature = bytes(signer.sign_message(encode_typed_data(full_message=document)).signature)
    r, s, v = signature[:32], int.from_bytes(signature[32:64], "big"), signature[64]
    if path == "/upper-half":
        return "0x" + (r + (ORDER - s).to_bytes(32, "big") + bytes([55 - v])).hex()
    return "0x" + (signature[:64] + bytes([v - 27 if path == "/clef" else v])).hex()


def result(call: dict[str, Any], path: str) -> Any:
    method, parameters = call["method"], call["params"]
    if path == "/refuses":
        raise RefusedError("Request denied")
    if path == "/garbage":
        return "nothing"
    if path == "/no-signature":
        return "0x" + "00" * 65
    if method == "account_signTransaction" and path == "/clef":
        return {"raw": transaction(parameters[0], path), "tx": {}}
    if method == "account_signTypedData" and path == "/clef":
        return typed(parameters[1], path)
    if method == "eth_signTransaction" and path != "/clef":
        return transaction(parameters[0], path)
    if method == "eth_signTypedData" and path != "/clef":
        return typed(json.loads(parameters[1]), path)
    raise LookupError(method)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.path = self.path.partition("?")[0]
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = 200, {"jsonrpc": "2.0", "id": call["id"]}
        if self.path == "/hangs":
            time.sleep(2)
        if self.path == "/closed":
            status = 401
        elif self.path == "/busy" and failures[self.path]:
            failures[self.path] -= 1
            status = 503
        elif self.path == "/down":
            status = 503
        try:
            answer["result"] = result(call, self.path)
        except RefusedError as error:
            answer["error"] = {"code": -32000, "message": str(error)}
        except LookupError:
            answer["error"] = {"code": -32601, "message": "the method does not exist"}
        deep = b'{"result":' + b"[" * 40 + b"]" * 40 + b"}"
        bodies = {"/page": b"<html>", "/flood": b"[" * (2 << 20), "/list": b"[]", "/deep": deep}
        body = bodies.get(self.path) or json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
