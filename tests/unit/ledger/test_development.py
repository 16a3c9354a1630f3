"""medprov_ledger.development"""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medprov_ledger import cid, development, embedded
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.errors import ChainError, ConfigError, LedgerError
from medprov_ledger.federation import Federation
from medprov_ledger.keys import load_account, load_reader_key, reader_public
from medprov_ledger.registry import Registry
from medprov_ledger.store import IpfsStore, open_store

MODEL = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is not there yet, on the Python EVM; its chain is stopped afterwards."""
    monkeypatch.setattr("medprov_ledger.embedded.shutil.which", lambda _: None)
    folder = tmp_path / "federation"
    yield folder
    if folder.exists():
        embedded.stop(folder)


def test_a_federation_of_three(folder: Path) -> None:
    done = development.up(folder, [MODEL])
    assert done.state == "created"
    config = Config.load(folder / "medprov.toml")
    assert config == done.config
    assert list(config.hospitals) == ["hospital-a", "hospital-b", "hospital-c"]
    assert config.discoverable
    assert config.store.path is not None
    assert config.store.path.is_dir()
    chain = Chain.connect(config)
    federation = Federation(chain)
    assert federation.threshold() == 2
    for member, hospital in zip(federation.members(), config.hospitals.values(), strict=True):
        account = load_account(hospital)
        assert member.address == account.address
        assert member.reader_key == reader_public(load_reader_key(hospital))
        assert chain.w3.eth.get_balance(account.address) > 10**18
        assert stat.S_IMODE(hospital.password_file.stat().st_mode) == 0o600
        assert hospital.state.is_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (model,) = federation.released_models()
    assert (model.model_hash, cid.parse(model.cid).digest) == (MODEL, MODEL)


def test_the_verifier_gets_no_hospitals(folder: Path) -> None:
    member = development.up(folder).config
    verifier = Config.load(folder / "verifier.toml")
    assert verifier.hospitals == {}
    assert (verifier.federation_id, verifier.registry_address) == (member.federation_id, member.registry_address)
    assert verifier.directory_key == member.directory_key
    assert "password" not in (folder / "verifier.toml").read_text()
    Chain.connect(verifier)


def test_up_again_changes_nothing(folder: Path) -> None:
    first = development.up(folder)
    second = development.up(folder)
    assert (second.state, second.config, second.chain) == ("running", first.config, first.chain)
    with_model = development.up(folder, [MODEL])
    assert Federation(Chain.connect(with_model.config)).is_released(MODEL)
    block = development.status(folder).block
    development.up(folder, [MODEL])
    assert development.status(folder).block == block, "a released model is not approved again"


def test_ipfs_as_store(folder: Path) -> None:
    api = "/ip4/127.0.0.1/tcp/5001/http"
    done = development.up(folder, [MODEL], api)
    assert (done.config.store.kind, done.config.store.api) == ("ipfs", api)
    assert Config.load(folder / "verifier.toml").store == done.config.store
    assert isinstance(open_store(done.config), IpfsStore)
    assert not (folder / "blocks").exists()
    assert development.status(folder).blocks is None
    assert development.up(folder, ipfs=api).config == done.config


def test_a_federation_keeps_its_store(folder: Path) -> None:
    first = development.up(folder)
    development.down(folder)
    before = (folder / "chain.json").read_bytes()
    with pytest.raises(ConfigError, match=r"medprov\.toml: its store is blocks"):
        development.up(folder, ipfs="/ip4/127.0.0.1/tcp/5001/http")
    assert (folder / "chain.json").read_bytes() == before, "nothing was started"
    assert Config.load(folder / "medprov.toml") == first.config


def test_several_models(folder: Path) -> None:
    other = bytes(range(1, 33))
    config = development.up(folder, [MODEL, other]).config
    assert {model.model_hash for model in Federation(Chain.connect(config)).released_models()} == {MODEL, other}


def test_down_and_up_keeps_everything(folder: Path) -> None:
    first = development.up(folder).config
    account = load_account(first.hospital("hospital-b"))
    root = os.urandom(32)
    Registry(Chain.connect(first)).anchor_batch(root, 4, "bafy", account)
    assert development.down(folder)
    assert not development.down(folder)
    with pytest.raises(ChainError, match="no chain answers there"):
        Chain.connect(first)
    with pytest.raises(ChainError, match="the chain is down"):
        development.status(folder)
    again = development.up(folder)
    assert (again.state, again.config) == ("restarted", first)
    assert Registry(Chain.connect(again.config)).anchor(account.address, root) is not None


def test_kill_9_and_up_keeps_what_is_anchored(folder: Path) -> None:
    done = development.up(folder)
    account = load_account(done.config.hospital("hospital-a"))
    roots = [os.urandom(32) for _ in range(3)]
    for root in roots:
        Registry(Chain.connect(done.config)).anchor_batch(root, 1, "bafy", account)
    assert done.chain.pid is not None
    os.kill(done.chain.pid, signal.SIGKILL)
    while embedded.is_running(done.chain):
        time.sleep(0.01)
    assert development.up(folder).state == "restarted"
    assert [anchor.root for anchor in Registry(Chain.connect(done.config)).anchors()] == roots


def test_status_counts(folder: Path) -> None:
    config = development.up(folder, [MODEL]).config
    chain = Chain.connect(config)
    account = load_account(config.hospital("hospital-c"))
    Registry(chain).anchor_batch(b"\x01" * 32, 40, "bafy", account)
    Registry(chain).anchor_batch(b"\x02" * 32, 2, "bafy", account)
    Federation(chain).anchor_round(1, MODEL, "bafy", MODEL, MODEL, account)
    open_store(config).put(b"block")
    found = development.status(folder)
    counts = (found.batches, found.records, found.registrations, found.rounds, found.models, found.blocks)
    assert counts == (2, 42, 0, 1, 1, 1)
    assert list(found.members.values()) == ["hospital-a", "hospital-b", "hospital-c"]


def test_another_port_is_written_down(folder: Path) -> None:
    first = development.up(folder)
    development.down(folder)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first.chain.port))
        taken.listen()
        second = development.up(folder)
        assert second.config.rpc != first.config.rpc
        for name in ("medprov.toml", "verifier.toml"):
            assert Config.load(folder / name).rpc == second.chain.rpc
            Chain.connect(Config.load(folder / name))


def test_a_start_that_was_cut_short_is_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(development, "deploy", fail)
        with pytest.raises(ConfigError, match="cut short"):
            development.up(folder)
    chain = embedded.load(folder)
    assert chain is not None
    assert not embedded.is_running(chain)
    (folder / "hospitals" / "hospital-b" / "keystore.json").unlink()
    (folder / "evm-journal.jsonl").unlink()
    assert development.up(folder).state == "created"
    assert len(development.status(folder).members) == 3


def anchored(folder: Path) -> tuple[bytes, str]:
    """A federation that holds a record, and is down."""
    config = development.up(folder).config
    account = load_account(config.hospital("hospital-a"))
    root = os.urandom(32)
    Registry(Chain.connect(config)).anchor_batch(root, 1, "bafy", account)
    return root, account.address


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("lost", [("medprov.toml",), ("medprov.toml", "chain.json")])
def test_a_lost_configuration_loses_no_record(folder: Path, running: bool, lost: tuple[str, ...]) -> None:
    root, owner = anchored(folder)
    if not running:
        development.down(folder)
    chain = embedded.load(folder)
    kept = {name: (folder / name).read_bytes() for name in lost}
    state = (folder / "evm-journal.jsonl").read_bytes()
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"medprov\.toml: is missing, but the chain here may hold records; restore"):
        development.up(folder)
    assert (folder / "evm-journal.jsonl").read_bytes() == state
    assert chain is not None
    assert embedded.is_running(chain) == running
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    again = development.up(folder)
    assert again.state == ("running" if running else "restarted")
    assert Registry(Chain.connect(again.config)).anchor(owner, root) is not None


def test_the_first_start_leaves_no_sign_of_itself(folder: Path) -> None:
    development.up(folder)
    assert not (folder / development.FIRST_START).exists()


@pytest.mark.parametrize("step", ["deploy", "_with_port"])
def test_an_interrupt_takes_the_chain_down(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    running: list[embedded.Embedded] = []

    def interrupt(*_: object) -> None:
        chain = embedded.load(folder)
        assert chain is not None
        assert embedded.is_running(chain)
        running.append(chain)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(development, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            development.up(folder)
    assert not embedded.is_running(running[0])
    assert development.up(folder).state == ("created" if step == "deploy" else "restarted")
    with monkeypatch.context() as patched:
        patched.setattr(development, "_with_port", interrupt)
        with pytest.raises(KeyboardInterrupt):
            development.up(folder)
    assert embedded.is_running(running[1]), "a chain that was running before goes on"


def test_a_chain_that_was_reset_is_not_served(folder: Path) -> None:
    development.up(folder)
    development.down(folder)
    journal = folder / "evm-journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    with pytest.raises(LedgerError, match="no Federation contract"):
        development.up(folder)
    chain = embedded.load(folder)
    assert chain is not None
    assert not embedded.is_running(chain)


def test_nothing_there(folder: Path) -> None:
    assert not development.down(folder)
    with pytest.raises(ChainError, match="no chain here"):
        development.status(folder)
    assert not folder.exists()


def test_lost_configuration_of_a_hospital(folder: Path) -> None:
    development.up(folder)
    file = folder / "medprov.toml"
    file.write_text(re.sub(r"(?ms)^\[hospitals\.hospital-b\].*", "", file.read_text()))
    with pytest.raises(ChainError, match="too few to release"):
        development.up(folder, [MODEL])
