"""Inputs and outputs of a command, checked before any work is done."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from medprov_node.errors import MarkError, NodeError, OutputError
from medprov_watermark import media
from medprov_watermark.errors import MediaError, NoPixelsError, UnknownFormatError
from medprov_watermark.hashing import content_hash
from medprov_watermark.pixels import Pixels
from medprov_watermark.watermarker import MIN_SIDE

Job = tuple[Path, Path]
"""Input and output."""

_LOSSLESS = (".png", ".tif", ".tiff")
_DICOM = (".dcm", ".dicom")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".gif")
_PICTURES = (*_LOSSLESS, *_DICOM, *_LOSSY, ".bmp", ".heic", ".ima")
"""Suffixes of files that nobody would want to be left out."""
NAMED = 5
"""Most files or errors that one message names."""


def folder_jobs(source: Path, target: Path) -> tuple[list[Job], list[Path]]:
    """One job for each picture of a folder and its subfolders; the output has the same name.

    A picture that cannot be written in its own format (JPEG) becomes a PNG. Hidden files are passed by. What lies
    beside pictures on a medium is left out: a DICOMDIR, reports, texts, programs. What ought to be a picture, by its
    content or by its suffix, is a job, for :func:`check` to refuse.

    Returns
    -------
    jobs : list of (Path, Path)
    left_out : list of Path
        Relative to `source`.

    Raises
    ------
    MarkError
        No picture in the folder, or it cannot be listed.
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
    left_out = [name for name in names if not _is_meant(source / name)]
    if len(left_out) == len(names):
        raise MarkError(f"{source}: holds no picture, only {named(left_out)}; name a folder with pictures")
    return [(source / name, target / _lossless(name)) for name in names if name not in left_out], left_out


def named(files: Sequence[Path]) -> str:
    """Some files, for a message of one line."""
    return _some([str(file) for file in files], ", ")


def check(
    jobs: Sequence[Job], *, make_folders: bool = False, smallest: int = MIN_SIDE, written: Collection[bytes] = ()
) -> None:
    """Read every input and see that every output can be written; changes nothing.

    Parameters
    ----------
    jobs : sequence of (Path, Path)
    make_folders : bool
        Folders of outputs may be missing, because the caller makes them.
    smallest : int
        Least height and width of a picture.
    written : collection of bytes
        Content hashes of pictures that an interrupted call may have written already.

    Raises
    ------
    MediaError
        An input is not a picture.
    MarkError
        A picture is too small, or there are several errors: then it names the first.
    OutputError
    """
    sources: dict[Path, Path] = {}
    folders: set[Path] = set()

    def check_target(source: Path, target: Path) -> None:
        place = Path(os.path.abspath(target))
        if place in sources:
            raise OutputError(
                f"{target}: both {sources[place]} and {source} would be written there; rename one of them"
            )
        sources[place] = source
        check_vacant(target, written)
        _check_lossless(target)
        if target.parent not in folders:
            folders.add(target.parent)
            _check_folder(target.parent, make_folders)

    def check_source(source: Path, target: Path) -> None:
        pixels = media.read(source)
        height, width = pixels.array.shape[:2]
        if min(height, width) < smallest:
            raise MarkError(f"{source}: {width} x {height} pixels is too small to mark; both sides need {smallest}")
        _check_suffix(target, pixels)

    for one in (check_target, check_source):
        _check_all(jobs, one)


def holds(target: Path, hashes: Collection[bytes]) -> bool:
    """Whether `target` is a file whose picture has one of these content hashes."""
    try:
        return stat.S_ISREG(os.lstat(target).st_mode) and content_hash(media.read(target).array) in hashes
    except (OSError, ValueError, MediaError):
        return False


def check_vacant(target: Path, written: Collection[bytes] = ()) -> None:
    """Refuse a name that is taken, unless by a picture with one of these content hashes.

    Raises
    ------
    OutputError
    """
    try:
        mode = os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(target)[:200]!r}: cannot be used as a file name ({reason}); choose another") from None
    if stat.S_ISDIR(mode):
        raise OutputError(f"{target}: it is a folder; name a file in it")
    if not (written and holds(target, written)):
        raise OutputError(f"{target}: the file exists already; choose another name or remove it")


def make_folder(folder: Path) -> None:
    """Make the folder of an output; it may be there.

    Raises
    ------
    MarkError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MarkError(f"{folder}: cannot be made ({error.strerror}); choose another place") from None


def _is_meant(file: Path) -> bool:
    """Whether a file is a picture, or ought to be one."""
    try:
        media.read(file)
    except NoPixelsError:
        return False
    except UnknownFormatError:
        return file.suffix.lower() in _PICTURES
    except MediaError:
        return file.suffix.lower() in _PICTURES or not _is_empty(file)
    return True


def _is_empty(file: Path) -> bool:
    return file.stat().st_size == 0


def _check_all(jobs: Sequence[Job], one: Callable[[Path, Path], None]) -> None:
    """Check every job before any is refused: who has a thousand pictures wants to mend them all at once."""
    found: list[NodeError | MediaError] = []
    for source, target in jobs:
        try:
            one(source, target)
        except (NodeError, MediaError) as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        numbered = [f"({number}) {error}" for number, error in enumerate(found, 1)]
        raise MarkError(f"{len(found)} of {len(jobs)} pictures cannot be taken: {_some(numbered, '; ')}")


def _some(texts: Sequence[str], between: str) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return between.join(texts[:NAMED]) + more


def _lossless(name: Path) -> Path:
    return name.with_suffix(".png") if name.suffix.lower() in _LOSSY else name


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
