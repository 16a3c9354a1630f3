"""Training of the network that finds the region of interest: vessels, lesions, nuclei.

A U-Net (Ronneberger et al., MICCAI 2015) at half resolution with two answers: a logit per pixel, and the kind of
picture. The kind decides whether the pixels are to be believed, because a network asked about a picture of a kind that
it was not trained on answers all the same. The loss is cross-entropy plus soft Dice (Milletari et al., V-Net, 2016).
"""

from __future__ import annotations

import copy
import math
import os
import random
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medprov_watermark.roi_picture import MULTIPLE
from medprov_watermark.training.masked import Collection
from medprov_watermark.training.moments import CLIP

DECAY = 1e-4


@dataclass(frozen=True)
class Settings:
    """Everything that decides a training run besides its pictures."""

    steps: int = 2600
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0
    widths: tuple[int, ...] = (24, 32, 48, 64)
    norm: str = "batch"


def _block(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    parts: list[nn.Module] = []
    for first in (inputs, outputs):
        normal: nn.Module = nn.GroupNorm(8, outputs) if norm == "group" else nn.BatchNorm2d(outputs)
        parts += [nn.Conv2d(first, outputs, 3, padding=1, bias=False), normal, nn.ReLU()]
    return nn.Sequential(*parts)


class Network(nn.Module):
    """Picture -> logits of the region, logits of the kind.

    Parameters
    ----------
    widths : tuple of int
        Channels at 1/2, 1/4, 1/8 and 1/16 of the size.
    kinds : int
    norm : str
        ``batch``, or ``group`` where statistics of batches cannot be shared (federated training); the widths are
        multiples of 8 then.
    """

    def __init__(self, widths: tuple[int, ...], kinds: int, norm: str = "batch") -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList(_block(a, b, norm) for a, b in pairwise((widths[0], *widths)))
        self.context = nn.Linear(widths[-1], widths[-1])
        self.join = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(width, width, norm) for width in widths[:-1])
        self.region = nn.Conv2d(widths[0], 4, 1)
        self.kind = nn.Linear(2 * widths[-1], kinds)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Answer for float tensors (B, 1, H, W), H and W multiples of MULTIPLE: (B, 1, H, W) and (B, kinds)."""
        x = self.stem(picture)
        seen: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            seen.append(x)
        mean = x.mean((2, 3))
        kind = self.kind(torch.cat([mean, x.amax((2, 3))], 1))
        x = x + self.context(mean)[:, :, None, None]
        for level in range(len(self.up) - 1, -1, -1):
            x = F.interpolate(self.join[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](x + seen[level])
        return F.pixel_shuffle(self.region(x), 2), kind


def dice(found: Tensor, meant: Tensor) -> float:
    """Overlap of two bool tensors (Dice 1945): twice the common pixels by the sum of both; 1 where both are empty."""
    both = int(found.sum() + meant.sum())
    return 2 * int((found & meant).sum()) / both if both else 1.0


def _loss(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of all pictures with a mask, and soft Dice of those whose mask holds something."""
    if not known.any():
        return logits.sum() * 0
    logits, masks = logits[known], masks[known]
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    held = masks.sum((1, 2, 3)) > 0
    share = torch.sigmoid(logits[held])
    common, both = (share * masks[held]).sum((1, 2, 3)), (share + masks[held]).sum((1, 2, 3))
    return entropy + ((1 - (2 * common + 1) / (both + 1)).mean() if held.any() else 0.0)


@dataclass
class Progress:
    """Where a run stands; saved in the checkpoint."""

    step: int = 0
    dice: float = 0.0
    kinds: float = 0.0
    seconds: float = 0.0


def rate(settings: Settings, step: int) -> float:
    """Learning rate of a step: warm-up, then a cosine over the run."""
    done = min(1.0, step / settings.steps)
    return settings.rate * min(1, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * done)) + 0.005)


class Trainer:
    """One training run over a collection of pictures with masks, continued step by step.

    Parameters
    ----------
    pictures : Collection
    settings : Settings
    device : torch.device
        ``cuda`` uses bf16 autocast as the CPU does.
    """

    def __init__(self, pictures: Collection, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.pictures, self.settings, self.device = pictures, settings, device
        self.model = Network(settings.widths, len(pictures.kinds), settings.norm).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.rate, weight_decay=DECAY)
        self.progress = Progress()
        self.random = random.Random(settings.seed)
        self.accuracy_after: dict[str, float] = {}  # there are no attacks here

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.settings.steps

    def step(self) -> dict[str, float]:
        """One optimiser step; returns its figures."""
        p = self.progress
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.settings, p.step)
        x, masks, known, kinds = (t.to(self.device) for t in self.pictures.batch(self.settings.batch, self.random))
        self.model.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits, guesses = self.model(x.contiguous(memory_format=torch.channels_last))
        logits, guesses = logits.float(), guesses.float()
        region, kind = _loss(logits, masks, known), F.cross_entropy(guesses, kinds)
        self.optimiser.zero_grad()
        (region + 0.2 * kind).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self._follow()
        p.step += 1
        overlap = dice(logits[known] > 0, masks[known] > 0) if known.any() else p.dice
        p.dice += (overlap - p.dice) * max(0.02, 1 / p.step)
        p.kinds += ((guesses.argmax(1) == kinds).float().mean().item() - p.kinds) * max(0.02, 1 / p.step)
        p.seconds += time.perf_counter() - started
        return {
            "step": p.step,
            "region": region.item(),
            "kind": kind.item(),
            "dice": p.dice,
            "kinds right": p.kinds,
            "seconds": p.seconds,
        }

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the model, the statistics of its normalisation too."""
        keep = min(0.99, 1 - 1 / (self.progress.step + 10))
        new = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(new[name], 1 - keep)

    def save(self, path: Path) -> None:
        """Write the checkpoint; a crash leaves the former one whole."""
        state = {
            "settings": asdict(self.settings),
            "kinds": list(self.pictures.kinds),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        draft = path.with_suffix(".part")
        torch.save(state, draft)
        os.replace(draft, path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of :meth:`save`.

        Raises
        ------
        ValueError
            The checkpoint is of other kinds of pictures.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if tuple(state["kinds"]) != self.pictures.kinds:
            raise ValueError(f"it was trained on {', '.join(state['kinds'])}")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        self.random = random.Random(self.settings.seed + self.progress.step)


@torch.no_grad()
def answer(model: Network, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of the region and of the kinds for one standardised picture, float (H, W) and (kinds,)."""
    height, width = picture.shape
    whole = F.pad(picture[None, None], (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
    logits, kinds = model(whole)
    return torch.sigmoid(logits[0, 0, :height, :width]), torch.softmax(kinds[0], 0)
