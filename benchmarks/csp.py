"""What a cross-stage partial (CSP) body of the coupling network saves against a plain one of the same width.

    python -m benchmarks.csp [--images DIR] [--seeds N] [--steps N] [--json FILE] [--quick]

Trains the whole of W1 (coupling network and extractor) with either body from the same start, over the same pictures,
signs and attacks, in short turns within one process. "To the target" is until the validation loss of the averaged
weights first reaches the worse of the two final ones. Seconds are processor time of one thread; validation does not
count. Without ``--images`` the pictures that ship with scikit-image are used.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import split
from medprov_watermark import carriers as cr
from medprov_watermark.training.evaluation import measure
from medprov_watermark.training.loop import Model, Progress, Settings, Trainer
from medprov_watermark.training.networks import CouplingNetwork

BODIES = ("partial", "plain")
DB = 40.0
"""PSNR of the marked pictures, in training and validation."""
ON_THE_WAY = (0.25, 0.5, 0.75)
"""Shares of the way to the target at which the times are compared too."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """How long and how closely to look.

    Parameters
    ----------
    settings : Settings
    turn : int
        Steps until the other body has its turn.
    every : int
        Steps from one validation to the next, a multiple of `turn`.
    repeats : int
        Runs of each timing of a network alone.
    """

    settings: Settings
    turn: int = 5
    every: int = 40
    repeats: int = 20


@dataclass(frozen=True)
class Point:
    """A validation: steps and seconds of training so far, and what they brought."""

    step: int
    seconds: float
    loss: float
    accuracy: float


def with_body(model: Model, partial: bool, seed: int) -> None:
    """Give a fresh model's coupling network the one or the other body; all else keeps its first values."""
    former = model.coupling
    torch.manual_seed(seed)
    network = CouplingNetwork(former.channels, former.blocks, partial)
    shared = {name: value for name, value in former.state_dict().items() if not name.startswith("body.")}
    network.load_state_dict(shared, strict=False)
    model.coupling = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Contestant:
    """A training run in turns, with random numbers of its own.

    Parameters
    ----------
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
    settings : Settings
    partial : bool
    """

    def __init__(self, pictures: Tensor, settings: Settings, partial: bool) -> None:
        self.trainer = trainer = Trainer(pictures, settings, CPU)
        with_body(trainer.model, partial, settings.seed)
        trainer.average = copy.deepcopy(trainer.model)
        trainer.optimiser.param_groups[0]["params"] = list(trainer.model.parameters())
        # A run as short as this would spend its time in the curriculum's first, easy part.
        trainer.progress = Progress(accuracy=0.5, probability=0.9, db=DB)
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)
        self._random = torch.random.get_rng_state(), random.getstate()
        self.turns: list[float] = []
        self.curve: list[Point] = []

    def train(self, steps: int) -> None:
        """One turn."""
        torch.random.set_rng_state(self._random[0])
        random.setstate(self._random[1])
        started = time.process_time()
        for _ in range(steps):
            self.trainer.step()
        self.turns.append((time.process_time() - started) / steps)
        self._random = torch.random.get_rng_state(), random.getstate()

    def validate(self, pictures: Tensor, turn: int) -> None:
        found = measure(self.trainer.average, pictures, db=DB)
        self.curve.append(Point(self.trainer.progress.step, sum(self.turns) * turn, found.loss, found.accuracy))


def reached(curve: list[Point], target: float) -> tuple[float, float]:
    """Steps and seconds at which a curve first comes down to a loss, between two validations on a straight line.

    Raises
    ------
    ValueError
        It never does.
    """
    before: Point | None = None
    for point in curve:
        if point.loss <= target:
            if before is None:
                return float(point.step), point.seconds
            share = (before.loss - target) / (before.loss - point.loss)
            return (
                before.step + share * (point.step - before.step),
                before.seconds + share * (point.seconds - before.seconds),
            )
        before = point
    raise ValueError("the curve does not come down to the target")


def contest(pictures: Tensor, validation: Tensor, plan: Plan) -> dict[str, Any]:
    """Train both bodies from one seed."""
    pair = {body: Contestant(pictures, plan.settings, body == "partial") for body in BODIES}
    for runner in pair.values():
        runner.validate(validation, plan.turn)
    for step in range(plan.turn, plan.settings.steps + 1, plan.turn):
        for runner in pair.values():
            runner.train(plan.turn)
            if step % plan.every == 0:
                runner.validate(validation, plan.turn)
    return compared(
        plan.settings.seed,
        {body: runner.curve for body, runner in pair.items()},
        {body: runner.turns for body, runner in pair.items()},
    )


def compared(seed: int, curves: dict[str, list[Point]], turns: dict[str, list[float]]) -> dict[str, Any]:
    """What two runs say about each other, from their validations and their seconds per step by turn.

    `on_the_way` holds the ratios for losses between the better start and the target, by the share of the way on a
    logarithmic scale.
    """
    target = max(min(point.loss for point in curve) for curve in curves.values())
    out: dict[str, Any] = {"seed": seed, "target_loss": target}
    for body, curve in curves.items():
        steps, seconds = reached(curve, target)
        out[body] = {
            "seconds_per_step": statistics.fmean(turns[body]),
            "steps_to_target": steps,
            "seconds_to_target": seconds,
            "final_loss": curve[-1].loss,
            "final_accuracy": curve[-1].accuracy,
            "curve": [vars(point) for point in curve],
        }
    out["ratio_step_by_turn"] = [a / b for a, b in zip(turns["partial"], turns["plain"], strict=True)]
    for name, figure in (("step", "seconds_per_step"), ("steps", "steps_to_target"), ("target", "seconds_to_target")):
        # Both may have met the target before the first step.
        out[f"ratio_{name}"] = out["partial"][figure] / max(out["plain"][figure], 1e-9)
    start = min(curve[0].loss for curve in curves.values())
    out["on_the_way"] = {}
    for share in ON_THE_WAY:
        # powers may round below a target that no curve goes below
        loss = max(target, max(target, start) ** (1 - share) * target**share)
        (steps, seconds), (steps_plain, seconds_plain) = (reached(curves[body], loss) for body in BODIES)
        ratios = {"steps": steps / max(steps_plain, 1e-9), "seconds": seconds / max(seconds_plain, 1e-9)}
        out["on_the_way"][f"{share:.0%}"] = {"loss": loss, **ratios}
    return out


def multiply_adds(network: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiply-adds of the convolutions for these inputs, by the name of the outermost module."""
    counts: dict[str, int] = {}
    hooks = []

    def count(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            positions = result.shape[0] * result.shape[2] * result.shape[3]
            counts[name] = counts.get(name, 0) + module.get_parameter("weight").numel() * positions

        return hook

    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.ndim == 4:
            hooks.append(module.register_forward_hook(count(name.split(".")[0])))
    with torch.no_grad():
        network(*inputs)
    for handle in hooks:
        handle.remove()
    return counts


def alternating(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor seconds of some tasks, run in turns."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeats + 2):
        for name, task in tasks.items():
            started = time.process_time()
            task()
            if round_ >= 2:
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _body(network: CouplingNetwork, x: Tensor) -> Tensor:
    for block in network.body:
        x = block(x)
    return x


def _trained(network: CouplingNetwork, x: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _body(network, x).float().square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()


@torch.no_grad()
def _run(task: Callable[..., Tensor], *inputs: Any) -> None:
    task(*inputs)


def networks(settings: Settings, repeats: int) -> dict[str, Any]:
    """Size, multiply-adds and time of both coupling networks and of their bodies alone; the extractor beside them."""
    model = Model(settings)
    picture, pattern = torch.rand(1, 1, cr.SIZE, cr.SIZE).mul(255).floor(), torch.zeros(1, 1, cr.SIZE, cr.SIZE)
    side = cr.SIZE // 8
    out: dict[str, Any] = {}
    timed: dict[str, dict[str, Callable[[], object]]] = {"inference": {}, "inference_body": {}, "training_body": {}}
    for body in BODIES:
        with_body(model, body == "partial", settings.seed)
        network = model.coupling
        counts = multiply_adds(network, picture, pattern)
        out[body] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "parameters_body": sum(p.numel() for p in network.body.parameters()),
            "multiply_adds": sum(counts.values()),
            "multiply_adds_body": counts["body"],
        }
        one = torch.rand(1, network.through, side, side).contiguous(memory_format=torch.channels_last)
        many = torch.rand(settings.batch, network.through, side, side, requires_grad=True)
        timed["inference"][body] = lambda n=network: _run(n, picture, pattern)  # type: ignore[misc]
        timed["inference_body"][body] = lambda n=network, x=one: _run(_body, n, x)  # type: ignore[misc]
        timed["training_body"][body] = lambda n=network, x=many: _trained(n, x)  # type: ignore[misc]
    out["extractor"] = {"multiply_adds": sum(multiply_adds(model.extractor, picture).values())}
    for name, tasks in timed.items():
        for body, seconds in alternating(tasks, repeats).items():
            out[body][f"seconds_{name}"] = seconds
    for figure in out["plain"]:
        out[f"ratio_{figure.removeprefix('seconds_')}"] = out["partial"][figure] / out["plain"][figure]
    return out


def _over_seeds(ratios: list[float]) -> dict[str, float]:
    mean = math.exp(statistics.fmean(math.log(max(r, 1e-9)) for r in ratios))
    return {"mean": mean, "low": min(ratios), "high": max(ratios)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios partial / plain over the seeds: geometric mean, least and largest."""
    out: dict[str, Any] = {"seeds": len(rows)}
    for name in ("ratio_step", "ratio_steps", "ratio_target"):
        out[name] = _over_seeds([row[name] for row in rows])
    out["on_the_way"] = {
        share: _over_seeds([row["on_the_way"][share]["seconds"] for row in rows]) for share in rows[0]["on_the_way"]
    }
    turns = sorted(ratio for row in rows for ratio in row["ratio_step_by_turn"])
    out["ratio_step_by_turn"] = {
        "median": statistics.median(turns),
        "p10": turns[len(turns) // 10],
        "p90": turns[-1 - len(turns) // 10],
    }
    return out


def measured(pictures: split.Split, plan: Plan, seeds: int) -> dict[str, Any]:
    """All figures.

    Parameters
    ----------
    pictures : Split
    plan : Plan
    seeds : int
        From the plan's own upwards.
    """
    trained = torch.from_numpy(pictures.training)[:, None]
    validation = torch.stack([torch.from_numpy(picture) for _, picture in pictures.judged])[:, None]
    rows = []
    for seed in range(plan.settings.seed, plan.settings.seed + seeds):
        row = contest(trained, validation, replace(plan, settings=replace(plan.settings, seed=seed)))
        show_contest(row)
        rows.append(row)
    total = summary(rows)
    alone = networks(plan.settings, plan.repeats)
    return {
        "summary": total,
        "networks": alone,
        "runs": rows,
        "pictures": {"training": len(trained), "validation": len(validation)},
        "settings": {"steps": plan.settings.steps, "batch": plan.settings.batch, "db": DB},
    }


def show_contest(row: dict[str, Any]) -> None:
    for body in BODIES:
        f = row[body]
        print(
            f"seed {row['seed']}  {body:8s}{1000 * f['seconds_per_step']:7.1f} ms/step  "
            f"final loss {f['final_loss']:.4f}  bits right {f['final_accuracy']:.4f}  "
            f"to the target {f['steps_to_target']:6.1f} steps {f['seconds_to_target']:7.1f} s",
            flush=True,
        )


def show(data: dict[str, Any]) -> None:
    """Print the table."""
    alone, total = data["networks"], data["summary"]
    print(f"{'':34s}{'partial':>12s}{'plain':>12s}{'ratio':>8s}")
    for label, figure, scale in (
        ("parameters", "parameters", 1.0),
        ("  of the body", "parameters_body", 1.0),
        ("multiply-adds, millions", "multiply_adds", 1e-6),
        ("  of the body", "multiply_adds_body", 1e-6),
        ("inference, ms", "seconds_inference", 1e3),
        ("  of the body", "seconds_inference_body", 1e3),
        ("training step of the body, ms", "seconds_training_body", 1e3),
    ):
        a, b = (alone[body][figure] * scale for body in BODIES)
        print(f"{label:34s}{a:12.2f}{b:12.2f}{a / b:8.3f}")
    print(f"multiply-adds of the extractor: {alone['extractor']['multiply_adds'] / 1e6:.0f} millions")
    lines = [
        ("time of a whole step", total["ratio_step"]),
        ("steps to the target", total["ratio_steps"]),
        ("time to the target", total["ratio_target"]),
        *((f"time for {share} of the way", r) for share, r in total["on_the_way"].items()),
    ]
    for label, r in lines:
        bounds = f"{r['low']:.3f} .. {r['high']:.3f}, {total['seeds']} seeds"
        print(f"partial / plain, {label:24s}{r['mean']:.3f}  ({bounds})")
    r = total["ratio_step_by_turn"]
    print(f"partial / plain, step, by turn       {r['median']:.3f}  ({r['p10']:.3f} .. {r['p90']:.3f}, middle 80 %)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps, under a minute")
    args = parser.parse_args()
    # Processor time is time only where one thread works.
    torch.set_num_threads(1)
    steps, seeds, judged = (20, 1, 2) if args.quick else (args.steps, args.seeds, 16)
    plan = Plan(Settings(steps=steps, batch=args.batch, adversarial_weight=0.0), every=10 if args.quick else 40)
    data = measured(split.make(args.images, 16 if args.quick else 256, judged), plan, seeds)
    show(data)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
