"""Keeps a coordinator running: the SuperLink on its database, and a run in it until the federation has its rounds.

Both are processes of their own. A SuperLink that dies is started again on its database; a run that ends early is
submitted again and goes on at the last anchored round by itself. Failures in a row are paced and counted.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.deployment import bundle, certificates, files
from medprov_coordinator.deployment.config import INITIAL, Deployment
from medprov_coordinator.deployment.control import SuperLink, secret_file
from medprov_coordinator.deployment.members import check_ready
from medprov_coordinator.deployment.server_process import MARK
from medprov_coordinator.errors import CheckpointError, SuperLinkError
from medprov_coordinator.run_config import Scalar
from medprov_ledger import supervised
from medprov_ledger.errors import ChainError
from medprov_ledger.federation import Federation
from medprov_ledger.supervised import BackOff, Child

SUPERLINK_LOG, SERVER_LOG = "superlink.log", "server.log"
DATABASE, TOKEN, CHECKPOINTS = "superlink.db", "task.token", "checkpoints"
START_PATIENCE = 180.0
"""Seconds in which the SuperLink must answer, and hand out the run's task."""
PORT_PATIENCE = 10.0
"""Seconds in which a former process may let go of the port."""
PAUSE = 0.25

Say = Callable[[str, str], None]
"""Gets a kind (one word) and a line for people."""


@dataclass
class Watch:
    """What :func:`up` keeps in mind.

    Parameters
    ----------
    deployment : Deployment
    federation : Federation
    say : callable
    asked : threading.Event
        Set when the command shall end.
    """

    deployment: Deployment
    federation: Federation
    say: Say
    asked: threading.Event
    superlink: Child = field(init=False)
    server: Child = field(init=False)
    reason: str = field(init=False, default="")

    def __post_init__(self) -> None:
        state = self.deployment.state
        self.superlink = Child(
            "SuperLink", superlink_command(self.deployment), state / SUPERLINK_LOG, environment=_environment(state)
        )
        self.server = Child(
            "ServerApp",
            server_command(self.deployment),
            state / SERVER_LOG,
            environment=_environment(state),
            folder=state,
        )

    def anchored(self, otherwise: int) -> int:
        """Number of the last anchored round; `otherwise` while the chain does not answer."""
        try:
            found = self.federation.last_round()
        except ChainError:
            return otherwise
        return found.number if found else 0

    def serve(self) -> bool:
        """Have the SuperLink answer; False where that fails or the command shall end."""
        if self.superlink.running:
            return True
        self.server.stop()
        self._wait_for_port()
        self.superlink.start()
        link = SuperLink(self.deployment)
        try:
            deadline = time.monotonic() + START_PATIENCE
            while not self.asked.is_set() and self.superlink.running and time.monotonic() < deadline:
                if link.healthy():
                    self.say("superlink", f"listens on {self.deployment.listen}, members use {self.deployment.address}")
                    return True
                self.asked.wait(PAUSE)
        finally:
            link.close()
        self.superlink.stop()
        self.reason = f"the SuperLink did not start ({_last(self.superlink)})"
        return False

    def run(self) -> bool:
        """Submit a run and watch it; True when it has ended with all rounds."""
        link = SuperLink(self.deployment)
        try:
            for run in link.runs():
                if run.status != "finished":
                    # of a ServerApp that is gone: what it had in hand is lost, what it had anchored is not
                    link.stop(run.number)
            if not self._gather(link):
                self.reason = f"the SuperLink ended ({_ending(self.superlink)})"
                return False
            number = link.start(bundle.build(), bundle.bundle_hash(), settings(self.deployment))
            self.say("run", f"submitted as {number}")
            if self._begin(link):
                self._follow()
            return self._ended(link, number)
        finally:
            link.close()

    def _gather(self, link: SuperLink) -> bool:
        """Wait as long as it takes for the quorum: a run without it would only end at its deadline."""
        said = -1
        while not self.asked.is_set() and self.superlink.running:
            there = sum(node.status == "online" for node in link.nodes())
            if there >= self.deployment.run.quorum or self._trained():
                return True
            if there != said:
                said = there
                self.say("waiting", f"{there} hospitals are connected, the quorum is {self.deployment.run.quorum}")
            self.asked.wait(4 * PAUSE)
        return self.superlink.running

    def _trained(self) -> bool:
        # Such a run has only anchors to wait for, or a damaged folder to report.
        rounds = self.deployment.run.rounds
        try:
            state = CheckpointFolder(self.deployment.state / CHECKPOINTS).load_state()
        except CheckpointError:
            return True
        return max(state.number if state else 0, self.anchored(0)) >= rounds

    def _begin(self, link: SuperLink) -> bool:
        deadline = time.monotonic() + START_PATIENCE
        while not self.asked.is_set() and self.superlink.running and time.monotonic() < deadline:
            token = link.task()
            if token is not None:
                # not on the command line, where every user of the machine could read it
                files.write(self.deployment.state / TOKEN, token.encode(), 0o600)
                self.server.start()
                return True
            self.asked.wait(PAUSE)
        return False

    def _follow(self) -> None:
        while not self.asked.is_set() and self.server.running and self.superlink.running:
            self._repeat()
            self.asked.wait(PAUSE)
        self.server.stop()
        self._repeat()

    def _repeat(self) -> None:
        for line in self.server.lines():
            if line.startswith(MARK):
                self.say("training", line.removeprefix(MARK))

    def _ended(self, link: SuperLink, number: int) -> bool:
        if self.asked.is_set():
            return False
        if not self.superlink.running:
            self.reason = f"the SuperLink ended ({_ending(self.superlink)})"
            return False
        rounds = self.deployment.run.rounds
        # Flower ends with status 0 too where a heartbeat that came too late has stopped the run
        if self.server.code == 0 and self.anchored(rounds) >= rounds:
            return True
        details = next((run.details for run in link.runs() if run.number == number), "")
        self.reason = f"the run ended early ({' '.join(details.split())[:300] or _ending(self.server)})"
        link.stop(number)
        return False

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + PORT_PATIENCE
        while not supervised.is_free(self.deployment.host, self.deployment.port):
            if time.monotonic() > deadline:
                raise SuperLinkError(
                    f"{self.deployment.listen}: cannot be listened on, or another program does; stop it, or change "
                    f"superlink.listen in {self.deployment.path}"
                )
            if self.asked.wait(PAUSE):
                return


def up(deployment: Deployment, say: Say, *, stay: bool = False, train: bool = True) -> int | None:
    """Run a coordinator until the federation has its rounds.

    Parameters
    ----------
    deployment : Deployment
    say : callable
    stay : bool
        Keep the SuperLink up after that, until a signal comes.
    train : bool
        False: keep the SuperLink up and submit no run.

    Returns
    -------
    int or None
        Number of the last anchored round; None where a signal ended the command before.

    Raises
    ------
    SuperLinkError
        Too many failures in a row, or the port is in use.
    CertificateError, EnrolmentError, UnreleasedError, ChainError, ChildError, ConfigError
    """
    with supervised.locked(deployment.state, "medprov-coordinator up"), supervised.stop_signals() as asked:
        if deployment.own_certificates:
            certificates.ensure(deployment.ca, deployment.certificate, deployment.key, deployment.hosts)
        until = certificates.check(deployment.ca, deployment.certificate, deployment.key, deployment.hosts)
        say("certificate", f"valid until {until:%Y-%m-%d}, for {', '.join(deployment.hosts)}")
        secret_file(deployment)
        federation = check_ready(deployment)
        say("app", f"bundle 0x{bundle.bundle_hash().hex()} is released")
        watch = Watch(deployment, federation, say, asked)
        try:
            done = not train or _until_finished(watch)
            if done and (stay or not train):
                _keep(watch)
            if asked.is_set() and not (done and train):
                return None
        finally:
            watch.server.stop()
            watch.superlink.stop()
        return watch.anchored(0)


def settings(deployment: Deployment) -> dict[str, Scalar]:
    """The run's settings; places are written from the state folder, which says nothing about this machine."""
    home = deployment.state.resolve()

    def place(path: Path | None) -> str:
        return "" if path is None else os.path.relpath(path.resolve(), home)

    return deployment.run.to_flat() | {
        "folder": CHECKPOINTS,
        "medprov-config": place(deployment.ledger.path),
        "anchor-as": deployment.hospital.name,
        INITIAL: place(deployment.initial),
    }


def superlink_command(deployment: Deployment) -> list[str]:
    """The command line of the SuperLink's process."""
    secret = str(secret_file(deployment))
    # -P: the current folder must not supply modules
    program = [sys.executable, "-P", "-m", "medprov_coordinator.deployment.superlink_process", secret, str(os.getpid())]
    options = {
        "--host": deployment.host,
        "--port": deployment.port,
        "--ssl-ca-certfile": deployment.ca,
        "--ssl-certfile": deployment.certificate,
        "--ssl-keyfile": deployment.key,
        "--database": deployment.state / DATABASE,
        "--isolation": "process",
        "--superexec-auth-secret-file": secret,
    }
    flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    return [*program, *(str(part) for option in options.items() for part in option), *flags]


def server_command(deployment: Deployment) -> list[str]:
    """The command line of the ServerApp's process, which runs in the state folder."""
    program = [sys.executable, "-P", "-m", "medprov_coordinator.deployment.server_process", str(os.getpid())]
    options = {
        "--runtime-api-address": deployment.local,
        "--token-file": (deployment.state / TOKEN).resolve(),
        "--root-certificates": deployment.ca.resolve(),
    }
    return [*program, *(str(part) for option in options.items() for part in option)]


def _until_finished(watch: Watch) -> bool:
    pause, failures, last = BackOff(), 0, watch.anchored(0)
    while not watch.asked.is_set():
        try:
            if watch.serve() and watch.run():
                watch.say("finished", f"all {watch.anchored(last)} rounds are anchored")
                return True
        except SuperLinkError as error:
            if not watch.superlink.running and watch.superlink.pid is None:
                raise
            watch.reason = str(error)
        if watch.asked.is_set():
            break
        now = watch.anchored(last)
        if now > last:
            pause.reset()
            failures, last = 0, now
        failures += 1
        if failures > watch.deployment.restarts:
            logs = f"{SERVER_LOG} and {SUPERLINK_LOG} in {watch.deployment.state}"
            raise SuperLinkError(f"gave up after {failures} failures in a row: {watch.reason}; see {logs}")
        seconds = pause.next()
        watch.say("again", f"{watch.reason}; again in {seconds:g} s, from round {last}")
        watch.asked.wait(seconds)
    return False


def _keep(watch: Watch) -> None:
    pause = BackOff()
    while not watch.asked.is_set():
        if watch.superlink.running:
            watch.asked.wait(PAUSE)
        elif not watch.serve() and not watch.asked.is_set():
            seconds = pause.next()
            watch.say("again", f"{watch.reason}; again in {seconds:g} s")
            watch.asked.wait(seconds)


def _environment(state: Path) -> dict[str, str]:
    return {
        "FLWR_HOME": str((state / "flower").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _ending(child: Child) -> str:
    code = child.code
    return f"ended by signal {-code}" if code is not None and code < 0 else f"status {code}, {_last(child)}"


def _last(child: Child) -> str:
    telling = [line.strip() for line in child.output() if line.strip()]
    return telling[-1][:300] if telling else "it said nothing"
