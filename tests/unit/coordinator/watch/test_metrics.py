"""The figures for Prometheus, read back with its own parser."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from medprov_coordinator.audit_log import FILE, AuditLog
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.metrics import exposition, quality
from medprov_coordinator.watch.records import parse_record
from medprov_coordinator.watch.run_folder import RunFolder
from medprov_ledger.federation import Round

HOSTILE = '"} 1\nmedprov_rounds 99\n\\\x1b]0;t\x07\u202e\ud800<b>'


def place(folder: Path, number: int) -> Path:
    return folder / "rounds" / f"{number:06d}.json"


def change(folder: Path, number: int, **fields: Any) -> None:
    file = place(folder, number)
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def samples(folder: Path, chain: ChainState | None = None) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each sample; no pair of name and labels may come twice."""
    text = exposition(RunFolder(folder).refresh(), chain or ChainState()).decode()
    assert text.isprintable() or all(line.isprintable() for line in text.split("\n"))
    seen = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in seen
            seen.add(key)
            yield sample.name, dict(sample.labels), sample.value


def plain(folder: Path, chain: ChainState | None = None) -> dict[str, float]:
    """The samples without labels."""
    return {name: value for name, labels, value in samples(folder, chain) if not labels}


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "rounds").mkdir()
    found = plain(tmp_path)
    assert found["medprov_rounds"] == found["medprov_members"] == found["medprov_problems"] == 0
    # no log is no good log
    assert found["medprov_audit_log_good"] == 0
    assert "medprov_score" not in found and "medprov_last_anchor_timestamp_seconds" not in found
    (tmp_path / FILE).touch()
    assert plain(tmp_path)["medprov_audit_log_good"] == 1


def test_the_newest_round_and_the_sites(folder: Path) -> None:
    found = plain(folder)
    assert found["medprov_score"] == pytest.approx(0.73) and found["medprov_loss"] == 0.5
    assert (found["medprov_round_bytes_down"], found["medprov_round_bytes_up"]) == (2000, 1000)
    assert (found["medprov_attempts_total"], found["medprov_members"]) == (4, 3)
    sites = {(labels["node"], name): value for name, labels, value in samples(folder) if "site" in labels}
    assert sites == {
        ("101", "medprov_site_loss"): 0.4,
        ("101", "medprov_site_quality"): 0.9,
        ("102", "medprov_site_loss"): 0.6,
        ("102", "medprov_site_quality"): 0.7,
    }


def test_hostile_texts_are_one_label_and_no_line_of_their_own(folder: Path) -> None:
    signer = "0xAB"
    rows = json.loads(place(folder, 3).read_text())["updates"]
    rows[0]["signer"] = signer
    rejected = [{"node": 103, "code": HOSTILE, "detail": ""}]
    change(folder, 3, updates=rows, rejected=rejected)
    found = list(samples(folder, ChainState(True, names={signer.lower(): HOSTILE})))
    assert [value for name, _, value in found if name == "medprov_rounds"] == [3.0]
    (reason,) = [labels["reason"] for _, labels, _ in found if "reason" in labels and labels["reason"] != "not_finite"]
    (site,) = {labels["site"] for _, labels, _ in found if labels.get("node") == "101"}
    for text in (reason, site):
        assert text.startswith('"} 1\\nmedprov_rounds 99\\n') and "\\x1b]0;t\\x07\\u202e" in text


def test_reasons_that_are_shown_alike_are_counted_together(folder: Path) -> None:
    codes = ("x" * 100, "x" * 101)
    change(folder, 3, rejected=[{"node": 103, "code": code, "detail": ""} for code in codes])
    reasons = {labels["reason"]: value for _, labels, value in samples(folder) if "reason" in labels}
    assert reasons == {"not_finite": 1, "x" * 59 + "…": 2}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400])
def test_what_is_no_number_gets_into_no_figure(folder: Path, value: str) -> None:
    text = json.dumps({**json.loads(place(folder, 3).read_text()), "probe": {"score": "?"}, "sites": [
        {"node": 101, "loss": "?"}
    ]})  # fmt: skip
    place(folder, 3).write_text(text.replace('"?"', value))
    (folder / "state.json").write_text(f'{{"number":{value},"attempts":{value}}}')
    found = list(samples(folder))
    assert all(math.isfinite(number) for _, _, number in found)
    # a record with what JSON lacks is a damaged one, and the one before it is the newest
    damaged = value in ("NaN", "Infinity")
    assert plain(folder)["medprov_rounds"] == (2 if damaged else 3)
    assert plain(folder)["medprov_problems"] == damaged


def test_damaged_files_and_a_broken_log_are_told(folder: Path) -> None:
    assert plain(folder)["medprov_audit_log_good"] == 1
    file = folder / FILE
    file.write_text(file.read_text().replace("round 2", "round 5", 1))
    place(folder, 1).write_text("{")
    found = plain(folder)
    assert (found["medprov_audit_log_good"], found["medprov_audit_log_entries"], found["medprov_problems"]) == (0, 4, 2)


def test_rounds_that_the_chain_does_not_have_wait_for_it(folder: Path) -> None:
    record = parse_record(place(folder, 1).read_bytes())
    held = Round(1, bytes(32), "", bytes(32), bytes.fromhex(record.hash), "", 7, 1234)
    there = ChainState(True, {1: held})
    found = plain(folder, there)
    assert (found["medprov_pending_anchors"], found["medprov_last_anchor_timestamp_seconds"]) == (2, 1234)
    # a chain that is away says nothing about rounds that it had no time to tell of
    away = replace(there, trouble="no chain answers")
    assert plain(folder, away)["medprov_pending_anchors"] == 0
    assert plain(folder, away)["medprov_last_anchor_timestamp_seconds"] == 1234


def test_the_log_tells_of_the_last_anchor_where_no_chain_is_asked(folder: Path) -> None:
    assert "medprov_last_anchor_timestamp_seconds" not in plain(folder)
    log = AuditLog(folder / FILE)
    for number in (1, 2):
        log.append("anchored", {"number": number, "attempt": number, "text": "", "figures": {}})
    last = list(log.entries())[-1]
    run = RunFolder(folder).refresh()
    assert run.history.anchored_at[2] == last.time
    stamp = plain(folder)["medprov_last_anchor_timestamp_seconds"]
    run.history.anchored_at.clear()
    run.history.anchored_at.update({1: "1970-01-01T00:16:40Z", 2: "1970-01-01T00:16:39Z"})
    assert b"medprov_last_anchor_timestamp_seconds 1000.0" in exposition(run, ChainState()) and stamp > 1000
    run.history.anchored_at[3] = "some day"
    assert b"medprov_last_anchor" not in exposition(run, ChainState())


@pytest.mark.parametrize(
    ("figures", "found"),
    [
        ({"loss": 0.1}, None),
        ({"score": 0.2, "dice": 0.3}, ("dice", 0.3)),
        ({"accuracy": 0.4, "bit-accuracy": 0.0}, ("bit-accuracy", 0.0)),
    ],
)
def test_which_figure_says_how_good_a_model_is(figures: dict[str, float], found: tuple[str, float] | None) -> None:
    assert quality(figures) == found
