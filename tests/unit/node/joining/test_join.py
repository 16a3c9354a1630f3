import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medprov_ledger.errors import ChainAwayError
from medprov_ledger.federation import Federation
from medprov_ledger.keys import load_account
from medprov_node.errors import AwayError, JoinError
from medprov_node.joining import join as module
from medprov_node.joining.join import executor_command, join, supernode_command
from tests.unit.node.conftest import House
from tests.unit.node.joining.conftest import MakeSite


class Said(list[tuple[str, str]]):
    def __call__(self, kind: str, text: str) -> None:
        self.append((kind, text))


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(module.BackOff):
        def next(self) -> float:
            super().next()
            return 0.0

    monkeypatch.setattr(module, "BackOff", Quick)
    monkeypatch.setattr(module, "MOMENT", 0.0)
    monkeypatch.setattr(module, "PAUSE", 0.0)


def test_command_lines(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site("c.example:9092")
    secret = tmp_path / "secret"
    node, executor = (make(site, "127.0.0.1:5", secret) for make in (supernode_command, executor_command))
    assert node[:3] == executor[:3] == [sys.executable, "-P", "-m"]
    options = dict(zip(node[5::2], node[6::2], strict=True))
    assert options == {
        "--superlink": "c.example:9092",
        "--root-certificates": str(site.ca),
        "--auth-supernode-private-key": str(site.key),
        "--isolation": "process",
        "--superexec-auth-secret-file": str(secret),
        "--host": "127.0.0.1",
        "--port": "5",
    }
    # the site's folders are no business of Flower's
    assert not any(str(site.images) in part for part in node)


def test_what_is_away_is_waited_for_and_said_once(make_site: MakeSite, said: Said, fast: None) -> None:
    failures: list[Exception] = [AwayError("c: gone"), AwayError("c: gone"), ChainAwayError("chain: gone")]

    def act() -> bool:
        if failures:
            raise failures.pop(0)
        return True

    assert module._patiently(make_site(), said, threading.Event(), act)
    assert said == [("waiting", "c: gone; trying until it does")]


def test_a_signal_ends_the_waiting(make_site: MakeSite, said: Said, fast: None) -> None:
    asked = threading.Event()

    def act() -> bool:
        asked.set()
        raise AwayError("c: gone")

    assert not module._patiently(make_site(), said, asked, act)


def test_who_is_no_member(make_site: MakeSite, house: House, said: Said) -> None:
    federation: Federation = house.ledger.federation
    hospital = house.config.hospital("hospital-a")
    federation.leave(hospital.address, load_account(house.config.hospital("hospital-b")))
    with pytest.raises(JoinError, match=r"hospital-a \(0x\w+\): is no active member of the federation; 1 members"):
        join(make_site(), said)


def test_files_are_checked_first(make_site: MakeSite, said: Said) -> None:
    site = make_site()
    with pytest.raises(JoinError, match=r"none: no such folder of images; correct site\.images in .*node\.toml"):
        join(replace(site, images=site.path.parent / "none"), said)
    site.key.unlink()
    with pytest.raises(JoinError, match="the node's key cannot be read"):
        join(site, said)


class FakeChild:
    """A program that ends when its time has come."""

    made: list["FakeChild"]

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name, self.environment, self.code, self.looks, self.stopped = name, environment, None, 0, False
        self.plan: tuple[int, int] | None = None
        self.said: list[str] = []
        FakeChild.made.append(self)

    def start(self) -> None:
        pass

    @property
    def running(self) -> bool:
        self.looks += 1
        if self.plan is not None and self.looks > self.plan[0]:
            self.code = self.plan[1]
        return self.code is None

    def lines(self) -> list[str]:
        found, self.said = self.said, []
        return found

    def output(self) -> list[str]:
        return ["the reason", "see https://example.org"]

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeChild]]:
    FakeChild.made = []
    monkeypatch.setattr(module, "Child", FakeChild)
    yield FakeChild.made


def ended(make_site: MakeSite, children: list[FakeChild], said: Said, plan: Callable[[], None]) -> str:
    site = make_site()
    site.state.mkdir(exist_ok=True)

    class Asked(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            plan()
            return self.is_set()

    return module._stay(site, said, Asked())


def test_when_one_process_ends_both_are_stopped(
    make_site: MakeSite, children: list[FakeChild], said: Said, fast: None
) -> None:
    def plan() -> None:
        children[1].plan = (0, -9)

    assert ended(make_site, children, said, plan) == "the executor ended (by signal 9)"
    assert [child.stopped for child in children] == [True, True]
    for child in children:
        assert child.environment["FLWR_TELEMETRY_ENABLED"] == child.environment["FLWR_DISABLE_UPDATE_CHECK"][:0] + "0"


def test_the_reason_is_the_last_line_that_says_something(
    make_site: MakeSite, children: list[FakeChild], said: Said, fast: None
) -> None:
    def plan() -> None:
        children[0].plan = (0, 1)

    assert ended(make_site, children, said, plan) == "the SuperNode ended (status 1, the reason)"


def test_a_supernode_that_asks_no_more_is_started_again(
    make_site: MakeSite, children: list[FakeChild], said: Said, fast: None
) -> None:
    def plan() -> None:
        assert not children[0].stopped
        children[0].said = ["ERROR: Server error '500 Internal Server Error' for url"]

    assert "asks no more" in ended(make_site, children, said, plan)
    assert [child.stopped for child in children] == [True, True]


def test_what_is_for_people_is_repeated(make_site: MakeSite, children: list[FakeChild], said: Said, fast: None) -> None:
    steps = iter(
        [
            ["INFO: SuperNode ID: 7"],
            ["Connection attempt failed, retrying"] * 2,
            ["Connection attempt failed", "Connection successful after 2 s"],
            ["Receiving: train message"],
        ]
    )

    def plan() -> None:
        node, executor = children
        node.said = next(steps, [])
        executor.said = ["medprov: train: done in 1.0 s", "a technicality"] if not node.said else []
        if not node.said:
            node.plan = (0, 0)

    ended(make_site, children, said, plan)
    assert said == [
        ("joined", "node 7 at 127.0.0.1:1"),
        ("waiting", "127.0.0.1:1: the SuperLink does not answer; trying until it does"),
        ("joined", "again: 127.0.0.1:1 answers"),
        ("site", "train: done in 1.0 s"),
    ]


def test_it_joins_again_until_the_coordinator_says_no(
    make_site: MakeSite, said: Said, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, left = iter(["the executor ended (by signal 9)", "the SuperNode ended (status 0)"]), iter([False, True])

    def leave(_: object) -> bool:
        found = next(left, None)
        if found is None:
            raise JoinError("revoked")
        return found

    monkeypatch.setattr(module, "check_certificate", lambda _: None)
    monkeypatch.setattr(module, "leave", leave)
    monkeypatch.setattr(module, "_stay", lambda *_: next(stays))
    with pytest.raises(JoinError, match="revoked"):
        join(make_site(), said)
    assert [kind for kind, _ in said] == ["again", "again"]
