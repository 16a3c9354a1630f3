"""``medprov-watermark train-roi`` and ``release-roi``."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from medprov_watermark import cli  # noqa: E402
from medprov_watermark.roi import Finder  # noqa: E402


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_training_and_release(masked_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given = ["train-roi", "--images", str(masked_pictures), "--out", str(out), "--batch", "2", "--crop", "64", "--all"]
    assert cli.main([*given, "--steps", "2", "--threads", "1"]) == 0
    assert "7 pictures, other, lines, spots; 2 steps on cpu" in capsys.readouterr().out
    assert cli.main(["release-roi", str(out / "checkpoint.pt"), "--out", str(tmp_path / "weights")]) == 0
    assert Finder(tmp_path / "weights" / "medprov-roi-1.onnx").kinds == ["other", "lines", "spots"]
    assert capsys.readouterr().out.strip() == str(tmp_path / "weights" / "medprov-roi-1.onnx")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--crop", "72"], "crop 72: give a multiple of 16"),
        (["--crop", "0"], "crop 0"),
        (["--images", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_impossible_wishes_are_named(
    more: list[str], words: str, masked_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["train-roi", "--images", str(masked_pictures), "--out", str(tmp_path / "out"), *more]
    assert cli.main(given) == 1
    assert words in complaint(capsys)


def test_pictures_without_masks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-roi", "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert complaint(capsys).startswith(f"medprov-watermark: {tmp_path}: no picture has a mask")


def test_what_is_no_checkpoint_is_named(
    masked_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint.pt").write_bytes(b"nothing")
    given = ["train-roi", "--images", str(masked_pictures), "--out", str(out), "--all", "--crop", "64"]
    assert cli.main(given) == 1
    assert "cannot go on from this checkpoint" in complaint(capsys)
    assert cli.main(["release-roi", str(out / "checkpoint.pt"), "--out", str(tmp_path / "weights")]) == 1
    assert "not a checkpoint of medprov-watermark train-roi" in complaint(capsys)
