import logging
import sys

import pytest

from medprov_coordinator.deployment import server_process


def test_the_strategy_s_reports_are_marked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reports = logging.getLogger("medprov.coordinator")
    before = (list(reports.handlers), reports.level, reports.propagate)

    seen: list[object] = []

    def program() -> None:
        seen.append(list(sys.argv))
        reports.info("round %d", 3)
        logging.getLogger("flwr").info("a technicality")

    monkeypatch.setattr(server_process, "flwr_serverapp", program)
    monkeypatch.setattr(server_process, "end_with", lambda pid: seen.append(pid))
    monkeypatch.setattr(sys, "argv", ["x", "7", "--token", "t"])
    try:
        server_process.main()
    finally:
        reports.handlers[:], reports.propagate = before[0], before[2]
        reports.setLevel(before[1])
    assert capsys.readouterr().out == f"{server_process.MARK}round 3\n"
    assert seen == [7, ["flwr-serverapp", "--token", "t"]]
