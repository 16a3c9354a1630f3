"""Keeps a whole copy of Anvil's state beside it.

Anvil writes its state over the old one, once a second: killed in the middle of that, it leaves half a file. This small
process copies every state that is complete, by renaming, and ends with Anvil. :func:`medprov_ledger.embedded.start`
takes the copy where the state itself is damaged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from ._process import identity

PAUSE = 0.2


def copy_of(state: Path) -> Path:
    """Where the copy of a state file is."""
    return state.with_name(state.name + ".copy")


def is_whole(content: bytes) -> bool:
    """Whether this is a state and not a part of one."""
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def read(file: Path) -> bytes | None:
    """The file's bytes if it is there and whole."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return content if is_whole(content) else None


def replace(file: Path, content: bytes) -> None:
    """Write a file so that it is the old one or the new one at any time."""
    temporary = file.with_name(file.name + ".new")
    with temporary.open("wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(file)


def keep(state: Path, pid: int, started: str) -> None:
    """Copy until the process `pid`, known by :func:`._process.identity`, is gone."""
    written = 0
    while identity(pid) == started:
        try:
            now = state.stat().st_mtime_ns
        except OSError:
            now = 0
        if now not in (0, written):
            content = read(state)
            if content is not None:
                try:
                    # also where nothing has changed: the time of the copy says up to when it is whole
                    replace(copy_of(state), content)
                    written = now
                except OSError as error:
                    print(f"{copy_of(state)}: {error.strerror}", file=sys.stderr, flush=True)
        time.sleep(PAUSE)


def main() -> None:
    """Command line, for :mod:`medprov_ledger.embedded` only."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--started", required=True)
    options = parser.parse_args()
    keep(options.state, options.pid, options.started)


if __name__ == "__main__":
    main()
