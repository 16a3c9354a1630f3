"""Everything that decides a federated run besides the hospitals' pictures, and its flat form in Flower's run config."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medprov_coordinator.aggregation import check_rule
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.screening import Limits
from medprov_watermark.errors import WatermarkError
from medprov_watermark.training import encoding as encodings
from medprov_watermark.training import tasks
from medprov_watermark.training.moments import OPTIMISERS
from medprov_watermark.training.tasks.base import Task, TaskSettings
from medprov_watermark.training.tasks.watermark import DEFAULT

Scalar = bool | float | int | str


@dataclass(frozen=True)
class RunConfig:
    """Settings of a federated run.

    Parameters
    ----------
    task : str
        What is trained, see `medprov_watermark.training.tasks`.
    rounds : int
        Accepted rounds that the federation is to have when the run ends, resumed ones included.
    local_steps : int
        Optimiser steps of each hospital in a round.
    settings : TaskSettings
        Of that task. ``settings.steps`` is the length of the whole run for the learning rate; 0 means
        ``rounds * local_steps``.
    quorum : int
        Fewest accepted updates that make a round.
    deadline : float
        Seconds to wait for enough nodes, and for the replies of a round.
    grace : float
        Seconds to wait for the others once the quorum's replies are there; 0 waits for all until the deadline, so that
        a round does not depend on who was fast.
    anchor_wait : float
        Seconds to wait at the end for chain and store, where rounds are not anchored yet.
    max_refused : int
        Refused rounds in a row after which the run gives up.
    rule : str
        See `aggregation.aggregate`.
    trim : float
    attackers : int or None
    server_step : float
        See `aggregation.aggregate`, there ``step``.
    limits : Limits
    probe_pictures : int
    probe_tolerance : float or None
        See `probe.Probe`; None takes the task's own.
    probe_db : float
        PSNR that the probe's pictures are marked at, where the task marks.
    optimiser : str
        ``own``: each hospital's begins anew in every round. ``shared``: all go on from the same moments, see
        `medprov_watermark.training.moments`; for many unlike hospitals, with many short rounds.
    encoding : str
        How hospitals send their updates, see `medprov_watermark.training.encoding`.
    feedback : bool
        Whether a hospital adds what an encoding lost to its next update.
    evaluate : bool
        Whether the hospitals measure each accepted candidate on pictures they hold back. Their figures are recorded and
        decide nothing.
    privacy : PrivacySettings
        How the hospitals' updates are protected.
    """

    task: str = "watermark"
    rounds: int = 3
    local_steps: int = 50
    settings: TaskSettings = field(default_factory=lambda: DEFAULT)
    quorum: int = 2
    deadline: float = 3600.0
    grace: float = 0.0
    anchor_wait: float = 600.0
    max_refused: int = 3
    rule: str = "mixed"
    trim: float = 0.3
    attackers: int | None = None
    server_step: float = 1.5
    limits: Limits = field(default_factory=Limits)
    probe_pictures: int = 16
    probe_tolerance: float | None = None
    probe_db: float = 40.0
    evaluate: bool = True
    optimiser: str = "own"
    encoding: str = "float32"
    feedback: bool = True
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.optimiser not in OPTIMISERS:
            raise SettingsError(f"optimiser '{self.optimiser}' is unknown: choose one of {', '.join(OPTIMISERS)}")
        try:
            encodings.check(self.encoding)
            checked = self.learning.settings(self.learning.flat(self.settings))
        except WatermarkError as error:
            raise SettingsError(f"run config: {error}") from error
        except AttributeError as error:
            raise SettingsError(f"run config: the settings are not those of the task '{self.task}'") from error
        if checked != self.settings:
            raise SettingsError(f"run config: the settings are not those of the task '{self.task}'")
        for name, low, high in (
            ("rounds", 1, 10**6),
            ("local_steps", 1, 10**6),
            ("quorum", 1, 10**4),
            ("deadline", 0.0, 10**7),
            ("grace", 0.0, 10**7),
            ("anchor_wait", 0.0, 10**7),
            ("max_refused", 1, 10**6),
            ("trim", 0.0, 0.49),
            ("server_step", 1.0, 10.0),
            ("probe_pictures", 1, 10**4),
            ("tolerance", 0.0, 1.0),
            ("probe_db", 20.0, 80.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{_key(name)} is {value}: choose a value from {low} to {high}")
        self.privacy.check_beside(
            rule=self.rule,
            server_step=self.server_step,
            min_cosine=self.limits.min_cosine,
            encoding=self.encoding,
            evaluate=self.evaluate,
            quorum=self.quorum,
        )

    @property
    def learning(self) -> Task:
        """The task itself."""
        return tasks.find(self.task)

    @property
    def tolerance(self) -> float:
        """How far the probe's score may fall."""
        return self.learning.tolerance if self.probe_tolerance is None else self.probe_tolerance

    @property
    def training(self) -> Any:
        """The task's settings with the length of the run filled in."""
        if self.settings.steps:
            return self.settings
        settings: Any = self.settings
        return replace(settings, steps=self.rounds * self.local_steps)

    def to_flat(self) -> dict[str, Scalar]:
        """Flat form; `from_flat` gives the same configuration back."""
        flat: dict[str, Scalar] = {}
        for name in _OWN:
            flat[_key(name)] = getattr(self, name)
        flat |= self.learning.flat(self.settings)
        for name in _LIMITS:
            flat[_key(name)] = getattr(self.limits, name)
        for key, name in _PRIVACY.items():
            flat[key] = getattr(self.privacy, name)
        flat["probe-tolerance"] = -1.0 if self.probe_tolerance is None else self.probe_tolerance
        flat["attackers"] = -1 if self.attackers is None else self.attackers
        flat["min-cosine"] = -2.0 if self.limits.min_cosine is None else self.limits.min_cosine
        return flat

    @classmethod
    def from_flat(cls, flat: Mapping[str, object]) -> RunConfig:
        """Read Flower's run config; what is not there keeps its default, other keys are left to others.

        Raises
        ------
        SettingsError
            A value of another type or out of range.
        """
        base = cls()
        own = {name: _read(flat, _key(name), getattr(base, name)) for name in _OWN if _key(name) in flat}
        try:
            settings = tasks.find(str(own.get("task", base.task))).settings(flat)
        except WatermarkError as error:
            raise SettingsError(f"run config: {error}") from error
        limits = {name: _read(flat, _key(name), getattr(base.limits, name)) for name in _LIMITS}
        privacy = {name: _read(flat, key, getattr(base.privacy, name)) for key, name in _PRIVACY.items()}
        tolerance = _read(flat, "probe-tolerance", -1.0)
        attackers = _read(flat, "attackers", -1)
        cosine = _read(flat, "min-cosine", -2.0)
        return cls(
            **own,
            settings=settings,
            probe_tolerance=None if tolerance < 0 else tolerance,
            limits=Limits(**limits, min_cosine=None if cosine < -1 else cosine),
            attackers=None if attackers < 0 else attackers,
            privacy=PrivacySettings(**privacy),
        )


_OWN = (
    "task",
    "rounds",
    "local_steps",
    "quorum",
    "deadline",
    "grace",
    "anchor_wait",
    "max_refused",
    "rule",
    "trim",
    "server_step",
    "probe_pictures",
    "probe_db",
    "evaluate",
    "optimiser",
    "encoding",
    "feedback",
)
_LIMITS = ("max_examples", "examples_factor", "norm_factor", "relative_norm")
_PRIVACY = {
    "privacy": "mode",
    "clip-norm": "clip",
    "noise-multiplier": "noise_multiplier",
    "delta": "delta",
    "max-epsilon": "max_epsilon",
    "secagg-threshold": "threshold",
}


def every_default() -> dict[str, Scalar]:
    """Every key of every task with its default: Flower lets a run set only names that its bundle lists."""
    flat: dict[str, Scalar] = {}
    for name in reversed(tasks.names()):
        task = tasks.find(name)
        flat |= {key: value for key, value in task.flat(task.settings({})).items() if key not in flat}
    return flat | RunConfig().to_flat()


def read_settings(pairs: Sequence[str]) -> dict[str, Scalar]:
    """Settings of a command line, ``KEY=VALUE`` each.

    Raises
    ------
    SettingsError
        No such key, or a value of another type.
    """
    known = every_default()
    flat: dict[str, Scalar] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in known:
            raise SettingsError(f"run config: '{pair[:60]}' is no KEY=VALUE with one of {', '.join(sorted(known))}")
        kind = type(known[key])
        try:
            flat[key] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise SettingsError(f"run config: {key} is '{text[:60]}': {kind.__name__} is needed") from error
    return flat


def _key(name: str) -> str:
    return name.replace("_", "-")


def _read(flat: Mapping[str, object], key: str, default: Any) -> Any:
    value = flat.get(key, default)
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        # one that no float holds is refused as what it is
        with contextlib.suppress(OverflowError):
            value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise SettingsError(f"run config: {key} is {str(value)[:60]!r}: {kind.__name__} is needed")
    return value
