"""From the ledger's faces to the strategy's services."""

from types import SimpleNamespace

import pytest

from medprov_coordinator.connect import ChainAnchor, connect
from medprov_coordinator.round import Anchored, Services
from medprov_ledger.errors import ConfigError


class FakeFederation:
    def __init__(self):
        self.calls = []
        self.found = None

    def anchor_round(self, *arguments):
        self.calls.append(arguments)
        return SimpleNamespace(tx_hash="0xabc")

    def last_round(self):
        return self.found

    def round(self, number):
        return self.found if self.found and self.found.number == number else None


def test_anchor_passes_everything_on():
    federation = FakeFederation()
    anchor = ChainAnchor(federation, "account")
    assert anchor.anchor(3, b"m", "cid", b"r", b"h") == "0xabc"
    assert federation.calls == [(3, b"m", "cid", b"r", b"h", "account")]


def test_last_round():
    federation = FakeFederation()
    anchor = ChainAnchor(federation, None)
    assert anchor.last() is None
    federation.found = SimpleNamespace(
        number=4, model_hash=b"m" * 32, cid="c", updates_root=b"u" * 32, metrics_hash=b"f" * 32
    )
    assert anchor.last() == anchor.round(4) == Anchored(4, b"m" * 32, "c", b"u" * 32, b"f" * 32)
    assert anchor.round(5) is None


def test_without_a_file_a_run_stays_local():
    assert connect("") == Services()


def test_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        connect(str(tmp_path / "nothing.toml"))
