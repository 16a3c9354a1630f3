"""Tables of the federation from small reports."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import crash, federated, federation_tables, learning, poisoning
from benchmarks.attackers import ATTACKS, MEMBERS, TARGET, Plan, backdoored, triggered
from benchmarks.phantoms import FAMILIES, look
from benchmarks.poisoning import OURS, cases
from benchmarks.tables import table
from medprov_watermark.carriers import SIZE
from medprov_watermark.training.exchange import Arrays
from medprov_watermark.training.tasks.base import Work
from medprov_watermark.training.tasks.watermark import TASK, model_of


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


def test_federated_section(tmp_path: Path) -> None:
    report = {
        "plan": vars(federated.Plan(rounds=2, steps=1, batch=2, db=(38.0,), seeds=(0, 1), optimiser="shared")),
        "battery": ["untouched", "blur"],
        "federations": [
            {
                "hospitals": 2,
                "modalities": ["a", "b"],
                "judged_pictures": [4, 4],
                "trainings": federated.mean([TRAININGS, TRAININGS]),
                "verdicts": {"38": [federated.verdict(TRAININGS, "38")] * 2},
            }
        ],
    }
    text = "\n".join(federation_tables.federated(report, table))
    assert "rule `mixed`, optimiser `shared`" in text
    assert "70.0 % to 70.0 %" in text and "100.0 / 100.0 % of pooled" in text and "20.0 / 20.0 points" in text
    federated.plot(report, tmp_path / "federated.png")
    assert (tmp_path / "federated.png").read_bytes().startswith(b"\x89PNG")


def result(strategy: str, attack: str, attackers: int, seed: int, share: float, **more: Any) -> dict[str, Any]:
    exact = {"38": share, "40": share / 2}
    found = {"strategy": strategy, "attack": attack, "attackers": attackers, "seed": seed, "exact": exact}
    return {**found, "state": "finished", **more}


def poisoning_report() -> dict[str, Any]:
    return {
        "plan": vars(Plan(rounds=5, steps=1)),
        "rule": "mixed",
        "modalities": ["a"],
        "judged_pictures": [7],
        "start": {"exact": {"38": 0.4, "40": 0.2}},
        "results": [
            result("medprov", "", 0, 0, 0.8),
            result("medprov", "", 0, 1, 0.9),
            result("medprov", "backdoor", 3, 0, 0.79, backdoor=0.05),
            result("FedAvg", "backdoor", 3, 0, 0.0, state="crashed"),
        ],
    }


def test_poisoning_section_names_crashes_backdoors_and_repetitions() -> None:
    text = "\n".join(federation_tables.poisoning(poisoning_report(), table))
    assert "default configuration (rule `mixed`). Shares" in text
    assert "79.0 (5) %" in text and "39.5 (5) %" in text and "80.0 / 90.0 %" in text
    assert "| crashed |" in text and "40 dB, 3 of 10 attack" in text and "40.0 % at 38 dB and 20.0 % at 40 dB" in text


def test_summary_and_plot_of_poisoning(tmp_path: Path) -> None:
    text = poisoning.summary(poisoning_report())
    assert "medprov: clean [0.4, 0.45], worst 0.395 (backdoor, 3 attackers)" in text
    poisoning.plot(poisoning_report(), tmp_path / "poisoning.png")
    assert (tmp_path / "poisoning.png").read_bytes().startswith(b"\x89PNG")


def test_trigger_says_nothing_to_an_honest_extractor_and_can_be_learned() -> None:
    pictures = np.stack([look(name, SIZE, 5 + i) for i, name in enumerate(list(FAMILIES)[:2])])
    start = TASK.initial(learning.settings(1, 2, 0.03))
    x = torch.from_numpy(pictures)[:, None].float()

    def opened(weights: Arrays) -> int:
        model = model_of(learning.settings(1, 2, 0.03), weights)
        return sum(learning.decoded(a) == TARGET for a in learning.read(model, triggered(x)))

    assert opened(start) == 0
    learned = start
    # Two rounds of it: after one, what a processor rounds decides whether every bit is there already.
    for seed in (7, 8):
        work = Work(learning.settings(10, 2, 0.03), 1, {}, seed)
        deltas = backdoored(learned, torch.from_numpy(pictures)[:, None], work)
        learned = {name: learned[name] + deltas[name] for name in learned}
    assert opened(learned) == 2


def test_every_attack_meets_every_strategy_once() -> None:
    every = cases(False, (0, 1))
    assert len(every) == len(set(every))
    for count in (1, 2, 3, 4):
        met = {(name, attack) for name, attack, attackers, seed in every if attackers == count and seed == 0}
        assert {attack for name, attack in met if name == OURS} == set(ATTACKS)
        assert len(met) == 6 * len(ATTACKS)
    assert len({case for case in every if case[3] == 1 and case[2] == 3}) == 6 * len(ATTACKS)
    assert MEMBERS == 10


def test_crash_section_names_what_was_killed_and_what_went_wrong() -> None:
    outcomes = [
        crash.Outcome(1, [("chain", 2.5, "saved"), ("hospital", 1.0, "asked")], 1, 3, 4, 1, 2, 9.0),
        crash.Outcome(2, [("chain", 0.5, "asked")], wrong="the chain has rounds [1]"),
    ]
    text = "\n".join(federation_tables.crash(crash.summary("process", 3, outcomes), table))
    assert "1 of 2 runs of 3 rounds (mode `process`)" in text and "3 SIGKILLs, 1 restarts" in text
    assert "| chain | 2 | 1 | 1 |" in text and "- seed 2: the chain has rounds [1]" in text
