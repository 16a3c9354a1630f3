"""Write docs/results.md from the JSON files of the benchmarks.

    python -m benchmarks.tables --folder build/bench --out docs/results.md

Reads a file for each of its SECTIONS where it is there (robustness.json, peers.json and so on), and shows what
``benchmarks.plots`` has drawn into the folder ``plots`` beside the page. peers.json is a run of
``benchmarks.robustness`` with peers, for which fewer pictures must do: one of the peers takes seconds for every
reading.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cost_tables, federation_tables, ledger_tables, ours, privacy_tables
from medprov_watermark.battery import FLOOR

PEERS = "--peer blind_watermark,invisible_watermark"
COMMANDS = {
    "robustness": "python -m benchmarks.robustness --images DIR --split validation --per-modality 2 --offset 1 "
    "--list-records 100000 --json FILE",
    "peers": "python -m benchmarks.robustness --images DIR --split validation --per-modality 1 --offset 1 --sizes 512 "
    "--attacks none,rot90,flip_h,jpeg90,jpeg70,jpeg50,jpeg30,gblur7,median3,bright+50,gauss_sd5,gauss_sd12.75,rot15,"
    f"crop25,screenshot,overwrite {PEERS} --json FILE",
    "tradeoff": "python -m benchmarks.tradeoff --images DIR --split validation --offset 1 --sizes 256 "
    "--floors 43,45,47 --json FILE",
    "search": "python -m benchmarks.search --images DIR --split validation --offset 1 --workers 1 --json FILE",
    "decoding": "python -m benchmarks.decoding --words 300 --json FILE",
    "restore": "python -m benchmarks.restore --images DIR --per-modality 1 --json FILE",
    "features": "python -m benchmarks.features --images DIR --per-folder 6 --json FILE",
    "false_alarm": "python -m benchmarks.false_alarm --images DIR --count 10000 --searched 40 --scored 1500 "
    "--json FILE",
    "amplitudes": "python -m benchmarks.amplitudes --images DIR --split validation --offset 1 --per-modality 1 "
    "--json FILE",
    "roi": "python -m benchmarks.roi --images DIR --per-set 3 --json FILE",
    "speed": f"python -m benchmarks.speed --sizes 512 --runs 1 {PEERS} --json FILE",
    "surrogate": "python -m benchmarks.surrogate --images DIR --pairs 16,64 --pictures 2 --json FILE",
    "verify_time": "python -m benchmarks.verify_time --json FILE",
    "ledger_scale": "python -m benchmarks.ledger_scale --json FILE",
    "sending": "python -m benchmarks.sending --json FILE",
    "kill": "python -m benchmarks.kill --ipfs --json FILE",
    "reorg": "python -m benchmarks.reorg --json FILE",
    "fuzz": "python -m benchmarks.fuzz --json FILE",
    "mutations": "python -m benchmarks.mutations --json FILE",
    "federated": "python -m benchmarks.federated --images DIR --hospitals 3 5 10 --out OUT --json FILE "
    "--plots docs/plots",
    "federated_shared": "python -m benchmarks.federated --images DIR --hospitals 10 --optimiser shared "
    "--rounds 40 --steps 2 --out OUT --json FILE",
    "federated_shared_mean": "python -m benchmarks.federated --images DIR --hospitals 10 --optimiser shared "
    "--rule mean --rounds 40 --steps 2 --out OUT --json FILE",
    "drift": "python -m benchmarks.drift --images DIR --seeds 0 1 --out OUT --json FILE",
    "poisoning": "python -m benchmarks.poisoning --images DIR --seeds 0 1 --out OUT --json FILE --plots docs/plots",
    "poisoning_shared": "python -m benchmarks.poisoning --images DIR --optimiser shared --rounds 15 --steps 2 "
    "--out OUT --json FILE",
    "crash": "python -m benchmarks.crash --json FILE",
    "crash_deployment": "python -m benchmarks.crash --mode deployment --rounds 2 --seed 100 --json FILE",
    "membership": "python -m benchmarks.membership --images DIR --json FILE",
    "round_cost": "python -m benchmarks.round_cost --json FILE --plot docs/plots/round_cost.png",
}
PLOTS = {
    "robustness": {"psnr.png": "PSNR of marked pictures by modality"},
    "tradeoff": {
        "tradeoff.png": "share of exact messages against the PSNR that marks are given",
        "sheet.png": "covers, marked pictures and their differences: phantoms, and what ships with scikit-image",
    },
    "ledger_scale": {"ledger_scale.png": "time of a verified look-up and of a search for a near hash against records"},
    "federated": {"federated.png": "payloads read exactly by modality: untrained, local, federated, pooled"},
    "poisoning": {"poisoning.png": "payloads read exactly against the number of attackers, by attack and strategy"},
    "round_cost": {"round_cost.png": "seconds of a round against the number of clients"},
    "peers": {
        "curves.png": "share of exact messages against the strength of JPEG, noise, crop and rotation "
        "(the command of this section with --attacks none --curves and blind_watermark alone)"
    },
}
DECODERS = {
    "bounded distance": "RS(16, 12), bounded distance, %",
    "signs": "W1, signs alone, %",
    "soft": "W1, %",
    "wrong": "W1, wrong, %",
}
OVERWRITTEN = {
    "refused": "the second mark is refused",
    "first": "first message read after a second mark with another key",
    "first_listed": "the same with the directory",
    "first_same_carriers": "first message read after a second mark on the same carriers",
    "first_same_carriers_listed": "the same with the directory",
    "first_after_undoing": "first message read after taking the second mark out",
    "first_after_restoring_and_marking": "first message read after restoring the cover and marking that",
}
OVERWRITTEN_NOTE = (
    "medprov refuses to mark a marked picture. The rows below that are what a changed copy achieves that does not "
    "look, and one who restores the cover first, as whoever holds the untouched marked picture can. What decides "
    "between two marks is then the earlier anchor in the ledger, not the picture."
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table and an empty line."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""]


def interval(share: dict[str, Any]) -> str:
    """Per cent and the bounds of its interval."""
    return f"{share['percent']:.0f} ({share['low']:.0f}..{share['high']:.0f})"


def ratio(value: float) -> str:
    """Three digits that mean something, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def robustness(data: dict[str, Any]) -> list[str]:
    """Quality and attacks for medprov alone."""
    mine = data["methods"][ours.NAME]["summary"]
    marked = mine["pictures"] - mine["refused"]
    return [
        "Marked pictures include W2. `DIR` holds the pictures named in the model card; the validation split is what "
        "training leaves out. The constants of the marking loop were chosen on training pictures; ten other pictures "
        "of the split, one of each modality, were looked at once. Shares stand with their 95 % intervals (Wilson).",
        "",
        *_distribution(mine),
        f"Pictures refused: {mine['refused']}. Restored bit for bit: {mine['restored']['hits']} of {marked}. Payloads "
        f"read from the unmarked originals: {mine['read_in_unmarked']['hits']}; other payloads than the true one read "
        f"from attacked pictures: {mine['wrong']}. Short form of W2: {mine['short']}. Passed the whole battery at "
        f"marking: {mine['robust']}.",
        "",
        *_attacks(data, mine),
    ]


def beside(data: dict[str, Any]) -> list[str]:
    """Medprov and its peers, one row per attack, and a second mark over the first."""
    bits = {name: method["bits"] for name, method in data["methods"].items()}
    methods: dict[str, dict[str, Any]] = {
        name: method["summary"] for name, method in data["methods"].items() if "quality" in method["summary"]
    }
    lines = _beside(methods, bits)
    if any("overwrite" in total for total in methods.values()):
        lines += ["### A second mark over the first", "", *_overwriting(methods)]
    return lines


def _distribution(summary: dict[str, Any]) -> list[str]:
    head = ["pictures", "n", "PSNR min", "10 %", "median", "90 %", "max", "mean", "SSIM min", "10 %", "median", "mean"]
    rows = []
    for name, figures in summary["quality"].items():
        p, s = figures["psnr"], figures["ssim"]
        decibels = [f"{p[key]:.2f}" for key in ("min", "p10", "median", "p90", "max", "mean")]
        rows.append([name, p["n"], *decibels, *(f"{s[key]:.4f}" for key in ("min", "p10", "median", "mean"))])
    return table(head, rows)


def _attacks(data: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    exact, listed = mine["exact"], mine.get("listed")
    sizes = [group for group in exact if group.startswith("size")]
    head = ["attack", "blind", *(f"blind, {size}" for size in sizes)]
    if listed:
        head.append(f"with {data['list_records']} records")
    rows = []
    for attack in _named(exact["all"]):
        row = [attack, interval(exact["all"][attack]), *(f"{exact[size][attack]['percent']:.0f}" for size in sizes)]
        rows.append([*row, interval(listed["all"][attack])] if listed else row)
    lines = ["Share of pictures whose 12 bytes are read exactly, per cent; blind means without the ledger:", ""]
    lines += table(head, rows)
    if listed:
        lines += [
            f"With the directory, what fails blindly is compared with the codewords of {data['list_records']} random "
            "records and the true ones. With the true record taken out, "
            f"{mine['matches_without_true_record']} of {mine['readings_without_true_record']} readings name one.",
            "",
        ]
    return lines


def _named(attacks: Iterable[str]) -> list[str]:
    """Without the points of curves, which are drawn."""
    return [name for name in attacks if "=" not in name]


def _beside(methods: dict[str, dict[str, Any]], bits: dict[str, int]) -> list[str]:
    def each(cell: Any) -> list[str]:
        return [cell(total) for total in methods.values()]

    rows: list[list[str]] = [
        ["bits", *(str(bits[name]) for name in methods)],
        ["pictures marked", *each(lambda t: f"{t['pictures'] - t['refused']} of {t['pictures']}")],
        ["PSNR mean / min, dB", *each(lambda t: "{mean:.1f} / {min:.1f}".format(**t["quality"]["all"]["psnr"]))],
        ["SSIM mean", *each(lambda t: f"{t['quality']['all']['ssim']['mean']:.3f}")],
        ["restored bit for bit, %", *each(lambda t: f"{t['restored']['percent']:.0f}" if "restored" in t else "never")],
        ["grey came back tinted", *each(lambda t: str(t.get("tinted", 0)))],
        ["something read in unmarked, %", *each(lambda t: f"{t['read_in_unmarked']['percent']:.0f}")],
    ]
    for attack in _named(methods[ours.NAME]["exact"]["all"]):
        rows.append([f"{attack}, exact %", *each(lambda t, a=attack: f"{t['exact']['all'][a]['percent']:.0f}")])
    text = "The same pictures, the same noise and windows, one run; all read blindly, exact means every bit."
    return [text, "", *table(["", *methods], rows)]


def _overwriting(methods: dict[str, dict[str, Any]]) -> list[str]:
    found = {name: total["overwrite"] for name, total in methods.items() if "overwrite" in total}
    rows = [
        [text, *(interval(shares[key]) if key in shares else "" for shares in found.values())]
        for key, text in OVERWRITTEN.items()
        if any(key in shares for shares in found.values())
    ]
    return [OVERWRITTEN_NOTE, "", *table(["per cent of pictures", *found], rows)]


def restoration(data: dict[str, Any]) -> list[str]:
    """What was marked, and what came back."""
    lines = [
        f"{data['pictures']} pictures: phantoms of 64 to 4096 pixels, pictures and DICOM files. Refused: "
        f"{len(data['refused'])}; files without readable pixels: {data['unreadable_files']}. Each picture is restored "
        f"in a process with one thread ({data['1 threads']['failed']} failed) and in one with two "
        f"({data['2 threads']['failed']} failed).",
        "",
        *table(
            ["group", "marked", "restored bit for bit"],
            ([name, group["marked"], group["restored"]] for name, group in data["groups"].items()),
        ),
    ]
    return lines + [f"- {text}" for text in data["refused"]] + [""] * bool(data["refused"])


def false_alarms(data: dict[str, Any]) -> list[str]:
    """Counts and scores."""
    quantiles = ", ".join(f"{100 * float(q):g} %: {v:.2f}" for q, v in data["score_quantiles"].items())
    return [
        f"{data['pictures']} unmarked pictures: windows of {data['files']} files under random tone curves, and "
        f"phantoms; {data['searched']} of them searched at all angles and in all windows, the others in the eight "
        "orientations.",
        "",
        *table(
            ["", ""],
            [
                ["payloads read", data["payloads"]],
                ["integrity marks found intact", data["integrity_marks"]],
                ["marks called present", data["present"]],
                ["largest pilot score", f"{data['presence_max']:.2f}"],
                [
                    "pictures whose pilots claim a chance of error below 10, 1, 0.1 %",
                    ", ".join(f"{100 * share:.3g} %" for share in data["share_below"].values()),
                ],
                ["upper bound of the rate by counting, 95 %", f"{data['upper_bound_95_percent']:.2g}"],
                ["computed bound of the rate", f"{data['computed_bound']:.2g}"],
                ["scores in eight orientations: mean, deviation", f"{data['score_mean']:.3f}, {data['score_sd']:.3f}"],
                ["their quantiles", quantiles],
                [
                    "degrees of freedom, least and median",
                    f"{data['degrees_of_freedom_least']:.0f}, {data['degrees_of_freedom_median']:.0f}",
                ],
            ],
        ),
    ]


def content(data: dict[str, Any]) -> list[str]:
    """Changes found by size, and what honest processing is called."""
    found = data["changes found"]
    sizes = [size for size in ("3%", "4%", "5%", "8%", "10%", "25%") if f"filled, {size}" in found]
    changes = [
        [kind + after, *(f"{100 * found[f'{kind}, {size}{after}']:.0f}" for size in sizes)]
        for kind in ("filled", "added 20", "added 40", "copied here")
        for after in ("", ", jpeg 50", ", gamma 0.6")
    ]
    processing = [
        [name, f"{100 * row['any cell differs']:.1f}", f"{100 * row['called a copied mark']:.1f}"]
        for name, row in data["processing"].items()
    ]
    copied = data["called a copied mark"]
    return [
        f"{data['pictures']} pictures, 512 px at most. Share of changed places that are found, by diameter in per cent "
        "of the side: smoothed out (filled), 20 or 40 grey levels lighter or darker, or overwritten from elsewhere.",
        "",
        *table(["change", *sizes], changes),
        *table(["processing", "pictures in which any cell differs, %", "called a copied mark, %"], processing),
        f"Another picture of the same kind is called a copied mark in {100 * copied['same group']:.0f} %, of another "
        f"kind in {100 * copied['other group']:.0f} %; called changed or copied are "
        f"{100 * data['another picture differs']['same group']:.0f} and "
        f"{100 * data['another picture differs']['other group']:.0f} %. A black picture with a few white spots is "
        f"found out in {100 * data['picture without contrast found out']:.0f} %.",
        "",
    ]


def speed(data: dict[str, Any]) -> list[str]:
    """Seconds, memory, ratios."""
    times = data["seconds_per_megapixel"]
    parts = ("mark", "read", "restore", "verify")
    rows = [
        [name, size, *(f"{by_part[part]:.3g}" if part in by_part else "" for part in parts)]
        for name, by_size in times.items()
        for size, by_part in by_size.items()
    ]
    lines = [
        f"{data['cores']} cores, {data['threads']} threads for the extractor, {data['pictures']} pictures, medians. "
        "Seconds per megapixel; verify is from the file to the verdict with a warm verifier.",
        "",
        *table(["method", "side, px", *parts], rows),
    ]
    full, quick = data["ours_by_peer"]["medprov"], data["ours_by_peer"]["medprov quick"]
    if full:
        beside = [
            [name, *(ratio(part) for part in (r["mark"], quick[name]["mark"], r["read"])), _exact(r)]
            for name, r in full.items()
        ]
        head = ["peer", "our time by its time: mark", "mark, quick", "read", "exact after JPEG 50, % of pictures"]
        lines += [f"At {data['compared_at']} px, in one run; below 1 medprov is faster:", "", *table(head, beside)]
    memory = [
        [name, f"{m['loaded_mib']:.0f}", f"{m['peak_mib']:.0f}"] if "peak_mib" in m else [name, "", m["failed"]]
        for name, m in data["memory"].items()
    ]
    head = [f"alone in a process, {data['compared_at']} px", "loaded, MiB", "peak, MiB"]
    return [*lines, *table(head, memory), _large(data["large"]), "", _many(data), ""]


def _exact(row: dict[str, float]) -> str:
    return f"{row['exact_after_jpeg50_percent']:.0f}"


def _large(data: dict[str, Any]) -> str:
    what = f"A phantom of a mammogram, {data['side']} x {data['side']} pixels of {data['bits']} bits"
    if "failed" in data:
        return f"{what}: {data['failed']}"
    return (
        f"{what}, in a process of its own: marked in {data['seconds_mark']:.2f} s (limit {data['limit_seconds_mark']:g}"
        f" s; quick: {data['seconds_mark_quick']:.2f} s), read in {data['seconds_read']:.2f} s, "
        f"restored in {data['seconds_restore']:.2f} s; peak memory {data['peak_mib']:.0f} MiB "
        f"(limit {data['limit_mib']:.0f} MiB)."
    )


def _many(data: dict[str, Any]) -> str:
    batch, cpu, cuda = data["batch"], data["read_per_second_cpu"], data["read_per_second_cuda"]

    def rates(found: dict[str, float]) -> str:
        return ", ".join(f"{rate:.0f} ({size} at once)" for size, rate in found.items())

    text = (
        f"Many pictures of {batch['side']} px: {batch['marked_per_second']:.2f} marked per second by "
        f"{batch['processes']} processes; read per second in one process with the CPU: {rates(cpu)}"
    )
    return text + (f", with the GPU: {rates(cuda)}." if cuda else ". No GPU was at hand.")


def tradeoff(data: dict[str, Any]) -> list[str]:
    """Quality and shares by the floor."""
    entries = [entry for entry in data["summary"] if "exact" in entry]
    names = list(entries[0]["exact"]["all"])
    rows = [
        [
            f"{entry['floor']:g}",
            f"{entry['psnr']['mean']:.2f}",
            f"{entry['worst_modality']:.2f}",
            f"{entry['ssim']['mean']:.4f}",
            *(f"{entry['exact']['all'][name]['percent']:.0f}" for name in names),
        ]
        for entry in entries
    ]
    return [
        f"{entries[0]['pictures']} pictures, marked with each floor (`mark(floor=...)`, dB); the default is "
        f"{FLOOR:g}. Blind, per cent:",
        "",
        *table(["floor", "PSNR mean", "worst modality", "SSIM mean", *names], rows),
    ]


def search(data: dict[str, Any]) -> list[str]:
    """What is read at the true place and what the search finds, and its seconds."""
    total = data["summary"]
    rows = []
    for attack, ways in total["read"].items():
        first = ways["one place"] if "one place" in ways else ways["map"]
        rows.append([attack, *(f"{way['percent']:.0f}" for way in (ways["known"], first, ways["search"]))])
    spent = ", ".join(f"{stage} {found['median']:.1f}" for stage, found in total["seconds"].items())
    return [
        f"{total['pictures']} pictures; per cent of them read",
        "",
        *table(["attack", "where it lies", "one place, or on the turned map", "whole search"], rows),
        f"Seconds of a search that finds nothing, median, one process: {spent}.",
        "",
    ]


def raw(data: dict[str, Any]) -> list[str]:
    """The figures as they are."""
    return ["```json", json.dumps(data, indent=1), "```", ""]


def proportions(data: dict[str, Any]) -> list[str]:
    """What tuned amplitudes are worth against one amplitude for all."""
    found = data["summary"]
    if found["gain_db_mean"] is None:
        return [f"{found['pictures']} pictures; none could be compared.", ""]
    return [
        f"{found['pictures']} pictures at 256 px, which survive {100 * found['attacks_survived_mean']:.0f} % of the "
        "battery's attacks. With the gain at which both survive the same attacks, tuned amplitudes are "
        f"{found['gain_db_mean']:+.2f} dB better than one amplitude for all carriers on average, "
        f"{found['gain_db_min']:+.2f} dB at the least; in {found['uniform_cannot']} no gain does for uniform ones.",
        "",
    ]


def regions(data: dict[str, Any]) -> list[str]:
    """How good regions are that are found, and what marking with them costs."""
    dice = [
        (name, one["n"], f"{one['mean']:.2f}", f"{one['least']:.2f}", one["published"] or "")
        for name, one in data["dice"].items()
    ]
    head = ("set and mode", "pictures", "refused", "PSNR, dB", "in the region, dB", "samples changed in it", "restored")
    marking = []
    for name, one in data["marking"].items():
        inside = "whole" if one["inside"] is None else f"{one['inside']:.1f}"
        counts = (one["pictures"], one["refused"], f"{one['psnr']:.1f}", inside, one["changed inside"], one["restored"])
        marking.append((name, *counts))
    right = ", ".join(f"{kind} {count}" for kind, count in data["kind right"].items())
    return [
        "Overlap with the masks of pictures that training leaves out, beside what BlessMark publishes for its own:",
        "",
        *table(("set", "pictures", "Dice mean", "least", "BlessMark"), dice),
        f"The kind of picture is right for: {right}.",
        "",
        *table(head, marking),
    ]


def attackers(data: dict[str, Any]) -> list[str]:
    """What is read after each attack, and what the attacker pays."""
    found = data["summary"]
    read = ("present", "payload", "listed", "bits", "psnr_paid")
    head = (
        "pilots found, %",
        "owner read, %",
        "owner read with the directory, %",
        "bits right, %",
        "PSNR paid, dB",
    )

    def cells(row: dict[str, Any]) -> list[str]:
        digits = (0, 0, 0, 1, 1)
        return [f"{row[name]:.{count}f}" for name, count in zip(read, digits, strict=True)]

    def learnt(aim: str) -> list[list[str]]:
        rows = [row for row in found["surrogate"] if row["aim"] == aim]
        return [[f"{r['kind']} of {r['pairs']} pairs, times {r['strength']:g}", *cells(r)] for r in rows]

    again = []
    for name, row in found["overwrite"].items():
        shares = (row[key] for key in ("read", "jpeg70_listed", "beneath")) if "read" in row else ()
        shown = [f"{share['first']:.0f} / {share['second']:.0f}" for share in shares] or [""] * 3
        again.append([name, f"{row['refused']:.0f}", *shown, f"{row['psnr_paid']:.1f}" if "psnr_paid" in row else ""])
    return [
        "Who has the software and the marked picture takes the mark away (PSNR paid is against the marked picture):",
        "",
        *table(("attack", *head), [[name, *cells(row)] for name, row in found["white_box"].items()]),
        "Networks, and plain means, learnt from pairs of covers and marked pictures, that take the mark off others:",
        "",
        *table(("attack", *head), learnt("remove")),
        "The same put onto unmarked pictures; read means the payload that the attacker wants:",
        "",
        *table(
            ("attack", *head), [*learnt("forge"), ["residual copied from a marked picture", *cells(found["copied"])]]
        ),
        "A second mark over the first; read as it is, with the directory after JPEG 70, and after restoring the second "
        "mark off (beneath), in per cent of pictures, first owner / second owner:",
        "",
        *table(("attack", "refused, %", "read", "with directory", "beneath", "PSNR paid, dB"), again),
    ]


def decoding(data: dict[str, Any]) -> list[str]:
    """Share of words read against the amplitude, and how often noise looks like a word."""
    shown = [name for name in DECODERS if name in data["read"][0]]
    rows = [[row["amplitude"], *(f"{100 * row[name]:.1f}" for name in shown)] for row in data["read"]]
    out = [
        f"{data['words']} random payloads in Gaussian noise of deviation one; share read, by the amplitude of each of "
        "128 bits (the code of W1 spreads the same energy over more bits):",
        "",
        *table(["amplitude", *(DECODERS[name] for name in shown)], rows),
    ]
    told = ", ".join(f"{chance}: {share:.4f}" for chance, share in data["noise accepted"].items())
    noise = (
        f"Noise alone looks at least as good as a chance of (share of words): {told}; with its check it is taken for "
    )
    return [*out, f"{noise}a payload in {100 * data['noise decoded to a payload']:.2f} %, before the pilots.", ""]


def _ledger(
    section: Callable[[dict[str, Any], ledger_tables.Table], list[str]],
) -> Callable[[dict[str, Any]], list[str]]:
    return lambda data: section(data, table)


SECTIONS = {
    "robustness": ("Quality and robustness", robustness),
    "tradeoff": ("What a decibel buys", tradeoff),
    "search": ("Search for the place", search),
    "decoding": ("The code", decoding),
    "peers": ("Beside other watermarks", beside),
    "restore": ("Restoration", restoration),
    "features": ("Content after processing", content),
    "false_alarm": ("False alarms", false_alarms),
    "amplitudes": ("Tuned amplitudes against uniform ones", proportions),
    "roi": ("Regions of interest", regions),
    "speed": ("Speed and memory", speed),
    "surrogate": ("Attackers who have the software", attackers),
    "verify_time": ("Time of a verification", raw),
    "ledger_scale": ("A record's price and the growth of the ledger", _ledger(ledger_tables.scale)),
    "sending": ("Sending one by one and together", _ledger(ledger_tables.sending)),
    "kill": ("Killed at random moments", _ledger(ledger_tables.kills)),
    "reorg": ("Reorganisations", _ledger(ledger_tables.reorganisations)),
    "fuzz": ("Hostile input", _ledger(ledger_tables.fuzzed)),
    "mutations": ("Do the tests notice when a guard is gone?", _ledger(ledger_tables.mutants)),
    "federated": ("One modality per hospital", _ledger(federation_tables.federated)),
    "federated_shared": ("One modality per hospital, one optimiser", _ledger(federation_tables.federated)),
    "federated_shared_mean": (
        "One modality per hospital, one optimiser, plain mean",
        _ledger(federation_tables.federated),
    ),
    "drift": ("What keeps unlike hospitals behind", _ledger(federation_tables.drift)),
    "poisoning": ("Dishonest members", _ledger(federation_tables.poisoning)),
    "poisoning_shared": ("Dishonest members and one optimiser", _ledger(federation_tables.poisoning)),
    "crash": ("A federation killed at random moments", _ledger(federation_tables.crash)),
    "crash_deployment": ("A deployment killed at random moments", _ledger(federation_tables.crash)),
    "membership": ("Who was trained on", _ledger(privacy_tables.membership)),
    "round_cost": ("What a round costs", _ledger(cost_tables.section)),
}


def page(folder: Path, plots: Path) -> str:
    """The page as Markdown.

    Parameters
    ----------
    folder : Path
        Where the JSON files are.
    plots : Path
        Where the drawings are; the page will lie beside this folder.
    """
    lines = [
        "# Results",
        "",
        "Every table is written by `python -m benchmarks.tables` from the commands beside it; what halmos takes, by "
        "pytest itself.",
        "",
    ]
    for name, (title, section) in SECTIONS.items():
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        lines += [f"## {title}", "", f"`{COMMANDS[name]}`", "", *section(json.loads(file.read_text()))]
        for plot, text in PLOTS.get(name, {}).items():
            if (plots / plot).exists():
                lines += [f"![{text}]({plots.name}/{plot})", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args()
    args.out.write_text(page(args.folder, args.out.parent / "plots"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
