"""medprov_ledger.terminal"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
CODE = """
import sys
from medprov_ledger import terminal
from medprov_ledger.errors import StandardOutputError
terminal.prepare()
try:
    terminal.say({text!r}, done="it is done")
except StandardOutputError as error:
    terminal.complain(str(error))
    sys.exit(1)
"""


def python(code: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120} | more
    return subprocess.run([sys.executable, "-c", code], check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_disk() -> None:
    with FULL.open("wb") as full:
        done = python(CODE.format(text="hello"), stdout=full)
        assert done.returncode == 1
        assert done.stderr == (
            b"standard output: cannot be written (No space left on device), but it is done; send it elsewhere\n"
        )
        assert python(CODE.format(text="hello"), stdout=full, stderr=full).returncode == 1


def test_a_reader_that_has_gone() -> None:
    code = f"import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n{CODE.format(text='hello')}"
    done = python(code)
    assert done.returncode == 1
    assert done.stderr == b"standard output: cannot be written (Broken pipe), but it is done; send it elsewhere\n"


@pytest.mark.parametrize(("text", "said"), [("b\u00e9b\u00e9", rb"b\xe9b\xe9"), ("a\udcffb", rb"a\udcffb")])
def test_what_the_encoding_lacks(text: str, said: bytes) -> None:
    done = python(CODE.format(text=text), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, said + b"\n", b"")
