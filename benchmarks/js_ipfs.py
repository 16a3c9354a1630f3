"""A real IPFS daemon for tests and benchmarks: js-ipfs, which is installed once with npm and kept in build/.

Needs npm and, the first time, its registry: 992 packages, 290 MB, three to four minutes. MEDPROV_TEST_CACHE names
another folder to keep it in.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from medprov_ledger.ipfs_rpc import Session

PACKAGE = "ipfs@0.66.1"
CACHE = Path(os.environ.get("MEDPROV_TEST_CACHE") or Path(__file__).resolve().parents[1] / "build")
PATIENCE = 90.0
"""Seconds for one start of the daemon on a busy machine."""
POLYFILL = """if (!Promise.withResolvers) Promise.withResolvers = function () {
  let resolve, reject
  const promise = new this((one, other) => { resolve = one; reject = other })
  return { promise, resolve, reject }
}
"""


class UnavailableError(Exception):
    """The daemon cannot be installed here."""


def program() -> list[str]:
    """The daemon's command line, installed where it is not yet.

    Raises
    ------
    UnavailableError
        No Node or npm, or npm's registry does not answer.
    """
    folder = CACHE / PACKAGE.replace("@", "-").replace("ipfs", "js-ipfs")
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise UnavailableError("Node and npm are not installed")
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
        raise UnavailableError("npm's registry does not answer")
    unfinished = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    unfinished.mkdir(parents=True)
    (unfinished / "package.json").write_text('{"name": "medprov-test-ipfs", "private": true}\n')
    # no scripts: they would fetch browsers and compilers that the daemon runs without
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", PACKAGE]
    try:
        done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise UnavailableError(f"npm could not install {PACKAGE}: {done.stderr[-300:]}")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


class Daemon:
    """A daemon that can be killed and started again on its repository. It knows no other daemon and is told of none.

    Parameters
    ----------
    program : list of str
        From :func:`program`.
    repository : Path
        Made here.
    """

    def __init__(self, program: list[str], repository: Path) -> None:
        self.program, self.repository, self.api = program, repository, ""
        self._process: subprocess.Popen[bytes] | None = None
        command = [*program, "init", "--profile", "test", "--empty-repo"]
        subprocess.run(command, env=self._environment(), capture_output=True, timeout=PATIENCE, check=True)
        file = repository / "config"
        config = json.loads(file.read_text())
        config["Addresses"] = {"Swarm": [], "API": "/ip4/127.0.0.1/tcp/0"}
        file.write_text(json.dumps(config))

    def start(self) -> Daemon:
        """Start it, or start it again at its former address."""
        # what a killed daemon leaves; it refuses to start beside them
        shutil.rmtree(self.repository / "repo.lock", ignore_errors=True)
        (self.repository / "api").unlink(missing_ok=True)
        if self.api:
            # on the port it had, for those who know its address
            file = self.repository / "config"
            config = json.loads(file.read_text())
            config["Addresses"]["API"] = self.api.removesuffix("/http")
            file.write_text(json.dumps(config))
        log = self.repository.with_suffix(".log")
        with log.open("wb") as stream:
            command = [*self.program, "daemon", "--offline", "--enable-preload=false"]
            self._process = subprocess.Popen(command, env=self._environment(), stdout=stream, stderr=stream)
        deadline = time.monotonic() + PATIENCE
        while b"Daemon is ready" not in log.read_bytes():
            assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        self.api = (self.repository / "api").read_text().strip()
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def collect(self) -> None:
        """Let it remove what no pin keeps."""
        with Session(self.api, "did not collect its garbage", 30, 60) as session:
            session.post("repo/gc", {})

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self.repository)}
