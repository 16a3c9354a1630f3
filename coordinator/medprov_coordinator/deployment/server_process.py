"""The process of the ServerApp: Flower's own, which says aloud what the strategy reports."""

from __future__ import annotations

import logging
import os
import sys

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from flwr.superlink.cli import flwr_serverapp

from medprov_ledger.supervised import end_with

MARK = "medprov: "
"""Before every line that is for people."""


def main() -> None:
    """Command line: the parent's number, then what ``flwr-serverapp`` takes."""
    parent, *rest = sys.argv[1:]
    end_with(int(parent))
    sys.argv = ["flwr-serverapp", *rest]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"{MARK}%(message)s"))
    reports = logging.getLogger("medprov.coordinator")
    reports.addHandler(handler)
    reports.setLevel(logging.INFO)
    reports.propagate = False
    flwr_serverapp()


if __name__ == "__main__":
    main()
