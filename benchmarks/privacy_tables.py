"""The section of docs/results.md about membership inference; :mod:`benchmarks.tables` can put it into the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Table = Callable[[Sequence[str], Iterable[Sequence[object]]], list[str]]


def membership(data: dict[str, Any], table: Table) -> list[str]:
    """Each model, each attacker: what the model gives away, and what it is still good for."""
    rows = [
        (
            row["model"],
            "none" if row["epsilon"] is None else f"{row['epsilon']:.3g}",
            name,
            f"{figures['auc']:.3f} ({_interval(figures['auc_interval'])})",
            f"{100 * figures['tpr']:.1f} % ({_interval(figures['tpr_interval'], 100)})",
            f"{row['bit_accuracy']:.3f}",
        )
        for row in data["rows"]
        for name, figures in row["attacks"].items()
    ]
    first = data["rows"][0]
    heads = ("model", "epsilon", "attack", "AUC (95 %)", "TPR at 1 % FPR (95 %)", "bit accuracy")
    return [
        *table(heads, rows),
        f"{data['hospitals']} hospitals, {first['members']} {data['pictures']} pictures as members, {first['others']} "
        f"as others, {data['rounds']} rounds of {data['steps']} steps from {data['start']} weights (bit accuracy "
        f"{data['start_bit_accuracy']:.3f}), {data['shadows']} shadow models; updates clipped to {data['clip']:g}, "
        f"delta {data['delta']:g}. Guessing has an AUC of 0.5 and a rate of 1 %; with fewer than 100 others a rate at "
        "1 % is one at 0 %. Bit accuracy is that of generated pictures nobody trained on, for the released weights of "
        "held-back ones.",
    ]


def _interval(values: Sequence[float], factor: float = 1.0) -> str:
    digits = 1 if factor > 1 else 3
    return " to ".join(f"{factor * value:.{digits}f}" for value in values)
