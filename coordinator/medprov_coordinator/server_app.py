"""Flower ServerApp of the consortium: reads the run config, connects chain and store, starts the strategy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.connect import connect
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.private_strategy import make_strategy
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.strategy import GatedStrategy, to_record
from medprov_watermark.training import exchange as ex


def initial_weights(config: RunConfig, path: Path | None = None) -> dict[str, ex.Float32]:
    """Weights that a federation starts from: a file, or the networks as the seed draws them.

    Raises
    ------
    SettingsError
        The file is no set of weights of these networks.
    """
    try:
        start = ex.from_safetensors(path.read_bytes()) if path is not None else None
        return config.learning.initial(config.training, start)
    except (OSError, ex.ExchangeError) as error:
        raise SettingsError(f"{path}: cannot be used as initial weights: {error}") from error


def make_server_app(
    services: Services | None = None, on_end: Callable[[GatedStrategy], None] | None = None
) -> ServerApp:
    """Make the ServerApp.

    Parameters
    ----------
    services : Services or None
        None connects what the run config names: ``medprov-config`` (path of medprov.toml) and ``anchor-as`` (hospital
        whose account anchors).
    on_end : callable or None
        Gets the strategy after the run, also where the run failed.

    Notes
    -----
    Run config, beside `RunConfig.from_flat`: ``folder`` (checkpoints) and ``initial-weights`` (a safetensors file).
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        flat = context.run_config
        config = RunConfig.from_flat(flat)
        connected = services
        if connected is None:
            connected = connect(str(flat.get("medprov-config", "")), str(flat.get("anchor-as", "")))
        folder = str(flat.get("folder", ""))
        start = str(flat.get("initial-weights", ""))
        strategy = make_strategy(config, connected, CheckpointFolder(Path(folder)) if folder else None)
        try:
            strategy.start(grid, to_record(initial_weights(config, Path(start) if start else None)))
        finally:
            if on_end:
                on_end(strategy)

    return server_app


app = make_server_app()
