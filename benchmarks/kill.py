"""Does the outbox lose or double anything? Processes are killed at random while pictures flow through a hospital.

    python -m benchmarks.kill [--pictures 2000] [--kills 200] [--seed N] [--ipfs] [--json FILE] [--quick]

One process marks pictures into the queue (``queue_files``), another flushes it (``watch``); the chain is Anvil with its
state written once a second (the Python EVM where Node is absent), the store a folder of blocks or, with ``--ipfs``, a
daemon (:mod:`benchmarks.js_ipfs`). Again and again one of them gets SIGKILL at a random moment and is started again. In
the end ``audit`` compares chain, manifests, store, outbox and wrapped keys, and every output is read.

Pictures are small noise, and instead of the watermark a stand-in changes the lowest bits of their first row: what is
tried here is the way of a picture after its marking. Keys, signatures, sealing, batches, chain and store are real.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from benchmarks import js_ipfs
from benchmarks.js_ipfs import Daemon, UnavailableError
from medprov_ledger import development, embedded
from medprov_ledger.audit import audit
from medprov_ledger.config import Config
from medprov_ledger.errors import LedgerError
from medprov_ledger.outbox import FILE, Outbox
from medprov_node import connect
from medprov_node.errors import NodeError
from medprov_node.flush import Pass, Rule, flush, watch
from medprov_node.outputs import Job
from medprov_node.queueing import queue_files
from medprov_watermark import media
from medprov_watermark.errors import WatermarkError
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import Payload, commitment
from medprov_watermark.pixels import Samples
from medprov_watermark.watermarker import DualWatermarker, Marked, salted

SIDE = 64
RULE = Rule(count=64, age=2.0)
AT_ONCE = 10
"""Pictures of one ``mark --queue``."""
PAUSE = (0.05, 2.0)
"""Seconds between a start and the next kill."""
PATIENCE = 600.0
"""Seconds until a queue that does not empty after the last kill counts as a loss."""


class StandIn:
    """Takes the place of the watermark: the lowest bits of the first row become random."""

    model = bytes(range(32))
    key_id = b""

    def mark(self, image: Samples, payload: Payload, *, signer: Callable[[ImageMark], bytes], **_: Any) -> Marked:
        """As :meth:`DualWatermarker.mark`, as far as the node looks at it."""
        salt = secrets.token_bytes(16)
        out = image.copy()
        out[0, :SIDE] = (out[0, :SIDE] & 0xFE) | np.random.default_rng(list(salt)).integers(0, 2, SIDE, dtype=np.uint8)
        cover = salted(salt, b"")
        mark = ImageMark(1, self.model, commitment(payload), content_hash(image), cover, bytes(32))
        hashes = (content_hash(image), content_hash(out), cover, salt)
        return Marked(out, *hashes, mark, signer(mark), 60.0, 1, False, True, "off", 0.0)


@dataclass(frozen=True)
class Outcome:
    """What is left when the queue is empty.

    Parameters
    ----------
    pictures : int
    kills : dict of str to int
        SIGKILLs by process.
    seconds : float
    batches, records : int
        On the chain.
    confirmed, waiting, opened, erased : int
        As in :class:`medprov_ledger.audit.Audit`.
    lost : int
        Batches that were confirmed and forgotten by the killed chain, and were anchored again.
    rows : int
        Pictures in the outbox; more than `pictures` would be drawn twice.
    written : int
        Outputs whose samples are those of their record.
    differences : tuple of str
    """

    pictures: int
    kills: dict[str, int]
    seconds: float
    batches: int
    records: int
    confirmed: int
    waiting: int
    opened: int
    erased: int
    lost: int
    rows: int
    written: int
    differences: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Everything once, nothing lost."""
        counts = {self.records, self.confirmed, self.opened, self.rows, self.written}
        return counts == {self.pictures} and not (self.waiting or self.erased or self.differences)


def run(folder: Path, pictures: int, kills: int, seed: int, ipfs: Daemon | None = None) -> Outcome:
    """Let `pictures` flow and kill `kills` times.

    Parameters
    ----------
    folder : Path
        Empty.
    pictures, kills, seed : int
    ipfs : Daemon or None
        A daemon to be killed too; None keeps objects in a folder.
    """
    chance = random.Random(seed)
    jobs = _draw(folder, pictures, seed)
    home = folder / "federation"
    if ipfs is not None:
        ipfs.start()
    development.up(home, [StandIn.model], ipfs.api if ipfs is not None else None)
    crew = _Crew(home, jobs, folder / "lost")
    counts: Counter[str] = Counter()
    started = time.monotonic()
    deck: list[str] = []
    victims = ["marking", "flushing", "chain", *(["store"] if ipfs is not None else [])]
    try:
        while sum(counts.values()) < kills:
            crew.start()
            time.sleep(chance.uniform(*PAUSE))
            if not deck:
                deck = chance.sample(victims, len(victims))
            victim = deck.pop()
            if victim == "store" and ipfs is not None:
                ipfs.kill()
                time.sleep(chance.uniform(0, 1.0))
                ipfs.start()
            elif victim == "chain":
                _kill_chain(home)
                time.sleep(chance.uniform(0, 1.0))
                development.up(home)
                # it may have come back on another port
                crew.kill("flushing")
            elif not crew.kill(victim):
                continue
            counts[victim] += 1
        crew.start()
        crew.wait()
        config = Config.load(home / development.CONFIG)
        return _outcome(config, jobs, dict(counts), time.monotonic() - started, crew.lost())
    finally:
        crew.stop()
        development.down(home)
        if ipfs is not None:
            ipfs.kill()


class _Crew:
    """The two processes of the hospital."""

    def __init__(self, home: Path, jobs: Sequence[Job], lost: Path) -> None:
        self._arguments = {"marking": (home, jobs), "flushing": (home, lost)}
        self._targets: dict[str, Callable[..., None]] = {"marking": _marking, "flushing": _flushing}
        self._lost = lost
        # forked and not started anew: importing takes seconds in which nothing could be interrupted
        self._context = multiprocessing.get_context("fork")
        self._running: dict[str, Any] = {}

    def start(self) -> None:
        for name, target in self._targets.items():
            child = self._running.get(name)
            if child is None or not child.is_alive():
                self._running[name] = self._context.Process(target=target, args=self._arguments[name])
                self._running[name].start()

    def kill(self, name: str) -> bool:
        """SIGKILL; False where it had come to its end."""
        child = self._running[name]
        alive = bool(child.is_alive())
        child.kill()
        child.join()
        return alive

    def wait(self) -> None:
        """Until everything is marked."""
        self._running["marking"].join(PATIENCE)

    def lost(self) -> int:
        return sum(map(int, self._lost.read_text().split())) if self._lost.exists() else 0

    def stop(self) -> None:
        for child in self._running.values():
            child.kill()
            child.join()


def _marking(home: Path, jobs: Sequence[Job]) -> None:
    config = Config.load(home / development.CONFIG)
    hospital = next(iter(config.hospitals.values()))
    watermarker = cast(DualWatermarker, StandIn())
    for start in range(0, len(jobs), AT_ONCE):
        some = jobs[start : start + AT_ONCE]
        # what is queued or written is passed by, but to look takes time in which a kill would find nothing to interrupt
        if not all(target.exists() for _, target in some):
            queue_files(some, hospital, config, watermarker=watermarker)


def _flushing(home: Path, lost: Path) -> None:
    def tell(done: Pass) -> None:
        if done.lost:
            with lost.open("a") as file:
                file.write(f"{done.lost}\n")

    config = Config.load(home / development.CONFIG)
    watch(next(iter(config.hospitals.values())), config, RULE, threading.Event(), tell)


def _outcome(config: Config, jobs: Sequence[Job], kills: dict[str, int], seconds: float, lost: int) -> Outcome:
    hospital = next(iter(config.hospitals.values()))
    deadline = time.monotonic() + PATIENCE
    trouble: tuple[str, ...] = ()
    while time.monotonic() < deadline:
        done = flush(hospital, config)
        lost, trouble = lost + done.lost, done.problems
        if not done.waiting and not trouble:
            break
        time.sleep(1.0)
    ledger = connect.connect(config)
    found = audit(ledger.registry, ledger.federation, ledger.store, [hospital])
    outbox = Outbox(hospital.state / FILE)
    try:
        released = {outbox.delivery(job).target: outbox.item(job).released_hash for job in outbox.jobs()}
    finally:
        outbox.close()
    differences = [f"{one.where}: {one.what}" for one in found.differences]
    return Outcome(
        pictures=len(jobs),
        kills=kills,
        seconds=round(seconds, 1),
        batches=found.anchors,
        records=found.records,
        confirmed=found.confirmed,
        waiting=found.waiting,
        opened=found.opened,
        erased=found.erased,
        lost=lost,
        rows=len(released),
        written=sum(_holds(target, released.get(str(target))) for _, target in jobs),
        differences=(*trouble, *differences),
    )


def _holds(target: Path, released: bytes | None) -> bool:
    return target.exists() and content_hash(media.read(target).array) == released


def _draw(folder: Path, pictures: int, seed: int) -> list[Job]:
    (folder / "in").mkdir()
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(pictures):
        source = folder / "in" / f"{number:05d}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(source)
        jobs.append((source, folder / "out" / source.name))
    return jobs


def _kill_chain(home: Path) -> None:
    chain = embedded.load(home)
    if chain is not None and chain.pid is not None:
        os.kill(chain.pid, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 where every picture is anchored exactly once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ipfs", action="store_true", help="the store is a daemon, which is killed too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="40 pictures and 8 kills, under a minute")
    options = parser.parse_args(arguments)
    pictures, kills = (40, 8) if options.quick else (options.pictures, options.kills)
    with tempfile.TemporaryDirectory(prefix="medprov-kill-") as folder:
        try:
            daemon = Daemon(js_ipfs.program(), Path(folder) / "ipfs") if options.ipfs else None
            found = run(Path(folder), pictures, kills, options.seed, daemon)
        except (UnavailableError, LedgerError, NodeError, WatermarkError) as error:
            print(f"kill: {error}", file=sys.stderr)
            return 1
    report = asdict(found) | {"clean": found.clean}
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
