from __future__ import annotations

import json

import pytest

from medprov_ledger import audit as audit_module
from medprov_ledger import chain, cli, config, federation, registry, store
from medprov_ledger.audit import Audit, Difference
from medprov_ledger.errors import ChainAwayError

GOOD = Audit(anchors=2, records=5, confirmed=5, waiting=1, opened=4, erased=1, differences=())
BAD = Audit(1, 1, 1, 0, 1, 0, (Difference("store", "job x: no such block"),))


class Configuration:
    """As much as the command looks at."""

    def __init__(self) -> None:
        self.hospitals = {"a": "the hospital"}


@pytest.fixture
def found(monkeypatch, capsys):
    """Runs the command with a given result; gives exit status and standard output."""
    monkeypatch.setattr(config.Config, "load", classmethod(lambda cls, path=None: Configuration()))
    for owner, name in ((registry, "Registry"), (federation, "Federation"), (store, "open_store")):
        monkeypatch.setattr(owner, name, lambda _, name=name: name)
    monkeypatch.setattr(chain.Chain, "connect", classmethod(lambda cls, config: "chain"))

    def run(result: Audit, *options: str) -> tuple[int, str]:
        asked = []
        monkeypatch.setattr(audit_module, "audit", lambda *parts: asked.append(parts) or result)
        status = cli.main(["audit", *options])
        assert asked == [("Registry", "Federation", "open_store", ["the hospital"])]
        return status, capsys.readouterr().out

    return run


def test_agreement_is_exit_status_0(found) -> None:
    status, said = found(GOOD)
    assert status == 0
    assert said.splitlines() == [
        "chain          2 batches with 5 records",
        "pictures here  5 confirmed, 1 on their way",
        "bundles        4 opened, 1 without a key here",
        "differences    0",
    ]


def test_a_difference_is_named_and_is_exit_status_1(found) -> None:
    status, said = found(BAD)
    assert status == 1 and said.splitlines()[-2:] == ["differences    1", "  store: job x: no such block"]


def test_json(found) -> None:
    status, said = found(BAD, "--json")
    assert status == 1
    assert json.loads(said)["differences"] == [{"where": "store", "what": "job x: no such block"}]


def test_a_chain_that_is_away_is_one_line(found, monkeypatch, capsys) -> None:
    def away(cls, config):
        raise ChainAwayError("http://127.0.0.1:1: no chain answers there")

    monkeypatch.setattr(chain.Chain, "connect", classmethod(away))
    assert cli.main(["audit"]) == 1
    assert capsys.readouterr().err == "medprov-ledger: http://127.0.0.1:1: no chain answers there\n"
