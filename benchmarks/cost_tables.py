"""The section of docs/results.md about the cost of federated rounds, and its plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.plots import COLOURS, MARKERS

Table = Callable[[Sequence[str], Iterable[Sequence[object]]], list[str]]

NAMES = {
    "bare": "bare training",
    "flower": "Flower and protocol",
    "screening": "screening and aggregation",
    "probe": "probe",
    "checkpoint": "checkpoint",
    "publishing": "publishing",
    "anchoring": "anchoring",
    "rest": "rest",
}
RULES = ("mean", "median", "mixed")


def rounds(data: dict[str, Any], table: Table) -> list[str]:
    """Seconds of a round by part, and of the simulation engine."""
    rows = [
        (
            row["clients"],
            f"{row['seconds']:.2f}",
            *(f"{row['parts'][name]:.3f}" for name in NAMES),
            f"{100 * row['overhead_of_bare']:.1f} %",
            f"{100 * row['anchoring_of_bare']:.1f} %",
        )
        for row in data["in_process"]
    ]
    here = {row["clients"]: row["seconds"] for row in data["in_process"]}
    simulated = [
        (
            row["clients"],
            row["workers"],
            f"{row['seconds']:.2f}",
            f"{here[row['clients']] / row['seconds']:.2f}" if row["clients"] in here else "",
        )
        for row in data["simulation"]
    ]
    heads = ("clients", "round", *NAMES.values(), "Flower / bare", "chain / bare")
    return [
        f"Seconds of one round of {data['steps']} step(s) in one process:",
        "",
        *table(heads, rows),
        "In Flower's simulation engine:",
        "",
        *table(("clients", "workers", "seconds", "times faster than one process"), simulated),
    ]


def gate(data: dict[str, Any], table: Table) -> list[str]:
    """Seconds and memory of screening and aggregation at the networks' full size."""
    rows = [
        (
            row["clients"],
            f"{row['screening']:.2f}",
            *(f"{row['rules'][rule]['seconds']:.2f}" for rule in RULES),
            f"{row['replies_mib']:.0f}",
            f"{row['screening_peak_mib']:.0f}",
            *(f"{row['rules'][rule]['peak_mib']:.0f}" for rule in RULES),
            f"{row['rss_mib']:.0f}",
        )
        for row in data["gate"]
    ]
    heads = (
        "clients",
        "screening, s",
        *(f"{rule}, s" for rule in RULES),
        "replies, MiB",
        "screening adds, MiB",
        *(f"{rule} adds, MiB" for rule in RULES),
        "process, MiB",
    )
    found = data["growth"]
    exponents = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if value is not None)
    grown = (
        [f"Growth between the two largest, as power of the number of clients: {exponents}.", ""] if exponents else []
    )
    return [
        f"Replies of {data['gate'][0]['parameters']:,} parameters:".replace(",", " "),
        "",
        *table(heads, rows),
        *grown,
    ]


def encodings(data: dict[str, Any], table: Table) -> list[str]:
    """Bytes of a round, and what the memory of what was lost buys."""
    full = data["encodings"][0]["up"]
    sizes = [(e["encoding"], e["down"], e["up"], f"{full / e['up']:.2f}") for e in data["encodings"]]
    learnt = [
        (
            e["encoding"],
            "yes" if e["feedback"] and e["encoding"] != "float32" else "no",
            f"{e['loss']:.5f}",
            f"{100 * e['bit_accuracy']:.2f} %",
            f"{e['distance']:.5f}",
        )
        for e in data["feedback"]
    ]
    return [
        "Bytes of arrays per hospital and round (down: weights for training and for measuring):",
        "",
        *table(("encoding", "down", "up", "smaller by"), sizes),
        f"After {data['feedback_rounds']} rounds of {data['feedback_steps']} steps of three hospitals:",
        "",
        *table(("encoding", "error feedback", "loss", "bit accuracy", "distance from float32's weights"), learnt),
    ]


def section(data: dict[str, Any], table: Table) -> list[str]:
    """Everything of `benchmarks.round_cost`."""
    return [*rounds(data, table), *gate(data, table), *encodings(data, table)]


def plot(data: dict[str, Any], target: Path) -> None:
    """Growth with the number of clients: a round by part, and screening and rules at full size."""
    figure = Figure(figsize=(11, 5.4))
    left, right = figure.subplots(1, 2)
    rows = data["in_process"]
    clients = [row["clients"] for row in rows]
    lines = {"whole round": [row["seconds"] for row in rows]}
    lines |= {NAMES[name]: [row["parts"][name] for row in rows] for name in NAMES if name not in ("rest", "probe")}
    for number, (name, values) in enumerate(lines.items()):
        left.plot(clients, values, label=name, color=COLOURS[number], marker=MARKERS[number], markersize=5)
    left.plot(
        [row["clients"] for row in data["simulation"]],
        [row["seconds"] for row in data["simulation"]],
        label=f"whole round, simulation engine, {data['workers']} workers",
        color=COLOURS[0],
        linestyle="--",
    )
    left.set_title(f"A round of {data['steps']} step(s), small networks")
    full = data["gate"]
    found = {"screening": [row["screening"] for row in full]}
    found |= {f"rule {rule}": [row["rules"][rule]["seconds"] for row in full] for rule in RULES}
    for number, (name, values) in enumerate(found.items()):
        right.plot([row["clients"] for row in full], values, label=name, color=COLOURS[number], marker=MARKERS[number])
    right.set_title(f"Coordinator, {full[0]['parameters'] / 1000:.0f} k parameters")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(clients, [str(count) for count in clients])
        axis.minorticks_off()
        axis.set_xlabel("clients")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=2)
    left.set_ylabel("seconds")
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
