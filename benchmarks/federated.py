"""Hospitals with one modality each: federated against local-only against pooled training.

    python -m benchmarks.federated [--hospitals 3 5] [--seeds 0 1] [--json FILE] [--out DIR] [--plots DIR]
        [--images DIR] [--optimiser own] [--rule mixed] [--rounds 8] [--steps 10] [--quick]

All start from the same random networks and make the same number of optimiser steps. A hospital sees ``batch`` pictures
a step, alone or in the federation; pooled training sees in each step as many as all hospitals together. Local and
pooled training keep their optimiser from the first step to the last, as anybody would who need not share; in the
federation it begins anew in every round, unless ``--optimiser shared``. The federation is the real ServerApp over the
hospitals' real ClientApp, with the default configuration but for these options. Judged are held-back pictures of every
modality: PSNR and the share of payloads that are read exactly through a fixed battery, at several strengths of the
mark. Everything is repeated with other networks, payloads and order of pictures; figures are means over the
repetitions, and the worst one is named.

Every finished training is kept in ``--out``; a run in that folder goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks import learning
from medprov_coordinator.aggregation import RULES
from medprov_coordinator.run import run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_node import client_app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Settings, Trainer
from medprov_watermark.training.moments import OPTIMISERS
from medprov_watermark.training.pictures import load_pictures
from medprov_watermark.training.tasks.base import own_randomness
from medprov_watermark.training.tasks.watermark import TASK, model_of

COLOURS = {"local": "#b8bec4", "federated": "#1f6f8b", "pooled": "#c98a1b", "start": "#5b6770"}


@dataclass(frozen=True)
class Plan:
    """How much is trained and judged."""

    rounds: int = 8
    steps: int = 10
    batch: int = 4
    rate: float = 3e-2
    """Short runs end before the warm-up of 200 steps does: the steps are 0.5 to 40 % of this."""
    pictures: int = 40
    judged: int = 8
    db: tuple[float, ...] = (38.0, 40.0, 42.0, 44.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    optimiser: str = RunConfig.optimiser
    rule: str = RunConfig.rule


Weights = dict[str, ex.Float32]


def alone(pictures: torch.Tensor, settings: Settings, start: Weights, seed: int) -> Weights:
    """Train with one optimiser over the whole run."""
    with own_randomness(seed):
        trainer = Trainer(pictures, settings, torch.device("cpu"))
        ex.load_state(trainer.model, start)
        torch.manual_seed(seed)
        while not trainer.finished:
            trainer.step()
    return ex.state_of(trainer.model)


def judge(weights: Weights, pictures: Sequence[learning.Modality], plan: Plan, part: str, seed: int) -> dict[str, Any]:
    """Figures of every modality and strength."""
    model = model_of(learning.settings(1, plan.batch, plan.rate), weights)
    return {
        m.name: {f"{db:g}": vars(learning.carried(model, getattr(m, part), db, seed + 1)) for db in plan.db}
        for m in pictures
    }


def federation(hospitals: int, plan: Plan, images: Path | None, out: Path, part: str = "judged") -> dict[str, Any]:
    """All trainings of a federation of so many hospitals, with every seed."""
    pictures = learning.modalities(images, hospitals, plan.pictures, plan.judged)
    folder = out / f"hospitals-{hospitals}"
    folders = []
    for m in pictures:
        folders.append(folder / "pictures" / m.name)
        learning.write(folders[-1], m.training)
    runs = [trainings(pictures, folders, plan, folder / f"seed-{seed}", part, seed) for seed in plan.seeds]
    return {
        "hospitals": hospitals,
        "modalities": [m.name for m in pictures],
        "training_pictures": [len(m.training) for m in pictures],
        "judged_pictures": [len(getattr(m, part)) for m in pictures],
        "trainings": mean(runs),
        "verdicts": {db: [verdict(run, db) for run in runs] for db in map("{:g}".format, plan.db)},
    }


def trainings(
    pictures: Sequence[learning.Modality], folders: Sequence[Path], plan: Plan, kept_in: Path, part: str, seed: int
) -> dict[str, Any]:
    """Figures of every training with one seed; those that `kept_in` holds are not made again."""
    hospitals = len(pictures)
    # What a hospital's node reads, so that all train on the same pixels.
    train = [load_pictures(own).train for own in folders]
    total = plan.rounds * plan.steps
    settings = learning.settings(total, plan.batch, plan.rate, seed)
    start = TASK.initial(settings)
    kept_in.mkdir(parents=True, exist_ok=True)
    beginning = kept_in / "start.safetensors"
    beginning.write_bytes(ex.to_safetensors(start))

    def federated() -> Weights:
        config = RunConfig(
            rounds=plan.rounds,
            local_steps=plan.steps,
            settings=settings,
            evaluate=False,
            optimiser=plan.optimiser,
            rule=plan.rule,
        )
        nodes = [{"images": str(own)} for own in folders]
        return dict(
            run_federation(client_app.app, nodes, config, initial=beginning, folder=kept_in / "federated").weights
        )

    def pooled() -> Weights:
        wide = learning.settings(total, plan.batch * hospitals, plan.rate, seed)
        return alone(torch.cat(train), wide, start, seed + 1)

    def local(number: int) -> Callable[[], Weights]:
        return lambda: alone(train[number], settings, start, seed + 1)

    jobs: dict[str, Callable[[], Weights]] = {"start": lambda: start, "federated": federated, "pooled": pooled}
    jobs |= {f"local {m.name}": local(i) for i, m in enumerate(pictures)}
    found: dict[str, Any] = {}
    for name, job in jobs.items():
        kept = kept_in / f"{name}.json"
        if not kept.exists():
            begun = time.perf_counter()
            figures = judge(job(), pictures, plan, part, seed)
            seconds = time.perf_counter() - begun
            draft = kept.with_suffix(".part")
            draft.write_text(json.dumps({"figures": figures, "seconds": seconds}))
            draft.replace(kept)
            shares = {db: round(exact(figures, db), 3) for db in map("{:g}".format, plan.db)}
            print(f"{hospitals} hospitals, seed {seed}, {name}: {shares}, {seconds:.0f} s", flush=True)
        found[name] = json.loads(kept.read_text())["figures"]
    return found


def mean(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over the repetitions: payloads are counted together, everything else is a mean."""

    def one(name: str, modality: str, db: str) -> dict[str, float]:
        own = [run[name][modality][db] for run in runs]
        total = {key: sum(o[key] for o in own) for key in own[0]}
        return {key: v if key in ("wrong", "tries") else v / len(own) for key, v in total.items()}

    return {
        name: {m: {db: one(name, m, db) for db in by_db} for m, by_db in figures.items()}
        for name, figures in runs[0].items()
    }


def exact(figures: Mapping[str, Any], db: str, names: Sequence[str] | None = None) -> float:
    """Mean exact share over modalities."""
    return float(np.mean([figures[name][db]["exact"] for name in names or list(figures)]))


def verdict(trainings: Mapping[str, Any], db: str) -> dict[str, float]:
    """Federated in relation to pooled, and how far the best local model stays behind it on others' modalities."""
    together, pooled = (exact(trainings[name], db) for name in ("federated", "pooled"))
    margins = []
    for name, figures in trainings.items():
        if name.startswith("local "):
            others = [m for m in figures if m != name.removeprefix("local ")]
            margins.append(exact(trainings["federated"], db, others) - exact(figures, db, others))
    return {
        "federated": together,
        "pooled": pooled,
        "of_pooled": together / pooled if pooled else float("nan"),
        "least_margin_over_local": min(margins),
    }


def plot(report: Mapping[str, Any], target: Path) -> None:
    """Bars of every modality: what others' local models, the own one, the federation and pooled training carry."""
    runs = report["federations"]
    figure = Figure(figsize=(11, 3.4 * len(runs)))
    for axis, run in zip(np.atleast_1d(figure.subplots(len(runs), 1)), runs, strict=True):
        names, trainings = run["modalities"], run["trainings"]
        db = f"{report['plan']['db'][-1]:g}"
        places = np.arange(len(names) + 1)
        rows: dict[str, tuple[str, list[float]]] = {
            "start (untrained)": (COLOURS["start"], [trainings["start"][m][db]["exact"] for m in names]),
            "local, mean of the other hospitals": (
                COLOURS["local"],
                [float(np.mean([trainings[f"local {o}"][m][db]["exact"] for o in names if o != m])) for m in names],
            ),
            "local, the own hospital": ("#7a8791", [trainings[f"local {m}"][m][db]["exact"] for m in names]),
            "federated": (COLOURS["federated"], [trainings["federated"][m][db]["exact"] for m in names]),
            "pooled": (COLOURS["pooled"], [trainings["pooled"][m][db]["exact"] for m in names]),
        }
        for i, (label, (colour, values)) in enumerate(rows.items()):
            heights = [100 * v for v in [*values, float(np.mean(values))]]
            axis.bar(places + (i - 2) * 0.16, heights, 0.16, label=label, color=colour)
        axis.set_xticks(places, [*names, "mean"])
        axis.set_ylabel("payloads read exactly, %")
        axis.set_ylim(0, 104)
        axis.grid(axis="y", alpha=0.25)
        axis.set_title(f"{len(names)} hospitals with one modality each, marks at {db} dB", fontsize=10)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=5, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.12 / len(runs), 1, 1))
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def measure(
    hospitals: Sequence[int], plan: Plan, images: Path | None, out: Path, part: str = "judged"
) -> dict[str, Any]:
    """Everything, for several sizes of federation."""
    learning.check_plan(out, plan)
    return {
        "plan": vars(plan),
        "source": "folder" if images else "generated",
        "battery": list(learning.BATTERY),
        "federations": [federation(count, plan, images, out, part) for count in hospitals],
    }


def main() -> None:
    """Parse arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=Plan.seeds)
    parser.add_argument("--optimiser", choices=OPTIMISERS, default=Plan.optimiser, help="of the federation")
    parser.add_argument("--rule", choices=RULES, default=Plan.rule)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of each hospital in a round")
    parser.add_argument("--images", type=Path, help="folders of pictures, one per modality; default: generated ones")
    parser.add_argument("--out", type=Path, help="folder for results and pictures; an interrupted run goes on from it")
    parser.add_argument("--plots", type=Path, help="folder for federated.png")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="three hospitals, two short rounds, under a minute")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    way = {"optimiser": args.optimiser, "rule": args.rule}
    short = Plan(rounds=2, steps=1, batch=2, pictures=4, judged=1, db=(38.0,), seeds=(0,), **way)
    plan = short if args.quick else Plan(rounds=args.rounds, steps=args.steps, seeds=tuple(args.seeds), **way)
    with tempfile.TemporaryDirectory() as temporary:
        chosen = [3] if args.quick else args.hospitals
        report = measure(chosen, plan, args.images, args.out or Path(temporary))
    for run in report["federations"]:
        for db, repeats in run["verdicts"].items():
            for seed, v in zip(plan.seeds, repeats, strict=True):
                print(
                    f"{run['hospitals']} hospitals, {db} dB, seed {seed}: federated {v['federated']:.3f}, pooled"
                    f" {v['pooled']:.3f} ({100 * v['of_pooled']:.1f} %), ahead of every local model on others'"
                    f" modalities by at least {100 * v['least_margin_over_local']:.1f} points"
                )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plots:
        plot(report, args.plots / "federated.png")


if __name__ == "__main__":
    main()
