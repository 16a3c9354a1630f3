"""Durable writes: after a crash a file is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(file: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to a temporary file beside `file`, fsync it, rename it, fsync the folder.

    Raises
    ------
    OSError
    """
    replace(file, data, mode)
    sync_folder(file.parent)


def replace(file: Path, data: bytes, mode: int = 0o644) -> None:
    """As :func:`write`, but the rename is durable only after the caller's :func:`sync_folder`.

    Raises
    ------
    OSError
    """
    temporary = file.parent / f".{file.name}.{secrets.token_hex(6)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` durable."""
    if os.name != "posix":
        return  # other systems cannot open a folder; they order the rename themselves
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
