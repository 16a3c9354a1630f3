"""How figures and foreign texts are shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_coordinator.audit_log import FILE, AuditLog
from medprov_coordinator.watch import words
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.records import parse_record
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_ledger.federation import Round

ANY = st.text(st.characters(exclude_categories=[]), max_size=400)


@given(text=ANY, limit=st.integers(1, 350))
def test_a_foreign_text_is_one_short_line_without_control(text: str, limit: int) -> None:
    shown = words.clean(text, limit)
    assert shown.isprintable() and len(shown) <= limit
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m\x9b2J\x07", "\\x1b[31m\\x9b2J\\x07"),
        ("a\nb\r\u2028c\u202e\u2066", "a\\nb\\r\\u2028c\\u202e\\u2066"),
        ("\ud800", "\\ud800"),
        ("<b>é 日本", "<b>é 日本"),
        (None, "None"),
    ],
)
def test_what_steers_a_terminal_is_spelled_out(text: object, shown: str) -> None:
    assert words.clean(text) == shown


def test_a_long_text_ends_in_an_ellipsis() -> None:
    assert words.clean("x" * 300) == "x" * 300
    assert words.clean("x" * 301) == "x" * 299 + "…"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**63, "8388608.0 TiB")],
)
def test_sizes(count: float | None, shown: str) -> None:
    assert words.size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.12345, "0.1235"), (-1.0, "-1.0000"), (12345.6, "1.235e+04"), (1e299, "1e+299")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (90_000, "25 h 00 min")],
)
def test_time_spans(value: float | None, shown: str) -> None:
    assert words.seconds(value) == shown


def test_moments_and_hashes_are_shortened() -> None:
    assert words.moment("2025-01-02T03:04:05.678901Z") == "2025-01-02 03:04:05"
    assert words.moment("") == "–" and words.moment("\x1b[2J") == "\\x1b[2J"
    assert words.short("ab" * 7) == "ab" * 7 and words.short("ab" * 8) == "ab" * 6 + "…"
    assert words.short("\x1b" * 100).isprintable()


def test_figures_are_in_one_order_with_names_for_people() -> None:
    values = {"zeta_x": 1.0, "score": 0.5, "bit-accuracy": 0.25, "loss": 2.0, "\x1bnum-examples": 3.0}
    assert words.figures(values, leave_out=("score",)) == (
        "loss 2.0000, bit accuracy 0.2500, \\x1bnum examples 3.0000, zeta x 1.0000"
    )
    assert words.figures({}) == "–"


def test_a_member_has_its_name_its_address_or_its_node(folder: Path) -> None:
    file = folder / "rounds" / "000003.json"
    body = json.loads(file.read_text())
    body["updates"][0]["signer"] = "0xABCDEF0123456789"
    body["updates"][1]["signer"] = "0x\x1b[31m"
    file.write_text(json.dumps(body))
    names = words.Names(RunFolder(folder).refresh(), ChainState(True, names={"0xabcdef0123456789": "north\x1b[31m"}))
    assert names.of(101) == names.of(5, "0xABCDEF0123456789") == "north\\x1b[31m"
    assert names.of(102) == "0x\\x1b[31m" and names.of(103) == "node 103"
    assert names.of(5, "0x0123456789abcdef") == "0x01234567…"


def test_the_state_of_an_anchor(folder: Path) -> None:
    run = RunFolder(folder).refresh()
    record = run.rounds[1]

    def state(chain: ChainState) -> tuple[str, str, int | None]:
        return words.anchor_of(record, run, chain)

    assert state(ChainState()) == ("no chain", "", None)
    assert state(ChainState(True)) == ("waiting", "", None)
    # what a chain that is away holds is not known; nothing says that the round waits
    assert state(ChainState(True, trouble="away"))[0] == "anchored"
    held = Round(2, bytes(32), "", bytes(32), bytes.fromhex(record.hash), "", 9, 0)
    assert state(ChainState(True, {2: held}, trouble="away")) == ("anchored", "", 9)
    assert state(ChainState(True, {2: replace(held, metrics_hash=bytes(32))})) == ("differs", "", 9)
    run = replace(run, pending=frozenset({2}))
    assert state(ChainState()) == state(ChainState(True, trouble="away")) == ("waiting", "", None)
    # the chain knows better than the folder
    assert state(ChainState(True, {2: held}))[0] == "anchored"


def test_the_log_tells_of_an_anchor_and_its_transaction(folder: Path) -> None:
    figures = {"transaction": "0xab"}
    AuditLog(folder / FILE).append("anchored", {"number": 2, "attempt": 2, "text": "", "figures": figures})
    run = RunFolder(folder).refresh()
    assert words.anchor_of(run.rounds[1], run, ChainState()) == ("anchored", "0xab", None)
    assert words.anchor_of(run.rounds[0], run, ChainState()) == ("anchored", "", None)
    changed = parse_record((folder / "rounds" / "000002.json").read_bytes() + b" ")
    held = Round(2, bytes(32), "", bytes(32), bytes.fromhex(run.rounds[1].hash), "", 9, 0)
    assert words.anchor_of(changed, run, ChainState(True, {2: held})) == ("differs", "0xab", 9)
