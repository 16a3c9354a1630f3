"""A consortium of real processes on one machine: SuperLink, three sites, a chain; kills, strangers, revocation."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from PIL import Image

from medprov_coordinator import cli as coordinator
from medprov_coordinator.deployment import bundle, certificates
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.deployment.control import SuperLink
from medprov_coordinator.grid import task_identity
from medprov_ledger import development
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation
from medprov_ledger.supervised import free_port
from medprov_node import cli as node
from medprov_node.errors import JoinError
from medprov_node.joining import node_key
from medprov_node.joining.config import Site
from medprov_node.joining.superlink import check_certificate, leave
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.phantoms import phantom

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HOSPITALS = development.HOSPITALS
ROUNDS = 2
RUN = """
[run]
rounds = 2
local-steps = 1
batch = 2
channels = 8
blocks = 1
extractor-blocks = 1
probe-pictures = 1
quorum = 2
deadline = 240.0
seed = 11
"""


@dataclass
class Program:
    """A command that runs, and what it has said."""

    arguments: list[str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def children(self) -> list[int]:
        """Numbers of its processes."""
        return _children(self.process.pid)

    def child(self, module: str) -> int:
        """Number of its process that runs a module."""
        (found,) = [n for n in self.children() if module in Path(f"/proc/{n}/cmdline").read_text().split("\0")]
        return found

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)


def until(true: Callable[[], Any], what: str, seconds: float = 500.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:g} s for {what}")


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class World:
    """The development federation, its coordinator, its sites."""

    folder: Path
    deployment: Deployment
    federation: Federation
    up: Program
    sites: dict[str, Program] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def site(self, name: str) -> Site:
        return Site.load(self.home(name) / "node.toml")

    def number(self) -> int:
        last = self.federation.last_round()
        return last.number if last else 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    folder = tmp_path_factory.mktemp("consortium")
    chain = folder / "chain"
    config = development.up(chain).config
    running: list[Program] = []
    try:
        port = free_port()
        ledger = str(config.path)
        assert not coordinator.main(
            ["init", "--config", ledger, "--dir", str(folder / "c"), "--listen", f"127.0.0.1:{port}"]
        )
        file = folder / "c" / "coordinator.toml"
        file.write_text(file.read_text().partition("[run]")[0] + RUN)
        assert not coordinator.main(["bundle", "--approve", "--config", str(file)])
        up = Program(["medprov_coordinator.cli", "up", "--stay", "--config", str(file)], folder / "up.log")
        running.append(up)
        made = World(folder, Deployment.load(file), Federation(Chain.connect(config)), up)
        until(lambda: "superlink  " in up.said or up.process.poll() is not None, "the SuperLink")
        assert up.process.poll() is None, up.said
        for h, name in enumerate(HOSPITALS):
            home, images = folder / name, folder / f"images-{name}"
            images.mkdir()
            for i in range(2):
                Image.fromarray(phantom(700 + 10 * h + i)).save(images / f"{i}.png")
            assert not node.main(["request", str(home), "--config", ledger, "--hospital", name])
            kit = str(home / "kit.json")
            assert not coordinator.main(["enroll", str(home / "request.json"), "--config", str(file), "--out", kit])
            join = ["join", "--kit", kit, "--home", str(home), "--images", str(images), "--config", ledger]
            assert not node.main([*join, "--no-start"])
            site = Program(["medprov_node.cli", "join", "--config", str(home / "node.toml")], folder / f"{name}.log")
            running.append(site)
            made.sites[name] = site
        yield made
    finally:
        for program in reversed(running):
            program.stop()
        development.down(chain)


def test_a_site_and_the_server_app_are_killed_and_all_rounds_are_anchored(world: World) -> None:
    until(lambda: world.number() >= 1, f"the first round: {world.up.said}")
    first = world.sites[HOSPITALS[0]]
    killed = [first.child("medprov_node.joining.supernode_process"), first.child("medprov_node.joining.executor")]
    server = world.up.child("medprov_coordinator.deployment.server_process")
    for number in (killed[0], server):
        os.kill(number, signal.SIGKILL)
    until(lambda: "finished  " in world.up.said, f"the last round: {world.up.said}")
    assert "ended by signal 9" in world.up.said
    assert "the SuperNode ended (by signal 9)" in first.said
    until(lambda: first.said.count("joined  ") >= 2, "the killed site")
    rounds = world.federation.rounds()
    assert [one.number for one in rounds] == list(range(1, ROUNDS + 1))
    checkpoints = world.deployment.state / "checkpoints"
    models = {ex.model_hash(ex.from_safetensors(f.read_bytes())) for f in checkpoints.rglob("*.safetensors")}
    assert {one.model_hash for one in rounds} <= models


def test_who_comes_without_the_secret_changes_nothing(world: World) -> None:
    context = httpx.create_ssl_context(verify=str(world.deployment.ca))
    for path in ("/v1/control/start-run", "/v1/control/register-node", "/docs", "/openapi.json"):
        answer = httpx.post(f"https://{world.deployment.local}{path}", verify=context, content=b"")
        assert answer.status_code == 403, path
    # tasks are given to the coordinator's own executor only
    answer = httpx.post(
        f"https://{world.deployment.local}/v1/runtime/acquire-task",
        verify=context,
        headers={"content-type": "application/protobuf"},
        content=b"",
    )
    assert answer.status_code in (400, 401, 403, 415)


def test_strangers_are_told_why_they_are_not_let_in(world: World, tmp_path: Path) -> None:
    site = world.site(HOSPITALS[1])
    node_key.create(tmp_path)
    with pytest.raises(JoinError, match=r"does not know the key .*node-key, or has revoked it; ask to be enrolled"):
        leave(replace(site, key=tmp_path / "node-key"))
    other = [tmp_path / name for name in ("ca.pem", "server.pem", "server-key.pem")]
    certificates.ensure(*other, ("127.0.0.1",))
    with pytest.raises(JoinError, match=r"has a certificate that .*ca\.pem has not issued"):
        check_certificate(replace(site, ca=other[0]))
    with pytest.raises(JoinError, match="certificate is not for localhost"):
        check_certificate(replace(site, address=site.address.replace("127.0.0.1", "localhost")))
    check_certificate(site)


def test_a_second_command_on_the_same_folder_is_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert coordinator.main(["up", "--config", str(world.deployment.path)]) == 1
    assert "another 'medprov-coordinator up' works here" in capsys.readouterr().err
    assert node.main(["join", "--config", str(world.site(HOSPITALS[1]).path)]) == 1
    assert "another 'medprov-node join' works here" in capsys.readouterr().err


def test_a_bundle_that_nobody_has_released_does_not_run(world: World) -> None:
    until(lambda: "finished  " in world.up.said, "the last round")
    document = bundle.document()
    document["project"]["version"] = "9.9.9"
    document["tool"]["flwr"]["app"]["components"]["clientapp"] = "evil:app"
    files = {"pyproject.toml": tomli_w.dumps(document).encode(), "evil.py": b"raise SystemExit('ran')\n"}
    content = build_fab_from_files(files)[0]
    site = world.site(HOSPITALS[1])
    link = SuperLink(world.deployment)
    run_id = link.start(content, bytes(32), {})
    token = until(link.task, "the task")
    grid = HttpGrid(world.deployment.local, root_certificates=world.deployment.ca.read_bytes(), token=token)
    try:
        with task_identity():
            TaskIdentity.run_id = run_id
            grid.set_run(run_from_proto(grid._runtime_client.PullTaskInput(PullTaskInputRequest()).run))
            message = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=site.node, message_type="train")
            (identity,) = grid.push_messages([message])
            (reply,) = until(lambda: list(grid.pull_messages([identity])), "the site's answer")
    finally:
        link.stop(run_id)
        grid.close()
        link.close()
    assert reply.has_error()
    assert reply.error.code == ErrorCode.INVALID_FAB
    said = world.sites[HOSPITALS[1]].said
    assert re.search("app bundle 0x[0-9a-f]{64}: refused, the federation has not released it", said)


def test_revocation_works_at_run_time(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    until(lambda: "finished  " in world.up.said, "the last round")
    name = HOSPITALS[2]
    assert not coordinator.main(["revoke", name, "--config", str(world.deployment.path)])
    config = Config.load(world.deployment.ledger.path)
    vote = ["vote", "suspend", name, "--config", str(config.path), "--hospital", HOSPITALS[1]]
    assert not node.main(vote)
    assert "decided" in capsys.readouterr().out
    assert not world.federation.is_member(config.hospital(name).address)
    program = world.sites[name]
    assert program.process.wait(90) == 1
    assert program.said.splitlines()[-1].endswith("or has revoked it; ask to be enrolled ('medprov-node request')")
    assert coordinator.main(["revoke", "nobody", "--config", str(world.deployment.path)]) == 1
    assert "nobody: no member and no enrolled node" in capsys.readouterr().err
    # its next attempt ends at once: it is no member any more
    assert node.main(["join", "--config", str(world.home(name) / "node.toml")]) == 1
    assert "is no active member of the federation" in capsys.readouterr().err


def test_a_signal_stops_everything(world: World) -> None:
    pids = [pid for program in (world.up, world.sites[HOSPITALS[0]]) for pid in program.children()]
    assert len(pids) == 3
    assert world.up.child("medprov_coordinator.deployment.superlink_process") in pids
    world.up.stop()
    world.sites[HOSPITALS[0]].stop()
    assert world.up.process.returncode == 0
    assert world.sites[HOSPITALS[0]].process.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
