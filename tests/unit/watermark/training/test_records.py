"""What a training run leaves behind."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("torch")

from medprov_watermark.training.records import ATTACKS, LOG, Records, plot

FIGURES = {"loss": 0.4, "bits": 0.2, "accuracy": 0.9, "ssim": 0.99}


def test_figures_are_appended_and_plotted(tmp_path: Path) -> None:
    for part in (0, 1):  # a run that was cut goes on in the same files
        records = Records(tmp_path)
        for step in (50, 100):
            records.add({"step": 100 * part + step, **FIGURES}, {"jpeg": 0.8, "none": 0.9})
    with (tmp_path / LOG).open(newline="") as handle:
        assert [float(row["step"]) for row in csv.DictReader(handle)] == [50, 100, 150, 200]
    with (tmp_path / ATTACKS).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 8
    assert {row["attack"] for row in rows} == {"jpeg", "none"}
    assert list((tmp_path / "tensorboard").iterdir())
    written = plot(tmp_path)
    assert [path.name for path in written] == ["loss.png", "attacks.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_a_folder_without_a_log_has_no_plots(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=LOG):
        plot(tmp_path)
