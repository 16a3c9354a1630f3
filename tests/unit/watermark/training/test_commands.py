"""``medprov-watermark train`` up to where the training itself begins."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medprov_watermark import cli
from medprov_watermark.training import loop


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
