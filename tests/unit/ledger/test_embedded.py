"""medprov_ledger.embedded"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from medprov_ledger import embedded
from medprov_ledger.chain import connect_http, transact
from medprov_ledger.embedded import DEVELOPMENT_ADDRESS, DEVELOPMENT_KEY, Embedded
from medprov_ledger.errors import ChainError

RICH = Account.from_key(DEVELOPMENT_KEY)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose chain is the Python EVM, because Node is hidden; stopped afterwards."""
    monkeypatch.delenv(embedded.CHAIN, raising=False)
    monkeypatch.setattr("medprov_ledger.embedded.shutil.which", lambda _: None)
    yield tmp_path
    chain = embedded.load(tmp_path) if is_sound(tmp_path) else None
    if chain is not None and chain.pid is not None and embedded.is_running(chain):
        os.kill(chain.pid, signal.SIGKILL)


def is_sound(folder: Path) -> bool:
    try:
        embedded.load(folder)
    except ChainError:
        return False
    return True


def gone(chain: Embedded) -> None:
    while embedded.is_running(chain):
        time.sleep(0.01)


def program(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\necho 'Error: no such option' >&2\nexit 2\n")
    file.chmod(0o755)
    return file


def test_development_key_is_the_well_known_one() -> None:
    assert RICH.address == DEVELOPMENT_ADDRESS


def test_without_node_there_is_no_anvil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anvil = program(tmp_path / "anvil")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MEDPROV_ANVIL", str(anvil))
    assert embedded.find_anvil() is None
    program(tmp_path / "node")
    assert embedded.find_anvil() == anvil


def test_where_anvil_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("node", "anvil"):
        program(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MEDPROV_ANVIL", raising=False)
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(embedded, "__file__", str(checkout / "ledger" / "medprov_ledger" / "embedded.py"))
    monkeypatch.setattr("medprov_ledger.embedded.platform.machine", lambda: "x86_64")
    monkeypatch.setattr("medprov_ledger.embedded.sys.platform", "linux")
    assert embedded.find_anvil() == tmp_path / "anvil"
    inside = program(checkout / "contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil")
    assert embedded.find_anvil() == inside
    monkeypatch.setenv("MEDPROV_ANVIL", str(tmp_path / "none"))
    with pytest.raises(ChainError, match="no program, but"):
        embedded.find_anvil()


def test_start_stop_start(folder: Path) -> None:
    chain = embedded.start(folder)
    assert chain.kind == "python"
    assert embedded.is_running(chain)
    assert embedded.load(folder) == chain
    w3 = connect_http(chain.rpc)
    assert w3.eth.chain_id == embedded.CHAIN_ID
    transact(w3, {"to": "0x" + "05" * 20, "value": 3}, RICH)
    assert embedded.stop(folder)
    assert not embedded.is_running(chain)
    assert not embedded.stop(folder), "nothing runs any more"
    again = embedded.start(folder)
    assert again.port == chain.port
    assert connect_http(again.rpc).eth.get_balance("0x" + "05" * 20) == 3
    embedded.stop(folder)


def test_kill_9_loses_nothing(folder: Path) -> None:
    chain = embedded.start(folder)
    receipts = [transact(connect_http(chain.rpc), {"to": RICH.address, "value": n}, RICH) for n in range(3)]
    assert chain.pid is not None
    os.kill(chain.pid, signal.SIGKILL)
    gone(chain)
    again = embedded.start(folder)
    w3 = connect_http(again.rpc)
    assert [w3.eth.get_transaction_receipt(r.tx_hash)["blockNumber"] for r in receipts] == [r.block for r in receipts]
    assert embedded.stop(folder)


def test_damaged_state_is_refused(folder: Path) -> None:
    chain = embedded.start(folder)
    transact(connect_http(chain.rpc), {"to": RICH.address, "value": 1}, RICH)
    embedded.stop(folder)
    journal = folder / "evm-journal.jsonl"
    first, second = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + second[:50] + b"\n")
    with pytest.raises(ChainError) as caught:
        embedded.start(folder)
    why = "the chain did not start: line 2 is damaged; restore the file from a backup"
    assert str(caught.value) == f"{journal}: {why}", "neither time nor advice twice"
    left = embedded.load(folder)
    assert left is not None
    assert left.pid is None, "nothing is left running"


def test_missing_state_is_refused(folder: Path) -> None:
    embedded.start(folder)
    embedded.stop(folder)
    (folder / "evm-journal.jsonl").unlink()
    with pytest.raises(ChainError, match=r"evm-journal\.jsonl: the chain's state is missing"):
        embedded.start(folder)


def test_taken_port_is_avoided(folder: Path) -> None:
    first = embedded.start(folder)
    embedded.stop(folder)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first.port))
        taken.listen()
        second = embedded.start(folder)
        assert second.port != first.port
        embedded.stop(folder)


def test_stop_spares_a_foreign_process_with_that_number(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        for started in ("", "some other start"):
            state = {"kind": "python", "port": 9, "pid": other.pid, "started": started}
            (folder / "chain.json").write_text(json.dumps(state))
            assert not embedded.stop(folder)
            assert other.poll() is None
        other.communicate(b"\n")


def test_an_interrupted_start_leaves_nothing_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Embedded] = []

    def interrupt(chain: Embedded, *_: object) -> None:
        begun.append(chain)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embedded.start(folder)
    assert not embedded.is_running(begun[0])
    left = embedded.load(folder)
    assert left is not None
    assert left.pid is None


def test_a_start_that_is_interrupted_before_it_is_written_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        embedded.start(folder)
    assert embedded._children[-1].wait(20) is not None


def test_a_copy_of_the_folder_has_no_part_in_the_chain(folder: Path, tmp_path: Path) -> None:
    chain = embedded.start(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("chain.json", "evm-journal.jsonl"):
        shutil.copy2(folder / name, copy)
    found = embedded.load(copy)
    assert found is not None
    assert not embedded.is_running(found)
    assert not embedded.stop(copy)
    assert embedded.is_running(chain)
    own = embedded.start(copy)
    assert own.port != chain.port
    assert embedded.stop(copy)
    assert embedded.is_running(chain)
    assert embedded.stop(folder)


def test_a_moved_folder_keeps_its_chain(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    chain = embedded.start(home)
    moved = home.rename(tmp_path / "moved")
    assert embedded.load(moved) == chain
    assert embedded.stop(moved)


def test_chain_json_of_the_release_before(folder: Path) -> None:
    chain = embedded.start(folder)
    fields = json.loads((folder / "chain.json").read_text())
    del fields["place"]
    (folder / "chain.json").write_text(json.dumps(fields))
    found = embedded.load(folder)
    assert found is not None
    assert found.place == ""
    assert embedded.is_running(found)
    assert embedded.stop(folder)
    assert not embedded.is_running(chain)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"kind":"geth","port":1,"pid":1,"started":""}', '{"kind":"anvil","port":"1","pid":1}'],
)
def test_damaged_chain_json(folder: Path, content: str) -> None:
    (folder / "chain.json").write_text(content)
    for action in (embedded.load, embedded.start, embedded.stop):
        with pytest.raises(ChainError, match=r"chain\.json: damaged"):
            action(folder)


def test_anvil_that_is_gone(folder: Path) -> None:
    (folder / "chain.json").write_text('{"kind":"anvil","port":1,"pid":null,"started":""}')
    with pytest.raises(ChainError, match="was made with Anvil, which is not found now"):
        embedded.start(folder)


def test_anvil_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = program(tmp_path / "anvil")
    monkeypatch.setattr(embedded, "find_anvil", lambda: broken)
    with pytest.raises(ChainError, match="the chain did not start: Error: no such option"):
        embedded.start(tmp_path)
    broken.write_bytes(b"\x7fELF no program")
    with pytest.raises(ChainError, match="cannot be started"):
        embedded.start(tmp_path / "..")


def test_missing_python_evm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medprov_ledger.embedded.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ChainError, match="neither Node with Anvil nor the package py-evm"):
        embedded.start(folder)


def test_only_one_command_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.05)
    with (
        embedded.locked(folder),
        pytest.raises(ChainError, match="another medprov-ledger command"),
        embedded.locked(folder),
    ):
        pass
    with embedded.locked(folder):
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ChainError, match="cannot be used"), embedded.locked(tmp_path / "file" / "x"):
        pass


# Ganache, and which of them


def test_where_ganache_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(embedded, "__file__", str(checkout / "ledger" / "medprov_ledger" / "embedded.py"))
    script = program(tmp_path / "lib" / "cli.js")
    (tmp_path / "ganache").symlink_to(script)
    assert embedded.find_ganache() is None, "no Node"
    program(tmp_path / "node")
    assert embedded.find_ganache() == script
    inside = program(checkout / "contracts/node_modules/ganache/dist/node/cli.js")
    assert embedded.find_ganache() == inside


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("geth", "'geth' is unknown; name anvil, ganache, python"), ("ganache", "names ganache, which is not found")],
)
def test_a_chain_that_cannot_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, message: str) -> None:
    monkeypatch.setenv(embedded.CHAIN, wanted)
    with pytest.raises(ChainError, match=message):
        embedded.start(folder)
    assert not embedded.has_state(folder)


def test_ganache_that_is_gone(folder: Path) -> None:
    (folder / "chain.json").write_text('{"kind":"ganache","port":1,"pid":null,"started":""}')
    with pytest.raises(ChainError, match="was made with Ganache, which is not found now"):
        embedded.start(folder)


@pytest.mark.slow
def test_ganache_keeps_what_it_has_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if embedded.find_ganache() is None:
        pytest.skip("needs Node and Ganache: 'npm ci' in contracts/")
    monkeypatch.setenv(embedded.CHAIN, "ganache")
    chain = embedded.start(tmp_path)
    try:
        assert chain.kind == "ganache"
        transact(connect_http(chain.rpc), {"to": "0x" + "05" * 20, "value": 3}, RICH)
        assert chain.pid is not None
        os.kill(chain.pid, signal.SIGKILL)
        gone(chain)
        # the folder decides, not the variable
        monkeypatch.setenv(embedded.CHAIN, "python")
        again = embedded.start(tmp_path)
        assert again.kind == "ganache"
        assert connect_http(again.rpc).eth.get_balance("0x" + "05" * 20) == 3
    finally:
        embedded.stop(tmp_path)
    embedded.discard(tmp_path)
    assert not embedded.has_state(tmp_path)
