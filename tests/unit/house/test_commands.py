"""What the four commands have in common: an interrupt at any time, a standard output that takes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
CALLS = {
    "medprov_ledger.cli": ["status"],
    "medprov_node.cli": ["restore", "a", "b"],
    "medprov_sdk.cli": ["verify", "a"],
    "medprov_coordinator.cli": ["run", "--images", "a", "--dir", "b"],
}
SLOW = {"web3", "numpy", "torch", "flwr", "pydicom", "onnxruntime"}
INTERRUPTED = """
import builtins, sys
from {module} import main
load = builtins.__import__
def interrupt(name, *more, **named):
    if name.partition(".")[0] in {slow}:
        raise KeyboardInterrupt
    return load(name, *more, **named)
builtins.__import__ = interrupt
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("module", CALLS)
def test_a_help_text_that_cannot_be_written(module: str) -> None:
    # argparse says nothing about an error that it meets itself, as it does without a buffer
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main(['--help']))"]
    with FULL.open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=120)
    assert done.returncode in (1, 2)
    assert done.stderr.endswith(b": standard output: cannot be written (No space left on device); send it elsewhere\n")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("module", CALLS)
def test_what_takes_long_is_imported_where_an_interrupt_is_caught(module: str) -> None:
    code = f"import sys, {module}; print(sorted({SLOW} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert (done.stdout, done.stderr) == (b"[]\n", b"")
    command = [sys.executable, "-c", INTERRUPTED.format(module=module, slow=SLOW), *CALLS[module]]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 130
    assert done.stderr.count(b"\n") == 1
    assert b"interrupted" in done.stderr or b"stopped" in done.stderr
