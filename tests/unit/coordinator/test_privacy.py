"""What goes together with a privacy, and what is refused with both names."""

import pytest

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.privacy import PrivacySettings
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.screening import Limits

DP = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}


def private(mode, **changes):
    """Make a run with everything that the mode needs, and the changes."""
    values = {"rule": "mean", "server_step": 1.0, "evaluate": False, "quorum": 3}
    own = DP if mode.endswith("dp") else {"clip": 1.0}
    return RunConfig(**{**values, "privacy": PrivacySettings(mode, **own), **changes})


@pytest.mark.parametrize("mode", ["central-dp", "local-dp", "secagg"])
def test_flat_form_gives_it_back(mode):
    config = private(mode)
    assert RunConfig.from_flat(config.to_flat()) == config
    assert config.to_flat()["privacy"] == mode


@pytest.mark.parametrize("rule", ["mixed", "median", "trimmed", "krum"])
@pytest.mark.parametrize("mode", ["central-dp", "secagg"])
def test_rules_for_single_updates_are_refused(mode, rule):
    with pytest.raises(SettingsError, match=f"privacy is '{mode}' and rule is '{rule}'"):
        private(mode, rule=rule)


@pytest.mark.parametrize("rule", ["mean", "mixed", "median", "trimmed", "krum"])
def test_local_noise_goes_with_every_rule(rule):
    assert private("local-dp", rule=rule, limits=Limits(min_cosine=0.0)).rule == rule


@pytest.mark.parametrize("mode", ["central-dp", "secagg"])
def test_lengthening_by_single_norms_is_refused(mode):
    with pytest.raises(SettingsError, match=f"privacy is '{mode}' and server-step is 1.5"):
        private(mode, server_step=1.5)
    assert private("local-dp", server_step=1.5)


@pytest.mark.parametrize("mode", ["central-dp", "secagg"])
def test_direction_gate_is_refused(mode):
    with pytest.raises(SettingsError, match=r"privacy is .* and min-cosine is 0\.5"):
        private(mode, limits=Limits(min_cosine=0.5))


@pytest.mark.parametrize("mode", ["central-dp", "local-dp", "secagg"])
@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_encodings_that_lose_are_refused(mode, encoding):
    with pytest.raises(SettingsError, match=f"privacy is '{mode}' and encoding is '{encoding}'"):
        private(mode, encoding=encoding)


@pytest.mark.parametrize("mode", ["central-dp", "local-dp"])
def test_exact_figures_beside_noise_are_refused(mode):
    with pytest.raises(SettingsError, match=f"privacy is '{mode}' and evaluate is true"):
        private(mode, evaluate=True)
    assert private("secagg", evaluate=True).evaluate


def test_too_few_for_a_sum():
    with pytest.raises(SettingsError, match="privacy is 'secagg' and quorum is 2"):
        private("secagg", quorum=2)
    with pytest.raises(SettingsError, match="secagg-threshold is 4 and quorum is 3"):
        private("secagg", privacy=PrivacySettings("secagg", clip=1.0, threshold=4))


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("central-dp", {"noise_multiplier": 0.0}, "noise-multiplier is 0.0 .*without noise there is no"),
        ("local-dp", {"noise_multiplier": 1e-4}, "noise-multiplier is 0.0001"),
        ("central-dp", {"noise_multiplier": -1.0}, "noise-multiplier is -1.0"),
        ("central-dp", {"noise_multiplier": float("inf")}, "noise-multiplier is inf"),
        ("central-dp", {"noise_multiplier": float("nan")}, "noise-multiplier is nan"),
        ("central-dp", {"delta": 0.0}, "an epsilon holds for a delta only"),
        ("central-dp", {"delta": 0.5}, "delta is 0.5"),
        ("central-dp", {"max_epsilon": 3.0, "delta": 0.0}, "an epsilon holds for a delta only"),
        ("central-dp", {"max_epsilon": -1.0}, "max-epsilon is -1.0"),
        ("local-dp", {"clip": 0.0}, "needs clip-norm"),
        ("local-dp", {"threshold": 3}, "secagg-threshold belongs to privacy 'secagg'"),
        ("secagg", {}, "privacy 'secagg' adds no noise"),
        ("secagg", {"noise_multiplier": 0.0, "delta": 0.0, "clip": 0.0}, "needs clip-norm"),
        ("none", {}, "clip-norm is 1.0 and privacy is 'none'"),
        ("secret", {}, "privacy is 'secret': choose one of"),
    ],
)
def test_nonsense_is_refused(mode, changes, words):
    with pytest.raises(SettingsError, match=words):
        PrivacySettings(mode, **{**DP, **changes})


def test_types_in_the_flat_form():
    flat = private("central-dp").to_flat()
    with pytest.raises(SettingsError, match="clip-norm is 'much'"):
        RunConfig.from_flat({**flat, "clip-norm": "much"})
