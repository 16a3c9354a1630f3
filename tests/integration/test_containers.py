"""Every command of docker/compose.yaml, run as it stands there; only the containers' paths become temporary ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation
from medprov_watermark.weights import released_model

pytestmark = pytest.mark.slow
FILE = Path(__file__).resolve().parents[2] / "docker" / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
SCRIPT = FILE.with_name("training.sh")
SMALL = (
    "rounds = 1",
    "local-steps = 1",
    "batch = 2",
    "channels = 8",
    "blocks = 1",
    "extractor-blocks = 1",
    "probe-pictures = 1",
    "quorum = 3",
)
SITES = ("site-a", "site-b", "site-c")


class Machine:
    """Stands for Docker: paths of the containers lie under one folder, programs beside this Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()

    def path(self, service: str, inside: str) -> Path:
        """Where the host has what a container sees at `inside`."""
        for volume in SERVICES[service]["volumes"]:
            source, target = (volume["source"], volume["target"]) if isinstance(volume, dict) else volume.split(":")[:2]
            if inside == target or inside.startswith(target + "/"):
                return self.folder / source / inside[len(target) :].lstrip("/")
        raise AssertionError(f"{service}: {inside} is not mounted")

    def words(self, service: str, words: list[str]) -> list[str]:
        """A command line with the containers' paths replaced."""
        out = []
        for word in words:
            name, equals, path = word.rpartition("=")
            if path.startswith("/"):
                word = name + equals + str(self.path(service, path))
            out.append(word)
        program = Path(sys.executable).with_name(out[0])
        assert program.is_file(), out[0]
        return [str(program), *out[1:]]

    def environment(self, service: str) -> dict[str, str]:
        """The service's own variables, in this suite's environment."""
        own = SERVICES[service]["environment"]
        assert own == {"HOME": "/tmp"}
        home = self.folder / "tmp" / service
        home.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MEDPROV_"))}
        return {**kept, "HOME": str(home), "TMPDIR": str(home)}

    def run(self, service: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.words(service, command),
            cwd=self.folder / "tmp",
            env=self.environment(service),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def healthy(self, service: str, replaced: dict[str, str] | None = None) -> bool:
        """What the service's health check says."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        for old, new in (replaced or {}).items():
            command = [word.replace(old, new) for word in command]
        return self.run(service, command).returncode == 0

    @contextmanager
    def up(self, service: str, command: list[str], ready: str) -> Iterator[subprocess.Popen[str]]:
        """Run until the block ends, as `docker stop` would end it."""
        process = subprocess.Popen(
            self.words(service, command),
            cwd=self.folder / "tmp",
            env=self.environment(service),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if ready in line:
                    break
            else:
                pytest.fail(f"{service}: {''.join(said)}")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(service: str) -> list[str]:
    return [str(word) for word in SERVICES[service]["command"]]


def chain_command() -> list[str]:
    """The chain's command with a folder of blocks in place of the IPFS daemon."""
    command = command_of("chain")
    at = command.index("--ipfs")
    assert command[at + 1] == "/ip4/127.0.0.1/tcp/5001/http"
    return command[:at] + command[at + 2 :]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The chain's service is up and healthy; every hospital has two small pictures."""
    machine = Machine(tmp_path_factory.mktemp("compose"))
    (machine.folder / "tmp").mkdir()
    rng = np.random.default_rng(7)
    for name in ("hospital-a", "hospital-b", "hospital-c"):
        source, target = machine.path(name, "/in"), machine.path(name, "/out")
        source.mkdir(parents=True)
        target.mkdir()
        for i in range(2):
            low = (rng.random((9, 9)) * 200 + 20).astype(np.uint8)
            Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC).save(source / f"scan{i}.png")
    for service, inside in (("coordinator", "/coordinator"), ("coordinator", "/exchange")):
        machine.path(service, inside).mkdir()
    for site in SITES:
        machine.path(site, "/site").mkdir()
    with machine.up("chain", chain_command(), "waiting for SIGTERM") as chain:
        assert machine.healthy("chain")
        yield machine
        assert chain.poll() is None
    assert chain.returncode == 0
    assert not machine.healthy("chain"), "SIGTERM has taken the chain down"


@pytest.fixture(scope="module")
def verifier(machine: Machine) -> Iterator[str]:
    """Address of the verifier's service, on a free port of the loopback interface."""
    command = command_of("verifier")
    port = str(machine.port)
    command = ["127.0.0.1" if word == "0.0.0.0" else port if word == "8080" else word for word in command]
    with machine.up("verifier", command, "verifying at"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("hospital", ["hospital-a", "hospital-b", "hospital-c"])
def test_hospital(machine: Machine, hospital: str) -> None:
    done = machine.run(hospital, command_of(hospital))
    assert done.returncode == 0, done.stderr
    assert f"hospital     {hospital} (" in done.stdout
    assert {path.name for path in machine.path(hospital, "/out").iterdir()} == {"scan0.png", "scan1.png"}


def test_verifier(machine: Machine, verifier: str) -> None:
    assert machine.healthy("verifier", {"8080": str(machine.port)})
    out = machine.path("hospital-c", "/out") / "scan0.png"
    if not out.exists():
        assert machine.run("hospital-c", command_of("hospital-c")).returncode == 0
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="scan0.png"\r\n\r\n'
    request = urllib.request.Request(
        f"{verifier}/verify?format=json",
        head + out.read_bytes() + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found = json.load(answer)
    assert found["verdict"] == "authentic"


def script_steps() -> list[list[str]]:
    """What training.sh has Docker do: the script runs, with a `docker` that writes its arguments down."""
    with tempfile.TemporaryDirectory() as folder:
        docker = Path(folder) / "docker"
        docker.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$0.said"; printf "\\n\\0" >> "$0.said"\n')
        docker.chmod(0o755)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        subprocess.run([str(SCRIPT), *SMALL], env=environment, check=True, timeout=60)
        said = (Path(folder) / "docker.said").read_text()
    return [step.split("\0")[:-1] for step in said.split("\n\0")[:-1]]


def test_training(machine: Machine) -> None:
    port = str(_free_port())
    with ExitStack() as running:
        for step in script_steps():
            assert step[0] == "compose"
            if step[1:] == ["up", "--detach", "--wait", "coordinator"]:
                running.enter_context(machine.up("coordinator", command_of("coordinator"), "hospitals are connected"))
                assert machine.healthy("coordinator", {"9092": port})
                continue
            assert step[1:3] == ["run", "--rm"]
            service, command = step[3], step[4:]
            if command[0] in ("sed", "cp"):
                # of the image, not of medprov
                words = [
                    str(machine.path(service, word))
                    if word.startswith("/") and word[1:2].isalpha() and Path(word).suffix
                    else word
                    for word in command
                ]
                subprocess.run(words, check=True, timeout=60)
                continue
            if "init" in command:
                command = [*command, "--listen", f"127.0.0.1:{port}"]
            done = machine.run(service, command)
            assert done.returncode == 0, done.stderr
        for site in SITES:
            running.enter_context(machine.up(site, command_of(site), "joined"))
        federation = Federation(Chain.connect(Config.load(machine.path("chain", "/consortium/medprov.toml"))))
        deadline = time.monotonic() + 240
        while federation.last_round() is None and time.monotonic() < deadline:
            time.sleep(0.5)
    last = federation.last_round()
    assert last is not None and last.number == 1
    assert any(machine.path("coordinator", "/coordinator").rglob(f"{last.model_hash.hex()}.safetensors"))


def test_the_chain_has_released_the_model_that_ships(machine: Machine) -> None:
    config = Config.load(machine.path("chain", "/consortium/medprov.toml"))
    assert Federation(Chain.connect(config)).is_released(released_model())


def test_a_chain_that_dies_ends_its_container(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "tmp").mkdir()
    with machine.up("chain", chain_command(), "waiting for SIGTERM") as chain:
        state = json.loads(machine.path("chain", "/consortium/chain.json").read_text())
        os.kill(state["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while chain.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert chain.poll() == 1
        assert chain.stdout is not None
        assert "the chain has ended by itself" in chain.stdout.read()
