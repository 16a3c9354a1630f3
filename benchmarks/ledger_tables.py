"""The sections of docs/results.md about the ledger; :mod:`benchmarks.tables` puts them into the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Table = Callable[[Sequence[str], Iterable[Sequence[object]]], list[str]]


def scale(data: dict[str, Any], table: Table) -> list[str]:
    """A record's price in a batch, and the growth of the index."""
    batched, single = data["register"]["batched"], data["register"]["single"]
    ratios = data["register"]
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in batched["seconds"].items())
    price = [
        (
            "gas per image",
            f"{batched['gas_per_image']:.0f}",
            f"{single['gas_per_image']:.0f} ({ratios['gas_ratio']:.0f} times)",
            f"{single['gas_per_image']:.0f}",
        ),
        (
            "images per second, end to end",
            f"{batched['images_per_second']:.0f}",
            f"{single['one_by_one_per_second']:.1f} (1/{ratios['speed_ratio_one_by_one']:.1f})",
            f"{single['together_per_second']:.0f} (1/{ratios['speed_ratio_together']:.1f})",
        ),
    ]
    ends = (f"batches of {batched['batch']}", "one transaction each, waited for", "one transaction each, sent together")
    growth = [
        (
            f"{one['records']}",
            f"{one['bytes_per_record']:.0f}",
            *(f"{1000 * one[name]['median']:.2f}" for name in ("by_key", "by_key_verified", "by_key_absent", "near")),
            one["near_entries"],
        )
        for one in data["index"]["sizes"]
    ]
    heads = ("records", "bytes per record", "by key", "by key, verified", "absent key", "near hash", "found near")
    return [
        *table((f"{batched['records']} records on {data['register']['chain']}", *ends), price),
        f"Where the time goes: {spent}. An index from nothing takes {batched['rebuilt_records_per_second']:.0f} "
        f"records per second; a manifest has {batched['manifest_bytes_per_record']:.0f} bytes per record.",
        "",
        "Look-ups in the index alone, medians in ms; verified means leaf, signature and proof checked:",
        "",
        *table(heads, growth),
    ]


def kills(data: dict[str, Any], table: Table) -> list[str]:
    """What is left after processes were killed at random."""
    killed = ", ".join(f"{name} {count}" for name, count in sorted(data["kills"].items()))
    rows = [
        ("pictures", data["pictures"]),
        (f"SIGKILLs ({killed})", sum(data["kills"].values())),
        ("batches that the killed chain had forgotten, anchored again", data["lost"]),
        ("records on the chain", data["records"]),
        ("pictures confirmed; still waiting", f"{data['confirmed']}; {data['waiting']}"),
        ("bundles opened; without a key", f"{data['opened']}; {data['erased']}"),
        ("outputs with the samples of their record", data["written"]),
        ("differences that the audit found", len(data["differences"])),
    ]
    return [*table(("", ""), rows), f"In {data['seconds']:.0f} s.", ""]


def reorganisations(data: dict[str, Any], table: Table) -> list[str]:
    """Whether every batch survives every reorganisation."""
    rows = [(step, one["of"], one["clean"], one["sent_most"]) for step, one in data["by_step"].items()]
    return [
        f"{data['reorganisations']} reorganisations with {data['confirmations']} confirmations, {data['records']} "
        "records; clean means anchored exactly once, each record found exactly once by an index that followed and by "
        f"one built from nothing, nothing left waiting. The outbox names the chain's transaction and block in "
        f"{data['outbox_agrees']}; the hospital had to start again {data['restarts']} times.",
        "",
        *table(("when", "cases", "clean", "sendings at most"), rows),
    ]


def sending(data: dict[str, Any], table: Table) -> list[str]:
    """Anchors one by one and together."""
    head = ("anchors", "one by one, per second", "together, per second", "ratio")
    one, many = f"{data['one_by_one_per_second']:.0f}", f"{data['together_per_second']:.0f}"
    return table(head, [(f"{data['anchors']} on {data['chain']}", one, many, f"{data['ratio']:.1f}")])


def mutants(data: dict[str, Any], table: Table) -> list[str]:
    """Whether the tests notice when a guard is gone."""
    rows = [
        (
            one["guard"],
            f"`{one['file'].rsplit('/', 1)[-1]}`",
            "killed" if one["killed"] else "SURVIVED",
            _tests(one["by"]),
        )
        for one in data["results"]
    ]
    return [
        "One guard is taken out at a time in a copy of the sources. "
        f"{data['mutants']} mutants, {data['survived']} survived.",
        "",
        *table(("guard against", "where", "result", "test"), rows),
    ]


def fuzzed(data: dict[str, Any], table: Table) -> list[str]:
    """What parsers make of damaged and hostile input."""
    rows = [
        (name, one["inputs"], one["accepted"], ", ".join(f"{kind} {count}" for kind, count in one["refused"].items()))
        for name, one in data["targets"].items()
    ]
    return [
        f"{data['inputs']} inputs; {len(data['findings'])} findings (other errors than the package's own, or bytes "
        "that are taken and written otherwise).",
        "",
        *table(("parser", "inputs", "taken", "refused"), rows),
    ]


def _tests(names: Sequence[str]) -> str:
    # a parametrised test is named once
    return ", ".join(dict.fromkeys(f"`{name.split('[')[0]}`" for name in names))
