"""The committed artifacts are what the committed sources give."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from eth_utils.crypto import keccak

from medprov_ledger import contracts, eip712

CONTRACTS = Path(__file__).resolve().parents[3] / "contracts"
NO_COMPILER = shutil.which("node") is None or not (CONTRACTS / "node_modules" / "solc").is_dir()


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contracts_build", CONTRACTS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(NO_COMPILER, reason="needs Node and 'npm ci' in contracts/")
def test_recompiled_artifacts_are_the_committed_ones(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = build.compile_contracts()
    assert build.differences(compiled) == []
    for name in compiled:
        (tmp_path / f"{name}.json").write_text(build.text_of(compiled[name] | {"bytecode": "0x00"}))
    monkeypatch.setattr(build, "ARTIFACTS", tmp_path)
    assert build.differences(compiled) == ["Federation.json", "ProvenanceRegistry.json"], "a difference must be seen"


@pytest.mark.skipif(NO_COMPILER, reason="needs Node and 'npm ci' in contracts/")
def test_wrapper_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([CONTRACTS / "solc-wrapper.js", "--gas"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not --gas" in done.stderr


@pytest.mark.parametrize("name", contracts.NAMES)
def test_nothing_machine_dependent_in_the_bytecode(name: str, build: Any) -> None:
    fields = json.loads((build.ARTIFACTS / f"{name}.json").read_text())
    assert fields["compiler"].startswith(build.SOLC_VERSION + "+commit.")
    assert fields["evmVersion"] == "shanghai"
    # the CBOR trailer would begin with these names
    assert b"ipfs" not in bytes.fromhex(fields["bytecode"][2:])
    assert b"solc" not in bytes.fromhex(fields["bytecode"][2:])
    assert len(bytes.fromhex(fields["bytecode"][2:])) < 24_576, "EIP-170"


def test_the_abi_is_sorted(build: Any) -> None:
    for name in contracts.NAMES:
        abi = contracts.artifact(name).abi
        assert abi == sorted(abi, key=build._abi_key)


def test_solidity_and_python_hash_the_same_record_type() -> None:
    source = (CONTRACTS / "src" / "ProvenanceRegistry.sol").read_text()
    parts = re.search(r"RECORD_TYPEHASH = keccak256\(([^)]*\)[^)]*)\);", source)
    assert parts is not None
    assert "".join(re.findall(r'"([^"]*)"', parts[1])) == eip712.RECORD_TYPE
    assert keccak(text=eip712.RECORD_TYPE) in contracts.artifact("ProvenanceRegistry").bytecode


def test_everything_external_is_documented() -> None:
    for file in sorted((CONTRACTS / "src" / "interfaces").glob("*.sol")):
        lines = file.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"    (function|event|error|struct|enum) ", line):
                assert lines[number - 1].lstrip().startswith("///"), f"{file.name}:{number + 1}: {line.strip()}"


def test_the_lock_names_no_host_and_exact_versions() -> None:
    lock = json.loads((CONTRACTS / "package-lock.json").read_text())
    package = json.loads((CONTRACTS / "package.json").read_text())
    wanted = package["dependencies"] | package["devDependencies"]
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), f"{name} must be pinned"
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry, name
        other_platform = entry.get("optional") and name.startswith("node_modules/@foundry-rs/anvil-")
        assert name == "" or "integrity" in entry or entry.get("inBundle") or other_platform, name


def test_the_lock_knows_every_platform() -> None:
    """Without an entry for each, `npm ci` refuses the whole lock."""
    packages = json.loads((CONTRACTS / "package-lock.json").read_text())["packages"]
    for name, version in packages["node_modules/@foundry-rs/anvil"]["optionalDependencies"].items():
        assert packages[f"node_modules/{name}"]["version"] == version
