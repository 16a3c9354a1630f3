"""Do the tests notice when a guard is gone? Takes out one guard at a time and runs the tests that should see it.

    python -m benchmarks.mutations [--only TEXT] [--json FILE] [--quick]

Each mutant is made in a temporary copy of the sources. A contract's mutant meets forge's tests, a Python mutant those
of pytest. A mutant is killed where a test fails; one that survives is a test that is missing. Exit status 1 where one
survives, 2 where a guard's text is not in its file any more, so that this table must be brought up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import mutations_federation

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ledger", "client_sdk", "watermark", "coordinator", "node")
FORGE = ROOT / "contracts" / "node_modules" / ".bin" / "forge"
LEDGER, SDK = "ledger/medprov_ledger", "client_sdk/medprov_sdk"
DISHONEST = "tests/integration/test_dishonest.py"
UNIT = "tests/unit/ledger"


@dataclass(frozen=True)
class Mutant:
    """One guard taken out.

    Parameters
    ----------
    guard : str
        What it protects from.
    file : str
        From the repository's root.
    text : str
        The guard as it stands there, once.
    instead : str
        What takes its place.
    tests : tuple of str
        pytest's node ids; for a contract names of forge's tests.
    quick : bool
        Whether ``--quick`` takes it.
    """

    guard: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
    quick: bool = False

    @property
    def solidity(self) -> bool:
        """Whether it is a contract's."""
        return self.file.endswith(".sol")


def _sol(name: str, guard: str, text: str, *tests: str, instead: str = "", quick: bool = False) -> Mutant:
    return Mutant(guard, f"contracts/src/{name}.sol", text, instead, tests, quick)


def _python(file: str, guard: str, text: str, instead: str, *tests: str, quick: bool = False) -> Mutant:
    return Mutant(guard, file, text, instead, tests, quick)


CONTRACTS = (
    _sol(
        "Federation",
        "a stranger votes, anchors rounds, releases models",
        "if (!isMember(msg.sender)) revert NotMember(msg.sender);",
        "testFuzz_strangersDecideNothing",
    ),
    _sol(
        "Federation",
        "rounds and releases during a pause",
        "if (paused) revert Paused();",
        "test_pausingIsDecidedTogether",
    ),
    _sol(
        "Federation",
        "a member votes twice",
        "if (_voted[motion][voter]) revert AlreadyVoted(motion, msg.sender);",
        "test_aRotatedKeyVotesOnce",
        "test_modelsAreReleasedTogetherAndOnce",
    ),
    _sol(
        "Federation",
        "a member votes again with another key",
        "address voter = _first[msg.sender];",
        "test_aRotatedKeyVotesOnce",
        instead="address voter = msg.sender;",
    ),
    _sol(
        "Federation",
        "one member decides alone",
        "carried = count >= threshold;",
        "test_pausingIsDecidedTogether",
        instead="carried = true;",
    ),
    _sol(
        "Federation",
        "votes of former members count",
        "        ++_epoch;\n",
        "test_aMotionThatIsCarriedClosesTheOthers",
    ),
    _sol(
        "Federation",
        "a key is taken over that was not offered",
        "if (_offered[account] != msg.sender) revert NotOffered(account, msg.sender);",
        "test_bothSidesMustWantIt",
    ),
    _sol(
        "Federation",
        "a suspended member rotates its key",
        "if (!isMember(account)) revert NotMember(account);",
        "test_theSuspendedDoNotRotateByThemselves",
    ),
    _sol(
        "Federation",
        "two members go on with one key",
        "        _checkUnused(msg.sender);\n",
        "test_anAccountThatWasUsedMeanwhileIsRefused",
    ),
    _sol(
        "Federation",
        "rounds are skipped or anchored again",
        "if (number != lastRound + 1) revert RoundNotNext(number, lastRound);",
        "testFuzz_roundsHaveNoGap",
    ),
    _sol(
        "Federation",
        "a released model is released anew",
        "if (_models[modelHash].blockNumber != 0) revert AlreadyReleased(modelHash);",
        "test_modelsAreReleasedTogetherAndOnce",
    ),
    _sol(
        "Federation",
        "a threshold that nobody can reach",
        "if (k == 0 || k > active) revert BadThreshold(k, active);",
        "testFuzz_theThresholdCanAlwaysBeReached",
    ),
    _sol(
        "Federation",
        "a member leaves whose vote is needed",
        "if (status == Status.Active) _checkThreshold(threshold, activeCount - 1);",
        "test_nobodyLeavesWhoIsNeeded",
    ),
    _sol(
        "Federation",
        "two hospitals of one name",
        "if (_names[nameHash] != address(0)) revert NameTaken(nameHash);",
        "test_namesAndAccountsAreTakenOnce",
    ),
    _sol(
        "ProvenanceRegistry",
        "a stranger writes",
        "if (!FEDERATION.isMember(account)) revert NotMember(account);",
        "testFuzz_strangersWriteNothing",
        quick=True,
    ),
    _sol(
        "ProvenanceRegistry",
        "members write during a pause",
        "if (FEDERATION.paused()) revert Paused();",
        "test_nobodyWritesDuringAPause",
    ),
    _sol(
        "ProvenanceRegistry",
        "a registry without a federation",
        "if (federation.federationId() == 0) revert ZeroHash();",
        "test_aRegistryNeedsAFederation",
    ),
    _sol(
        "ProvenanceRegistry",
        "a record of another is registered",
        "if (record.owner != msg.sender) revert NotOwner(msg.sender, record.owner);",
        "test_nobodyRegistersForAnotherByItself",
    ),
    _sol(
        "ProvenanceRegistry",
        "another's released image is registered",
        "if (earlier != 0) revert AlreadyRegistered(record.releasedHash, earlier);",
        "testFuzz_anotherMemberTakesNoReleasedImage",
    ),
    _sol(
        "ProvenanceRegistry",
        "an anchor is overwritten",
        "if (_anchors[owner][root].blockNumber != 0) revert RootAlreadyAnchored(root, owner);",
        "test_eachMemberAnchorsARootForItself",
    ),
    _sol(
        "ProvenanceRegistry",
        "a signature is replayed after its deadline",
        "if (block.timestamp > deadline) revert Expired(deadline);",
        "test_leaveIsForOneRecordAndOneTime",
    ),
    _sol(
        "ProvenanceRegistry",
        "anybody signs for a member",
        " || signer != owner",
        "testFuzz_onlyTheOwnersLeaveCounts",
    ),
    _sol(
        "ProvenanceRegistry",
        "a batch order is used for other values",
        "abi.encode(BATCH_TYPEHASH, owner, root, count, keccak256(bytes(cid)), deadline)",
        "testFuzz_batchesAreRelayedOnce",
        "testFuzz_anOrderCoversEveryValue",
        instead="abi.encode(BATCH_TYPEHASH, owner, root, uint32(0), keccak256(bytes(cid)), deadline)",
    ),
    _sol(
        "ProvenanceRegistry",
        "roots prove that nobody anchored",
        "if (_anchors[owner][root].blockNumber == 0) return false;",
        "testFuzz_onlyAnchoredRootsProve",
    ),
    _sol(
        "ProvenanceRegistry",
        "an inner node is passed off as a record",
        "MerkleProof.verifyCalldata(proof, root, keccak256(bytes.concat(keccak256(abi.encode(leaf)))))",
        "testFuzz_anInnerNodeIsNoLeaf",
        instead="MerkleProof.verifyCalldata(proof, root, leaf)",
    ),
    _sol(
        "ProvenanceRegistry",
        "a batch without records",
        "if (count == 0) revert EmptyBatch();",
        "test_emptyThingsAreRefused",
    ),
    _sol(
        "ProvenanceRegistry",
        "another's record in one's own batch gives a title",
        "verify(claim.record.owner, claim.root, recordId, claim.proof)) {\n"
        "            blockNumber = _anchors[claim.record.owner][claim.root].blockNumber;",
        "test_anothersRecordInOnesOwnBatchGivesNoTitle",
        instead="verify(msg.sender, claim.root, recordId, claim.proof)) {\n"
        "            blockNumber = _anchors[msg.sender][claim.root].blockNumber;",
    ),
    _sol(
        "Titles", "a stranger changes titles", "        _checkWriter(msg.sender);\n", "testFuzz_strangersWriteNothing"
    ),
    _sol(
        "Titles",
        "who does not own a record changes it",
        "if (_federation().currentOf(held.owner) != msg.sender) revert NotTitleOwner(recordId, msg.sender);",
        "test_ownershipNeedsBothSides",
    ),
    _sol(
        "Titles",
        "a record is taken that was not offered",
        "if (held.offered == address(0) || _federation().currentOf(held.offered) != msg.sender) {",
        "test_ownershipNeedsBothSides",
        instead="if (false) {",
        quick=True,
    ),
    _sol(
        "Titles",
        "an offer is accepted twice",
        "        held.owner = msg.sender;\n        held.offered = address(0);\n",
        "test_ownershipNeedsBothSides",
        instead="        held.owner = msg.sender;\n",
    ),
    _sol(
        "Titles",
        "a record goes to a stranger",
        "if (to != address(0) && (to == msg.sender || !_federation().isMember(to))) revert BadRecipient(to);",
        "test_recipientsAreOtherMembers",
    ),
    _sol(
        "Titles",
        "a record that nobody anchored has a title",
        "if (blockNumber == 0) revert Unproved(recordId);",
        "testFuzz_whatIsNotAnchoredHasNoTitle",
    ),
    _sol(
        "Titles",
        "a revoked record changes hands",
        "        if (held.revokedTime != 0) revert Revoked(recordId);\n    }",
        "test_revocationIsForGood",
        instead="    }",
    ),
    _sol(
        "Titles",
        "the later anchor wins a dispute",
        "myBlock >= theirBlock || ",
        "test_theEarlierAnchorIsInTheRight",
    ),
    _sol(
        "Titles",
        "a later contestant takes the place of an earlier one",
        " || (kept.blockNumber != 0 && kept.blockNumber <= myBlock)",
        "test_theEarliestContestantIsKept",
    ),
    _sol(
        "Titles",
        "unrelated records are contested",
        "if (!related || mine == theirs) revert Unrelated(mine, theirs);",
        "test_strangersToEachOtherAreNotContested",
    ),
    _sol(
        "Titles",
        "a licence outlives its end",
        " && found.expires >= block.timestamp",
        "testFuzz_licencesExpire",
    ),
    _sol(
        "Titles",
        "anybody takes a licence back",
        "if (ownerOf(recordId) != msg.sender) revert NotTitleOwner(recordId, msg.sender);",
        "test_licencesEndWithTheRecordOrAreTakenBack",
    ),
)

PYTHON = (
    _python(
        f"{LEDGER}/manifest.py",
        "a manifest of another chain or registry",
        "if manifest.domain != domain:",
        "if False:",
        f"{UNIT}/test_manifest.py::test_another_chain_or_registry_is_refused",
    ),
    _python(
        f"{LEDGER}/manifest.py",
        "a manifest of more or fewer records than anchored",
        "if len(manifest.records) != anchor.count:",
        "if False:",
        f"{UNIT}/test_manifest.py::test_a_record_less_more_or_twice_is_refused",
        f"{DISHONEST}::test_a_manifest_that_does_not_match_its_root",
    ),
    _python(
        f"{LEDGER}/manifest.py",
        "a manifest whose records do not give the root",
        "if manifest.root != anchor.root or manifest.tree.root != anchor.root:",
        "if False:",
        f"{DISHONEST}::test_a_manifest_that_does_not_match_its_root",
    ),
    _python(
        f"{LEDGER}/manifest.py",
        "a manifest that only states the root",
        " or manifest.tree.root != anchor.root",
        "",
        f"{UNIT}/test_manifest.py::test_a_stated_root_does_not_help",
    ),
    _python(
        f"{LEDGER}/manifest.py",
        "another's record in one's own batch",
        "if signed.record.owner != owner:",
        "if False:",
        f"{UNIT}/test_manifest.py::test_anchoring_another_s_batch_does_not_make_it_one_s_own",
        f"{DISHONEST}::test_another_s_record_in_one_s_own_batch",
    ),
    _python(
        f"{LEDGER}/manifest.py",
        "a record that another has signed",
        "    if signer != owner:\n",
        "    if False:\n",
        f"{UNIT}/test_manifest.py::test_a_record_signed_by_another_is_refused",
        f"{DISHONEST}::test_another_s_record_in_one_s_own_batch",
    ),
    _python(
        f"{LEDGER}/_index_sync.py",
        "the index takes manifests unchecked",
        "manifest.verify(found, one.anchor, file.domain)",
        "pass",
        f"{DISHONEST}::test_another_s_record_in_one_s_own_batch",
    ),
    _python(
        f"{LEDGER}/merkle.py",
        "an inner node is passed off as a record",
        "return keccak256(keccak256(leaf))",
        "return leaf",
        f"{UNIT}/test_merkle.py::test_a_foreign_leaf_and_an_inner_node_are_not_proved",
    ),
    _python(
        f"{LEDGER}/merkle.py",
        "a proof of another leaf",
        "    return node == root\n",
        "    return True\n",
        f"{UNIT}/test_merkle.py::test_a_foreign_leaf_and_an_inner_node_are_not_proved",
        f"{DISHONEST}::test_a_proof_of_another_leaf",
    ),
    _python(
        f"{LEDGER}/eip712.py",
        "a second form of a signature",
        'if int.from_bytes(signature[32:64], "big") > _ORDER // 2:',
        "if False:",
        f"{UNIT}/test_eip712.py::test_the_second_form_of_a_signature_is_refused",
    ),
    _python(
        f"{LEDGER}/eip712.py",
        "a signature in another form than the contracts take",
        "if len(signature) != 65 or signature[64] not in (27, 28):",
        "if False:",
        f"{UNIT}/test_eip712.py::test_malformed_signatures_are_refused",
    ),
    _python(
        f"{LEDGER}/eip712.py",
        "a signature counts on every chain and registry",
        'keccak256(b"\\x19\\x01" + self.domain.separator + ',
        'keccak256(b"\\x19\\x01" + ',
        f"{UNIT}/test_eip712.py::test_a_signature_is_for_one_chain_and_registry",
    ),
    _python(
        f"{LEDGER}/sealing.py",
        "a sealed object is passed off as another",
        "    cipher.update(sealed[:_HEADER] + aad)\n",
        "    cipher.update(sealed[:_HEADER])\n",
        f"{UNIT}/test_sealing.py::test_another_key_kind_or_record_does_not_open",
        f"{UNIT}/test_sealing.py::test_round_trip",
    ),
    _python(
        f"{LEDGER}/sealing.py",
        "a sealed object that was changed",
        "cipher.decrypt_and_verify(body[:-_TAG], body[-_TAG:])",
        "cipher.decrypt(body[:-_TAG])",
        f"{UNIT}/test_sealing.py::test_a_flipped_bit_anywhere_is_noticed",
        quick=True,
    ),
    _python(
        f"{LEDGER}/cid.py",
        "a store gives other bytes than the CID names",
        "if hashlib.sha256(data).digest() != cid.digest:",
        "if False:",
        f"{UNIT}/test_cid.py::test_a_changed_block_is_noticed",
    ),
    _python(
        f"{LEDGER}/chain.py",
        "another chain than the configured one",
        "if found != config.chain_id:",
        "if False:",
        f"{UNIT}/test_chain.py::test_wrong_chain_id",
        f"{DISHONEST}::test_the_contract_at_the_address_is_another_one",
    ),
    _python(
        f"{LEDGER}/chain.py",
        "another federation at the address",
        "if identity != config.federation_id:",
        "if False:",
        f"{DISHONEST}::test_the_contract_at_the_address_is_another_one",
    ),
    _python(
        f"{LEDGER}/chain.py",
        "another federation's registry at the address",
        "if linked != self.federation.address:",
        "if False:",
        f"{DISHONEST}::test_the_contract_at_the_address_is_another_one",
    ),
    _python(
        f"{LEDGER}/chain.py",
        "writing to a contract of unknown code",
        "if not is_compiled_from(code, artifact(name).bytecode):",
        "if False:",
        f"{UNIT}/test_chain.py::test_other_code_is_read_but_not_written_to",
    ),
    _python(
        f"{SDK}/ledger_view.py",
        "a verifier believes an index without the owner's signature",
        " or signer != record.owner:",
        ":",
        f"{DISHONEST}::test_an_index_that_lies_proves_nothing",
    ),
    _python(
        f"{SDK}/ledger_view.py",
        "a verifier believes an index whose record is not the leaf",
        "if record.leaf(self.domain) != entry.leaf or",
        "if",
        f"{DISHONEST}::test_an_index_that_lies_proves_nothing",
    ),
    _python(
        f"{SDK}/ledger_view.py",
        "a verifier believes an index without the contract's proof",
        "if not asked.verify(record.owner, entry.root, entry.leaf, list(entry.proof)):",
        "if False:",
        f"{DISHONEST}::test_an_index_that_lies_proves_nothing",
        quick=True,
    ),
    _python(
        f"{SDK}/claims.py",
        "two owners of one picture are not noticed",
        "if len(owners) > 1:",
        "if False:",
        f"{DISHONEST}::test_one_s_own_record_of_another_s_image_in_a_batch",
    ),
    _python(
        f"{SDK}/claims.py",
        "another's copied record contests the one who sealed",
        "        if one.member == signed.member or not copied:\n",
        "        if True:\n",
        f"{DISHONEST}::test_one_s_own_record_of_another_s_image_in_a_batch",
    ),
    _python(
        f"{SDK}/claims.py",
        "another member's seal on a recorded picture",
        "        if another and (",
        "        if False and (",
        f"{DISHONEST}::test_a_seal_that_does_not_belong_to_the_record",
    ),
    _python(
        f"{SDK}/claims.py",
        "a record whose hashes are not those of the seal",
        "if same and mark is not None and not _agrees(chosen, mark.marked_hash, mark.cover_hash, mark.model):",
        "if False:",
        f"{DISHONEST}::test_a_seal_that_does_not_belong_to_the_record",
    ),
    _python(
        f"{SDK}/ledger_view.py",
        "the earliest anchor is not the first claim",
        "return sorted((one for one in found.values() if one is not None), key=lambda one: one.claim.block)",
        "return sorted((one for one in found.values() if one is not None), key=lambda one: -one.claim.block)",
        f"{DISHONEST}::test_a_backdated_record_is_no_earlier",
    ),
)
FEDERATION = tuple(_python(*row) for row in mutations_federation.GUARDS)
MUTANTS = (*CONTRACTS, *PYTHON, *FEDERATION)


class StaleError(Exception):
    """A guard is not where this table says."""


@dataclass(frozen=True)
class Result:
    """What became of a mutant.

    Parameters
    ----------
    guard, file : str
    killed : bool
    by : tuple of str
        Tests that failed.
    seconds : float
    """

    guard: str
    file: str
    killed: bool
    by: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """One run of some tests: whether they passed, and which failed."""

    passed: bool
    failed: tuple[str, ...]


class Copy:
    """The sources in a folder of their own.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder
        # what contracts and compilers leave is not wanted, and an installed node_modules is large
        ignore = shutil.ignore_patterns("node_modules", "__pycache__", "*.egg-info")
        for name in (*PACKAGES, "contracts", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        for name in ("pyproject.toml",):
            shutil.copy2(ROOT / name, folder / name)
        if (ROOT / "contracts" / "node_modules").is_dir():
            (folder / "contracts" / "node_modules").symlink_to(ROOT / "contracts" / "node_modules")

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """Take the guard out, and put it back."""
        file = self.root / mutant.file
        whole = file.read_text(encoding="utf-8")
        file.write_text(whole.replace(mutant.text, mutant.instead), encoding="utf-8")
        try:
            yield
        finally:
            file.write_text(whole, encoding="utf-8")

    def run(self, tests: Sequence[str], solidity: bool) -> Outcome:
        """Run some tests of one kind.

        Raises
        ------
        RuntimeError
            The tests could not be run: the mutant does not compile, or a test is not there any more.
        """
        return self._forge(tests) if solidity else self._pytest(tests)

    def _forge(self, tests: Sequence[str]) -> Outcome:
        settings = {"FOUNDRY_FUZZ_RUNS": "64", "FOUNDRY_OPTIMIZER": "false", "NO_COLOR": "1"}
        command = [str(FORGE), "test", "--match-test", f"^({'|'.join(tests)})\\("]
        files = {path.name for path in (self.root / "contracts" / "test").glob("*.t.sol") if _holds(path, tests)}
        # compiling the other tests takes most of the time
        command += [
            "--match-path",
            f"test/{{{','.join(sorted(files))}}}" if len(files) > 1 else f"test/{min(files, default='')}",
        ]
        done = self._call(command, self.root / "contracts", settings)
        failed = tuple(dict.fromkeys(re.findall(r"^\[FAIL[^\n]*\] (\w+)\(", done.stdout, re.MULTILINE)))
        ran = re.search(r"(\d+) tests? passed, (\d+) failed", done.stdout)
        if ran is None or int(ran[1]) + int(ran[2]) < len(tests):
            raise RuntimeError(f"forge did not run {', '.join(tests)}: {_last(done.stderr + done.stdout)}")
        return Outcome(not failed, failed)

    def _pytest(self, tests: Sequence[str]) -> Outcome:
        paths = os.pathsep.join(str(self.root / name) for name in PACKAGES)
        # no reports of failures: what a test has logged must not look like pytest's own words
        options = ("-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-rfE")
        command = [sys.executable, "-m", "pytest", *options, *tests]
        done = self._call(command, self.root, {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"})
        if done.returncode not in (0, 1):
            raise RuntimeError(f"pytest did not run {', '.join(tests)}: {_last(done.stdout + done.stderr)}")
        if re.search(r"^(ERROR|\d+ skipped)", done.stdout, re.MULTILINE):
            raise RuntimeError(f"pytest skipped or could not set up {', '.join(tests)}: {_last(done.stdout)}")
        failed = tuple(re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE))
        return Outcome(done.returncode == 0, failed)

    def _call(self, command: list[str], folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **settings}
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )


def check_texts(mutants: Sequence[Mutant], root: Path) -> None:
    """Whether every guard is where the table says.

    Raises
    ------
    StaleError
        Names all that are not.
    """
    wrong = []
    for mutant in mutants:
        file = root / mutant.file
        count = file.read_text(encoding="utf-8").count(mutant.text) if file.is_file() else 0
        if count != 1:
            wrong.append(f"{mutant.file}: the guard against '{mutant.guard}' is there {count} times: {mutant.text!r}")
    if wrong:
        raise StaleError("bring benchmarks/mutations.py up to date:\n" + "\n".join(wrong))


def measure(mutants: Sequence[Mutant]) -> list[Result]:
    """Run all mutants; the tests must pass without them.

    Raises
    ------
    StaleError
    RuntimeError
        Tests fail or cannot be run without any mutant.
    """
    with tempfile.TemporaryDirectory(prefix="medprov-mutations-") as folder:
        copy = Copy(Path(folder) / "copy")
        check_texts(mutants, copy.root)
        for solidity in (True, False):
            tests = sorted({test for one in mutants if one.solidity is solidity for test in one.tests})
            if tests:
                whole = copy.run(tests, solidity)
                if not whole.passed:
                    raise RuntimeError(f"without a mutant these fail already: {', '.join(whole.failed)}")
        results = []
        for mutant in mutants:
            started = time.perf_counter()
            with copy.mutated(mutant):
                outcome = copy.run(mutant.tests, mutant.solidity)
            seconds = round(time.perf_counter() - started, 1)
            results.append(Result(mutant.guard, mutant.file, not outcome.passed, outcome.failed, seconds))
            said = f"killed by {', '.join(outcome.failed)}" if not outcome.passed else "SURVIVED"
            print(f"{mutant.file}: {mutant.guard}: {said} ({seconds} s)", file=sys.stderr, flush=True)
    return results


def table(results: Sequence[Result]) -> str:
    """The results in Markdown."""
    lines = ["| guard against | where | result | test |", "|---|---|---|---|"]
    for one in results:
        tests = ", ".join(f"`{name}`" for name in one.by)
        lines.append(f"| {one.guard} | `{Path(one.file).name}` | {'killed' if one.killed else 'SURVIVED'} | {tests} |")
    return "\n".join(lines)


def _holds(file: Path, tests: Sequence[str]) -> bool:
    text = file.read_text(encoding="utf-8")
    return any(f"function {name}(" in text for name in tests)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose file or guard contains this")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    chosen = [one for one in MUTANTS if args.only in f"{one.file} {one.guard}" and (one.quick or not args.quick)]
    if not FORGE.exists():
        print("contracts/node_modules is missing: the contracts' mutants are left out; run 'npm ci'", file=sys.stderr)
        chosen = [one for one in chosen if not one.solidity]
    try:
        results = measure(chosen)
    except (StaleError, RuntimeError) as error:
        print(f"mutations: {error}", file=sys.stderr)
        return 2
    survived = [one for one in results if not one.killed]
    print(table(results))
    print(f"\n{len(results)} mutants, {len(results) - len(survived)} killed, {len(survived)} survived")
    if args.json:
        figures = {"mutants": len(results), "survived": len(survived), "results": [asdict(one) for one in results]}
        args.json.write_text(json.dumps(figures, indent=1))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
