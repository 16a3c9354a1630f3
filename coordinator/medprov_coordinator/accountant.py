"""Privacy that each member has spent: Gaussian releases composed exactly, kept on the disk before anything is released.

T releases with Gaussian noise of z times the sensitivity, chosen one after the other, are together exactly as private
as one release with ``mu = sqrt(T) / z`` (Dong, Roth, Su, Gaussian differential privacy, JRSS B 2022, corollary 3.3),
whose curve is known in closed form (Balle, Wang, ICML 2018, theorem 8). Nothing is claimed for being sampled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from medprov_coordinator.checkpoint import write_atomic
from medprov_coordinator.errors import CheckpointError
from medprov_ledger import nesting

_VERSION = 1
_DEEPEST = 8
_LARGEST = 1e15
"""More than a billion releases with the least noise cost; of more than 1e150 no epsilon can be computed."""


def delta_of(epsilon: float, mu: float) -> float:
    """Delta at which a Gaussian release of sensitivity over noise `mu` is `epsilon`-private."""
    if mu == 0:
        return 0.0
    first = _log_normal(mu / 2 - epsilon / mu)
    second = epsilon + _log_normal(-mu / 2 - epsilon / mu)
    # As a difference of logarithms: exp(epsilon) alone overflows where the tail beside it vanishes.
    return math.exp(first) * -math.expm1(min(0.0, second - first))


def epsilon_of(mu: float, delta: float) -> float:
    """Smallest epsilon, rounded up by less than 1e-9 of itself, at which `mu` keeps within `delta`.

    Parameters
    ----------
    mu : float
        Square root of the sum of ``1 / noise multiplier ** 2`` over all releases; infinite for one without noise.
    delta : float
        Between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}: choose a value between 0 and 1")
    if math.isinf(mu):
        return math.inf
    if delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


class Accountant:
    """What each member has spent.

    Parameters
    ----------
    delta : float
    path : Path or None
        File that it is kept in; None keeps it in memory.

    Notes
    -----
    A member is the address that it signs with, or its node's number where it does not sign. Which node is whose is
    learnt from signed replies and kept, so that a member can be left out before it is asked.
    """

    def __init__(self, delta: float, path: Path | None = None) -> None:
        self.delta = delta
        self.path = path
        self._spent: dict[str, float] = {}
        self._owners: dict[int, str] = {}
        self.fresh = True
        """Whether there was no file: nothing is known of what rounds before this run cost."""
        if path is not None and path.exists():
            self._spent, self._owners = _read(path)
            self.fresh = False

    def member(self, node: int, signer: str = "") -> str:
        """Whom a node belongs to."""
        return signer.lower() or self._owners.get(node, f"node {node}")

    def learn(self, node: int, signer: str) -> None:
        """Remember whose node it is; what was counted for the node before is the member's."""
        if not signer or self._owners.get(node) == signer.lower():
            return
        before = self._spent.pop(f"node {node}", 0.0)
        self._owners[node] = signer.lower()
        self._add(signer.lower(), before)

    def epsilon(self, member: str, more: float = 0.0) -> float:
        """Epsilon of a member so far, or after one more release with noise multiplier `more`."""
        spent = self._spent.get(member, 0.0) + (1 / more**2 if more else 0.0)
        return epsilon_of(math.sqrt(spent), self.delta)

    def spend(self, members: Iterable[str], noise_multiplier: float) -> None:
        """Count one release for each, twice for one that is named twice; on the disk when this returns.

        Raises
        ------
        CheckpointError
            The file cannot be written.
        """
        for member in members:
            self._add(member, 1 / noise_multiplier**2)
        self.save()

    def save(self) -> None:
        """Write the file."""
        self.fresh = False
        if self.path is None:
            return
        owners = {str(node): owner for node, owner in self._owners.items()}
        body = {"version": _VERSION, "spent": self._spent, "owners": owners}
        write_atomic(self.path, (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def figures(self) -> dict[str, float]:
        """Epsilon of every member that has spent any."""
        return {member: self.epsilon(member) for member in sorted(self._spent)}

    def _add(self, member: str, amount: float) -> None:
        if amount:
            self._spent[member] = self._spent.get(member, 0.0) + amount


def _log_normal(x: float) -> float:
    """Logarithm of the standard normal distribution function, also far out in the lower tail."""
    if x > -30:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    # Mills ratio: the next term is below 1e-8 of this one here.
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / x**2 + 3 / x**4)


def _read(path: Path) -> tuple[dict[str, float], dict[int, str]]:
    try:
        data = path.read_bytes()
        nesting.check(data, _DEEPEST)
        body = json.loads(data.decode("utf-8"))
        if body["version"] != _VERSION:
            raise ValueError("another version")
        spent = {str(member): _amount(amount) for member, amount in _mapping(body["spent"]).items()}
        owners = {int(node): str(owner) for node, owner in _mapping(body["owners"]).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot tell what the members have spent: {error}; restore it from a backup"
        ) from error
    return spent, owners


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError("not a table")
    return value


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
        raise ValueError(f"{value} is no privacy spent")
    return float(value)
