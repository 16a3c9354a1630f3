"""A run's folder: what is read of it, how often, and what is said about the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medprov_coordinator.audit_log import FILE, AuditLog
from medprov_coordinator.watch import run_folder
from medprov_coordinator.watch.records import RoundRecord, parse_record
from medprov_coordinator.watch.run_folder import RunFolder


def place(folder: Path, number: int) -> Path:
    return folder / "rounds" / f"{number:06d}.json"


def change(folder: Path, number: int, **fields: Any) -> None:
    file = place(folder, number)
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def state(folder: Path, text: str) -> None:
    (folder / "state.json").write_text(text)


@pytest.mark.parametrize("name", ["rounds", "state.json", FILE])
def test_a_run_that_has_only_begun_is_empty_and_no_problem(tmp_path: Path, name: str) -> None:
    if name == "rounds":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("{}" if name == "state.json" else "")
    run = RunFolder(tmp_path).refresh()
    assert (run.rounds, run.problems, run.fresh, run.members, dict(run.rejections)) == ((), (), (), [], {})
    assert (run.attempts, run.stands_at, run.pending, run.local) == (None, None, frozenset(), True)
    assert run.history.absent is (name != FILE)


def test_only_what_has_changed_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def counted(data: bytes) -> RoundRecord:
        read.append(data)
        return parse_record(data)

    monkeypatch.setattr(run_folder, "parse_record", counted)
    reader = RunFolder(folder)
    assert [record.number for record in reader.refresh().rounds] == [1, 2, 3] and len(read) == 3
    assert len(reader.refresh().fresh) == 0 and len(read) == 3
    change(folder, 2, rule="median")
    assert [record.rule for record in reader.refresh().rounds] == ["mean", "median", "mean"] and len(read) == 4
    place(folder, 2).unlink()
    assert [record.number for record in reader.refresh().rounds] == [1, 3] and len(read) == 4


def test_foreign_files_and_damaged_records_are_named_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = folder / "rounds"
    (rounds / "000007.json").write_bytes(place(folder, 1).read_bytes())
    (rounds / "8.json").write_text("{}")
    (rounds / ".000009.json.part").write_text("{")
    (rounds / "000010.json").mkdir()
    (rounds / "000011.json").write_text('{"round":11,"version":1')
    (rounds / "000012.json").write_text("[" * 200_000)
    os.symlink("nowhere", rounds / "000013.json")
    monkeypatch.setattr(run_folder, "LIMIT", 2**20)
    (rounds / "000014.json").write_bytes(b" " * (2**20 + 1))
    run = RunFolder(folder).refresh()
    assert [record.number for record in run.rounds] == [1, 2, 3]
    assert run.problems == (
        "rounds/000007.json: holds round 1; it is left out",
        "rounds/000010.json: cannot be read: Is a directory",
        "rounds/000011.json: damaged: is not JSON; restore it from a backup",
        "rounds/000012.json: damaged: nested deeper than 32 levels; restore it from a backup",
        "rounds/000013.json: cannot be read: No such file or directory",
        "rounds/000014.json: larger than 1 MiB; it is left out",
        "rounds/8.json: no record of a round; it is left out",
    )


def test_pipes_keep_nobody_waiting(folder: Path) -> None:
    for path in (folder / "rounds/000007.json", folder / "state.json", folder / FILE):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    run = RunFolder(folder).refresh()
    assert len(run.rounds) == 3
    assert run.problems == (
        "rounds/000007.json: cannot be read: is no regular file",
        "state.json: cannot be read: is no regular file",
        f"{FILE}: line 1 cannot be read: is no regular file",
    )


def test_a_damaged_record_that_is_restored_is_a_record_again(folder: Path) -> None:
    good = place(folder, 2).read_bytes()
    reader = RunFolder(folder)
    place(folder, 2).write_bytes(good[:-20])
    assert len(reader.refresh().rounds) == 2 and len(reader.refresh().problems) == 1
    place(folder, 2).write_bytes(good)
    run = reader.refresh()
    assert len(run.rounds) == 3 and run.problems == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ('{"number": 3', "is not JSON"),
        ("[3]", "is not a JSON object"),
        ("[" * 200_000, "is not JSON"),
        ('{"number": 3} \udcff', "is not JSON"),
    ],
    ids=["empty", "cut", "list", "deep", "no UTF-8"],
)
def test_a_damaged_state_is_named_and_the_records_are_shown(folder: Path, text: str, problem: str) -> None:
    (folder / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    run = RunFolder(folder).refresh()
    assert run.problems == (f"state.json: damaged: {problem}",)
    assert (len(run.rounds), run.stands_at, run.attempts) == (3, None, None)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "1e999", "true", '"3"', "null", "1" + "0" * 400])
def test_a_state_with_numbers_that_are_none(folder: Path, value: str) -> None:
    state(folder, f'{{"number": {value}, "attempts": {value}, "pending": [{value}, {{"number": {value}}}, 3]}}')
    run = RunFolder(folder).refresh()
    assert (run.stands_at, run.attempts, run.problems) == (None, None, ()) and 3 in run.pending


def test_a_state_that_is_a_folder_and_rounds_that_are_a_file(folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()
    (folder / "rounds").rename(folder / "old")
    (folder / "rounds").write_text("")
    run = RunFolder(folder).refresh()
    assert run.problems == ("rounds: cannot be read: Not a directory", "state.json: cannot be read: Is a directory")


@pytest.mark.parametrize("pending", ["[2, 3]", '[{"number": 2}, {"number": 3}, {"other": 1}, null]'])
def test_rounds_that_wait_make_the_run_one_with_a_chain(folder: Path, pending: str) -> None:
    assert RunFolder(folder).refresh().local
    state(folder, f'{{"number": 3, "attempts": 4, "pending": {pending}}}')
    run = RunFolder(folder).refresh()
    assert (run.pending, run.local, run.stands_at, run.attempts) == (frozenset({2, 3}), False, 3, 4)


def test_a_published_or_anchored_round_makes_the_run_one_with_a_chain(folder: Path) -> None:
    change(folder, 1, cid="bafy")
    assert not RunFolder(folder).refresh().local
    change(folder, 1, cid="")
    AuditLog(folder / FILE).append("anchored", {"number": 3, "attempt": 3, "text": "", "figures": {}})
    assert not RunFolder(folder).refresh().local


def test_members_and_what_became_of_their_replies(folder: Path) -> None:
    members = {member.node: member for member in RunFolder(folder).refresh().members}
    assert set(members) == {101, 102, 103}
    assert (members[101].accepted, members[101].rejected, members[101].last_round) == (3, 0, 3)
    assert members[101].figures == {"loss": 0.4, "bit-accuracy": 0.9} and members[101].reason == ""
    assert (members[103].accepted, members[103].rejected, members[103].last_round) == (0, 1, 0)
    assert members[103].reason.startswith("not_finite: <script>")


def test_a_refused_attempt_counts_against_those_who_were_rejected_in_it(folder: Path) -> None:
    log = AuditLog(folder / FILE)
    for kind, figures in (("screened", {"rejected": [[102, "norm"], [103, "silent"]]}), ("refused", {})):
        log.append(kind, {"number": 3, "attempt": 5, "text": "", "figures": figures})
    run = RunFolder(folder).refresh()
    found = {member.node: (member.rejected, member.reason[:6]) for member in run.members}
    # what an accepted round's record says is more than the code that the log has
    assert found == {101: (0, ""), 102: (1, "norm"), 103: (2, "not_fi")}
    assert run.rejections == {"not_finite": 1, "norm": 1, "silent": 1}


def test_a_member_that_came_back_with_another_node_is_one_member(folder: Path) -> None:
    for number, node in ((1, 101), (2, 201), (3, 201)):
        rows = json.loads(place(folder, number).read_text())["updates"]
        rows[0].update(node=node, signer="0xAb")
        change(folder, number, updates=rows, rejected=[{"node": 101, "code": "norm", "detail": "d"}], sites={})
    signed = [member for member in RunFolder(folder).refresh().members if member.signer]
    assert [(one.signer, one.accepted, one.rejected, one.last_round) for one in signed] == [("0xAb", 3, 3, 3)]


def test_a_log_with_a_changed_line_is_a_problem(folder: Path) -> None:
    file = folder / FILE
    file.write_text(file.read_text().replace("round 2", "round 5", 1))
    (problem,) = RunFolder(folder).refresh().problems
    assert problem.startswith(f"{FILE}: line 5 ")
