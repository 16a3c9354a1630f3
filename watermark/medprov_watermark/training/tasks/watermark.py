"""The networks of W1: coupling network and extractor, and the discriminator that they are trained against."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from medprov_watermark.training import exchange as ex
from medprov_watermark.training.discriminator import Discriminator
from medprov_watermark.training.evaluation import measure
from medprov_watermark.training.loop import ADVERSARY, DECAY, Model, Progress, Settings, Trainer, contested, rate
from medprov_watermark.training.moments import Adam
from medprov_watermark.training.phantoms import phantoms
from medprov_watermark.training.pictures import Pictures, load_pictures
from medprov_watermark.training.tasks import base

PROBABILITY = "attack-probability"
TARGET_DB = "target-db"
DISCRIMINATOR = "discriminator"
MEASURED = 64
"""Held-back pictures that a hospital measures on at most."""


def _networks(model: Model, discriminator: nn.Module, settings: Settings) -> dict[str, nn.Module]:
    """What is exchanged: the discriminator only where it takes part."""
    return {"": model, DISCRIMINATOR: discriminator} if settings.adversarial_weight > 0 else {"": model}


def marking_weights(arrays: ex.Arrays) -> dict[str, ex.Float32]:
    """The tensors that marking and reading need: without the discriminator."""
    return {name: array for name, array in arrays.items() if not name.startswith(f"{DISCRIMINATOR}.")}


def model_of(settings: Settings, arrays: ex.Arrays) -> Model:
    """Coupling network and extractor with weights of the federation, for measuring.

    Raises
    ------
    ExchangeError
        Weights of networks of another size.
    """
    # The network is built only to be overwritten: its random start must not move anybody's random state.
    with base.own_randomness(0):
        model = Model(settings)
    ex.load_state(model, marking_weights(arrays))
    return model.eval()


@dataclass(frozen=True)
class Probe:
    """Phantoms that weights are measured on.

    Parameters
    ----------
    settings : Settings
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
    db : float
        PSNR that they are marked at.
    """

    settings: Settings
    pictures: Tensor
    db: float

    def evaluate(self, arrays: ex.Arrays) -> dict[str, float]:
        """Bit accuracy (which is the score), loss, and the accuracy of the attack that hurts most."""
        found = measure(model_of(self.settings, arrays), self.pictures, db=self.db)
        return {base.SCORE: found.accuracy, "loss": found.loss, "accuracy": found.accuracy, "worst": found.worst}


class Watermark:
    """See :class:`.base.Task`."""

    name = "watermark"
    metrics: ClassVar[base.Ranges] = {
        ex.LOSS: (-1e9, 1e9),
        ex.BIT_ACCURACY: (0, 1),
        PROBABILITY: (0, 1),
        TARGET_DB: (20, 80),
    }
    figures: ClassVar[base.Ranges] = {ex.LOSS: (-1e9, 1e9), ex.BIT_ACCURACY: (0, 1)}
    tolerance = 0.02

    def settings(self, flat: Mapping[str, object]) -> Settings:
        d = DEFAULT
        settings = Settings(
            steps=base.integer(flat, "total-steps", d.steps, 0, 2**62),
            batch=base.integer(flat, "batch", d.batch, 1, 4096),
            rate=base.number(flat, "rate", d.rate, 0.0, 1.0),
            start_db=base.number(flat, "start-db", d.start_db, 20.0, 80.0),
            final_db=base.number(flat, "final-db", d.final_db, 20.0, 80.0),
            ssim_weight=base.number(flat, "ssim-weight", d.ssim_weight, 0.0, 100.0),
            adversarial_weight=base.number(flat, "adversarial-weight", d.adversarial_weight, 0.0, 100.0),
            adversarial_from=base.number(flat, "adversarial-from", d.adversarial_from, 0.0, 1.0),
            seed=base.integer(flat, "seed", d.seed, 0, 2**62),
            channels=base.integer(flat, "channels", d.channels, 8, 512),
            blocks=base.integer(flat, "blocks", d.blocks, 1, 32),
            extractor_blocks=base.integer(flat, "extractor-blocks", d.extractor_blocks, 1, 32),
        )
        if settings.channels % 8:
            raise ex.ExchangeError(f"channels is {settings.channels}: a multiple of 8 is needed")
        return settings

    def flat(self, settings: Settings) -> dict[str, ex.Scalar]:
        return {
            "total-steps": settings.steps,
            "batch": settings.batch,
            "rate": settings.rate,
            "start-db": settings.start_db,
            "final-db": settings.final_db,
            "ssim-weight": settings.ssim_weight,
            "adversarial-weight": settings.adversarial_weight,
            "adversarial-from": settings.adversarial_from,
            "seed": settings.seed,
            "channels": settings.channels,
            "blocks": settings.blocks,
            "extractor-blocks": settings.extractor_blocks,
        }

    def initial(self, settings: Settings, start: ex.Arrays | None = None) -> dict[str, ex.Float32]:
        with base.own_randomness(settings.seed):
            model, discriminator = Model(settings), Discriminator()
        return base.replaced(base.state_of(_networks(model, discriminator, settings)), start)

    def begin(self, settings: Settings) -> dict[str, float]:
        return {"step": 0.0, "probability": 0.0, "db": settings.start_db, "accuracy": 0.5}

    def advance(self, progress: Mapping[str, float], steps: int, reached: Mapping[str, float]) -> dict[str, float]:
        return {
            "step": progress["step"] + steps,
            "probability": reached[PROBABILITY],
            "db": reached[TARGET_DB],
            "accuracy": reached[ex.BIT_ACCURACY],
        }

    def adam(self, settings: Settings, step: int, tensor: str) -> Adam | None:
        if tensor.startswith(f"{DISCRIMINATOR}."):
            return ADVERSARY if contested(settings, step) else None
        return Adam(rate(settings, step), decay=DECAY)

    def load(self, folder: Path, settings: Settings, limit: int) -> Pictures:
        return load_pictures(folder, limit)

    def train(self, work: base.Work, weights: ex.Arrays, data: Pictures) -> base.Trained:
        settings: Settings = work.settings
        with base.own_randomness(work.seed):
            # Trainer seeds itself with the settings' seed, which is the same at all hospitals: seeded again below.
            trainer = Trainer(data.train, settings, torch.device(work.device))
            networks = _networks(trainer.model, trainer.discriminator, settings)
            base.load_state(networks, weights)
            p = work.progress
            trainer.progress = Progress(
                step=int(p["step"]), accuracy=p["accuracy"], probability=p["probability"], db=p["db"]
            )
            torch.manual_seed(work.seed)
            random.seed(work.seed)
            trainer.random = random.Random(work.seed)
            trainer.model.train()
            losses, deltas = base.steps(
                work, networks, weights, (trainer.optimiser, trainer.adversary), lambda: trainer.step()["loss"]
            )
        loss = base.finite(losses)
        reached = trainer.progress
        figures = {
            ex.LOSS: loss,
            ex.BIT_ACCURACY: reached.accuracy,
            PROBABILITY: reached.probability,
            TARGET_DB: reached.db,
        }
        return base.Trained(deltas, figures)

    def evaluate(self, work: base.Work, weights: ex.Arrays, data: Pictures) -> tuple[int, dict[str, float]]:
        held = data.held_back[:MEASURED]
        model = model_of(work.settings, weights).to(work.device)
        found = measure(model, held, db=work.progress["db"])
        return len(held), {ex.LOSS: found.loss, ex.BIT_ACCURACY: found.accuracy}

    def probe(self, settings: Settings, count: int, db: float) -> Probe:
        return Probe(settings, phantoms(count), db)


DEFAULT = Settings(steps=0, batch=8)
TASK = Watermark()
