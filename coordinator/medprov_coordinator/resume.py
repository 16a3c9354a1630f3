"""Where a run starts: the folder's state, the chain's last round, or the initial weights, and what if they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from medprov_coordinator.anchoring import check_same, missing
from medprov_coordinator.checkpoint import CheckpointFolder, State, check_model
from medprov_coordinator.errors import CheckpointError
from medprov_coordinator.round import Anchored, RoundAnchor, Services
from medprov_watermark.training import exchange as ex


def find_start(
    initial: ex.Arrays, progress: Mapping[str, float], services: Services, folder: CheckpointFolder | None
) -> tuple[State, dict[str, ex.Float32]]:
    """State and weights to go on from.

    The later one of folder and chain wins: a round that another coordinator anchored is fetched from the store. Rounds
    that the folder holds and the chain does not are left waiting, for the caller to anchor.

    Parameters
    ----------
    initial : mapping of str to float32 array
        Used where neither folder nor chain knows a round.
    progress : mapping of str to float
        Of a fresh start.
    services : Services
        Chain and store.
    folder : CheckpointFolder or None
        The run's folder.

    Raises
    ------
    CheckpointError
        Damaged files, other bytes in the store than the chain names, a folder of another federation, or a round on the
        chain that differs from the folder's.
    """
    state = folder.load_state() if folder else None
    weights = {name: initial[name] for name in sorted(initial)}
    federation = services.federation.hex() if services.anchor else ""
    if state is not None and folder is not None:
        weights = folder.load_model(state.model)
    else:
        state = State(0, 0, ex.model_hash(weights).hex(), dict(progress), federation=federation)
    state = reconcile(state, services, folder)
    if services.anchor is None:
        return state, weights
    last = services.anchor.last()
    known = last.number if last else 0
    if last is not None and known > state.number:
        if services.store is None:
            raise CheckpointError(f"the chain is at round {known}: configure the store that holds its weights")
        weights = check_model(services.store.get(last.cid), last.model_hash, last.cid)
        state = replace(
            state,
            number=known,
            attempts=max(state.attempts, known),
            model=last.model_hash.hex(),
            best=state.best if state.number else None,
            # the other coordinator's are not known
            moments="",
        )
    return state, weights


def reconcile(state: State, services: Services, folder: CheckpointFolder | None) -> State:
    """Compare a state with the chain: what waits for its anchor afterwards is what the chain does not have.

    Raises
    ------
    CheckpointError
        The folder is of another federation, or a round on the chain differs from the folder's.
    """
    federation = services.federation.hex() if services.anchor else ""
    if state.number and state.federation != federation:
        place = f"{folder.path}: holds" if folder else "the state holds"
        raise CheckpointError(
            f"{place} rounds {_of(state.federation)}, and this run is {_of(federation)}: use the configuration that"
            " they were made with, or another folder"
        )
    state = replace(state, federation=federation)
    if services.anchor is None:
        return state
    last = services.anchor.last()
    return missing(_compare(state, last.number if last else 0, services.anchor, folder), last, folder)


def _compare(state: State, known: int, anchor: RoundAnchor, folder: CheckpointFolder | None) -> State:
    """Compare what folder and chain both have, and take what is on the chain off the list of the waiting."""
    waiting = list(state.pending)
    while waiting and waiting[0].number <= known:
        check_same(waiting[0], _round(anchor, waiting[0].number))
        waiting.pop(0)
    common = min(known, state.number)
    if folder is not None and common and (common == state.number or folder.record_path(common).exists()):
        model = state.model if common == state.number else folder.read_record(common)[0]
        if _round(anchor, common).model_hash.hex() != model:
            raise CheckpointError(
                f"round {common} on the chain has another model than {folder.path}: another coordinator has gone on"
                " from an earlier round; start in an empty folder to go on from the chain"
            )
    return replace(state, pending=tuple(waiting))


def _round(anchor: RoundAnchor, number: int) -> Anchored:
    found = anchor.round(number)
    if found is None:
        raise CheckpointError(f"round {number} has just gone from the chain: run the same command again")
    return found


def _of(federation: str) -> str:
    return f"of federation {federation[:16]}" if federation else "without a chain"
