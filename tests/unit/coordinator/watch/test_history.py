"""The log of a run as a watcher follows it: long, growing, cut, corrupted, and with foreign values in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from medprov_coordinator.audit_log import FILE, GENESIS, TORN, AuditLog, Entry, Scanner
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.comparison import compare
from medprov_coordinator.watch.history import REFUSALS, TAIL, HistoryReader
from medprov_coordinator.watch.page import ROUNDS, create_app
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_coordinator.watch.terminal_view import screen

LINES = 100_000
KINDS = ("asked", "screened", "refused", "asked", "round")


def body(number: int, attempt: int, **figures: Any) -> dict[str, Any]:
    return {"number": number, "attempt": attempt, "text": f"text {attempt}", "figures": figures}


def chained(count: int) -> Iterator[bytes]:
    """Lines as `AuditLog` writes them, without a flush of the disk after each: attempts in turn refused, accepted."""
    head = GENESIS.hex()
    for seq in range(1, count + 1):
        turn = (seq - 1) // len(KINDS)
        kind = KINDS[(seq - 1) % len(KINDS)]
        attempt = 2 * turn + (1 if (seq - 1) % len(KINDS) < 3 else 2)
        number = turn + 1 if kind == "round" else turn
        figures = '{"rejected":[[103,"norm"]]}' if kind == "screened" else "{}"
        told = f'"body":{{"attempt":{attempt},"figures":{figures},"number":{number},"text":"line"}}'
        rest = f'"kind":"{kind}","prev":"{head}","seq":{seq},"time":"2025-01-01T00:00:00.000000Z"}}'
        head = hashlib.sha256(f"{{{told},{rest}".encode()).hexdigest()
        yield f'{{{told},"hash":"{head}",{rest}\n'.encode()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose log has 100 000 lines; a test that changes the log takes a copy."""
    folder = tmp_path_factory.mktemp("long")
    (folder / FILE).write_bytes(b"".join(chained(LINES)))
    return folder


def test_a_long_log_is_counted_whole_and_kept_in_part(long: Path) -> None:
    history, fresh = HistoryReader(long / FILE).refresh()
    assert (history.entries, len(fresh), history.broken_line, history.torn) == (LINES, LINES, 0, 0)
    assert [entry.seq for entry in history.tail] == list(range(LINES - TAIL + 1, LINES + 1))
    turns = LINES // len(KINDS)
    assert history.refused == history.rejected["norm"] == turns
    assert [one.attempt for one in history.refusals] == list(range(2 * (turns - REFUSALS) + 1, 2 * turns, 2))
    assert set(history.seconds) == set(history.accepted_at) == set(range(1, turns + 1))
    assert history.head.hex() == json.loads((long / FILE).read_bytes().splitlines()[-1])["hash"]


def test_a_long_log_is_read_on_from_where_it_was_read_last(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE
    path.write_bytes((long / FILE).read_bytes())
    reader = HistoryReader(path)
    reader.refresh()
    taken: list[bytes] = []
    take = Scanner.take

    def counted(scanner: Scanner, line: bytes) -> Entry:
        taken.append(line)
        return take(scanner, line)

    monkeypatch.setattr(Scanner, "take", counted)
    assert reader.refresh()[1] == [] and taken == []
    more = list(islice(chained(LINES + 2), LINES, None))
    with path.open("ab") as stream:
        stream.writelines(more)
    history, fresh = reader.refresh()
    assert [entry.line for entry in fresh] == more and len(taken) == 2
    assert (history.entries, history.head) == (LINES + 2, fresh[-1].hash)


def test_a_corrupted_line_within_a_long_log_ends_what_is_believed(long: Path, tmp_path: Path) -> None:
    path = tmp_path / FILE
    lines = (long / FILE).read_bytes().splitlines(keepends=True)
    lines[50_000] = lines[50_000].replace(b'"text":"line"', b'"text":"lime"')
    path.write_bytes(b"".join(lines))
    reader = HistoryReader(path)
    history, fresh = reader.refresh()
    assert (history.entries, len(fresh), history.broken_line) == (50_000, 50_000, 50_001)
    assert "it was changed" in history.broken_why and history.tail[-1].seq == 50_000
    with path.open("ab") as stream:
        stream.write(lines[-1])
    assert reader.refresh()[1] == [] and reader.history.entries == 50_000


def test_a_long_log_makes_neither_page_nor_screen_long(long: Path) -> None:
    folder = RunFolder(long)
    page = TestClient(create_app(folder)).get("/").text
    assert f"{LINES} lines, chain of hashes whole" in page and f"{LINES // len(KINDS)} attempts refused" in page
    tail = page.partition("<h2>Audit log</h2>")[2]
    refused = page.partition("<h2>Refused rounds</h2>")[2].partition("<h2>Audit log</h2>")[0]
    assert tail.count("<tr>") == 1 + TAIL and refused.count("<tr>") == 1 + ROUNDS
    console = Console(file=io.StringIO(), width=160)
    with console.capture() as shown:
        console.print(screen(folder.refresh(), ChainState()))
    assert f"{LINES} lines" in shown.get() and shown.get().count("\n") < 60


def test_a_long_log_without_its_records_differs_for_each_round(long: Path) -> None:
    found = compare(RunFolder(long), None)
    assert (found.entries, found.rounds) == (LINES, 0)
    assert len(found.differences) == LINES // len(KINDS)
    assert found.differences[0].startswith("rounds/000001.json: is not there, but audit.jsonl says that round 1")


def test_no_log_an_empty_one_and_one_that_is_made_later(tmp_path: Path) -> None:
    path = tmp_path / FILE
    reader = HistoryReader(path)
    history, fresh = reader.refresh()
    assert history.absent and (history.entries, history.head, fresh) == (0, GENESIS, [])
    path.touch()
    history, fresh = reader.refresh()
    assert not history.absent and (history.entries, history.broken_line, history.last, fresh) == (0, 0, None, [])
    head = AuditLog(path).append("started", body(0, 0))
    history, fresh = reader.refresh()
    assert [entry.hash for entry in fresh] == [head] and history.last == fresh[0]
    path.unlink()
    assert reader.refresh()[0].absent and reader.history.entries == 0


def test_an_unfinished_line_is_counted_and_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / FILE
    whole = b"".join(chained(6))
    lines = whole.splitlines(keepends=True)
    cut = len(lines[-1]) // 2
    path.write_bytes(whole[:-cut])
    reader = HistoryReader(path)
    history, fresh = reader.refresh()
    assert (history.entries, len(fresh), history.torn) == (5, 5, len(lines[-1]) - cut)
    assert not history.broken_line
    path.write_bytes(whole)
    history, fresh = reader.refresh()
    assert (history.entries, history.torn) == (6, 0) and [entry.seq for entry in fresh] == [6]


def test_an_unfinished_line_that_is_cut_off_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE
    AuditLog(path).append("started", body(0, 0))
    with path.open("ab") as stream:
        stream.write(b"x" * 5000)
    reader = HistoryReader(path)
    assert reader.refresh()[0].torn == 5000
    # the line that says what was cut off is shorter than what was
    AuditLog(path)
    assert path.stat().st_size < 5000
    history, fresh = reader.refresh()
    assert [entry.kind for entry in fresh] == [TORN]
    assert (history.entries, history.torn, history.crashes) == (2, 0, 1)


def test_an_unfinished_line_that_goes_and_nothing_else_is_no_longer_counted(tmp_path: Path) -> None:
    path = tmp_path / FILE
    whole = b"".join(chained(3))
    path.write_bytes(whole + b"{")
    reader = HistoryReader(path)
    assert reader.refresh()[0].torn == 1
    path.write_bytes(whole)
    assert reader.refresh() == (reader.history, []) and (reader.history.entries, reader.history.torn) == (3, 0)


def test_a_log_that_is_restored_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / FILE
    whole = b"".join(chained(10))
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"not a line of a log\n", *lines[4:]]))
    reader = HistoryReader(path)
    history, _ = reader.refresh()
    assert (history.entries, history.broken_line, history.broken_why) == (4, 5, "is not JSON")
    path.write_bytes(whole)
    history, fresh = reader.refresh()
    assert (history.entries, history.broken_line, len(fresh)) == (10, 0, 10)


@pytest.mark.parametrize("how", ["cut", "other file", "same size"])
def test_a_log_that_is_another_one_now_is_read_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / FILE
    whole = b"".join(chained(10))
    path.write_bytes(whole)
    reader = HistoryReader(path)
    reader.refresh()
    lines = whole.splitlines(keepends=True)
    if how == "cut":
        path.write_bytes(b"".join(lines[:7]))
        expected = (7, 7, 0)
    elif how == "other file":
        (tmp_path / "other").write_bytes(b"".join(chained(12)))
        os.replace(tmp_path / "other", path)
        expected = (12, 12, 0)
    else:
        path.write_bytes(whole.replace(b'"seq":3', b'"seq":4', 1))
        expected = (2, 2, 3)
    os.utime(path, ns=(1, 1))
    history, fresh = reader.refresh()
    assert (history.entries, len(fresh), history.broken_line) == expected


def test_a_folder_in_the_place_of_the_log_is_a_broken_log(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    history, fresh = HistoryReader(tmp_path / FILE).refresh()
    assert not history.absent and fresh == []
    assert (history.broken_line, history.broken_why) == (1, "cannot be read: Is a directory")


def test_a_refusal_has_the_replies_of_its_own_attempt(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    log.append("screened", body(0, 1, rejected=[[7, "norm"], {"node": 8, "code": "silent"}]))
    log.append("refused", body(0, 1))
    # refused before anybody was screened
    log.append("refused", body(0, 2))
    history, _ = HistoryReader(tmp_path / FILE).refresh()
    assert [(one.number, one.attempt, one.rejected) for one in history.refusals] == [
        (1, 1, ((7, "norm"), (8, "silent"))),
        (1, 2, ()),
    ]
    assert (history.refused, history.rejected) == (2, {"norm": 1, "silent": 1})


def stamped(path: Path, *entries: tuple[str, str, dict[str, Any]]) -> None:
    """A log whose times are given."""
    head, lines = GENESIS.hex(), []
    for seq, (kind, time, content) in enumerate(entries, 1):
        bare = {"seq": seq, "time": time, "kind": kind, "body": content, "prev": head}
        head = hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        lines.append(json.dumps({**bare, "hash": head}, sort_keys=True, separators=(",", ":")) + "\n")
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("asked", "attempt", "took"),
    [
        ("2025-01-01T10:00:00.000000Z", 1, 90.5),
        ("2025-01-01T10:00:00.000000Z", 2, None),
        ("2025-01-01T11:00:00.000000Z", 1, 0.0),
        ("2025-01-01T10:00:00", 1, None),
        ("yesterday", 1, None),
        ("", 1, None),
    ],
    ids=["same attempt", "other attempt", "clock went back", "no zone", "no time", "empty"],
)
def test_how_long_a_round_took(tmp_path: Path, asked: str, attempt: int, took: float | None) -> None:
    path = tmp_path / FILE
    stamped(path, ("asked", asked, body(0, attempt)), ("round", "2025-01-01T10:01:30.500000Z", body(1, 1)))
    history, _ = HistoryReader(path).refresh()
    assert history.entries == 2 and history.seconds.get(1) == took
    assert history.accepted_at == {1: "2025-01-01T10:01:30.500000Z"}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"number": "1", "attempt": None, "figures": [1], "text": ["x"]},
        {"number": True, "attempt": 1.5, "figures": {"rejected": "norm", "transaction": 7}},
        {"figures": {"rejected": [1, [], [1], ["1", "x"], [True, "x"], {"node": "1"}, None], "transaction": ["0x"]}},
    ],
)
def test_fields_of_foreign_types_count_as_absent(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / FILE
    kinds = ("asked", "screened", "refused", "round", "anchored", "resumed", TORN, "unheard of")
    stamped(path, *((kind, "2025-01-01T10:00:00Z", content) for kind in kinds))
    history, fresh = HistoryReader(path).refresh()
    assert (history.entries, len(fresh), history.broken_line) == (len(kinds), len(kinds), 0)
    assert (history.refused, history.resumed, history.crashes) == (1, 1, 1)
    assert history.transactions == {} and history.rejected == {} and set(history.accepted_at) == {0}


def test_a_transaction_is_kept_with_the_round_that_it_anchors(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / FILE)
    log.append("anchored", body(4, 9, transaction="0xab"))
    history, _ = HistoryReader(tmp_path / FILE).refresh()
    assert history.transactions == {4: "0xab"} and set(history.anchored_at) == {4}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_line_with_a_figure_that_json_lacks_is_a_broken_one(tmp_path: Path, number: str) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"".join(chained(2)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"number":0', f'"number":{number}'.encode()))
    history, _ = HistoryReader(path).refresh()
    assert (history.entries, history.broken_line, history.broken_why) == (1, 2, "is not in canonical form")
