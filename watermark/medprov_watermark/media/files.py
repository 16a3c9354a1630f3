"""Bytes in and out of the file system, and the limits that every format shares."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from medprov_watermark.errors import MediaError

MAX_BYTES = 2**30
"""Largest file that is read."""
MAX_PIXELS = 2**27
"""Largest number of pixels, checked against the header before anything is decoded."""
MIN_SIDE = 16
"""Smallest height and width: below this there is no room for a mark."""


class TooManyPixelsError(MediaError):
    """The picture has more pixels than the caller takes."""


def check_size(height: int, width: int, most: int) -> None:
    """Refuse a picture that is too small or too large, before it is decoded.

    Parameters
    ----------
    height, width : int
    most : int
        Largest number of pixels.

    Raises
    ------
    MediaError
        TooManyPixelsError where it is too large.
    """
    if min(height, width) < MIN_SIDE:
        raise MediaError(f"{width} x {height} pixels is too small; both sides must be at least {MIN_SIDE}")
    if height * width > most:
        raise TooManyPixelsError(
            f"{width} x {height} pixels is more than the limit of {most} pixels; cut it into smaller pictures"
        )


def load(path: Path) -> bytes:
    """Read a regular file whole.

    Raises
    ------
    MediaError
        When it is not there, not a regular file, empty, unreadable or larger than ``MAX_BYTES``.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe or a device would block or never end.
            raise MediaError("it is not a regular file; give the path of a picture")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise MediaError(f"it cannot be read ({_reason(error)}); check the path and its permissions") from error
    if not data:
        raise MediaError("the file is empty; get it again from where it came")
    if len(data) > MAX_BYTES:
        raise MediaError(f"the file is larger than the limit of {MAX_BYTES} bytes; cut the picture into smaller ones")
    return data


def store(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file so that it is either there whole or not there at all.

    The bytes go into a temporary file in the same folder, are forced to the disk, and then get their name in one step.
    Without ``overwrite`` that step is a hard link, which fails when the name is taken, even if only a moment ago.

    Raises
    ------
    MediaError
        When the file exists and ``overwrite`` is false, or the folder is missing or cannot be written.
    """
    try:
        check_vacant(path, overwrite)
        temporary = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}.part"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _name_new(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise MediaError(_EXISTS) from error
    except (OSError, ValueError) as error:
        raise MediaError(f"it cannot be written ({_reason(error)}); check the folder and its permissions") from error


def check_vacant(path: Path, overwrite: bool) -> None:
    """Refuse a name that is taken.

    Raises
    ------
    MediaError
    """
    if not overwrite and os.path.lexists(path):
        raise MediaError(_EXISTS)


_EXISTS = "the file exists already; choose another name or remove it"


def _name_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network shares): take the name with an empty file, then replace that.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    # Makes the new name last through a power cut. Not every system lets a folder be opened; the file is whole anyway.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def first_line(error: Exception) -> str:
    """What a library says about its error, cut to one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
