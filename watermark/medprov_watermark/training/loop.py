"""The training loop: curriculum, checkpoint, resume."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from medprov_watermark import carriers as cr
from medprov_watermark.training import attacks
from medprov_watermark.training.data import augment
from medprov_watermark.training.discriminator import Discriminator, adversarial, discriminating
from medprov_watermark.training.moments import CLIP, Adam
from medprov_watermark.training.networks import CouplingNetwork, Extractor, straight_through
from medprov_watermark.training.records import Records

CHECKPOINT = "checkpoint.pt"
_ADVANCE = 0.93
"""Running bit accuracy above which the curriculum gets harder."""
_MOST_ATTACKED = 0.9
"""Share of steps with attacks at the end of the curriculum."""
_SEARCHED = 0.15
"""Share of groups that the extractor sees as the search for angle and place does."""
DECAY = 1e-4
ADVERSARY = Adam(rate=2e-4, betas=(0.5, 0.99), decay=0.01)
"""The discriminator's optimiser."""
_GROUP = 8
"""Pictures of a batch that meet the same attack."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a training run besides its pictures."""

    steps: int = 6000
    batch: int = 32
    rate: float = 1e-3
    start_db: float = 34.0
    final_db: float = 43.5
    ssim_weight: float = 5.0
    adversarial_weight: float = 0.02
    adversarial_from: float = 0.75
    seed: int = 0
    channels: int = 64
    blocks: int = 3
    extractor_blocks: int = 4


def rate(settings: Settings, step: int) -> float:
    """Learning rate of a step: warm-up, then a cosine over the run."""
    done = min(1.0, step / settings.steps)
    return settings.rate * min(1, (step + 1) / 200) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)


def contested(settings: Settings, step: int) -> bool:
    """Whether the discriminator takes part in a step: in the last phase."""
    return settings.adversarial_weight > 0 and step >= settings.adversarial_from * settings.steps


class Model(nn.Module):
    """Coupling network and extractor, trained together."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.coupling = CouplingNetwork(settings.channels, settings.blocks)
        self.extractor = Extractor(settings.channels, settings.extractor_blocks)
        self.log_scale = nn.Parameter(torch.tensor(0.0))


_EVEN = (torch.arange(cr.SIZE)[:, None] + torch.arange(cr.SIZE)[None]) % 2 == 0


def _half(x: Tensor, keep_even: bool) -> Tensor:
    """The picture as one half of the checkerboard shows it: the other half is the mean of its four neighbours."""
    p = F.pad(x, [1] * 4, mode="reflect")
    around = (p[:, :, :-2, 1:-1] + p[:, :, 2:, 1:-1] + p[:, :, 1:-1, :-2] + p[:, :, 1:-1, 2:]) / 4
    keep = _EVEN.to(x.device) if keep_even else ~_EVEN.to(x.device)
    return torch.where(keep, x, torch.floor(around + 0.5))


def embed(net: CouplingNetwork, x: Tensor, values: Tensor, db: Tensor) -> Tensor:
    """Mark pictures as the integer coupling does at the working size.

    Parameters
    ----------
    x : float tensor (B, 1, SIZE, SIZE)
        Integers 0..255.
    values : float tensor (B, n)
        Signed amplitudes of the first n carriers.
    db : float tensor (B, 1, 1, 1)
        PSNR to hold, before rounding and clipping.
    """
    pattern = net.synthesise(values)
    even = _EVEN.to(x.device)
    first = net(_half(x, keep_even=False), pattern)
    gain = 255 * 10 ** (-db / 20) / (first.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-6)
    move = first * gain
    inner = (x + straight_through(move, torch.floor(move + 0.5))).clamp(0, 255)
    half_done = torch.where(even, inner, x)
    move = net(_half(half_done, keep_even=True), pattern) * gain
    outer = (x + straight_through(move, torch.floor(move + 0.5))).clamp(0, 255)
    return torch.where(even, half_done, outer)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Mean SSIM (Wang et al. 2004) over windows of 8x8 that do not overlap, peak 255: a loss, no figure to report."""

    def mean(z: Tensor) -> Tensor:
        b, _, h, w = z.shape
        return z.view(b, h // 8, 8, w // 8, 8).mean((2, 4))

    c1, c2 = 6.5025, 58.5225
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()


def half_precision(device: torch.device) -> torch.autocast:
    """Automatic bf16, where the processor computes in it: emulated, a step takes four times as long."""
    native = device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=native)


def random_values(batch: int, device: torch.device) -> Tensor:
    """Signs of all carriers, float tensor (B, TOTAL): +-1, and 0 for the carriers that are left out.

    Which carriers are written is drawn anew for each picture, and so is every sign. A network that always saw the
    same pilots would learn to see them in pictures that have none.
    """
    signs = torch.randint(0, 2, (batch, cr.TOTAL), device=device).float() * 2 - 1
    left_out = torch.rand(batch, cr.TOTAL, device=device).argsort(1)[:, : cr.NULLS]
    return signs.scatter_(1, left_out, 0.0)


@torch.no_grad()
def informed_amplitudes(extractor: Extractor, x: Tensor, signs: Tensor) -> Tensor:
    """Amplitudes as the marking loop would give them, float tensor (B, TOTAL) with a mean square of one.

    A carrier that the unmarked picture already answers with the right sign gets little, one that it contradicts gets
    more. How much is asked above zero differs from picture to picture; a third of them get equal amplitudes.
    """
    parts = extractor.coefficients(x).float()
    spread = parts.square().mean((1, 2)).sqrt()[:, None].clamp(min=1e-6)
    right = parts.sum(2) / math.sqrt(cr.COEFFICIENTS) / spread * signs
    ask = torch.empty(len(x), 1, device=x.device).uniform_(0.3, 1.2)
    wanted = (ask - right).clamp(min=0.0).minimum(2.5 * ask) * signs.abs()
    even = torch.rand(len(x), 1, device=x.device) < 0.33
    amplitudes = torch.where(even, signs.abs(), wanted)
    written = signs.abs().sum(1, keepdim=True)
    return amplitudes / (amplitudes.square().sum(1, keepdim=True) / written).sqrt().clamp(min=1e-3)


@dataclass
class Progress:
    """Where a run stands; saved in the checkpoint."""

    step: int = 0
    accuracy: float = 0.5
    probability: float = 0.0
    db: float = 34.0
    seconds: float = 0.0


class Trainer:
    """One training run over a tensor of pictures, continued step by step.

    Parameters
    ----------
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
    settings : Settings
    device : torch.device
        See `half_precision` for the arithmetic.
    """

    def __init__(self, pictures: Tensor, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)
        self.settings, self.device = settings, device
        self.pictures = pictures.to(device)
        self.model = Model(settings).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.rate, weight_decay=DECAY)
        self.discriminator = Discriminator().to(device)
        self.adversary = torch.optim.AdamW(
            self.discriminator.parameters(), lr=ADVERSARY.rate, betas=ADVERSARY.betas, weight_decay=ADVERSARY.decay
        )
        self.progress = Progress(db=settings.start_db)
        self.random = random.Random(settings.seed)
        self.accuracy_after: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.settings.steps

    def step(self) -> dict[str, float]:
        """One optimiser step; returns its figures."""
        s, p = self.settings, self.progress
        started = time.perf_counter()
        for group in self.optimiser.param_groups:
            group["lr"] = rate(s, p.step)
        pick = torch.randint(0, len(self.pictures), (s.batch,), device=self.device)
        x = augment(self.pictures[pick], self.random).contiguous(memory_format=torch.channels_last)
        signs = random_values(s.batch, self.device)
        db = p.db + torch.empty(s.batch, 1, 1, 1, device=self.device).uniform_(-2.0, 2.0)
        difficulty = min(1.0, p.probability / _MOST_ATTACKED)
        with half_precision(self.device):
            amplitudes = informed_amplitudes(self.model.extractor, x, signs)
            marked = embed(self.model.coupling, x, signs * amplitudes, db)
        groups = torch.split(marked.float(), _GROUP)
        names, parts, backs = zip(*(self._attacked(part, difficulty) for part in groups), strict=True)
        with half_precision(self.device):
            whites = torch.split(self.model.extractor.white(torch.cat(parts)), _GROUP)
            white = torch.cat([back(white) for back, white in zip(backs, whites, strict=True)])
            answers = self.model.extractor.correlated(white).sum(2) / math.sqrt(cr.COEFFICIENTS)
        right = answers.float() * self.model.log_scale.exp() * signs
        loss_bits = F.softplus(-right[signs != 0]).mean()
        loss_ssim = 1 - ssim(marked.float(), x)
        loss = loss_bits + s.ssim_weight * difficulty * loss_ssim
        fought = contested(s, p.step)
        if fought:
            with half_precision(self.device):
                loss = loss + s.adversarial_weight * adversarial(self.discriminator(marked))
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        loss_adversary = self._discriminate(x, marked.detach()) if fought else 0.0
        with torch.no_grad():
            keep = min(0.995, 1 - 1 / (p.step + 10))
            for a, b in zip(self.average.parameters(), self.model.parameters(), strict=True):
                a.lerp_(b, 1 - keep)
            hits = (right > 0).float().sum(1) / signs.abs().sum(1)
            for name, share in zip(names, torch.split(hits, _GROUP), strict=True):
                before = self.accuracy_after.get(name, share.mean().item())
                self.accuracy_after[name] = 0.95 * before + 0.05 * share.mean().item()
        hit = (right[signs != 0] > 0).float().mean().item()
        p.accuracy = 0.98 * p.accuracy + 0.02 * hit
        p.step += 1
        if p.accuracy > _ADVANCE and p.step % 10 == 0:
            if p.probability < _MOST_ATTACKED:
                p.probability = min(_MOST_ATTACKED, p.probability + 0.05)
            elif p.db < s.final_db:
                p.db = min(s.final_db, p.db + 0.1)
        p.seconds += time.perf_counter() - started
        return {
            "step": p.step,
            "loss": loss.item(),
            "bits": loss_bits.item(),
            "ssim": 1 - loss_ssim.item(),
            "discriminator": loss_adversary,
            "accuracy": p.accuracy,
            "probability": p.probability,
            "db": p.db,
            "seconds": p.seconds,
        }

    def _discriminate(self, x: Tensor, marked: Tensor) -> float:
        """One step of the discriminator; returns its loss, ``2 log 2`` where it is at a loss."""
        with half_precision(self.device):
            loss = discriminating(self.discriminator(x), self.discriminator(marked))
        self.adversary.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adversary.step()
        return loss.item()

    def _attacked(self, part: Tensor, difficulty: float) -> tuple[str, Tensor, Callable[[Tensor], Tensor]]:
        """A group of marked pictures as the extractor gets to see them, and the way back into the cover's frame."""
        probability = self.progress.probability
        if random.random() < _SEARCHED * difficulty:
            name, part, back = attacks.misplaced(part)
            return name, attacks.random_attack(part, 0.3 * probability, 0.3)[1].clamp(0, 255), back
        name, part = attacks.random_attack(part, probability, difficulty)
        return name, part, lambda white: white

    def save(self, path: Path) -> None:
        """Write the checkpoint; a crash leaves the former one whole."""
        state = {
            "settings": asdict(self.settings),
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "adversary": self.adversary.state_dict(),
            "accuracy_after": self.accuracy_after,
        }
        draft = path.with_suffix(".part")
        torch.save(state, draft)
        os.replace(draft, path)

    def start_from(self, release: Path) -> None:
        """Take the weights of a release and begin where its curriculum ended: all attacks, the final PSNR.

        Parameters
        ----------
        release : Path
            ``.safetensors`` file of a model of the same size.
        """
        weights = load_file(release)
        self.model.load_state_dict(weights)
        self.average.load_state_dict(weights)
        self.progress = Progress(accuracy=_ADVANCE, probability=_MOST_ATTACKED, db=self.settings.final_db)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of :meth:`save`."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if "discriminator" in state:
            self.discriminator.load_state_dict(state["discriminator"])
            self.adversary.load_state_dict(state["adversary"])
        self.accuracy_after = dict(state.get("accuracy_after", {}))
        self.progress = Progress(**state["progress"])
        torch.manual_seed(self.settings.seed + self.progress.step)
        random.seed(self.settings.seed + self.progress.step)
        self.random = random.Random(self.settings.seed + self.progress.step)


class Steps(Protocol):
    """What :func:`run` needs of a trainer; the figures of a step hold ``step``, its number."""

    accuracy_after: dict[str, float]

    @property
    def finished(self) -> bool: ...

    def step(self) -> dict[str, float]: ...

    def save(self, path: Path) -> None: ...


def run(
    trainer: Steps,
    folder: Path,
    minutes: float | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    every: int = 50,
) -> None:
    """Train to the end of the settings' steps, or for some minutes; checkpoint and log as it goes.

    A trainer that shall go on from a checkpoint is resumed before (:meth:`Trainer.resume`). SIGTERM ends the run as
    its end does, with a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, records = folder / CHECKPOINT, Records(folder)
    started = saved = time.monotonic()
    with _until_told() as told:
        while not trainer.finished and not told:
            figures = trainer.step()
            if figures["step"] % every == 0:
                records.add(figures, trainer.accuracy_after)
                if report:
                    report(figures)
            now = time.monotonic()
            if now - saved > 120:
                trainer.save(checkpoint)
                saved = now
            if minutes is not None and now - started > 60 * minutes:
                break
    trainer.save(checkpoint)


@contextmanager
def _until_told() -> Iterator[list[int]]:
    """A list that is not empty once the process was asked to end; elsewhere than in the main thread it stays empty."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
