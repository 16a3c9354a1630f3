"""Is the code at an address what this release compiled?

Creation code ends with the contract's own code, in which the compiler has left 32 zero bytes after a PUSH32 wherever an
immutable value is written at deployment. All other bytes must be the same; what the immutables say is asked of the
contract itself (:class:`medprov_ledger.chain.Chain`).
"""

from __future__ import annotations

import re

_IMMUTABLE = re.compile(b"\x7f(\0{32})")


def is_compiled_from(code: bytes, creation: bytes) -> bool:
    """Whether a contract's code came from this creation code.

    Parameters
    ----------
    code : bytes
        What the chain has at the address.
    creation : bytes
        Without constructor arguments; compiled without metadata at its end.
    """
    start = len(creation) - len(code)
    if not code or start <= 0:
        return False
    expected, found = creation[start:], bytearray(code)
    for place in _IMMUTABLE.finditer(expected):
        found[place.start(1) : place.end(1)] = bytes(32)
    return bytes(found) == expected
