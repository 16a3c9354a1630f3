"""Can one tell from a model whose pictures it was trained on? Attacks on models trained with and without noise.

A small federation of real hospitals (the product's strategy, ClientApp and training) is trained on few pictures until
it has seen each of them often. Then three attackers who know pictures and model guess which pictures were in it:

- threshold: a low loss means member (Yeom et al., CSF 2018);
- calibrated: a loss that fell since the start, which is public (Watson et al., ICLR 2022);
- likelihood: the fall in units of what shadow models, trained on other pictures, show on pictures that they do not
  know (Carlini et al., S&P 2022, section VI-C, offline).

Reported are the area under the ROC curve and the true-positive rate at 1 % false positives, with 95 % bootstrap
intervals: 0.5 and 0.01 are guessing. With ``--images`` the released weights are attacked too: members are their
training pictures, the others those that were held back from it.

``python -m benchmarks.membership [--images DIR] [--json FILE] [--quick]``
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medprov_coordinator.grid import run_in_process
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.server_app import make_server_app
from medprov_coordinator.strategy import GatedStrategy
from medprov_node.client_app import app as client_app
from medprov_watermark.training import data
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.evaluation import measure
from medprov_watermark.training.loop import Model, Settings, embed, random_values
from medprov_watermark.training.phantoms import phantom, phantoms
from medprov_watermark.training.tasks.watermark import model_of
from medprov_watermark.weights import FOLDER, RELEASE

RELEASED = FOLDER / f"{RELEASE}.safetensors"
FALSE_POSITIVES = 0.01
RESAMPLES = 1000
DELTA = 1e-5
PROBED = 16
"""Generated pictures that bit accuracy is measured on."""


@dataclass(frozen=True)
class Plan:
    """How much is trained.

    Parameters
    ----------
    hospitals, pictures : int
        Hospitals, and pictures of each.
    others : int
        Pictures that no model was trained on.
    rounds, steps : int
        Rounds, and steps of each hospital in one.
    noises : tuple of float
        Noise multipliers of the models with central differential privacy.
    clip : float
        Largest norm of an update.
    shadows : int
        Models that the third attacker trains.
    draws : int
        Marks that a picture's loss is the mean over.
    settings : Settings
    released : bool
        Whether training starts from the released weights.
    """

    hospitals: int
    pictures: int
    others: int
    rounds: int
    steps: int
    noises: tuple[float, ...]
    clip: float
    shadows: int
    draws: int
    settings: Settings
    released: bool


FULL = Plan(3, 8, 100, 4, 20, (0.01, 1.0), 1.0, 2, 4, Settings(steps=0, batch=4, rate=1e-3, start_db=40.0), True)
SMALL = Settings(steps=0, batch=4, rate=3e-3, channels=8, blocks=1, extractor_blocks=1)
QUICK = Plan(3, 2, 12, 2, 2, (1.0,), 1.0, 1, 1, SMALL, False)


@torch.no_grad()
def losses(model: Model, pictures: Tensor, draws: int, db: float = 40.0) -> NDArray[np.float64]:
    """Training loss of every picture, mean over some random marks that are the same for all models.

    Parameters
    ----------
    model : Model
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
    draws : int
    db : float
        PSNR of the marks.

    Returns
    -------
    float64 array (N,)
    """
    out = np.zeros(len(pictures))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(draws):
            for start in range(0, len(pictures), 8):
                x = pictures[start : start + 8].float()
                values = random_values(len(x), torch.device("cpu"))
                marked = embed(model.coupling, x, values, torch.full((len(x), 1, 1, 1), db))
                answers = model.extractor(marked.clamp(0, 255).round()) * model.log_scale.exp() * values
                written = (values != 0).float()
                found = (F.softplus(-answers) * written).sum(1) / written.sum(1)
                out[start : start + 8] += found.double().numpy() / draws
    return out


def area(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Area under the ROC curve: chance that a member scores above another picture, ties counting half."""
    above = (members[:, None] > others[None]).mean()
    return float(above + (members[:, None] == others[None]).mean() / 2)


def true_positives(members: NDArray[np.float64], others: NDArray[np.float64], share: float = FALSE_POSITIVES) -> float:
    """Share of members found at a threshold that at most `share` of the others pass."""
    allowed = int(share * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


def attacked(members: NDArray[np.float64], others: NDArray[np.float64], seed: int = 0) -> dict[str, Any]:
    """Both figures with their 95 % intervals by the percentile bootstrap over pictures."""
    rng = np.random.default_rng(seed)
    areas, rates = [], []
    for _ in range(RESAMPLES):
        one, other = rng.choice(members, len(members)), rng.choice(others, len(others))
        areas.append(area(one, other))
        rates.append(true_positives(one, other))
    return {
        "auc": area(members, others),
        "auc_interval": [float(q) for q in np.quantile(areas, (0.025, 0.975))],
        "tpr": true_positives(members, others),
        "tpr_interval": [float(q) for q in np.quantile(rates, (0.025, 0.975))],
    }


@dataclass(frozen=True)
class Pictures:
    """Files by hospital, and all pictures as tensors."""

    folders: list[Path]
    members: Tensor
    others: Tensor


def made(plan: Plan, folder: Path, seed: int) -> Pictures:
    """Generated pictures, written as files that the hospitals train on and hold nothing back from."""
    folders, paths, number = [], [], 0
    for i in range(plan.hospitals):
        folders.append(folder / f"hospital-{i}")
        folders[-1].mkdir(parents=True)
        for _ in range(plan.pictures):
            number = next(n for n in range(number + 1, 10**9) if not data.held_back(folders[-1] / f"p_{n}.png"))
            paths.append(folders[-1] / f"p_{number}.png")
            Image.fromarray(phantom(seed * 1_000_000 + number)).save(paths[-1])
    others = np.stack([phantom(seed * 1_000_000 + 500_000 + i) for i in range(plan.others)])
    return Pictures(folders, data.load(paths), torch.from_numpy(others)[:, None])


def found(plan: Plan, folder: Path, images: Path, seed: int) -> Pictures:
    """A selection of real pictures: members from the training split, the others from what is held back."""
    training, held = split(images)
    rng = np.random.default_rng(seed)
    count = plan.hospitals * plan.pictures
    if len(training) < count or len(held) < 2:
        raise SystemExit(f"{images}: {len(training)} training and {len(held)} held-back pictures are too few")
    chosen = [training[i] for i in rng.permutation(len(training))[:count]]
    folders = [folder / f"hospital-{i}" for i in range(plan.hospitals)]
    for i, path in enumerate(chosen):
        link = folders[i % plan.hospitals] / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    others = [held[i] for i in rng.permutation(len(held))[: plan.others]]
    return Pictures(folders, data.load(chosen), data.load(others))


def split(images: Path) -> tuple[list[Path], list[Path]]:
    """Training pictures and held-back ones below a folder, as a release's training divides them."""
    paths = data.list_images(images)
    return [p for p in paths if not data.held_back(p)], [p for p in paths if data.held_back(p)]


def train(plan: Plan, pictures: Pictures, noise: float, seed: int = 0) -> tuple[dict[str, ex.Float32], float]:
    """Weights of a federation over the pictures, and the epsilon that its record states (infinite without noise)."""
    privacy = PrivacySettings("central-dp", plan.clip, noise, DELTA) if noise else PrivacySettings()
    settings = Settings(**{**asdict(plan.settings), "seed": seed, "adversarial_weight": 0.0})
    config = RunConfig(
        rounds=plan.rounds,
        local_steps=plan.steps,
        settings=settings,
        quorum=plan.hospitals,
        rule="mean",
        server_step=1.0,
        evaluate=False,
        probe_pictures=1,
        # Noise that ruins the model is a result here, and no reason to refuse the round.
        probe_tolerance=1.0,
        privacy=privacy,
    )
    runs: list[GatedStrategy] = []
    flat = {**config.to_flat(), **({"initial-weights": str(RELEASED)} if plan.released else {})}
    nodes = [{"images": str(folder)} for folder in pictures.folders]
    run_in_process(make_server_app(Services(), runs.append), client_app, nodes, flat)
    epsilon: Any = runs[0].reports[-1].privacy.get("epsilon", {})
    return runs[0].weights, max(epsilon.values()) if epsilon else float("inf")


def start(plan: Plan) -> dict[str, ex.Float32]:
    """The public weights that training starts from."""
    config = RunConfig(settings=Settings(**{**asdict(plan.settings), "adversarial_weight": 0.0}))
    return config.learning.initial(
        config.training, ex.from_safetensors(RELEASED.read_bytes()) if plan.released else None
    )


def scores(
    plan: Plan, pictures: Pictures, weights: ex.Arrays, base: ex.Arrays, shadows: Sequence[ex.Arrays]
) -> tuple[dict[str, Any], float]:
    """The three attackers' figures on a model, and its bit accuracy on pictures that nobody trained on."""

    def of(arrays: ex.Arrays) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        model = model_of(plan.settings, arrays)
        return losses(model, pictures.members, plan.draws), losses(model, pictures.others, plan.draws)

    now, before = of(weights), of(base)
    out = {"threshold": attacked(-now[0], -now[1]), "calibrated": attacked(before[0] - now[0], before[1] - now[1])}
    if shadows:
        known = [of(arrays) for arrays in shadows]
        centre = [np.mean([k[side] for k in known], axis=0) for side in (0, 1)]
        # One deviation for all pictures, from those that no model knows: few shadows cannot give each its own.
        width = float(np.std([k[1] - now[1] for k in known])) + 1e-12
        out["likelihood"] = attacked((centre[0] - now[0]) / width, (centre[1] - now[1]) / width)
    return out, measure(model_of(plan.settings, weights), phantoms(PROBED, seed=77)).accuracy


def attack_release(images: Path, count: int, draws: int) -> dict[str, Any]:
    """The released weights, attacked by threshold: nothing they started from is public."""
    training, held = split(images)
    rng = np.random.default_rng(0)
    members = data.load([training[i] for i in rng.permutation(len(training))[:count]])
    others = data.load([held[i] for i in rng.permutation(len(held))[:count]])
    settings = Settings(steps=1)
    model = model_of(settings, ex.from_safetensors(RELEASED.read_bytes()))
    figures = attacked(-losses(model, members, draws), -losses(model, others, draws))
    return {
        "model": RELEASE,
        "epsilon": None,
        "noise": 0.0,
        "attacks": {"threshold": figures},
        "bit_accuracy": measure(model, others[:PROBED]).accuracy,
        "members": len(members),
        "others": len(others),
    }


def run(plan: Plan, images: Path | None, released: int, seed: int = 0) -> dict[str, Any]:
    """Train, attack, and collect everything for the table."""
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def make(part: str, number: int) -> Pictures:
            where = folder / part
            return found(plan, where, images, number) if images else made(plan, where, number)

        pictures, base = make("attacked", seed), start(plan)
        shadows = [
            train(plan, made(plan, folder / f"shadow-{i}", 100 + i), 0.0, 100 + i)[0] for i in range(plan.shadows)
        ]
        for noise in (0.0, *plan.noises):
            weights, epsilon = train(plan, pictures, noise, seed)
            figures, accuracy = scores(plan, pictures, weights, base, shadows)
            label = f"central-dp, noise multiplier {noise:g}" if noise else "without"
            rows.append(
                {
                    "model": label,
                    "epsilon": epsilon if noise else None,
                    "noise": noise,
                    "attacks": figures,
                    "bit_accuracy": accuracy,
                    "members": len(pictures.members),
                    "others": len(pictures.others),
                }
            )
            print(f"{label}: {_line(rows[-1])}", flush=True)
    if images:
        rows.append(attack_release(images, released, plan.draws))
        print(f"{RELEASE}: {_line(rows[-1])}", flush=True)
    start_accuracy = measure(model_of(plan.settings, base), phantoms(PROBED, seed=77)).accuracy
    return {
        "pictures": "real" if images else "generated",
        "hospitals": plan.hospitals,
        "rounds": plan.rounds,
        "steps": plan.steps,
        "clip": plan.clip,
        "delta": DELTA,
        "shadows": plan.shadows,
        "start": RELEASE if plan.released else "random",
        "start_bit_accuracy": start_accuracy,
        "rows": rows,
        "seconds": time.perf_counter() - began,
    }


def _line(row: dict[str, Any]) -> str:
    attacks = ", ".join(f"{name} AUC {f['auc']:.3f} TPR {f['tpr']:.3f}" for name, f in row["attacks"].items())
    epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:.3g}"
    return f"epsilon {epsilon}, {attacks}, bit accuracy {row['bit_accuracy']:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--images", type=Path, help="folder of real pictures instead of generated ones")
    parser.add_argument("--released", type=int, default=200, help="pictures of each side for the released weights")
    parser.add_argument("--rounds", type=int, help="rounds of each training")
    parser.add_argument("--steps", type=int, help="steps of each hospital in a round")
    parser.add_argument("--shadows", type=int, help="models that the likelihood attack trains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a few steps: shows that it runs")
    args = parser.parse_args(arguments)
    plan = QUICK if args.quick else FULL
    chosen = {name: getattr(args, name) for name in ("rounds", "steps", "shadows")}
    plan = Plan(**{**vars(plan), **{name: value for name, value in chosen.items() if value is not None}})
    result = run(plan, args.images, min(args.released, 16) if args.quick else args.released, args.seed)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
