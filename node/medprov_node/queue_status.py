"""How a hospital's queue is: what waits, for how long, for what, and how much room is left for more."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medprov_ledger.config import Config, HospitalConfig
from medprov_ledger.errors import LedgerError
from medprov_ledger.outbox import FILE, STATES, Outbox
from medprov_ledger.store import open_store
from medprov_node import connect


@dataclass(frozen=True)
class QueueStatus:
    """One look.

    Parameters
    ----------
    hospital : str
    states : dict of str to int
        Pictures in each state of the outbox, the finished ones too.
    waiting : int
        Pictures whose output is not written yet.
    oldest : int or None
        Seconds that the first of these has waited.
    chain, store : str
        Empty where it answers, otherwise why it does not.
    free : int
        Bytes that the state folder's disk has left.
    """

    hospital: str
    states: dict[str, int]
    waiting: int
    oldest: int | None
    chain: str
    store: str
    free: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the same names."""
        return asdict(self)


def queue_status(hospital: HospitalConfig, config: Config) -> QueueStatus:
    """Look at a hospital's outbox, and ask chain and store whether they answer.

    Raises
    ------
    LedgerError
        The outbox cannot be read.
    """
    states, waiting, oldest = dict.fromkeys(STATES, 0), 0, None
    if (hospital.state / FILE).exists():
        outbox = Outbox(hospital.state / FILE)
        try:
            states, waiting = outbox.counts(), outbox.waiting()
            for first in outbox.deliveries(limit=1):
                oldest = max(0, int(time.time()) - first.queued)
        finally:
            outbox.close()
    free = shutil.disk_usage(_there(hospital.state)).free
    return QueueStatus(hospital.name, states, waiting, oldest, _chain(config), _store(config), free)


def _chain(config: Config) -> str:
    try:
        connect.connect(config)
    except LedgerError as error:
        return str(error)
    return ""


def _store(config: Config) -> str:
    try:
        open_store(config).put(connect.PROBE)
    except LedgerError as error:
        return str(error)
    return ""


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
