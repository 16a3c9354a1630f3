"""Write docs/results.md from the JSON files of the benchmarks.

    python -m benchmarks.tables --folder build/bench --out docs/results.md

Reads robustness.json, restore.json, features.json, false_alarm.json, amplitudes.json and verify_time.json where they
are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

COMMANDS = {
    "robustness": "python -m benchmarks.robustness --images DIR --split validation --per-modality 3 "
    "--offset 1 --json FILE",
    "restore": "python -m benchmarks.restore --images DIR --dicom DIR --split validation --json FILE",
    "features": "python -m benchmarks.features --images DIR --per-folder 6 --json FILE",
    "false_alarm": "python -m benchmarks.false_alarm --images DIR --count 1000 --json FILE",
    "amplitudes": "python -m benchmarks.amplitudes --images DIR --split validation --offset 1 --json FILE",
    "verify_time": "python -m benchmarks.verify_time --json FILE",
}


def _quality(summary: dict[str, Any]) -> list[str]:
    out = ["| pictures | n | PSNR mean | PSNR 10 % | PSNR worst | SSIM mean |", "|---|---|---|---|---|---|"]
    for name, q in summary["quality"].items():
        out.append(
            f"| {name} | {q['n']} | {q['psnr_mean']:.2f} | {q['psnr_p10']:.2f} | {q['psnr_min']:.2f} "
            f"| {q['ssim_mean']:.4f} |"
        )
    return out


def _exact(summary: dict[str, Any]) -> list[str]:
    groups = [g for g in summary["exact_percent"] if g == "all" or g.startswith("size")]
    out = ["| attack | " + " | ".join(groups) + " |", "|---" * (len(groups) + 1) + "|"]
    for attack in summary["exact_percent"]["all"]:
        cells = (f"{summary['exact_percent'][g][attack]:.1f}" for g in groups)
        out.append(f"| {attack} | " + " | ".join(cells) + " |")
    return out


def _content(data: dict[str, Any]) -> list[str]:
    """Changes found by size, and what honest processing is called."""
    found = data["changes found"]
    sizes = [size for size in ("3%", "4%", "5%", "8%", "10%", "25%") if f"filled, {size}" in found]
    out = [
        f"{data['pictures']} pictures, 512 px at most. Share of changed places that are found, by diameter in per cent "
        "of the side: smoothed out (filled), 20 or 40 grey levels lighter or darker, or overwritten from elsewhere.",
        "",
        "| change | " + " | ".join(sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for kind in ("filled", "added 20", "added 40", "copied here"):
        for after in ("", ", jpeg 50", ", gamma 0.6"):
            cells = " | ".join(f"{100 * found[f'{kind}, {size}{after}']:.0f}" for size in sizes)
            out.append(f"| {kind}{after} | {cells} |")
    out += [
        "",
        "| processing | pictures in which any cell differs, % | called a copied mark, % |",
        "|---|---|---|",
    ]
    for name, row in data["processing"].items():
        out.append(f"| {name} | {100 * row['any cell differs']:.1f} | {100 * row['called a copied mark']:.1f} |")
    copied = data["called a copied mark"]
    out += [
        "",
        f"Another picture of the same kind is called a copied mark in {100 * copied['same group']:.0f} %, of another "
        f"kind in {100 * copied['other group']:.0f} %; called changed or copied are "
        f"{100 * data['another picture differs']['same group']:.0f} and "
        f"{100 * data['another picture differs']['other group']:.0f} %. A black picture with a few white spots is "
        f"found out in {100 * data['picture without contrast found out']:.0f} %.",
    ]
    return out


def page(folder: Path) -> str:
    """The page as Markdown."""
    lines = [
        "# Results",
        "",
        "Every table is written by `python -m benchmarks.tables` from the commands beside it.",
        "",
    ]
    for name, title in (
        ("robustness", "Quality and robustness"),
        ("restore", "Restoration"),
        ("features", "Content after processing"),
        ("false_alarm", "False alarms"),
        ("amplitudes", "Tuned amplitudes against uniform ones"),
        ("verify_time", "Time of a verification"),
    ):
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        data = json.loads(file.read_text())
        lines += [f"## {title}", "", f"`{COMMANDS[name]}`", ""]
        if name == "robustness":
            summary = data["summary"]
            lines += [
                "Marked pictures include W2. `DIR` holds the pictures named in the model card; the validation split is "
                "what training leaves out. The constants of the marking loop were chosen on other pictures of that "
                "split, one of each modality; OCT has no second one and is missing here. Three of these pictures had "
                "been looked at for an earlier form of the loop.",
                "",
                *_quality(summary),
                "",
                f"Pictures refused: {summary['refused']}. Restored bit for bit: {summary['restored_percent']:.1f} %. "
                f"Payloads read from the unmarked originals: {summary['false_payloads']}. Short form of W2: "
                f"{summary['short_form']}.",
                "",
                "Share of pictures whose 12 bytes are read exactly, per cent; blind, without the ledger:",
                "",
                *_exact(summary),
                "",
                "Angles other than quarter turns and crops need a synchronisation that this release does not have.",
                "",
            ]
        elif name == "features":
            lines += [*_content(data), ""]
        else:
            figures = data["summary"] if name == "amplitudes" else data
            lines += ["```json", json.dumps(figures, indent=1), "```", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args()
    args.out.write_text(page(args.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
