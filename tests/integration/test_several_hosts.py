"""A consortium of hosts with addresses of their own: rounds go on while links are cut and slow, and members are killed.

Everything is real but the store's daemon, which is the one of the unit tests; `test_ipfs.py` has a real one. The
tests build on each other, in the order in which they stand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprov_coordinator import cli as coordinator
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation, Round
from medprov_node import cli as node
from medprov_node.joining import node_key
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.phantoms import phantom
from tests.integration.lab.hosts import Host, Lab, lab, missing, relay
from tests.integration.lab.recording import payloads
from tests.unit.ledger.ipfs_daemon import Daemon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
FOUNDERS = ("hospital-a", "hospital-b", "hospital-c")
HOSPITALS = (*FOUNDERS, "hospital-d")
PORT = 29092
RUN = """
[run]
rounds = 1000
local-steps = 1
batch = 2
channels = 8
blocks = 1
extractor-blocks = 1
probe-pictures = 1
probe-tolerance = 1.0
max-refused = 1000
quorum = 2
deadline = 300.0
grace = 15.0
evaluate = false
seed = 11
"""


@dataclass
class World:
    """The hosts, what runs on them, and their folders: what one host has in its folder, no other one reads."""

    net: Lab
    folder: Path
    rpc: str = ""
    store_port: int = 0
    address: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def host(self, name: str) -> Host:
        return self.net[name]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def start(self, name: str, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.running[name] = self.host(name).start(command, self.log(name))

    def run(self, name: str, module: str, *arguments: object) -> str:
        done = self.host(name).run([sys.executable, "-m", module, *map(str, arguments)])
        assert done.returncode == 0, f"{name}: {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, name: str, main: Callable[[list[str]], int], *arguments: object) -> str:
        """A short command, without a Python of its own: its connections are the host's."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = self.host(name).call(lambda: main(list(map(str, arguments))))
        assert status == 0, f"{name}: {arguments}: {said.getvalue()}"
        return said.getvalue()

    def join(self, name: str) -> None:
        self.start(name, "medprov_node.cli", "join", "--config", self.home(name) / "node.toml")

    def kill(self, name: str) -> None:
        """Kill all that runs on a host."""
        pids = self.host(name).run(["ip", "netns", "pids", self.host(name).namespace]).stdout.split()
        for pid in pids:
            if int(pid) != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self.running.pop(name).wait(30)

    def anchored(self) -> list[Round]:
        """The rounds on the chain, asked at the chain's own host."""
        config = Config.load(self.home("chain") / "medprov.toml")
        return list(self.host("chain").call(lambda: Federation(Chain.connect(config)).rounds()))

    def records(self) -> list[dict[str, Any]]:
        """The coordinator's records of rounds, anchored or not."""
        folder = self.home("coordinator") / "state" / "checkpoints" / "rounds"
        return [json.loads(file.read_bytes()) for file in sorted(folder.glob("*.json"))]

    def took_part(self, name: str, after: int) -> bool:
        """Whether a hospital's update is in a round after this one."""
        found = [one for one in self.records() if one["round"] > after]
        return any(entry["signer"] == self.address[name] for one in found for entry in one["updates"])

    def until(self, true: Callable[[], Any], what: str, seconds: float = 400.0) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := true():
                return found
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} has ended: {self.said(name)[-3000:]}"
            time.sleep(0.25)
        raise AssertionError(f"waited {seconds:g} s for {what}: {self.said('coordinator')[-3000:]}")

    def next_round(self, more: int = 1) -> None:
        """Wait for more records."""
        before = len(self.records())
        self.until(lambda: len(self.records()) >= before + more, f"round {before + more}")


def _own_config(world: World, name: str, hospital: str | None) -> Path:
    """A host's own medprov.toml: the chain's address in the network, and no hospital's keys but its own."""
    chain = world.home("chain")
    text = (chain / "verifier.toml").read_text()
    text = re.sub(r"(?m)^rpc\s*=.*$", f'rpc = "{world.rpc}"', text, count=1)
    home = world.home(name)
    home.mkdir(exist_ok=True)
    if hospital is not None:
        shutil.copytree(chain / "hospitals" / hospital, home / "hospitals" / hospital)
        own = (chain / "medprov.toml").read_text().partition(f"[hospitals.{hospital}]")[2].partition("\n[")[0]
        text += f"\n[hospitals.{hospital}]{own}"
    (home / "medprov.toml").write_text(text)
    return home / "medprov.toml"


def _enrol(world: World, name: str) -> None:
    """Keys and request at the hospital, the kit from the coordinator, and back; then it joins."""
    home, images = world.home(name), world.folder / f"images-{name}"
    images.mkdir()
    for i in range(2):
        Image.fromarray(phantom(700 + 10 * HOSPITALS.index(name) + i)).save(images / f"{i}.png")
    member = name in FOUNDERS
    config = ["--config", _own_config(world, name, name)] if member else []
    which = [*config, "--hospital", name] if member else ["--name", name]
    said = world.command(name, node.main, "request", home, *which, "--json")
    world.address[name] = json.loads(said)["address"]
    file = world.home("coordinator") / "coordinator.toml"
    request = home / "request.json"
    world.command("coordinator", coordinator.main, "enroll", request, "--config", file, "--out", home / "kit.json")
    if not member:
        # the coordinator has voted for it as hospital-a; a second hospital must agree
        voter = world.home("hospital-b") / "medprov.toml"
        world.command("hospital-b", node.main, "vote", "join", request, "--config", voter)
    join = ["join", "--kit", home / "kit.json", "--home", home, "--images", images, *config]
    world.start(name, "medprov_node.cli", *join)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hosts")
    names = ("coordinator", "chain", "store", *HOSPITALS, "verifier", "stranger")
    with lab(names, seed=5) as net:
        store = net["store"].call(lambda: Daemon(net["store"].address).start())
        made = World(net, folder, store_port=store.port)
        end: Callable[[], None] | None = None
        try:
            net.link("verifier", reach=["chain", "store"])
            chain = made.home("chain")
            made.start("chain", "medprov_ledger", "up", "--dir", chain, "--ipfs", store.api, "--wait")
            made.until(lambda: "waiting for SIGTERM" in made.said("chain"), "the chain")
            port = int(Config.load(chain / "medprov.toml").rpc.rpartition(":")[2])
            # the development chain listens on 127.0.0.1 and cannot be told otherwise
            end = relay(net["chain"], port)
            made.rpc = f"http://{net['chain'].address}:{port}"
            _own_config(made, "verifier", None)
            c, file = made.home("coordinator"), made.home("coordinator") / "coordinator.toml"
            ledger = _own_config(made, "coordinator", "hospital-a")
            listen = f"{net['coordinator'].address}:{PORT}"
            made.command("coordinator", coordinator.main, "init", "--config", ledger, "--dir", c, "--listen", listen)
            file.write_text(file.read_text().partition("[run]")[0] + RUN)
            said = made.command("coordinator", coordinator.main, "bundle", "--approve", "--json", "--config", file)
            bundle = json.loads(said)["bundle"]
            approve = ["approve-app", bundle, "--config", _own_config(made, "stranger", "hospital-b")]
            made.command("chain", node.main, *approve)
            shutil.rmtree(made.home("stranger"))
            net.link("coordinator", record=str(folder / "coordinator.pcap"))
            made.start("coordinator", "medprov_coordinator.cli", "up", "--stay", "--config", file)
            made.until(lambda: "superlink  " in made.said("coordinator"), "the SuperLink")
            for name in HOSPITALS:
                _enrol(made, name)
            # from here on no host but a hospital's own has its keys, hospital-a's apart, whose account coordinates
            shutil.rmtree(chain / "hospitals")
            yield made
        finally:
            if end is not None:
                end()
            for name in reversed(made.running):
                made.running[name].terminate()
            for process in made.running.values():
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            store.stop()


def test_four_hospitals_on_four_hosts(world: World) -> None:
    world.until(lambda: len(world.anchored()) >= 2, "two rounds")
    world.until(lambda: all(world.took_part(name, 0) for name in HOSPITALS), "an update of every hospital")


def test_nothing_passes_in_clear_between_coordinator_and_hospitals(world: World) -> None:
    world.until(lambda: len(world.anchored()) >= 2, "two rounds")
    world.net.link("coordinator", record=None)
    recording = world.folder / "coordinator.pcap"
    training = payloads(recording, PORT)
    weights = (
        world.home("coordinator") / "state/checkpoints/models" / f"{world.records()[0]['model']}.safetensors"
    ).read_bytes()
    pieces = [weights[at : at + 24] for at in range(len(weights) // 2, len(weights) - 24, 2048)]
    pieces = [piece for piece in pieces if len(set(piece)) > 8]
    assert len(pieces) > 3
    assert training[:2] == b"\x16\x03", "begins with a TLS handshake"
    assert len(training) > 8 * len(weights)
    assert not [word for word in (b"HTTP/1.1", b"application/protobuf", *pieces) if word in training]
    # the same looks find what the coordinator tells chain and store, which is public
    assert b"HTTP/1.1" in payloads(recording, int(world.rpc.rpartition(":")[2]))
    store = payloads(recording, world.store_port)
    assert any(piece in store for piece in pieces)


def test_a_host_without_an_enrolled_key_cannot_take_part(world: World) -> None:
    home = world.home("stranger")
    shutil.copytree(world.home("hospital-b"), home, ignore=shutil.ignore_patterns("state", "node-key*"))
    node_key.create(home)
    join = ["-m", "medprov_node.cli", "join", "--config", str(home / "node.toml")]
    done = world.host("stranger").run([sys.executable, *join])
    assert done.returncode == 1
    assert "does not know the key" in done.stderr and "Traceback" not in done.stderr


def test_a_verifier_that_reaches_chain_and_store_alone(world: World) -> None:
    picture, marked = world.home("hospital-b") / "scan.png", world.home("hospital-b") / "marked.png"
    low = (np.random.default_rng(7).random((9, 9)) * 200 + 20).astype(np.uint8)
    Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC).save(picture)
    config = world.home("hospital-b") / "medprov.toml"
    world.run("hospital-b", "medprov_node.cli", "mark", picture, marked, "--quick", "--config", config)
    here = world.home("verifier") / "marked.png"
    shutil.copy(marked, here)
    with world.net.cut("hospital-b"):
        config = world.home("verifier") / "medprov.toml"
        said = world.run("verifier", "medprov_sdk", "verify", here, "--json", "--config", config)
    assert json.loads(said)["verdict"] == "authentic"
    assert world.host("verifier").reaches(world.host("chain").address, int(world.rpc.rpartition(":")[2]))
    assert not world.host("verifier").reaches(world.host("coordinator").address, PORT, 1.0)
    assert world.host("hospital-b").reaches(world.host("coordinator").address, PORT)


def test_rounds_go_on_with_the_quorum(world: World) -> None:
    """One link is slow and loses frames, one is cut, and all processes of a third host are killed."""
    world.net.link("hospital-c", delay=0.2, jitter=0.02, loss=0.05)
    with world.net.cut("hospital-d"):
        world.kill("hospital-b")
        before = len(world.records())
        # updates for the round that was under way may have come already
        world.until(lambda: len(world.records()) >= before + 2, "rounds without two hospitals")
        signers = {entry["signer"] for entry in world.records()[before + 1]["updates"]}
        assert signers == {world.address["hospital-a"], world.address["hospital-c"]}
    after = len(world.records())
    world.join("hospital-b")
    back = ("hospital-b", "hospital-d")
    world.until(lambda: all(world.took_part(name, after) for name in back), "both again")


def test_a_round_waits_for_its_anchor_while_the_chain_is_cut_off(world: World) -> None:
    with world.net.cut("chain"):
        anchored = len(world.anchored())
        world.until(lambda: len(world.records()) > anchored + 1, "rounds that are kept")
        assert len(world.anchored()) <= anchored + 1
        kept = len(world.records())
    world.until(lambda: len(world.anchored()) >= kept, "the anchors of what was kept")


def test_the_coordinator_is_cut_off_for_some_seconds(world: World) -> None:
    with world.net.cut("coordinator"):
        time.sleep(8)
    world.next_round()


def test_every_round_is_anchored_once_with_the_hash_of_its_weights(world: World) -> None:
    up = world.running.pop("coordinator")
    up.terminate()
    assert up.wait(60) in (0, 130)
    rounds = world.anchored()
    assert [one.number for one in rounds] == list(range(1, len(rounds) + 1))
    models = world.home("coordinator") / "state" / "checkpoints" / "models"
    last = (models / f"{rounds[-1].model_hash.hex()}.safetensors").read_bytes()
    assert ex.model_hash(ex.from_safetensors(last)) == rounds[-1].model_hash
    for one, record in zip(rounds, world.records(), strict=False):
        assert (one.number, one.model_hash.hex()) == (record["round"], record["model"])
        assert one.updates_root.hex() == record["root"]
