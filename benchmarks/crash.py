"""Kill everything at random moments: does a federation end with every round anchored once, and with the anchored model?

    python -m benchmarks.crash [--mode process|deployment] [--runs 50] [--rounds 3] [--kills 3] [--seed 0]
                               [--json FILE] [--quick]

``process``: every run is a new development federation with its chain (Anvil), and the command ``medprov-coordinator
run`` in a process of its own, whose three hospitals each answer from a process of their own. SIGKILL goes to a
hospital, to the coordinator and to the chain, each chosen and timed by the seed; the coordinator and the chain are
started again at once, as a supervisor would. Anvil saves its state once a second, so a killed chain may have lost
rounds that were anchored; where it was killed, ``medprov-coordinator anchor`` looks after the run's end.

``deployment``: a SuperLink, a ServerApp and three sites with TLS and node keys (``medprov-coordinator up``,
``medprov-node join``); SIGKILL goes to a site's SuperNode or executor, to the SuperLink, to the ServerApp, or to ``up``
itself. All runs go on in one federation, each with as many rounds more (:mod:`benchmarks.crash_deployment`).

A run is good when the chain has each round exactly once, every anchored record and model is the folder's and can be
fetched from the store, nothing waits, the checkpoint has the hash of the last anchored round, and the audit log is
whole and holds the line that each record names.

``--quick`` makes two runs of ``process``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from PIL import Image

from medprov_coordinator import audit_log, cli
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_ledger import development, embedded
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation
from medprov_ledger.store import open_store
from medprov_node import client_app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.phantoms import phantom

SMALL = ["--steps", "1", "--batch", "2", "--channels", "8", "--blocks", "1", "--extractor-blocks", "1"]
SMALL += ["--probe-pictures", "1", "--quorum", "2", "--deadline", "60"]
ROLES = ("hospital", "coordinator", "chain")
MOMENTS = ("", "", "", "screened", "aggregated", "saved", "anchored", "round")
"""A kill comes at its second, or up to a tenth of a second after the next such event; almost all of a round is
training, so the second alone would meet little else."""
PIDS = "MEDPROV_CRASH_PIDS"
"""Names the folder in which the hospitals' processes leave their numbers."""
LIMIT = 240.0
"""Seconds after which a run counts as one that does not end."""


@dataclass
class Outcome:
    """One run."""

    seed: int
    kills: list[tuple[str, float, str]] = field(default_factory=list)
    """Role, second of the run, last event before it."""
    restarts: int = 0
    rounds: int = 0
    attempts: int = 0
    fewer: int = 0
    """Rounds that were made without one of the hospitals."""
    again: int = 0
    """Rounds that the chain had lost, or whose anchor was found there after a crash."""
    seconds: float = 0.0
    wrong: str = ""


# --- hospitals --------------------------------------------------------------------------------------------------------

hospitals = ClientApp()
"""The real ClientApp, in a process of its own for every message."""


@hospitals.train()
def _train(message: Message, context: Context) -> Message:
    return _apart(message, context)


@hospitals.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    return _apart(message, context)


def _apart(message: Message, context: Context) -> Message:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # the coordinator's lock and log must not live on in a hospital whose coordinator was killed
        os.dup2(writing, 3)
        os.closerange(4, 4096)
        # nothing may be collected that would close one of those again
        gc.disable()
        status = 1
        try:
            data = pickle.dumps(client_app.app(message, context).content)
            with open(3, "wb") as stream:
                stream.write(data)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    number = Path(os.environ[PIDS]) / str(pid)
    number.touch()
    try:
        with open(reading, "rb") as stream:
            data = stream.read()
        os.waitpid(pid, 0)
    finally:
        number.unlink(missing_ok=True)
    if not data:
        raise RuntimeError("the hospital's process has ended")
    return Message(pickle.loads(data), reply_to=message)


# --- what a run must have left ----------------------------------------------------------------------------------------


def faults(folder: Path, config: Config, rounds: int) -> str:
    """What is wrong with a federation that should have so many rounds; empty where nothing is."""
    federation, store = Federation(Chain.connect(config)), open_store(config)
    run = CheckpointFolder(folder)
    anchored = federation.rounds()
    if [one.number for one in anchored] != list(range(1, rounds + 1)):
        return f"the chain has rounds {[one.number for one in anchored]}"
    lines = {entry.hash.hex() for entry in audit_log.read(folder / audit_log.FILE)}
    for one in anchored:
        data = run.record_path(one.number).read_bytes()
        body = json.loads(data)
        if hashlib.sha256(data).digest() != one.metrics_hash:
            return f"round {one.number}: the anchored record is not the folder's"
        if (body["model"], body["cid"], body["root"]) != (one.model_hash.hex(), one.cid, one.updates_root.hex()):
            return f"round {one.number}: the record's model, CID or root is not the anchored one"
        if body["audit"] not in lines:
            return f"round {one.number}: the audit log does not hold the line that its record names"
        if ex.model_hash(ex.from_safetensors(store.get(one.cid))) != one.model_hash:
            return f"round {one.number}: the store gives other weights"
    state = run.load_state()
    if state is None or state.pending or state.number != rounds:
        return f"the folder stands at {state}"
    if ex.model_hash(run.load_model(state.model)) != anchored[-1].model_hash:
        return "the checkpoint is not the anchored model"
    return ""


def describe(folder: Path, outcome: Outcome, first: int, hospitals_there: int) -> None:
    """Fill in what folder and log tell about the rounds from `first` on."""
    run = CheckpointFolder(folder)
    state = run.load_state()
    outcome.rounds = state.number - first + 1 if state else 0
    records = [json.loads(run.record_path(n).read_bytes()) for n in range(first, (state.number if state else 0) + 1)]
    outcome.fewer = sum(len(body["updates"]) < hospitals_there for body in records)
    outcome.attempts = sum(
        entry.kind == "asked" and entry.body["number"] >= first - 1 for entry in audit_log.read(folder / audit_log.FILE)
    )
    told = Counter(
        entry.body["number"] for entry in audit_log.read(folder / audit_log.FILE) if entry.kind == "anchored"
    )
    outcome.again = sum(told[body["round"]] != 1 for body in records)


def last_event(folder: Path) -> str:
    """Kind of the last whole line of the audit log."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return str(json.loads((folder / audit_log.FILE).read_bytes().rsplit(b"\n", 2)[-2])["kind"])
    return "-"


# --- one run in processes ---------------------------------------------------------------------------------------------


class Federated:
    """A development federation, its coordinator's process, and what may be killed."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.run = folder, folder / "run"
        self.pids = folder / "pids"
        self.pids.mkdir()
        self.chain = folder / "chain"
        self.config = development.up(self.chain).config
        self.arguments = ["run", "--dir", str(self.run), "--config", str(self.config.path), *SMALL]
        self.arguments += ["--rounds", str(rounds), "--client", "benchmarks.crash:hospitals"]
        for h, name in enumerate(development.HOSPITALS):
            images = folder / name
            images.mkdir()
            for i in range(2):
                Image.fromarray(phantom(700 + 10 * h + i)).save(images / f"{i}.png")
            self.arguments += ["--images", f"{name}={images}"]
        self.pid = 0

    def start(self) -> None:
        """Start the coordinator: a fork of this process, which has imported what takes seconds."""
        for rest in self.pids.iterdir():
            rest.unlink()
        self.pid = self._fork(self.arguments)

    def _fork(self, arguments: list[str]) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        status = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setpgid(0, 0)
            os.environ[PIDS] = str(self.pids)
            output = os.open(self.folder / "coordinator.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            status = cli.main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(status)

    def anchor(self) -> None:
        """Anchor again what the chain has lost after the run's end."""
        _, result = os.waitpid(self._fork(["anchor", "--dir", str(self.run), "--config", str(self.config.path)]), 0)
        if status := os.waitstatus_to_exitcode(result):
            raise RuntimeError(f"medprov-coordinator anchor ended with status {status}")

    def ended(self) -> int | None:
        """Exit status of the coordinator, negative for a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.pid = 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self, role: str) -> bool:
        """Kill one of a role; False where none is there."""
        if role == "hospital":
            there = [int(one.name) for one in self.pids.iterdir()]
            if not there:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(there[0], signal.SIGKILL)
        elif role == "coordinator":
            if not self.pid:
                return False
            # its hospitals are other processes; they answer into the void
            os.kill(self.pid, signal.SIGKILL)
        else:
            running = embedded.load(self.chain)
            if running is None or running.pid is None:
                return False
            os.kill(running.pid, signal.SIGKILL)
        return True


def run_once(seed: int, rounds: int, kills: int, span: float) -> Outcome:
    """One run with kills.

    Parameters
    ----------
    span : float
        Seconds that an undisturbed run takes: the kills come within it.
    """
    draw = random.Random(seed)
    outcome = Outcome(seed)
    with tempfile.TemporaryDirectory() as temporary:
        town = Federated(Path(temporary), rounds)
        try:
            plan = sorted(
                (draw.uniform(0, span), draw.choice(ROLES), draw.choice(MOMENTS), draw.uniform(0, 0.1))
                for _ in range(kills)
            )
            begin = time.monotonic()
            town.start()
            chain_back = 0.0
            while (now := time.monotonic() - begin) < LIMIT:
                if chain_back and now >= chain_back:
                    development.up(town.chain)
                    chain_back = 0.0
                status = town.ended()
                if status == 0:
                    break
                if status is not None:
                    if status > 0 and not chain_back and status not in (1, 3):
                        outcome.wrong = f"the coordinator ended with status {status}"
                        break
                    outcome.restarts += 1
                    # a supervisor's pause; without it a chain that is away would be asked without end
                    time.sleep(0.2)
                    town.start()
                if plan and now >= plan[0][0]:
                    _, role, moment, delay = plan[0]
                    event = last_event(town.run)
                    if moment in ("", event) and not chain_back:
                        time.sleep(delay if moment else 0.0)
                        if town.kill(role):
                            plan.pop(0)
                            outcome.kills.append((role, round(now, 2), event))
                            if role == "chain":
                                chain_back = now + draw.uniform(0.1, 2)
                time.sleep(0.005)
            else:
                outcome.wrong = f"not finished after {LIMIT:g} s"
            outcome.seconds = round(time.monotonic() - begin, 2)
            if chain_back:
                development.up(town.chain)
            if any(role == "chain" for role, _, _ in outcome.kills):
                town.anchor()
            outcome.wrong = outcome.wrong or faults(town.run, town.config, rounds)
            describe(town.run, outcome, 1, len(development.HOSPITALS))
        except Exception as error:  # a run that cannot even be looked at is a bad one, and the others go on
            outcome.wrong = f"{type(error).__name__}: {error}"
        finally:
            if town.pid:
                os.kill(town.pid, signal.SIGKILL)
                os.waitpid(town.pid, 0)
            development.down(town.chain)
        if outcome.wrong:
            sys.stderr.write((Path(temporary) / "coordinator.log").read_text()[-2000:] + "\n")
    return outcome


def warm_up() -> None:
    """Have torch load what it loads at the first step, once for all processes that are forked from this one."""
    weight = torch.nn.Parameter(torch.zeros(1))
    torch.optim.AdamW([weight]).step()
    importlib.import_module("torch._dynamo")


def run_processes(runs: int, rounds: int, kills: int, seed: int) -> Iterator[Outcome]:
    """Runs of ``process``, the first of them undisturbed, for the time it takes."""
    span = 1.0
    warm_up()
    for number in range(runs + 1):
        outcome = run_once(seed + number, rounds, kills if number else 0, span)
        if not number:
            span = outcome.seconds
            if outcome.wrong:
                raise SystemExit(f"the undisturbed run is wrong: {outcome.wrong}")
            continue
        yield outcome


# --- the table --------------------------------------------------------------------------------------------------------


def summary(mode: str, rounds: int, outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures of all runs."""
    kills = [(role, event) for one in outcomes for role, _, event in one.kills]
    return {
        "mode": mode,
        "runs": len(outcomes),
        "good": sum(not one.wrong for one in outcomes),
        "rounds": rounds,
        "kills": dict(Counter(role for role, _ in kills)),
        "moments": {
            role: dict(Counter(event for found, event in kills if found == role))
            for role in sorted({r for r, _ in kills})
        },
        "restarts": sum(one.restarts for one in outcomes),
        "attempts": sum(one.attempts for one in outcomes),
        "rounds_with_fewer_hospitals": sum(one.fewer for one in outcomes),
        "anchors_found_or_made_again": sum(one.again for one in outcomes),
        "seconds": round(sum(one.seconds for one in outcomes), 1),
        "details": [asdict(one) for one in outcomes],
    }


def show(one: Outcome) -> None:
    """One line of the table."""
    kills = ", ".join(f"{role} {moment:.1f} s ({event})" for role, moment, event in one.kills)
    verdict = one.wrong or "all anchored once"
    print(f"{one.seed:5} {one.rounds:6} {one.restarts:8} {one.seconds:7.1f}  {verdict}: {kills}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("process", "deployment"), default="process")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3, help="in each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    # a harness that is asked to end takes its processes along
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs, rounds, mode = (2, 2, "process") if args.quick else (args.runs, args.rounds, args.mode)
    if mode == "deployment":
        from benchmarks.crash_deployment import run_deployment as run
    else:
        run = run_processes
    print(f"{'seed':>5} {'rounds':>6} {'restarts':>8} {'seconds':>7}  outcome and kills (second, last event before)")
    outcomes: list[Outcome] = []
    for outcome in run(runs, rounds, args.kills, args.seed):
        show(outcome)
        outcomes.append(outcome)
        figures = summary(mode, rounds, outcomes)
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({name: value for name, value in figures.items() if name != "details"}, indent=1))
    return 0 if figures["good"] == runs else 1


if __name__ == "__main__":
    sys.exit(main())
