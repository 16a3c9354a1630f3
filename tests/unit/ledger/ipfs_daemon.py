"""A small IPFS daemon that answers as Kubo does, and can misbehave in many ways."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from medprov_ledger import cid

LET_GO = 20.0
"""Seconds after which even a silent daemon ends its thread."""


class Daemon(ThreadingHTTPServer):
    """Holds what it is given. `moods` says how it answers a command (``""``: every command) instead."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.moods: dict[str, str] = {}
        self.blocks: dict[str, bytes] = {}
        self.pins: set[str] = set()
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.sent = 0
        self.busy = 0
        self.let_go = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def api(self) -> str:
        return f"/ip4/{self.server_address[0]!s}/tcp/{self.port}/http"

    def add(self, data: bytes) -> str:
        """Hold a file as after an ``add``."""
        for block in cid.blocks(data):
            self.blocks[str(block.cid)] = block.data
        self.pins.add(str(block.cid))
        return str(block.cid)

    def count(self, command: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == command)

    def start(self) -> Daemon:
        self._thread.start()
        return self

    def stop(self) -> None:
        self.let_go.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """The client hangs up on a daemon that misbehaves: no word about it."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Daemon

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def say(self, **answer: object) -> None:
        self.answer(200, json.dumps(answer).encode())

    def refuse(self, message: str) -> None:
        self.answer(500, json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode())

    def do_POST(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        command = path.removeprefix("/api/v0/")
        self.server.asked.append((command, query))
        mood = self.server.moods.get(command, self.server.moods.get("", ""))
        misbehave = MOODS.get(mood)
        if misbehave is not None:
            misbehave(self)
            return
        if self.server.busy > 0:
            self.server.busy -= 1
            self.answer(503, b"busy", "text/plain")
            return
        {"add": self.add, "pin/ls": self.list_pins, "pin/rm": self.unpin, "block/get": self.give}[command](
            query, body, mood
        )

    def add(self, query: dict[str, list[str]], body: bytes, mood: str) -> None:
        boundary = self.headers["Content-Type"].split('boundary="')[1].rstrip('"').encode()
        data = body.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1][:-2]
        name = cid.of(data)
        if mood not in ("keeps nothing", "other cid"):
            self.server.add(data)
        if mood == "pins nothing":
            self.server.pins.discard(name)
        self.say(Name=name, Hash="Qm" + "a" * 44 if mood == "other cid" else name, Size="1")

    def list_pins(self, query: dict[str, list[str]], _: bytes, mood: str) -> None:
        (name,) = query["arg"]
        if mood == "lists another":
            self.say(Keys={cid.of(b"another"): {"Type": "recursive"}})
        elif mood == "claims all" or name in self.server.pins:
            self.say(Keys={name: {"Type": "recursive", "Name": ""}})
        else:
            self.refuse(f"path '{name}' is not pinned")

    def unpin(self, query: dict[str, list[str]], _: bytes, mood: str) -> None:
        (name,) = query["arg"]
        if name not in self.server.pins:
            self.refuse("not pinned or pinned indirectly")
            return
        self.server.pins.discard(name)
        self.say(Pins=[name])

    def give(self, query: dict[str, list[str]], _: bytes, mood: str) -> None:
        (name,) = query["arg"]
        data = self.server.blocks.get(name)
        if data is None:
            self.refuse("block was not found locally (offline): ipld: could not find " + name)
            return
        changed = {"other bytes": bytes([data[0] ^ 1]) + data[1:] if data else b"?", "truncated": data[:-1]}
        self.answer(200, changed.get(mood, data), "application/octet-stream")


def _endless(handler: Handler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    # an end all the same, so that a client without a limit fails a test instead of the machine
    while handler.server.sent < 1 << 27 and not handler.server.let_go.is_set():
        handler.wfile.write(b"[" * (1 << 16))
        handler.server.sent += 1 << 16


def _drip(handler: Handler, head: bytes, piece: bytes) -> None:
    handler.wfile.write(head)
    handler.close_connection = True
    while not handler.server.let_go.wait(0.02):
        handler.wfile.write(piece)


def _silent(handler: Handler) -> None:
    handler.close_connection = True
    handler.server.let_go.wait(LET_GO)


def _cut(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}")
    handler.close_connection = True


def _cut_chunked(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}")
    handler.close_connection = True


def _hang_up(handler: Handler) -> None:
    handler.close_connection = True


def _redirect(handler: Handler) -> None:
    port = handler.server.port
    handler.answer(307, b"", Location=f"http://127.0.0.1:{port}/api/v0/elsewhere?{urlsplit(handler.path).query}")


def _bomb(handler: Handler) -> None:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = squeezed.compress(bytes(1 << 24)) + squeezed.flush()
    handler.answer(200, data, Content_Encoding="gzip")


MOODS: dict[str, Callable[[Handler], None]] = {
    "500": lambda handler: handler.refuse("disk failure\n\x1b[2J"),
    "bare 500": lambda handler: handler.answer(500, b"<html>oops</html>", "text/html"),
    "odd 500": lambda handler: handler.answer(500, b'{"Message": ["a"]}'),
    "204": lambda handler: handler.answer(204, b""),
    "html": lambda handler: handler.answer(200, b"<html>login</html>", "text/html"),
    "list": lambda handler: handler.answer(200, b"[1]"),
    "empty": lambda handler: handler.answer(200, b""),
    "deep": lambda handler: handler.answer(200, b"[" * 60_000),
    "nested": lambda handler: handler.answer(200, b'{"Keys":' + b"[" * 40 + b"]" * 40 + b"}"),
    "nested 500": lambda handler: handler.answer(
        500, b'{"Message":"disk failure","Type":' + b"[" * 40 + b"]" * 40 + b"}"
    ),
    "nulls": lambda handler: handler.answer(200, b'{"Hash": null, "Keys": null}'),
    "no http": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "endless": lambda handler: _endless(handler, 200),
    "endless error": lambda handler: _endless(handler, 500),
    "drip": lambda handler: _drip(handler, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "drip in the head": lambda handler: _drip(handler, b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "silent": _silent,
    "cut": _cut,
    "cut chunked": _cut_chunked,
    "hangs up": _hang_up,
    "redirect": _redirect,
    "bomb": _bomb,
}
