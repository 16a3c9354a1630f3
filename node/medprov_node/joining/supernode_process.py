"""The process of the SuperNode: Flower's own, offline, which ends with the command that has started it."""

from __future__ import annotations

import os
import sys
from typing import Any

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import start_client_internal as flower
from flwr.supernode.cli import flower_supernode

from medprov_ledger.supervised import end_with

LONGEST_PAUSE = 5
"""Seconds between two attempts while the SuperLink is away; a round would otherwise begin without the site."""


def pull_objects(*arguments: Any, **options: Any) -> dict[str, bytes]:
    """Flower's own; a run that ends in the midst of it is an ordinary error here.

    Flower's is none (a `BaseException`), so the message and its task would stay without their parts, and an executor
    that takes the task waits for these for two hours.
    """
    try:
        return inflatable_utils.pull_objects(*arguments, **options)
    except RunNotRunningException:
        raise RuntimeError("the run has ended") from None


def main() -> None:
    """Command line: the parent's number, then what ``flower-supernode`` takes."""
    parent, *rest = sys.argv[1:]
    http_retry.MAX_RETRY_DELAY = LONGEST_PAUSE  # type: ignore[attr-defined]
    flower.pull_objects = pull_objects  # type: ignore[attr-defined]
    end_with(int(parent))
    sys.argv = ["flower-supernode", *rest]
    flower_supernode()


if __name__ == "__main__":
    main()
