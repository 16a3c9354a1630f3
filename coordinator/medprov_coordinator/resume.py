"""Where a run starts: the folder's state, the chain's last round, or the initial weights, and what if they disagree."""

from __future__ import annotations

from dataclasses import replace

from medprov_coordinator.checkpoint import CheckpointFolder, State, check_model
from medprov_coordinator.errors import CheckpointError
from medprov_coordinator.round import Services
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Settings


def find_start(
    initial: ex.Arrays, training: Settings, services: Services, folder: CheckpointFolder | None
) -> tuple[State, dict[str, ex.Float32]]:
    """State and weights to go on from.

    The later one of folder and chain wins: a round that another coordinator anchored is fetched from the store. A round
    that the folder holds and the chain does not is left pending, for the caller to anchor; it can only be the last one.

    Parameters
    ----------
    initial : mapping of str to float32 array
        Used where neither folder nor chain knows a round.
    training : Settings
        For the curriculum of a fresh start.
    services : Services
        Chain and store.
    folder : CheckpointFolder or None
        The run's folder.

    Raises
    ------
    CheckpointError
        Damaged files, other bytes in the store than the chain names, or a folder of another federation.
    """
    last = services.anchor.last() if services.anchor else None
    state = folder.load_state() if folder else None
    weights = {name: initial[name] for name in sorted(initial)}
    if state is not None and folder is not None:
        weights = folder.load_model(state.model)
    else:
        state = State(0, 0, ex.model_hash(weights).hex(), ex.Curriculum(db=training.start_db))
    if services.anchor is None:
        return state, weights
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
            cid=last.cid,
            best=state.best if state.number else None,
            anchored=True,
        )
    elif last is not None and known == state.number:
        if state.model != last.model_hash.hex():
            raise CheckpointError(f"round {known} on the chain has another model than the folder: use another one")
        # A crash between the transaction and the note of it.
        state = replace(state, anchored=True)
    elif known < state.number - (not state.anchored):
        raise CheckpointError(
            f"the folder is at round {state.number}, the chain at {known}: is this the federation's chain?"
        )
    return state, weights
