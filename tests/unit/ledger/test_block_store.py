"""medprov_ledger.block_store: blocks, pins, garbage collection; also beside killed processes and on full disks."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medprov_ledger import _files, block_store, cid
from medprov_ledger.block_store import BlockStore
from medprov_ledger.errors import ObjectError, RecordError, StoreError, UnreachableError

LARGE = bytes(range(256)) * (cid.CHUNK // 256) + b"tail"


def blocks(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/baf*") if not path.suffix)


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file of three levels of nodes, with small blocks and few links each."""
    monkeypatch.setattr(cid, "WIDTH", 4)
    monkeypatch.setattr(cid, "CHUNK", 1024)
    return b"".join(bytes([number]) * 1024 for number in range(17))


def unfinished(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_round_trip(tmp_path: Path, data: bytes) -> None:
    store = BlockStore(tmp_path / "blocks")
    name = store.put(data)
    assert name == cid.of(data) == store.put(data)
    assert store.has(name) and BlockStore(store.path).get(name) == data


def test_a_file_of_several_blocks(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    assert store.get(store.put(LARGE)) == LARGE
    assert len(blocks(tmp_path)) == store.count() == 3
    assert store.pins() == [cid.of(LARGE)]


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "none")
    name = cid.of(b"x")
    assert not store.has(name) and store.pins() == [] and store.count() == 0
    for call in (lambda: store.get(name), lambda: store.unpin(name), store.collect):
        with pytest.raises(UnreachableError, match="no such folder"):
            call()
    assert not store.path.exists()
    store.path.mkdir()
    with pytest.raises(StoreError, match="no such block") as caught:
        store.get(name)
    assert not isinstance(caught.value, UnreachableError | ObjectError)


def test_what_no_copy_can_mend_is_told_from_a_damaged_copy(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    with pytest.raises(ObjectError, match="larger than 1000 bytes"):
        store.get(name, 1000)
    (file,) = [file for file in blocks(tmp_path) if file.name == name]
    file.write_bytes(b"")
    with pytest.raises(StoreError, match="damaged") as caught:
        store.get(name)
    assert not isinstance(caught.value, ObjectError)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: b"", lambda data: bytes([data[0] ^ 1]) + data[1:]]
)
def test_a_damaged_block_is_named_and_mended(tmp_path: Path, spoil: object) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    for file in blocks(tmp_path):
        whole = file.read_bytes()
        file.write_bytes(spoil(whole))  # type: ignore[operator]
        with pytest.raises(StoreError, match=f"{file}: damaged, its bytes do not match its name"):
            store.get(name)
        assert store.put(LARGE) == name
        assert store.get(name) == LARGE


def test_a_missing_leaf_is_named(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    leaf = next(file for file in blocks(tmp_path) if file.name.startswith("bafk"))
    leaf.unlink()
    with pytest.raises(StoreError, match=leaf.name):
        store.get(name)


def test_a_crash_before_the_rename_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    store.put(b"another")
    synced: list[int] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            synced.append(descriptor)

    monkeypatch.setattr(os, "fsync", sync)

    def crash(source: object, target: object) -> None:
        assert synced, "renamed before the bytes were on the disk"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(StoreError, match="No space left"):
        store.put(b"data")
    assert len(blocks(tmp_path)) == 1 and unfinished(tmp_path) == []
    assert not store.has(cid.of(b"data")) and store.pins() == [cid.of(b"another")]
    monkeypatch.setattr(os, "replace", real_replace)
    assert store.get(store.put(b"data")) == b"data"


def test_the_root_is_written_last_and_the_pin_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    store.put(b"another")
    real, left = os.replace, [2]

    def crash_on_the_third(source: str, target: str) -> None:
        if not left[0]:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", crash_on_the_third)
    with pytest.raises(StoreError):
        store.put(LARGE)
    assert len(blocks(tmp_path)) == 3 and not store.has(cid.of(LARGE)) and cid.of(LARGE) not in store.pins()


def test_every_folder_is_synced_before_the_root_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    store.put(b"another")
    done: list[tuple[str, str]] = []
    real_sync, real_replace = _files.sync_folder, _files.replace

    def sync(folder: Path) -> None:
        real_sync(folder)
        done.append(("sync", str(folder)))

    def replace(file: Path, data: bytes, mode: int = 0o644) -> None:
        real_replace(file, data, mode)
        done.append(("write", str(file)))

    monkeypatch.setattr(_files, "sync_folder", sync)
    monkeypatch.setattr(_files, "replace", replace)
    name = store.put(LARGE)
    root = str(next(file for file in blocks(tmp_path) if file.name == name))
    place = done.index(("write", root))
    leaves = {str(Path(file).parent) for what, file in done[:place] if what == "write"}
    assert len(leaves) == 2 and {("sync", folder) for folder in leaves} <= set(done[:place])
    assert done[-1] == ("sync", str(Path(root).parent))
    # a second put, too, ends with all on the disk: who wrote the first may have been killed before its sync
    done.clear()
    store.put(LARGE)
    assert {("sync", folder) for folder in leaves} <= set(done) and done[-1] == ("sync", str(Path(root).parent))


def test_a_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("")
    with pytest.raises(StoreError, match="cannot store"):
        BlockStore(tmp_path / "blocks").put(b"x")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/passwd", "Qm" + "a" * 44])
@pytest.mark.parametrize("call", ["get", "has", "unpin"])
def test_hostile_names_never_reach_a_path(tmp_path: Path, name: str, call: str) -> None:
    with pytest.raises(RecordError, match="CID"):
        getattr(BlockStore(tmp_path), call)(name)


def test_the_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        store.get(store.put(b"x" * 11), limit=10)
    monkeypatch.setattr(cid, "MAX_SIZE", 10)
    with pytest.raises(StoreError, match="larger than 10 bytes"):
        store.put(b"x" * 11)


def test_only_what_no_pin_reaches_is_collected(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    kept = [store.put(LARGE), store.put(b"small"), store.put(b"")]
    # its first block is the first of LARGE as well
    gone = store.put(LARGE[: cid.CHUNK] + b"another tail")
    assert store.collect().blocks == 0
    store.unpin(gone)
    assert store.has(gone)
    done = store.collect()
    assert (done.blocks, done.kept, done.pins, done.unfinished) == (2, 5, 3, 0) and done.size > len(b"another tail")
    assert not store.has(gone) and store.pins() == sorted(kept)
    assert [store.get(name) for name in kept] == [LARGE, b"small", b""]
    assert store.collect().blocks == 0
    assert store.get(store.put(LARGE[: cid.CHUNK] + b"another tail")).endswith(b"another tail")


def test_a_leaf_that_is_a_file_of_its_own_outlives_the_larger_file(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    whole, part = store.put(LARGE), store.put(b"tail")
    store.unpin(whole)
    assert store.collect().blocks == 2
    assert store.get(part) == b"tail"


def test_unpinning_twice_or_what_was_never_there(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(b"data")
    store.unpin(name)
    store.unpin(name)
    store.unpin(cid.of(b"never there"))
    assert store.pins() == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["put", "unpin", "collect"])), max_size=14))
def test_any_order_of_steps_keeps_exactly_what_is_pinned(tmp_path: Path, steps: list[tuple[int, str]]) -> None:
    folder = tmp_path / "any"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    store, pinned = BlockStore(folder), set[int]()
    files = [b"", b"a", LARGE, LARGE + b"a", LARGE[: cid.CHUNK], b"tail"]
    for number, step in steps:
        if step == "put":
            store.put(files[number])
            pinned.add(number)
        elif step == "unpin":
            store.unpin(cid.of(files[number]))
            pinned.discard(number)
        else:
            store.collect()
            needed = {block.cid for one in pinned for block in cid.blocks(files[one])}
            assert store.count() == len(needed)
        assert all(store.get(cid.of(files[one])) == files[one] for one in pinned)


def test_a_file_of_three_levels(tmp_path: Path, deep: bytes) -> None:
    store = BlockStore(tmp_path)
    name = store.put(deep)
    assert store.collect().blocks == 0 and store.get(name) == deep
    store.unpin(name)
    assert store.collect().kept == 0 and store.count() == 0


def test_nodes_go_before_their_blocks(tmp_path: Path, deep: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    store.unpin(store.put(deep))
    order: list[str] = []
    real = Path.unlink

    def note(path: Path, missing_ok: bool = False) -> None:
        order.append(path.name)
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    synced: list[int] = []
    real_sync = _files.sync_folder

    def sync(folder: Path) -> None:
        real_sync(folder)
        synced.append(len(order))

    monkeypatch.setattr(_files, "sync_folder", sync)
    assert store.collect().blocks == len(order) == 25
    # after the root, the two below it and the five below these: each level is gone before the next one goes
    assert set(synced) == {1, 3, 8}
    for block in cid.blocks(deep):
        for child in cid.children(block.cid, block.data) if block.cid.codec == cid.DAG_PB else ():
            assert order.index(str(block.cid)) < order.index(str(child))


@pytest.mark.parametrize("spoil", ["remove", "damage", "another"])
def test_nothing_is_collected_where_a_pinned_tree_is_not_known(tmp_path: Path, spoil: str) -> None:
    store = BlockStore(tmp_path)
    name = store.put(LARGE)
    store.unpin(store.put(b"garbage"))
    (root,) = [file for file in blocks(tmp_path) if file.name == name]
    if spoil == "remove":
        root.unlink()
    else:
        # a sound node of another file would lead the collector away from the blocks of this one
        root.write_bytes(b"damaged" if spoil == "damage" else list(cid.blocks(LARGE[::-1]))[-1].data)
    with pytest.raises(StoreError, match="nothing removed") as caught:
        store.collect()
    assert root.name in str(caught.value) and "\n" not in str(caught.value)
    assert store.has(cid.of(b"garbage"))
    store.put(LARGE)
    assert store.collect().blocks == 1


def test_what_is_not_the_stores_is_left_alone(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(b"data")
    folder = blocks(tmp_path)[0].parent
    elsewhere = tmp_path / ("aa" if folder.name != "aa" else "bb")
    elsewhere.mkdir()
    strangers = [
        elsewhere / f"{name}.pin",
        tmp_path / "README",
        folder / "notes.txt",
        elsewhere / name,
        tmp_path / "longer" / name,
    ]
    for file in strangers:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert store.count() == 1
    store.unpin(name)
    assert store.pins() == []
    assert store.collect().blocks == 1
    assert all(file.read_text() == "mine" for file in strangers)


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(b"data")
    (blocks(tmp_path)[0].parent / f".{name}.0123456789ab.tmp").write_bytes(b"ha")
    (tmp_path / ".pinned.0123456789ab.tmp").write_bytes(b"")
    assert store.collect().unfinished == 2
    assert unfinished(tmp_path) == [] and store.get(name) == b"data"


def test_a_folder_older_than_pins_loses_nothing(tmp_path: Path, deep: bytes) -> None:
    store = BlockStore(tmp_path)
    names = [store.put(data) for data in (LARGE, b"data", deep)]
    for file in tmp_path.rglob("*.pin"):
        file.unlink()
    for name in (".pinned", ".gate", ".use"):
        (tmp_path / name).unlink()
    names.append(store.put(b"new"))
    assert store.pins() == sorted(names)
    assert store.collect().blocks == 0


def test_unpinning_in_a_folder_older_than_pins(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    names = [store.put(b"one"), store.put(b"two")]
    for file in [*tmp_path.rglob("*.pin"), tmp_path / ".pinned"]:
        file.unlink()
    store.unpin(names[0])
    assert store.pins() == names[1:] and store.collect().blocks == 1


def test_who_waits_too_long_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_store, "LOCK_PATIENCE", 0.05)
    store = BlockStore(tmp_path)
    name = store.put(b"data")
    with store._lock(block_store.fcntl.LOCK_EX):
        for call in (lambda: store.put(b"x"), lambda: store.unpin(name), store.collect):
            with pytest.raises(StoreError, match="other processes have held"):
                call()
        # readers never wait
        assert store.get(name) == b"data" and store.has(name)
    with store._lock(block_store.fcntl.LOCK_SH):
        assert store.put(b"x") == cid.of(b"x")
        with pytest.raises(StoreError, match="other processes have held"):
            store.collect()


def test_a_collector_is_not_starved_by_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_store, "LOCK_PATIENCE", 5.0)
    store = BlockStore(tmp_path)
    store.put(b"data")
    over = threading.Event()
    entered = [threading.Event(), threading.Event()]

    def write(number: int) -> None:
        while not over.is_set():
            with store._lock(block_store.fcntl.LOCK_SH):
                entered[number].set()
                # stays until the other is in as well: there is no moment in which nobody writes
                entered[1 - number].wait(0.5)
                entered[1 - number].clear()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        assert store.collect().pins == 1
    finally:
        over.set()
        for writer in writers:
            writer.join()


WRITER = """
import os, sys
from pathlib import Path
from medprov_ledger.block_store import BlockStore
store, shared, number = BlockStore(Path(sys.argv[1])), os.urandom(262144), 0
while True:
    # every file shares its first block with all others, so a collector that looked away would take it from under them
    data = shared + os.urandom(1000) if number % 2 else os.urandom(50)
    name = store.put(data)
    if number % 3 == 0:
        print("unpin", name, flush=True)
        store.unpin(name)
    else:
        print("kept", name, flush=True)
    number += 1
"""


COLLECTOR = """
import sys, time
from pathlib import Path
from medprov_ledger.block_store import BlockStore
while True:
    BlockStore(Path(sys.argv[1])).collect()
    time.sleep(0.02)
"""


@pytest.mark.slow
def test_writers_that_are_killed_beside_a_collector_that_is_killed(tmp_path: Path) -> None:
    """What a put has confirmed is there afterwards, whoever was killed when."""
    folder, kept, chance = tmp_path / "blocks", set[str](), random.Random(4)
    BlockStore(folder).put(b"first")
    for turn in range(6):
        log = tmp_path / f"log{turn}"
        with log.open("wb") as stream:
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=stream)
            other = subprocess.Popen([sys.executable, "-c", COLLECTOR, str(folder)])
            deadline = time.monotonic() + 30
            while log.stat().st_size < 1000 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.random() / 4)
            for process in (writer, other) if turn % 2 else (other, writer):
                process.send_signal(signal.SIGKILL)
                process.wait()
        lines = [line.split() for line in log.read_text().splitlines() if line.count(" ") == 1]
        assert len(lines) > 5
        kept |= {name for what, name in lines if what == "kept" and len(name) == 59}
        store = BlockStore(folder)
        assert kept <= set(store.pins())
        for name in store.pins():
            store.get(name)
    store.collect()
    assert unfinished(folder) == []
    needed = {block.cid for name in store.pins() for block in cid.blocks(store.get(name))}
    assert store.count() == len(needed)


def test_a_collector_cut_at_any_step_leaves_the_pinned_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.unlink
    for step in range(8):
        store = BlockStore(tmp_path / str(step))
        kept, gone = store.put(LARGE), store.put(LARGE[::-1])
        store.unpin(gone)
        left = [step]

        def kill(path: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", kill)
        try:
            store.collect()
        except KeyboardInterrupt:
            # as long as the root is there, so is the rest
            if store.has(gone):
                assert store.get(gone) == LARGE[::-1]
        monkeypatch.setattr(Path, "unlink", real)
        assert store.get(kept) == LARGE
        store.collect()
        assert store.count() == 3


FULL = """
import resource, sys
from pathlib import Path
from medprov_ledger.block_store import BlockStore
from medprov_ledger.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    BlockStore(Path(sys.argv[1])).put(bytes(300_000))
except StoreError as error:
    print(error)
"""


def test_a_file_that_the_system_cuts_off(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    name = store.put(b"data")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}: cannot store a block (File too large); check space and rights\n"
    assert unfinished(tmp_path) == [] and store.pins() == [name] and len(blocks(tmp_path)) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, where the machine lets us mount it."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(mounted)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system of 512 KiB cannot be mounted here")
    try:
        store = BlockStore(mounted / "blocks")
        first = store.put(b"first")
        with pytest.raises(StoreError, match=r"cannot store a block \(No space left on device\); check space"):
            store.put(os.urandom(2 * cid.CHUNK))
        assert unfinished(mounted) == [] and store.pins() == [first] and store.get(first) == b"first"
        # the first block of the file that did not fit is garbage like any other
        assert store.collect().blocks == 1
        assert store.get(store.put(b"second")) == b"second"
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
