"""The process of the SuperNode: Flower's own, offline, which ends with the command that has started it."""

from __future__ import annotations

import os
import sys

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from flwr.supercore.retry import http_retry
from flwr.supernode.cli import flower_supernode

from medprov_ledger.supervised import end_with

LONGEST_PAUSE = 5
"""Seconds between two attempts while the SuperLink is away; a round would otherwise begin without the site."""


def main() -> None:
    """Command line: the parent's number, then what ``flower-supernode`` takes."""
    parent, *rest = sys.argv[1:]
    http_retry.MAX_RETRY_DELAY = LONGEST_PAUSE  # type: ignore[attr-defined]
    end_with(int(parent))
    sys.argv = ["flower-supernode", *rest]
    flower_supernode()


if __name__ == "__main__":
    main()
