from pathlib import Path

import pytest

from medprov_coordinator.deployment.setup import init
from medprov_coordinator.errors import SettingsError
from medprov_ledger.errors import ConfigError
from tests.unit.coordinator.deployment.conftest import MakeConsortium


def test_what_is_written_can_be_loaded(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = make_consortium()
    made = init(world.ledger, tmp_path / "new", listen="0.0.0.0:9092", address="c.example:9092", hospital="hospital-b")
    assert (made.hospital.name, made.listen, made.address) == ("hospital-b", "0.0.0.0:9092", "c.example:9092")
    assert made.ledger.path.resolve() == world.ledger.resolve()
    first = init(world.ledger, tmp_path / "other", listen="127.0.0.1:1", address=None, hospital=None)
    assert (first.hospital.name, first.address) == ("hospital-a", "127.0.0.1:1")


def test_nothing_is_overwritten(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = make_consortium()
    with pytest.raises(SettingsError, match=r"coordinator\.toml: is there already"):
        init(world.ledger, world.file.parent, listen="127.0.0.1:1", address=None, hospital=None)


def test_wrong_values(make_consortium: MakeConsortium, tmp_path: Path) -> None:
    world = make_consortium()
    with pytest.raises(SettingsError, match="nine: host:port is needed"):
        init(world.ledger, tmp_path / "new", listen="nine", address=None, hospital=None)
    with pytest.raises(ConfigError, match="no hospital 'x' here"):
        init(world.ledger, tmp_path / "new", listen="a:1", address=None, hospital="x")
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        init(world.ledger, tmp_path / "file" / "new", listen="a:1", address=None, hospital=None)
