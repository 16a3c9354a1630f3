"""docs/configuration.md names every key that a configuration may have, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from medprov_ledger import config

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text()


def test_every_key_is_described() -> None:
    described = set(re.findall(r"`([a-z_]+(?:\.NAME)?\.[a-z_]+)`", TEXT)) - {"medprov.toml", ".medprov/medprov.toml"}
    source = inspect.getsource(config)
    known = {f"chain.{key}" for key in config._CHAIN} | {f"hospitals.NAME.{key}" for key in config._HOSPITAL}
    for table, keys in re.findall(r'Table\(file, "(\w+)", document\.get\([^)]*\), \(([^)]*)\)\)', source):
        known |= {f"{table}.{key}" for key in re.findall(r'"(\w+)"', keys)}
    assert {"store.copies", "trust.threshold", "directory.former", "federation.id"} <= known
    assert described == known
