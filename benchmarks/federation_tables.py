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
        f"34 000 parameters from the same random start, rule `{plan['rule']}`, optimiser `{plan['optimiser']}`. Shares "
        f"are payloads read exactly, over {len(data['battery'])} attacks ({', '.join(data['battery'])}) on held-back "
        f"pictures; PSNR is measured. Means of {len(plan['seeds'])} repetition(s) with other networks, payloads and "
        "order of pictures.",
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
            lines += [*table(heads, rows), verdict(run["verdicts"][db]), ""]
    wrong = sum(
        figures[name][db]["wrong"]
        for run in data["federations"]
        for figures in run["trainings"].values()
        for name in figures
        for db in figures[name]
    )
    return [*lines, f"Wrong payloads in all of it: {wrong}.", ""]


def verdict(repeats: Sequence[dict[str, float]]) -> str:
    """Federated in relation to pooled and to the best local model, one figure for each repetition."""
    together, pooled = (sum(v[key] for v in repeats) / len(repeats) for key in ("federated", "pooled"))
    shares = " / ".join(f"{100 * v['of_pooled']:.1f}" for v in repeats)
    margins = " / ".join(f"{100 * v['least_margin_over_local']:.1f}" for v in repeats)
    return (
        f"Federated carries {percent(together)} of all payloads, pooled {percent(pooled)}: {shares} % of pooled by "
        f"repetition. On other sites' modalities it is ahead of the best local model by {margins} points."
    )


def drift(data: dict[str, Any], table: Table) -> list[str]:
    """Unlike hospitals: rules and what becomes of the optimiser, beside pooled training."""
    plan, ways = data["plan"], data["ways"]
    marks = [f"{db:g}" for db in plan["db"]]
    lines = [
        f"{data['hospitals']} hospitals with one modality each, {plan['rounds']} rounds of {plan['steps']} steps, "
        f"{len(plan['seeds'])} repetition(s), honest members only, without gate and probe. Payloads read exactly on "
        "tuning pictures, and in brackets of pooled. `fresh`: the optimiser begins anew in each round, as in the "
        "product's default; `kept`: a hospital goes on with its own moments; `shared`: with the mean of all "
        "hospitals'.",
        "",
    ]
    rows = []
    for name, found in ways.items():
        shares = [found[db]["exact"] for db in marks]
        pooled = [ways["pooled"][db]["exact"] for db in marks]
        rows.append(
            (name, *(f"{percent(a)} ({percent(a / b) if b else '-'})" for a, b in zip(shares, pooled, strict=True)))
        )
    lines += table(("rule, optimiser", *(f"{db} dB" for db in marks)), rows)
    db = marks[len(marks) // 2]
    names = data["modalities"]
    each = [(way, *(percent(found[db]["modalities"][m]) for m in names)) for way, found in ways.items()]
    return [*lines, *table((f"by modality, {db} dB", *names), each)]


def poisoning(data: dict[str, Any], table: Table) -> list[str]:
    """Attackers among ten members, by strategy."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for result in data["results"]:
        found.setdefault((result["strategy"], result["attack"], result["attackers"]), []).append(result)
    strategies = list(dict.fromkeys(r["strategy"] for r in data["results"]))
    plan = data["plan"]
    untrained = " and ".join(f"{percent(share)} at {db} dB" for db, share in data["start"]["exact"].items())
    but_for = ' but for `optimiser = "shared"`' if plan["optimiser"] == "shared" else ""
    pictures = ", ".join(f"{name} {n}" for name, n in zip(data["modalities"], data["judged_pictures"], strict=True))
    lines = [
        f"{plan['members']} members, two to a modality ({pictures} judged pictures), {plan['rounds']} rounds of "
        f"{plan['steps']} step(s) of {plan['batch']} pictures from random networks, which carry {untrained}. medprov "
        f"runs its default configuration (rule `{data['rule']}`){but_for}. Shares are payloads that the global model "
        "carries exactly, with one figure for each repetition; in brackets, for the backdoor, pictures with the "
        "trigger that read as the attacker's payload. An empty cell was not run.",
        "",
    ]
    for db in map("{:g}".format, plan["db"]):
        rows = [("clean", *(_cell(found.get((name, "", 0)), db) for name in strategies))]
        lines += table((f"{db} dB, no attacker", *strategies), rows)
        for count in sorted({r["attackers"] for r in data["results"] if r["attackers"]}):
            attacks = dict.fromkeys(r["attack"] for r in data["results"] if r["attackers"] == count)
            rows = [(a, *(_cell(found.get((name, a, count)), db) for name in strategies)) for a in attacks]
            lines += table((f"{db} dB, {count} of {plan['members']} attack", *strategies), rows)
    return lines


def _cell(results: Sequence[dict[str, Any]] | None, db: str) -> str:
    if not results:
        return ""
    shown = []
    for result in results:
        if result["state"] != "finished":
            shown.append(str(result["state"]))
            continue
        opened = f" ({100 * result['backdoor']:.0f})" if result["attack"] == "backdoor" else ""
        shown.append(f"{100 * result['exact'][db]:.1f}{opened}")
    if not any(r["state"] == "finished" for r in results):
        return " / ".join(dict.fromkeys(shown))
    return " / ".join(shown) + " %"


def crash(data: dict[str, Any], table: Table) -> list[str]:
    """Runs in which everything was killed, by what was killed and when."""
    events = list(dict.fromkeys(event for by in data["moments"].values() for event in by))
    rows = [
        (role, data["kills"][role], *(data["moments"][role].get(event, "") for event in events))
        for role in sorted(data["kills"], key=lambda role: -data["kills"][role])
    ]
    wrong = [f"- seed {one['seed']}: {one['wrong']}" for one in data["details"] if one["wrong"]]
    return [
        f"{data['good']} of {data['runs']} runs of {data['rounds']} rounds (mode `{data['mode']}`) ended with every "
        "round anchored exactly once, record, store and audit log in agreement and the checkpoint equal to the "
        f"anchored model: {sum(data['kills'].values())} SIGKILLs, {data['restarts']} restarts, {data['attempts']} "
        f"attempts, {data['rounds_with_fewer_hospitals']} rounds without one of the hospitals, "
        f"{data['anchors_found_or_made_again']} anchors found on the chain or made again; {data['seconds']:.0f} s.",
        "",
        *table(("killed", "times", *(f"after '{event}'" for event in events)), rows),
        *([*wrong, ""] if wrong else []),
    ]
