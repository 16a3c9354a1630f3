"""Pictures of the results: strength curves, PSNR by modality, and a sheet of covers and marked pictures.

    python -m benchmarks.plots [--json FILE FILE] [--tradeoff FILE] [--images DIR] [--out docs/plots] [--quick]

The files come from ``benchmarks.robustness``: ``psnr.png`` is drawn from the first that is there, ``curves.png`` from
the last that was measured with ``--curves``, ``tradeoff.png`` from one of ``benchmarks.tradeoff``. ``sheet.png`` marks
one picture of each modality of ``--images``, or what ships with scikit-image and phantoms.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import images, ours
from benchmarks.attacks import ATTACKS, CURVES, point, points
from benchmarks.phantoms import mammogram, phantom
from benchmarks.robustness import payload_for
from medprov_watermark.errors import WatermarkError
from medprov_watermark.watermarker import DualWatermarker, psnr

GAIN = 16
"""How much the difference of cover and marked picture is amplified."""
COLOURS = ("#c1272d", "#1f6f8b", "#3a7d44", "#8a5a9e", "#c98a1b", "#5b6770", "#7a4a2b")
WITH_LIST = "#e08214"
MARKERS = "osv^DPX"
Tiles = list[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]
"""Title, cover, marked."""


def curves(report: dict[str, Any], target: Path) -> bool:
    """Exact share against strength, a panel per attack; False, and nothing drawn, when the run has no curves."""
    lines = _lines(report)
    if not lines:
        return False
    figure = Figure(figsize=(12, 8))
    axes = figure.subplots(2, 2, sharey=True)
    for (name, curve), axis in zip(CURVES.items(), axes.flat, strict=True):
        ends = sorted((curve.strengths[0], curve.strengths[-1]))
        for label, shares, style in lines:
            measured = [s for s in curve.strengths if point(name, s) in shares]
            percent, low, high = ([shares[point(name, s)][key] for s in measured] for key in ("percent", "low", "high"))
            axis.plot(measured, percent, label=label, **style)
            if label.startswith(ours.NAME):
                axis.fill_between(measured, low, high, color=style["color"], alpha=0.1, linewidth=0)
        axis.set_xlabel(curve.title)
        axis.set_xlim(*(reversed(ends) if name == "jpeg" else ends))
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.25)
    for axis in axes[:, 0]:
        axis.set_ylabel("every bit right, % of pictures")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=min(4, len(labels)), frameon=False)
    n = next(iter(lines[0][1].values()))["n"]
    figure.suptitle(f"Attacks at growing strength, {n} pictures; bands: 95 % intervals of medprov")
    figure.tight_layout(rect=(0, 0.05 + 0.025 * ((len(labels) - 1) // 4), 1, 1))
    _save(figure, target)
    return True


def _lines(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Label, shares by attack, and style of every line."""
    wanted = set(points()) - set(ATTACKS)
    found = []
    for number, (name, method) in enumerate(report["methods"].items()):
        total = method["summary"]
        exact = total.get("exact", {}).get("all", {})
        if not wanted & set(exact):
            continue
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 4,
            "linewidth": 2.2 if name == ours.NAME else 1.2,
        }
        found.append((f"{name}, blind" if "listed" in total else name, exact, style))
        if "listed" in total:
            label = f"{name}, directory of {report['list_records']:,} records".replace(",000", " 000")
            found.append((label, total["listed"]["all"], {**style, "color": WITH_LIST, "linestyle": "--"}))
    return found


def psnr_boxes(report: dict[str, Any], target: Path) -> None:
    """PSNR of medprov's marked pictures, a box per modality and a dot per picture."""
    rows = [row for row in report["methods"][ours.NAME]["rows"] if "refused" not in row]
    names = sorted({row["modality"] for row in rows})
    sizes = sorted({row["size"] for row in rows})
    figure = Figure(figsize=(max(6, 1.1 * len(names) + 2), 5))
    axis = figure.subplots()
    groups = [[row["psnr"] for row in rows if row["modality"] == name] for name in names]
    axis.boxplot(groups, whis=(0, 100), widths=0.55, medianprops={"color": "black"})
    axis.set_xticks(
        range(1, len(names) + 1),
        names,
        rotation=30 if len(names) > 5 else 0,
        ha="right" if len(names) > 5 else "center",
    )
    for number, size in enumerate(sizes):
        at = [(names.index(row["modality"]) + 1, row["psnr"]) for row in rows if row["size"] == size]
        shift = 0.16 * (number - (len(sizes) - 1) / 2)
        colour = COLOURS[(number + 1) % len(COLOURS)]
        axis.scatter([x + shift for x, _ in at], [y for _, y in at], s=18, color=colour, label=f"{size} px", zorder=3)
    axis.set_ylabel("PSNR of the marked picture, dB")
    axis.set_title(f"Marked pictures against their covers, both marks ({len(rows)} pictures)")
    axis.grid(axis="y", alpha=0.25)
    axis.legend(frameon=False)
    figure.tight_layout()
    _save(figure, target)


def tradeoff(report: dict[str, Any], target: Path) -> None:
    """Exact share against the mean PSNR that a floor leads to, a panel per size and a line per attack."""
    entries = [entry for entry in report["summary"] if "exact" in entry]
    sizes = [size for size in entries[0]["exact"] if size != "all"]
    figure = Figure(figsize=(5.5 * len(sizes) + 1.5, 5))
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for size, axis in zip(sizes, axes, strict=True):
        side = int(size.split()[1])
        rows = [row for row in report["rows"] if row["size"] == side and "refused" not in row]
        means = [np.mean([row["psnr"] for row in rows if row["floor"] == entry["floor"]]) for entry in entries]
        for number, attack in enumerate(entries[0]["exact"][size]):
            axis.plot(
                means,
                [entry["exact"][size][attack]["percent"] for entry in entries],
                label=attack,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="-" if number < len(COLOURS) else "--",
                markersize=4,
            )
        axis.set_title(f"{side} px, {entries[0]['exact'][size][attack]['n']} pictures")
        axis.set_xlabel("mean PSNR of the marked pictures, dB")
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("every bit right, % of pictures")
    axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    _save(figure, target)


def sheet(tiles: Tiles, target: Path) -> None:
    """Cover, marked picture and amplified difference, a column per modality."""
    figure = Figure(figsize=(2.1 * len(tiles), 6.9))
    axes = figure.subplots(3, len(tiles), squeeze=False)
    for column, (title, cover, marked) in enumerate(tiles):
        difference = marked.astype(np.int32) - cover
        shown = (cover, marked, np.clip(difference * GAIN + 128, 0, 255).astype(np.uint8))
        for row, picture in enumerate(shown):
            axis = axes[row, column]
            axis.imshow(picture, cmap="gray" if picture.ndim == 2 else None, vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0, column].set_title(title, fontsize=10)
        axes[1, column].set_xlabel(f"{psnr(cover, marked, 255):.1f} dB", fontsize=9)
    for row, text in enumerate(("cover", "marked", f"difference x {GAIN}")):
        axes[row, 0].set_ylabel(text, fontsize=10)
    figure.tight_layout(pad=0.4)
    _save(figure, target)


def tiles(found: Sequence[images.Sample]) -> Tiles:
    """Mark the first markable picture of each modality."""
    watermarker = DualWatermarker.load(device="cpu")
    out: Tiles = []
    for sample in found:
        if any(title == sample.modality for title, _, _ in out):
            continue
        try:
            marked = watermarker.mark(sample.image, payload_for(sample)).image
        except WatermarkError as error:
            print(f"{sample.modality} {sample.name}: left out: {error}", file=sys.stderr)
            continue
        out.append((sample.modality, sample.image, np.asarray(marked, np.uint8)))
    return out


def pictures(folder: Path | None, split: str, size: int) -> list[images.Sample]:
    """One picture per modality, or what can be had without a folder."""
    found = images.collect(folder, [size], split, 1)
    if folder is None:
        seed = zlib.crc32(b"sheet")
        for name, made in (
            ("mammogram phantom", mammogram(size, size, 8, seed)),
            ("phantom", phantom(size, size, 8, False, seed)),
        ):
            found.append(images.Sample(name, name, size, np.asarray(made, np.uint8)))
    return found


def _save(figure: Figure, target: Path) -> None:
    figure.savefig(target, dpi=110)
    print(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [Path("build/bench/robustness.json"), Path("build/bench/peers.json")]
    parser.add_argument("--json", type=Path, nargs="+", default=default, help="what was measured")
    parser.add_argument("--tradeoff", type=Path, default=Path("build/bench/tradeoff.json"))
    parser.add_argument("--images", type=Path)
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("docs/plots"))
    parser.add_argument("--quick", action="store_true", help="a sheet of three pictures of 256 px")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    reports = [json.loads(file.read_text()) for file in args.json if file.exists()]
    if reports:
        psnr_boxes(reports[0], args.out / "psnr.png")
    if not any(curves(report, args.out / "curves.png") for report in reversed(reports)):
        print("no curves: no file of a run of benchmarks.robustness with --curves is there", file=sys.stderr)
    if args.tradeoff.exists():
        tradeoff(json.loads(args.tradeoff.read_text()), args.out / "tradeoff.png")
    found = pictures(args.images, args.split, 256 if args.quick else args.size)
    sheet(tiles(found[-3:] if args.quick else found), args.out / "sheet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
