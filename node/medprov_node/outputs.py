"""Inputs and outputs of a command, checked before any work is done."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medprov_node.errors import MarkError, OutputError
from medprov_watermark import media
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import MIN_SIDE

Job = tuple[Path, Path]
"""Input and output."""

_LOSSLESS = (".png", ".tif", ".tiff")
_DICOM = (".dcm", ".dicom")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".gif")


def folder_jobs(source: Path, target: Path) -> list[Job]:
    """One job for each file of a folder and its subfolders, hidden ones left out; the output has the same name.

    A picture that cannot be written in its own format (JPEG) becomes a PNG.

    Raises
    ------
    MarkError
        No file in the folder, or it cannot be listed.
    OutputError
        The output is no folder, or lies in the input folder.
    """
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target}: it is a file, but {source} is a folder; name a folder for the marked pictures")
    if target.resolve() == source.resolve() or source.resolve() in target.resolve().parents:
        raise OutputError(f"{target}: lies in the folder of the pictures; name another one")
    try:
        files = sorted(path for path in source.rglob("*") if path.is_file())
    except OSError as error:
        raise MarkError(f"{source}: cannot be listed ({error.strerror}); check its permissions") from None
    names = [file.relative_to(source) for file in files]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise MarkError(f"{source}: holds no file; name a folder with pictures")
    return [(source / name, target / _lossless(name)) for name in names]


def check(jobs: Sequence[Job], *, make_folders: bool = False, smallest: int = MIN_SIDE) -> None:
    """Read every input and see that every output can be written; changes nothing.

    Parameters
    ----------
    jobs : sequence of (Path, Path)
    make_folders : bool
        Folders of outputs may be missing, because the caller makes them.
    smallest : int
        Least height and width of a picture.

    Raises
    ------
    MediaError
        An input is not a picture.
    MarkError
        A picture is too small.
    OutputError
    """
    seen: dict[Path, Path] = {}
    folders: set[Path] = set()
    for source, target in jobs:
        place = Path(os.path.abspath(target))
        if place in seen:
            raise OutputError(f"{target}: both {seen[place]} and {source} would be written there; rename one of them")
        seen[place] = source
        _check_vacant(target)
        _check_lossless(target)
        if target.parent not in folders:
            _check_folder(target.parent, make_folders)
            folders.add(target.parent)
    for source, target in jobs:
        pixels = media.read(source)
        height, width = pixels.array.shape[:2]
        if min(height, width) < smallest:
            raise MarkError(f"{source}: {width} x {height} pixels is too small to mark; both sides need {smallest}")
        _check_suffix(target, pixels)


def _lossless(name: Path) -> Path:
    return name.with_suffix(".png") if name.suffix.lower() in _LOSSY else name


def _check_vacant(target: Path) -> None:
    try:
        mode = os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(target)[:200]!r}: cannot be used as a file name ({reason}); choose another") from None
    if stat.S_ISDIR(mode):
        raise OutputError(f"{target}: it is a folder; name a file in it")
    raise OutputError(f"{target}: the file exists already; choose another name or remove it")


def _check_lossless(target: Path) -> None:
    if target.suffix.lower() in _LOSSY:
        raise OutputError(
            f"{target}: {target.suffix} is not written, because lossy coding breaks the mark; use .png or .tif"
        )


def _check_suffix(target: Path, like: Pixels) -> None:
    suffix = target.suffix.lower()
    if suffix in _LOSSLESS or like.media_type == "application/dicom":
        return
    if suffix in _DICOM:
        raise OutputError(
            f"{target}: only a picture that was read from DICOM can be written as DICOM; use .png or .tif"
        )
    raise OutputError(f"{target}: the suffix {suffix or '(none)'} names no known format; use .png or .tif")


def _check_folder(folder: Path, may_be_missing: bool) -> None:
    place = folder
    while may_be_missing and not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{folder}: no such folder; make it or choose another place")
    try:
        # asking for permissions would not notice a read-only file system
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OutputError(f"{place}: cannot be written to ({error.strerror}); choose another place") from None
