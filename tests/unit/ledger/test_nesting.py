"""JSON of others: how deep it may be, whatever stands in its strings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import nesting


def test_depth_is_counted_and_the_deepest_is_let_through() -> None:
    assert nesting.decode(b'{"a": [1, [2]]}', 3) == {"a": [1, [2]]}
    with pytest.raises(ValueError, match="nested deeper than 2 levels"):
        nesting.decode(b'{"a": [1, [2]]}', 2)
    with pytest.raises(ValueError, match="nested deeper than 32 levels"):
        nesting.decode(b"[" * 1_000_000, 32)


@pytest.mark.parametrize("data", [b"", b"{", b"[1,]", b"\xff", b"]["])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError):
        nesting.decode(data, 32)


@given(st.text())
def test_brackets_in_strings_do_not_count(text: str) -> None:
    value = [text + '[[[{"\\', {text: 1}]
    assert nesting.decode(json.dumps(value).encode(), 2) == value
