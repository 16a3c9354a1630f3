from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from medprov_ledger._durable import DurableFile
from medprov_ledger.errors import ChainError, RecordError

FIRST, SECOND = ("CREATE TABLE a (x)",), ("CREATE TABLE b (y)", "INSERT INTO b VALUES (1)")


def opened(path: Path, *versions: tuple[str, ...], stamp: int = 7, error: type = RecordError) -> DurableFile:
    return DurableFile(str(path), "thing", error, stamp, versions or (FIRST, SECOND), "move it away")


def tables(file: DurableFile) -> set[str]:
    return {row[0] for row in file._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_a_new_file_has_all_versions_and_syncs_every_commit(tmp_path: Path) -> None:
    file = opened(tmp_path / "f")
    assert tables(file) == {"a", "b"}
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("user_version", 2)):
        assert file._db.execute(f"PRAGMA {pragma}").fetchone()[0] == value
    file.close()


def test_an_older_file_gets_what_it_lacks_once(tmp_path: Path) -> None:
    old = opened(tmp_path / "f", FIRST)
    old._db.execute("INSERT INTO a VALUES (5)")
    old.close()
    for _ in range(2):
        file = opened(tmp_path / "f")
        assert file._db.execute("SELECT * FROM a").fetchall() == [(5,)]
        assert file._db.execute("SELECT * FROM b").fetchall() == [(1,)]
        file.close()


def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "f").close()
    before = (tmp_path / "f").read_bytes()
    opened(tmp_path / "f").close()
    assert (tmp_path / "f").read_bytes() == before


def test_newer_and_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path / "f").close()
    with pytest.raises(ChainError, match="f: version 2 is unknown, this release reads 1; update medprov"):
        opened(tmp_path / "f", FIRST, error=ChainError)
    with pytest.raises(RecordError, match="f: is another program's database; move it away"):
        opened(tmp_path / "f", stamp=8)
    with sqlite3.connect(tmp_path / "f") as db:
        assert db.execute("SELECT count(*) FROM b").fetchone() == (1,)
    db.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    file = opened(tmp_path / "f")
    with pytest.raises(KeyboardInterrupt), file._write():
        file._db.execute("INSERT INTO a VALUES (1)")
        raise KeyboardInterrupt
    with pytest.raises(RecordError, match=r"f: thing not usable .*check space and rights"), file._write():
        file._db.execute("INSERT INTO nowhere VALUES (1)")
    assert file._db.execute("SELECT * FROM a").fetchall() == []
    file.close()


def test_a_version_that_cannot_be_made_leaves_the_older_one(tmp_path: Path) -> None:
    opened(tmp_path / "f", FIRST).close()
    with pytest.raises(RecordError, match="not usable"):
        opened(tmp_path / "f", FIRST, ("CREATE TABLE b (y)", "nonsense"))
    file = opened(tmp_path / "f", FIRST)
    assert tables(file) == {"a"}
    file.close()
