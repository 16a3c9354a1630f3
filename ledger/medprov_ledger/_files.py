"""Durable writes: after a crash a file is there whole or not at all. And bounded reads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import RecordError

Parsed = TypeVar("Parsed")


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


def parsed(path: Path, limit: int, parse: Callable[[bytes], Parsed], advice: str) -> Parsed:
    """What a file of one of this package's formats holds.

    Parameters
    ----------
    path : Path
    limit : int
        Bytes; of a larger file one more is handed on, for `parse` to refuse.
    parse : callable
        Decodes the format.
    advice : str
        What to do where the file cannot be read.

    Raises
    ------
    RecordError
        Names the file.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    try:
        return parse(data)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` durable."""
    if os.name != "posix":
        return  # other systems cannot open a folder; they order the rename themselves
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
