"""Files are opened, and nothing that only has a file's name."""

import os
from pathlib import Path

import pytest

from medprov_coordinator.watch.regular_file import open_regular


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\ntwo")
    with open_regular(tmp_path / "a") as stream:
        assert list(stream) == [b"one\n", b"two"]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path / "pipe", "no regular file"), (tmp_path, "directory"), (Path("/dev/null"), "regular")):
        with pytest.raises(OSError, match=why):
            open_regular(path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
