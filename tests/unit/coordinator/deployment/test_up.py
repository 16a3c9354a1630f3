import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from medprov_coordinator.deployment import up as module
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.deployment.control import Node, Run
from medprov_coordinator.deployment.up import Watch, server_command, settings, superlink_command, up
from medprov_coordinator.errors import SuperLinkError, UnreleasedError
from medprov_ledger.errors import ChainAwayError
from tests.unit.coordinator.deployment.conftest import MakeConsortium


@pytest.fixture
def deployment(make_consortium: MakeConsortium) -> Deployment:
    made = make_consortium().deployment
    made.state.mkdir()
    return made


class FakeFederation:
    number = 0
    away = False

    def last_round(self) -> SimpleNamespace | None:
        if self.away:
            raise ChainAwayError("away")
        return SimpleNamespace(number=self.number) if self.number else None


class FakeChild:
    """A program that ends as its plan says."""

    pid = 1

    def __init__(self, plan: list[int | None], output: tuple[str, ...] = ()) -> None:
        self.plan, self.code, self.running, self.starts, self._lines = plan, None, False, 0, list(output)

    def start(self) -> None:
        self.starts += 1
        self.code = self.plan.pop(0) if self.plan else None
        self.running = self.code is None

    def stop(self, patience: float = 0) -> None:
        self.running = False

    def lines(self) -> list[str]:
        found, self._lines = self._lines, []
        return found

    def output(self) -> list[str]:
        return ["last words"]


class FakeLink:
    runs_there: ClassVar[list[Run]] = []
    stopped: ClassVar[list[int]] = []
    there: ClassVar[Iterator[int]] = itertools.repeat(9)

    def __init__(self, deployment: Deployment) -> None:
        pass

    def runs(self) -> list[Run]:
        return self.runs_there

    def nodes(self) -> list[Node]:
        online = next(FakeLink.there)
        return [Node(i, "site", "online" if i < online else "offline", b"") for i in range(9)]

    def start(self, bundle: bytes, bundle_hash: bytes, flat: object) -> int:
        return 77

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def task(self) -> str:
        return "token"

    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.fixture
def watch(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(module, "SuperLink", FakeLink)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    monkeypatch.setattr(module, "PORT_PATIENCE", 0.2)
    monkeypatch.setattr(FakeLink, "runs_there", [])
    monkeypatch.setattr(FakeLink, "stopped", [])
    monkeypatch.setattr(FakeLink, "there", itertools.repeat(9))
    said: list[tuple[str, str]] = []
    made = Watch(deployment, FakeFederation(), lambda *line: said.append(line), threading.Event())
    made.superlink, made.server = FakeChild([None] * 9), FakeChild([])
    made.said = said
    yield made


class Quick:
    def next(self) -> float:
        return 0.0

    def reset(self) -> None:
        pass


def test_a_run_that_ends_well(watch: Watch) -> None:
    watch.server = FakeChild([0], ("medprov: round 1", "technicality"))
    rounds = watch.federation.number = watch.deployment.run.rounds
    assert module._until_finished(watch)
    assert ("training", "round 1") in watch.said
    assert watch.said[-1] == ("finished", f"all {rounds} rounds are anchored")
    assert (watch.deployment.state / module.TOKEN).read_text() == "token"
    assert oct((watch.deployment.state / module.TOKEN).stat().st_mode)[-3:] == "600"


def test_a_run_that_fails_is_submitted_again(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackOff", Quick)
    monkeypatch.setattr(
        FakeLink, "runs_there", [Run(5, "running", "", ""), Run(77, "finished", "failed", "no\nquorum")]
    )
    watch.server = FakeChild([1, -9, 0])
    # nothing but the status says then that the run has ended well
    watch.federation.away = True
    assert module._until_finished(watch)
    # what an earlier command has left, and the runs that have failed
    assert FakeLink.stopped == [5, 77, 5, 77, 5]
    reasons = [text for kind, text in watch.said if kind == "again"]
    assert reasons[0].startswith("the run ended early (no quorum); again in 0 s, from round 0")
    assert watch.server.starts == 3


def test_a_superlink_that_dies_is_started_again(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackOff", Quick)
    watch.superlink = FakeChild([7, None])
    watch.server = FakeChild([0])
    watch.federation.away = True
    assert module._until_finished(watch)
    assert ("again", "the SuperLink did not start (last words); again in 0 s, from round 0") in watch.said


def test_hospitals_that_are_long_in_coming_are_no_failures(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    object.__setattr__(watch.deployment, "restarts", 0)
    quorum = watch.deployment.run.quorum
    monkeypatch.setattr(FakeLink, "there", iter([*[0] * 30, *[quorum - 1] * 30, quorum]))
    watch.server = FakeChild([0])
    rounds = watch.deployment.run.rounds
    monkeypatch.setattr(watch, "anchored", lambda otherwise: rounds if watch.server.starts else 0)
    assert module._until_finished(watch)
    waits = [text for kind, text in watch.said if kind == "waiting"]
    assert waits == [f"{n} hospitals are connected, the quorum is {quorum}" for n in (0, quorum - 1)]
    assert watch.server.starts == 1


def test_a_run_that_is_trained_needs_no_hospital(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLink, "there", itertools.repeat(0))
    watch.federation.number = watch.deployment.run.rounds
    watch.server = FakeChild([0])
    assert module._until_finished(watch) and watch.server.starts == 1


def test_damaged_checkpoints_are_reported_by_the_run(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackOff", Quick)
    monkeypatch.setattr(FakeLink, "there", itertools.repeat(0))
    object.__setattr__(watch.deployment, "restarts", 0)
    folder = watch.deployment.state / module.CHECKPOINTS
    folder.mkdir()
    (folder / "state.json").write_text("{")
    watch.server = FakeChild([1])
    with pytest.raises(SuperLinkError, match="gave up after 1 failures"):
        module._until_finished(watch)
    assert watch.server.starts == 1


def test_a_superlink_that_dies_while_waiting(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes() -> Iterator[int]:
        yield from (0, 0)
        watch.superlink.running = False
        yield 0

    monkeypatch.setattr(FakeLink, "there", nodes())
    assert watch.serve() and not watch.run()
    assert watch.reason.startswith("the SuperLink ended") and watch.server.starts == 0


def test_status_0_without_all_rounds_is_no_end(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    # as of a run whose heartbeat came too late
    monkeypatch.setattr(module, "BackOff", Quick)
    object.__setattr__(watch.deployment, "restarts", 1)
    watch.federation.number = watch.deployment.run.rounds - 1
    watch.server = FakeChild([0] * 9)
    with pytest.raises(SuperLinkError, match=r"the run ended early \(status 0"):
        module._until_finished(watch)


def test_it_gives_up_after_failures_without_a_new_round(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackOff", Quick)
    object.__setattr__(watch.deployment, "restarts", 2)
    watch.server = FakeChild([1] * 99)
    with pytest.raises(SuperLinkError, match=r"gave up after 3 failures in a row: the run ended early \(status 1"):
        module._until_finished(watch)
    assert watch.server.starts == 3


def test_a_new_round_begins_the_count_anew(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BackOff", Quick)
    object.__setattr__(watch.deployment, "restarts", 1)
    numbers = iter([0, 0, 1, 2, 3, 3, 3, 3])
    monkeypatch.setattr(watch, "anchored", lambda otherwise: next(numbers))
    watch.server = FakeChild([1] * 5)
    with pytest.raises(SuperLinkError, match="gave up after 2 failures"):
        module._until_finished(watch)
    assert watch.server.starts == 5


def test_while_the_chain_is_away_the_last_number_counts(watch: Watch) -> None:
    watch.federation.number = 4
    assert watch.anchored(0) == 4
    watch.federation.away = True
    assert watch.anchored(3) == 3


def test_a_signal_ends_it(watch: Watch) -> None:
    watch.asked.set()
    assert not module._until_finished(watch)


def test_a_port_that_another_program_uses(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.supervised, "is_free", lambda *_: False)
    watch.superlink.pid = None
    with pytest.raises(SuperLinkError, match=r"127\.0\.0\.1:29999: cannot be listened on, or another program does"):
        module._until_finished(watch)


def test_a_bundle_that_is_not_released_is_said_before_anything_starts(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Deployment) -> None:
        raise UnreleasedError("not released")

    monkeypatch.setattr(module, "check_ready", refuse)
    said: list[str] = []
    with pytest.raises(UnreleasedError):
        up(deployment, lambda kind, _: said.append(kind))
    assert said == ["certificate"]


def test_settings_name_no_place_of_this_machine(deployment: Deployment) -> None:
    flat = settings(deployment)
    assert (flat["folder"], flat["medprov-config"]) == ("checkpoints", "../../chain/medprov.toml")
    assert (flat["anchor-as"], flat["initial-weights"]) == ("hospital-a", "")
    assert not any(str(value).startswith("/") for value in flat.values())


def test_command_lines(deployment: Deployment) -> None:
    link, server = superlink_command(deployment), server_command(deployment)
    assert link[:3] == server[:3] == [sys.executable, "-P", "-m"]
    for flag in ("--enable-supernode-auth", "--disable-runtime-dependency-installation"):
        assert flag in link
    for option, value in (("--host", "127.0.0.1"), ("--port", "29999"), ("--isolation", "process")):
        assert link[link.index(option) + 1] == value
    assert "--insecure" not in link + server
    # neither secret nor token where other users of the machine could read them
    secret = (deployment.state / "control.secret").read_text()
    assert not any(secret in part for part in link + server)
    assert Path(server[server.index("--token-file") + 1]).is_absolute()


def test_children_are_offline(deployment: Deployment) -> None:
    made = Watch(deployment, FakeFederation(), lambda *_: None, threading.Event())
    for child in (made.superlink, made.server):
        assert child._environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert child._environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert child._environment["FLWR_HOME"].startswith(str(deployment.state.resolve()))
