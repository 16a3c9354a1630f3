"""The stores against a real IPFS daemon: js-ipfs, which is installed once with npm and kept in build/.

Needs npm and, the first time, its registry: 992 packages, 290 MB, three to four minutes. MEDPROV_TEST_CACHE names
another folder to keep it in.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medprov_ledger import cid
from medprov_ledger.errors import StoreError, UnreachableError
from medprov_ledger.ipfs_rpc import Session
from medprov_ledger.ipfs_store import IpfsStore
from medprov_ledger.replicated_store import ReplicatedStore

PACKAGE = "ipfs@0.66.1"
CACHE = Path(os.environ.get("MEDPROV_TEST_CACHE") or Path(__file__).resolve().parents[2] / "build")
PATIENCE = 90.0
"""Seconds for one start of the daemon on a busy machine."""
POLYFILL = """if (!Promise.withResolvers) Promise.withResolvers = function () {
  let resolve, reject
  const promise = new this((one, other) => { resolve = one; reject = other })
  return { promise, resolve, reject }
}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def program() -> list[str]:
    """The daemon's command line."""
    folder = CACHE / PACKAGE.replace("@", "-").replace("ipfs", "js-ipfs")
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node and npm are not installed")
    if not folder.is_dir():
        _install(npm, folder)
    polyfill = folder / "with-resolvers.cjs"
    polyfill.write_text(POLYFILL)
    return [node, "--require", str(polyfill), str(folder / "node_modules/ipfs/src/cli.js")]


def _install(npm: str, folder: Path) -> None:
    answer = subprocess.run(
        [npm, "ping", "--fetch-timeout=20000", "--fetch-retries=0"], capture_output=True, check=False
    )
    if answer.returncode:
        pytest.skip("npm's registry does not answer")
    unfinished = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    unfinished.mkdir(parents=True)
    (unfinished / "package.json").write_text('{"name": "medprov-test-ipfs", "private": true}\n')
    # no scripts: they would fetch browsers and compilers that the daemon runs without
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", PACKAGE]
    try:
        done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip(f"npm could not install {PACKAGE}: {done.stderr[-300:]}")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class Daemon:
    """A daemon that can be killed and started again on its repository. It knows no other daemon and is told of none."""

    def __init__(self, program: list[str], repository: Path) -> None:
        self.program, self.repository = program, repository
        self._process: subprocess.Popen[bytes] | None = None
        command = [*program, "init", "--profile", "test", "--empty-repo"]
        subprocess.run(command, env=self._environment(), capture_output=True, timeout=PATIENCE, check=True)
        file = repository / "config"
        config = json.loads(file.read_text())
        config["Addresses"] = {"Swarm": [], "API": "/ip4/127.0.0.1/tcp/0"}
        file.write_text(json.dumps(config))

    @property
    def api(self) -> str:
        return (self.repository / "api").read_text().strip()

    def start(self) -> Daemon:
        # what a killed daemon leaves; it refuses to start beside them
        shutil.rmtree(self.repository / "repo.lock", ignore_errors=True)
        before = self.api if (self.repository / "api").exists() else None
        (self.repository / "api").unlink(missing_ok=True)
        if before is not None:
            # on the port it had, for those who know its address
            file = self.repository / "config"
            config = json.loads(file.read_text())
            config["Addresses"]["API"] = before.removesuffix("/http")
            file.write_text(json.dumps(config))
        log = self.repository.with_suffix(".log")
        with log.open("wb") as stream:
            command = [*self.program, "daemon", "--offline", "--enable-preload=false"]
            self._process = subprocess.Popen(command, env=self._environment(), stdout=stream, stderr=stream)
        deadline = time.monotonic() + PATIENCE
        while b"Daemon is ready" not in log.read_bytes():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def collect(self) -> None:
        with Session(self.api, "did not collect its garbage", 30, 60) as session:
            session.post("repo/gc", {})

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self.repository)}


Start = Callable[[], Daemon]


@pytest.fixture
def start(program: list[str], tmp_path: Path) -> Iterator[Start]:
    started: list[Daemon] = []

    def one() -> Daemon:
        started.append(Daemon(program, tmp_path / f"repository{len(started)}"))
        return started[-1].start()

    yield one
    for daemon in started:
        daemon.kill()


def test_a_real_daemon(start: Start) -> None:
    """Its CIDs are ours, and what it confirmed survives a hard kill."""
    daemon = start()
    store = IpfsStore(daemon.api, timeout=20)
    files = [os.urandom(size) for size in (0, 1, 1000, cid.CHUNK, cid.CHUNK + 1, 3_000_000, cid.CHUNK * cid.WIDTH + 5)]
    # blocks that are the same are stored once, and named once more in the node
    files.append(bytes(2 * cid.CHUNK))
    names = [store.put(data) for data in files]
    assert names == [cid.of(data) for data in files]
    assert all(store.has(name) and store.holds(name) for name in names)
    assert [store.get(name) for name in names] == files
    absent = cid.of(os.urandom(10))
    assert not store.has(absent) and not store.holds(absent)
    store.unpin(names[2])
    store.unpin(names[2])
    assert not store.has(names[2])
    daemon.kill()
    with pytest.raises(UnreachableError, match="no IPFS daemon answers"):
        store.get(names[0])
    daemon.start()
    daemon.collect()
    names.pop(2), files.pop(2)
    assert all(store.holds(name) for name in names)
    assert [store.get(name) for name in names] == files
    # one that is absent is waited for by js-ipfs; we do not
    with pytest.raises(StoreError, match="within 1 s"):
        IpfsStore(daemon.api, timeout=1).get(absent)


def test_what_was_confirmed_survives_kills_at_any_time(start: Start) -> None:
    daemon = start()
    store, confirmed = IpfsStore(daemon.api, timeout=20), dict[str, bytes]()
    for wait in (0.3, 0.9, 1.7):
        over = threading.Event()

        def write(over: threading.Event = over) -> None:
            while not over.is_set():
                data = os.urandom(3000) if len(confirmed) % 4 else os.urandom(cid.CHUNK + 3000)
                try:
                    confirmed[store.put(data)] = data
                except StoreError:
                    over.wait(0.05)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(wait)
        daemon.kill()
        over.set()
        writer.join()
        daemon.start()
    assert len(confirmed) > 5
    for name, data in confirmed.items():
        assert store.holds(name) and store.get(name) == data


def test_two_daemons_and_one_dies(start: Start) -> None:
    first, second = start(), start()
    store = ReplicatedStore([IpfsStore(first.api, 20), IpfsStore(second.api, 20)], copies=2)
    data, later = os.urandom(700_000), os.urandom(5000)
    name = store.put(data)
    assert store.status(name).holders == (first.api, second.api)
    first.kill()
    assert store.get(name) == data and store.has(name)
    with pytest.raises(StoreError, match="1 of 2 copies confirmed") as caught:
        store.put(later)
    assert f"({second.api})" in str(caught.value) and f"{first.api}: no IPFS daemon answers" in str(caught.value)
    found = store.status(cid.of(later))
    assert not found.enough and found.holders == (second.api,)
    first.start()
    assert store.repair(cid.of(later)).enough
    # a copy that its daemon has given up
    IpfsStore(second.api, 20).unpin(name)
    second.collect()
    assert store.status(name).holders == (first.api,)
    assert store.repair(name).enough
    first.kill()
    assert store.get(name) == data and store.get(cid.of(later)) == later
