from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medprov_node import queue_status as module
from medprov_node.flush import flush
from medprov_node.queue_status import queue_status
from medprov_node.queueing import queue_files


def hospital_a(house):
    return house.config.hospital("hospital-a")


def test_a_hospital_that_has_done_nothing(house) -> None:
    found = queue_status(hospital_a(house), house.config)
    assert (found.waiting, found.oldest, set(found.states.values())) == (0, None, {0})
    assert not hospital_a(house).state.exists(), "looking makes nothing"


def test_what_waits_since_when_and_what_is_done(house, quick, picture, tmp_path, monkeypatch) -> None:
    (queued,) = queue_files(
        [(picture, tmp_path / "out.png")], hospital_a(house), house.config, watermarker=quick, ledger=house.ledger
    )
    monkeypatch.setattr(module.time, "time", lambda: queued.queued + 30)
    found = queue_status(hospital_a(house), house.config)
    assert (found.waiting, found.oldest, found.states["bundled"]) == (1, 30, 1)
    flush(hospital_a(house), house.config, ledger=house.ledger)
    found = queue_status(hospital_a(house), house.config)
    assert (found.waiting, found.oldest, found.states["confirmed"]) == (0, None, 1)


def test_a_clock_that_was_set_back_gives_no_negative_age(house, quick, picture, tmp_path, monkeypatch) -> None:
    queue_files([(picture, tmp_path / "out.png")], hospital_a(house), house.config, watermarker=quick)
    monkeypatch.setattr(module.time, "time", lambda: 0)
    assert queue_status(hospital_a(house), house.config).oldest == 0


@pytest.mark.parametrize("away", ["/proc/no such folder", None])
def test_why_chain_and_store_do_not_answer(house, away) -> None:
    store = house.config.store if away is None else replace(house.config.store, path=Path(away))
    found = queue_status(hospital_a(house), replace(house.config, store=store))
    # the configuration of these tests names a port on which nothing listens
    assert "no chain answers" in found.chain
    assert bool(found.store) == (away is not None)
    assert found.free > 0
    assert found.to_json()["store"] == found.store


def test_a_chain_and_a_store_that_answer(house, monkeypatch) -> None:
    monkeypatch.setattr(module.connect, "connect", lambda _: house.ledger)
    found = queue_status(hospital_a(house), house.config)
    assert (found.chain, found.store) == ("", "")
