from __future__ import annotations

from pathlib import Path

import pytest

from medprov_watermark.carriers import MIN_KEY
from medprov_watermark.errors import WatermarkError
from medprov_watermark.key_file import LARGEST, read_key


@pytest.mark.parametrize("key", [bytes(range(MIN_KEY)), b"passphrase of a consortium\r\n\n", bytes(LARGEST)])
def test_a_key_is_every_byte_of_its_file(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "a.key").write_bytes(key)
    assert read_key(tmp_path / "a.key") == read_key(str(tmp_path / "a.key")) == key


BAD = {
    "none.key": (None, "no such key file"),
    "empty.key": (b"", "0 bytes are too few"),
    "short.key": (b"secret-secret-1", f"15 bytes are too few for a key, which has at least {MIN_KEY}"),
    "long.key": (bytes(LARGEST + 1), "no key; is it another file"),
    "zero\0byte": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_key_is_named_and_never_shown(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WatermarkError, match=reason) as error:
        read_key(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
    assert "secret" not in str(error.value) and error.value.__cause__ is None


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(WatermarkError, match="cannot be read"):
        read_key(tmp_path)


def test_what_never_ends_is_not_read_to_its_end() -> None:
    if Path("/dev/zero").exists():
        with pytest.raises(WatermarkError, match="is it another file"):
            read_key("/dev/zero")
