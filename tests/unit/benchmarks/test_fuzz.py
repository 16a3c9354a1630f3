"""benchmarks.fuzz: inputs that come again, and defects that it would find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz
from medprov_ledger import _canonical
from medprov_ledger.errors import RecordError
from medprov_node.joining import enrolling


@pytest.fixture
def known(tmp_path: Path) -> dict[str, fuzz.Target]:
    return {target.name: target for target in fuzz.targets(tmp_path)}


def test_no_parser_lets_anything_but_typed_errors_out(known: dict[str, fuzz.Target]) -> None:
    for target in known.values():
        outcome = fuzz.attack(target, seed=7, count=150)
        assert outcome.findings == [], target.name
        assert outcome.inputs == 150 == outcome.accepted + sum(outcome.refused.values())


HOSTILE = {"app bundle", "array file", "audit log", "config", "coordinator.toml", "manifest", "node.toml"}
HOSTILE |= {"privacy file", "round record", "state file"}
"""Of these the first seed only is valid."""


def test_valid_objects_are_accepted_as_they_are(known: dict[str, fuzz.Target]) -> None:
    for name in set(known) - {"blocks", "merkle", "mark header"}:
        for seed in known[name].seeds[: 1 if name in HOSTILE else None]:
            assert known[name].parse(seed) in (seed, None), name


def test_hostile_seeds_are_refused_by_name(known: dict[str, fuzz.Target]) -> None:
    for name in HOSTILE - {"app bundle", "audit log", "manifest"}:
        for seed in known[name].seeds[1:]:
            with pytest.raises(fuzz.TYPED):
                known[name].parse(seed)


def test_a_start_kit_that_makes_no_configuration_is_found(
    known: dict[str, fuzz.Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolling, "toml_text", json.dumps)
    problems = [one["problem"] for one in fuzz.attack(known["start kit"], 0, 100).findings]
    assert any("not valid TOML" in problem for problem in problems)


def test_an_input_follows_from_seed_target_and_number(known: dict[str, fuzz.Target]) -> None:
    target = known["evidence"]
    first = [fuzz.make(target, 0, number) for number in range(50)]
    assert first == [fuzz.make(target, 0, number) for number in range(50)]
    assert first != [fuzz.make(target, 1, number) for number in range(50)]
    assert len(set(first)) > 40


def test_both_kinds_of_defects_are_found(known: dict[str, fuzz.Target], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as careless:
        careless.setattr(_canonical, "fields", lambda value, names, what: value)
        problems = [one["problem"] for one in fuzz.attack(known["wraps"], 0, 800).findings]
        assert any(problem.startswith("KeyError") for problem in problems)

    def loads(data: bytes, what: str) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise RecordError(what) from None

    monkeypatch.setattr(_canonical, "loads", loads)
    problems = [one["problem"] for one in fuzz.attack(known["wraps"], 0, 800).findings]
    assert "accepted, but it is written back in other bytes" in problems


def test_every_input_is_given_out(known: dict[str, fuzz.Target]) -> None:
    chosen = list(known.values())
    for inputs in (1000, 999_999):
        counts = fuzz.shares(chosen, inputs)
        assert sum(counts.values()) == inputs and min(counts.values()) > 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fuzz.json"
    arguments = ["--inputs", "300", "--seed", "3", "--targets", "cid", "wrap", "--json", str(file)]
    assert fuzz.main(arguments) == 0
    figures = json.loads(file.read_text())
    assert figures["inputs"] == 300 and set(figures["targets"]) == {"cid", "wrap"} and figures["findings"] == []
    with pytest.raises(SystemExit):
        fuzz.main(["--targets", "none"])
    assert "no target none; known are evidence" in capsys.readouterr().err
    monkeypatch.setattr(_canonical, "fields", lambda value, names, what: value)
    assert fuzz.main(["--inputs", "800", "--targets", "wraps"]) == 1
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wraps:")]
    number = next(line.split(":")[1] for line in found if "KeyError" in line)
    with pytest.raises(KeyError):
        fuzz.main(["--only", f"wraps:{number}"])
