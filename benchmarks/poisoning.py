"""What dishonest members can do: our strategy and those that Flower ships, in one harness from one start.

    python -m benchmarks.poisoning [--json FILE] [--out DIR] [--images DIR] [--seeds 0 1] [--minutes N] [--plots DIR]
        [--optimiser own] [--rounds 6] [--steps 5] [--quick]

Ten hospitals, two to a modality, train small networks for some rounds; up to four of them attack. Each strategy is
Flower's own class or ours with the default configuration, over the in-process Grid, with the same pictures, the same
start and the same training at honest members. Judged is the share of payloads that the global model carries exactly
through a fixed battery, on pictures that nobody trained on; for the backdoor also how often pictures with the trigger
read as the attacker's payload. With ``--optimiser shared`` ours alone is run, because nobody else has one.

Attackers know everything: the honest updates of the round and the strategy's limits. Results are kept one by one in
``--out``; a run in that folder goes on where the last one ended, or was told to by ``--minutes``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as shipped
from matplotlib.figure import Figure

from benchmarks import learning
from benchmarks.attackers import ATTACKS, MEMBERS, TARGET, Deltas, Members, Plan, triggered
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.errors import RoundRefusedError
from medprov_coordinator.grid import run_in_process
from medprov_coordinator.run import run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Limits
from medprov_coordinator.strategy import to_record
from medprov_node import client_app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import OPTIMISERS
from medprov_watermark.training.tasks.watermark import TASK, model_of

OURS = "medprov"
CRASHED = "crashed"
NOT_FINITE = "not finite"
STYLES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#1f6f8b", "linewidth": 2.4, "zorder": 3},
    "FedAvg": {"color": "#b8bec4"},
    "Krum": {"color": "#c98a1b", "linestyle": ":"},
    "MultiKrum": {"color": "#c98a1b"},
    "FedTrimmedAvg": {"color": "#8a5a83"},
    "FedMedian": {"color": "#5a8a4a"},
}


def shipped_strategies(members: int, attackers: int) -> dict[str, Callable[[], shipped.FedAvg]]:
    """Flower's strategies, told how many attackers there are where they can be told."""
    common: dict[str, Any] = {"fraction_evaluate": 0.0, "min_available_nodes": members}
    beta = min(0.4, max(0.2, attackers / members))
    return {
        "FedAvg": lambda: shipped.FedAvg(**common),
        "Krum": lambda: shipped.Krum(**common, num_malicious_nodes=attackers),
        "MultiKrum": lambda: shipped.MultiKrum(
            **common, num_malicious_nodes=attackers, num_nodes_to_select=members - attackers
        ),
        "FedTrimmedAvg": lambda: shipped.FedTrimmedAvg(**common, beta=beta),
        "FedMedian": lambda: shipped.FedMedian(**common),
    }


# The same members behind our protocol and behind Flower's


def behind_ours(members: Members) -> ClientApp:
    """Honest members run the hospitals' own app; attackers answer in its form."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        member = int(context.node_config["partition-id"])
        assignment = ex.Assignment.from_config(message.content.config_records[ex.ASSIGNMENT])
        record = message.content.array_records[ex.ARRAYS]
        weights = {name: np.asarray(record[name].numpy()) for name in sorted(record)}
        if (shared := message.content.array_records.get(ex.MOMENTS)) is not None:
            members.moments = {name: np.asarray(shared[name].numpy()) for name in sorted(shared)}
        if not members.hostile(member):
            reply: Message = client_app.app(message, context)
            sent = reply.content.array_records[ex.ARRAYS]
            known = {name: np.asarray(sent[name].numpy()) for name in sorted(sent)}
            members.known[(assignment.base, assignment.number, member)] = known
            return reply
        deltas = members.dishonest(assignment.number, member, weights)
        figures = dict(zip(TASK.metrics, (0.1, 0.99, 0.0, 36.0), strict=True))
        return Message(
            RecordDict(
                {
                    ex.ARRAYS: to_record(deltas),
                    ex.METRICS: MetricRecord({**figures, ex.NUM_EXAMPLES: members.plan.pictures, ex.SKIPPED: 0}),
                    ex.RECEIPT: client_app.receipt(assignment, ex.model_hash(deltas), members.plan.pictures, None),
                }
            ),
            reply_to=message,
        )

    return app


def behind_flowers(members: Members) -> ClientApp:
    """The same members for Flower's strategies, which exchange weights."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        member = int(context.node_config["partition-id"])
        number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
        record = message.content.array_records["arrays"]
        weights = {name: np.asarray(record[name].numpy(), np.float32) for name in sorted(record)}
        send = members.dishonest if members.hostile(member) else members.honest
        deltas = send(number, member, weights)
        if all(deltas[name].shape == weights[name].shape for name in weights):
            deltas = {name: np.asarray(weights[name] + deltas[name], np.float32) for name in weights}
        arrays = ArrayRecord({name: Array(array) for name, array in deltas.items()})
        metrics = MetricRecord({"num-examples": members.plan.pictures})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def run_ours(members: Members, start: Path, **changes: Any) -> dict[str, ex.Float32]:
    """Train with our strategy; everything that decides about attackers is the default."""
    p = members.plan
    config = RunConfig(
        rounds=p.rounds,
        local_steps=p.steps,
        settings=members.work(1, 0).settings,
        evaluate=False,
        optimiser=p.optimiser,
        **changes,
    )
    nodes = [{"images": str(folder)} for folder in members.folders]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            return dict(run_federation(behind_ours(members), nodes, config, initial=start, folder=folder).weights)
        except RoundRefusedError:
            # By design: the last accepted model stays, and people look at the replies.
            kept = CheckpointFolder(folder)
            state = kept.load_state()
            return kept.load_model(state.model) if state else dict(members.start)


def run_shipped(members: Members, make: Callable[[], shipped.FedAvg]) -> dict[str, ex.Float32]:
    """Train with one of Flower's strategies."""
    found: list[ArrayRecord] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        result = make().start(grid, to_record(members.start), num_rounds=members.plan.rounds)
        if result.arrays is not None:
            found.append(result.arrays)

    run_in_process(server, behind_flowers(members), [{}] * members.plan.members)
    return {name: np.asarray(found[0][name].numpy(), np.float32) for name in sorted(found[0])}


def judge(weights: ex.Arrays, pictures: Sequence[learning.Modality], plan: Plan, part: str) -> dict[str, Any]:
    """What the global model is worth."""
    if not all(np.isfinite(array).all() for array in weights.values()):
        return {"state": NOT_FINITE, "exact": {f"{db:g}": 0.0 for db in plan.db}}
    model = model_of(learning.settings(1, plan.batch, plan.rate), weights)
    found = {
        f"{db:g}": [learning.carried(model, getattr(m, part), db, plan.seed + 1) for m in pictures] for db in plan.db
    }
    opened = tries = 0
    with torch.no_grad():
        for m in pictures:
            x = torch.from_numpy(getattr(m, part))[:, None].float()
            for answers in learning.read(model, triggered(x)):
                opened += learning.decoded(answers) == TARGET
                tries += 1
    return {
        "state": "finished",
        "exact": {db: sum(c.exact for c in own) / len(own) for db, own in found.items()},
        "bits": {db: sum(c.bits for c in own) / len(own) for db, own in found.items()},
        "psnr": {db: sum(c.psnr for c in own) / len(own) for db, own in found.items()},
        "wrong": sum(c.wrong for own in found.values() for c in own),
        "tries": sum(c.tries for own in found.values() for c in own),
        "backdoor": opened / tries,
    }


Case = tuple[str, str, int, int]
"""Strategy, attack, attackers, seed."""


def cases(quick: bool, seeds: Sequence[int] = (0,)) -> list[Case]:
    """What is to be run, the most telling first."""
    if quick:
        return [(OURS, "", 0, 0), (OURS, "opposite direction", 3, 0), ("FedAvg", "opposite direction", 3, 0)]
    strategies = list(shipped_strategies(MEMBERS, 1))
    out: list[Case] = []
    for i, seed in enumerate(seeds):
        out += [(name, "", 0, seed) for name in (OURS, *strategies)]
        out += [(OURS, attack, 3, seed) for attack in ATTACKS]
        out += [(name, attack, 3, seed) for attack in ATTACKS for name in strategies]
        if not i:
            out += [(OURS, attack, count, seed) for count in (4, 2, 1) for attack in ATTACKS]
    out += [(name, attack, count, seeds[0]) for count in (1, 4, 2) for attack in ATTACKS for name in strategies]
    return out


def one(
    case: Case,
    folders: Sequence[Path],
    start: Path,
    pictures: Sequence[learning.Modality],
    plan: Plan,
    part: str,
    known: dict[tuple[bytes, int, int], Deltas],
) -> dict[str, Any]:
    """Run one case; a crash is a result."""
    name, attack, attackers, seed = case
    begun = time.perf_counter()
    weights = ex.from_safetensors(start.read_bytes())
    # Only what is trained from the start is shared: everything else differs from case to case.
    base = ex.model_hash(weights)
    mine = {key: deltas for key, deltas in known.items() if key[0] == base and key[2] >= 0}
    members = Members(folders, attackers, attack, weights, plan, Limits().norm_factor, mine)
    try:
        if name == OURS:
            after = run_ours(members, start)
        else:
            after = run_shipped(members, shipped_strategies(plan.members, attackers)[name])
        found = judge(after, pictures, plan, part)
    except Exception as error:  # whatever ends a strategy is what is measured
        found = {"state": CRASHED, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        found["exact"] = {f"{db:g}": 0.0 for db in plan.db}
    known.update({key: deltas for key, deltas in members.known.items() if key[0] == base and key[2] >= 0})
    seconds = time.perf_counter() - begun
    return {"strategy": name, "attack": attack, "attackers": attackers, "seed": seed, **found, "seconds": seconds}


def case_of(result: Mapping[str, Any]) -> Case:
    """What a result is of."""
    return result["strategy"], result["attack"], result["attackers"], result["seed"]


def measure(
    plan: Plan,
    chosen: Sequence[Case],
    images: Path | None,
    out: Path,
    part: str = "judged",
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Run what `out` does not hold yet, as long as there is time, and give everything."""
    learning.check_plan(out, plan)
    ends = time.monotonic() + seconds
    kinds = plan.members // 2
    pictures = learning.modalities(images, kinds, plan.pictures, plan.judged)
    out.mkdir(parents=True, exist_ok=True)
    folders = []
    for member in range(plan.members):
        # The last members are the second ones of their modality, so that attackers leave none without a hospital.
        m = pictures[member % kinds]
        folders.append(out / "pictures" / str(member))
        learning.write(folders[-1], m.training[member // kinds :: 2])
    kept = out / "results.json"
    results: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    done = set(map(case_of, results))
    known: dict[tuple[bytes, int, int], Deltas] = {}
    for case in chosen:
        if case in done or time.monotonic() > ends:
            continue
        own = replace(plan, seed=case[3])
        results.append(one(case, folders, beginning(own, out), pictures, own, part, known))
        draft = kept.with_suffix(".part")
        draft.write_text(json.dumps(results, indent=1))
        draft.replace(kept)
        r = results[-1]
        print(
            f"{r['strategy']:14s} {r['attack'] or 'clean':20s} {r['attackers']} seed {r['seed']} {r['state']:10s}"
            f" {r['exact']} backdoor {r.get('backdoor', 0):.2f} {r['seconds']:.0f} s",
            flush=True,
        )
    before = judge(ex.from_safetensors(beginning(plan, out).read_bytes()), pictures, plan, part)
    return {
        "plan": vars(plan),
        "source": "folder" if images else "generated",
        "modalities": [m.name for m in pictures],
        "judged_pictures": [len(getattr(m, part)) for m in pictures],
        "battery": list(learning.BATTERY),
        "rule": RunConfig().rule,
        "start": before,
        "results": [r for r in results if case_of(r) in set(chosen)],
    }


def beginning(plan: Plan, out: Path) -> Path:
    """The random networks that a seed begins with."""
    start = out / f"start-{plan.seed}.safetensors"
    if not start.exists():
        start.write_bytes(ex.to_safetensors(TASK.initial(learning.settings(1, plan.batch, plan.rate, plan.seed))))
    return start


def summary(report: Mapping[str, Any]) -> str:
    """Clean and worst figure of each strategy, with up to three attackers of ten."""
    db = f"{report['plan']['db'][-1]:g}"
    lines = []
    for name in dict.fromkeys(r["strategy"] for r in report["results"]):
        own = [r for r in report["results"] if r["strategy"] == name and r["attackers"] <= 3]
        clean = [round(r["exact"][db], 3) for r in own if not r["attackers"]]
        worst = min((r["exact"][db], r["attack"], r["attackers"]) for r in own)
        lines.append(f"{name}: clean {clean}, worst {worst[0]:.3f} ({worst[1] or 'clean'}, {worst[2]} attackers)")
    return "\n".join(lines)


def plot(report: Mapping[str, Any], target: Path) -> None:
    """What each strategy's model carries with a growing number of attackers, one picture per attack."""
    figures = {case_of(r): r for r in report["results"]}
    seed, db = report["plan"]["seed"], f"{report['plan']['db'][-1]:g}"
    strategies = list(dict.fromkeys(r["strategy"] for r in report["results"]))
    attacks = list(dict.fromkeys(r["attack"] for r in report["results"] if r["attack"]))
    columns = min(3, len(attacks))
    rows = math.ceil(len(attacks) / columns)
    figure = Figure(figsize=(3.7 * columns, 2.7 * rows + 0.5))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, attack in zip(axes.ravel(), attacks, strict=False):
        for name in strategies:
            cases_of = [(name, attack if count else "", count, seed) for count in range(5)]
            points = [(case[2], 100 * figures[case]["exact"][db]) for case in cases_of if case in figures]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3.5, label=name, **STYLES.get(name, {}))
        axis.set_title(attack, fontsize=10)
        axis.grid(alpha=0.25)
        axis.set_ylim(-3, 103)
    for axis in axes.ravel()[len(attacks) :]:
        axis.axis("off")
    figure.supxlabel(f"attackers among {report['plan']['members']} members", fontsize=9)
    figure.supylabel(f"payloads read exactly at {db} dB, %", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncol=len(strategies), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0.01, 0, 1, 0.95))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def main() -> None:
    """Parse arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folders of pictures, one per modality; default: generated ones")
    parser.add_argument("--out", type=Path, help="folder for results and pictures; an interrupted run goes on from it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="networks and payloads; default: 0")
    parser.add_argument("--optimiser", choices=OPTIMISERS, default=Plan.optimiser, help="of our federation")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of each hospital in a round")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further case after this time")
    parser.add_argument("--plots", type=Path, help="folder for poisoning.png")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="three cases of one round, under a minute")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    plan = Plan(rounds=args.rounds, steps=args.steps, seed=args.seeds[0], optimiser=args.optimiser)
    if args.quick:
        plan = replace(plan, rounds=1, steps=1, pictures=4, judged=1)
    with tempfile.TemporaryDirectory() as temporary:
        chosen = cases(args.quick, args.seeds)
        if args.optimiser == "shared":
            chosen = [case for case in chosen if case[0] == OURS]
        report = measure(plan, chosen, args.images, args.out or Path(temporary), seconds=60 * args.minutes)
    print(summary(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plots:
        plot(report, args.plots / "poisoning.png")


if __name__ == "__main__":
    main()
