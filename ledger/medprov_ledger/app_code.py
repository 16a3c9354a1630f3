"""What code trains here: one digest over the package that the coordinator and the sites have in common.

It is part of the app bundle, so that releasing a bundle releases exactly this code, and a site with other code notices.
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from .cid import RAW, Cid

PACKAGE = "medprov_watermark"
"""Networks, losses, tasks and wire format of training; what only one side has is stated by the bundle's version."""


@cache
def digest(package: str = PACKAGE) -> str:
    """SHA-256 over names and contents of all Python files of the package, hexadecimal; nothing of it is imported.

    Line ends are taken as LF, because a checkout on another system may have others.
    """
    total = hashlib.sha256()
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        home = Path(found.origin).parent
        for file in sorted(home.rglob("*.py"), key=lambda file: file.relative_to(home).as_posix()):
            content = hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
            total.update(f"{file.relative_to(home).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def bundle_cid(bundle_hash: bytes) -> str:
    """Where a bundle of this SHA-256 is in the store: it is small, so its CID is that of one raw block."""
    return str(Cid(RAW, bundle_hash))
