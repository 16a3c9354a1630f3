"""medprov_ledger.store: which store a configuration opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from medprov_ledger.config import StoreConfig
from medprov_ledger.errors import StoreError
from medprov_ledger.store import BlockStore, IpfsStore, ReplicatedStore, Store, open_store

APIS = ("/ip4/127.0.0.1/tcp/5001/http", "http://127.0.0.1:5002")


@dataclass
class Settings:
    store: StoreConfig
    path: Path = Path("medprov.toml")
    timeout: float = 3.0


def opened(kind: str, **settings: object) -> Store:
    return open_store(Settings(StoreConfig(kind, **settings)))  # type: ignore[arg-type]


def test_open_store(tmp_path: Path) -> None:
    blocks = opened("blocks", path=tmp_path)
    assert isinstance(blocks, BlockStore) and blocks.path == tmp_path
    for settings in ({"api": APIS[0]}, {"apis": APIS[:1]}):
        ipfs = opened("ipfs", **settings)
        assert isinstance(ipfs, IpfsStore) and (ipfs.api, ipfs.timeout) == (APIS[0], 3.0)
    several = opened("ipfs", apis=APIS, copies=2)
    assert isinstance(several, ReplicatedStore) and several.copies == 2
    assert [(daemon.api, daemon.timeout) for daemon in several.daemons] == [(api, 3.0) for api in APIS]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "cloud"}, "'cloud'"),
        ({"kind": "blocks"}, "'blocks' with path"),
        ({"kind": "ipfs"}, "'ipfs' with api"),
        ({"kind": "ipfs", "api": "localhost:5001"}, "multiaddress"),
        ({"kind": "ipfs", "apis": APIS, "copies": 3}, "3 copies"),
    ],
)
def test_what_cannot_be_opened(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        opened(**settings)  # type: ignore[arg-type]
