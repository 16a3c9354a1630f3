"""The network that finds regions of interest: vessels, lesions, nuclei.

A hospital's folder holds folders of pictures and beside each ``NAME_masks`` (:mod:`medprov_watermark.training.masked`).
Which kinds of picture the network tells apart is the federation's setting, because all hospitals must count them in
the same order, also those that have none of a kind. Normalisation is by groups: the running statistics of batches would
be averaged over hospitals whose pictures have nothing in common.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from PIL import Image

from medprov_watermark.roi_picture import MULTIPLE, standardised
from medprov_watermark.training import data as files
from medprov_watermark.training import exchange as ex
from medprov_watermark.training import masked, segmentation
from medprov_watermark.training.moments import Adam
from medprov_watermark.training.phantoms import vessels
from medprov_watermark.training.tasks import base

log = logging.getLogger("medprov.training")

DICE = "dice"
KINDS = "kinds-right"
MEASURED = 32
"""Held-back pictures that a hospital measures on at most."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")


@dataclass(frozen=True)
class Settings(segmentation.Settings):
    """Settings of a federated run.

    Parameters
    ----------
    kinds : tuple of str
        Names of the folders with masks; every other folder is ``other``.
    crop : int
        Side of a training window.
    """

    steps: int = 0
    rate: float = 1e-3
    norm: str = "group"
    kinds: tuple[str, ...] = ("vessels",)
    crop: int = 320


@dataclass(frozen=True)
class Pictures:
    """A hospital's pictures with masks.

    Parameters
    ----------
    train : Collection
    held_back : tuple of Picture
        With masks; with very few pictures they are training pictures too.
    skipped : int
    """

    train: masked.Collection
    held_back: tuple[masked.Picture, ...]
    skipped: int

    @property
    def examples(self) -> int:
        """Training pictures."""
        return self.train.size


def _network(settings: Settings) -> segmentation.Network:
    return segmentation.Network(settings.widths, len(settings.kinds) + 1, settings.norm)


def _loaded(settings: Settings, arrays: ex.Arrays) -> segmentation.Network:
    with base.own_randomness(0):
        network = _network(settings)
    ex.load_state(network, arrays)
    return network.eval()


@torch.no_grad()
def _measured(network: segmentation.Network, pictures: tuple[masked.Picture, ...]) -> dict[str, float]:
    """Mean loss, Dice, and share of right kinds over pictures with masks."""
    losses: list[float] = []
    overlaps: list[float] = []
    right: list[float] = []
    device = next(network.parameters()).device
    for picture in pictures:
        assert picture.mask is not None
        meant = torch.from_numpy(picture.mask)
        region, kinds = segmentation.answer(network, torch.from_numpy(standardised(picture.grey)).to(device))
        region, kinds = region.cpu(), kinds.cpu()
        losses.append(float(F.binary_cross_entropy(region.double().clamp(1e-6, 1 - 1e-6), meant.double())))
        overlaps.append(segmentation.dice(region > 0.5, meant))
        right.append(float(int(kinds.argmax()) == picture.kind))
    n = len(pictures)
    return {ex.LOSS: sum(losses) / n, DICE: sum(overlaps) / n, KINDS: sum(right) / n}


@dataclass(frozen=True)
class Probe:
    """Phantoms with drawn vessels."""

    settings: Settings
    pictures: tuple[masked.Picture, ...]

    def evaluate(self, arrays: ex.Arrays) -> dict[str, float]:
        """Dice of the drawn vessels (which is the score) and loss."""
        found = _measured(_loaded(self.settings, arrays), self.pictures)
        return {base.SCORE: found[DICE], "loss": found[ex.LOSS], "dice": found[DICE]}


class Region:
    """See :class:`.base.Task`."""

    name = "region"
    metrics: ClassVar[base.Ranges] = {ex.LOSS: (-1e9, 1e9), DICE: (0, 1), KINDS: (0, 1)}
    figures: ClassVar[base.Ranges] = {ex.LOSS: (-1e9, 1e9), DICE: (0, 1), KINDS: (0, 1)}
    tolerance = 0.2
    """The drawn vessels are not what hospitals train on: only a collapse is to be refused."""

    def settings(self, flat: Mapping[str, object]) -> Settings:
        d = Settings()
        widths = base.text(flat, "region-widths", _joined(d.widths), 40)
        kinds = base.text(flat, "region-kinds", ",".join(d.kinds))
        settings = Settings(
            steps=base.integer(flat, "total-steps", d.steps, 0, 2**62),
            batch=base.integer(flat, "batch", d.batch, 1, 4096),
            rate=base.number(flat, "rate", d.rate, 0.0, 1.0),
            seed=base.integer(flat, "seed", d.seed, 0, 2**62),
            widths=tuple(int(w) if w.isdigit() else 0 for w in widths.split(",")),
            kinds=tuple(kinds.split(",")),
            crop=base.integer(flat, "region-crop", d.crop, 64, 4096),
        )
        if not 2 <= len(settings.widths) <= 6 or not all(8 <= w <= 512 and w % 8 == 0 for w in settings.widths):
            raise ex.ExchangeError(f"region-widths is {widths[:40]}: 2 to 6 multiples of 8 from 8 to 512 are needed")
        if len(settings.kinds) > 64 or len({*settings.kinds, masked.OTHER}) != len(settings.kinds) + 1:
            raise ex.ExchangeError(f"region-kinds is {kinds[:40]}: different names, none of them '{masked.OTHER}'")
        if not all(_NAME.fullmatch(kind) for kind in settings.kinds):
            raise ex.ExchangeError(f"region-kinds is {kinds[:40]}: names of letters, digits, _ and -, commas between")
        if settings.crop % MULTIPLE:
            raise ex.ExchangeError(f"region-crop is {settings.crop}: a multiple of {MULTIPLE} is needed")
        return settings

    def flat(self, settings: Settings) -> dict[str, ex.Scalar]:
        return {
            "total-steps": settings.steps,
            "batch": settings.batch,
            "rate": settings.rate,
            "seed": settings.seed,
            "region-widths": _joined(settings.widths),
            "region-kinds": ",".join(settings.kinds),
            "region-crop": settings.crop,
        }

    def initial(self, settings: Settings, start: ex.Arrays | None = None) -> dict[str, ex.Float32]:
        with base.own_randomness(settings.seed):
            drawn = ex.state_of(_network(settings))
        return base.replaced(drawn, start)

    def begin(self, settings: Settings) -> dict[str, float]:
        return {"step": 0.0}

    def advance(self, progress: Mapping[str, float], steps: int, reached: Mapping[str, float]) -> dict[str, float]:
        return {"step": progress["step"] + steps}

    def adam(self, settings: Settings, step: int, tensor: str) -> Adam:
        return Adam(segmentation.rate(settings, step), decay=segmentation.DECAY)

    def load(self, folder: Path, settings: Settings, limit: int) -> Pictures:
        if not folder.is_dir():
            raise base.TaskError(f"{folder}: no such folder of images: set 'images' in the node's configuration")
        paths = files.selection(files.list_images(folder), limit)
        named = [*paths, *(mask for path in paths if (mask := masked.mask_of(path)).exists())]
        marks = tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in named)
        return _load(tuple(paths), settings.kinds, settings.crop, marks)

    def train(self, work: base.Work, weights: ex.Arrays, data: Pictures) -> base.Trained:
        with base.own_randomness(work.seed):
            trainer = segmentation.Trainer(data.train, work.settings, torch.device(work.device))
            ex.load_state(trainer.model, weights)
            trainer.progress = segmentation.Progress(step=int(work.progress["step"]))
            torch.manual_seed(work.seed)
            trainer.random = random.Random(work.seed)
            done, deltas = base.steps(work, {"": trainer.model}, weights, (trainer.optimiser,), trainer.step)
        loss = base.finite([f["region"] + 0.2 * f["kind"] for f in done])
        return base.Trained(deltas, {ex.LOSS: loss, DICE: done[-1]["dice"], KINDS: done[-1]["kinds right"]})

    def evaluate(self, work: base.Work, weights: ex.Arrays, data: Pictures) -> tuple[int, dict[str, float]]:
        held = data.held_back[:MEASURED]
        return len(held), _measured(_loaded(work.settings, weights).to(work.device), held)

    def probe(self, settings: Settings, count: int, db: float) -> Probe:
        drawn = (vessels(seed) for seed in range(count))
        return Probe(settings, tuple(masked.Picture(grey, mask, 1) for grey, mask in drawn))


@lru_cache(maxsize=8)
def _load(
    paths: tuple[Path, ...], kinds: tuple[str, ...], crop: int, marks: tuple[tuple[str, int, int], ...]
) -> Pictures:
    """`marks` only tell one state of the files from another."""
    known = (masked.OTHER, *kinds)
    train: list[masked.Picture] = []
    held: list[masked.Picture] = []
    skipped = 0
    for path in paths:
        kind = path.parent.name
        if kind not in kinds and masked.mask_of(path).exists():
            raise base.TaskError(f"{path.parent}: has masks, but the federation trains {', '.join(kinds)} only")
        try:
            picture = masked.read(path, known.index(kind) if kind in kinds else 0)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("%s: not used for training: %s", path, error)
            skipped += 1
            continue
        (held if files.held_back(path) and picture.mask is not None else train).append(picture)
    train = train or held
    measured = held or [picture for picture in train if picture.mask is not None]
    if not measured:
        raise base.TaskError(f"no picture with a mask among {len(paths)} files: masks of NAME lie in NAME_masks")
    return Pictures(masked.Collection(train, known, crop), tuple(measured), skipped)


def _joined(widths: tuple[int, ...]) -> str:
    return ",".join(map(str, widths))


TASK = Region()
