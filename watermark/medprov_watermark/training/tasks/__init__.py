"""What a federation can train. Each module of this folder whose name has no underscore before it is one task.

A further task is one more module with a constant ``TASK`` that follows :class:`.base.Task`; nothing else names it.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules

from medprov_watermark.training.tasks.base import Task, TaskError

_BASE = "base"


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Names of all tasks, sorted."""
    found = (module.name for module in iter_modules(__path__))
    return tuple(sorted(name for name in found if name != _BASE and not name.startswith("_")))


def find(name: str) -> Task:
    """The task of a name.

    Raises
    ------
    TaskError
        There is none.
    """
    if name not in names():
        raise TaskError(f"task '{name[:40]}' is unknown: choose one of {', '.join(names())}")
    task: Task = import_module(f"{__name__}.{name}").TASK
    return task
