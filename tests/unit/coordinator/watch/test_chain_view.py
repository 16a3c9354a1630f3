"""The chain as a watcher sees it: away, back again, reorganised, answering nonsense."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from medprov_coordinator.watch import chain_view
from medprov_coordinator.watch.chain_view import SETTLED, ChainState, ChainView
from medprov_ledger.config import Config, HospitalConfig, StoreConfig
from medprov_ledger.errors import ChainAwayError, ConfigError
from medprov_ledger.federation import Member, Round, Status

ADDRESS = "0xAbCdEf0000000000000000000000000000000001"


def config(rpc: str = "http://127.0.0.1:1") -> Config:
    home = HospitalConfig("north", ADDRESS, None, Path("password"), Path("key"), Path("state"))
    return Config(
        path=Path("medprov.toml"),
        federation_id=bytes(range(32)),
        federation_name="test",
        rpc=rpc,
        chain_id=1,
        federation_address="0x" + "11" * 20,
        registry_address="0x" + "22" * 20,
        confirmations=1,
        timeout=5.0,
        store=StoreConfig("blocks", path=Path("blocks")),
        discoverable=False,
        directory_key=None,
        hospitals={"north": home},
    )


class FakeFederation:
    """A contract in memory."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.held: dict[int, Round] = {}
        self.standing = [Member(ADDRESS, bytes(32), bytes(32), Status.ACTIVE, 1)]
        self.asked: list[int] = []

    def grow(self, last: int, block: int = 100) -> None:
        self.held = {
            n: Round(n, bytes(32), "", bytes(32), bytes(32), ADDRESS, block + n, n) for n in range(1, last + 1)
        }

    def last_round(self) -> Round | None:
        if self.failure is not None:
            raise self.failure
        return self.held[max(self.held)] if self.held else None

    def round(self, number: int) -> Round | None:
        self.asked.append(number)
        return self.held.get(number)

    def members(self, *, former: bool) -> list[Member]:
        assert former
        return self.standing


@pytest.fixture
def federation(monkeypatch: pytest.MonkeyPatch) -> FakeFederation:
    fake = FakeFederation()
    monkeypatch.setattr(chain_view, "Chain", SimpleNamespace(connect=lambda config: None))
    monkeypatch.setattr(chain_view, "Federation", lambda chain: fake)
    return fake


def test_before_the_first_question_only_names_are_known() -> None:
    state = ChainView(config()).state
    assert state.configured and state.trouble == "not asked yet"
    assert (state.rounds, state.members, state.names) == ({}, {}, {ADDRESS.lower(): "north"})


def test_no_chain_is_no_trouble() -> None:
    assert ChainState() == ChainState(False, {}, {}, {}, b"", "")


def test_rounds_and_standing(federation: FakeFederation) -> None:
    view = ChainView(config())
    assert view.refresh().rounds == {} and view.state.trouble == ""
    federation.grow(2)
    federation.standing.append(Member("0xFF", bytes(32), bytes(32), Status.SUSPENDED, 1))
    state = view.refresh()
    assert view.state is state and state.federation == bytes(range(32))
    assert {number: one.block for number, one in state.rounds.items()} == {1: 101, 2: 102}
    assert state.members == {ADDRESS.lower(): "active", "0xff": "suspended"}


@pytest.mark.parametrize(
    ("failure", "trouble"),
    [
        (ChainAwayError("http://chain:\n no chain answers there"), "http://chain: no chain answers there"),
        (ValueError("9 is not a valid Status"), "9 is not a valid Status"),
        (TypeError(), "TypeError"),
    ],
    ids=["away", "unusable", "without a text"],
)
def test_a_chain_that_fails_leaves_the_last_answer_standing(
    federation: FakeFederation, failure: Exception, trouble: str
) -> None:
    view = ChainView(config())
    federation.grow(2)
    before = view.refresh()
    federation.failure = failure
    federation.grow(3)
    state = view.refresh()
    assert state.trouble == trouble
    assert (state.rounds, state.members, state.names) == (before.rounds, before.members, before.names)
    assert state.configured and state.federation == before.federation
    federation.failure = None
    assert set(view.refresh().rounds) == {1, 2, 3} and view.state.trouble == ""


def test_a_chain_that_nobody_runs_is_named_with_its_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    state = ChainView(config(address)).refresh()
    assert state.trouble.startswith(f"{address}: no chain answers there") and state.rounds == {}


def test_rounds_deep_below_the_newest_are_asked_for_once(federation: FakeFederation) -> None:
    view = ChainView(config())
    federation.grow(SETTLED + 3)
    view.refresh()
    assert federation.asked == list(range(1, SETTLED + 4))
    federation.asked.clear()
    federation.grow(SETTLED + 3, block=200)
    state = view.refresh()
    assert federation.asked == list(range(4, SETTLED + 4))
    assert (state.rounds[3].block, state.rounds[4].block) == (103, 204)


def test_rounds_that_a_reorganisation_takes_away_are_gone(federation: FakeFederation) -> None:
    view = ChainView(config())
    federation.grow(5)
    view.refresh()
    federation.grow(3)
    assert set(view.refresh().rounds) == {1, 2, 3}
    federation.held = {}
    assert view.refresh().rounds == {} and view.state.trouble == ""


def test_the_thread_outlives_a_failure_and_ends_when_it_is_told(federation: FakeFederation) -> None:
    view = ChainView(config())
    asked = threading.Semaphore(0)
    refresh = view.refresh

    def counted() -> ChainState:
        try:
            return refresh()
        finally:
            asked.release()

    stop = threading.Event()
    federation.failure = ValueError("nonsense")
    view.refresh = counted  # type: ignore[method-assign]
    thread = view.follow(0.01, stop)
    try:
        assert all(asked.acquire(timeout=60) for _ in range(2)) and view.state.trouble == "nonsense"
        federation.grow(1)
        federation.failure = None
        # the one that was under way may have failed still
        assert all(asked.acquire(timeout=60) for _ in range(2)) and set(view.state.rounds) == {1}
    finally:
        stop.set()
        thread.join(timeout=60)
    assert not thread.is_alive() and thread.daemon


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        ChainView.load(tmp_path / "medprov.toml")
