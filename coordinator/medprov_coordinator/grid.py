"""A Flower Grid inside this process: the real ServerApp and the real ClientApps, no ports, no child processes.

For demonstrations, tests and a coordinator that tries a configuration. Clients run one after the other, because
training draws from torch's global random state and two at once would not be reproducible.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Scalar = bool | float | int | str
Fault = Callable[[Message], Message | None]
"""Gets a node's reply and gives what arrives instead; None is a node that dropped out. It may raise."""

FIRST_NODE = 101


class InProcessGrid(Grid):
    """Grid over nodes that are objects of this process.

    Parameters
    ----------
    client_app : ClientApp
    node_configs : sequence of mapping
        One per node; ``partition-id`` and ``num-partitions`` are added. Node ids count from `FIRST_NODE`.
    run_config : mapping
    faults : mapping of int to callable
        By position of the node.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, Scalar]],
        run_config: Mapping[str, Scalar] | None = None,
        faults: Mapping[int, Fault] | None = None,
    ) -> None:
        self._app = client_app
        self._faults = {FIRST_NODE + i: fault for i, fault in (faults or {}).items()}
        self._contexts = {
            FIRST_NODE + i: Context(
                run_id=1,
                node_id=FIRST_NODE + i,
                node_config={"partition-id": i, "num-partitions": len(node_configs), **config},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i, config in enumerate(node_configs)
        }
        self._run = Run.create_empty(1)
        self._numbers = count(1)
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower asks for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages over; a node works when its reply is pulled."""
        ids = []
        for message in messages:
            # A network never shares buffers with the sender.
            message = copy.deepcopy(message)
            name = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the first named node that has not worked yet work, and give its reply; a node may give none."""
        for name in message_ids:
            if name in self._waiting:
                reply = self._work(self._waiting.pop(name))
                return [] if reply is None else [reply]
        return []

    def is_silent(self, message_ids: Iterable[str]) -> bool:
        """Whether no reply to these messages will ever come."""
        return not any(name in self._waiting for name in message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, let the nodes work one after the other, and give the replies that came in time."""
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        for name in self.push_messages(messages):
            if end is not None and time.monotonic() > end:
                self._waiting.pop(name)
                continue
            came = self.pull_messages([name])
            if end is None or time.monotonic() <= end:
                replies += came
        return replies

    def _work(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        try:
            if node not in self._contexts:
                raise LookupError(f"no node {node}")
            reply: Message | None = self._app(message, self._contexts[node])
            if node in self._faults and reply is not None:
                reply = self._faults[node](reply)
        except Exception as error:  # as a SuperNode does: whatever an app raises becomes an error reply
            reply = Message(Error(code=0, reason=f"{type(error).__name__}: {error}"), reply_to=message)
        return copy.deepcopy(reply)


@contextmanager
def task_identity() -> Iterator[None]:
    """Give this process the identity that Flower's messages need, for as long as the context lasts."""
    # Message() refuses to be built without it; a SuperLink's child process would have one (Flower 1.41).
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = 1, 1, 1
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    node_configs: Sequence[Mapping[str, Scalar]],
    run_config: Mapping[str, Scalar] | None = None,
    faults: Mapping[int, Fault] | None = None,
) -> None:
    """Run a ServerApp to its end over ClientApps in this process."""
    grid = InProcessGrid(client_app, node_configs, run_config, faults)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(run_config or {}))
    with task_identity():
        server_app(grid, context)
