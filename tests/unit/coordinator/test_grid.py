"""The in-process Grid against Flower's own ServerApp and ClientApp."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from medprov_coordinator.grid import FIRST_NODE, InProcessGrid, run_in_process, task_identity


def echo_app():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config.get("fail"):
            raise RuntimeError("broken hospital")
        record = ConfigRecord({"node": context.node_id, **context.node_config, **context.run_config})
        return Message(RecordDict({**message.content, "who": record}), reply_to=message)

    return app


def ask(grid, nodes=None, content=None):
    content = content if content is not None else RecordDict()
    return [grid.create_message(content, "train", node, "1") for node in nodes or grid.get_node_ids()]


@pytest.fixture
def grid(identity):
    return InProcessGrid(echo_app(), [{}, {"x": 1}, {}], {"rounds": 2})


def test_every_node_answers_and_knows_its_configuration(grid):
    replies = list(grid.send_and_receive(ask(grid)))
    assert [r.metadata.src_node_id for r in replies] == [FIRST_NODE, FIRST_NODE + 1, FIRST_NODE + 2]
    who = replies[1].content.config_records["who"]
    assert dict(who) == {"node": FIRST_NODE + 1, "partition-id": 1, "num-partitions": 3, "x": 1, "rounds": 2}
    assert all(r.metadata.reply_to_message_id for r in replies)


def test_buffers_are_not_shared(grid):
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(3, np.float32))})})
    reply = next(iter(grid.send_and_receive(ask(grid, [FIRST_NODE], content))))
    assert reply.content is not content
    reply.content.array_records["arrays"]["w"].data = b"changed"
    assert content.array_records["arrays"]["w"].data != b"changed"


def test_push_and_pull_apart(grid):
    names = list(grid.push_messages(ask(grid)))
    assert len(set(names)) == 3
    assert len(list(grid.pull_messages(names[:1]))) == 1
    assert len(list(grid.pull_messages(names))) == 1 and not grid.is_silent(names)
    assert len(list(grid.pull_messages(names))) == 1 and grid.is_silent(names)
    assert list(grid.pull_messages([*names, "unknown"])) == []


def test_failing_hospital_gives_an_error_reply(identity):
    grid = InProcessGrid(echo_app(), [{}, {"fail": True}])
    replies = list(grid.send_and_receive(ask(grid)))
    assert [r.has_error() for r in replies] == [False, True]


def test_unknown_node_gives_an_error_reply(grid):
    assert next(iter(grid.send_and_receive(ask(grid, [5])))).has_error()


def test_faults(identity):
    def raises(reply):
        raise ValueError("fault")

    def marks(reply):
        reply.content["marked"] = ConfigRecord({"yes": True})
        return reply

    grid = InProcessGrid(echo_app(), [{}] * 4, faults={0: lambda reply: None, 1: raises, 2: marks})
    replies = {r.metadata.src_node_id - FIRST_NODE: r for r in grid.send_and_receive(ask(grid))}
    assert set(replies) == {1, 2, 3}
    assert replies[1].has_error()
    assert "marked" in replies[2].content and "marked" not in replies[3].content


def test_replies_after_the_deadline_do_not_arrive(identity, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("medprov_coordinator.grid.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(reply):
        clock[0] += 10
        return reply

    grid = InProcessGrid(echo_app(), [{}, {}, {}], faults={1: slow})
    replies = list(grid.send_and_receive(ask(grid), timeout=5))
    assert [r.metadata.src_node_id for r in replies] == [FIRST_NODE]
    assert len(list(grid.send_and_receive(ask(grid, [FIRST_NODE]), timeout=5))) == 1


def test_server_app_runs_and_identity_is_given_back():
    seen = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.append(context.run_config["a"])
        seen.append(len(list(grid.send_and_receive(ask(grid)))))

    before = TaskIdentity._task_id
    run_in_process(server, echo_app(), [{}, {}], {"a": 7})
    assert seen == [7, 2]
    assert TaskIdentity._task_id == before


def test_identity_is_given_back_after_an_error():
    before = TaskIdentity._node_id
    with pytest.raises(RuntimeError), task_identity():
        raise RuntimeError
    assert TaskIdentity._node_id == before
