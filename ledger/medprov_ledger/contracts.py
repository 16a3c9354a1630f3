"""The compiled contracts that this package carries, and what their refusals are called."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

NAMES = ("Federation", "ProvenanceRegistry")

_HEX = re.compile(r"0x([0-9a-fA-F]{8,})")
_LITERAL = re.compile(r"""b'(?:[^'\\\n]|\\.)*'|b"(?:[^"\\\n]|\\.)*\"""")
_STANDARD: dict[str, tuple[str, tuple[str, ...]]] = {
    "08c379a0": ("Error", ("string",)),
    "4e487b71": ("Panic", ("uint256",)),
}


@dataclass(frozen=True)
class Artifact:
    """One compiled contract.

    Parameters
    ----------
    name : str
    abi : list of dict
        Sorted by type, name and inputs.
    bytecode : bytes
        Creation code without constructor arguments.
    compiler : str
        Version that the compiler reports.
    input_hash : str
        SHA-256 (hexadecimal) of the canonical standard-JSON input.
    """

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    compiler: str
    input_hash: str


@dataclass(frozen=True)
class Refusal:
    """Why a contract refused.

    Parameters
    ----------
    name : str
        Name of the custom error; empty where the node gave none.
    text : str
        One line with the error's arguments, or what the node said.
    """

    name: str
    text: str


@cache
def artifact(name: str) -> Artifact:
    """The artifact of contract `name`, one of :data:`NAMES`."""
    text = (resources.files(__package__) / "artifacts" / f"{name}.json").read_text(encoding="utf-8")
    fields = json.loads(text)
    return Artifact(
        name=name,
        abi=fields["abi"],
        bytecode=bytes.fromhex(fields["bytecode"][2:]),
        compiler=fields["compiler"],
        input_hash=fields["inputHash"],
    )


@cache
def _errors() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Selector (8 hexadecimal digits) to name and argument types of every error our contracts can raise."""
    known: dict[str, tuple[str, tuple[str, ...]]] = dict(_STANDARD)
    for contract in NAMES:
        for entry in artifact(contract).abi:
            if entry["type"] == "error":
                types = tuple(argument["type"] for argument in entry["inputs"])
                signature = f"{entry['name']}({','.join(types)})"
                known[keccak(text=signature)[:4].hex()] = (entry["name"], types)
    return known


def explain(error: BaseException) -> Refusal:
    """Find the contract's custom error inside whatever the node or web3 raised.

    Nodes hide the return data in different places: Anvil and Geth in the error's ``data``, Ganache one level deeper,
    eth-tester as bytes among the exception's arguments.
    """
    for data in _candidates(error, depth=0):
        found = _errors().get(data[:4].hex())
        if found is not None:
            name, types = found
            try:
                values = decode(list(types), data[4:])
            except DecodingError:
                return Refusal(name, name)
            if name == "Error":
                return Refusal("", _line(str(values[0])))
            return Refusal(name, f"{name}({', '.join(_show(value) for value in values)})")
    return Refusal("", _line(str(error)) or type(error).__name__)


def _candidates(value: Any, depth: int) -> list[bytes]:
    """Everything inside `value` that could be return data."""
    if depth > 6:
        return []
    if isinstance(value, (bytes, bytearray)):
        return [bytes(value)]
    if isinstance(value, str):
        found = [bytes.fromhex(digits[: len(digits) // 2 * 2]) for digits in _HEX.findall(value)]
        # eth-tester writes the return data of a call into its message as a Python literal
        return found + [_bytes_literal(literal) for literal in _LITERAL.findall(value)]
    parts: list[Any]
    if isinstance(value, BaseException):
        parts = [getattr(value, "data", None), getattr(value, "rpc_response", None), *value.args]
        parts += [value.__cause__, value.__context__]
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        return []
    return [data for part in parts for data in _candidates(part, depth + 1)]


def _bytes_literal(literal: str) -> bytes:
    try:
        return bytes(ast.literal_eval(literal))
    except (ValueError, SyntaxError, TypeError):
        return b""


def _show(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _line(text: str, limit: int = 300) -> str:
    return " ".join(text.split())[:limit]
