"""Pieces of work on shared threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_watermark.workers import each

FORKED = """
import os, signal, threading, warnings
warnings.simplefilter("ignore")
from medprov_watermark.workers import each
own = set(each(lambda _: threading.get_ident(), range(8)))
assert threading.get_ident() not in own
child = os.fork()
if child == 0:
    signal.alarm(20)  # a pool without threads would wait for ever
    os._exit(0 if each(lambda n: -n, range(8)) == [-n for n in range(8)] else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert each(abs, [-1, -2, -3]) == [1, 2, 3]
raise SystemExit(abs(code))
"""


@given(st.lists(st.integers(), max_size=40))
def test_every_part_has_its_result_in_its_place(parts: list[int]) -> None:
    assert each(lambda n: (n, n + 1), parts) == [(n, n + 1) for n in parts]


def test_results_keep_their_order_where_the_first_part_is_done_last() -> None:
    later = threading.Event()

    def work(n: int) -> int:
        if n:
            later.set()
        else:
            later.wait(5)
        return n

    assert each(work, [0, 1, 2]) == [0, 1, 2]


def test_one_part_is_done_where_it_was_asked_for() -> None:
    assert each(lambda _: threading.get_ident(), [1]) == [threading.get_ident()]
    assert threading.get_ident() not in each(lambda _: threading.get_ident(), [1, 2, 3])


@pytest.mark.parametrize("parts", [[0], [0, 1], [1, 0, 2]])
def test_an_error_comes_out_and_stops_nothing_later(parts: list[int]) -> None:
    def work(n: int) -> float:
        return 1 / n

    with pytest.raises(ZeroDivisionError):
        each(work, parts)
    assert each(work, [1, 2]) == [1.0, 0.5]


def test_a_forked_process_has_threads_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60).returncode == 0
