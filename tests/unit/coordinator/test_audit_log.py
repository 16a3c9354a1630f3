"""The audit log: every change of what was written is found, and a crash loses nothing that was answered for."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_coordinator.audit_log import GENESIS, TORN, AuditLog, read, verify
from medprov_coordinator.errors import AuditError

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
BODIES = st.lists(st.dictionaries(st.text(max_size=6), SCALARS, max_size=3), min_size=4, max_size=8)


def make(path: Path, bodies: list[dict[str, object]]) -> list[bytes]:
    log = AuditLog(path)
    return [log.append(f"kind-{number % 3}", body) for number, body in enumerate(bodies)]


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@settings(max_examples=25, deadline=None)
@given(bodies=BODIES)
def test_what_was_written_is_read_back(place: Path, bodies: list[dict[str, object]]) -> None:
    path = place / "read.jsonl"
    path.unlink(missing_ok=True)
    heads = make(path, bodies)
    entries = list(read(path))
    assert [entry.hash for entry in entries] == heads
    assert [entry.prev for entry in entries] == [GENESIS, *heads[:-1]]
    assert [entry.seq for entry in entries] == list(range(1, len(bodies) + 1))
    assert b"".join(entry.line for entry in entries) == path.read_bytes()
    found = verify(path)
    assert (found.good, found.entries, found.head, found.torn) == (True, len(bodies), heads[-1], 0)
    assert AuditLog(path).head == heads[-1]
    for entry, body in zip(entries, bodies, strict=True):
        assert set(entry.body) == set(body)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), bodies=BODIES)
def test_any_change_is_found_and_the_first_bad_line_named(
    place: Path, data: st.DataObject, bodies: list[dict[str, object]]
) -> None:
    path = place / "change.jsonl"
    path.unlink(missing_ok=True)
    make(path, bodies)
    lines = path.read_bytes().splitlines(keepends=True)
    last = len(lines) - 1
    how = data.draw(st.sampled_from(["byte", "remove", "insert", "swap", "value", "rehash"]))
    # a line missing at the end is seen only by who knows the head
    index = data.draw(st.integers(0, last - 1))
    if how == "byte":
        line = bytearray(lines[index])
        place_ = data.draw(st.integers(0, len(line) - 2))
        line[place_] ^= data.draw(st.integers(1, 255).filter(lambda bits: line[place_] ^ bits != 10))
        lines[index] = bytes(line)
    elif how == "remove":
        del lines[index]
    elif how == "insert":
        # a copy of the line that follows anyway makes the one after it the first bad one
        copied = data.draw(st.integers(0, last).filter(lambda number: number != index + 1))
        lines.insert(index + 1, lines[copied])
    elif how == "swap":
        other = data.draw(st.integers(index + 1, last))
        lines[index], lines[other] = lines[other], lines[index]
    else:
        entry = json.loads(lines[index])
        entry["body"]["more"] = 1
        if how == "rehash":
            del entry["hash"]
            entry["hash"] = hashlib.sha256(canonical(entry)).hexdigest()
        lines[index] = canonical(entry) + b"\n"
    path.write_bytes(b"".join(lines))
    found = verify(path)
    assert not found.good and found.why
    # a line that was made anew with its own hash is itself in order; the next one tells
    first = {"insert": index + 2, "rehash": index + 2}.get(how, index + 1)
    assert found.line == first
    assert found.entries == first - 1
    with pytest.raises(AuditError, match=f"line {first} "):
        AuditLog(path)
    with pytest.raises(AuditError, match=f"line {first} "):
        list(read(path))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), bodies=BODIES)
def test_an_unfinished_line_is_kept_aside_and_said(
    place: Path, data: st.DataObject, bodies: list[dict[str, object]]
) -> None:
    path = place / "torn.jsonl"
    for old in place.glob("torn.jsonl*"):
        old.unlink()
    heads = make(path, bodies)
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    cut = data.draw(st.integers(1, len(line) - 1))
    path.write_bytes(whole[:-cut])
    torn = line[:-cut]
    found = verify(path)
    assert (found.good, found.entries, found.head, found.torn) == (True, len(bodies) - 1, heads[-2], len(torn))
    assert len(list(read(path))) == len(bodies) - 1
    log = AuditLog(path)
    said = list(log.entries())[-1]
    assert (said.kind, said.prev, said.body["bytes"]) == (TORN, heads[-2], len(torn))
    assert (place / said.body["kept"]).read_bytes() == torn
    log.append("more", {})
    assert verify(path).good and verify(path).torn == 0


def test_a_writer_killed_at_any_time_loses_nothing_that_it_answered_for(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    code = (
        "import sys; from pathlib import Path; from medprov_coordinator.audit_log import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "while True: print(log.append('tick', {'text': 'x' * 3000}).hex(), flush=True)"
    )
    answered: list[str] = []
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        with child.stdout:
            answered += [child.stdout.readline().strip() for _ in range(20)]
            child.send_signal(signal.SIGKILL)
            rest = child.stdout.read().splitlines()
        child.wait(timeout=30)
        answered += [line for line in rest if len(line) == 64]
        AuditLog(path)
        assert verify(path).good
    kept = {entry.hash.hex() for entry in read(path)}
    assert len(answered) >= 40 and set(answered) <= kept


def test_two_writers_are_told_apart(tmp_path: Path) -> None:
    first, second = AuditLog(tmp_path / "a"), AuditLog(tmp_path / "a")
    first.append("one", {})
    with pytest.raises(AuditError, match="another process has written"):
        second.append("two", {})
    assert verify(tmp_path / "a").entries == 1


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "a")
    head = log.append("one", {})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(AuditError, match="No space left on device"):
            log.append("two", {})
    assert log.head == head
    log.append("three", {})
    assert [entry.kind for entry in log.entries()] == ["one", "three"]


DEEP: dict[str, object] = {}
for _ in range(40):
    DEEP = {"x": DEEP}


def test_a_line_that_would_end_the_process_is_no_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"seq":' + b"[" * 5000 + b"\n")
    assert verify(tmp_path / "a").why == "nested deeper than 32 levels"


@pytest.mark.parametrize("body", [{"x": object()}, {"x": {"y": complex(1, 2)}}, DEEP])
def test_a_value_that_json_cannot_hold(tmp_path: Path, body: dict[str, object]) -> None:
    log = AuditLog(tmp_path / "a")
    with pytest.raises(AuditError, match="cannot be logged"):
        log.append("one", body)
    assert verify(tmp_path / "a").entries == 0


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    for call in (verify, lambda path: list(read(path))):
        with pytest.raises(AuditError, match="no audit log there"):
            call(tmp_path / "none")
    with pytest.raises(AuditError, match="Is a directory"):
        AuditLog(tmp_path)


def test_hostile_texts_stay_one_line_of_plain_ascii(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a")
    log.append("x", {"text": "\x1b]0;title\x07\n\r\u2028\ud800<script>"})
    with contextlib.closing((tmp_path / "a").open("rb")) as stream:
        data = stream.read()
    assert data.count(b"\n") == 1 and all(32 <= byte < 127 for byte in data[:-1])
    assert next(log.entries()).body["text"].startswith("\x1b]0;")
