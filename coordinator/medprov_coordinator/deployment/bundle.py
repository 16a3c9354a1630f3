"""The app bundle (Flower's FAB) that the SuperLink sends to the sites: deterministic, without code.

It names the two apps by their places in the installed packages, states version and digest of the training code, and
lists the settings of a run with their defaults, because Flower lets a run set only names that its bundle has. Its
SHA-256 is what members release in the federation's contract.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tomli_w
from flwr.cli.build import build_fab_from_files

from medprov_coordinator.deployment.config import PLACES
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.run_config import every_default
from medprov_ledger.app_code import digest

SERVER_APP, CLIENT_APP = "medprov_coordinator.server_app:app", "medprov_node.client_app:app"
NAME, PUBLISHER = "medprov", "medprov"


def document() -> dict[str, Any]:
    """The bundle's ``pyproject.toml`` as a dictionary.

    Raises
    ------
    SettingsError
        This package is not installed, so that it has no version.
    """
    try:
        release, flower = version("medprov-coordinator"), version("flwr")
    except PackageNotFoundError as error:
        raise SettingsError(f"{error.name}: is not installed; install it with pip") from None
    return {
        "project": {
            "name": NAME,
            "version": release,
            "description": "Federated training of medprov's networks; the code is the installed packages'.",
            "license": "Apache-2.0",
            "dependencies": [f"flwr=={flower}"],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": PUBLISHER,
                    "components": {"serverapp": SERVER_APP, "clientapp": CLIENT_APP},
                    "config": every_default() | PLACES,
                }
            },
            "medprov": {"code": digest()},
        },
    }


@cache
def build() -> bytes:
    """The bundle.

    Raises
    ------
    SettingsError
    """
    return build_fab_from_files({"pyproject.toml": tomli_w.dumps(document()).encode()})[0]


def bundle_hash() -> bytes:
    """SHA-256 of the bundle, 32 bytes.

    Raises
    ------
    SettingsError
    """
    return hashlib.sha256(build()).digest()
