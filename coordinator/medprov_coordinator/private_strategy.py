"""Strategy of a run with differential privacy: what each member has spent is known before anything is released.

Flower's wrappers clip weights and average by FedAvg; here updates are differences, the gate comes first and the noise
must not come from NumPy's global generator. Flower's functions for the bound and for the size of the noise are used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.supercore.differential_privacy import clip_inputs_inplace, compute_stdv
from numpy.typing import NDArray

from medprov_coordinator.accountant import Accountant
from medprov_coordinator.aggregation import Aggregate
from medprov_coordinator.checkpoint import CheckpointFolder
from medprov_coordinator.errors import CheckpointError, QuorumError, SettingsError
from medprov_coordinator.probe import Probe
from medprov_coordinator.round import Services
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Expectation, Rejection, Screened, Update, screen
from medprov_coordinator.secure_strategy import SecureStrategy
from medprov_coordinator.strategy import GatedStrategy
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.privacy import CENTRAL, LOCAL, PRIVACY, SECURE, Entropy, add_noise, withheld

FILE = "privacy.json"
"""In a run's folder: what its members have spent."""


def clipped(deltas: ex.Arrays, clip: float) -> dict[str, NDArray[np.float64]]:
    """An update with an L2 norm of at most `clip`; a shorter one stays as it is."""
    out = {name: np.array(deltas[name], np.float64) for name in sorted(deltas)}
    if any(array.any() for array in out.values()):
        # Flower divides by the norm.
        clip_inputs_inplace(list(out.values()), clip)
    return out


class PrivateStrategy(GatedStrategy):
    """Central or local differential privacy.

    Parameters
    ----------
    config, services, folder, probe
        See `GatedStrategy`.
    entropy : callable
        Where the noise on the sum is drawn from; another source than the system's only in tests.

    Notes
    -----
    Central: two federations that differ in all pictures of one member are told apart from all released models with a
    likelihood ratio of at most ``exp(epsilon)``, but for a chance of delta. The sum of the clipped updates moves by at
    most `clip` where one of them is replaced by nothing, and the number of members is public. What decides about a
    reply looks at that reply alone, the curriculum stands still, and hospitals send no figures: each of them would
    carry something of the pictures past the noise.

    Local: the same of one member's update alone, against the coordinator and everybody else. A release counts when the
    member is asked, whether or not its reply comes.
    """

    def __init__(
        self,
        config: RunConfig,
        services: Services | None = None,
        folder: CheckpointFolder | None = None,
        probe: Probe | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        super().__init__(config, services, folder, probe)
        self.accountant = Accountant(config.privacy.delta)
        self._entropy = entropy

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As in `GatedStrategy`, without figures: the members withhold them."""
        arrays, _ = super().aggregate_train(server_round, replies)
        return arrays, None

    def _begin(self, initial: ArrayRecord) -> None:
        super()._begin(initial)
        self.accountant = Accountant(self.config.privacy.delta, self.folder.path / FILE if self.folder else None)
        if self.state.number and self.accountant.fresh:
            raise CheckpointError(
                f"round {self.state.number} is there and {FILE} is not: nothing is known of what it cost the members;"
                " restore the file, or start in an empty folder with its weights as initial-weights"
            )
        self.accountant.save()

    def _wait_for_quorum(self, grid: Grid) -> list[int]:
        nodes = super()._wait_for_quorum(grid)
        spent = [node for node in nodes if self._spent(self.accountant.member(node))]
        if spent:
            limit = self.config.privacy.max_epsilon
            self._event(
                "budget",
                f"nodes {', '.join(map(str, spent))} are left out: one more round would exceed max-epsilon {limit:g}",
                {"nodes": spent, "max_epsilon": limit},
            )
        left = [node for node in nodes if node not in spent]
        if len(left) < self.config.quorum:
            raise QuorumError(
                f"{len(left)} hospitals have privacy left to spend, the quorum is {self.config.quorum}: end the"
                " training here or raise max-epsilon"
            )
        if self.config.privacy.mode == LOCAL:
            self._spend(left)
        return left

    def _orders(self, node: int) -> dict[str, ConfigRecord]:
        return {PRIVACY: ConfigRecord(dict(self.config.privacy.order.to_config()))}

    def _screen(self, replies: Iterable[Message], expected: Expectation) -> Screened:
        central = self.config.privacy.mode == CENTRAL
        limits = self.config.limits
        if central:
            # A limit taken from all replies would let one member decide whether another one's update goes in.
            limits = replace(limits, norm_factor=math.inf, relative_norm=math.inf)
        screened = screen(replies, expected, limits)
        for update in screened.accepted:
            self.accountant.learn(update.node, update.signer)
        over = {u.node for u in screened.accepted if central and self._spent(self.accountant.member(u.node, u.signer))}
        gone = [Rejection(n, "budget", "one more round would exceed this member's max-epsilon") for n in sorted(over)]
        kept = (self._silenced(u) for u in screened.accepted if u.node not in over)
        return Screened(tuple(kept), tuple(sorted((*screened.rejected, *gone), key=lambda r: (r.node, r.code))))

    def _silenced(self, update: Update) -> Update:
        figures = {**withheld(self.task.metrics), ex.NUM_EXAMPLES: update.metrics[ex.NUM_EXAMPLES]}
        return replace(update, weight=1.0, metrics=figures)

    def _merge(self, updates: tuple[Update, ...]) -> Aggregate | str:
        settings = self.config.privacy
        if settings.mode == LOCAL:
            return super()._merge(updates)
        total = {name: np.zeros(shape) for name, shape in ex.shapes_of(self.weights).items()}
        for update in updates:
            for name, array in clipped(update.deltas, settings.clip).items():
                total[name] = total[name] + array
        # Counted before it is drawn: a crash between the two must not lose what was spent.
        self._spend([u.node for u in updates])
        mean = {name: array / len(updates) for name, array in total.items()}
        deviation = compute_stdv(settings.noise_multiplier, settings.clip, len(updates))
        note = f"mean of updates clipped to {settings.clip:g}, noise of deviation {deviation:.3g} added"
        return Aggregate(
            add_noise(mean, deviation, self._entropy), self.config.rule, tuple(sorted(u.node for u in updates)), note
        )

    def _advance(self, updates: tuple[Update, ...]) -> dict[str, float]:
        """Only the steps go on: how far the members' curricula got is a figure of their pictures."""
        progress = dict(self.state.progress)
        progress["step"] = progress.get("step", 0.0) + self.config.local_steps
        return progress

    def _privacy(self) -> dict[str, Any]:
        settings = self.config.privacy
        return {
            **settings.order.to_config(),
            "delta": settings.delta,
            "max_epsilon": settings.max_epsilon,
            "epsilon": self.accountant.figures(),
        }

    def _spent(self, member: str) -> bool:
        settings = self.config.privacy
        return 0 < settings.max_epsilon < self.accountant.epsilon(member, settings.noise_multiplier)

    def _spend(self, nodes: list[int]) -> None:
        self.accountant.spend([self.accountant.member(node) for node in nodes], self.config.privacy.noise_multiplier)
        figures = self.accountant.figures()
        self._event(
            "privacy",
            f"epsilon of the {len(figures)} members is at most {max(figures.values()):.3g}"
            f" at delta {self.config.privacy.delta:g}",
            {"epsilon": figures, "delta": self.config.privacy.delta},
        )


def make_strategy(config: RunConfig, services: Services | None, folder: CheckpointFolder | None) -> GatedStrategy:
    """The strategy that a run's privacy asks for.

    Raises
    ------
    SettingsError
        The folder's rounds have an epsilon that this run would make untrue.
    """
    if config.privacy.private:
        return PrivateStrategy(config, services, folder)
    if folder is not None and (folder.path / FILE).exists():
        raise SettingsError(
            f"{folder.path}: its rounds were made with differential privacy and privacy is '{config.privacy.mode}':"
            " keep the mode, or start in an empty folder"
        )
    return (SecureStrategy if config.privacy.mode == SECURE else GatedStrategy)(config, services, folder)
