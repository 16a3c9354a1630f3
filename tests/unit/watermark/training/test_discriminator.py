"""The adversary of the last phase."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark.training.discriminator import Discriminator, adversarial, discriminating  # noqa: E402


def test_it_learns_to_tell_a_pattern() -> None:
    torch.manual_seed(0)
    network = Discriminator(8)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    x = torch.rand(4, 1, cr.SIZE, cr.SIZE) * 40 + 100
    marked = x + 12 * torch.sin(torch.arange(cr.SIZE) * 0.8)
    assert network(x).shape == (4, 1, cr.SIZE // 8, cr.SIZE // 8)
    losses = []
    for _ in range(25):
        loss = discriminating(network(x), network(marked))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert adversarial(network(x)) < adversarial(network(marked))


def test_brightness_is_no_mark() -> None:
    torch.manual_seed(0)
    network = Discriminator(8)
    x = torch.rand(1, 1, cr.SIZE, cr.SIZE) * 100
    torch.testing.assert_close(network(x), network(x + 50), atol=1e-3, rtol=1e-3)
