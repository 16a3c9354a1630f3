#!/usr/bin/env python3
"""Compile the contracts with py-solc-x and write the artifacts that medprov_ledger carries.

``python build.py`` writes them, ``python build.py --check`` only compares and exits with 1 where they differ.
Needs Node, ``npm ci`` in this folder, and py-solc-x. The same sources give the same bytes on every machine: the
compiler is pinned, metadata is left out of the bytecode, and the ABI is sorted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ARTIFACTS = FOLDER.parent / "ledger" / "medprov_ledger" / "artifacts"
CONTRACTS = {"Federation": "src/Federation.sol", "ProvenanceRegistry": "src/ProvenanceRegistry.sol"}
SOLC_VERSION = "0.8.37"
SETTINGS = {
    # Ganache 7.9.2 ends with shanghai; later versions of the EVM give code that it deploys but cannot run
    "evmVersion": "shanghai",
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object"]}},
}
_IMPORT = re.compile(r'^import\s[^;]*?"([^"]+)"\s*;', re.MULTILINE | re.DOTALL)


def standard_input() -> dict[str, Any]:
    """The compiler's standard-JSON input, with the text of every source that ours import."""
    sources: dict[str, dict[str, str]] = {}
    waiting = sorted(CONTRACTS.values())
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        folder = FOLDER / "node_modules" if name.startswith("@") else FOLDER
        text = (folder / name).read_text(encoding="utf-8")
        sources[name] = {"content": text}
        for target in _IMPORT.findall(text):
            waiting.append(
                posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if target[0] == "." else target
            )
    return {"language": "Solidity", "sources": dict(sorted(sources.items())), "settings": SETTINGS}


def compile_contracts() -> dict[str, dict[str, Any]]:
    """Compile; gives each contract's artifact by name.

    Raises
    ------
    solcx.exceptions.SolcError
        The compiler refuses the sources.
    FileNotFoundError
        A source is missing; run ``npm ci`` first.
    """
    import solcx
    from solcx.wrapper import get_version_str_from_solc_binary

    given = standard_input()
    canonical = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    wrapper = FOLDER / "solc-wrapper.js"
    with tempfile.TemporaryDirectory() as folder:
        # py-solc-x looks for programs of this name in this folder
        (Path(folder) / f"solc-v{SOLC_VERSION}").symlink_to(wrapper)
        before = os.environ.get("SOLCX_BINARY_PATH")
        os.environ["SOLCX_BINARY_PATH"] = folder
        try:
            output = solcx.compile_standard(given, solc_version=SOLC_VERSION)
        finally:
            if before is None:
                del os.environ["SOLCX_BINARY_PATH"]
            else:
                os.environ["SOLCX_BINARY_PATH"] = before
    for message in output.get("errors", []):
        # what the compiler thinks of OpenZeppelin's files is not ours to change
        if not message.get("sourceLocation", {}).get("file", "").startswith("@"):
            print(message["formattedMessage"], file=sys.stderr)
    version = get_version_str_from_solc_binary(wrapper)
    return {
        name: {
            "contractName": name,
            "source": source,
            "compiler": version,
            "evmVersion": SETTINGS["evmVersion"],
            "inputHash": hashlib.sha256(canonical).hexdigest(),
            "abi": sorted(output["contracts"][source][name]["abi"], key=_abi_key),
            "bytecode": "0x" + output["contracts"][source][name]["evm"]["bytecode"]["object"],
        }
        for name, source in CONTRACTS.items()
    }


def text_of(artifact: dict[str, Any]) -> str:
    """An artifact as it stands in its file."""
    return json.dumps(artifact, indent=1, sort_keys=True) + "\n"


def differences(compiled: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the artifact files that are missing or not what the sources give."""
    wrong = []
    for name, artifact in compiled.items():
        file = ARTIFACTS / f"{name}.json"
        if not file.is_file() or file.read_text(encoding="utf-8") != text_of(artifact):
            wrong.append(file.name)
    return wrong


def _abi_key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["type"], entry.get("name", ""), json.dumps(entry.get("inputs", []), sort_keys=True)


def main() -> int:
    """Command line; the exit status is 0 where all is well."""
    parser = argparse.ArgumentParser(description="Compile the contracts into the ledger package.")
    parser.add_argument("--check", action="store_true", help="compare with the committed artifacts, write nothing")
    arguments = parser.parse_args()
    if not (FOLDER / "node_modules" / "solc").is_dir():
        print(f"{FOLDER}: node_modules is missing; run 'npm ci' there first", file=sys.stderr)
        return 2
    compiled = compile_contracts()
    wrong = differences(compiled)
    if arguments.check:
        for name in wrong:
            print(f"{ARTIFACTS / name}: is not what the sources give; run 'python build.py'", file=sys.stderr)
        return 1 if wrong else 0
    ARTIFACTS.mkdir(exist_ok=True)
    for name, artifact in compiled.items():
        (ARTIFACTS / f"{name}.json").write_text(text_of(artifact), encoding="utf-8")
        print(f"{name}: {len(artifact['bytecode']) // 2 - 1} bytes of creation code")
    return 0


if __name__ == "__main__":
    sys.exit(main())
