"""Files that are there whole or not at all, and that others may or may not read."""

from __future__ import annotations

import os
from pathlib import Path


def write(file: Path, data: bytes, mode: int = 0o644) -> None:
    """Write, fsync and rename.

    Raises
    ------
    OSError
    """
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
