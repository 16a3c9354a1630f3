"""watch --once and audit, as they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medprov_coordinator import cli


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
