"""``medprov-watermark train`` up to where the training itself begins."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from medprov_watermark import cli  # noqa: E402
from medprov_watermark.training import loop  # noqa: E402
from medprov_watermark.weights import FOLDER, RELEASE  # noqa: E402


def test_each_bad_file_is_one_line(
    tmp_path: Path, phantom: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(phantom(64, 64)).save(folder / "good.png")
    Image.fromarray(phantom(64, 20)).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.setattr(loop, "run", lambda *_: None)
    shown = warnings.showwarning
    assert cli.main(["train", "--images", str(folder), "--out", str(tmp_path / "out"), "--crops", "1", "--all"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [str(folder / "broken.png"), str(folder / "small.png")]
    assert all(line.startswith("medprov-watermark: ") and ": not used for training: " in line for line in lines)
    assert warnings.showwarning is shown


def test_where_no_file_is_good_each_is_named_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert cli.main(["train", "--images", str(tmp_path), "--out", str(tmp_path / "out"), "--all"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"medprov-watermark: {tmp_path / 'broken.png'}: not used for training: ")
    assert second == f"medprov-watermark: {tmp_path}: no readable training image"


def test_training_starts_from_a_release(tmp_path: Path, phantom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(phantom(64, 64)).save(tmp_path / "good.png")
    started: list[loop.Trainer] = []
    monkeypatch.setattr(loop, "run", lambda trainer, *_: started.append(trainer))
    release = FOLDER / f"{RELEASE}.safetensors"
    given = ["train", "--images", str(tmp_path), "--out", str(tmp_path / "out"), "--crops", "1", "--all"]
    assert cli.main([*given, "--start", str(release), "--rate", "2e-4", "--ssim-weight", "3", "--final-db", "45"]) == 0
    (trainer,) = started
    assert (trainer.settings.rate, trainer.settings.ssim_weight, trainer.progress.db) == (2e-4, 3.0, 45.0)
    weights = load_file(release)
    for part in (trainer.model, trainer.average):
        assert all(torch.equal(value, weights[name]) for name, value in part.state_dict().items())


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_a_start_that_is_no_release_is_named(
    content: bytes | None, tmp_path: Path, phantom: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(phantom(64, 64)).save(tmp_path / "good.png")
    file = tmp_path / "other.safetensors"
    if content is not None:
        file.write_bytes(content)
    given = ["train", "--images", str(tmp_path), "--out", str(tmp_path / "out"), "--all", "--start", str(file)]
    assert cli.main(given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"medprov-watermark: {file}: no weights of a model of this size")
