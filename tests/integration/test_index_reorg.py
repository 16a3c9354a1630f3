"""The index on a real Anvil that is reorganised: what followed the chain holds what is built anew."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from medprov_ledger import cid, development, embedded, manifest
from medprov_ledger.chain import Chain, transact
from medprov_ledger.config import Config
from medprov_ledger.eip712 import domain, sign_record
from medprov_ledger.federation import Federation
from medprov_ledger.index import RecordIndex
from medprov_ledger.keys import load_account
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Registry
from medprov_ledger.store import open_store
from tests.unit.ledger.test_index_chain import content

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None or embedded.wanted() != "anvil",
        reason="needs Node and Anvil: 'npm ci' in contracts/",
    ),
]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    found = development.up(tmp_path / "chain").config
    yield found
    development.down(tmp_path / "chain")


def test_an_index_that_followed_reorganisations_holds_what_is_built_anew(config: Config, tmp_path: Path) -> None:
    rng = random.Random(4)
    chain = Chain.connect(config)
    registry, federation, store = Registry(chain), Federation(chain), open_store(config)
    place, keys = domain(config.chain_id, config.registry_address), config.directory_keys
    accounts = [load_account(config.hospital(name)) for name in ("hospital-a", "hospital-b")]
    # the contracts stand below all that is taken back
    for _ in range(14):
        chain.w3.provider.make_request("evm_mine", [])  # type: ignore[arg-type]
    followed = RecordIndex(tmp_path / "index.sqlite", place)
    dropped = 0
    for turn in range(12):
        account = accounts[turn % 2]
        records = [
            Record(*(os.urandom(32) for _ in range(4)), cid.of(os.urandom(9)), "", account.address, os.urandom(32), 1)  # type: ignore[call-arg,arg-type]
            for _ in range(rng.randint(1, 4))
        ]
        signed = [SignedRecord(record, sign_record(record, place, account)) for record in records]
        made = manifest.build(signed, place, [os.urandom(12) for _ in records], config.directory_key)
        registry.anchor_batch(made.root, len(records), store.put(made.to_bytes()), account)
        if turn % 3 == 0:
            registry.register(records[0], account)
        if rng.random() < 0.7:
            dropped += followed.sync(registry, federation, store, *keys).removed
        if turn % 2:
            answer = chain.w3.provider.make_request("anvil_reorg", [rng.randint(1, 6), []])  # type: ignore[arg-type]
            assert "error" not in answer, answer
            # something else stands where it was
            transact(chain.w3, {"to": account.address, "value": 1}, account)  # type: ignore[arg-type]
    dropped += followed.sync(registry, federation, store, *keys).removed
    anew = RecordIndex(":memory:", place)
    anew.sync(registry, federation, store, *keys)
    assert content(followed) == content(anew)
    assert dropped > 0 and len(followed) > 0
    anchored = {(anchor.owner, anchor.root, anchor.block) for anchor in registry.anchors()}
    rows = followed._file.read("SELECT o.address, root, block FROM batches b JOIN owners o ON o.id = b.owner")
    assert set(rows) == anchored
