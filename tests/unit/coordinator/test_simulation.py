"""Around Flower's simulation engine: each node's configuration, errors, an engine that stops."""

import contextlib
import importlib.util
import logging
import signal
import sys
import threading

import flwr.simulation
import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from medprov_coordinator import simulation
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.grid import InProcessGrid, task_identity
from medprov_coordinator.simulation import ConfiguredApp, EngineError, StoppableGrid, run_simulated

NODES = [{"images": "/a", "hospital": "a"}, {"images": "/b", "hospital": "b"}]


def seeing(seen):
    app = ClientApp()

    @app.train()
    def train(message, context):
        seen.append((dict(context.node_config), dict(context.run_config)))
        context.state["memory"] = message.content.config_records["x"]
        return Message(RecordDict(), reply_to=message)

    return app


def test_each_node_has_its_configuration_and_keeps_its_memory():
    from flwr.app import ConfigRecord

    seen = []
    app = ConfiguredApp(seeing(seen), NODES, {"rounds": 2})
    with task_identity():
        for partition in (1, 0):
            context = Context(1, 7 + partition, {"partition-id": partition, "num-partitions": 2}, RecordDict(), {})
            content = RecordDict({"x": ConfigRecord({"n": partition})})
            app(Message(content, dst_node_id=7, message_type=MessageType.TRAIN), context)
            assert context.state["memory"]["n"] == partition
            # the engine refuses a context whose configuration has changed
            assert context.node_config == {"partition-id": partition, "num-partitions": 2}
            assert context.run_config == {}
    assert [(node["images"], run) for node, run in seen] == [("/b", {"rounds": 2}), ("/a", {"rounds": 2})]


def test_a_stopped_engine_ends_the_waiting():
    stopped = threading.Event()
    inner = InProcessGrid(seeing([]), NODES)
    grid = StoppableGrid(inner, stopped)
    assert list(grid.get_node_ids()) == [101, 102] and grid.run is inner.run
    stopped.set()
    for ask in (grid.get_node_ids, lambda: grid.pull_messages([]), lambda: grid.push_messages([])):
        with pytest.raises(EngineError, match="has stopped"):
            ask()


def test_engine_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"medprov-coordinator\[simulation\]"):
        run_simulated(ServerApp(), seeing([]), NODES, workers=2)


@pytest.mark.parametrize("workers", [0, -1, 5000])
def test_number_of_workers(workers, monkeypatch):
    monkeypatch.setattr(simulation, "check_installed", lambda: None)
    with pytest.raises(SettingsError, match="workers is"):
        run_simulated(ServerApp(), seeing([]), NODES, workers=workers)


def server(body):
    app = ServerApp()
    app.main()(body)
    return app


def engine(monkeypatch, behave):
    """Flower's engine, replaced by a function over server app and number of nodes."""
    monkeypatch.setattr(simulation, "check_installed", lambda: None)
    monkeypatch.setattr(flwr.simulation, "run_simulation", lambda s, c, n, backend_config: behave(s, n))


def serve(app, count):
    with task_identity():
        app(InProcessGrid(ClientApp(), [{}] * count), Context(1, 1, {}, RecordDict(), {}))


def test_the_server_gets_its_settings_and_its_errors_come_out(monkeypatch):
    engine(monkeypatch, serve)
    seen = []
    run_simulated(server(lambda grid, context: seen.append(context.run_config)), ClientApp(), NODES, {"rounds": 3})
    assert seen == [{"rounds": 3}]

    def fail(grid, context):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_simulated(server(fail), ClientApp(), NODES)


def test_an_engine_that_breaks_is_one_error(monkeypatch):
    def behave(app, count):
        raise RuntimeError("no memory")

    engine(monkeypatch, behave)
    with pytest.raises(EngineError, match="no memory"):
        run_simulated(server(lambda grid, context: None), ClientApp(), NODES)
    engine(monkeypatch, lambda app, count: None)
    with pytest.raises(EngineError, match="before the run has ended"):
        run_simulated(server(lambda grid, context: None), ClientApp(), NODES)


def test_the_engine_s_own_end_handler_does_not_stay(monkeypatch):
    def behave(app, count):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        serve(app, count)

    engine(monkeypatch, behave)
    before = signal.getsignal(signal.SIGTERM)
    run_simulated(server(lambda grid, context: None), ClientApp(), NODES)
    try:
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_after_an_interrupt_the_engine_s_errors_are_not_logged(monkeypatch, caplog):
    def behave(app, count):
        logging.getLogger("flwr").error("a worker is missing")
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        logging.getLogger("flwr").error("a worker has gone")
        raise KeyboardInterrupt

    engine(monkeypatch, behave)
    logger, before = logging.getLogger("flwr"), signal.getsignal(signal.SIGINT)
    filters = list(logger.filters)
    monkeypatch.setattr(logger, "propagate", True)
    with pytest.raises(KeyboardInterrupt):
        run_simulated(server(lambda grid, context: None), ClientApp(), NODES)
    assert "is missing" in caplog.text and "has gone" not in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    logger.filters[:] = filters
