"""medprov_node.config_file"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_node import config_file
from medprov_node.errors import ConfigFileError

TEXT = """# ours
[federation]
id = "0x01" # a comment

[directory]   # members only
discoverable = true
key = "old"
former = [
  "older",  # 2025
  "oldest",
]
[hospitals.a]
keystore = 'k.json'
[hospitals.a.more]
key = "other"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "medprov.toml"
    made.write_text(TEXT)
    made.chmod(0o640)
    return made


def test_values_are_replaced_and_added_and_all_else_stays(file: Path) -> None:
    config_file.change(file, ("directory",), {"key": "new", "former": ["old", "older"], "news": 'a"b\\'})
    text = file.read_text()
    found, before = tomllib.loads(text), tomllib.loads(TEXT)
    assert found == before | {
        "directory": {"discoverable": True, "key": "new", "former": ["old", "older"], "news": 'a"b\\'}
    }
    for kept in ("# ours", '"0x01" # a comment', "[directory]   # members only", 'key = "other"'):
        assert kept in text
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["medprov.toml"]


def test_a_table_that_is_not_there_is_added(file: Path) -> None:
    file.write_text("[federation]\nid = 'x'")
    config_file.change(file, ("directory",), {"key": "new"})
    assert tomllib.loads(file.read_text()) == {"federation": {"id": "x"}, "directory": {"key": "new"}}


def test_a_link_stays_a_link(file: Path) -> None:
    link = file.with_name("link.toml")
    link.symlink_to(file)
    config_file.change(link, ("directory",), {"key": "new"})
    assert link.is_symlink() and 'key = "new"' in file.read_text()


def test_a_byte_order_mark_stays(file: Path) -> None:
    file.write_text("\ufeff[directory]\nkey = 'x'\n", encoding="utf-8")
    config_file.change(file, ("directory",), {"key": "new"})
    assert file.read_text(encoding="utf-8") == '\ufeff[directory]\nkey = "new"\n'


STRANGE = {
    "inline": 'directory = { key = "old" }\n',
    "dotted": 'directory.key = "old"\n',
    "no TOML": "[directory\n",
    "not a table": 'directory = "x"\n',
    "in a text": 'note = """\n[directory]\nkey = "x"\n"""\n[directory]\nkey = "old"\n',
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("secret", [False, True])
def test_what_is_not_understood_is_left_alone(file: Path, name: str, secret: bool) -> None:
    file.write_text(STRANGE[name])
    with pytest.raises(ConfigFileError, match=r"medprov\.toml: .*\[directory\].*does not change") as told:
        config_file.change(file, ("directory",), {"key": "new"}, secret=secret)
    assert file.read_text() == STRANGE[name]
    assert ('key = "new"' in str(told.value)) is not secret


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match="cannot be changed"):
        config_file.change(tmp_path / "none.toml", ("directory",), {"key": "new"})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 30), text=st.text("[]=\"'#\n.abdirectoyk ", max_size=15))
def test_any_file_is_changed_rightly_or_not_at_all(file: Path, start: int, length: int, text: str) -> None:
    before = TEXT[:start] + text + TEXT[start + length :]
    file.write_text(before)
    try:
        config_file.change(file, ("directory",), {"key": "new"})
    except ConfigFileError:
        assert file.read_text() == before
    else:
        expected = tomllib.loads(before)
        expected.setdefault("directory", {})["key"] = "new"
        assert tomllib.loads(file.read_text()) == expected
