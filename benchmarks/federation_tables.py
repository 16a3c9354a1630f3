"""The sections of docs/results.md about the federation; :mod:`benchmarks.tables` puts them into the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Table = Callable[[Sequence[str], Iterable[Sequence[object]]], list[str]]


def percent(share: float) -> str:
    """A share as the tables show it."""
    return f"{100 * share:.1f} %"


def federated(data: dict[str, Any], table: Table) -> list[str]:
    """One modality per hospital: federated, local and pooled training."""
    plan = data["plan"]
    lines = [
        f"{plan['rounds']} rounds of {plan['steps']} steps, {plan['batch']} pictures a step and hospital, networks of "
        f"34 000 parameters from the same random start, rule `{data['rule']}`. Shares are payloads read exactly, over "
        f"{len(data['battery'])} attacks ({', '.join(data['battery'])}) on held-back pictures; PSNR is measured.",
        "",
    ]
    for run in data["federations"]:
        names, trainings = run["modalities"], run["trainings"]
        for db in map("{:g}".format, plan["db"]):
            rows = []
            for name, n in zip(names, run["judged_pictures"], strict=True):
                others = [trainings[f"local {o}"][name][db]["exact"] for o in names if o != name]
                rows.append(
                    (
                        name,
                        n,
                        percent(trainings["start"][name][db]["exact"]),
                        f"{percent(min(others))} to {percent(max(others))}",
                        percent(trainings[f"local {name}"][name][db]["exact"]),
                        percent(trainings["federated"][name][db]["exact"]),
                        percent(trainings["pooled"][name][db]["exact"]),
                        f"{trainings['federated'][name][db]['psnr']:.2f}",
                    )
                )
            heads = (
                f"{run['hospitals']} hospitals, {db} dB",
                "pictures",
                "start",
                "local, other hospitals",
                "local, own hospital",
                "federated",
                "pooled",
                "PSNR (dB)",
            )
            v = run["verdicts"][db]
            lines += [
                *table(heads, rows),
                f"Federated carries {percent(v['federated'])} of all payloads, pooled {percent(v['pooled'])}: "
                f"{percent(v['of_pooled'])} of pooled. On other sites' modalities it is ahead of every local model by "
                f"{100 * v['least_margin_over_local']:.1f} points at least.",
                "",
            ]
    wrong = sum(
        figures[name][db]["wrong"]
        for run in data["federations"]
        for figures in run["trainings"].values()
        for name in figures
        for db in figures[name]
    )
    return [*lines, f"Wrong payloads in all of it: {wrong}.", ""]


def poisoning(data: dict[str, Any], table: Table) -> list[str]:
    """Attackers among ten members, by strategy."""
    found = {(r["strategy"], r["attack"], r["attackers"]): r for r in data["results"]}
    strategies = list(dict.fromkeys(r["strategy"] for r in data["results"]))
    plan = data["plan"]
    lines = [
        f"{plan['members']} members with {len(data['modalities'])} modalities, {plan['rounds']} rounds of "
        f"{plan['steps']} step(s) from random networks, which carry {percent(data['start']['exact'])} at "
        f"{data['db']:g} dB. medprov runs its default configuration (rule `{data['rule']}`). Shares are payloads that "
        "the global model carries exactly; in brackets, for the backdoor, pictures with the trigger that read as the "
        "attacker's payload. An empty cell was not run.",
        "",
        *table(("no attacker", *strategies), [("clean", *(_cell(found.get((name, "", 0))) for name in strategies))]),
    ]
    for count in sorted({r["attackers"] for r in data["results"] if r["attackers"]}):
        attacks = dict.fromkeys(r["attack"] for r in data["results"] if r["attackers"] == count)
        rows = [(attack, *(_cell(found.get((name, attack, count))) for name in strategies)) for attack in attacks]
        lines += table((f"{count} of {plan['members']} attack", *strategies), rows)
    return lines


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    if result["state"] != "finished":
        return str(result["state"])
    opened = f" ({percent(result['backdoor'])})" if result["attack"] == "backdoor" else ""
    return percent(result["exact"]) + opened
