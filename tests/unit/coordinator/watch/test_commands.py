"""watch --once and audit, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medprov_coordinator import cli
from medprov_coordinator.audit_log import AuditLog


def test_once_prints_rounds_members_and_what_was_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", "--dir", str(folder), "--once"]) == 0
    out = capsys.readouterr().out
    assert "not_finite" in out and "refused" in out
    assert "\x1b" not in out and "\u202e" not in out


def test_audit_of_a_whole_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # records that were written without a log name no line of it
    code = cli.main(["audit", "--dir", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["rounds"] == 3 and found["entries"] == 8
    assert code == (1 if found["differences"] else 0)


def test_audit_names_a_changed_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "audit.jsonl"
    file.write_text(file.read_text().replace("round 2", "round 5", 1))
    assert cli.main(["audit", "--dir", str(folder)]) == 1
    assert "line" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["watch", "--once"], ["audit"], ["serve"]):
        assert cli.main([*command, "--dir", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert str(tmp_path) in error and error.count("\n") == 1


@pytest.mark.parametrize("every", ["0", "0.05", "3601", "nan", "inf", "-1", "soon"])
def test_the_time_between_two_looks_is_bounded(folder: Path, every: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["watch", "--dir", str(folder), "--once", f"--every={every}"])
    assert ended.value.code == 2 and "--every" in capsys.readouterr().err
    assert cli.main(["watch", "--dir", str(folder), "--once", "--every=0.1"]) == 0


def test_audit_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "audit.jsonl").open("ab") as log:
        log.write(b'{"body"')
    AuditLog(folder / "audit.jsonl")
    assert cli.main(["audit", "--dir", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("audit log  9 lines, head ") and lines[1].startswith("crashes    1 unfinished lines")
    assert lines[2] == "rounds     3 records" and lines[-1] == "everything agrees" and err == ""
    assert "note       no chain was compared: name --config" in lines


def test_audit_prints_no_foreign_text_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rounds" / "\x1b]0;title\x07.json").write_text("{}")
    assert cli.main(["audit", "--dir", str(folder)]) == 1
    for text in capsys.readouterr():
        assert "rounds/\\x1b]0;title\\x07.json: no record of a round" in text and "\x1b" not in text
