"""Quality of marked pictures and share of exact messages after every attack, for medprov and its peers.

    python -m benchmarks.robustness --images DIR [--sizes 256,512] [--split validation|all] [--attacks NAME,NAME]
        [--peer NAME,NAME] [--list-records N] [--curves] [--json FILE] [--quick]

Without ``--images`` the pictures that ship with scikit-image are used. The marked picture includes W2; messages are
read blindly, and exact means every bit. ``validation`` is the split that training leaves out
(``medprov_watermark.training.data.held_back``). Every peer marks the same pictures in the same process and meets the
same noise and windows. ``--list-records`` reads what fails blindly once more against a directory of N random records
and the true ones, and again with the true record taken out. ``--curves`` adds JPEG, noise, crop and rotation at growing
strength (``benchmarks.plots`` draws them).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import attacks, images, listing, ours, peers
from benchmarks.summaries import Share, quality, share, spread
from medprov_watermark.errors import WatermarkError
from medprov_watermark.hashing import perceptual_hash
from medprov_watermark.payload import DATA_BYTES, Directory, Payload
from medprov_watermark.watermarker import DualWatermarker, Samples

Row = dict[str, Any]
OVERWRITE = "overwrite"
"""Special attack: a second message, with another key where the method has one, over the first. It costs more than all
others together."""
QUICK = ("none", "rot90", "jpeg90", "jpeg50", "gblur7", "gauss_sd5", "resize0.5back", "rot5", "crop25", OVERWRITE)
"""Attacks of a quick run; a peer needs seconds for every reading, and so does our search where it finds nothing."""


@dataclass(frozen=True)
class Plan:
    """What a worker does with every picture.

    Parameters
    ----------
    attacks : tuple of str
    overwrite : bool
    peers : tuple of str
    records : Directory or None
        For list decoding.
    """

    attacks: tuple[str, ...]
    overwrite: bool
    peers: tuple[str, ...]
    records: Directory | None


@dataclass(frozen=True)
class Tools:
    """What a worker loads once.

    Parameters
    ----------
    plan : Plan
    owner : DualWatermarker
    rival, stranger : DualWatermarker
        Changed copies that do not look for a mark before they mark: with the carriers of the owner, with another key.
    methods, rivals : tuple of Method
        The peers with one key and with another.
    """

    plan: Plan
    owner: DualWatermarker
    rival: DualWatermarker
    stranger: DualWatermarker
    methods: tuple[peers.Method, ...]
    rivals: tuple[peers.Method, ...]


_tools: Tools | None = None


def prepare(plan: Plan) -> None:
    """Load marks and peers in this process."""
    global _tools
    _tools = Tools(
        plan,
        DualWatermarker.load(device="cpu", threads=1),
        ours.Rival.load(device="cpu", threads=1),
        ours.Rival.load(device="cpu", threads=1, key=b"another consortium's secret"),
        peers.load(plan.peers, key=1),
        peers.load(plan.peers, key=2),
    )


def measure(sample: images.Sample) -> dict[str, Row]:
    """One row per method for one picture."""
    assert _tools is not None, "prepare was not called"
    rows = {ours.NAME: _ours(sample, _tools)}
    for method, rival in zip(_tools.methods, _tools.rivals, strict=True):
        rows[method.name] = _peer(sample, method, rival, _tools.plan)
    return rows


def payload_for(sample: images.Sample) -> Payload:
    """What medprov hides in a picture: its perceptual hash and a serial that depends on its name and size."""
    rng = np.random.default_rng(zlib.crc32(_seed(sample).encode()))
    return Payload(perceptual_hash(sample.image), rng.bytes(4))


def _seed(sample: images.Sample) -> str:
    return f"{sample.name}{sample.size}"


def _about(sample: images.Sample) -> Row:
    return {
        "modality": sample.modality,
        "image": sample.name,
        "size": sample.size,
        "channels": 1 if sample.image.ndim == 2 else 3,
    }


def _ours(sample: images.Sample, tools: Tools) -> Row:
    payload, row, records = payload_for(sample), _about(sample), tools.plan.records
    others = None if records is None else listing.without(records, payload)
    started = time.perf_counter()
    try:
        marked = tools.owner.mark(sample.image, payload)
    except WatermarkError as error:
        return {**row, "refused": str(error)}
    row["seconds_mark"] = time.perf_counter() - started
    picture = np.asarray(marked.image, np.uint8)
    row["psnr"], row["ssim"] = quality(sample.image, picture)
    row["short"], row["robust"] = marked.short, marked.robust
    row["restored"] = bool(np.array_equal(tools.owner.restore(picture), sample.image))
    started = time.perf_counter()
    tools.owner.extract(picture)
    row["seconds_read"] = time.perf_counter() - started
    exact, bits, presence = {}, {}, {}
    listed, stranger = {}, {}
    wrong = 0
    for name, attacked in attacks.attacked(picture, tools.plan.attacks, _seed(sample)):
        found = tools.owner.extract(attacked)
        exact[name] = found.payload == payload
        bits[name] = _accuracy(None if found.payload is None else ours.bits_of(found.payload), ours.bits_of(payload))
        presence[name] = round(float(found.presence), 2)
        wrong += found.payload is not None and not exact[name]
        if records is not None and others is not None:
            listed[name] = exact[name] or listing.find(found, records) == payload
            stranger[name] = listing.find(found, others) is not None
    row |= {"exact": exact, "bits": bits, "presence": presence, "wrong": wrong}
    if records is not None:
        row |= {"listed": listed, "stranger": stranger}
    row["unmarked"] = tools.owner.extract(sample.image).payload is not None
    if tools.plan.overwrite:
        row[OVERWRITE] = _overwrite_ours(picture, payload, tools)
    return row


def _overwrite_ours(picture: peers.Picture, payload: Payload, tools: Tools) -> dict[str, bool]:
    """What one can try who holds this software and wants another mark in the picture; True where the first is read."""
    second = Payload(perceptual_hash(picture), bytes(b ^ 0xA5 for b in payload.serial))

    def reads(image: Samples) -> bool:
        found = tools.owner.extract(image)
        return found.payload == payload

    def listed(image: Samples, records: Directory) -> bool:
        return listing.find(tools.owner.extract(image), records) == payload

    outcome = {"refused": _marked(tools.owner, picture, second) is None}
    for name, tool in (("first", tools.stranger), ("first_same_carriers", tools.rival)):
        forced = _marked(tool, picture, second)
        if forced is None:
            continue
        outcome[name] = reads(forced)
        if tools.plan.records is not None:
            outcome[f"{name}_listed"] = outcome[name] or listed(forced, tools.plan.records)
        outcome["first_after_undoing"] = reads(tool.restore(forced))
    replaced = _marked(tools.owner, tools.owner.restore(picture), second)
    if replaced is not None:
        outcome["first_after_restoring_and_marking"] = reads(replaced)
    return outcome


def _marked(tool: DualWatermarker, image: Samples, payload: Payload) -> Samples | None:
    try:
        return tool.mark(image, payload).image
    except WatermarkError:
        return None


def _peer(sample: images.Sample, method: peers.Method, rival: peers.Method, plan: Plan) -> Row:
    row = _about(sample)
    rng = np.random.default_rng(zlib.crc32(_seed(sample).encode()))
    message, second = rng.integers(0, 2, (2, method.bits)).astype(np.uint8)
    started = time.perf_counter()
    # Foreign code raises anything at all on pictures that it cannot mark.
    try:
        marked = method.mark(sample.image.copy(), message.copy())
    except Exception as error:
        return {**row, "refused": f"{type(error).__name__}: {error}"[:200]}
    row["seconds_mark"] = time.perf_counter() - started
    row["psnr"], row["ssim"] = quality(sample.image, marked)
    row["tinted"] = marked.ndim != sample.image.ndim
    if isinstance(method, peers.Reversible):
        row["restored"] = bool(np.array_equal(method.restore(marked), sample.image))
    started = time.perf_counter()
    _read(method, marked)
    row["seconds_read"] = time.perf_counter() - started
    exact, bits = {}, {}
    for name, attacked in attacks.attacked(marked, plan.attacks, _seed(sample)):
        bits[name] = _accuracy(_read(method, attacked), message)
        exact[name] = bits[name] == 1
    row |= {"exact": exact, "bits": bits, "unmarked": _read(method, sample.image) is not None}
    if plan.overwrite:
        try:
            over = rival.mark(marked.copy(), second.copy())
        except Exception:  # foreign code again: whatever it raises, it has refused
            row[OVERWRITE] = {"refused": True}
            return row
        row[OVERWRITE] = {"refused": False, "first": _accuracy(_read(method, over), message) == 1}
        if isinstance(method, peers.Reversible):
            before = method.restore(over)
            row[OVERWRITE]["first_after_undoing"] = _accuracy(_read(method, before), message) == 1
    return row


def _read(method: peers.Method, picture: peers.Picture) -> peers.Bits | None:
    # Foreign code raises anything at all on pictures that it cannot read, such as ones that have become too small.
    try:
        return method.read(picture.copy())
    except Exception:
        return None


def _accuracy(found: peers.Bits | None, message: peers.Bits) -> float:
    """Share of right bits; no message at all counts as guessed."""
    return 0.5 if found is None or found.size != message.size else float(np.mean(found == message))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Distributions by size and modality, and the shares of exact messages by attack."""
    good = [row for row in rows if "refused" not in row]
    out: dict[str, Any] = {"pictures": len(rows), "refused": len(rows) - len(good)}
    if not good:
        return out
    groups: dict[str, list[Row]] = {"all": good}
    by_size, by_modality = defaultdict(list), defaultdict(list)
    for row in good:
        by_size[row["size"]].append(row)
        by_modality[row["modality"]].append(row)
    groups |= {f"size {size}": by_size[size] for size in sorted(by_size)}
    groups |= {str(name): by_modality[name] for name in sorted(by_modality)}
    out["quality"] = {
        name: {figure: spread([row[figure] for row in group]) for figure in ("psnr", "ssim")}
        for name, group in groups.items()
    }
    for kind in ("exact", "listed"):
        if kind in good[0]:
            out[kind] = {
                name: {attack: share([row[kind][attack] for row in group]) for attack in group[0][kind]}
                for name, group in groups.items()
            }
    out["bits_mean"] = {name: float(np.mean([row["bits"][name] for row in good])) for name in good[0]["bits"]}
    if "stranger" in good[0]:
        out["matches_without_true_record"] = sum(sum(row["stranger"].values()) for row in good)
        out["readings_without_true_record"] = sum(len(row["stranger"]) for row in good)
    if "restored" in good[0]:
        out["restored"] = share([row["restored"] for row in good])
    out["read_in_unmarked"] = share([row["unmarked"] for row in good])
    if OVERWRITE in good[0]:
        seen = sorted({key for row in good for key in row[OVERWRITE]})
        out[OVERWRITE] = {key: share([row[OVERWRITE][key] for row in good if key in row[OVERWRITE]]) for key in seen}
    for flag in ("short", "robust", "tinted", "wrong"):
        if flag in good[0]:
            out[flag] = sum(row[flag] for row in good)
    for part in ("mark", "read"):
        out[f"seconds_{part}_median"] = float(np.median([row[f"seconds_{part}"] for row in good]))
    return out


def report(results: dict[str, list[Row]], bits: dict[str, int], records: int | None) -> dict[str, Any]:
    """What ``--json`` holds.

    Parameters
    ----------
    results : dict
        Method -> rows.
    bits : dict
        Method -> length of its message.
    records : int or None
        Random records in the directory.
    """
    methods = {name: {"bits": bits[name], "summary": summary(rows), "rows": rows} for name, rows in results.items()}
    return {"list_records": records, "methods": methods}


def _say(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        head = f"{row['modality']} {row['image']} {row['size']} {name}:"
        if "refused" in row:
            print(f"{head} REFUSED {row['refused']}", flush=True)
            continue
        outcome: dict[str, bool] = row["listed" if "listed" in row else "exact"]
        missed = [attack for attack, good in outcome.items() if not good]
        shown = f"{len(missed)} missed" if len(missed) > 12 else f"missed {', '.join(missed) or 'none'}"
        print(f"{head} {row['psnr']:.2f} dB, SSIM {row['ssim']:.4f}, {shown}", flush=True)


def _say_summary(name: str, total: dict[str, Any]) -> None:
    tables = ("quality", "exact", "listed", "bits_mean")
    print(f"\n{name}: " + json.dumps({key: value for key, value in total.items() if key not in tables}))
    for group, figures in total.get("quality", {}).items():
        print(f"{group:20s}" + "  ".join(f"{key} {value:.4g}" for key, value in figures["psnr"].items()))
    for kind in ("exact", "listed"):
        shares: dict[str, Share] = total.get(kind, {}).get("all", {})
        if shares:
            print(f"{kind}: " + "  ".join(f"{attack} {found['percent']:.0f}" for attack, found in shares.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--split", choices=["validation", "all"], default="all")
    parser.add_argument("--per-modality", type=int)
    parser.add_argument("--offset", type=int, default=0, help="choose other pictures of each modality")
    parser.add_argument(
        "--attacks",
        help=f"names from {', '.join(attacks.ATTACKS)}, {OVERWRITE}; default: all, the last only beside peers",
    )
    parser.add_argument("--curves", action="store_true", help="also JPEG, noise, crop and rotation at growing strength")
    parser.add_argument("--peer", default="", help=f"names from {', '.join(peers.NAMES)}")
    parser.add_argument("--list-records", type=int, help="random records in the directory for list decoding")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="few pictures at 256 px, under a minute")
    args = parser.parse_args()
    sizes = [256] if args.quick else [int(s) for s in args.sizes.split(",")]
    rivals = tuple(name for name in args.peer.split(",") if name)
    chosen = [*QUICK] if args.quick else [*attacks.ATTACKS, OVERWRITE]
    if not rivals:
        chosen.remove(OVERWRITE)
    if args.attacks:
        chosen = args.attacks.split(",")
    if args.curves:
        chosen += [name for name in attacks.points() if name not in chosen]
    names = tuple(name for name in chosen if name != OVERWRITE)
    try:
        peers.check(rivals)
        for name in names:
            attacks.find(name)
    except (peers.MissingPeerError, ValueError) as error:
        print(f"robustness: {error}", file=sys.stderr)
        return 2
    found = images.collect(args.images, sizes, args.split, 1 if args.quick else args.per_modality, args.offset)
    if args.quick:
        found = found[:2]
    records = None
    if args.list_records is not None:
        records = listing.directory([payload_for(sample) for sample in found], args.list_records)
    plan = Plan(names, OVERWRITE in chosen, rivals, records)
    bits = {ours.NAME: 8 * DATA_BYTES, **{method.name: method.bits for method in peers.load(rivals)}}
    results: dict[str, list[Row]] = defaultdict(list)
    with ProcessPoolExecutor(args.workers, initializer=prepare, initargs=(plan,)) as pool:
        for rows in pool.map(measure, found):
            _say(rows)
            for name, row in rows.items():
                results[name].append(row)
            if args.json:  # after every picture: a long run that is cut short has still measured something
                args.json.write_text(json.dumps(report(results, bits, args.list_records), indent=1))
    for name, rows_of in results.items():
        _say_summary(name, summary(rows_of))
    return 0


if __name__ == "__main__":
    sys.exit(main())
