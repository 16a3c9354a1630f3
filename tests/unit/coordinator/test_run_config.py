"""The run configuration and its flat form."""

import pytest

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.run_config import RunConfig, every_default, read_settings
from medprov_coordinator.screening import Limits
from medprov_watermark.training.loop import Settings


def test_flat_form_comes_back():
    config = RunConfig(
        rounds=7,
        local_steps=11,
        settings=Settings(steps=99, batch=3, rate=0.002, seed=4, channels=16, blocks=2, extractor_blocks=1),
        quorum=5,
        deadline=12.5,
        rule="krum",
        attackers=2,
        limits=Limits(norm_factor=2.5, min_cosine=-0.5),
        evaluate=False,
        optimiser="shared",
        encoding="int8",
        feedback=False,
        probe_tolerance=0.5,
    )
    assert RunConfig.from_flat(config.to_flat()) == config
    assert RunConfig.from_flat(RunConfig().to_flat()) == RunConfig()
    assert RunConfig.from_flat({}) == RunConfig()


def test_other_tasks_have_other_settings():
    flat = {"task": "region", "region-kinds": "vessels,lesions", "region-widths": "8,16", "rate": 0.01}
    config = RunConfig.from_flat(flat)
    assert config.settings.kinds == ("vessels", "lesions") and config.settings.widths == (8, 16)
    assert config.tolerance == config.learning.tolerance and config.learning.name == "region"
    assert RunConfig.from_flat(config.to_flat()) == config


def test_settings_of_another_task_are_refused():
    with pytest.raises(SettingsError, match="region"):
        RunConfig(task="region", settings=Settings(steps=0))


def test_every_key_of_every_task_has_a_default():
    every = every_default()
    assert RunConfig.from_flat(every) == RunConfig()
    assert RunConfig.from_flat({**every, "task": "region"}) == RunConfig.from_flat({"task": "region"})


def test_settings_of_a_command_line():
    found = read_settings(["rounds=7", "rate=0.5", "evaluate=false", "region-kinds=a,b", "min-cosine=-1"])
    assert found == {"rounds": 7, "rate": 0.5, "evaluate": False, "region-kinds": "a,b", "min-cosine": -1.0}
    for wrong in ("rounds", "rounds=x", "evaluate=1", "colour=red", "=3", "rate=fast"):
        with pytest.raises(SettingsError):
            read_settings([wrong])


def test_flat_form_has_flowers_scalars_only():
    assert {type(v) for v in RunConfig().to_flat().values()} <= {bool, int, float, str}


def test_whole_numbers_stand_for_floats_and_other_keys_are_left_alone():
    assert RunConfig.from_flat({"deadline": 30, "folder": "x"}).deadline == 30.0


def test_length_of_the_run():
    assert RunConfig(rounds=3, local_steps=5).training.steps == 15
    assert RunConfig(rounds=3, local_steps=5, settings=Settings(steps=100)).training.steps == 100


@pytest.mark.parametrize(
    "flat",
    [
        {"rounds": 0},
        {"rounds": "3"},
        {"rounds": True},
        {"rounds": 2.5},
        {"local-steps": -1},
        {"quorum": 0},
        {"deadline": float("nan")},
        {"deadline": -1.0},
        {"rule": "average"},
        {"rule": 3},
        {"trim": 0.5},
        {"trim": 10**400},
        {"channels": 12},
        {"channels": 0},
        {"evaluate": 1},
        {"probe-pictures": 0},
        {"norm-factor": -1.0},
        {"norm-factor": 0.5},
        {"relative-norm": 0.0},
        {"examples-factor": 0.0},
        {"max-examples": 0},
        {"min-cosine": 1.5},
        {"task": "diagnosis"},
        {"encoding": "int4"},
        {"optimiser": "sgd"},
        {"task": "region", "region-kinds": "other"},
        {"task": "region", "region-kinds": "../a"},
        {"task": "region", "region-widths": "8,9"},
        {"task": "region", "region-widths": "8"},
        {"task": "region", "region-crop": 100},
    ],
)
def test_bad_values_are_refused_with_their_name(flat):
    with pytest.raises(SettingsError, match=list(flat)[-1].split("-")[0]):
        RunConfig.from_flat(flat)
