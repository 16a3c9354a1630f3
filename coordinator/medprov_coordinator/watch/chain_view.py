"""What the chain says about a run: anchored rounds, the members' standing, and their names as far as they are known."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation, Round

SETTLED = 12
"""Rounds below the newest that are asked for again each time: a reorganisation may move them to other blocks."""


@dataclass(frozen=True)
class ChainState:
    """The chain at one moment.

    Parameters
    ----------
    configured : bool
        False where no chain is configured: then all else is empty.
    rounds : mapping of int to Round
        Anchored rounds by number.
    members : mapping of str to str
        Standing of each account by lower-case address: ``active``, ``suspended``, ``left``, ``rotated``.
    names : mapping of str to str
        Names by lower-case address, from the configuration.
    federation : bytes
        Federation id, 32 bytes; empty where no chain is configured.
    trouble : str
        Why the chain could not be asked the last time; empty where it could.
    """

    configured: bool = False
    rounds: Mapping[int, Round] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    federation: bytes = b""
    trouble: str = ""


class ChainView:
    """Asks the chain; a chain that is away leaves the last answer standing, with the trouble named.

    Parameters
    ----------
    config : Config
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._federation: Federation | None = None
        names = {hospital.address.lower(): name for name, hospital in config.hospitals.items()}
        self.state = ChainState(True, names=names, federation=config.federation_id, trouble="not asked yet")

    @classmethod
    def load(cls, path: Path) -> ChainView:
        """View of a configuration file.

        Raises
        ------
        LedgerError
            The file is not usable.
        """
        return cls(Config.load(path))

    def refresh(self) -> ChainState:
        """Ask the chain."""
        former = self.state
        try:
            if self._federation is None:
                self._federation = Federation(Chain.connect(self._config))
            rounds = self._rounds(self._federation, former.rounds)
            members = {m.address.lower(): m.status.name.lower() for m in self._federation.members(former=True)}
        # whatever a node answers, the last answer stands and the thread that asks goes on
        except Exception as error:
            trouble = " ".join(str(error).split()) or type(error).__name__
            self.state = ChainState(True, former.rounds, former.members, former.names, former.federation, trouble)
        else:
            self.state = ChainState(True, rounds, members, former.names, former.federation)
        return self.state

    def follow(self, seconds: float, stop: threading.Event) -> threading.Thread:
        """Ask every so many seconds in a thread of its own, until `stop` is set."""

        def work() -> None:
            self.refresh()
            while not stop.wait(seconds):
                self.refresh()

        thread = threading.Thread(target=work, name="chain", daemon=True)
        thread.start()
        return thread

    @staticmethod
    def _rounds(federation: Federation, known: Mapping[int, Round]) -> dict[int, Round]:
        newest = federation.last_round()
        if newest is None:
            return {}
        found = {number: known[number] for number in known if number <= newest.number - SETTLED}
        for number in range(1, newest.number + 1):
            if number not in found and (one := federation.round(number)) is not None:
                found[number] = one
        return found
