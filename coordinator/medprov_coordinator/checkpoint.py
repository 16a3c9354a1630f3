"""A run's folder: weights, records of rounds, and the state that a run resumes from.

``models/<hash>.safetensors`` and ``rounds/<number>.json`` are written first, then ``state.json``, each by a temporary
file, fsync and rename, so that a crash at any moment leaves the former state or the new one.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from medprov_coordinator.errors import CheckpointError
from medprov_watermark.training import exchange as ex

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
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
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
    curriculum : Curriculum
    best : float or None
        Best bit accuracy on the probe so far.
    anchored : bool
        False between writing a round and its anchor: resuming anchors it first.
    cid, root, metrics : str
        What the anchor takes beside the number and the hash, hexadecimal but for the CID.
    transaction : str or None
    """

    number: int
    attempts: int
    model: str
    curriculum: ex.Curriculum
    best: float | None = None
    anchored: bool = True
    cid: str = ""
    root: str = ""
    metrics: str = ""
    transaction: str | None = None


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
        path = self.model_path(model)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}; {_ADVICE}") from error
        return check_model(data, bytes.fromhex(model), str(path))

    def save_record(self, number: int, text: str) -> None:
        """Write the record of a round."""
        write_atomic(self.path / "rounds" / f"{number:06d}.json", text.encode())

    def save_state(self, state: State) -> None:
        """Write the state."""
        body = {"version": 1, **asdict(state)}
        write_atomic(self._state, (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def load_state(self) -> State | None:
        """Read the state; None in a fresh folder.

        Raises
        ------
        CheckpointError
            The file is damaged or of another release.
        """
        try:
            text = self._state.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self._state}: cannot be read: {error}; {_ADVICE}") from error
        try:
            body = json.loads(text)
            if body.pop("version") != 1:
                raise ValueError("another version")
            state = State(**{**body, "curriculum": ex.Curriculum(**body["curriculum"])})
            if len(bytes.fromhex(state.model)) != 32 or state.number < 0 or state.attempts < state.number:
                raise ValueError("figures that no run leaves")
            if not state.anchored and not len(bytes.fromhex(state.root)) == len(bytes.fromhex(state.metrics)) == 32:
                raise ValueError("a pending anchor without its hashes")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self._state}: damaged: {error}; {_ADVICE}") from error
        return state


def check_model(data: bytes, model: bytes, source: str) -> dict[str, ex.Float32]:
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
        raise CheckpointError(f"{source}: the weights are not those of hash {model.hex()}; {_ADVICE}")
    return arrays
