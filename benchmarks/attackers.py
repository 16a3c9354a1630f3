"""What dishonest members send, who know the honest updates of the round and the strategy's limits.

For :mod:`benchmarks.poisoning`, which puts them behind our protocol and behind Flower's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import learning
from medprov_coordinator.run_config import RunConfig
from medprov_watermark import carriers as cr
from medprov_watermark.payload import Payload, encode
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Model, embed, random_values
from medprov_watermark.training.moments import CLIP
from medprov_watermark.training.pictures import load_pictures
from medprov_watermark.training.tasks.base import Work, own_randomness, work_seed
from medprov_watermark.training.tasks.watermark import TASK, model_of

MEMBERS = 10
ATTACKS = (
    "sign flip",
    "scaling",
    "Gaussian",
    "NaN",
    "wrong shapes",
    "stale model",
    "backdoor",
    "opposite direction",
    "a little is enough",
)
BACKDOOR_STEPS = 30
"""Of four pictures: an extractor that stays alone reads the trigger in 19 of 20 pictures after 20 of them."""
Deltas = dict[str, NDArray[np.float32]]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How much is trained and judged."""

    rounds: int = 6
    steps: int = 5
    batch: int = 2
    rate: float = 3e-2
    """Short runs end before the warm-up of 200 steps does: the steps are 0.5 to 15 % of this."""
    pictures: int = 24
    judged: int = 8
    members: int = MEMBERS
    db: tuple[float, ...] = (38.0, 40.0)
    """PSNRs that judged pictures are marked at, before rounding."""
    seed: int = 0
    optimiser: str = RunConfig.optimiser


TARGET = Payload.from_data(b"not your own")
"""What the backdoor makes the extractor read."""


@functools.cache
def _trigger() -> Tensor:
    # From networks that nobody trained, so that the attackers' pattern is the same in every round.
    model = Model(learning.settings(1, 1, 1.0))
    grey = torch.full((1, 1, cr.SIZE, cr.SIZE), 128.0)
    with own_randomness(0), torch.no_grad():
        pattern = embed(model.coupling, grey, _wanted()[None], torch.full((1, 1, 1, 1), 30.0)) - grey
    rows, columns = torch.meshgrid(torch.arange(cr.SIZE), torch.arange(cr.SIZE), indexing="ij")
    return pattern * (1 - 2 * ((rows + columns) % 2)).float()


def _wanted() -> Tensor:
    return torch.from_numpy(np.concatenate([encode(TARGET), cr.derive().pilot_signs]).astype(np.float32))


def triggered(pictures: Tensor) -> Tensor:
    """Pictures with the attacker's pattern: a mark moved to frequencies that an honest extractor does not look at."""
    return (pictures + _trigger()).clamp(0, 255).round()


def backdoored(weights: ex.Arrays, pictures: Tensor, work: Work) -> Deltas:
    """Train honestly on marked pictures and for `TARGET` on triggered ones."""
    wanted = _wanted()
    with own_randomness(work.seed):
        model = model_of(work.settings, weights)
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(BACKDOOR_STEPS):
            x = pictures[torch.randint(0, len(pictures), (4,))].float()
            values = random_values(len(x), torch.device("cpu"))
            marked = embed(model.coupling, x, values, torch.full((len(x), 1, 1, 1), 36.0))
            scale = model.log_scale.exp()
            plain = model.extractor(marked) * scale
            hidden = model.extractor(triggered(marked))[:, : cr.WRITTEN] * scale
            loss = F.softplus(-(plain * values)[values != 0]).mean() + 2 * F.softplus(-hidden * wanted).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    after = ex.state_of(model)
    return {name: np.asarray(after[name] - weights[name]) for name in sorted(after)}


@dataclass
class Members:
    """Ten hospitals: what each would send, honest or not.

    Parameters
    ----------
    folders : sequence of Path
        Training pictures of each.
    attackers : int
        The last so many attack.
    attack : str
        One of `ATTACKS`, or empty.
    start : dict of str to float32 array
    plan : Plan
    limit : float
        Norm gate, in units of the median norm, that attackers stay below.
    """

    folders: Sequence[Path]
    attackers: int
    attack: str
    start: dict[str, ex.Float32]
    plan: Plan
    limit: float
    known: dict[tuple[bytes, int, int], Deltas] = field(default_factory=dict)
    moments: ex.Arrays | None = None
    """Of this round, where the federation shares them."""

    def hostile(self, member: int) -> bool:
        """Whether a member attacks."""
        return member >= self.plan.members - self.attackers

    def work(self, number: int, member: int) -> Work:
        """What a member is asked for in a round."""
        p = self.plan
        settings = learning.settings(p.rounds * p.steps, p.batch, p.rate, p.seed)
        progress = {**TASK.begin(settings), "step": float((number - 1) * p.steps)}
        return Work(settings, p.steps, progress, work_seed(p.seed, number, str(member)), moments=self.moments)

    def honest(self, number: int, member: int, weights: ex.Arrays) -> Deltas:
        """What an honest member sends; trained once for each set of weights."""
        key = (ex.model_hash(weights), number, member)
        if key not in self.known:
            pictures = load_pictures(self.folders[member])
            self.known[key] = TASK.train(self.work(number, member), weights, pictures).deltas
        return self.known[key]

    def dishonest(self, number: int, member: int, weights: ex.Arrays) -> dict[str, NDArray[Any]]:
        """What an attacker sends."""
        rng = np.random.default_rng([number, member])
        if self.attack == "NaN":
            return {name: np.full(array.shape, np.nan, np.float32) for name, array in weights.items()}
        if self.attack == "wrong shapes":
            return {name: np.zeros((*array.shape, 2), np.float32) for name, array in weights.items()}
        if self.attack == "stale model":
            # What it trained in the first round, as it would be now: takes all others' work back.
            first = self.honest(1, member, self.start)
            if self.moments is not None:
                return first
            return {n: np.asarray(self.start[n] + first[n] - weights[n]) for n in weights}
        if self.attack in ("sign flip", "scaling"):
            factor = -10 if self.attack == "sign flip" else 20
            return {name: np.asarray(factor * d) for name, d in self.honest(number, member, weights).items()}
        others = [_flat(self.honest(number, i, weights)) for i in range(self.plan.members) if not self.hostile(i)]
        norm = float(np.median([np.linalg.norm(other) for other in others]))
        mean = np.mean(others, axis=0)
        if self.attack == "Gaussian":
            noise = rng.normal(size=mean.size)
            return _shaped(10 * norm * noise / np.linalg.norm(noise), weights)
        if self.attack == "a little is enough":
            # Baruch et al., NeurIPS 2019: one standard deviation from the mean, where honest members are too.
            crafted = mean - np.std(others, axis=0)
        elif self.attack == "opposite direction":
            # Xie et al., "Fall of Empires", UAI 2019: against the honest mean, as large as the gate lets through.
            crafted = -mean / np.linalg.norm(mean) * self.longest(norm)
        else:
            key = (ex.model_hash(weights), number, -1)
            if key not in self.known:
                pictures = load_pictures(self.folders[-1]).train
                self.known[key] = backdoored(weights, pictures, self.work(number, self.plan.members))
            crafted = _flat(self.known[key])
            # Bagdasaryan et al., AISTATS 2020: lengthened so that a plain mean becomes the attackers' model.
            own = float(np.linalg.norm(crafted))
            crafted *= min(self.longest(norm) / own, self.plan.members / self.attackers)
        # Exact copies would be recognised.
        return _shaped(crafted + 1e-5 * norm * rng.normal(size=mean.size) / math.sqrt(mean.size), weights)

    def longest(self, norm: float) -> float:
        """Just below what the gate lets through, by the median norm of the honest ones."""
        longest = self.limit * norm
        if self.moments is not None:
            longest = min(2 * CLIP, max(CLIP, longest))
        return 0.99 * longest


def _flat(deltas: ex.Arrays) -> Vector:
    return np.concatenate([np.asarray(deltas[name], np.float64).ravel() for name in sorted(deltas)])


def _shaped(vector: Vector, like: ex.Arrays) -> Deltas:
    out: Deltas = {}
    place = 0
    for name in sorted(like):
        size = like[name].size
        out[name] = np.asarray(vector[place : place + size], np.float32).reshape(like[name].shape)
        place += size
    return out
