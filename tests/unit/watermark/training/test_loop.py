"""The training loop."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark.coupling import Frozen, _Canvas  # noqa: E402
from medprov_watermark.training import loop  # noqa: E402
from medprov_watermark.training.export import release_bytes  # noqa: E402
from medprov_watermark.training.loop import (  # noqa: E402
    Model,
    Settings,
    Trainer,
    embed,
    informed_amplitudes,
    random_values,
    rate,
    run,
    ssim,
)
from medprov_watermark.training.networks import Extractor  # noqa: E402

CPU = torch.device("cpu")


def timeless(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name != "seconds"}


def test_a_step_runs_and_changes_model_and_average(trainer: Trainer) -> None:
    before = {name: part.clone() for name, part in trainer.model.named_parameters()}
    figures = trainer.step()
    assert figures["step"] == 1 == trainer.progress.step
    assert all(value == value and abs(value) < 1e6 for value in figures.values())
    changed = [name for name, part in trainer.model.named_parameters() if not torch.equal(part, before[name])]
    assert len(changed) > 0.8 * len(before)
    averaged = dict(trainer.average.named_parameters())
    assert any(not torch.equal(averaged[name], before[name]) for name in before)
    assert all(torch.isfinite(part).all() for part in averaged.values())


def test_the_seed_decides(tiny: Settings, pictures: torch.Tensor) -> None:  # type: ignore[name-defined]
    first = timeless(Trainer(pictures, tiny, CPU).step())
    assert timeless(Trainer(pictures, tiny, CPU).step()) == first
    assert timeless(Trainer(pictures, replace(tiny, seed=1), CPU).step()) != first


def test_a_checkpoint_continues_where_it_stood(
    trainer: Trainer, pictures: torch.Tensor, tiny: Settings, tmp_path: Path
) -> None:  # type: ignore[name-defined]
    trainer.step()
    trainer.save(tmp_path / "checkpoint.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    runs = []
    for _ in range(2):
        other = Trainer(pictures, tiny, CPU)
        other.resume(tmp_path / "checkpoint.pt")
        assert other.progress == trainer.progress
        for mine, theirs in ((trainer.model, other.model), (trainer.average, other.average)):
            for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
                assert torch.equal(a, b)
        assert rate(other.settings, other.progress.step) == rate(trainer.settings, trainer.progress.step)
        runs.append(timeless(other.step()))
    assert runs[0] == runs[1]
    assert runs[0]["step"] == 2


def test_a_checkpoint_holds_optimisers_adversary_and_accuracies(
    pictures: torch.Tensor, tiny: Settings, tmp_path: Path
) -> None:  # type: ignore[name-defined]
    contested = replace(tiny, adversarial_from=0.0)
    first = Trainer(pictures, contested, CPU)
    first.step()
    first.save(tmp_path / "checkpoint.pt")
    other = Trainer(pictures, replace(contested, seed=4), CPU)
    other.resume(tmp_path / "checkpoint.pt")
    assert other.accuracy_after == first.accuracy_after != {}
    for mine, theirs in ((first.optimiser, other.optimiser), (first.adversary, other.adversary)):
        moments, again = mine.state_dict()["state"], theirs.state_dict()["state"]
        assert moments.keys() == again.keys() != set()
        assert all(torch.equal(moments[k]["exp_avg"], again[k]["exp_avg"]) for k in moments)
    for name, part in first.discriminator.state_dict().items():
        assert torch.equal(other.discriminator.state_dict()[name], part), name


def test_a_request_to_end_leaves_a_checkpoint(pictures: torch.Tensor, tiny: Settings, tmp_path: Path) -> None:  # type: ignore[name-defined]
    trainer = Trainer(pictures, replace(tiny, steps=1000), CPU)
    before = signal.getsignal(signal.SIGTERM)
    run(trainer, tmp_path, report=lambda figures: os.kill(os.getpid(), signal.SIGTERM), every=2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert 2 <= trainer.progress.step < 5
    again = Trainer(pictures, replace(tiny, steps=1000), CPU)
    again.resume(tmp_path / loop.CHECKPOINT)
    assert again.progress == trainer.progress


def test_every_network_learns_from_a_step(pictures: torch.Tensor, tiny: Settings) -> None:  # type: ignore[name-defined]
    trainer = Trainer(pictures, replace(tiny, adversarial_from=0.0), CPU)
    parts = {"model": trainer.model, "discriminator": trainer.discriminator}
    before = {(name, key): value.clone() for name, part in parts.items() for key, value in part.named_parameters()}
    trainer.step()
    for (name, key), value in before.items():
        assert not torch.equal(dict(parts[name].named_parameters())[key], value), (name, key)


def test_a_start_from_a_release_begins_at_the_end_of_the_curriculum(trainer: Trainer, tmp_path: Path) -> None:
    trainer.step()
    release = tmp_path / "release.safetensors"
    release.write_bytes(release_bytes(trainer.average))
    other = Trainer(trainer.pictures, replace(trainer.settings, seed=9, final_db=44.0), CPU)
    other.start_from(release)
    wanted = trainer.average.state_dict()
    for part in (other.model, other.average):
        assert all(torch.equal(value, wanted[name]) for name, value in part.state_dict().items())
    assert (other.progress.step, other.progress.db, other.progress.probability) == (0, 44.0, 0.9)


def test_a_crash_while_saving_leaves_the_former_checkpoint(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    former = path.read_bytes()

    def crash(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="disk full"):
        trainer.save(path)
    assert path.read_bytes() == former


def test_a_run_ends_logs_and_continues(pictures: torch.Tensor, tiny: Settings, tmp_path: Path) -> None:  # type: ignore[name-defined]
    heard: list[dict[str, float]] = []
    run(Trainer(pictures, replace(tiny, steps=1), CPU), tmp_path, report=heard.append, every=1)
    assert [figures["step"] for figures in heard] == [1]
    for _ in range(2):  # the second finds nothing left to do
        again = Trainer(pictures, tiny, CPU)
        again.resume(tmp_path / loop.CHECKPOINT)
        run(again, tmp_path, report=heard.append, every=1)
        assert [figures["step"] for figures in heard] == [1, 2]
        assert again.progress.step == 2
    with (tmp_path / "log.csv").open() as handle:
        assert [row["step"] for row in csv.DictReader(handle)] == ["1", "2"]


def test_a_run_stops_when_its_time_is_over(pictures: torch.Tensor, tiny: Settings, tmp_path: Path) -> None:  # type: ignore[name-defined]
    trainer = Trainer(pictures, replace(tiny, steps=100), CPU)
    run(trainer, tmp_path, minutes=0.0)
    assert trainer.progress.step == 1
    assert (tmp_path / loop.CHECKPOINT).exists()


def test_the_rate_warms_up_and_falls(trainer: Trainer) -> None:
    trainer.settings = replace(trainer.settings, steps=1000)
    rates = []
    for step in (0, 100, 200, 600, 1000, 5000):
        trainer.progress.step = step
        rates.append(rate(trainer.settings, trainer.progress.step))
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4] > 0
    assert rates[4] == rates[5]


def test_the_curriculum_goes_from_attacks_to_quality(trainer: Trainer) -> None:
    trainer.settings = replace(trainer.settings, steps=1000, final_db=34.15)
    seen = []
    for step in range(9, 259, 10):
        trainer.progress.step, trainer.progress.accuracy = step, 0.99
        # The step itself is not what is tried here.
        trainer.model.requires_grad_(True)
        if step > 9:
            trainer.progress.probability = min(0.9, trainer.progress.probability + 0.2)
        before = (trainer.progress.probability, trainer.progress.db)
        if len(seen) < 6:
            trainer.step()
            seen.append((before, (trainer.progress.probability, trainer.progress.db)))
    (first, after), *_, (_, last) = seen
    assert first == (0.0, 34.0)
    assert after == (0.05, 34.0)
    assert last[0] == 0.9
    assert 34.0 <= last[1] <= 34.15


@pytest.mark.parametrize("db", [30.0, 36.0, 42.0])
def test_marked_pictures_are_whole_legal_and_hold_their_psnr(db: float) -> None:
    torch.manual_seed(0)
    network = Model(Settings(channels=8, blocks=1, extractor_blocks=1)).coupling
    x = torch.randint(80, 170, (2, 1, cr.SIZE, cr.SIZE)).float()
    with torch.no_grad():
        marked = embed(network, x, random_values(2, CPU), torch.full((2, 1, 1, 1), db))
    torch.testing.assert_close(marked, marked.round(), atol=1e-3, rtol=0)
    error = (marked - x).square().mean((1, 2, 3))
    measured = 10 * torch.log10(255**2 / error)
    assert (measured - db).abs().max() < 1.0


def test_marking_stays_legal_at_the_limits_and_passes_gradients() -> None:
    torch.manual_seed(0)
    network = Model(Settings(channels=8, blocks=1, extractor_blocks=1)).coupling
    x = torch.randint(0, 2, (1, 1, cr.SIZE, cr.SIZE)).float() * 255
    marked = embed(network, x, random_values(1, CPU), torch.full((1, 1, 1, 1), 25.0))
    assert marked.min() >= 0
    assert marked.max() <= 255
    marked.square().mean().backward()
    assert any(part.grad is not None and part.grad.abs().sum() > 0 for part in network.parameters())


def test_half_a_picture_hides_the_other_half() -> None:
    x = torch.randint(0, 256, (1, 1, cr.SIZE, cr.SIZE)).float()
    even = loop._EVEN
    for keep_even in (True, False):
        keep = even if keep_even else ~even
        seen = loop._half(x, keep_even)
        assert torch.equal(seen[..., keep], x[..., keep])
        other = torch.where(keep, x, torch.randint(0, 256, x.shape).float())
        assert torch.equal(loop._half(other, keep_even), seen)


def test_the_half_is_the_one_that_marking_sees() -> None:
    plane = torch.randint(0, 256, (cr.SIZE, cr.SIZE)).numpy().astype(np.uint8)
    canvas = _Canvas(plane, np.zeros(0, np.int64), Frozen(1, 0, 0, (0, 255)), None)  # type: ignore[arg-type]
    seen = canvas._seen(canvas.padded[..., 0], parity=1)
    half = loop._half(torch.from_numpy(plane)[None, None].float(), keep_even=True)[0, 0].numpy()
    np.testing.assert_array_equal(half, seen)


def test_values_are_signs_and_some_are_left_out() -> None:
    torch.manual_seed(0)
    values = random_values(200, CPU)
    assert values.shape == (200, cr.TOTAL)
    assert ((values == 0).sum(1) == cr.NULLS).all()
    assert set(values.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_informed_amplitudes_spend_where_the_picture_contradicts() -> None:
    torch.manual_seed(0)
    extractor = Extractor(16, 1)
    x = torch.rand(48, 1, cr.SIZE, cr.SIZE) * 255
    signs = random_values(48, CPU)
    amplitudes = informed_amplitudes(extractor, x, signs)
    power = amplitudes.square().sum(1) / (signs != 0).sum(1)
    torch.testing.assert_close(power, torch.ones(48), atol=1e-3, rtol=0)
    assert (amplitudes[signs == 0] == 0).all()
    right = extractor(x).detach() * signs
    uneven = [i for i in range(48) if amplitudes[i][signs[i] != 0].std() > 0.05]
    assert 0.5 < len(uneven) / 48 < 0.85
    for i in uneven:
        written = signs[i] != 0
        assert torch.corrcoef(torch.stack([right[i][written], amplitudes[i][written]]))[0, 1] < -0.5


def test_the_discriminator_takes_part_in_the_last_phase(pictures: torch.Tensor, tiny: Settings) -> None:  # type: ignore[name-defined]
    trainer = Trainer(pictures, replace(tiny, steps=4, adversarial_from=0.5), CPU)
    losses = [trainer.step()["discriminator"] for _ in range(4)]
    assert losses[:2] == [0.0, 0.0]
    assert all(0 < loss < 10 for loss in losses[2:])
    without = Trainer(pictures, replace(tiny, steps=1, adversarial_from=0.0, adversarial_weight=0.0), CPU)
    assert without.step()["discriminator"] == 0.0


def test_no_carrier_has_a_part_or_a_sign_that_a_network_could_learn() -> None:
    torch.manual_seed(0)
    values = random_values(2000, CPU)
    assert values.sign().mean(0).abs().max().item() < 0.1
    written = (values != 0).float().mean(0)
    assert (written - cr.WRITTEN / cr.TOTAL).abs().max().item() < 0.06


def test_ssim() -> None:
    x = torch.rand(1, 1, 64, 64) * 255
    assert ssim(x, x).item() == pytest.approx(1.0)
    slight, strong = ssim(x, x + 5 * torch.randn_like(x)).item(), ssim(x, torch.rand_like(x) * 255).item()
    assert 1 > slight > strong
