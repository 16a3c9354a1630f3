"""Rounds that wait for their anchor: published, compared with the chain and anchored, in order and once each.

A round waits in the run's state from the moment it is written until it is known to be on the chain, so neither a chain
or a store that is away nor a crash at any instant loses it. The weights can be fetched before the anchor names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medprov_coordinator.checkpoint import CheckpointFolder, PendingAnchor, State
from medprov_coordinator.errors import CheckpointError
from medprov_coordinator.round import Anchored, Services
from medprov_ledger.errors import (
    ConfigError,
    ContractAbsentError,
    LedgerError,
    RevertedError,
    StoreError,
    WrongChainError,
)

_STOPPING = (ConfigError, ContractAbsentError, WrongChainError)
"""What waiting cannot mend."""


@dataclass(frozen=True)
class Settled:
    """What an attempt to anchor has come to.

    Parameters
    ----------
    state : State
    trouble : str
        Why the first of the rounds that still wait was not anchored; empty where none waits.
    """

    state: State
    trouble: str = ""


def settle(
    state: State,
    services: Services,
    load: Callable[[str], bytes],
    done: Callable[[State, PendingAnchor, str | None], None],
    folder: CheckpointFolder | None = None,
) -> Settled:
    """Anchor the waiting rounds, oldest first, until all are or one cannot be now.

    Parameters
    ----------
    state : State
    services : Services
        Chain and store.
    load : callable
        Bytes of the weights of a hash.
    done : callable
        Called for each round that is on the chain with the new state, which it keeps, the round, and its transaction
        (None where the round was there already).
    folder : CheckpointFolder or None
        Rounds that the chain has lost are taken from its records.

    Raises
    ------
    CheckpointError
        The chain has another round of that number.
    WrongChainError, ContractAbsentError
        This is not the federation's chain.
    """
    if services.anchor is None:
        return Settled(state)
    while state.pending:
        entry = state.pending[0]
        try:
            transaction = _anchor(entry, services, load)
        except RevertedError as error:
            if error.error == "RoundNotNext" and folder is not None:
                longer = missing(state, services.anchor.last(), folder)
                if len(longer.pending) > len(state.pending):
                    state = longer
                    continue
            return Settled(state, str(error))
        except _STOPPING:
            raise
        except LedgerError as error:
            return Settled(state, str(error))
        state = replace(state, pending=state.pending[1:])
        done(state, entry, transaction)
    return Settled(state)


def missing(state: State, last: Anchored | None, folder: CheckpointFolder | None) -> State:
    """The state with every round waiting that the chain does not have, be it that a reorganisation threw it out.

    Parameters
    ----------
    last : Anchored or None
        The chain's last round.

    Raises
    ------
    CheckpointError
        A round's record is absent or damaged, or there is no folder that could hold it.
    """
    first = (last.number if last else 0) + 1
    waiting = {entry.number: entry for entry in state.pending}
    for number in range(first, state.number + 1):
        if number not in waiting:
            if folder is None:
                raise CheckpointError(f"round {number} has gone from the chain, and no folder holds it")
            waiting[number] = PendingAnchor(number, *folder.read_record(number))
    return replace(state, pending=tuple(waiting[number] for number in sorted(waiting)))


def check_same(entry: PendingAnchor, found: Anchored) -> None:
    """Compare a waiting round with the chain's.

    Raises
    ------
    CheckpointError
        They differ: another coordinator has anchored its own.
    """
    own = (entry.model, entry.cid, entry.root, entry.metrics)
    if own != (found.model_hash.hex(), found.cid, found.updates_root.hex(), found.metrics_hash.hex()):
        raise CheckpointError(
            f"round {entry.number} on the chain is another one (model {found.model_hash.hex()[:16]}) than the folder's"
            f" (model {entry.model[:16]}): another coordinator has anchored it; start in an empty folder to go on from"
            " the chain"
        )


def waiting_text(numbers: Sequence[int], trouble: str, path: Path | None) -> str:
    """One line that says which rounds wait, why, and what to do; `path` is the run's folder."""
    if path is None:
        return f"{rounds_text(numbers)} not anchored ({trouble}): lost, for this run has no folder"
    advice = f"'medprov-coordinator anchor --dir {path}' anchors them, and so does going on with the run"
    return f"{rounds_text(numbers)} not anchored yet ({trouble}): kept in {path}; {advice}"


def rounds_text(numbers: Sequence[int]) -> str:
    """Numbers of rounds for people."""
    return f"{'rounds' if len(numbers) > 1 else 'round'} {', '.join(map(str, numbers))}"


def _anchor(entry: PendingAnchor, services: Services, load: Callable[[str], bytes]) -> str | None:
    assert services.anchor is not None
    found = services.anchor.round(entry.number)
    if found is None:
        _publish(entry, services, load)
        try:
            return services.anchor.anchor(
                entry.number,
                bytes.fromhex(entry.model),
                entry.cid,
                bytes.fromhex(entry.root),
                bytes.fromhex(entry.metrics),
            )
        except RevertedError:
            # somebody was faster, or an answer was lost: only the chain can tell
            found = services.anchor.round(entry.number)
            if found is None:
                raise
    check_same(entry, found)
    return None


def _publish(entry: PendingAnchor, services: Services, load: Callable[[str], bytes]) -> None:
    assert services.store is not None
    try:
        data = load(entry.model)
    except CheckpointError:
        # an older round's weights, which the folder has left to the store
        data = services.store.get(entry.cid)
    stored = services.store.put(data)
    if stored != entry.cid or services.store.get(stored) != data:
        raise StoreError(f"{entry.cid}: the store does not give the weights of round {entry.number} back")
