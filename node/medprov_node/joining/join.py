"""Keeps a site in the training: Flower's SuperNode and the executor, both started again when they end.

A member that comes back after a crash rejoins by itself. The session that its former process has left is ended first,
and the SuperLink gets a moment to notice: it then answers for the node what was lost with it, and the round does not
wait for an update that will never come.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from medprov_ledger import supervised
from medprov_ledger.chain import Chain
from medprov_ledger.errors import ChainAwayError
from medprov_ledger.federation import Federation
from medprov_ledger.supervised import BackOff, Child
from medprov_node import config_file
from medprov_node.errors import AwayError, JoinError
from medprov_node.joining import node_key
from medprov_node.joining.config import Site
from medprov_node.joining.executor_mark import MARK
from medprov_node.joining.superlink import check_certificate, leave

SUPERNODE_LOG, EXECUTOR_LOG, SECRET = "supernode.log", "executor.log", "executor.secret"
MOMENT = 5.0
"""Seconds offline after a session that was cut off: ServerApps ask every three seconds for replies."""
STEADY = 60.0
"""Seconds after which a connection counts as having worked, so that the next pause is short again."""
PAUSE = 0.25
# what Flower's node logs
_CONNECTED, _AWAY, _BACK = "SuperNode ID:", "Connection attempt failed", ("Connection successful", "Receiving:")
_BROKEN = "Server error '5"

Say = Callable[[str, str], None]
"""Gets a kind (one word) and a line for people."""


def join(site: Site, say: Say) -> None:
    """Take part in the training until a signal comes.

    Parameters
    ----------
    site : Site
    say : callable

    Raises
    ------
    JoinError
        The coordinator is another one, does not know this node (any more), its certificate has run out, a file is
        missing, or the hospital is no member.
    ChainError, ChildError, ConfigError, OSError
    """
    with supervised.locked(site.state, "medprov-node join"), supervised.stop_signals() as asked:
        node_key.load(site.key)
        if not site.images.is_dir():
            raise JoinError(f"{site.images}: no such folder of images; correct site.images in {site.path}")
        _patiently(site, say, asked, lambda: _check_member(site))
        pause = BackOff()
        while not asked.is_set():
            _patiently(site, say, asked, lambda: check_certificate(site))
            left = _patiently(site, say, asked, lambda: leave(site))
            if left and asked.wait(MOMENT):
                break
            began = time.monotonic()
            reason = _stay(site, say, asked)
            if asked.is_set():
                break
            if time.monotonic() - began > STEADY:
                pause.reset()
            seconds = pause.next()
            say("again", f"{reason}; again in {seconds:g} s")
            asked.wait(seconds)


def supernode_command(site: Site, address: str, secret: Path) -> list[str]:
    """The command line of the SuperNode's process, with its Runtime interface at `address`."""
    # -P: the current folder must not supply modules
    program = [sys.executable, "-P", "-m", "medprov_node.joining.supernode_process", str(os.getpid())]
    host, _, port = address.rpartition(":")
    options = {
        "--superlink": site.address,
        "--root-certificates": site.ca,
        "--auth-supernode-private-key": site.key,
        "--isolation": "process",
        "--superexec-auth-secret-file": secret,
        "--host": host,
        "--port": port,
    }
    return [*program, *(str(part) for option in options.items() for part in option)]


def executor_command(site: Site, address: str, secret: Path) -> list[str]:
    """The command line of the executor's process."""
    program = [sys.executable, "-P", "-m", "medprov_node.joining.executor"]
    return [*program, str(site.path), address, str(secret), str(os.getpid())]


def _stay(site: Site, say: Say, asked: threading.Event) -> str:
    """Run both processes until one of them ends; says why."""
    secret = site.state / SECRET
    config_file.write(secret, secrets.token_hex(32), 0o600)
    address = f"127.0.0.1:{supervised.free_port()}"
    environment = {
        "FLWR_HOME": str((site.state / "flower").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    supernode = Child(
        "SuperNode", supernode_command(site, address, secret), site.state / SUPERNODE_LOG, environment=environment
    )
    executor = Child(
        "executor", executor_command(site, address, secret), site.state / EXECUTOR_LOG, environment=environment
    )
    try:
        # the executor first: it takes longer, and a round that is waiting is then taken at once
        executor.start()
        supernode.start()
        heard = _Heard(site, say)
        while supernode.running and executor.running and not asked.is_set():
            heard.repeat(supernode, executor)
            if heard.broken:
                return "the SuperLink had an error, after which a SuperNode asks no more"
            asked.wait(PAUSE)
        heard.repeat(supernode, executor)
        ended = executor if supernode.running else supernode
        return f"the {ended.name} ended ({_ending(ended)})"
    finally:
        executor.stop()
        supernode.stop()


class _Heard:
    """Repeats what is for people of both logs; that the SuperLink is away is said once each time."""

    def __init__(self, site: Site, say: Say) -> None:
        self._site, self._say, self._away = site, say, False
        self.broken = False

    def repeat(self, supernode: Child, executor: Child) -> None:
        for line in supernode.lines():
            if _BROKEN in line:
                self.broken = True
            elif _CONNECTED in line:
                self._say("joined", f"node {self._site.node} at {self._site.address}")
            elif _AWAY in line and not self._away:
                self._away = True
                self._say("waiting", f"{self._site.address}: the SuperLink does not answer; trying until it does")
            elif self._away and any(sign in line for sign in _BACK):
                self._away = False
                self._say("joined", f"again: {self._site.address} answers")
        for line in executor.lines():
            if line.startswith(MARK):
                self._say("site", line.removeprefix(MARK))


def _patiently(site: Site, say: Say, asked: threading.Event, act: Callable[[], bool | None]) -> bool:
    """Try until what is away has come back; said once."""
    pause, said = BackOff(), False
    while not asked.is_set():
        try:
            done = bool(act())
        except (AwayError, ChainAwayError) as error:
            if not said:
                say("waiting", f"{error}; trying until it does")
            said = True
            asked.wait(pause.next())
        else:
            return done
    return False


def _check_member(site: Site) -> None:
    federation = Federation(Chain.connect(site.ledger))
    house = site.hospital
    if not federation.is_member(house.address):
        raise JoinError(
            f"{house.name} ({house.address}): is no active member of the federation; {federation.threshold()} members "
            "must vote for it ('medprov-node vote')"
        )


def _ending(child: Child) -> str:
    code = child.code
    if code is not None and code < 0:
        return f"by signal {-code}"
    telling = [line.strip() for line in child.output() if line.strip() and "http" not in line]
    return f"status {code}, {telling[-1][:300] if telling else 'it said nothing'}"
