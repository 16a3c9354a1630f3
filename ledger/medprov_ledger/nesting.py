"""A look at JSON before it is decoded: Python's decoder is stopped by nothing but the recursion limit."""

from __future__ import annotations

import json
import re
from typing import Any

_STRING = re.compile(rb'"(?:[^"\\]+|\\.?)*+(?:"|\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check(data: bytes, deepest: int) -> None:
    """Refuse JSON whose lists and objects are nested deeper than `deepest`.

    Libraries raise the recursion limit (py-evm and py_ecc do) beyond what the C stack holds: without this check a few
    hundred kilobytes of brackets end the process.

    Raises
    ------
    ValueError
    """
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > deepest:
            raise ValueError(f"nested deeper than {deepest} levels")


def decode(data: bytes, deepest: int) -> Any:
    """The value of JSON that is nested no deeper than `deepest`.

    Raises
    ------
    ValueError
        Deeper, or no JSON.
    """
    check(data, deepest)
    return json.loads(data)
