"""medprov_ledger._anvil_keeper and ._process"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medprov_ledger import _anvil_keeper
from medprov_ledger._anvil_keeper import copy_of, is_whole, keep
from medprov_ledger._process import identity


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a":1}}', b"\xff", b'{"a":{"b":1}'])
def test_what_is_not_whole(content: bytes) -> None:
    assert not is_whole(content)


def test_every_beginning_of_a_state_is_not_whole() -> None:
    state = b'{"block":{"number":"0x1"},"accounts":{}}'
    assert is_whole(state)
    assert not any(is_whole(state[:end]) for end in range(len(state)))


def test_only_whole_states_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_anvil_keeper, "PAUSE", 0.005)
    state = tmp_path / "state.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = identity(process.pid)
        assert started is not None
        keeper = threading.Thread(target=keep, args=(state, process.pid, started))
        keeper.start()

        def wait_for(content: bytes) -> None:
            while not copy_of(state).exists() or copy_of(state).read_bytes() != content:
                assert keeper.is_alive()
                time.sleep(0.005)

        state.write_bytes(b'{"n":1}')
        wait_for(b'{"n":1}')
        state.write_bytes(b'{"n":')
        time.sleep(0.1)
        assert copy_of(state).read_bytes() == b'{"n":1}'
        state.write_bytes(b'{"n":2}')
        wait_for(b'{"n":2}')
        process.communicate(b"\n")
    keeper.join(30)
    assert not keeper.is_alive(), "it ends with the process it watches"


def test_identity() -> None:
    assert identity(os.getpid()) == identity(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert identity(other.pid) not in (None, identity(os.getpid()))
        other.communicate(b"\n")
    assert identity(other.pid) is None
