"""medprov_ledger.store_commands, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from medprov_ledger import cid, ipfs_rpc
from medprov_ledger.cli import main
from medprov_ledger.store import BlockStore
from tests.unit.ledger.ipfs_daemon import Daemon

TEXT = f"""
[federation]
id = "0x{"ab" * 32}"
name = "Nord"
[chain]
rpc = "http://127.0.0.1:1"
chain_id = 1
federation = "0x{"11" * 20}"
registry = "0x{"22" * 20}"
[store]
"""
NAME = cid.of(b"data")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Daemon, Daemon]]:
    monkeypatch.setattr(ipfs_rpc, "PAUSE", 0.01)
    daemons = Daemon().start(), Daemon().start()
    yield daemons
    for daemon in daemons:
        daemon.stop()


def config(folder: Path, store: str) -> Path:
    file = folder / "medprov.toml"
    file.write_text(TEXT + store)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_gc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, 'kind = "blocks"\npath = "blocks"\n')
    store = BlockStore(tmp_path / "blocks")
    kept, gone = store.put(b"kept"), store.put(b"data")
    line = f"{store.path}: %d blocks (%d bytes) and 0 cut writes removed, %d blocks of %d files kept\n"
    assert run(capsys, "gc", "--config", file) == (0, line % (0, 0, 2, 2), "")
    assert run(capsys, "gc", "--config", file, "--unpin", gone) == (0, line % (1, 4, 1, 1), "")
    assert store.has(kept) and not store.has(gone)


def test_gc_of_what_is_no_cid_unpins_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path, 'kind = "blocks"\npath = "blocks"\n')
    store = BlockStore(tmp_path / "blocks")
    name = store.put(b"data")
    status, out, err = run(capsys, "gc", "--config", file, "--unpin", name, "--unpin", "nonsense")
    assert (status, out) == (1, "") and "'nonsense': not a CID" in err and err.count("\n") == 1
    assert store.pins() == [name]


def test_gc_without_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "gc", "--config", config(tmp_path, 'kind = "blocks"\npath = "blocks"\n'))
    assert (status, out) == (1, "") and "no such folder" in err and err.count("\n") == 1


def ipfs(daemons: tuple[Daemon, ...], copies: int) -> str:
    return f'kind = "ipfs"\napis = {json.dumps([daemon.api for daemon in daemons])}\ncopies = {copies}\n'


def test_gc_of_daemons_unpins_and_leaves_the_rest_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: tuple[Daemon, Daemon]
) -> None:
    for daemon in pair:
        daemon.add(b"data")
    file = config(tmp_path, ipfs(pair, 2))
    said = "1 unpinned; 'ipfs repo gc' at each daemon removes the blocks\n"
    assert run(capsys, "gc", "--config", file, "--unpin", NAME) == (0, said, "")
    assert not pair[0].pins and not pair[1].pins
    status, out, err = run(capsys, "gc", "--config", file)
    assert (status, out) == (1, "") and "IPFS daemons remove blocks by themselves" in err


def test_copies_and_repair(tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: tuple[Daemon, Daemon]) -> None:
    file = config(tmp_path, ipfs(pair, 2))
    pair[0].add(b"data")
    status, out, err = run(capsys, "copies", NAME, "--config", file)
    lines = [f"{NAME}  1 of 2 copies", f"  {pair[0].api}  read back", f"  {pair[1].api}  not there"]
    assert (status, out.splitlines(), err) == (1, lines, "")
    status, out, err = run(capsys, "copies", NAME, "--repair", "--config", file)
    assert (status, err) == (0, "") and f"{NAME}  2 of 2 copies" in out
    assert NAME in pair[1].pins


def test_copies_of_a_single_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: tuple[Daemon, Daemon]
) -> None:
    file = config(tmp_path, f'kind = "ipfs"\napi = "{pair[0].api}"\n')
    assert run(capsys, "copies", NAME, "--config", file)[0] == 1
    pair[0].add(b"data")
    assert run(capsys, "copies", NAME, "--config", file)[0] == 0


def test_a_repair_that_fails_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: tuple[Daemon, Daemon]
) -> None:
    status, out, err = run(capsys, "copies", NAME, "--repair", "--config", config(tmp_path, ipfs(pair, 2)))
    assert (status, out) == (1, "") and "none of 2 daemons gave it" in err.splitlines()[-1]


def test_a_folder_has_no_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "copies", NAME, "--config", config(tmp_path, 'kind = "blocks"\npath = "b"\n'))
    assert (status, out) == (1, "") and "only IPFS daemons hold copies" in err
