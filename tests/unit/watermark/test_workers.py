"""Pieces of work on shared threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from medprov_watermark.workers import each


def test_results_come_in_the_order_of_the_parts() -> None:
    assert each(lambda n: n * n, list(range(50))) == [n * n for n in range(50)]
    assert each(str, []) == []


def test_one_part_is_done_where_it_was_asked_for() -> None:
    assert each(lambda _: threading.get_ident(), [1]) == [threading.get_ident()]
    assert threading.get_ident() not in each(lambda _: threading.get_ident(), [1, 2, 3])


def test_an_error_comes_out() -> None:
    def work(n: int) -> float:
        return 1 / n

    with pytest.raises(ZeroDivisionError):
        each(work, [1, 0, 2])
    assert each(work, [1, 2]) == [1.0, 0.5]


def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from medprov_watermark.workers import each\n"
        "assert each(abs, [-1, -2, -3]) == [1, 2, 3]\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if each(abs, [-4, -5, -6]) == [4, 5, 6] else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
