"""The deployment of :mod:`benchmarks.crash`: a SuperLink, a ServerApp and three sites in processes of their own."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks.crash import MOMENTS, Outcome, describe, faults, last_event
from medprov_coordinator import cli as coordinator
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.deployment.up import CHECKPOINTS
from medprov_ledger import development
from medprov_ledger.supervised import free_port
from medprov_node import cli as node
from medprov_watermark.training.phantoms import phantom

RUN = """[run]
rounds = {rounds}
local-steps = 1
total-steps = 100
batch = 2
channels = 8
blocks = 1
extractor-blocks = 1
probe-pictures = 1
quorum = 2
deadline = 120.0
"""
PARTS = {
    "SuperNode": "medprov_node.joining.supernode_process",
    "executor": "medprov_node.joining.executor",
    "SuperLink": "medprov_coordinator.deployment.superlink_process",
    "ServerApp": "medprov_coordinator.deployment.server_process",
}
ROLES = (*PARTS, "up", "join")
SPAN = 15.0
"""Seconds of a round over which kills are spread."""
LIMIT = 900.0
"""Seconds after which a run counts as one that does not end."""


class Consortium:
    """The development federation, its coordinator and its sites, each started by its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = development.up(folder / "chain").config
        self.file = folder / "c" / "coordinator.toml"
        self.up: subprocess.Popen[bytes] | None = None
        self.sites: dict[str, subprocess.Popen[bytes]] = {}
        ledger = str(self.config.path)
        self._call(
            coordinator,
            ["init", "--config", ledger, "--dir", str(folder / "c"), "--listen", f"127.0.0.1:{free_port()}"],
        )
        self.set_rounds(1)
        self._call(coordinator, ["bundle", "--approve", "--config", str(self.file)])
        self.checkpoints = Deployment.load(self.file).state / CHECKPOINTS
        opened = self._start("up", ["medprov_coordinator.cli", "up", "--no-run", "--config", str(self.file)])
        try:
            self._wait_for(folder / "up.log", "superlink ")
            for h, name in enumerate(development.HOSPITALS):
                home, images = folder / name, folder / f"images-{name}"
                images.mkdir()
                for i in range(2):
                    Image.fromarray(phantom(700 + 10 * h + i)).save(images / f"{i}.png")
                self._call(node, ["request", str(home), "--config", ledger, "--hospital", name])
                request, kit = str(home / "request.json"), str(home / "kit.json")
                self._call(coordinator, ["enroll", request, "--config", str(self.file), "--out", kit])
                join = ["join", "--kit", kit, "--home", str(home), "--images", str(images), "--config", ledger]
                self._call(node, [*join, "--no-start"])
        finally:
            opened.terminate()
            opened.wait(60)
        for name in development.HOSPITALS:
            self.join(name)

    def set_rounds(self, rounds: int) -> None:
        """Rounds that the federation is to have."""
        text = self.file.read_text().partition("[run]")[0]
        self.file.write_text(text + RUN.format(rounds=rounds))

    def start(self) -> None:
        """Start the coordinator's command."""
        self.up = self._start("up", ["medprov_coordinator.cli", "up", "--config", str(self.file)])

    def join(self, name: str) -> None:
        """Start a site's command."""
        file = self.folder / name / "node.toml"
        self.sites[name] = self._start(name, ["medprov_node.cli", "join", "--config", str(file)])

    def kill(self, role: str, draw: random.Random) -> bool:
        """Kill one of a role; False where none is there."""
        site = self.sites[draw.choice(development.HOSPITALS)]
        if role in ("up", "join"):
            process = self.up if role == "up" else site
            if process is None or process.poll() is not None:
                return False
            process.kill()
            return True
        parent = site if "node" in PARTS[role].split(".")[0] else self.up
        for pid in _children(parent.pid) if parent and parent.poll() is None else ():
            with contextlib.suppress(OSError):
                if PARTS[role] in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                    os.kill(pid, signal.SIGKILL)
                    return True
        return False

    def tend(self) -> int:
        """Start again what has ended but should run; gives how many did."""
        ended = [name for name, process in self.sites.items() if process.poll() is not None]
        for name in ended:
            self.join(name)
        return len(ended)

    def close(self) -> None:
        """End everything."""
        running = [*self.sites.values(), *([self.up] if self.up else [])]
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            process.wait(60)
        development.down(self.folder / "chain")

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            command = [sys.executable, "-m", *arguments]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _wait_for(self, log: Path, text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in log.read_text():
            if time.monotonic() > deadline:
                raise SystemExit(f"{log.name}: no '{text.strip()}' within two minutes: {log.read_text()[-500:]}")
            time.sleep(0.2)

    def _call(self, module: object, arguments: list[str]) -> None:
        with contextlib.redirect_stdout(None):
            status = module.main(arguments)  # type: ignore[attr-defined]
        if status:
            raise SystemExit(f"{' '.join(arguments[:2])}: ended with status {status}")


def run_deployment(runs: int, rounds: int, kills: int, seed: int) -> Iterator[Outcome]:
    """Runs one after the other in one federation."""
    with tempfile.TemporaryDirectory() as temporary:
        consortium = Consortium(Path(temporary))
        try:
            for number in range(1, runs + 1):
                yield _once(consortium, seed + number, rounds, kills, rounds * SPAN)
        finally:
            consortium.close()


def _once(consortium: Consortium, seed: int, rounds: int, kills: int, span: float) -> Outcome:
    draw, outcome = random.Random(seed), Outcome(seed)
    state = CheckpointFolder(consortium.checkpoints).load_state()
    first = state.number + 1 if state else 1
    last = first + rounds - 1
    consortium.set_rounds(last)
    plan = sorted(
        (draw.uniform(0, span), draw.choice(ROLES), draw.choice(MOMENTS), draw.uniform(0, 0.1)) for _ in range(kills)
    )
    consortium.start()
    begin = time.monotonic()
    while (now := time.monotonic() - begin) < LIMIT:
        assert consortium.up is not None
        status = consortium.up.poll()
        if status == 0:
            break
        if status is not None:
            outcome.restarts += 1
            consortium.start()
        outcome.restarts += consortium.tend()
        if plan and now >= plan[0][0]:
            _, role, moment, delay = plan[0]
            event = last_event(consortium.checkpoints)
            if moment in ("", event):
                time.sleep(delay if moment else 0.0)
                if consortium.kill(role, draw):
                    plan.pop(0)
                    outcome.kills.append((role, round(now, 2), event))
        time.sleep(0.05)
    else:
        outcome.wrong = f"not finished after {LIMIT:g} s"
    outcome.seconds = round(time.monotonic() - begin, 2)
    try:
        outcome.wrong = outcome.wrong or faults(consortium.checkpoints, consortium.config, last)
        describe(consortium.checkpoints, outcome, first, len(development.HOSPITALS))
    except Exception as error:  # a run that cannot even be looked at is a bad one, and the others go on
        outcome.wrong = f"{type(error).__name__}: {error}"
    if outcome.wrong:
        sys.stderr.write((consortium.folder / "up.log").read_text()[-3000:] + "\n")
    return outcome


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
