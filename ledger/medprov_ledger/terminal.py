"""What the commands of all packages say on standard output and standard error, and what happens where these fail.

Standard library only: this is imported before anything that takes long.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from .errors import StandardOutputError


def prepare() -> None:
    """Let both streams take every text: what their encoding lacks, and names that are not UTF-8, come as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; a help text that nobody can take is an error like any other.

    Raises
    ------
    StandardOutputError
    SystemExit
        As from ``parse_args``.
    """
    try:
        return parser.parse_args(arguments)
    except SystemExit:
        with _checked(""):
            sys.stdout.flush()
        raise


def say(text: str, done: str = "") -> None:
    """Write lines to standard output, at once.

    Parameters
    ----------
    text : str
    done : str
        What the command has done all the same, for the error.

    Raises
    ------
    StandardOutputError
        The reader has gone, the disk is full, or the stream is closed.
    """
    with _checked(done):
        print(text, flush=True)


def complain(text: str) -> None:
    """Write one line to standard error; where that fails as well, the exit status has to do."""
    try:
        # clears what a progress has left on the line
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(start + " ".join(text.splitlines()), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up(sys.stderr)


@contextlib.contextmanager
def _checked(done: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        _give_up(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        but = f", but {done}" if done else ""
        raise StandardOutputError(f"standard output: cannot be written ({reason}){but}; send it elsewhere") from None


def _give_up(stream: TextIO) -> None:
    """Python flushes the stream once more at its end, and would print a traceback about it."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
