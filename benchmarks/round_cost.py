"""What a federated round costs: time by part, bytes by encoding, memory, and what error feedback buys.

    python -m benchmarks.round_cost [--clients 3 10 50] [--json FILE] [--plot FILE] [--quick]

Real hospitals with small networks train one after the other in one process, and some of them in Flower's simulation
engine, on a development chain; every part is timed in the same run. ``bare`` is the tasks' own work (reading pictures,
training, measuring), what is left of asking the hospitals is Flower's and the protocol's. Screening and aggregation are
measured once more with replies of full-size networks, each number of clients in a process of its own, for memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from PIL import Image

from benchmarks.phantoms import phantom
from medprov_coordinator.aggregation import aggregate
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.connect import ChainAnchor, connect
from medprov_coordinator.grid import Scalar, task_identity
from medprov_coordinator.probe import Probe
from medprov_coordinator.run import FederationResult, run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Expectation, screen
from medprov_coordinator.strategy import GatedStrategy
from medprov_ledger import development
from medprov_node.client_app import app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import tasks
from medprov_watermark.training.loop import Settings

SMALL = Settings(steps=0, batch=2, channels=8, blocks=1, extractor_blocks=1, seed=11)
TASK = tasks.find("watermark")
PARTS = ("bare", "flower", "screening", "probe", "checkpoint", "publishing", "anchoring", "rest")
RULES = ("mean", "median", "mixed")
ENCODINGS = ("float32", "float16", "int8")
EXAMPLES = 10
MIB = 1024 * 1024

Clock = dict[str, float]


@contextmanager
def timed(clock: Clock, places: list[tuple[Any, str, str]]) -> Iterator[None]:
    """Add the seconds that methods of objects or classes take to `clock` under a name."""
    with ExitStack() as stack:
        for owner, method, name in places:
            stack.enter_context(patch.object(owner, method, _timed(clock, getattr(owner, method), name)))
        yield


def _timed(clock: Clock, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            clock[name] += time.perf_counter() - start

    return measured


def hospitals(folder: Path, count: int) -> list[dict[str, Scalar]]:
    """Configurations of nodes with two pictures each."""
    nodes: list[dict[str, Scalar]] = []
    for h in range(count):
        own = folder / f"hospital-{h}"
        if not own.exists():
            own.mkdir()
            for i in range(2):
                Image.fromarray(phantom(128, 128, 8, False, 700 + 10 * h + i)).save(own / f"{i}.png")
        nodes.append({"images": str(own)})
    return nodes


def rounds(folder: Path, config: Path, count: int, workers: int, steps: int) -> dict[str, Any]:
    """One round of `count` hospitals, by part, in seconds."""
    # unsigned: the development chain has three members only; signatures are checked in the gate's own figures
    services = replace(connect(str(config)), members=None)
    anchor = services.anchor
    assert anchor is not None
    last = anchor.last()
    settings = RunConfig(
        rounds=(last.number if last else 0) + 1, local_steps=steps, settings=SMALL, probe_pictures=2, max_refused=1
    )
    clock: Clock = defaultdict(float)
    moments: dict[str, float] = {}
    places: list[tuple[Any, str, str]] = [
        (GatedStrategy, "_ask", "ask"),
        (GatedStrategy, "aggregate_train", "screening"),
        (Probe, "evaluate", "probe"),
        (CheckpointFolder, "save_model", "checkpoint"),
        (CheckpointFolder, "save_record", "checkpoint"),
        (CheckpointFolder, "save_state", "checkpoint"),
        (type(services.store), "put", "publishing"),
        (ChainAnchor, "anchor", "anchoring"),
        (type(TASK), "load", "bare"),
        (type(TASK), "train", "bare"),
        (type(TASK), "evaluate", "bare"),
    ]

    def event(event: Any) -> None:
        if event.kind == "asked":
            clock.clear()
        moments[event.kind] = time.perf_counter()

    kept = folder / f"run-{count}-{workers}"
    with timed(clock, places):
        result = run_federation(
            app, hospitals(folder, count), settings, folder=kept, services=services, on_event=event, workers=workers
        )
    (report,) = result.rounds
    total = moments["round"] - moments["asked"]
    clock["flower"] = clock["ask"] - clock["bare"]
    clock["rest"] = total - sum(clock[name] for name in PARTS if name not in ("rest",))
    figures = {name: clock[name] for name in PARTS}
    if workers:
        # what the hospitals do is done in other processes
        figures = {name: value for name, value in figures.items() if name not in ("bare", "flower")}
    return {
        "clients": count,
        "workers": workers,
        "accepted": len(report.updates),
        "seconds": total,
        "asking": clock["ask"],
        "parts": figures,
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
        "model": report.model,
    }


def replies(count: int, weights: ex.Arrays) -> Iterator[Message]:
    """Honest replies of a number of nodes to round 1 over `weights`, signed."""
    base = ex.model_hash(weights)
    for h in range(count):
        account = _account(h)
        draw = np.random.default_rng(h)
        deltas = {n: np.asarray(1e-3 * draw.standard_normal(a.shape), np.float32) for n, a in weights.items()}
        update = ex.model_hash(deltas)
        digest = ex.update_digest(ex.NO_FEDERATION, 1, base, update, EXAMPLES)
        receipt: dict[str, Any] = {
            ex.ROUND: 1,
            ex.BASE: base,
            ex.UPDATE: update,
            ex.SIGNER: account.address,
            ex.SIGNATURE: bytes(account.sign_message(encode_defunct(primitive=digest)).signature),
        }
        metrics = {name: (low + high) / 2 for name, (low, high) in TASK.metrics.items()}
        content = RecordDict(
            {
                ex.ARRAYS: ArrayRecord({name: Array(array) for name, array in deltas.items()}),
                ex.METRICS: MetricRecord({**metrics, ex.NUM_EXAMPLES: EXAMPLES, ex.SKIPPED: 0}),
                ex.RECEIPT: ConfigRecord({**receipt}),
            }
        )
        yield Message(content, reply_to=Message(RecordDict(), dst_node_id=h + 1, message_type="train"))


def _account(number: int) -> LocalAccount:
    account: LocalAccount = Account.from_key((number + 1).to_bytes(32, "big"))
    return account


def gate(count: int) -> dict[str, Any]:
    """Seconds and memory of screening and of each rule with replies of full-size networks; in this process."""
    settings = Settings(steps=1)
    weights = TASK.initial(settings)
    expected = Expectation(
        number=1,
        base=ex.model_hash(weights),
        federation=ex.NO_FEDERATION,
        shapes=ex.shapes_of(weights),
        base_norm=math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in weights.values())),
        nodes=frozenset(range(1, count + 1)),
        members=frozenset(_account(h).address for h in range(count)),
    )
    with task_identity():
        came = list(replies(count, weights))
    size = sum(array.nbytes for array in weights.values())
    tracemalloc.start()
    start = time.perf_counter()
    screened = screen(came, expected)
    found: dict[str, Any] = {"screening": time.perf_counter() - start, "rules": {}}
    found["screening_peak_mib"] = tracemalloc.get_traced_memory()[1] / MIB
    for rule in RULES:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        start = time.perf_counter()
        aggregate(screened.accepted, rule)
        found["rules"][rule] = {
            "seconds": time.perf_counter() - start,
            "peak_mib": (tracemalloc.get_traced_memory()[1] - before) / MIB,
        }
    return {
        "clients": count,
        "accepted": len(screened.accepted),
        "parameters": size // 4,
        "replies_mib": count * size / MIB,
        "float64_mib": 2 * count * size / MIB,
        **found,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def encodings(folder: Path) -> list[dict[str, Any]]:
    """Bytes per hospital and round of each encoding, arrays only."""
    out = []
    for encoding in ENCODINGS:
        config = RunConfig(rounds=1, local_steps=1, settings=SMALL, probe_pictures=1, encoding=encoding)
        (report,) = run_federation(app, hospitals(folder, 2), config).rounds
        count = len(report.updates)
        out.append({"encoding": encoding, "down": report.bytes_down // count, "up": report.bytes_up // count})
    return out


def feedback(folder: Path, number: int, steps: int) -> list[dict[str, Any]]:
    """What encodings cost in training, with and without the memory of what was lost."""
    exact: FederationResult | None = None
    out = []
    for encoding, remembers in (
        ("float32", True),
        ("float16", False),
        ("float16", True),
        ("int8", False),
        ("int8", True),
    ):
        config = RunConfig(
            rounds=number,
            local_steps=steps,
            settings=SMALL,
            probe_pictures=4,
            encoding=encoding,
            feedback=remembers,
            evaluate=False,
        )
        result = run_federation(app, hospitals(folder, 3), config)
        exact = exact or result
        apart = math.sqrt(
            sum(float(np.square(result.weights[n] - exact.weights[n], dtype=np.float64).sum()) for n in exact.weights)
        )
        last = result.rounds[-1]
        out.append(
            {
                "encoding": encoding,
                "feedback": remembers,
                "loss": last.probe["loss"],
                "bit_accuracy": last.probe["accuracy"],
                "distance": apart,
                "up": last.bytes_up // len(last.updates),
            }
        )
    return out


def growth(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float | None:
    """Exponent of the growth between the two largest numbers of clients; 1 is linear."""
    if len(rows) < 2:
        return None
    first, second = rows[-2], rows[-1]
    return math.log(value(second) / value(first)) / math.log(second["clients"] / first["clients"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 10, 50])
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="of the simulation engine")
    parser.add_argument("--steps", type=int, default=1, help="optimiser steps of a hospital in a round")
    parser.add_argument("--rounds", type=int, default=6, help="of the comparison with and without error feedback")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="file of the plot, such as docs/plots/round_cost.png")
    parser.add_argument("--quick", action="store_true", help="3 clients, 2 simulated ones, 2 rounds of each encoding")
    parser.add_argument("--gate", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.gate:
        print(json.dumps(gate(args.gate)))
        return 0
    clients = [3] if args.quick else sorted(args.clients)
    figures: dict[str, Any] = {"clients": clients, "steps": args.steps, "workers": args.workers}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures["encodings"] = encodings(folder)
        figures["feedback_rounds"], figures["feedback_steps"] = (2, 1) if args.quick else (args.rounds, 2)
        figures["feedback"] = feedback(folder, figures["feedback_rounds"], figures["feedback_steps"])
        figures["gate"] = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.round_cost", "--gate", str(count)], stdout=-1, check=True
                ).stdout
            )
            for count in clients
        ]
        config = development.up(folder / "chain").config.path
        try:
            # one round first, that pays for what is loaded once
            rounds(folder, config, 2, 0, 1)
            figures["in_process"] = [rounds(folder, config, count, 0, args.steps) for count in clients]
            simulated = [2] if args.quick else clients
            figures["simulation"] = [rounds(folder, config, count, args.workers, args.steps) for count in simulated]
        finally:
            development.down(folder / "chain")
    for row in figures["in_process"]:
        row["overhead_of_bare"] = row["parts"]["flower"] / row["parts"]["bare"]
        row["anchoring_of_bare"] = (row["parts"]["anchoring"] + row["parts"]["publishing"]) / row["parts"]["bare"]
    figures["growth"] = {
        "round": growth(figures["in_process"], lambda row: row["seconds"]),
        "flower": growth(figures["in_process"], lambda row: row["parts"]["flower"]),
        "screening": growth(figures["gate"], lambda row: row["screening"]),
    }
    for rule in RULES:
        figures["growth"][rule] = growth(figures["gate"], lambda row, rule=rule: row["rules"][rule]["seconds"])  # type: ignore[misc]
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    if args.plot:
        from benchmarks.cost_tables import plot

        plot(figures, args.plot)
    whole = all(
        row["accepted"] == row["clients"] for name in ("in_process", "simulation", "gate") for row in figures[name]
    )
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
