"""The process of the SuperLink: Flower's own, with a guard before it.

Flower serves three interfaces on one port. Fleet calls are signed with node keys; Runtime calls carry a task's token or
the executor's HMAC; Control calls (start a run, register a node) carry nothing in Flower's open version, so that
whoever reaches the port could give them. The guard lets these, and everything else, pass with the coordinator's
secret only.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import sys

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from pathlib import Path

from flwr.supercore.corestate import sql_corestate
from flwr.superlink import extensions
from flwr.superlink.cli import flower_superlink
from sqlalchemy import Engine, event
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from medprov_coordinator.deployment.control import SECRET_HEADER
from medprov_ledger.supervised import end_with

OPEN = ("/v1/fleet/", "/v1/runtime/")
HEALTH = "/health"
STALLED = 60
"""Seconds without a further part after which a reply that a site has begun to send counts as lost: Flower collects no
other reply of the round meanwhile."""

BUSY = 60_000
"""Milliseconds that a request waits for the database where others write: SQLite's 5 s end in "database is locked" on a
busy machine, and a SuperNode that is answered so asks no more."""


class Guard:
    """Lets requests to `OPEN` and `HEALTH` pass, and others with the secret.

    Parameters
    ----------
    app : ASGIApp
    secret : bytes
    """

    def __init__(self, app: ASGIApp, secret: bytes) -> None:
        self.app, self._secret = app, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan" or self._may(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse("not allowed", 403)(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path == HEALTH or path.startswith(OPEN):
            return True
        given = dict(scope["headers"]).get(SECRET_HEADER.encode(), b"")
        return hmac.compare_digest(given, self._secret)


def be_patient(connection: sqlite3.Connection, _: object) -> None:
    """Let a new connection of the database wait for others."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY}")


def main() -> None:
    """Command line: the secret's file and the parent's number, then what ``flower-superlink`` takes."""
    secret, parent, *rest = sys.argv[1:]
    content = Path(secret).read_bytes()
    extensions.get_middleware = lambda: (Middleware(Guard, secret=content),)
    sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS = STALLED  # type: ignore[attr-defined]
    event.listen(Engine, "connect", be_patient)
    end_with(int(parent))
    sys.argv = ["flower-superlink", *rest]
    flower_superlink()


if __name__ == "__main__":
    main()
