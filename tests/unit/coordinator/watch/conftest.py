"""A run's folder without a run: records, a log and a state as the strategy writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from medprov_coordinator.audit_log import FILE, AuditLog
from medprov_coordinator.round import RoundReport, UpdateEntry
from medprov_coordinator.screening import Rejection
from medprov_ledger.merkle import root

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egood"


def update(node: int, number: int) -> UpdateEntry:
    """One accepted update."""
    digest, signature = hashlib.sha256(f"{node} {number}".encode()).digest(), b""
    leaf = hashlib.sha256(b"medprov signed update 1" + digest + signature).hexdigest()
    figures = {"loss": 0.5, "bit-accuracy": 0.8}
    return UpdateEntry(node, 10, "", "aa" * 32, digest.hex(), "", leaf, figures)


def report(number: int, rejected: tuple[Rejection, ...] = ()) -> RoundReport:
    """A round's record."""
    updates = (update(101, number), update(102, number))
    return RoundReport(
        number=number,
        attempt=number,
        base=f"{number:064x}",
        model=f"{number + 1:064x}",
        updates=updates,
        rejected=rejected,
        rule="mean",
        note="",
        nodes=(101, 102),
        train={"loss": 0.7 - 0.1 * number, "bit-accuracy": 0.8},
        evaluate={"loss": 0.6, "bit-accuracy": 0.8, "hospitals": 2},
        probe={"score": 0.7 + 0.01 * number, "loss": 0.5},
        root=root([bytes.fromhex(u.leaf) for u in updates]).hex(),
        cid="",
        sites={101: {"loss": 0.4, "bit-accuracy": 0.9}, 102: {"loss": 0.6, "bit-accuracy": 0.7}},
        bytes_down=2000,
        bytes_up=1000,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three rounds, a hostile rejection, a refused attempt."""
    path = tmp_path / "run"
    (path / "rounds").mkdir(parents=True)
    log = AuditLog(path / FILE)
    log.append("started", event(0, "round 0"))
    for number in (1, 2, 3):
        bad = (Rejection(103, "not_finite", HOSTILE),) if number == 2 else ()
        made = report(number, bad)
        (path / "rounds" / f"{number:06d}.json").write_text(made.record())
        log.append("screened", event(number - 1, "3 replies", rejected=[[103, "not_finite"]] if bad else []))
        log.append("round", event(number, f"round {number}", model=made.model, probe=dict(made.probe)))
    log.append("refused", event(3, "round 4 refused", reason=HOSTILE, rejected=[[103, "norm"]], updates=[], probe={}))
    state = {"version": 2, "number": 3, "attempts": 4, "model": report(3).model, "progress": {}, "best": 0.7}
    (path / "state.json").write_text(json.dumps({**state, "federation": "", "pending": []}))
    return path


def event(number: int, text: str, **figures: Any) -> dict[str, Any]:
    """The body of a line of the log."""
    return {"number": number, "attempt": number, "text": text, "figures": figures}
