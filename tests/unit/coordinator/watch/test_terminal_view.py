"""A run in the terminal, as lines and as tables; foreign texts in it steer nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medprov_coordinator.audit_log import FILE, AuditLog, Entry
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.history import Refusal
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_coordinator.watch.terminal_view import RECENT, ROUNDS, follow, lines, screen, watch
from medprov_coordinator.watch.words import clean
from medprov_ledger.federation import Round

CONTROL = "\x1b]0;title\x07\x9b2J\u202e\ud800\n"
MARKUP = "[bold red]x[/bold red][/nothing][link=http://evil.example]y"


def change(folder: Path, number: int, **fields: Any) -> None:
    file = folder / "rounds" / f"{number:06d}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def as_lines(folder: Path, chain: ChainState | None = None) -> list[str]:
    return list(lines(RunFolder(folder).refresh(), chain or ChainState()))


def as_screen(folder: Path, chain: ChainState | None = None, *, terminal: bool = False) -> str:
    """What is printed; `terminal` with colours."""
    out = io.StringIO()
    console = Console(file=out, width=400, force_terminal=terminal, color_system="truecolor" if terminal else None)
    console.print(screen(RunFolder(folder).refresh(), chain or ChainState()))
    return out.getvalue()


def hostile(folder: Path, text: str) -> ChainState:
    """The text in every place that somebody else writes."""
    rows = json.loads((folder / "rounds" / "000003.json").read_text())["updates"]
    rows[0].update(signer="0xAB", figures={text: 1.0, "loss": 0.5})
    rows[1].update(signer=text)
    gone = [{"node": 103, "code": text, "detail": text}]
    change(folder, 3, updates=rows, rejected=gone, rule=text, note=text, sites={"102": {text: 2.0}})
    (folder / "rounds" / "000008.json").write_text(json.dumps({"round": 8, "version": text}))
    log = AuditLog(folder / FILE)
    for kind in ("refused", "anchored", text):
        figures = {"transaction": text}
        log.append(kind, {"number": 3, "attempt": 5, "text": text, "figures": figures})
    return ChainState(True, members={"0xab": "active"}, names={"0xab": text}, trouble=text)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "rounds").mkdir()
    assert as_lines(tmp_path) == [f"run        {tmp_path}: 0 rounds", "audit log  none in this folder"]
    assert "0 rounds" in as_screen(tmp_path)
    (tmp_path / FILE).touch()
    assert as_lines(tmp_path)[1] == f"audit log  0 lines, chain of hashes whole, head {'0' * 16}"


def test_rounds_members_and_refusals_as_lines(folder: Path) -> None:
    found = as_lines(folder)
    assert f"{folder}: 3 rounds, 1 attempts refused; last event " in found[0]
    assert any(
        line == "round      2: 2 accepted, 1 rejected, mean, score 0.7200, loss 0.5000, down 2.0 KiB, up 1000 B, –,"
        " no chain"
        for line in found
    )
    assert any(line.startswith("rejected   round 2, node 103: not_finite: <script>") for line in found)
    assert any(line.startswith("refused    ") and line.endswith("round 4 refused") for line in found)
    assert "member     node 101: 3 accepted, 0 rejected, loss 0.4000, bit accuracy 0.9000" in found


def test_rounds_members_and_refusals_as_tables(folder: Path) -> None:
    shown = as_screen(folder)
    for text in ("Rounds", "Members", "Rejected updates", "Refused attempts", "Audit log", "not_finite", "node 103"):
        assert text in shown
    assert "bit accuracy" in shown and "0.9000" in shown


@pytest.mark.parametrize("text", [CONTROL, MARKUP, MARKUP + CONTROL])
def test_hostile_texts_are_shown_and_do_nothing(folder: Path, text: str) -> None:
    chain = hostile(folder, text)
    spelled = clean(text)
    found = as_lines(folder, chain)
    assert all(line.isprintable() for line in found)
    for start in ("rejected", "refused", "member", "chain", "run", "problem", "round"):
        assert any(line.startswith(start) and spelled[:20] in line for line in found), start
    shown = as_screen(folder, chain)
    assert all(line.isprintable() for line in shown.split("\n"))
    # a rule, a name, a figure, a detail, an event: each whole, brackets too
    assert shown.count(spelled[:20]) >= 5


def test_markup_in_a_foreign_text_makes_no_link_and_no_colour(folder: Path) -> None:
    shown = as_screen(folder, hostile(folder, MARKUP), terminal=True)
    assert "\x1b]8;" not in shown and "\x1b]0;" not in shown and "[link=http" in shown


def test_markup_in_a_log_that_somebody_else_wrote_is_text(folder: Path) -> None:
    run = RunFolder(folder).refresh()
    run.history.tail.append(Entry(9, "[/when]", "[/kind]", {"text": "[/what]"}, bytes(32), bytes(32)))
    run.history.refusals.append(Refusal("[/time]", 4, 5, "[/why]"))
    console = Console(file=io.StringIO(), width=200)
    with console.capture() as shown:
        console.print(screen(run, ChainState()))
    for text in ("[/when]", "[/kind]", "[/what]", "[/time]", "[/why]"):
        assert text in shown.get()


def test_a_path_is_a_foreign_text_too(folder: Path) -> None:
    other = folder.with_name("run\x1b]0;title\x07")
    folder.rename(other)
    assert "run\\x1b]0;title\\x07: 3 rounds" in as_lines(other)[0]
    assert "run\\x1b]0;title\\x07" in as_screen(other)


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" + "0" * 400])
def test_what_is_no_number_is_left_out(folder: Path, value: str) -> None:
    file = folder / "rounds" / "000003.json"
    body = {**json.loads(file.read_text()), "probe": {"score": "?"}, "sites": [{"node": 101, "loss": "?"}]}
    file.write_text(json.dumps(body).replace('"?"', value))
    text = "\n".join(as_lines(folder)) + as_screen(folder)
    assert "nan" not in text and "inf" not in text.replace("information", "")
    assert ("problem    rounds/000003.json: damaged" in text) is (value == "NaN")
    assert ("score –" in text) is (value != "NaN")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda data: data + b'{"seq":', "8 lines, chain of hashes whole, head "),
        (lambda data: data + b'{"seq":', ", 7 bytes of an unfinished line"),
        (lambda data: data.replace(b"round 1", b"round 7", 1), "line 3 is not what its hash was taken over"),
        (lambda data: b"\x1b[2J\n" + data, "line 1 is not JSON"),
    ],
    ids=["cut", "cut", "corrupted", "no line"],
)
def test_a_damaged_log_is_named(folder: Path, edit: Any, said: str) -> None:
    file = folder / FILE
    file.write_bytes(edit(file.read_bytes()))
    assert said in as_lines(folder)[1] and said in as_screen(folder)


def test_a_line_that_a_crash_cut_short_is_told(folder: Path) -> None:
    with (folder / FILE).open("ab") as stream:
        stream.write(b"{")
    AuditLog(folder / FILE)
    assert as_lines(folder)[1].endswith(", 1 lines cut short by a crash")


def test_anchors_and_a_chain_that_is_away(folder: Path) -> None:
    record = RunFolder(folder).refresh().rounds[0]
    held = {
        1: Round(1, bytes(32), "", bytes(32), bytes.fromhex(record.hash), "", 70, 0),
        2: Round(2, bytes(32), "", bytes(32), bytes(32), "", 71, 0),
    }
    found = as_lines(folder, ChainState(True, held))
    assert found[2] == "chain      2 rounds anchored"
    states = [line.rpartition(", ")[2] for line in found if line.startswith("round ")]
    assert states == ["anchored block 70", "differs block 71", "waiting"]
    away = ChainState(True, held, trouble="no chain answers there")
    assert as_lines(folder, away)[2] == "chain      no chain answers there"
    assert "chain: no chain answers there" in as_screen(folder, away) and "block 71" in as_screen(folder, away)


def test_the_tables_hold_the_newest_only(folder: Path) -> None:
    body = json.loads((folder / "rounds" / "000003.json").read_text())
    gone = [{"node": 103, "code": "norm", "detail": "d"}]
    for number in range(4, 31):
        text = json.dumps({**body, "round": number, "rejected": gone, "rule": f"rule-{number}"})
        (folder / "rounds" / f"{number:06d}.json").write_text(text)
    shown = as_screen(folder)
    assert [number for number in range(4, 31) if f"rule-{number} " in shown] == list(range(31 - ROUNDS, 31))
    rejected = shown.partition("Rejected updates")[2].partition("Refused attempts")[0]
    assert rejected.count("norm: d") == RECENT


def test_following_prints_each_new_line_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AuditLog(folder / FILE)

    def add() -> None:
        log.append("absent\x1b", {"number": 3, "attempt": 5, "text": "2 of 3\nare there", "figures": {}})

    def damage() -> None:
        (folder / "rounds" / "000002.json").write_text("{")

    def stop() -> None:
        raise KeyboardInterrupt

    steps = iter([lambda: None, add, damage, lambda: None, stop])
    monkeypatch.setattr("time.sleep", lambda seconds: next(steps)())
    with pytest.raises(KeyboardInterrupt):
        follow(RunFolder(folder), None, 1.0)
    out = capsys.readouterr().out
    assert out.startswith(f"run        {folder}: 3 rounds")
    assert out.count("2 of 3\\nare there") == out.count("absent\\x1b") == 1
    assert out.count("problem    rounds/000002.json: damaged") == 1
    assert out.count("audit log  ") == 1 and "\x1b" not in out


def test_a_terminal_gets_tables_and_a_file_gets_lines(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(RunFolder(folder), None, once=True, every=1.0)
    assert capsys.readouterr().out.startswith("run        ")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    watch(RunFolder(folder), None, once=True, every=1.0)
    assert "╭" in capsys.readouterr().out
