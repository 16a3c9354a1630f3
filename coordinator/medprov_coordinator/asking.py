"""Questions to hospitals and their answers within a deadline.

Flower's own `send_and_receive` looks for replies every three seconds and cannot stop when enough of them are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from medprov_coordinator.grid import InProcessGrid

PAUSE = 0.5
"""Between two looks for replies, seconds."""
PATIENCE = 60.0
"""Seconds in which a SuperLink that is overloaded must have taken the messages."""

_log = logging.getLogger("medprov.coordinator")
_Answer = TypeVar("_Answer")


def patiently(call: Callable[[], _Answer], until: float) -> _Answer:
    """Call the SuperLink, again and again while it has an error of its own.

    Under load its database is locked for longer than it waits, and it answers with status 500.

    Parameters
    ----------
    call : callable
    until : float
        On the monotonic clock; an error after that is raised.
    """
    while True:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or time.monotonic() >= until:
                raise
            _log.warning("the SuperLink answers with status %d: asked again", error.response.status_code)
            time.sleep(2 * PAUSE)


def ask(grid: Grid, messages: Iterable[Message], deadline: float, quorum: int, grace: float) -> list[Message]:
    """Send messages and collect the replies.

    A message that the SuperLink does not take, because its node has just left, has no reply; one that comes after the
    deadline is not fetched any more.

    Parameters
    ----------
    grid : Grid
    messages : iterable of Message
    deadline : float
        Seconds to wait for all replies.
    quorum : int
    grace : float
        Seconds to wait for the others once replies without an error are there from `quorum` nodes; 0 waits until the
        deadline. A round then depends on who was fast, and is not reproducible.

    Returns
    -------
    list of Message
        In the order in which they came.
    """
    end = time.monotonic() + deadline
    sent = list(messages)
    names = list(patiently(lambda: grid.push_messages(sent), time.monotonic() + PATIENCE))
    asked = dict(zip(names, sent, strict=True))
    waiting = [name for name in names if name]
    found: list[Message] = []
    good, met = 0, False
    while waiting and time.monotonic() < end:
        came = _pull(grid, waiting, end)
        if isinstance(grid, InProcessGrid) and time.monotonic() > end:
            # a node of this process cannot be interrupted: what it answers is late all the same
            break
        found += [_from_its_node(reply, asked) for reply in came]
        answered = {reply.metadata.reply_to_message_id for reply in came}
        waiting = [name for name in waiting if name not in answered]
        good += sum(not reply.has_error() for reply in came)
        if grace and good >= quorum and not met:
            met, end = True, min(end, time.monotonic() + grace)
        if not came:
            if isinstance(grid, InProcessGrid):
                if grid.is_silent(waiting):
                    break
                continue
            time.sleep(max(0.0, min(PAUSE, end - time.monotonic())))
    return found


def _from_its_node(reply: Message, asked: Mapping[str, Message]) -> Message:
    """The reply; what the SuperLink answers for a node that it has lost comes with a number of its own."""
    question = asked.get(reply.metadata.reply_to_message_id)
    if question is None or not reply.has_error() or reply.metadata.src_node_id == question.metadata.dst_node_id:
        return reply
    return Message(reply.error, reply_to=question)


def _pull(grid: Grid, names: list[str], end: float) -> list[Message]:
    return list(patiently(lambda: grid.pull_messages(names), end))
