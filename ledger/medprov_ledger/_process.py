"""Which process has a number now. Standard library only: the keeper (:mod:`._anvil_keeper`) must start fast."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same number; None where there is none (or a dead one)."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            # the name in parentheses may hold anything, so count from behind it: state is 3, start time 22 (proc(5))
            fields = stat.rpartition(")")[2].split()
            # the first thread of a killed process is dead before the others have closed its files and its port
            dead = fields[0] in "ZX" and len(os.listdir(f"/proc/{pid}/task")) < 2
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        return None if dead else f"{boot} {fields[19]}"
    answer = subprocess.run(["ps", "-o", "lstart=,stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    *begun, state = answer.stdout.split() or ["Z"]
    return None if state.startswith("Z") else " ".join(begun)
