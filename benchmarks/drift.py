"""Unlike hospitals behind pooled training: how much of it is the optimiser, how much the aggregation rule.

    python -m benchmarks.drift [--hospitals 10] [--seeds 0 1] [--rounds 8] [--steps 10] [--rate 0.03]
        [--images DIR] [--json FILE] [--out DIR] [--quick]

Trains the networks and pictures of ``benchmarks.federated`` with the product's own loop and aggregation, without
gate, probe and transport, and changes two things: the rule, and what becomes of a hospital's optimiser between two
rounds. ``fresh`` begins anew, as the product does by default. ``kept`` goes on with the hospital's own moments.
``shared`` begins with the mean of all hospitals' moments, which they would have to send; the product's own shared
optimiser, which needs no moments from them, is measured by ``benchmarks.federated`` (Karimireddy et al., 2020, Mime);
nobody attacks here, so that mean is taken as it is. Judged are the tuning pictures, because ways are compared here and
not reported.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks import learning
from benchmarks.federated import Plan, Weights, alone, exact, judge
from medprov_coordinator.aggregation import aggregate, apply
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Update, flatten
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Progress, Settings, Trainer
from medprov_watermark.training.tasks.base import own_randomness
from medprov_watermark.training.tasks.watermark import PROBABILITY, TARGET_DB, TASK

Between = Literal["fresh", "kept", "shared"]
Moments = list[dict[str, Tensor]]
"""Adam's state of each parameter, in the order of the parameters."""


@dataclass(frozen=True)
class Way:
    """A federation that is compared."""

    rule: str
    between: Between

    @property
    def name(self) -> str:
        """For tables and file names."""
        return f"{self.rule}, {self.between}"


WAYS = (
    Way("mean", "fresh"),
    Way("mean", "kept"),
    Way("mean", "shared"),
    Way("mixed", "fresh"),
    Way("mixed", "shared"),
)


@dataclass(frozen=True)
class Local:
    """What a hospital has after its steps of one round."""

    deltas: Weights
    moments: Moments
    reached: dict[str, float]


def local(
    pictures: Tensor,
    settings: Settings,
    weights: Weights,
    progress: Mapping[str, float],
    moments: Moments | None,
    steps: int,
    seed: int,
) -> Local:
    """One hospital's steps, from the moments of somebody or from none."""
    with own_randomness(seed):
        trainer = Trainer(pictures, settings, torch.device("cpu"))
        ex.load_state(trainer.model, weights)
        trainer.progress = Progress(
            step=int(progress["step"]),
            accuracy=progress["accuracy"],
            probability=progress["probability"],
            db=progress["db"],
        )
        torch.manual_seed(seed)
        random.seed(seed)
        trainer.random = random.Random(seed)
        trainer.model.train()
        parameters = list(trainer.model.parameters())
        if moments is not None:
            for parameter, state in zip(parameters, moments, strict=True):
                trainer.optimiser.state[parameter] = {name: value.clone() for name, value in state.items()}
        for _ in range(steps):
            trainer.step()
    after = ex.state_of(trainer.model)
    p = trainer.progress
    return Local(
        {name: np.asarray(after[name] - weights[name], np.float32) for name in after},
        [{name: value.clone() for name, value in trainer.optimiser.state[q].items()} for q in parameters],
        {ex.BIT_ACCURACY: p.accuracy, PROBABILITY: p.probability, TARGET_DB: p.db},
    )


def averaged(hospitals: Sequence[Moments]) -> Moments:
    """Mean of the moments over the hospitals; all have made the same number of steps."""
    return [
        {name: torch.stack([state[name] for state in same]).mean(0) for name in same[0]}
        for same in zip(*hospitals, strict=True)
    ]


def federation(pictures: Sequence[Tensor], settings: Settings, plan: Plan, way: Way, seed: int) -> Weights:
    """All rounds of one way of training together."""
    weights: Weights = TASK.initial(settings)
    progress = TASK.begin(settings)
    moments: list[Moments | None] = [None] * len(pictures)
    for number in range(plan.rounds):
        done = [
            local(own, settings, weights, progress, moments[i], plan.steps, 1000 * (seed + number) + i)
            for i, own in enumerate(pictures)
        ]
        merged = aggregate(updates([one.deltas for one in done]), way.rule, step=RunConfig().server_step)
        weights = apply(weights, merged.deltas)
        reached = {name: float(np.median([one.reached[name] for one in done])) for name in done[0].reached}
        progress = TASK.advance(progress, plan.steps, reached)
        if way.between == "kept":
            moments = [one.moments for one in done]
        elif way.between == "shared":
            moments = [averaged([one.moments for one in done])] * len(pictures)
    return weights


def updates(deltas: Sequence[Weights]) -> list[Update]:
    """Differences as the gate would hand them on, all of one weight."""
    norms = [float(np.linalg.norm(flatten(own))) for own in deltas]
    return [
        Update(i, own, 1.0, {}, norm, bytes([i]) * 32, bytes(32), "", b"")
        for i, (own, norm) in enumerate(zip(deltas, norms, strict=True))
    ]


def measure(hospitals: int, plan: Plan, images: Path | None, out: Path) -> dict[str, Any]:
    """Every way with every seed, and pooled training; what `out` holds already is not trained again."""
    modalities = learning.modalities(images, hospitals, plan.pictures, plan.judged)
    pictures = [torch.from_numpy(m.training)[:, None] for m in modalities]
    total = plan.rounds * plan.steps
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in plan.seeds:
        settings = learning.settings(total, plan.batch, plan.rate, seed)
        wide = learning.settings(total, plan.batch * hospitals, plan.rate, seed)
        for name in ("pooled", *(way.name for way in WAYS)):
            of = f"{hospitals} hospitals, {plan.rounds} x {plan.steps}, rate {plan.rate:g}, seed {seed}"
            kept = out / f"{of}, {name}.json"
            if not kept.exists():
                if name == "pooled":
                    weights = alone(torch.cat(pictures), wide, TASK.initial(settings), seed + 1)
                else:
                    way = next(one for one in WAYS if one.name == name)
                    weights = federation(pictures, settings, plan, way, seed)
                kept.write_text(json.dumps(judge(weights, modalities, plan, "tuning", seed)))
            figures = json.loads(kept.read_text())
            found.setdefault(name, []).append(figures)
            shares = {f"{db:g}": round(exact(figures, f"{db:g}"), 3) for db in plan.db}
            print(f"{hospitals} hospitals, seed {seed}, {name}: {shares}", flush=True)
    return {
        "plan": vars(plan),
        "hospitals": hospitals,
        "modalities": [m.name for m in modalities],
        "source": "folder" if images else "generated",
        "ways": {
            name: {
                f"{db:g}": {
                    "exact": float(np.mean([exact(one, f"{db:g}") for one in runs])),
                    "modalities": {
                        m.name: float(np.mean([one[m.name][f"{db:g}"]["exact"] for one in runs])) for m in modalities
                    },
                }
                for db in plan.db
            }
            for name, runs in found.items()
        },
    }


def main() -> None:
    """Parse arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of each hospital in a round")
    parser.add_argument("--rate", type=float, default=Plan.rate)
    parser.add_argument("--images", type=Path, help="folders of pictures, one per modality; default: generated ones")
    parser.add_argument("--out", type=Path, help="folder for results; an interrupted run goes on from it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="five hospitals, two rounds of one step")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = Plan(rounds=args.rounds, steps=args.steps, rate=args.rate, seeds=tuple(args.seeds))
    if args.quick:
        plan = Plan(rounds=2, steps=1, batch=1, pictures=2, judged=1, db=(38.0,), seeds=(0,))
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        report = measure(5 if args.quick else args.hospitals, plan, args.images, out)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
