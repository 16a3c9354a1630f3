"""A run that is ended at any instant: every event, every file write, every word to chain and store; and a full disk.

What is written to the disk and to the chain before that instant stays, the process is gone. The run that is started
next must end as the undisturbed one does, with every round anchored once and its record's hash on the chain.
"""

import errno
import hashlib
import itertools
import os
import signal
import subprocess
import sys

import pytest

from medprov_coordinator.audit_log import FILE, verify
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.errors import AuditError, CheckpointError
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.strategy import GatedStrategy
from medprov_watermark.training import exchange as ex

ROUNDS = 2
CONFIG = RunConfig(rounds=ROUNDS, local_steps=1, deadline=60.0, anchor_wait=0.0)


class End(BaseException):
    """The process is gone."""


class Wire:
    """Counts what happens and ends the run at the n-th time."""

    def __init__(self, at: int, raises: BaseException) -> None:
        self.at, self.raises, self.count = at, raises, 0

    def trip(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise self.raises


def before(wire, function):
    def wrapped(*arguments):
        wire.trip()
        return function(*arguments)

    return wrapped


def after(wire, function):
    def wrapped(*arguments):
        found = function(*arguments)
        wire.trip()
        return found

    return wrapped


class World:
    """A chain, a store and a folder that outlive runs."""

    def __init__(self, kit, path) -> None:
        self.kit, self.path = kit, path
        self.anchor, self.store = kit.anchor(), kit.store()

    def run(self, wire=None, where=""):
        anchor, store, on_event = self.kit.anchor(), self.kit.store(), None
        anchor.rounds, anchor.arguments = self.anchor.rounds, self.anchor.arguments
        store.blocks = self.store.blocks
        patches = pytest.MonkeyPatch()
        place, _, when = where.partition(" ")
        around = before if when == "before" else after
        if place == "event":
            on_event = lambda event: wire.trip()  # noqa: E731
        elif place in ("replace", "fsync"):
            patches.setattr(os, place, around(wire, getattr(os, place)))
        elif place == "anchor":
            anchor.anchor = around(wire, anchor.anchor)
        elif place == "put":
            store.put = around(wire, store.put)
        services = Services(self.kit.federation, anchor, store, None, on_event)
        # the first candidate of round 2 makes the probe worse: a refused attempt is in the middle of it
        probe = self.kit.probe()
        probe.objection = lambda found, best: "worse" if run.state.attempts == 2 and probe.count else ""
        run = GatedStrategy(CONFIG, services, CheckpointFolder(self.path), probe)
        try:
            self.kit.hospitals().run(run)
        finally:
            patches.undo()
        return run

    def check(self, model):
        state = CheckpointFolder(self.path).load_state()
        assert state.model == model and state.number == ROUNDS and state.pending == ()
        assert [entry[0] for entry in self.anchor.arguments] == list(range(1, ROUNDS + 1))
        for number, found, name, _, metrics in self.anchor.arguments:
            data = CheckpointFolder(self.path).record_path(number).read_bytes()
            assert hashlib.sha256(data).digest() == metrics
            assert ex.model_hash(ex.from_safetensors(self.store.get(name))) == found
        assert found.hex() == model
        assert verify(self.path / FILE).good
        assert not list(self.path.rglob(".*.part"))


@pytest.fixture
def undisturbed(kit, tmp_path):
    world = World(kit, tmp_path / "undisturbed")
    run = world.run()
    world.check(run.state.model)
    assert run.state.attempts == ROUNDS + 1
    return run.state.model


PLACES = ["event", "replace before", "anchor before", "anchor after"]
SLOW = [
    pytest.param(where, marks=pytest.mark.slow)
    for where in ("fsync before", "fsync after", "replace after", "put before", "put after")
]


@pytest.mark.parametrize("where", [*PLACES, *SLOW])
def test_end_at_every_instant(kit, tmp_path, undisturbed, where):
    for at in itertools.count(1):
        world, wire = World(kit, tmp_path / f"{at}"), Wire(at, End())
        try:
            world.run(wire, where)
        except End:
            world.run()
            world.check(undisturbed)
        else:
            break
    assert wire.count == at - 1 >= (ROUNDS if where.startswith(("anchor", "put")) else 10)


@pytest.mark.parametrize("where", ["replace before", SLOW[0]])
def test_full_disk_at_every_write(kit, tmp_path, undisturbed, where):
    for at in itertools.count(1):
        world, wire = World(kit, tmp_path / f"{at}"), Wire(at, OSError(errno.ENOSPC, "No space left on device"))
        try:
            world.run(wire, where)
        except (CheckpointError, AuditError) as error:
            assert str(world.path) in str(error) and "No space left on device; free space" in str(error)
            former = CheckpointFolder(world.path).load_state()
            if former is not None:
                CheckpointFolder(world.path).load_model(former.model)
            world.run()
            world.check(undisturbed)
        else:
            break
    assert at > 10


@pytest.mark.slow
def test_two_crashes_in_a_row(kit, tmp_path, undisturbed):
    for first, second in itertools.product(range(3, 30, 9), repeat=2):
        world = World(kit, tmp_path / f"{first}-{second}")
        for at in (first, second):
            try:
                world.run(Wire(at, End()), "fsync before")
            except End:
                continue
        world.run()
        world.check(undisturbed)


WRITER = """
import resource, sys
from pathlib import Path
import numpy as np
from medprov_coordinator.checkpoint import CheckpointFolder, State
from medprov_coordinator.errors import CheckpointError
from medprov_watermark.training import exchange as ex
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = CheckpointFolder(Path(sys.argv[1]))
arrays = {"a": np.zeros(4096, np.float32)}
with folder.held():
    folder.save_state(State(0, 0, "11" * 32, {}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        folder.save_model(ex.to_safetensors(arrays), ex.model_hash(arrays).hex())
    except CheckpointError as error:
        print(error)
    print(folder.load_state().model == "11" * 32)
"""


@pytest.mark.slow
def test_file_size_limit_of_the_system_is_a_clear_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert "models" in said[0] and "File too large; free space" in said[0]
    assert said[1] == "True" and list((tmp_path / "models").iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from medprov_coordinator.checkpoint import CheckpointFolder
with CheckpointFolder(Path(sys.argv[1])).held():
    (Path(sys.argv[1]) / "models").mkdir()
    (Path(sys.argv[1]) / "models" / ".half.part").write_bytes(b"half")
    print("held", flush=True)
    time.sleep(600)
"""


def test_killed_process_lets_go_of_the_folder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "held\n"
            folder = CheckpointFolder(tmp_path)
            with (
                pytest.raises(CheckpointError, match=rf"{tmp_path}: another coordinator \(process {child.pid}\)"),
                folder.held(),
            ):
                pass
        finally:
            child.send_signal(signal.SIGKILL)
        child.wait(60)
    with folder.held():
        assert not list(tmp_path.rglob(".*.part"))
