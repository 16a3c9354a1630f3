"""A run's folder: weights, records of rounds, and the state that a run resumes from.

``models/<hash>.safetensors`` and ``rounds/<number>.json`` are written first, then ``state.json``, each by a temporary
file, fsync and rename, so that a crash at any moment leaves the former state or the new one. One coordinator at a time
works in a folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from medprov_coordinator.errors import CheckpointError
from medprov_ledger import nesting
from medprov_watermark.training import exchange as ex

LOCK = "lock"
KEPT = 5
"""Newest rounds whose weights stay in the folder; those of older ones are left to the store."""
_PART = ".part"
_DEEPEST = 16
"""Nesting of lists and objects in a state or a record; records have four levels."""
_LARGEST = 2**53
"""Where a JSON number ends to be exact everywhere."""
_ADVICE = "restore the folder from a backup or start in an empty one"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file whole, and only when its bytes are on the disk.

    Raises
    ------
    CheckpointError
        The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=_PART)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}; free space or rights") from error


@dataclass(frozen=True)
class PendingAnchor:
    """A round that is on the disk and not yet on the chain: what the anchor takes.

    Parameters
    ----------
    number : int
    model, root, metrics : str
        Hexadecimal, 32 bytes each.
    cid : str
    """

    number: int
    model: str
    cid: str
    root: str
    metrics: str


@dataclass(frozen=True)
class State:
    """Where a run stands.

    Parameters
    ----------
    number : int
        Accepted rounds; 0 before the first.
    attempts : int
        Rounds tried, refused ones included.
    model : str
        Hash of the weights, hexadecimal.
    progress : dict of str to float
        Of the task, see `medprov_watermark.training.tasks`.
    best : float or None
        Best score on the probe so far.
    federation : str
        Id of the federation whose rounds these are, hexadecimal; empty without a chain.
    pending : tuple of PendingAnchor
        Accepted rounds that wait for their anchor, oldest first, without a gap; the last one is round `number`.
    moments : str
        Hash of the moments of the optimiser, hexadecimal; empty where the hospitals do not share one.
    """

    number: int
    attempts: int
    model: str
    progress: dict[str, float]
    best: float | None = None
    federation: str = ""
    pending: tuple[PendingAnchor, ...] = ()
    moments: str = ""


class CheckpointFolder:
    """Reads and writes a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / "state.json"

    def model_path(self, model: str) -> Path:
        """File of a set of weights."""
        return self.path / "models" / f"{model}.safetensors"

    def save_model(self, data: bytes, model: str) -> Path:
        """Write weights under their hash."""
        path = self.model_path(model)
        write_atomic(path, data)
        return path

    def load_model(self, model: str) -> dict[str, ex.Float32]:
        """Read weights and check their hash.

        Raises
        ------
        CheckpointError
            Absent, damaged, or not the weights of that hash.
        """
        return _load(self.model_path(model), model)

    def model_bytes(self, model: str) -> bytes:
        """Bytes of a set of weights, with their hash checked; errors as for `load_model`."""
        self.load_model(model)
        return self.model_path(model).read_bytes()

    def moments_path(self, moments: str) -> Path:
        """File of the optimiser's moments."""
        return self.path / "moments" / f"{moments}.safetensors"

    def save_moments(self, data: bytes, moments: str) -> None:
        """Write moments under their hash."""
        write_atomic(self.moments_path(moments), data)

    def has_moments(self, moments: str) -> bool:
        """Whether these are here."""
        return bool(moments) and self.moments_path(moments).exists()

    def load_moments(self, moments: str) -> dict[str, ex.Float32]:
        """Read moments and check their hash; errors as for `load_model`."""
        return _load(self.moments_path(moments), moments)

    def drop_moments(self, keep: str) -> None:
        """Remove all moments but those that the state names: only the last ones are ever needed."""
        for path in self.moments_path(keep).parent.glob("*.safetensors"):
            if path != self.moments_path(keep):
                with contextlib.suppress(OSError):
                    path.unlink()

    def prune(self, keep: Collection[str], newest: int) -> None:
        """Remove the weights of rounds that are `KEPT` or more behind the newest, except some.

        Parameters
        ----------
        keep : collection of str
            Hashes of weights that stay.
        newest : int
            Number of the newest round.
        """
        for number in range(newest - KEPT, 0, -1):
            if not self.record_path(number).exists():
                # of a round that another coordinator made
                return
            model = self.read_record(number)[0]
            path = self.model_path(model)
            if model not in keep:
                if not path.exists():
                    # older ones went before it
                    return
                with contextlib.suppress(OSError):
                    path.unlink()

    def record_path(self, number: int) -> Path:
        """File of a round's record."""
        return self.path / "rounds" / f"{number:06d}.json"

    def save_record(self, number: int, text: str) -> None:
        """Write the record of a round."""
        write_atomic(self.record_path(number), text.encode())

    def save_refusal(self, number: int, attempt: int, text: str) -> None:
        """Write the record of an attempt that was refused."""
        write_atomic(self.path / "refused" / f"{number:06d}-{attempt:06d}.json", text.encode())

    def read_record(self, number: int) -> tuple[str, str, str, str]:
        """What a round's anchor takes, from its record: model, CID, root, hash of the record (hexadecimal).

        Raises
        ------
        CheckpointError
            Absent or damaged.
        """
        path = self.record_path(number)
        try:
            data = path.read_bytes()
            body = _json(data)
            model, cid, root = body["model"], body["cid"], body["root"]
            if body["round"] != number or not isinstance(cid, str) or _sizes(model, root) != {32}:
                raise ValueError("not the record of this round")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; {_ADVICE}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged: {error}; {_ADVICE}") from error
        return model, cid, root, hashlib.sha256(data).hexdigest()

    def save_state(self, state: State) -> None:
        """Write the state."""
        body = {"version": 2, **asdict(state)}
        write_atomic(self._state, (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def load_state(self) -> State | None:
        """Read the state; None in a fresh folder.

        Raises
        ------
        CheckpointError
            The file is damaged or of another release.
        """
        try:
            data = self._state.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"{self._state}: cannot be read: {error}; {_ADVICE}") from error
        try:
            body = _json(data)
            if body.pop("version") != 2:
                raise ValueError("another version")
            pending = tuple(PendingAnchor(**entry) for entry in body["pending"])
            state = State(**{**body, "pending": pending})
            _check(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self._state}: damaged: {error}; {_ADVICE}") from error
        return state

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when the process ends, however it ends.

        What a process that was killed left half written is removed.

        Raises
        ------
        CheckpointError
            Another coordinator holds it, or it cannot be written.
        """
        path = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = path.open("a+")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be used: {error.strerror or error}; give rights") from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                pid = stream.read(20).strip()
                who = f"another coordinator (process {pid})" if pid.isdecimal() else "another coordinator"
                raise CheckpointError(f"{self.path}: {who} works in this folder: stop it or name another") from None
            try:
                # the number is for people: where the disk is full the lock holds all the same
                with contextlib.suppress(OSError):
                    stream.truncate(0)
                    stream.write(str(os.getpid()))
                    stream.flush()
                for folder in (self.path, *(self.path / name for name in ("models", "moments", "rounds", "refused"))):
                    for rest in folder.glob(f".*{_PART}"):
                        rest.unlink(missing_ok=True)
                yield
            finally:
                with contextlib.suppress(OSError):
                    stream.truncate(0)


def _json(data: bytes) -> Any:
    nesting.check(data, _DEEPEST)
    return json.loads(data.decode("utf-8"))


def _sizes(*texts: str) -> set[int]:
    return {len(bytes.fromhex(text)) for text in texts}


def _check(state: State) -> None:
    counts = (state.number, state.attempts)
    if not all(type(count) is int for count in counts) or not 0 <= state.number <= state.attempts < _LARGEST:
        raise ValueError("figures that no run leaves")
    if state.moments != "" and _sizes(state.moments) != {32}:
        raise ValueError("no hash of moments")
    if _sizes(state.model) != {32} or not isinstance(state.federation, str):
        raise ValueError("no hash of weights, or no id of a federation")
    if not all(map(_is_figure, state.progress.values())) or not (state.best is None or _is_figure(state.best)):
        raise ValueError("progress or best score that is no number")
    waiting = [entry.number for entry in state.pending]
    # not compared with a range: what a damaged file says may have no room in memory
    if waiting and (waiting[-1] != state.number or waiting[0] != state.number + 1 - len(waiting) or waiting[0] < 1):
        raise ValueError("waiting rounds that do not end with the last one")
    if any(after != before + 1 for before, after in pairwise(waiting)):
        raise ValueError("waiting rounds with a gap")
    for entry in state.pending:
        if _sizes(entry.model, entry.root, entry.metrics) != {32} or not isinstance(entry.cid, str):
            raise ValueError("a waiting round without its hashes")


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _load(path: Path, name: str) -> dict[str, ex.Float32]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; {_ADVICE}") from error
    return check_model(data, bytes.fromhex(name), str(path), path.parent.name)


def check_model(data: bytes, model: bytes, source: str, what: str = "weights") -> dict[str, ex.Float32]:
    """Weights from bytes whose hash is known.

    Raises
    ------
    CheckpointError
        Other bytes than the hash names.
    """
    try:
        arrays = ex.from_safetensors(data)
    except ex.ExchangeError as error:
        raise CheckpointError(f"{source}: {error}; {_ADVICE}") from error
    if ex.model_hash(arrays) != model:
        raise CheckpointError(f"{source}: the {what} are not those of hash {model.hex()}; {_ADVICE}")
    return arrays
