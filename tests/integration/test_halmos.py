"""What halmos proves of the contracts (contracts/test/Symbolic.t.sol), and that it notices a guard that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract_tools import CONTRACTS, NEEDS_FORGE, copy_contracts, program, run

CHECKS = re.findall(r"function (check_\w+)\(", (CONTRACTS / "test" / "Symbolic.t.sol").read_text())
# strings as long as CIDs, signatures, proofs of one node; loops are cut after two turns
BOUNDS = ["--default-bytes-lengths", "59", "--array-lengths", "signature=65", "--default-array-lengths", "1"]

# nothing found would be nothing proved
assert len(CHECKS) >= 14
pytestmark = [pytest.mark.slow, NEEDS_FORGE, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts and the checks, without the other tests: these cost compile time."""
    made = copy_contracts(tmp_path_factory.mktemp("halmos"))
    for file in (made / "test").glob("*.sol"):
        if file.name not in ("Symbolic.t.sol", "Harness.sol"):
            file.unlink()
    return made


def prove(contracts: Path, check: str) -> tuple[str, str]:
    """What becomes of the check, PASS or FAIL (with a counterexample), and what halmos says."""
    command = [str(program("halmos")), "--forge-build-out", "../build/forge", "--contract", "SymbolicTest"]
    command += ["--match-test", f"^{check}\\(", "--no-status", "--early-exit", *BOUNDS]
    done = run(command, contracts, timeout=850)
    said = re.sub(r"\x1b\[\d*m", "", done.stdout)
    # warnings of the compiler come before
    said = said[said.rfind("\nRunning ") :][-4000:] + done.stderr[-1000:]
    found = re.search(rf"^\[(\w+)\] {check}\(", said, re.MULTILINE)
    # neither a solver that is not there nor one that runs out of time proves anything
    assert found is not None, said
    assert found[1] in ("PASS", "FAIL"), said
    assert (found[1] == "PASS") == (done.returncode == 0), said
    return found[1], said


@pytest.mark.parametrize("check", CHECKS)
def test_proved(copy: Path, check: str) -> None:
    outcome, said = prove(copy, check)
    assert outcome == "PASS", said


@pytest.mark.parametrize(
    ("file", "guard", "instead", "check"),
    [
        ("Titles.sol", "_federation().currentOf(held.offered) != msg.sender", "false", "check_onlyTheOfferedAccepts"),
        ("ProvenanceRegistry.sol", "if (!FEDERATION.isMember(account))", "if (false)", "check_strangersWriteNothing"),
        (
            "ProvenanceRegistry.sol",
            "if (block.timestamp > deadline)",
            "if (false)",
            "check_aBatchIsSignedInTimeAndUsedOnce",
        ),
        ("ProvenanceRegistry.sol", "|| signer != owner", "", "check_aRegistrationIsSignedInTimeAndUsedOnce"),
        ("Titles.sol", "myBlock >= theirBlock", "false", "check_theEarliestAnchorIsInTheRight"),
    ],
)
def test_a_guard_that_is_gone_is_noticed(copy: Path, file: str, guard: str, instead: str, check: str) -> None:
    source = copy / "src" / file
    whole = source.read_text()
    assert whole.count(guard) == 1
    try:
        source.write_text(whole.replace(guard, instead))
        outcome, said = prove(copy, check)
    finally:
        source.write_text(whole)
    assert outcome == "FAIL", said
    assert "Counterexample" in said
