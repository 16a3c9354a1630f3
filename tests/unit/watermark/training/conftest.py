"""A training run small enough for a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from medprov_watermark.training.loop import Settings, Trainer  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> Settings:
    return Settings(channels=8, blocks=1, extractor_blocks=1, batch=2, steps=2)


@pytest.fixture(scope="session")
def pictures(phantom) -> torch.Tensor:  # type: ignore[no-untyped-def, name-defined]
    return torch.stack([torch.from_numpy(phantom(256, 256, seed=seed)) for seed in range(3)])[:, None]


@pytest.fixture()
def trainer(tiny: Settings, pictures: torch.Tensor) -> Trainer:  # type: ignore[name-defined]
    return Trainer(pictures, tiny, torch.device("cpu"))
