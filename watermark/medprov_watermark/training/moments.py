"""Adam whose moments all hospitals of a federation share.

Where each hospital's optimiser begins anew in every round, Adam divides its step by the size of its own gradient:
hospitals whose pictures are learned already step as far as those with much to learn, and outvote them. Here everybody
steps with the same moments. A hospital sends the mean gradient of its steps; the coordinator moves weights and moments
by what it makes of all of them and sends the moments along with the weights (statistics of the server, Karimireddy et
al., NeurIPS 2021, section 4; the second moment is that of the aggregated gradient, as in Reddi et al., ICLR 2021,
algorithm 2). No hospital's own moments are ever sent, so what a member can do to them is what the gate and the
aggregation rule leave of its gradient.

Moments travel as float32 arrays: ``first.NAME``, ``second.NAME`` of the shape of tensor NAME, and ``steps.NAME``
without axes, the steps that NAME has made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medprov_watermark.training import exchange as ex

OPTIMISERS = ("own", "shared")
"""Whether a hospital's Adam begins anew in each round, or goes on from what all share."""

_FIRST, _SECOND, _STEPS = "first.", "second.", "steps."
CLIP = 1.0
"""Largest norm of a step's gradient in training, and so of a hospital's mean gradient."""
_LEAST = 0.1
"""Of a tensor's root mean second moment: no coordinate counts as quieter than this where gradients are compared."""


@dataclass(frozen=True)
class Adam:
    """How one step moves a tensor (AdamW; Loshchilov and Hutter, ICLR 2019, algorithm 2).

    Parameters
    ----------
    rate : float
        Learning rate of this step.
    betas : (float, float)
        How much of the first and of the second moment stays.
    decay : float
        Share of the weights, times `rate`, that is taken away.
    epsilon : float
    """

    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 1e-4
    epsilon: float = 1e-8


Step = Callable[[str], Adam | None]
"""How a step moves the tensor of a name; None where it takes no part yet."""


def begin(weights: ex.Arrays) -> dict[str, ex.Float32]:
    """Moments before the first step."""
    out: dict[str, ex.Float32] = {}
    for name, array in weights.items():
        out[_FIRST + name] = np.zeros(array.shape, np.float32)
        out[_SECOND + name] = np.zeros(array.shape, np.float32)
        out[_STEPS + name] = np.zeros((), np.float32)
    return out


def check(moments: ex.Arrays, weights: ex.Arrays) -> None:
    """Refuse what are no moments of these weights.

    Raises
    ------
    ExchangeError
        Other names or shapes, values that are not finite, a negative second moment, or no number of steps.
    """
    if ex.shapes_of(moments) != ex.shapes_of(begin(weights)):
        raise ex.ExchangeError("the moments belong to other weights")
    for name, array in moments.items():
        if not np.isfinite(array).all() or (not name.startswith(_FIRST) and (array < 0).any()):
            raise ex.ExchangeError(f"moments: {name} holds what no training leaves")
        if name.startswith(_STEPS) and not float(array).is_integer():
            raise ex.ExchangeError(f"moments: {name} is {float(array):g}: whole steps are needed")


def moved(
    weights: ex.Arrays,
    moments: ex.Arrays,
    descent: Mapping[str, NDArray[np.float64]],
    steps: Sequence[Step],
) -> tuple[dict[str, NDArray[np.float64]], dict[str, ex.Float32]]:
    """Make the steps of a round with one gradient.

    Parameters
    ----------
    weights, moments : mapping of str to float32 array
        Before the round.
    descent : mapping of str to float64 array
        Mean of the negative gradient.
    steps : sequence of Step

    Returns
    -------
    deltas : dict of str to float64 array
        What the weights move by.
    moments : dict of str to float32 array
        After the round.
    """
    deltas: dict[str, NDArray[np.float64]] = {}
    after = dict(moments)
    for name, direction in descent.items():
        first, second = (np.asarray(moments[kind + name], np.float64) for kind in (_FIRST, _SECOND))
        weight = start = np.asarray(weights[name], np.float64)
        count = int(moments[_STEPS + name])
        for step in steps:
            adam = step(name)
            if adam is None:
                continue
            count += 1
            low, high = adam.betas
            first = low * first - (1 - low) * direction
            second = high * second + (1 - high) * np.square(direction)
            size = np.sqrt(second / (1 - high**count)) + adam.epsilon
            weight = weight * (1 - adam.rate * adam.decay) - adam.rate / (1 - low**count) * first / size
        deltas[name] = np.asarray(weight - start)
        with np.errstate(over="ignore"):
            after[_FIRST + name], after[_SECOND + name] = (np.asarray(x, np.float32) for x in (first, second))
        after[_STEPS + name] = np.asarray(count, np.float32)
    return deltas, after


def sizes(moments: ex.Arrays, names: Iterable[str], step: Step) -> dict[str, NDArray[np.float64]]:
    """How large the gradient has usually been in each coordinate; 1 where a tensor has made no step.

    In units of it, tensors with large gradients do not drown the others where updates are compared.
    """
    out: dict[str, NDArray[np.float64]] = {}
    for name in names:
        second, count = np.asarray(moments[_SECOND + name], np.float64), int(moments[_STEPS + name])
        typical = math.sqrt(float(second.mean()))
        adam = step(name)
        if adam is None or count == 0 or typical == 0:
            out[name] = np.ones(second.shape)
        else:
            out[name] = np.maximum(np.sqrt(second), _LEAST * typical) / math.sqrt(1 - adam.betas[1] ** count)
    return out


class Descent:
    """A hospital's steps with shared moments: its optimisers go on from them, and its gradients are added up.

    Parameters
    ----------
    networks : mapping of str to Module
        What is exchanged, by prefix.
    optimisers : sequence of Optimizer
        Adam of these networks.
    moments : mapping of str to float32 array
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimisers: Sequence[torch.optim.Optimizer],
        moments: ex.Arrays,
    ) -> None:
        self._parameters = {
            f"{prefix}.{name}" if prefix else name: parameter
            for prefix, network in networks.items()
            for name, parameter in network.named_parameters()
        }
        self._sums = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        self._steps = dict.fromkeys(self._parameters, 0)
        names = {parameter: name for name, parameter in self._parameters.items()}
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    if parameter in names:
                        _put(optimiser, parameter, names[parameter], moments)

    def add(self) -> None:
        """Add the gradients of the step that was just made, none longer than `CLIP` together."""
        nn.utils.clip_grad_norm_(self._parameters.values(), CLIP)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad
                self._steps[name] += 1

    def mean(self) -> dict[str, ex.Float32]:
        """Mean negative gradient by tensor name, over the steps in which a tensor had one."""
        return {
            name: np.array((-total / max(1, self._steps[name])).cpu().numpy(), np.float32, order="C")
            for name, total in sorted(self._sums.items())
        }


def _put(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, name: str, moments: ex.Arrays) -> None:
    if not moments[_STEPS + name]:
        return
    optimiser.state[parameter] = {
        "step": torch.tensor(float(moments[_STEPS + name])),
        **{
            key: torch.from_numpy(np.array(moments[kind + name])).to(parameter.device)
            for key, kind in (("exp_avg", _FIRST), ("exp_avg_sq", _SECOND))
        },
    }
