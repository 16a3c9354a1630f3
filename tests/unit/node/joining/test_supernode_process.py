import sys

import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from medprov_coordinator.grid import task_identity
from medprov_node.joining import supernode_process


def test_flower_s_own_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(supernode_process, "end_with", lambda pid: seen.update(pid=pid))
    monkeypatch.setattr(supernode_process.http_retry, "MAX_RETRY_DELAY", 20)
    monkeypatch.setattr(supernode_process, "flower_supernode", lambda: seen.update(argv=list(sys.argv)))
    monkeypatch.setattr(supernode_process.flower, "pull_objects", None)
    monkeypatch.setattr(sys, "argv", ["x", "7", "--port", "1"])
    supernode_process.main()
    assert seen == {"pid": 7, "argv": ["flower-supernode", "--port", "1"]}
    assert supernode_process.http_retry.MAX_RETRY_DELAY == supernode_process.LONGEST_PAUSE
    assert supernode_process.flower.pull_objects is supernode_process.pull_objects


@pytest.mark.parametrize("patched", [True, False])
def test_a_run_that_ends_while_its_message_comes_leaves_nothing(monkeypatch: pytest.MonkeyPatch, patched: bool) -> None:
    """Through Flower's own code; without the change it leaves a task that nobody can do."""
    if patched:
        monkeypatch.setattr(supernode_process.flower, "pull_objects", supernode_process.pull_objects)
    store = InMemoryObjectStore()
    state = InMemoryNodeState(store)
    state.set_node_id(7)
    state.store_run(Run.create_empty(1))
    with task_identity():
        message = Message(RecordDict(), dst_node_id=7, message_type="train")
    message.metadata.__dict__.update(_run_id=1, _message_id=message.object_id)
    tree = get_object_tree(message)

    def ended(run: int, name: str) -> bytes:
        raise RunNotRunningException

    found = supernode_process.flower._pull_and_store_message(
        state, store, {}, lambda: (message, tree), None, None, ended, None, None
    )
    assert found is None
    left = [task for task in state.get_tasks() if task.status.sub_status != SubStatus.FAILED]
    assert (len(store), len(left)) == ((0, 0) if patched else (2, 1))
