"""Tables of the federation from small reports."""

from typing import Any

from benchmarks import federated, federation_tables
from benchmarks.poisoning import ATTACKS, MEMBERS, OURS, cases
from benchmarks.tables import table


def figures(exact: dict[str, float]) -> dict[str, Any]:
    return {name: {"38": {"exact": share, "wrong": 0, "psnr": 38.2}} for name, share in exact.items()}


TRAININGS = {
    "start": figures({"a": 0.1, "b": 0.2}),
    "federated": figures({"a": 0.9, "b": 0.9}),
    "pooled": figures({"a": 1.0, "b": 0.8}),
    "local a": figures({"a": 1.0, "b": 0.4}),
    "local b": figures({"a": 0.7, "b": 1.0}),
}


def test_verdict_compares_with_pooled_and_with_the_best_local_on_others() -> None:
    found = federated.verdict(TRAININGS, "38")
    assert round(found["of_pooled"], 6) == 1.0
    # local b on a is the closest: 0.9 - 0.7
    assert round(found["least_margin_over_local"], 6) == 0.2


def test_federated_section(tmp_path) -> None:  # type: ignore[no-untyped-def]
    report = {
        "plan": {"rounds": 2, "steps": 1, "batch": 2, "db": [38.0]},
        "rule": "mixed",
        "battery": ["untouched", "blur"],
        "federations": [
            {
                "hospitals": 2,
                "modalities": ["a", "b"],
                "judged_pictures": [4, 4],
                "trainings": TRAININGS,
                "verdicts": {"38": federated.verdict(TRAININGS, "38")},
            }
        ],
    }
    text = "\n".join(federation_tables.federated(report, table))
    assert "70.0 % to 70.0 %" in text and "100.0 % of pooled" in text and "20.0 points" in text
    federated.plot(report, tmp_path / "federated.png")
    assert (tmp_path / "federated.png").read_bytes().startswith(b"\x89PNG")


def test_poisoning_section_names_crashes_and_backdoors() -> None:
    results = [
        {"strategy": "medprov", "attack": "", "attackers": 0, "state": "finished", "exact": 0.8},
        {
            "strategy": "medprov",
            "attack": "backdoor",
            "attackers": 3,
            "state": "finished",
            "exact": 0.79,
            "backdoor": 0.05,
        },
        {"strategy": "FedAvg", "attack": "backdoor", "attackers": 3, "state": "crashed", "exact": 0.0},
    ]
    report = {
        "plan": {"rounds": 5, "steps": 1, "members": 10},
        "db": 38.0,
        "rule": "mixed",
        "modalities": ["a"],
        "start": {"exact": 0.4},
        "results": results,
    }
    text = "\n".join(federation_tables.poisoning(report, table))
    assert "79.0 % (5.0 %)" in text and "crashed" in text and "3 of 10 attack" in text


def test_every_attack_meets_every_strategy_once() -> None:
    every = cases(False)
    assert len(every) == len(set(every))
    for count in (1, 2, 3, 4):
        met = {(name, attack) for name, attack, attackers in every if attackers == count}
        assert {attack for name, attack in met if name == OURS} == set(ATTACKS)
        assert len(met) == 6 * len(ATTACKS)
    assert MEMBERS == 10
