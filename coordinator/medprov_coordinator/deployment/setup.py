"""Writes a first ``coordinator.toml``."""

from __future__ import annotations

import os
from pathlib import Path

from medprov_coordinator.deployment import files
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.errors import SettingsError
from medprov_ledger.config import Config, toml_text
from medprov_ledger.enrolment import endpoint
from medprov_ledger.errors import RecordError

FILE = "coordinator.toml"


def init(config: Path, folder: Path, *, listen: str, address: str | None, hospital: str | None) -> Deployment:
    """Write ``coordinator.toml`` into a folder; an existing one is left alone.

    Parameters
    ----------
    config : Path
        The coordinator's hospital's ``medprov.toml``.
    folder : Path
        Made if absent.
    listen : str
        ``host:port``.
    address : str or None
        ``host:port`` that members are told; None is `listen`.
    hospital : str or None
        Whose account acts; None takes the only one, or the first.

    Raises
    ------
    SettingsError
        There is a file already, or it cannot be written.
    ConfigError
    """
    ledger = Config.load(config)
    house = ledger.hospital(hospital or next(iter(ledger.hospitals), None))
    for text in filter(None, (listen, address)):
        try:
            endpoint(text, text)
        except RecordError as error:
            raise SettingsError(str(error)) from None
    file = folder / FILE
    if file.exists():
        raise SettingsError(f"{file}: is there already; edit it, or name another folder")
    lines = [
        "# What a coordinator needs; docs/deployment.md describes every key.",
        "[coordinator]",
        f"medprov = {toml_text(os.path.relpath(config.resolve(), folder.resolve()))}",
        f"hospital = {toml_text(house.name)}",
        'state = "state"',
        "",
        "[superlink]",
        f"listen = {toml_text(listen)}",
        f"address = {toml_text(address or listen)}",
        "names = []",
        "",
        "[run]",
        "rounds = 3",
        "local-steps = 50",
        "quorum = 2",
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write(file, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written ({error.strerror})") from None
    return Deployment.load(file)
