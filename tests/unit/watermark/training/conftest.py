"""A training run small enough for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def masked_pictures(tmp_path: Path) -> Path:
    """A folder of two kinds with masks, dark lines and dark spots, and one without; seven pictures, four masks."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(0)
    row, column = np.mgrid[:96, :120]
    for kind in ("lines", "spots"):
        (folder / kind).mkdir(parents=True)
        (folder / f"{kind}_masks").mkdir()
        for number in range(3):
            if kind == "lines":
                mask = abs(row - 20 - 25 * number - column // 4) < 4
            else:
                mask = np.hypot(row - 48, column - 30 - 30 * number) < 20
            picture = np.clip(170 - 90 * mask + random.normal(0, 4, mask.shape), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / kind / f"{kind}{number}.png")
            if number < 2:
                Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"{kind}_masks" / f"{kind}{number}.png")
    (folder / "plain").mkdir()
    Image.fromarray(random.integers(0, 255, (96, 120)).astype(np.uint8)).save(folder / "plain" / "noise.png")
    return folder
