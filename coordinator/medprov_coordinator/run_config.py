"""Everything that decides a federated run besides the hospitals' pictures, and its flat form in Flower's run config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medprov_coordinator.aggregation import check_rule
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.screening import Limits
from medprov_watermark.training.loop import Settings

Scalar = bool | float | int | str


@dataclass(frozen=True)
class RunConfig:
    """Settings of a federated run.

    Parameters
    ----------
    rounds : int
        Accepted rounds that the federation is to have when the run ends, resumed ones included.
    local_steps : int
        Optimiser steps of each hospital in a round.
    settings : Settings
        Networks and training. ``settings.steps`` is the length of the whole run for the learning rate; 0 means
        ``rounds * local_steps``.
    quorum : int
        Fewest accepted updates that make a round.
    deadline : float
        Seconds to wait for enough nodes, and for the replies of a round.
    max_refused : int
        Refused rounds in a row after which the run gives up.
    rule : str
        See `aggregation.aggregate`.
    trim : float
    attackers : int or None
    limits : Limits
    probe_pictures : int
    probe_tolerance : float
    probe_db : float
        See `probe.Probe`.
    evaluate : bool
        Whether the hospitals measure each accepted candidate on pictures they hold back. Their figures are recorded and
        decide nothing.
    """

    rounds: int = 3
    local_steps: int = 50
    settings: Settings = field(default_factory=lambda: Settings(steps=0, batch=8))
    quorum: int = 2
    deadline: float = 3600.0
    max_refused: int = 3
    rule: str = "median"
    trim: float = 0.2
    attackers: int | None = None
    limits: Limits = field(default_factory=Limits)
    probe_pictures: int = 16
    probe_tolerance: float = 0.02
    probe_db: float = 40.0
    evaluate: bool = True

    def __post_init__(self) -> None:
        check_rule(self.rule)
        for name, low, high in (
            ("rounds", 1, 10**6),
            ("local_steps", 1, 10**6),
            ("quorum", 1, 10**4),
            ("deadline", 0.0, 10**7),
            ("max_refused", 1, 10**6),
            ("trim", 0.0, 0.49),
            ("probe_pictures", 1, 10**4),
            ("probe_tolerance", 0.0, 1.0),
            ("probe_db", 20.0, 80.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(f"{_key(name)} is {value}: choose a value from {low} to {high}")
        if self.settings.channels % 8 or not 8 <= self.settings.channels <= 512:
            raise SettingsError(f"channels is {self.settings.channels}: choose a multiple of 8 from 8 to 512")

    @property
    def training(self) -> Settings:
        """The settings with the length of the run filled in."""
        if self.settings.steps:
            return self.settings
        return replace(self.settings, steps=self.rounds * self.local_steps)

    def to_flat(self) -> dict[str, Scalar]:
        """Flat form; `from_flat` gives the same configuration back."""
        flat: dict[str, Scalar] = {}
        for name in _OWN:
            flat[_key(name)] = getattr(self, name)
        for name in _TRAINING:
            flat[_key(name)] = getattr(self.settings, name)
        for name in _LIMITS:
            flat[_key(name)] = getattr(self.limits, name)
        flat["total-steps"] = self.settings.steps
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
        training = {name: _read(flat, _key(name), getattr(base.settings, name)) for name in _TRAINING}
        limits = {name: _read(flat, _key(name), getattr(base.limits, name)) for name in _LIMITS}
        total = _read(flat, "total-steps", base.settings.steps)
        attackers = _read(flat, "attackers", -1)
        cosine = _read(flat, "min-cosine", -2.0)
        return cls(
            **own,
            settings=Settings(steps=total, **training),
            limits=Limits(**limits, min_cosine=None if cosine < -1 else cosine),
            attackers=None if attackers < 0 else attackers,
        )


_OWN = (
    "rounds",
    "local_steps",
    "quorum",
    "deadline",
    "max_refused",
    "rule",
    "trim",
    "probe_pictures",
    "probe_tolerance",
    "probe_db",
    "evaluate",
)
_TRAINING = (
    "batch",
    "rate",
    "start_db",
    "final_db",
    "ssim_weight",
    "seed",
    "channels",
    "blocks",
    "extractor_blocks",
)
_LIMITS = ("max_examples", "examples_factor", "norm_factor", "relative_norm")


def _key(name: str) -> str:
    return name.replace("_", "-")


def _read(flat: Mapping[str, object], key: str, default: Any) -> Any:
    value = flat.get(key, default)
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise SettingsError(f"run config: {key} is {str(value)[:60]!r}: {kind.__name__} is needed")
    return value
