"""Programs that look at the contracts, each in an environment of its own, and copies of the contracts for them.

The environments are kept in ``build/tools`` until what ``contracts/tools`` asks for changes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = ROOT / "contracts"
BIN = CONTRACTS / "node_modules" / ".bin"
NEEDS_FORGE = pytest.mark.skipif(
    shutil.which("node") is None or not (BIN / "forge").exists(), reason="needs Node and 'npm ci' in contracts/"
)


def program(name: str) -> Path:
    """The program that ``contracts/tools/NAME.txt`` asks for; the test is skipped where it cannot be installed."""
    wanted = CONTRACTS / "tools" / f"{name}.txt"
    home = ROOT / "build" / "tools" / name
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{name}.lock").open("w") as lock:
        # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = home / "installed.txt"
        if not installed.is_file() or installed.read_text() != wanted.read_text():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=120)
            command = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run(
                [*command, "-r", str(wanted)], capture_output=True, text=True, timeout=500, check=False
            )
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["pip gives no reason"]
                pytest.skip(f"{name} cannot be installed: {said[-1]}")
            installed.write_text(wanted.read_text())
    return home / "bin" / name


def copy_contracts(folder: Path) -> Path:
    """A copy to compile and change: tools clean the output folder, in which another test may be writing."""
    copy = folder / "contracts"
    copy.mkdir(parents=True)
    for name in ("src", "test"):
        shutil.copytree(CONTRACTS / name, copy / name)
    for name in ("foundry.toml", "slither.config.json", "solc-wrapper.js"):
        shutil.copy2(CONTRACTS / name, copy / name)
    (copy / "node_modules").symlink_to(CONTRACTS / "node_modules")
    return copy


def run(command: list[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program of :func:`program`, which starts forge and its own helpers by name."""
    home = Path(command[0]).parent
    environment = {**os.environ, "FOUNDRY_DISABLE_NIGHTLY_WARNING": "1", "NO_COLOR": "1"}
    # halmos looks for its solver in the environment that is active, which is the tests' own
    environment["VIRTUAL_ENV"] = str(home.parent)
    environment["PATH"] = os.pathsep.join([str(home), str(BIN), environment.get("PATH", "")])
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
