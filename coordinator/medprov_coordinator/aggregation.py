"""From accepted updates to one difference: weighted mean, median, trimmed mean, multi-Krum.

Everything is float64 and in the order of the nodes' ids, so that the order of arrival cannot change the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.screening import Update
from medprov_watermark.training import exchange as ex

Rule = Literal["mean", "median", "trimmed", "krum"]
RULES: tuple[str, ...] = get_args(Rule)

SMALLEST = 5
"""With fewer members no rule tolerates an attacker."""


@dataclass(frozen=True)
class Aggregate:
    """One difference for the global weights.

    Parameters
    ----------
    deltas : dict of str to float64 array
    rule : str
        The rule that was used, which is ``mean`` in small federations whatever was asked for.
    nodes : tuple of int
        Whose updates went in (multi-Krum leaves some out).
    note : str
        For the log.
    """

    deltas: dict[str, NDArray[np.float64]] = field(repr=False)
    rule: str
    nodes: tuple[int, ...]
    note: str


def check_rule(rule: str) -> None:
    """Refuse an unknown name with a `SettingsError`."""
    if rule not in RULES:
        raise SettingsError(f"aggregation rule '{rule}' is unknown: choose one of {', '.join(RULES)}")


def aggregate(
    updates: Sequence[Update], rule: str = "median", *, trim: float = 0.2, attackers: int | None = None
) -> Aggregate:
    """Aggregate the updates of one round.

    Parameters
    ----------
    updates : sequence of Update
        Of equal shapes, at least one.
    rule : str
        ``mean`` (weighted by examples), ``median`` (per coordinate), ``trimmed`` (mean per coordinate without the
        largest and smallest; Yin et al., ICML 2018), ``krum`` (multi-Krum; Blanchard et al., NeurIPS 2017, section 4).
    trim : float
        Share cut off at each end by ``trimmed``, below 0.5; never less than one update.
    attackers : int or None
        How many updates multi-Krum must withstand; None: as many as the number of updates allows, ``(n - 3) // 2``.

    Raises
    ------
    SettingsError
        Unknown rule, or figures that leave nothing to average.
    """
    check_rule(rule)
    if not updates:
        raise SettingsError("no update to aggregate: check the quorum")
    ordered = sorted(updates, key=lambda u: u.node)
    names = sorted(ordered[0].deltas)
    n = len(ordered)
    nodes = tuple(u.node for u in ordered)
    note = ""
    if n < SMALLEST:
        note = f"{n} updates: with fewer than {SMALLEST} no rule tolerates an attacker; gate and weighted mean"
        rule = "mean"
    if rule == "mean":
        weights = np.array([u.weight for u in ordered], np.float64)
        weights = weights / math.fsum(weights)
        deltas = {name: _weighted(ordered, name, weights) for name in names}
    elif rule == "median":
        deltas = {name: np.median(_stack(ordered, name), axis=0) for name in names}
    elif rule == "trimmed":
        cut = max(1, int(trim * n))
        if not 0 <= trim < 0.5 or 2 * cut >= n:
            raise SettingsError(f"trimming {trim:g} at each end leaves nothing of {n} updates: use a smaller share")
        deltas = {name: np.sort(_stack(ordered, name), axis=0)[cut : n - cut].mean(axis=0) for name in names}
        note = f"{cut} of {n} values cut off at each end"
    else:
        chosen, tolerated = _krum(ordered, names, attackers)
        nodes = tuple(u.node for u in chosen)
        deltas = {name: _stack(chosen, name).mean(axis=0) for name in names}
        note = f"multi-Krum for {tolerated} attackers kept {len(chosen)} of {n} updates"
    return Aggregate(deltas, rule, nodes, note)


def apply(base: ex.Arrays, deltas: dict[str, NDArray[np.float64]]) -> dict[str, ex.Float32]:
    """Add a difference to the weights: sum in float64, one rounding to float32."""
    with np.errstate(over="ignore"):
        # asarray: NumPy turns the sum of arrays without axes into a scalar.
        return {name: np.asarray(base[name].astype(np.float64) + deltas[name], np.float32) for name in sorted(base)}


def _stack(updates: Sequence[Update], name: str) -> NDArray[np.float64]:
    return np.stack([np.asarray(u.deltas[name], np.float64) for u in updates])


def _weighted(updates: Sequence[Update], name: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros(updates[0].deltas[name].shape, np.float64)
    for update, weight in zip(updates, weights, strict=True):
        total += weight * update.deltas[name].astype(np.float64)
    return total


def _krum(updates: Sequence[Update], names: Sequence[str], attackers: int | None) -> tuple[list[Update], int]:
    n = len(updates)
    f = (n - 3) // 2 if attackers is None else attackers
    if f < 0 or n < 2 * f + 3:
        raise SettingsError(f"multi-Krum withstands {f} attackers only with {2 * f + 3} updates, here are {n}")
    distance = np.zeros((n, n), np.float64)
    for name in names:
        values = _stack(updates, name).reshape(n, -1)
        for i in range(n):
            # Differences first: the expanded square cancels where the updates are alike.
            distance[i] += np.square(values - values[i]).sum(axis=1)
    scores = [math.fsum(np.sort(np.delete(distance[i], i))[: n - f - 2]) for i in range(n)]
    best = sorted(range(n), key=lambda i: (scores[i], updates[i].node))[: n - f]
    return [updates[i] for i in sorted(best)], f
