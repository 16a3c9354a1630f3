"""medprov_ledger.contracts"""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger.contracts import NAMES, artifact, explain

MEMBER = "0x" + "ab" * 20
DATA = keccak(text="NotMember(address)")[:4] + encode(["address"], [MEMBER])


class NodeError(Exception):
    """Stands for any library's error class."""

    def __init__(self, *args: object, data: object = None) -> None:
        super().__init__(*args)
        self.data = data


@pytest.mark.parametrize("name", NAMES)
def test_artifacts_are_complete(name: str) -> None:
    found = artifact(name)
    assert len(found.bytecode) > 1000
    assert len(found.input_hash) == 64
    assert found.compiler.startswith("0.8.")
    assert {entry["type"] for entry in found.abi} == {"constructor", "error", "event", "function"}


@pytest.mark.parametrize(
    "error",
    [
        NodeError("execution reverted", data="0x" + DATA.hex()),
        NodeError("execution reverted", data={"0xhash": {"error": "revert", "return": "0x" + DATA.hex()}}),
        NodeError({"code": 3, "message": "revert", "data": {"result": "0x" + DATA.hex()}}),
        NodeError(DATA),
        NodeError(f"execution reverted: {DATA!r}"),
        NodeError(f"reverted with 0x{DATA.hex()} in block 3"),
    ],
    ids=["data", "ganache", "response", "bytes", "literal", "text"],
)
def test_custom_error_is_found(error: Exception) -> None:
    refusal = explain(error)
    assert refusal.name == "NotMember"
    assert refusal.text == f"NotMember({MEMBER})"


def test_cause_is_looked_into() -> None:
    try:
        try:
            raise NodeError(DATA)
        except NodeError as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        assert explain(outer).name == "NotMember"


def test_bytes32_arguments_are_shown() -> None:
    data = keccak(text="AlreadyReleased(bytes32)")[:4] + b"\x01" * 32
    assert explain(NodeError(data)).text == "AlreadyReleased(0x" + "01" * 32 + ")"


def test_require_with_a_text_has_no_name() -> None:
    data = keccak(text="Error(string)")[:4] + encode(["string"], ["too\nlate"])
    refusal = explain(NodeError(data))
    assert (refusal.name, refusal.text) == ("", "too late")


def test_truncated_arguments_keep_the_name() -> None:
    assert explain(NodeError(DATA[:10])).text == "NotMember"


@pytest.mark.parametrize("message", ["", "b'\\x", "b'\\xzz'", "b'" + "\\" * 99, "0x" + "f" * 100_001, "0xa645a4e"])
def test_hostile_messages(message: str) -> None:
    refusal = explain(NodeError(message))
    assert refusal.name == ""
    assert 0 < len(refusal.text) <= 300
    assert "\n" not in refusal.text


def test_deep_nesting_ends() -> None:
    nested: list[object] = [DATA]
    for _ in range(5000):
        nested = [nested]
    assert explain(NodeError(nested, data=nested)).name == ""


@given(
    st.recursive(
        st.text() | st.binary() | st.none() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_anything_gives_one_line(value: object) -> None:
    assert "\n" not in explain(NodeError(value)).text
