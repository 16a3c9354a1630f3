"""The run's audit log: one line per event, each with the hash of the line before it.

Whoever knows the hash of one line (a round's record names one, and the chain holds the record's hash) can tell that no
line up to it was changed, removed, inserted or moved, as in Schneier and Kelsey, "Secure Audit Logs to Support Computer
Forensics", ACM TISSEC 2(2), 1999, section 3, without their keys: who can write the file can add lines at its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from medprov_coordinator.errors import AuditError
from medprov_ledger import nesting

FILE = "audit.jsonl"
"""Name of the log in a run's folder."""
GENESIS = bytes(32)
"""What the first line names as the hash of the line before it."""
TORN = "torn"
"""Kind of the line that says that an unfinished line was cut off before it."""

_FIELDS = {"seq", "time", "kind", "body", "prev", "hash"}
_DEEPEST = 32
"""Nesting of lists and objects in a line; events have six levels."""
_ADVICE = "keep the file as evidence, restore it from a backup or go on in another folder"


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    Parameters
    ----------
    seq : int
        From 1.
    time : str
        UTC, ISO 8601 with microseconds, ends in ``Z``. The writer's clock: the order is that of `seq`.
    kind : str
    body : mapping
        JSON values.
    prev, hash : bytes
        32 bytes, SHA-256: of the line before, and of this one without its own ``hash`` field.
    """

    seq: int
    time: str
    kind: str
    body: Mapping[str, Any]
    prev: bytes
    hash: bytes

    @property
    def line(self) -> bytes:
        """The entry as it stands in the file, line end included."""
        return _canonical({**self._fields(), "hash": self.hash.hex()}) + b"\n"

    def _fields(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "time": self.time,
            "kind": self.kind,
            "body": dict(self.body),
            "prev": self.prev.hex(),
        }


@dataclass(frozen=True)
class Verified:
    """What the check of a log found.

    Parameters
    ----------
    entries : int
        Lines that are good, counted from the first.
    head : bytes
        32 bytes, hash of the last good line.
    torn : int
        Bytes after the last line end: a line whose writing a crash has cut short.
    line : int
        The first line that is not good; 0 where all are.
    why : str
        What is wrong with it; empty where nothing is.
    """

    entries: int
    head: bytes
    torn: int = 0
    line: int = 0
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether every finished line is as it was written."""
        return not self.line


class Scanner:
    """Checks a log line by line; holds nothing but the last line's number and hash."""

    def __init__(self) -> None:
        self.seq, self.head = 0, GENESIS

    def take(self, line: bytes) -> Entry:
        """Check the next line, given without its line end.

        Raises
        ------
        ValueError
            What is wrong with the line.
        """
        nesting.check(line, _DEEPEST)
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(value, dict) or set(value) != _FIELDS:
            raise ValueError(f"is not an object with the fields {', '.join(sorted(_FIELDS))}")
        texts = (value["time"], value["kind"], value["prev"], value["hash"])
        if not all(isinstance(text, str) for text in texts) or not isinstance(value["body"], dict):
            raise ValueError("has a field of another type than this format")
        try:
            same = _canonical(value) == line
        except (ValueError, RecursionError):
            same = False
        if not same:
            raise ValueError("is not in canonical form")
        seq = value["seq"]
        if type(seq) is not int or seq != self.seq + 1:
            raise ValueError(
                f"is numbered {str(seq)[:20]} where {self.seq + 1} must follow: lines are missing or moved"
            )
        if value["prev"] != self.head.hex():
            raise ValueError("does not name the hash of the line before it: one of them was changed")
        stated = value.pop("hash")
        digest = _digest(value)
        if stated != digest.hex():
            raise ValueError("is not what its hash was taken over: it was changed")
        self.seq, self.head = seq, digest
        return Entry(seq, value["time"], value["kind"], value["body"], bytes.fromhex(value["prev"]), digest)


class AuditLog:
    """Appends to a log; makes the file where there is none.

    An unfinished last line, which a crash leaves behind, is cut off, kept in a file beside the log, and the next line
    says so: number of bytes, SHA-256, file. Nothing that `append` has answered for can be in it.

    No handle stays open: every append opens, locks and checks that the file ends where this object left it.

    Parameters
    ----------
    path : Path

    Raises
    ------
    AuditError
        The file cannot be used, or one of its lines is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                self._resume(stream)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._unusable(error) from error

    @property
    def head(self) -> bytes:
        """Hash of the last line, 32 bytes; zeros in an empty log."""
        return self._head

    def append(self, kind: str, body: Mapping[str, Any]) -> bytes:
        """Add one line; it is on the disk when this returns.

        Parameters
        ----------
        kind : str
        body : mapping
            Strings, numbers, booleans, None, bytes (written in hexadecimal), lists and mappings of them. NaN and
            infinity, which JSON lacks, are written as text.

        Returns
        -------
        bytes
            The new head, 32 bytes.

        Raises
        ------
        AuditError
            Disk full, no rights, another process has written to the file, or a value that JSON cannot hold.
        """
        try:
            # what is written is what a reader gets back: the same hash from both
            text = _canonical({"kind": str(kind), "body": _plain(body)})
            nesting.check(text, _DEEPEST)
            plain = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise AuditError(f"{self.path}: {kind}: cannot be logged: {error}; log texts and numbers") from error
        try:
            with self.path.open("r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if stream.seek(0, os.SEEK_END) != self._size:
                    raise AuditError(
                        f"{self.path}: another process has written to it: two coordinators in one folder? stop one"
                    )
                self._write(stream, plain["kind"], plain["body"])
        except OSError as error:
            raise self._unusable(error) from error
        return self._head

    def entries(self) -> Iterator[Entry]:
        """The lines from the first, each checked.

        Raises
        ------
        AuditError
            At the first line that is not as it was written.
        """
        return read(self.path)

    def _resume(self, stream: IO[bytes]) -> None:
        stream.seek(0)
        scanner = Scanner()
        self._size = 0
        rest = b""
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                rest = line
                break
            try:
                scanner.take(line[:-1])
            except ValueError as error:
                raise AuditError(f"{self.path}: line {number} {error}; {_ADVICE}") from None
            self._size += len(line)
        self._seq, self._head = scanner.seq, scanner.head
        if rest:
            digest = hashlib.sha256(rest).hexdigest()
            kept = self.path.with_name(f"{self.path.name}.torn-{digest[:16]}")
            with kept.open("wb") as copy:
                copy.write(rest)
                copy.flush()
                os.fsync(copy.fileno())
            _sync_folder(kept.parent)
            stream.truncate(self._size)
            self._write(stream, TORN, {"bytes": len(rest), "sha256": digest, "kept": kept.name})

    def _write(self, stream: IO[bytes], kind: str, body: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        bare = Entry(self._seq + 1, time, kind, body, self._head, b"")
        entry = Entry(bare.seq, time, kind, body, bare.prev, _digest(bare._fields()))
        line = entry.line
        try:
            stream.seek(0, os.SEEK_END)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            # a part of the line may be there: the next append must find the file as the last one left it
            os.ftruncate(stream.fileno(), self._size)
            raise
        self._seq, self._head, self._size = entry.seq, entry.hash, self._size + len(line)

    def _unusable(self, error: OSError) -> AuditError:
        return AuditError(f"{self.path}: cannot be used: {error.strerror or error}; free space or give rights")


def read(path: Path) -> Iterator[Entry]:
    """The finished lines of a log that another process may be writing, each checked.

    Raises
    ------
    AuditError
        The file is not there or cannot be read, or at the first line that is not as it was written.
    """
    scanner = Scanner()
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield scanner.take(line[:-1])
                except ValueError as error:
                    raise AuditError(f"{path}: line {number} {error}; {_ADVICE}") from None
    except FileNotFoundError:
        raise AuditError(f"{path}: no audit log there; name the folder of a run") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from error


def verify(path: Path) -> Verified:
    """Check a log from its first line to its last.

    Lines missing at the end cannot be seen in the file alone: compare `Verified.head`, or the hashes of `read`, with
    the heads that the rounds' records name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Verified
        Names the first line that is not as it was written, and why.

    Raises
    ------
    AuditError
        The file is not there or cannot be read.
    """
    scanner = Scanner()
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return Verified(scanner.seq, scanner.head, torn=len(line))
                try:
                    scanner.take(line[:-1])
                except ValueError as error:
                    return Verified(scanner.seq, scanner.head, line=number, why=str(error))
    except FileNotFoundError:
        raise AuditError(f"{path}: no audit log there; name the folder of a run") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Verified(scanner.seq, scanner.head)


def _canonical(value: Mapping[str, Any]) -> bytes:
    # ASCII only: no character of a hostile text ends a line or steers a terminal that shows the file
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _digest(fields: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(_canonical(fields)).digest()


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case bytes():
            return value.hex()
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted(_plain(item) for item in value)
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            number = float(value)
            return number if math.isfinite(number) else str(number)
    raise TypeError(f"a {type(value).__name__}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
