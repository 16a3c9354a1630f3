"""Which privacy a run gives its members, and what goes together with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medprov_coordinator.errors import SettingsError
from medprov_watermark.training.privacy import CENTRAL, LOCAL, MODES, SECURE, Privacy
from medprov_watermark.training.secagg import FEWEST


@dataclass(frozen=True)
class PrivacySettings:
    """How updates are protected.

    Parameters
    ----------
    mode : str
        ``none``; ``central-dp``: the coordinator clips every update and adds noise to their sum once; ``local-dp``:
        every member clips and adds noise to its own update before it leaves; ``secagg``: the coordinator learns the
        sum of the updates and no single one.
    clip : float
        Largest L2 norm of a member's update.
    noise_multiplier : float
        Standard deviation of the noise in units of `clip`, on the sum or on each update.
    delta : float
        Chance that the promise of epsilon does not hold.
    max_epsilon : float
        A member that one more round would take beyond it is left out; 0 sets no limit.
    threshold : int
        Members whose shares open the sum of a round in ``secagg``, 0: two thirds of those that take part and one more.
    """

    mode: str = "none"
    clip: float = 0.0
    noise_multiplier: float = 0.0
    delta: float = 0.0
    max_epsilon: float = 0.0
    threshold: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(f"privacy is '{self.mode}': choose one of {', '.join(MODES)}")
        for key, value in (
            ("clip-norm", self.clip),
            ("noise-multiplier", self.noise_multiplier),
            ("delta", self.delta),
            ("max-epsilon", self.max_epsilon),
            ("secagg-threshold", self.threshold),
        ):
            if not 0 <= value < math.inf:
                raise SettingsError(f"{key} is {value}: choose a finite value that is not negative")
            if self.mode == "none" and value:
                raise SettingsError(f"{key} is {value} and privacy is 'none': choose a privacy or leave {key} out")
        if self.mode == "none":
            return
        if self.clip == 0:
            raise SettingsError(f"privacy '{self.mode}' needs clip-norm, the largest norm of an update: set it above 0")
        if self.private:
            self._check_noise()
        elif self.noise_multiplier or self.delta or self.max_epsilon:
            raise SettingsError(
                "privacy 'secagg' adds no noise: leave noise-multiplier, delta and max-epsilon out, or choose a privacy"
                f" '{CENTRAL}' or '{LOCAL}'"
            )
        if self.threshold and self.mode != SECURE:
            raise SettingsError(f"secagg-threshold belongs to privacy 'secagg' and not to '{self.mode}': leave it out")

    def _check_noise(self) -> None:
        if not 1e-3 <= self.noise_multiplier <= 1e6:
            raise SettingsError(
                f"noise-multiplier is {self.noise_multiplier} and privacy is '{self.mode}': without noise there is no"
                " epsilon; choose a value from 0.001 to 1000000"
            )
        if not 0 < self.delta <= 0.1:
            raise SettingsError(
                f"delta is {self.delta} and privacy is '{self.mode}': an epsilon holds for a delta only; choose one"
                " above 0 and well below 1 / number of members"
            )

    @property
    def private(self) -> bool:
        """Whether the mode is one of differential privacy."""
        return self.mode in (CENTRAL, LOCAL)

    @property
    def order(self) -> Privacy:
        """What the members are asked for."""
        return Privacy(self.mode, self.clip, self.noise_multiplier)

    def check_beside(
        self, *, rule: str, server_step: float, min_cosine: float | None, encoding: str, evaluate: bool, quorum: int
    ) -> None:
        """Refuse what does not go together with the mode.

        Raises
        ------
        SettingsError
            Names both settings.
        """
        if self.mode == "none":
            return
        if self.mode in (CENTRAL, SECURE) and rule != "mean":
            why = (
                "the noise is measured for a mean only"
                if self.private
                else "a rule per member needs to see each update"
            )
            raise SettingsError(f"privacy is '{self.mode}' and rule is '{rule}': {why}; set rule to 'mean'")
        if self.mode in (CENTRAL, SECURE) and server_step != 1:
            raise SettingsError(
                f"privacy is '{self.mode}' and server-step is {server_step:g}: how far a mean may be lengthened is read"
                " off single updates; set server-step to 1.0"
            )
        if self.mode in (CENTRAL, SECURE) and min_cosine is not None:
            raise SettingsError(
                f"privacy is '{self.mode}' and min-cosine is {min_cosine:g}: a direction cannot be judged without"
                " comparing single updates; leave min-cosine out"
            )
        if encoding != "float32":
            raise SettingsError(
                f"privacy is '{self.mode}' and encoding is '{encoding}': what an encoding loses would go out with the"
                " next update, unprotected; set encoding to 'float32'"
            )
        if self.private and evaluate:
            raise SettingsError(
                f"privacy is '{self.mode}' and evaluate is true: figures of the hospitals' own pictures are not covered"
                " by any epsilon; set evaluate to false"
            )
        if self.mode == SECURE:
            if quorum < FEWEST:
                raise SettingsError(
                    f"privacy is 'secagg' and quorum is {quorum}: with fewer than {FEWEST} members a sum gives single"
                    f" updates away; set quorum to {FEWEST} or more"
                )
            if self.threshold and self.threshold > quorum:
                raise SettingsError(
                    f"secagg-threshold is {self.threshold} and quorum is {quorum}: a round of the quorum could never be"
                    " opened; lower the one or raise the other"
                )
