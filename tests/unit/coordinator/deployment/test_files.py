import stat
from pathlib import Path

import pytest

from medprov_coordinator.deployment import files


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    (tmp_path / ".secret.new").write_text("left by a crash")
    files.write(file, b"one", 0o600)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"one", 0o600)
    files.write(file, b"two", 0o644)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"two", 0o644)
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    files.write(file, b"one")
    with pytest.raises(TypeError):
        files.write(file, "text")  # type: ignore[arg-type]
    assert file.read_bytes() == b"one"
