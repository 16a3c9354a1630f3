"""What a training run leaves behind: CSV files, TensorBoard events, plots."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG, ATTACKS = "log.csv", "attacks.csv"


class Records:
    """Appends a run's figures to ``log.csv``, ``attacks.csv`` and, where TensorBoard is installed, its event files.

    Parameters
    ----------
    folder : Path
        Exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(folder / "tensorboard")

    def add(self, figures: Mapping[str, float], accuracy: Mapping[str, float]) -> None:
        """One entry.

        Parameters
        ----------
        figures : mapping of str to float
            With ``step``.
        accuracy : mapping of str to float
            Share of bits right after each attack.
        """
        step = int(figures["step"])
        _append(self.folder / LOG, [dict(figures)])
        _append(
            self.folder / ATTACKS, [{"step": step, "attack": a, "accuracy": v} for a, v in sorted(accuracy.items())]
        )
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"training/{name}", value, step)
            for name, value in accuracy.items():
                self._board.add_scalar(f"bits right/{name}", value, step)
            self._board.flush()


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    new = not path.exists()
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def plot(folder: Path) -> list[Path]:
    """Draw ``loss.png`` and ``attacks.png`` from a run's CSV files.

    Returns
    -------
    list of Path
        The pictures written.

    Raises
    ------
    OSError
        There is no log.
    ImportError
        matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    with (folder / LOG).open(newline="") as handle:
        log = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]
    steps = [row["step"] for row in log]
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    for name in ("loss", "bits"):
        axes[0].plot(steps, [row[name] for row in log], label={"loss": "whole loss", "bits": "of the bits"}[name])
    axes[0].set_ylabel("loss")
    axes[0].legend()
    axes[1].plot(steps, [100 * row["accuracy"] for row in log])
    axes[1].set_ylabel("bits right, %")
    axes[2].plot(steps, [row["ssim"] for row in log])
    axes[2].set_ylabel("SSIM (training's)")
    axes[2].set_xlabel("step")
    figure.savefig(folder / "loss.png", dpi=120)
    written = [folder / "loss.png"]

    curves: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    if (folder / ATTACKS).exists():
        with (folder / ATTACKS).open(newline="") as handle:
            for row in csv.DictReader(handle):
                curves[row["attack"]][0].append(float(row["step"]))
                curves[row["attack"]][1].append(100 * float(row["accuracy"]))
        columns = 4
        rows = max(1, -(-len(curves) // columns))
        figure = Figure(figsize=(3 * columns, 2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, (name, (x, y)) in zip(grid.ravel(), sorted(curves.items()), strict=False):
            axis.plot(x, y)
            axis.set_title(name, fontsize=9)
        for axis in grid.ravel()[len(curves) :]:
            axis.set_visible(False)
        figure.supxlabel("step")
        figure.supylabel("bits right, %")
        figure.savefig(folder / "attacks.png", dpi=120)
        written.append(folder / "attacks.png")
    return written
