"""Three hospitals train, one marks, the proof is anchored, an outsider verifies, the covers come back.

Everything is real and on this machine: an Ethereum chain, the block store, the contracts, Flower's apps in one process.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo import cases, pictures, report
from medprov_coordinator.connect import connect
from medprov_coordinator.errors import CoordinatorError
from medprov_coordinator.round import Event
from medprov_coordinator.run import FederationResult, run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_ledger import development
from medprov_ledger.config import Config
from medprov_ledger.errors import LedgerError
from medprov_node.client_app import app as client_app
from medprov_node.errors import NodeError
from medprov_node.mark import mark_files
from medprov_node.mark_result import MarkResult
from medprov_sdk.errors import SdkError
from medprov_sdk.verification import Verification
from medprov_sdk.verifier import Verifier
from medprov_watermark import media, weights
from medprov_watermark.errors import WatermarkError
from medprov_watermark.hashing import content_hash
from medprov_watermark.training.loop import Settings
from medprov_watermark.watermarker import DualWatermarker

ROUNDS, STEPS = 2, 3
console = Console(width=min(150, shutil.get_terminal_size((140, 40)).columns))


def _bar() -> Progress:
    parts = (
        SpinnerColumn(),
        TextColumn("{task.description:48}"),
        BarColumn(30),
        TextColumn("{task.completed}/{task.total}"),
    )
    return Progress(*parts, TimeElapsedColumn(), console=console)


def _train(folder: Path, config: Path) -> FederationResult:
    folders = pictures.training_folders(folder / "hospitals")
    nodes = [
        {"images": str(path), "hospital": name, "medprov-config": str(config)} for name, path in sorted(folders.items())
    ]
    run = RunConfig(
        rounds=ROUNDS,
        local_steps=STEPS,
        settings=Settings(steps=0, batch=4, rate=1e-4),
        quorum=2,
        probe_pictures=4,
        evaluate=False,
    )
    with _bar() as bar:
        task = bar.add_task("federated rounds of three hospitals", total=ROUNDS)

        def on_event(event: Event) -> None:
            if event.kind in ("screened", "refused", "anchored"):
                bar.console.print(f"  {event.kind}: {event.text}", style="dim", highlight=False)
            bar.update(task, completed=event.number)

        start = weights.FOLDER / f"{weights.RELEASE}.safetensors"
        return run_federation(
            client_app,
            nodes,
            run,
            folder=folder / "rounds",
            initial=start,
            services=connect(str(config), "hospital-a"),
            on_event=on_event,
        )


def _mark(chosen: list[pictures.Case], config: Config, folder: Path, wm: DualWatermarker) -> list[MarkResult]:
    jobs = [(case.source, folder / f"{case.name}{case.source.suffix}") for case in chosen]
    with _bar() as bar:
        task = bar.add_task("hospital A marks and anchors", total=len(jobs))

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"hospital A: {stage}")

        return mark_files(jobs, "hospital-a", config, progress, watermarker=wm, make_folders=True)


def _verify(shown: list[cases.Shown], config: Path) -> list[tuple[cases.Shown, Verification]]:
    verifier = Verifier.from_config(config, cache=":memory:")
    verifier.verify(shown[0].path)
    out = []
    with _bar() as bar:
        task = bar.add_task("an outsider verifies", total=len(shown))
        for one in shown:
            out.append((one, verifier.verify(one.path)))
            bar.advance(task)
    return out


def _restore(chosen: list[pictures.Case], marked: dict[str, Path], wm: DualWatermarker) -> list[report.Restored]:
    out = []
    for case in chosen:
        cover = media.read(case.source).array
        back = wm.restore(media.read(marked[case.name]).array)
        out.append(report.Restored(case.title, content_hash(cover).hex(), content_hash(back).hex()))
    return out


def _tables(results: list[tuple[cases.Shown, Verification]], restored: list[report.Restored]) -> bool:
    columns = ("case", "verdict", "metadata", "bits corrected", "ms", "transaction")
    table = Table(*columns, title="What the outsider found")
    right = True
    for one, found in results:
        good = one.fits(found)
        right &= good
        style = "green" if good else "bold red"
        verdict = found.verdict.value if good else f"{found.verdict.value} (expected {one.expected.value})"
        bits = str(found.corrected_bits) if found.payload else "-"
        transaction = found.transaction or "-"
        spent = f"{found.milliseconds['total']:.0f}"
        table.add_row(one.title, f"[{style}]{verdict}", found.metadata.state.value, bits, spent, transaction[:22])
    console.print(table)
    back = Table("picture", "cover", "restored", "same", title="Restoration, content hashes (SHA3-256)")
    for item in restored:
        right &= item.same
        back.add_row(item.title, item.cover[:24], item.restored[:24], "yes" if item.same else "NO")
    console.print(back)
    return right


def run(folder: Path) -> int:
    """The story; 0 when every verdict and every restoration is as it must be."""
    started = time.perf_counter()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    if folder.exists():
        development.down(folder / "chain")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    wm = DualWatermarker.load()
    console.rule("1. chain, store, contracts, three members")
    try:
        up = development.up(folder / "chain", [wm.model])
        config = up.config
        console.print(
            f"{up.chain.kind} at {config.rpc}, federation {config.federation_address}, members: "
            f"{', '.join(sorted(config.hospitals))}",
            highlight=False,
        )
        console.rule("2. three hospitals train together, each on its own modality")
        trained = _train(folder, config.path)
        for r in trained.rounds:
            console.print(f"round {r.number}: model {r.model[:16]}..., transaction {r.transaction}", highlight=False)
        console.rule("3. hospital A marks four pictures, one batch on the chain")
        chosen = pictures.to_mark(folder / "covers")
        results = _mark(chosen, config, folder / "marked", wm)
        marked = {case.name: result.output for case, result in zip(chosen, results, strict=True)}
        for result in results:
            console.print(
                f"{result.output.name}: {result.psnr:.1f} dB, record {result.record_id[:18]}...", highlight=False
            )
        console.print(f"batch {results[0].root[:18]}... in transaction {results[0].transaction}", highlight=False)
        console.rule("4. an outsider, who has only the public configuration, verifies")
        shown = cases.make(chosen, marked, folder / "shown")
        found = _verify(shown, folder / "chain" / "verifier.toml")
        restored = _restore(chosen, marked, wm)
        right = _tables(found, restored)
        covers = {case.name: media.read(case.source).array for case in chosen}
        page = report.write(folder / "report.html", chosen, covers, marked, results, found, restored, trained, config)
    finally:
        development.down(folder / "chain")
    seconds = time.perf_counter() - started
    console.print(
        f"report: {page}\n{'all as it must be' if right else 'NOT as it must be'}, {seconds:.0f} s", highlight=False
    )
    return 0 if right else 1


def main() -> int:
    """Command line; returns the exit code."""
    warnings.filterwarnings("ignore", category=UserWarning)
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("build/demo"), help="everything goes here (default: %(default)s)"
    )
    options = parser.parse_args()
    np.seterr(all="ignore")
    try:
        return run(options.dir)
    except (LedgerError, WatermarkError, NodeError, SdkError, CoordinatorError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
