import sys

import pytest

from medprov_node.joining import supernode_process


def test_flower_s_own_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(supernode_process, "end_with", lambda pid: seen.update(pid=pid))
    monkeypatch.setattr(supernode_process.http_retry, "MAX_RETRY_DELAY", 20)
    monkeypatch.setattr(supernode_process, "flower_supernode", lambda: seen.update(argv=list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["x", "7", "--port", "1"])
    supernode_process.main()
    assert seen == {"pid": 7, "argv": ["flower-supernode", "--port", "1"]}
    assert supernode_process.http_retry.MAX_RETRY_DELAY == supernode_process.LONGEST_PAUSE
