"""benchmarks.mutations: the table is up to date, and a mutant that nobody notices is reported."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import mutations
from benchmarks.mutations import MUTANTS, ROOT, Mutant, Result, StaleError, check_texts, table

DEFENDED = "def safe(value: int) -> bool:\n    if value < 0:\n        return False\n    return True\n"
TESTS = """
from guarded import safe
def test_notices(): assert not safe(-1)
def test_sleeps(): assert safe(1)
"""
GUARD = Mutant(
    "negative values", "ledger/guarded.py", "if value < 0:", "if False:", ("tests/test_it.py::test_notices",)
)


def test_every_guard_is_where_the_table_says() -> None:
    check_texts(MUTANTS, ROOT)


def test_every_mutant_changes_something_and_names_its_tests() -> None:
    assert len(MUTANTS) >= 140
    assert len({(one.file, one.text) for one in MUTANTS}) == len(MUTANTS)
    for one in MUTANTS:
        assert one.tests, one.guard
        assert one.text != one.instead, one.guard
    assert {one.solidity for one in MUTANTS if one.quick} == {True, False}


def test_every_named_test_is_there() -> None:
    solidity = "".join(file.read_text() for file in (ROOT / "contracts" / "test").glob("*.sol"))
    for one in MUTANTS:
        for test in one.tests:
            if one.solidity:
                assert f"function {test}(" in solidity, test
            else:
                file, name = test.split("::")
                assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_a_guard_that_has_moved_is_named() -> None:
    gone = replace(MUTANTS[0], text="a line that nobody wrote")
    twice = replace(MUTANTS[0], text="revert")
    absent = replace(MUTANTS[0], file="contracts/src/Nothing.sol")
    with pytest.raises(StaleError) as caught:
        check_texts([gone, MUTANTS[1], twice, absent], ROOT)
    lines = str(caught.value).splitlines()
    assert lines[0] == "bring benchmarks/mutations.py up to date:"
    assert [line.split(":")[0] for line in lines[1:]] == [gone.file, twice.file, absent.file]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one function and two tests."""
    for name in (*mutations.PACKAGES, "contracts", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "ledger" / "guarded.py").write_text(DEFENDED)
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    return tmp_path


def test_killed_and_survived(small: Path) -> None:
    asleep = replace(GUARD, tests=("tests/test_it.py::test_sleeps",))
    killed, survived = mutations.measure([GUARD, asleep])
    assert (killed.killed, killed.by) == (True, ("test_notices",))
    assert (survived.killed, survived.by) == (False, ())
    assert (small / "ledger" / "guarded.py").read_text() == DEFENDED, "nothing happens to the sources themselves"
    assert "| negative values | `guarded.py` | SURVIVED |  |" in table([killed, survived])


def test_what_a_failing_test_logs_is_no_error_of_pytest_s(small: Path) -> None:
    logs = "def test_notices():\n    import logging\n    logging.getLogger().error('a')\n    assert not safe(-1)\n"
    (small / "tests" / "test_it.py").write_text(f"from guarded import safe\n{logs}")
    (killed,) = mutations.measure([GUARD])
    assert killed.killed


def test_a_test_that_fails_anyway_kills_nothing(small: Path) -> None:
    (small / "tests" / "test_it.py").write_text("def test_notices(): assert False\n")
    with pytest.raises(RuntimeError, match="without a mutant these fail already: test_notices"):
        mutations.measure([GUARD])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "import nothing_of_this_name\n",
        "import pytest\n@pytest.mark.skip\ndef test_notices(): assert False\n",
        "import pytest\n@pytest.fixture\ndef world(): assert False\ndef test_notices(world): pass\n",
    ],
)
def test_a_test_that_does_not_run_kills_nothing(small: Path, text: str) -> None:
    (small / "tests" / "test_it.py").write_text(text)
    with pytest.raises(RuntimeError, match="pytest"):
        mutations.measure([GUARD])


def test_exit_status_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [Result("a", "x.py", True, ("test_a",), 1.0), Result("b", "y.sol", False, (), 2.0)]
    monkeypatch.setattr(mutations, "measure", lambda chosen: results[: len(chosen)])
    monkeypatch.setattr("sys.argv", ["mutations", "--json", str(tmp_path / "out.json")])
    assert mutations.main() == 1
    assert "2 mutants, 1 killed, 1 survived" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["survived"] == 1
    monkeypatch.setattr("sys.argv", ["mutations", "--only", "a stranger writes"])
    assert mutations.main() == 0

    def stale(chosen: object) -> list[Result]:
        raise StaleError("bring it up to date")

    monkeypatch.setattr(mutations, "measure", stale)
    assert mutations.main() == 2
    assert capsys.readouterr().err == "mutations: bring it up to date\n"
