"""Measure a model on given pictures, the same way each time: float32, fixed seeds, fixed attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medprov_watermark.training import attacks
from medprov_watermark.training.loop import Model, embed, random_values

Attack = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    return x


def _jpeg(x: Tensor) -> Tensor:
    return attacks.jpeg(x, 60.0)


def _blur(x: Tensor) -> Tensor:
    return attacks.gaussian_blur(x, 7, 1.2)


def _gamma(x: Tensor) -> Tensor:
    return attacks.gamma(x, 0.6)


BATTERY: tuple[Attack, ...] = (_identity, _jpeg, _blur, _gamma)


@dataclass(frozen=True)
class Measured:
    """Figures over all pictures and attacks.

    Parameters
    ----------
    loss : float
        Mean of ``softplus(-answer * sign)`` over the written carriers.
    accuracy : float
        Share of written carriers that are read with the right sign, 0..1.
    worst : float
        The accuracy of the attack that hurts most.
    """

    loss: float
    accuracy: float
    worst: float


@torch.no_grad()
def measure(
    model: Model,
    pictures: Tensor,
    *,
    db: float = 40.0,
    seed: int = 0,
    batch: int = 8,
    battery: Sequence[Attack] = BATTERY,
) -> Measured:
    """Mark `pictures` at `db`, attack them, read the carriers.

    Parameters
    ----------
    model : Model
        On the device that is to be used.
    pictures : uint8 tensor (N, 1, SIZE, SIZE)
        At least one.
    db : float
        PSNR of the marked pictures.
    seed : int
        Draws the bits.
    batch : int
        Pictures at a time.
    battery : sequence of callable
        Attacks, each on float tensors (B, 1, SIZE, SIZE) with grey values 0..255.

    Raises
    ------
    ValueError
        No picture.

    Notes
    -----
    The caller's random state is left as it was.
    """
    if not len(pictures):
        raise ValueError("no picture to measure on")
    device = next(model.parameters()).device
    losses: list[float] = []
    hits = torch.zeros(len(battery), dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(pictures), batch):
            x = pictures[start : start + batch].float().to(device)
            values = random_values(len(x), torch.device("cpu")).to(device)
            marked = embed(model.coupling, x, values, torch.full((len(x), 1, 1, 1), db, device=device))
            for i, attack in enumerate(battery):
                answers = model.extractor(attack(marked).clamp(0, 255).round())
                agreement = (answers * model.log_scale.exp() * values)[values != 0]
                losses.append(float(F.softplus(-agreement).double().mean()) * len(x))
                hits[i] += float((agreement > 0).double().mean()) * len(x)
    share = hits / len(pictures)
    return Measured(
        loss=sum(losses) / len(pictures) / len(battery), accuracy=float(share.mean()), worst=float(share.min())
    )
