"""Run a whole federation on this machine: the real ServerApp, the real ClientApps, without a SuperLink."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flwr.clientapp import ClientApp

from medprov_coordinator.grid import Fault, Scalar, run_in_process
from medprov_coordinator.round import Event, RoundReport, Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.server_app import make_server_app
from medprov_coordinator.simulation import run_simulated
from medprov_coordinator.strategy import GatedStrategy
from medprov_watermark.training import exchange as ex


@dataclass(frozen=True)
class FederationResult:
    """What a run leaves behind.

    Parameters
    ----------
    number : int
        Accepted rounds of the federation.
    model_hash : bytes
        SHA-256 of the last accepted weights.
    weights : dict of str to float32 array
    rounds : tuple of RoundReport
        Rounds that this run added.
    resumed_from : int
        Round that it went on from; 0 for a fresh start.
    checkpoint : Path or None
        File of the weights.
    """

    number: int
    model_hash: bytes
    weights: Mapping[str, ex.Float32] = field(repr=False)
    rounds: tuple[RoundReport, ...]
    resumed_from: int
    checkpoint: Path | None


def run_federation(
    client_app: ClientApp,
    nodes: int | Sequence[Mapping[str, Scalar]],
    config: RunConfig,
    *,
    folder: Path | None = None,
    initial: Path | None = None,
    services: Services | None = None,
    on_event: Callable[[Event], None] | None = None,
    faults: Mapping[int, Fault] | None = None,
    workers: int = 0,
) -> FederationResult:
    """Run or resume a federation on this machine.

    Parameters
    ----------
    client_app : ClientApp
        The hospitals' app.
    nodes : int or sequence of mapping
        Number of nodes, or each node's configuration.
    config : RunConfig
        Rounds, training, gate, rule.
    folder : Path or None
        Checkpoints; a run in a folder that has some goes on from there. None keeps nothing.
    initial : Path or None
        Safetensors file to start from instead of the seed's networks.
    services : Services or None
        None: no chain, no store, no signatures.
    on_event : callable or None
        Gets every `Event`; what it raises ends the run.
    faults : mapping of int to callable
        See `grid.InProcessGrid`; without workers only.
    workers : int
        0: the hospitals work one after the other in this process. Otherwise this many at once, each in a process of its
        own (`simulation.run_simulated`). The model is the same.

    Raises
    ------
    CoordinatorError
        See `GatedStrategy.start`.
    """
    services = services or Services()
    if on_event is not None:
        services = replace(services, on_event=on_event)
    flat = config.to_flat()
    if folder is not None:
        flat["folder"] = str(folder)
    if initial is not None:
        flat["initial-weights"] = str(initial)
    ended: list[GatedStrategy] = []
    configs: Sequence[Mapping[str, Scalar]] = [{}] * nodes if isinstance(nodes, int) else nodes
    server_app = make_server_app(services, ended.append)
    if workers:
        run_simulated(server_app, client_app, configs, flat, workers)
    else:
        run_in_process(server_app, client_app, configs, flat, faults)
    strategy = ended[0]
    model = strategy.state.model
    return FederationResult(
        number=strategy.state.number,
        model_hash=bytes.fromhex(model),
        weights=strategy.weights,
        rounds=tuple(strategy.reports),
        resumed_from=strategy.resumed_from,
        checkpoint=strategy.folder.model_path(model) if strategy.folder else None,
    )
