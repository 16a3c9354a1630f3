"""The adversary of the last phase of training (I. Goodfellow et al., "Generative Adversarial Nets")."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Discriminator(nn.Module):
    """A small convolutional network that judges a picture by its fine structure."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, channels, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(4, 2 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(4, 4 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * channels, 1, 3, padding=1),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """How much like a cover the places of a picture look, float tensor (B, 1, SIZE / 8, SIZE / 8).

        Parameters
        ----------
        picture : float tensor (B, 1, SIZE, SIZE)
            Grey values 0..255.
        """
        fine = picture - F.avg_pool2d(F.pad(picture, [2] * 4, mode="reflect"), 5, 1)
        judged: Tensor = self.layers(F.pixel_unshuffle(fine / 8, 2))
        return judged


def adversarial(judged: Tensor) -> Tensor:
    """The loss of who wants pictures judged as covers (the non-saturating one)."""
    return F.softplus(-judged.float()).mean()


def discriminating(covers: Tensor, marked: Tensor) -> Tensor:
    """The discriminator's loss on what it says of covers and of marked pictures."""
    return F.softplus(-covers.float()).mean() + F.softplus(marked.float()).mean()
