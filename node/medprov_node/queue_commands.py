"""The commands of ``medprov-node`` about the queue: flush and status; ``mark --queue`` fills it."""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from medprov_ledger import terminal
from medprov_ledger.config import Config, HospitalConfig

if TYPE_CHECKING:
    from medprov_node.flush import Pass
    from medprov_node.queue_status import QueueStatus

NAMES = ("flush", "status")
Choose = Callable[[Config, str | None], tuple[HospitalConfig, str]]
"""Picks the hospital of ``--hospital``."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's parser."""
    flush = commands.add_parser(
        "flush",
        help="anchor and write what 'mark --queue' has queued",
        description="Store, anchor and write what 'mark --queue' has queued: all at once, or with --watch batch by "
        "batch until SIGTERM or SIGINT. What cannot go on waits; exit status 1 where something does.",
    )
    flush.add_argument("--watch", action="store_true", help="go on until SIGTERM or SIGINT")
    flush.add_argument(
        "--count", type=int, default=1024, metavar="N", help="with --watch: pictures of a full batch (default: 1024)"
    )
    flush.add_argument(
        "--age",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="with --watch: a batch that is not full is sent when its first picture has waited so long (default: 60)",
    )
    status = commands.add_parser(
        "status",
        help="what waits in the queue, and why",
        description="Show what waits, for how long, whether chain and store answer, and how much room is left.",
    )
    for command in (flush, status):
        command.add_argument("--hospital", metavar="NAME", help="whose queue (default: the configuration's first)")
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="medprov.toml (default: where it usually lies)"
        )
        command.add_argument("--json", action="store_true", help="print JSON, one object for each pass")


def run(options: argparse.Namespace, choose: Choose) -> int:
    """Run one of :data:`NAMES`; the exit status.

    Raises
    ------
    NodeError, LedgerError
    """
    config = Config.load(options.config)
    house, _ = choose(config, options.hospital)
    if options.command == "status":
        return _status(house, config, options.json)
    # imported here and not above: it takes a second, in which Ctrl-C is no error either
    from medprov_node.flush import Rule, flush, watch

    if not options.watch:
        done = flush(house, config)
        terminal.say(_text(done, options.json), done="the queue was flushed")
        return 1 if done.waiting or done.problems else 0
    rule = Rule(options.count, options.age)
    said: list[str] = []

    def tell(done: Pass) -> None:
        text = _text(done, options.json)
        # every second the same would be no news
        if [text] != said and (done.stored or done.anchored or done.delivered or done.problems or said):
            terminal.say(text, done="the queue was flushed")
        said[:] = [text]

    with _stopped() as stop:
        watch(house, config, rule, stop, tell)
    return 0


def _status(house: HospitalConfig, config: Config, as_json: bool) -> int:
    from medprov_node.queue_status import queue_status

    found = queue_status(house, config)
    terminal.say(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(_lines(found)))
    return 0


def _lines(found: QueueStatus) -> Iterator[str]:
    yield f"hospital     {found.hospital}"
    oldest = "" if found.oldest is None else f", the first for {found.oldest} s"
    yield f"queue        {found.waiting} pictures wait to be written{oldest}"
    yield f"pictures     {', '.join(f'{count} {state}' for state, count in found.states.items())}"
    yield f"chain        {found.chain or 'answers'}"
    yield f"store        {found.store or 'answers'}"
    yield f"room         {found.free / 2**30:.1f} GiB"


def _text(done: Pass, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {
                "time": int(time.time()),
                "stored": done.stored,
                "batches": done.anchored,
                "written": done.delivered,
                "lost": done.lost,
                "waiting": done.waiting,
                "problems": list(done.problems),
            }
        )
    lines = [f"stored {done.stored}, batches {done.anchored}, written {done.delivered}, waiting {done.waiting}"]
    if done.lost:
        lines.append(f"  note: the chain had lost {done.lost} confirmed batches; they are anchored again")
    return "\n".join(lines + [f"  waits: {problem}" for problem in done.problems])


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """Set by SIGTERM or SIGINT; a pass that has begun is finished."""
    stop = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
