"""A federation in Flower's simulation engine: the same apps as in a deployment, several hospitals at once.

For developers with many cores. Each worker is a process of its own (Ray); nothing listens but on this machine. A node's
configuration, and with it its keys and random numbers, is the one that the in-process run gives it, so both end with
the same model.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from medprov_coordinator.errors import CoordinatorError, SettingsError
from medprov_coordinator.grid import Scalar

STORE_BYTES = 256 * 1024 * 1024
"""Memory in which messages wait between the processes; what is more goes to the disk."""
OFFLINE = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


class EngineError(CoordinatorError):
    """The simulation engine has stopped."""


class ConfiguredApp(ClientApp):
    """A ClientApp whose nodes have a configuration each, which Flower's engine does not give them.

    Parameters
    ----------
    app : ClientApp
    node_configs : sequence of mapping
        By ``partition-id``.
    run_config : mapping
    """

    def __init__(
        self, app: ClientApp, node_configs: Sequence[Mapping[str, Scalar]], run_config: Mapping[str, Scalar]
    ) -> None:
        self._app = app
        self._configs = [dict(config) for config in node_configs]
        self._run_config = dict(run_config)

    def __call__(self, message: Message, context: Context) -> Message:
        """Let the node with the message's configuration answer."""
        partition = int(context.node_config["partition-id"])
        # Another object, because the engine refuses a changed configuration; what the node remembers is the same one.
        own = Context(
            run_id=context.run_id,
            node_id=context.node_id,
            node_config={**context.node_config, **self._configs[partition]},
            state=context.state,
            run_config=dict(self._run_config),
        )
        return self._app(message, own)


class StoppableGrid(Grid):
    """The engine's Grid, until the engine has gone: without it a strategy would wait for replies until its deadline."""

    def __init__(self, grid: Grid, stopped: threading.Event) -> None:
        self._grid = grid
        self._stopped = stopped

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower asks for."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes."""
        self._check()
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over."""
        self._check()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come."""
        self._check()
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send and wait."""
        self._check()
        return self._grid.send_and_receive(messages, timeout=timeout)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise EngineError("the simulation engine has stopped")


def check_installed() -> None:
    """Refuse where Ray is not there.

    Raises
    ------
    SettingsError
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "Flower's simulation engine is not installed: pip install 'medprov-coordinator[simulation]',"
            " or run without --workers"
        )


def run_simulated(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, Scalar]],
    run_config: Mapping[str, Scalar] | None = None,
    workers: int = 1,
) -> None:
    """Run a ServerApp to its end in Flower's simulation engine.

    Parameters
    ----------
    server_app : ServerApp
        Runs in a thread of this process.
    client_app : ClientApp
        Of an importable module.
    node_configs : sequence of mapping
        One per node, as for `grid.InProcessGrid`.
    run_config : mapping
    workers : int
        Nodes that work at once.

    Raises
    ------
    SettingsError
        The engine is not installed, or `workers` is out of range.
    EngineError
        The engine has stopped before the ServerApp has.
    Exception
        Whatever the ServerApp raised.
    """
    check_installed()
    if not 1 <= workers <= 1024:
        raise SettingsError(f"workers is {workers}: choose a value from 1 to 1024")
    stopped = threading.Event()
    ended: list[BaseException | None] = []
    flat = dict(run_config or {})
    outer = ServerApp()

    @outer.main()
    def main(grid: Grid, context: Context) -> None:
        context.run_config = dict(flat)
        try:
            server_app(StoppableGrid(grid, stopped), context)
        except BaseException as error:
            # The engine would print it and go on; whoever called gets it below.
            ended.append(error)
        else:
            ended.append(None)

    # Short, because the paths of the engine's sockets lie below it and may not exceed 107 characters.
    folder = tempfile.mkdtemp(prefix="mp-")
    with _offline(), _identity(), _quiet_end():
        from flwr.simulation import run_simulation

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run_simulation(
                    outer,
                    ConfiguredApp(client_app, node_configs, flat),
                    len(node_configs),
                    backend_config=_backend(workers, folder),
                )
        except (Exception, SystemExit) as error:
            if not ended:
                raise EngineError(f"the simulation engine has stopped: {error or type(error).__name__}") from error
        finally:
            stopped.set()
            shutil.rmtree(folder, ignore_errors=True)
    if not ended:
        raise EngineError("the simulation engine has stopped before the run has ended: start it again")
    if ended[0] is not None:
        raise ended[0]


def leave(status: int) -> NoReturn:
    """End this process after its engine was interrupted.

    Threads of such an engine may wait for ever for workers that are gone, and Python waits for threads when it ends.
    """
    if (engine := sys.modules.get("ray")) is not None:
        ending = threading.Thread(target=engine.shutdown, daemon=True)
        ending.start()
        ending.join(10)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _backend(workers: int, folder: str) -> dict[str, Any]:
    return {
        "init_args": {
            "num_cpus": workers,
            "object_store_memory": STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
            "logging_level": "ERROR",
            "log_to_driver": False,
        },
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """No calls to the internet; the environment is left as it was, which the engine changes for its workers."""
    names = {**OFFLINE, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """The process's signal handlers are left as they were, and after Ctrl-C no tracebacks of workers are logged.

    The engine puts a handler of its own for SIGTERM and leaves it; its threads log workers that have ended as they
    should.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = threading.Event()
    former, former_end = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def wanted(record: logging.LogRecord) -> bool:
        return not interrupted.is_set()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        if not callable(former):
            raise KeyboardInterrupt
        former(number, frame)

    logger = logging.getLogger("flwr")
    logger.addFilter(wanted)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        signal.signal(signal.SIGTERM, former_end)
        if not interrupted.is_set():
            logger.removeFilter(wanted)


@contextlib.contextmanager
def _identity() -> Iterator[None]:
    """Leave Flower's identity of this process as it was."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
