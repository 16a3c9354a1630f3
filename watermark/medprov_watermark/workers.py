"""Threads for work that spends its time in NumPy, codecs and ONNX Runtime, which let go of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def each(work: Callable[[A], B], parts: Sequence[A]) -> list[B]:
    """Results of independent pieces of work, which must not call this function themselves."""
    if len(parts) < 2:
        return [work(part) for part in parts]
    return list(_pool().map(work, parts))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "medprov-watermark")


# A forked process has the pool but none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
