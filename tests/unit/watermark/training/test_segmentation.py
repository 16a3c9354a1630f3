"""The network that finds the region of interest, and its training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from medprov_watermark.roi_picture import standardised  # noqa: E402
from medprov_watermark.training import data, loop, masked  # noqa: E402
from medprov_watermark.training.segmentation import Network, Settings, Trainer, answer, dice  # noqa: E402

CPU = torch.device("cpu")
TINY = Settings(steps=4, batch=3, widths=(4, 6, 8))


def trainer_of(folder: Path, settings: Settings = TINY) -> Trainer:
    return Trainer(masked.load(data.list_images(folder), 64), settings, CPU)


def timeless(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name != "seconds"}


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (320, 16)])
def test_the_answers_have_the_pictures_size(size: tuple[int, int]) -> None:
    region, kind = Network((4, 6, 8, 8), 3).eval()(torch.zeros(2, 1, *size))
    assert region.shape == (2, 1, *size)
    assert kind.shape == (2, 3)


@pytest.mark.parametrize("size", [(1, 1), (37, 64), (50, 33)])
def test_any_size_is_answered(size: tuple[int, int]) -> None:
    region, kinds = answer(Network((4, 6, 8, 8), 3).eval(), torch.zeros(size))
    assert region.shape == size
    assert float(region.min()) >= 0 and float(region.max()) <= 1
    assert float(kinds.sum()) == pytest.approx(1)


def test_dice() -> None:
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert dice(a, a) == 1
    assert dice(a, b) == 0.5
    assert dice(a, ~a) == 0
    assert dice(a & ~a, a & ~a) == 1


def test_a_step_runs_and_changes_model_and_average(masked_pictures: Path) -> None:
    trainer = trainer_of(masked_pictures)
    before = {name: part.clone() for name, part in trainer.model.state_dict().items()}
    figures = trainer.step()
    assert figures["step"] == 1 == trainer.progress.step
    assert all(value == value and abs(value) < 1e6 for value in figures.values())
    for part in (trainer.model, trainer.average):
        state = part.state_dict()
        assert any(not torch.equal(state[name], value) for name, value in before.items())
        assert all(torch.isfinite(value).all() for value in state.values())


def test_a_batch_without_masks_teaches_the_kind_alone(masked_pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(masked_pictures)
    x = torch.zeros(2, 1, 64, 64)
    nothing = (x, torch.zeros_like(x), torch.tensor([False, False]), torch.tensor([0, 0]))
    monkeypatch.setattr(trainer.pictures, "batch", lambda *_: nothing)
    figures = trainer.step()
    assert figures["region"] == 0
    assert figures["kind"] > 0


def test_the_seed_decides(masked_pictures: Path) -> None:
    first = timeless(trainer_of(masked_pictures).step())
    assert timeless(trainer_of(masked_pictures).step()) == first
    assert timeless(trainer_of(masked_pictures, Settings(steps=4, batch=3, widths=(4, 6, 8), seed=1)).step()) != first


def test_a_run_stops_and_goes_on(masked_pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    loop.run(trainer_of(masked_pictures), out, minutes=0.0, every=1)
    assert {"checkpoint.pt", "log.csv"} <= {path.name for path in out.iterdir()}
    again = trainer_of(masked_pictures)
    again.resume(out / loop.CHECKPOINT)
    assert again.progress.step == 1 and not again.finished
    loop.run(again, out, every=1)
    assert again.finished
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [float(row["step"]) for row in rows] == [1, 2, 3, 4]
    loop.run(again, out, every=1)
    assert again.progress.step == 4


def test_a_checkpoint_continues_where_it_stood(masked_pictures: Path, tmp_path: Path) -> None:
    trainer = trainer_of(masked_pictures)
    trainer.step()
    trainer.save(tmp_path / "checkpoint.pt")
    runs = []
    for _ in range(2):
        other = trainer_of(masked_pictures)
        other.resume(tmp_path / "checkpoint.pt")
        assert other.progress == trainer.progress
        for mine, theirs in ((trainer.model, other.model), (trainer.average, other.average)):
            for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
                assert torch.equal(a, b)
        runs.append(timeless(other.step()))
    assert runs[0] == runs[1]


def test_a_checkpoint_of_other_kinds_is_refused(masked_pictures: Path, tmp_path: Path) -> None:
    trainer_of(masked_pictures).save(tmp_path / "checkpoint.pt")
    other = trainer_of(masked_pictures)
    other.pictures.kinds = ("other", "lines", "hearts")
    with pytest.raises(ValueError, match="other, lines, spots"):
        other.resume(tmp_path / "checkpoint.pt")


@pytest.mark.slow
def test_training_learns(masked_pictures: Path) -> None:
    trainer = trainer_of(masked_pictures, Settings(steps=120, batch=6, rate=5e-3, widths=(8, 12, 16)))
    for _ in range(120):
        trainer.step()
    for picture in (p for _, every in trainer.pictures._groups for p in every if p.mask is not None):
        region, kinds = answer(trainer.average, torch.from_numpy(standardised(picture.grey)))
        assert dice(region > 0.5, torch.from_numpy(picture.mask)) > 0.6
        assert kinds.shape == (3,)
