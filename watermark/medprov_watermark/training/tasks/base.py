"""What coordinator and hospitals ask of a task, and what tasks have in common."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.moments import Adam, Descent

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest plausible value of every figure."""

Figures = TypeVar("Figures")

SCORE = "score"
"""Figure of a probe that decides about a round; higher is better."""


class TaskError(WatermarkError):
    """A hospital cannot do what the round asks. One line that says why; it stays in the hospital's log."""


class TaskSettings(Protocol):
    """What the settings of every task have; frozen dataclasses."""

    @property
    def steps(self) -> int:
        """Length of the whole run in optimiser steps, which the learning rate follows."""

    @property
    def seed(self) -> int:
        """Of everything random but privacy."""


class Data(Protocol):
    """A hospital's pictures as a task reads them."""

    @property
    def examples(self) -> int:
        """Training pictures, at least 1."""

    @property
    def skipped(self) -> int:
        """Files that could not be used."""


@dataclass(frozen=True)
class Work:
    """What one hospital is to do in one round.

    Parameters
    ----------
    settings : TaskSettings
    steps : int
        Optimiser steps.
    progress : mapping of str to float
        Where the curriculum stands; a hospital keeps none between rounds.
    seed : int
        Of this hospital and this attempt.
    device : str
        As torch names it.
    moments : mapping of str to float32 array, or None
        Of the federation's optimiser, see :mod:`medprov_watermark.training.moments`. None: a hospital's own begins
        anew.
    """

    settings: Any
    steps: int
    progress: Mapping[str, float]
    seed: int
    device: str = "cpu"
    moments: ex.Arrays | None = None


@dataclass(frozen=True)
class Trained:
    """What a hospital answers with, and the figures that `Task.metrics` names.

    Parameters
    ----------
    deltas : dict of str to float32 array
        Trained minus received weights; with shared moments the mean negative gradient of the steps.
    metrics : dict of str to float
    """

    deltas: dict[str, ex.Float32]
    metrics: dict[str, float]


class ProbeSet(Protocol):
    """Public pictures that candidates are measured on."""

    def evaluate(self, arrays: ex.Arrays) -> dict[str, float]:
        """Figures of weights, `SCORE` and ``loss`` among them; the same weights give the same figures."""


class Task(Protocol):
    """One thing that a federation can train.

    Attributes
    ----------
    name : str
    metrics : mapping
        Figures of a training reply, beside the number of examples and of skipped files.
    figures : mapping
        Figures of an evaluation reply, beside the number of examples.
    tolerance : float
        How far a round's probe score may fall below the best one, where the run does not say.
    """

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> Ranges: ...

    @property
    def figures(self) -> Ranges: ...

    @property
    def tolerance(self) -> float: ...

    def settings(self, flat: Mapping[str, object]) -> Any:
        """Settings from flat values; absent ones keep their defaults, other names are left alone.

        Raises
        ------
        ExchangeError
            A value of another type or out of range.
        """

    def flat(self, settings: Any) -> dict[str, ex.Scalar]:
        """The flat values that `settings` reads."""

    def initial(self, settings: Any, start: ex.Arrays | None = None) -> dict[str, ex.Float32]:
        """Weights as the seed draws them; `start` replaces those that it names.

        Raises
        ------
        ExchangeError
            `start` belongs to a network of another size.
        """

    def begin(self, settings: Any) -> dict[str, float]:
        """Progress before the first step; ``step`` in it counts the steps of the run."""

    def advance(self, progress: Mapping[str, float], steps: int, reached: Mapping[str, float]) -> dict[str, float]:
        """Progress after a round.

        Parameters
        ----------
        progress : mapping
            Before it.
        steps : int
            Of each hospital.
        reached : mapping
            Median over the accepted updates of each of `metrics`.
        """

    def adam(self, settings: Any, step: int, tensor: str) -> Adam | None:
        """How a step of the run moves a tensor, as this task's own optimiser would; None where it does not."""

    def load(self, folder: Path, settings: Any, limit: int) -> Data:
        """Read a hospital's folder; unusable files are skipped, logged and counted.

        Raises
        ------
        TaskError
            No usable picture.
        """

    def train(self, work: Work, weights: ex.Arrays, data: Any) -> Trained:
        """Train a few steps from the federation's weights.

        Raises
        ------
        TaskError
            The training diverged.
        ExchangeError
            Weights of a network of another size.
        """

    def evaluate(self, work: Work, weights: ex.Arrays, data: Any) -> tuple[int, dict[str, float]]:
        """Number of held-back pictures that were measured on, and the figures that `figures` names."""

    def probe(self, settings: Any, count: int, db: float) -> ProbeSet:
        """Make the public probe set of `count` generated pictures; `db` is the PSNR of marks, where there are any."""


def work_seed(seed: int, attempt: int, label: str) -> int:
    """What sets the random numbers of one hospital and attempt apart from all others."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{attempt}|{label}".encode()).digest()[:7], "big")


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch and `random` inside and leave them outside as they were."""
    before = random.getstate()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)


def steps(
    work: Work,
    networks: Mapping[str, nn.Module],
    weights: ex.Arrays,
    optimisers: Sequence[torch.optim.Optimizer],
    step: Callable[[], Figures],
) -> tuple[list[Figures], dict[str, ex.Float32]]:
    """Make the steps of a round.

    Parameters
    ----------
    work : Work
    networks : mapping of str to Module
        What is exchanged, by prefix, with the received weights in it.
    weights : mapping of str to float32 array
        Received.
    optimisers : sequence of Optimizer
        Of these networks.
    step : callable
        Makes one step and gives its figures; leaves its gradients where they are.

    Returns
    -------
    figures : list
        Of each step.
    deltas : dict of str to float32 array
        See `Trained`.

    Raises
    ------
    TaskError
        The training diverged.
    """
    if work.moments is None:
        figures = [step() for _ in range(work.steps)]
        return figures, difference(state_of(networks), weights)
    descent = Descent(networks, optimisers, work.moments)
    figures = []
    for _ in range(work.steps):
        figures.append(step())
        descent.add()
    return figures, converged(descent.mean())


def difference(after: ex.Arrays, before: ex.Arrays) -> dict[str, ex.Float32]:
    """Trained minus received weights.

    Raises
    ------
    TaskError
        Not finite.
    """
    # asarray: NumPy turns the difference of arrays without axes into a scalar.
    return converged({name: np.asarray(after[name] - before[name]) for name in sorted(after)})


def converged(deltas: dict[str, ex.Float32]) -> dict[str, ex.Float32]:
    """What a hospital answers with, if it is finite.

    Raises
    ------
    TaskError
        It is not.
    """
    if not all(np.isfinite(d).all() for d in deltas.values()):
        raise TaskError("the training diverged: a lower learning rate is needed")
    return deltas


def replaced(drawn: ex.Arrays, start: ex.Arrays | None) -> dict[str, ex.Float32]:
    """`drawn` with the tensors of `start`, which must be whole networks of it.

    Raises
    ------
    ExchangeError
        A tensor that `drawn` does not have, of another shape, or part of a network only.
    """
    if start is None:
        return dict(drawn)
    shapes = ex.shapes_of(drawn)
    networks = {name.split(".")[0] for name in start}
    needed = {name for name in drawn if name.split(".")[0] in networks}
    if set(start) != needed or any(shapes[name] != start[name].shape for name in start):
        raise ex.ExchangeError(
            "the weights belong to a network of another size: use the settings that they were made with"
        )
    return {name: np.array(start.get(name, drawn[name])) for name in sorted(drawn)}


def state_of(networks: Mapping[str, nn.Module]) -> dict[str, ex.Float32]:
    """Weights of several networks, each under its prefix; an empty prefix leaves the names as they are."""
    out: dict[str, ex.Float32] = {}
    for prefix, network in networks.items():
        out |= {f"{prefix}.{name}" if prefix else name: array for name, array in ex.state_of(network).items()}
    return dict(sorted(out.items()))


def load_state(networks: Mapping[str, nn.Module], arrays: ex.Arrays) -> None:
    """Put into the networks what `state_of` took out of them.

    Raises
    ------
    ExchangeError
        Another network's weights.
    """
    prefixes = tuple(f"{prefix}." for prefix in networks if prefix)
    for prefix, network in networks.items():
        if prefix:
            own = {n.removeprefix(f"{prefix}."): a for n, a in arrays.items() if n.startswith(f"{prefix}.")}
        else:
            own = {n: a for n, a in arrays.items() if not n.startswith(prefixes)}
        ex.load_state(network, own)


def integer(flat: Mapping[str, object], key: str, default: int, low: int, high: int) -> int:
    """An integer from flat values."""
    value = flat.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ex.ExchangeError(f"{key} is {str(value)[:40]}: an integer from {low} to {high} is needed")
    return value


def number(flat: Mapping[str, object], key: str, default: float, low: float, high: float) -> float:
    """A number from flat values."""
    value = flat.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ex.ExchangeError(f"{key} is {str(value)[:40]}: a number from {low} to {high} is needed")
    return float(value)


def text(flat: Mapping[str, object], key: str, default: str, longest: int = 500) -> str:
    """A text from flat values."""
    value = flat.get(key, default)
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ex.ExchangeError(f"{key} is {str(value)[:40]!r}: a text of at most {longest} characters is needed")
    return value


def finite(losses: list[float]) -> float:
    """Mean of a round's losses.

    Raises
    ------
    TaskError
        Not finite.
    """
    if not all(math.isfinite(loss) for loss in losses):
        raise TaskError("the training diverged: a lower learning rate is needed")
    return math.fsum(losses) / len(losses)
