"""medprov_ledger.journal"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import medprov_ledger.journal
from medprov_ledger.errors import ChainError
from medprov_ledger.journal import Journal
from medprov_ledger.merkle import keccak256

ADDRESS = "0x" + "11" * 20


def signed(nonce: int, purpose: str = "", raw: bytes = b"") -> tuple[bytes, dict[str, Any], bytes]:
    return keccak256((purpose or str(nonce)).encode()), {"nonce": nonce}, raw or b"raw%d" % nonce


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state" / "transactions.sqlite", "5", ADDRESS)


def again(journal: Journal, **changes: str) -> Journal:
    values = {"chain": journal.chain, "sender": journal.sender, **changes}
    return Journal(journal.path, values["chain"], values["sender"])


def test_what_is_added_is_there_after_a_restart(journal: Journal) -> None:
    added = journal.add([signed(4), signed(5)])
    assert [one.nonce for one in added] == [4, 5]
    assert again(journal).entries("open") == added
    assert added[0].newest.raw == b"raw4"
    assert added[0].newest.tx_hash == keccak256(b"raw4")


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal\n"
        "from medprov_ledger.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(tmp_path / 'j')!r}), '5', {ADDRESS!r})\n"
        "journal.add([(bytes(32), {'nonce': 1}, b'raw')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [one.newest.raw for one in Journal(tmp_path / "j", "5", ADDRESS).entries("open")] == [b"raw"]


def test_variants(journal: Journal) -> None:
    one = journal.add([signed(4)])[0]
    journal.add_variant(one.number, {"nonce": 4, "gasPrice": 9}, b"dearer")
    found = journal.entry(one.number)
    assert found is not None
    assert [variant.raw for variant in found.variants] == [b"raw4", b"dearer"]
    assert found.newest.fields == {"nonce": 4, "gasPrice": 9}


def test_states(journal: Journal) -> None:
    one, two = journal.add([signed(4), signed(5)])
    assert journal.find(one.purpose) == one
    journal.set_done({one.number: (7, b"\1" * 32), two.number: (9, b"\2" * 32)})
    assert journal.find(one.purpose) is None
    assert journal.newest_done() == (9, b"\2" * 32)
    assert [entry.nonce for entry in journal.entries("done")] == [4, 5]
    journal.set_lost([two.number])
    assert journal.newest_done() == (7, b"\1" * 32)
    assert [entry.nonce for entry in journal.entries("lost")] == [5]
    assert journal.find(two.purpose) is not None
    journal.set_done({two.number: (300, b"\3" * 32)})
    journal.forget_before(8)
    assert [entry.nonce for entry in journal.entries("open", "done", "lost")] == [5]


def test_removed_with_all_variants(journal: Journal) -> None:
    one, two = journal.add([signed(4), signed(5)])
    journal.remove(one.number)
    assert journal.entries("open") == [two]
    assert journal.nonces_from(0) == {5}
    assert journal.add([signed(4)])[0].newest.raw == b"raw4", "the same bytes may come again"


def test_one_nonce_once(journal: Journal) -> None:
    journal.add([signed(4)])
    with pytest.raises(ChainError, match="UNIQUE"):
        journal.add([signed(5), signed(4, "other", b"other")])
    assert journal.nonces_from(0) == {4}, "all or nothing"


def test_accounts_and_chains_are_kept_apart(journal: Journal) -> None:
    journal.add([signed(4)])
    for other in (again(journal, chain="6"), again(journal, sender="0x" + "22" * 20)):
        assert other.entries("open") == []
        assert other.newest_done() is None
        other.add([signed(4, raw=os.urandom(8))])
    assert len(journal.entries("open")) == 1


@pytest.mark.parametrize("lasting", [True, False])
def test_one_at_a_time(journal: Journal, lasting: bool) -> None:
    mine = journal if lasting else Journal(None, "5", ADDRESS)
    theirs = again(journal) if lasting else mine
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with theirs.turn() as held:
                assert held
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    with mine.turn(), theirs.turn(wait=False) as held:
        assert not held


def test_somebody_holds_it_for_ever(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medprov_ledger.journal, "PATIENCE", 0.05)
    with journal.turn(), pytest.raises(ChainError, match="another process has been sending"), again(journal).turn():
        pass
    with journal.turn(), pytest.raises(ChainError, match="another process has been sending"), journal.turn():
        pass


def test_something_else_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and long enough to be read as one" * 100)
    with pytest.raises(ChainError, match="journal of transactions not usable"):
        Journal(tmp_path / "text", "5", ADDRESS)
    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE things (a)")
    with pytest.raises(ChainError, match="is another program's database"):
        Journal(tmp_path / "other", "5", ADDRESS)
    Journal(tmp_path / "later", "5", ADDRESS).close()
    with sqlite3.connect(tmp_path / "later") as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(ChainError, match="version 9 is unknown"):
        Journal(tmp_path / "later", "5", ADDRESS)
    with pytest.raises(ChainError, match="cannot be made"):
        Journal(tmp_path / "text" / "j", "5", ADDRESS)
