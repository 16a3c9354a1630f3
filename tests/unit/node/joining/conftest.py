"""A site whose files are there, of a federation on an in-process chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from web3 import Web3

from medprov_ledger.chain import Chain
from medprov_node.joining import config, node_key
from medprov_node.joining.config import Site
from tests.unit.node.conftest import House

MakeSite = Callable[..., Site]


@pytest.fixture
def house(make_house: Callable[..., House], node_tester: Web3, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(Chain, "connect", lambda config: Chain(config, node_tester))
    return make_house(release=False)


@pytest.fixture
def make_site(house: House, tmp_path: Path) -> MakeSite:
    """A factory of sites of hospital-a; keyword arguments are address and node."""

    def make(address: str = "127.0.0.1:1", node: int = 7) -> Site:
        home = tmp_path / "home"
        home.mkdir()
        (home / "images").mkdir()
        node_key.create(home)
        lines = config.lines(str(house.file), "hospital-a", home / "images", address, node)
        (home / config.FILE).write_text("\n".join(lines) + "\n")
        return Site.load(home / config.FILE)

    return make
