"""Both stores; the IPFS one against a small daemon that can misbehave."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_ledger import cid
from medprov_ledger.errors import ObjectError, RecordError, StoreError, UnreachableError
from medprov_ledger.store import BlockStore, IpfsStore, Store, open_store

LARGE = bytes(range(256)) * (cid.CHUNK // 256) + b"tail"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_blocks_round_trip(tmp_path: Path, data: bytes) -> None:
    store = BlockStore(tmp_path / "blocks")
    name = store.put(data)
    assert name == cid.of(data) == store.put(data)
    assert store.has(name) and BlockStore(store.path).get(name) == data


def test_a_file_of_several_blocks(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    assert store.get(store.put(LARGE)) == LARGE
    assert len(files(tmp_path)) == 3


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "none")
    assert not store.has(cid.of(b"x"))
    with pytest.raises(UnreachableError, match="no such folder"):
        store.get(cid.of(b"x"))
    assert not store.path.exists()
    store.path.mkdir()
    with pytest.raises(StoreError, match="no such block") as caught:
        store.get(cid.of(b"x"))
    assert not isinstance(caught.value, UnreachableError | ObjectError)


def test_what_no_copy_can_mend_is_told_from_a_damaged_copy(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    with pytest.raises(ObjectError, match="larger than 1000 bytes"):
        store.get(name, 1000)
    (file,) = [file for file in files(tmp_path) if file.name == name]
    file.write_bytes(b"")
    with pytest.raises(StoreError, match="damaged") as caught:
        store.get(name)
    assert not isinstance(caught.value, ObjectError)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: b"", lambda data: bytes([data[0] ^ 1]) + data[1:]]
)
def test_a_damaged_block_is_named_and_mended(tmp_path: Path, spoil: object) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    for file in files(tmp_path):
        whole = file.read_bytes()
        file.write_bytes(spoil(whole))  # type: ignore[operator]
        with pytest.raises(StoreError, match=file.name):
            store.get(name)
        assert store.put(LARGE) == name
        assert store.get(name) == LARGE


def test_a_missing_leaf_is_named(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    leaf = next(file for file in files(tmp_path) if file.name.startswith("bafk"))
    leaf.unlink()
    with pytest.raises(StoreError, match=leaf.name):
        store.get(name)


def test_a_crash_before_the_rename_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    synced: list[int] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", sync)

    def crash(source: object, target: object) -> None:
        assert synced, "renamed before the bytes were on the disk"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(StoreError, match="No space left"):
        store.put(b"data")
    assert files(tmp_path) == []
    assert not store.has(cid.of(b"data"))
    monkeypatch.setattr(os, "replace", real_replace)
    assert store.get(store.put(b"data")) == b"data"


def test_the_root_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    real, left = os.replace, [2]

    def crash_on_the_third(source: str, target: str) -> None:
        if not left[0]:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", crash_on_the_third)
    with pytest.raises(StoreError):
        store.put(LARGE)
    assert not store.has(cid.of(LARGE))


def test_a_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("")
    with pytest.raises(StoreError, match="cannot store"):
        BlockStore(tmp_path / "blocks").put(b"x")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/passwd", "Qm" + "a" * 44])
def test_hostile_names_never_reach_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="CID"):
        BlockStore(tmp_path).get(name)
    with pytest.raises(RecordError, match="CID"):
        BlockStore(tmp_path).has(name)


def test_the_limit_holds(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        store.get(store.put(b"x" * 11), limit=10)


class Daemon(ThreadingHTTPServer):
    """Answers as Kubo does; `mood` makes it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood = ""
        self.held: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.let_go = threading.Event()

    @property
    def api(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.server_address[1]}/http"


class Handler(BaseHTTPRequestHandler):
    server: Daemon

    def log_message(self, format: str, *args: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = b""
        while size := int(self.rfile.readline(), 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def answer(self, status: int, data: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        body = self.body()
        server = self.server
        server.asked.append((path, query))
        if server.mood == "500":
            return self.answer(500, b'{"Message":"disk failure","Code":0,"Type":"error"}')
        if server.mood == "html":
            return self.answer(200, b"<html>login</html>", "text/html")
        if server.mood == "list":
            return self.answer(200, b"[1]")
        if server.mood == "slow":
            server.let_go.wait(20)
            return None
        if server.mood == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return None
        if path == "/api/v0/add":
            boundary = self.headers["Content-Type"].split('boundary="')[1].rstrip('"').encode()
            data = body.split(b"--" + boundary)[1].split(b"\r\n\r\n", 1)[1][:-2]
            # Go's ParseBool takes "True", which is what the client writes
            asked_well = query["raw-leaves"][0].lower() == "true" and query["cid-version"] == ["1"]
            name = cid.of(data) if asked_well and server.mood != "own settings" else "Qm" + "a" * 44
            server.held[name] = data
            return self.answer(200, json.dumps({"Name": name, "Hash": name, "Size": "1"}).encode())
        name = query["arg"][0]
        if name not in server.held:
            return self.answer(500, b'{"Message":"blockservice: key not found","Code":0,"Type":"error"}')
        if path == "/api/v0/block/stat":
            return self.answer(200, json.dumps({"Key": name, "Size": 1}).encode())
        assert path == "/api/v0/cat"
        data = server.held[name][: int(query["length"][0])]
        if server.mood == "other bytes":
            data = data[:-1] + b"?"
        if server.mood == "endless":
            data = server.held[name] + b"x" * 100_000
        return self.answer(200, data, "text/plain")


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Daemon()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.let_go.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("data", [b"", b"sealed", b"--\r\n\r\n--", LARGE])
def test_ipfs_round_trip(daemon: Daemon, data: bytes) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = cid.of(data)
    assert not store.has(name)
    assert store.put(data) == name
    assert store.has(name)
    assert store.get(name) == data


def test_ipfs_is_asked_for_the_right_form(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    store.has(store.put(b"data"))
    (_, added), (stat, asked) = daemon.asked
    assert added["raw-leaves"] == ["True"] and added["cid-version"] == ["1"] and added["pin"] == ["True"]
    assert stat == "/api/v0/block/stat" and asked["offline"] == ["true"]


def test_ipfs_other_bytes_are_refused(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = store.put(b"data")
    daemon.mood = "other bytes"
    with pytest.raises(StoreError, match="other bytes than"):
        store.get(name)


def test_ipfs_too_much_is_refused(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = store.put(b"data")
    daemon.mood = "endless"
    with pytest.raises(StoreError, match="larger than 100 bytes"):
        store.get(name, limit=100)


def test_ipfs_another_cid_is_refused(daemon: Daemon) -> None:
    daemon.mood = "own settings"
    with pytest.raises(StoreError, match="import settings"):
        IpfsStore(daemon.api, timeout=5).put(b"data")


def test_ipfs_has_tells_absence_from_failure(daemon: Daemon) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    assert not store.has(cid.of(b"data"))
    daemon.mood = "cut"
    with pytest.raises(StoreError, match="whether it has"):
        store.has(cid.of(b"data"))


@pytest.mark.parametrize("mood", ["500", "html", "list", "cut"])
@pytest.mark.parametrize("call", ["put", "get"])
def test_ipfs_bad_answers_are_one_clear_error(daemon: Daemon, mood: str, call: str) -> None:
    store = IpfsStore(daemon.api, timeout=5)
    name = store.put(b"data")
    daemon.mood = mood
    with pytest.raises(StoreError) as caught:
        store.put(b"data") if call == "put" else store.get(name)
    assert daemon.api in str(caught.value) and "\n" not in str(caught.value)


def test_ipfs_says_why(daemon: Daemon) -> None:
    daemon.mood = "500"
    with pytest.raises(StoreError, match="disk failure"):
        IpfsStore(daemon.api, timeout=5).put(b"data")


@pytest.mark.parametrize("call", ["put", "get", "has"])
def test_ipfs_silence_ends_in_an_error(daemon: Daemon, call: str) -> None:
    daemon.mood = "slow"
    store = IpfsStore(daemon.api, timeout=0.2)
    with pytest.raises(StoreError, match=r"within 0\.2 s"):
        getattr(store, call)(b"data" if call == "put" else cid.of(b"data"))


def test_ipfs_nobody_there() -> None:
    server = Daemon()
    api = server.api
    server.server_close()
    for call, argument in (("put", b"x"), ("get", cid.of(b"x")), ("has", cid.of(b"x"))):
        with pytest.raises(UnreachableError, match="no IPFS daemon answers"):
            getattr(IpfsStore(api, timeout=2), call)(argument)


@pytest.mark.parametrize("api", ["", "localhost:5001", "/ip4/127.0.0.1", "/ip4/1.2.3/tcp/5001", "/ip4/127.0.0.1/udp/1"])
def test_ipfs_malformed_addresses_are_refused(api: str) -> None:
    with pytest.raises(StoreError, match="multiaddress"):
        IpfsStore(api)


def test_ipfs_hostile_names_never_reach_the_daemon(daemon: Daemon) -> None:
    with pytest.raises(RecordError, match="CID"):
        IpfsStore(daemon.api).get("x/../../y")
    assert daemon.asked == []


def settings_of(kind: str, path: Path | None = None, api: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(path=Path("medprov.toml"), timeout=3.0, store=SimpleNamespace(kind=kind, path=path, api=api))


def test_open_store(tmp_path: Path) -> None:
    blocks: Store = open_store(settings_of("blocks", path=tmp_path))  # type: ignore[arg-type]
    assert isinstance(blocks, BlockStore) and blocks.path == tmp_path
    ipfs: Store = open_store(settings_of("ipfs", api="/ip4/127.0.0.1/tcp/5001/http"))  # type: ignore[arg-type]
    assert isinstance(ipfs, IpfsStore) and ipfs.timeout == 3.0
    with pytest.raises(StoreError, match="'cloud'"):
        open_store(settings_of("cloud"))  # type: ignore[arg-type]
