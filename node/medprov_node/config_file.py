"""Change a few values of ``medprov.toml`` and nothing else: comments, order and other tables stay as they are.

The file is replaced as a whole, so that at any time it is either the former or the new one. What was changed is read
back before it is written; a file that is written in a way that this module does not understand stays untouched.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medprov_node.errors import ConfigFileError

Value = str | Sequence[str]
_VALUE = r"(\"[^\"\n]*\"|'[^'\n]*'|\[[^\[\]]*\])"


def change(path: Path, table: Sequence[str], values: Mapping[str, Value], *, secret: bool = False) -> None:
    """Replace values of one table, or add them to it.

    Parameters
    ----------
    path : Path
    table : sequence of str
        For example ``("hospitals", "hospital-a")``.
    values : mapping of str to str or sequence of str
    secret : bool
        Whether the values must not be shown.

    Raises
    ------
    ConfigFileError
        It cannot be done here; unless secret, the message has the lines that are to be written by hand.
    """
    where = f"[{'.'.join(table)}]"
    lines = "; ".join(f"{name} = {_literal(value)}" for name, value in values.items())
    by_hand = (
        f"{path}: give {where} a header and lines of its own, then run the same command again"
        if secret
        else f"{path}: write these lines into {where} yourself: {lines}"
    )
    try:
        # a link stays a link
        file = path.resolve(strict=True)
        text = file.read_text(encoding="utf-8")
        expected = _parsed(text)
        place = expected
        for name in table[:-1]:
            place = place[name]
        if table[-1] not in place:
            text += f"\n{where}\n"
        place = place.setdefault(table[-1], {})
        place |= {name: value if isinstance(value, str) else list(value) for name, value in values.items()}
        changed = _changed(text, table, values)
        if _parsed(changed) != expected:
            raise ConfigFileError(f"{by_hand}; it is written in a way that this command does not change")
        write(file, changed, file.stat().st_mode & 0o777)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise ConfigFileError(f"{by_hand}; it is written in a way that this command does not change") from None
    except OSError as error:
        raise ConfigFileError(f"{by_hand}; the file cannot be changed ({error.strerror})") from None


def write(file: Path, text: str, mode: int) -> None:
    """Write a file durably and as a whole.

    Raises
    ------
    OSError
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parsed(text: str) -> dict[str, Any]:
    # some editors put a byte order mark before UTF-8
    return tomllib.loads(text.removeprefix("\ufeff"))


def _changed(text: str, table: Sequence[str], values: Mapping[str, Value]) -> str:
    name = r"[ \t]*\.[ \t]*".join(rf"(?:{re.escape(part)}|\"{re.escape(part)}\")" for part in table)
    found = re.search(rf"(?m)^\ufeff?[ \t]*\[[ \t]*{name}[ \t]*\][^\n]*$", text)
    if found is None:
        return text
    following = re.compile(r"(?m)^[ \t]*\[[^\[\]\n]*\][ \t]*(?:#[^\n]*)?$").search(text, found.end())
    end = following.start() if following else len(text)
    body = text[found.end() : end]
    for key, value in values.items():
        line = re.search(rf"(?m)^[ \t]*{re.escape(key)}[ \t]*=[ \t]*{_VALUE}", body)
        if line is not None:
            body = body[: line.start(1)] + _literal(value) + body[line.end(1) :]
        else:
            body = f"\n{key} = {_literal(value)}{body}"
    return text[: found.end()] + body + text[end:]


def _literal(value: Value) -> str:
    """TOML's strings hold JSON's."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)
