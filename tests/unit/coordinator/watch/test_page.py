"""The page of a run: what it shows, and what it does with foreign and damaged files."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.watch.page import _listen, create_app
from medprov_coordinator.watch.run_folder import RunFolder


@pytest.fixture
def client(folder: Path) -> TestClient:
    return TestClient(create_app(RunFolder(folder)))


def test_overview_shows_rounds_members_refusals_and_charts(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for text in ("Federated training", "/round/3", "not_finite", "1 attempts refused", "chain of hashes whole"):
        assert text in page.text
    assert page.text.count("<svg") == 7 and "<script" not in page.text


def test_hostile_texts_are_shown_and_do_nothing(client: TestClient) -> None:
    for address in ("/", "/round/2"):
        text = client.get(address).text
        assert "&lt;script&gt;alert(1)" in text
        assert "\x1b" not in text and "\u202e" not in text


def test_nothing_comes_from_elsewhere_and_nothing_runs(client: TestClient) -> None:
    headers = client.get("/").headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/style.css").headers["content-type"].startswith("text/css")
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_one_round_has_all_its_digests_and_its_root_is_computed_again(client: TestClient, folder: Path) -> None:
    body = json.loads((folder / "rounds" / "000002.json").read_text())
    text = client.get("/round/2").text
    for digest in (body["base"], body["model"], body["root"], body["updates"][0]["digest"], body["updates"][1]["leaf"]):
        assert digest in text
    good = text
    body["updates"][0]["leaf"] = "00" * 32
    (folder / "rounds" / "000002.json").write_text(json.dumps(body, sort_keys=True, separators=(",", ":")))
    changed = TestClient(create_app(RunFolder(folder))).get("/round/2").text
    assert "the leaf of node 101" in changed and "the leaf of node" not in good


@pytest.mark.parametrize("address", ["/round/9", "/round/x", "/round/-1", "/round/1e3", "/nothing"])
def test_what_is_not_there_is_said_in_one_line(client: TestClient, address: str) -> None:
    found = client.get(address)
    assert found.status_code == 404 and "Traceback" not in found.text


def test_damaged_and_foreign_files_are_named_and_the_rest_is_shown(folder: Path) -> None:
    (folder / "rounds" / "000002.json").write_text("{")
    (folder / "rounds" / "notes.txt").write_text("hello")
    (folder / "state.json").write_text("[]")
    page = TestClient(create_app(RunFolder(folder))).get("/")
    assert page.status_code == 200
    for text in ("000002.json", "notes.txt", "state.json", "/round/3"):
        assert text in page.text


def test_a_changed_line_of_the_log_is_named(folder: Path) -> None:
    file = folder / "audit.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("3 replies", "9 replies").replace("round 1", "round 7")
    file.write_text("".join(lines))
    text = TestClient(create_app(RunFolder(folder))).get("/").text
    assert "line 3" in text and "chain of hashes whole" not in text


def test_rounds_as_json(client: TestClient) -> None:
    rounds = client.get("/api/rounds").json()
    assert [one["number"] for one in rounds] == [1, 2, 3]
    assert rounds[0]["bytes_up"] == 1000 and rounds[0]["anchor"]["state"] == "no chain"


def test_metrics(client: TestClient) -> None:
    text = client.get("/metrics").text
    for line in (
        "medprov_rounds 3.0",
        "medprov_refused_attempts_total 1.0",
        "medprov_updates_accepted_total 6.0",
        'medprov_updates_rejected_total{reason="not_finite"}',
        'medprov_sent_bytes_total{direction="up"} 3000.0',
        "medprov_pending_anchors 0.0",
        "medprov_audit_log_good 1.0",
    ):
        assert line in text, line
    assert client.get("/health").json() == {"status": "ok"}


def test_a_waiting_round_is_counted(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    entry = {"number": 3, "model": "", "cid": "", "root": "", "metrics": ""}
    (folder / "state.json").write_text(json.dumps({**state, "pending": [entry]}))
    client = TestClient(create_app(RunFolder(folder)))
    assert "medprov_pending_anchors 1.0" in client.get("/metrics").text
    assert "waiting" in client.get("/").text


def test_a_new_round_appears(client: TestClient, folder: Path) -> None:
    assert "/round/4" not in client.get("/").text
    body = json.loads((folder / "rounds" / "000003.json").read_text())
    (folder / "rounds" / "000004.json").write_text(json.dumps({**body, "round": 4}, sort_keys=True))
    assert "/round/4" in client.get("/").text


def test_an_explorer_is_an_http_address(folder: Path) -> None:
    for wrong in ("javascript:alert(1)", "https://explorer.example/", "{transaction}"):
        with pytest.raises(SettingsError, match="--explorer"):
            create_app(RunFolder(folder), explorer=wrong)


def test_a_port_that_is_taken_and_an_address_that_is_none() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="cannot be taken"):
            _listen("127.0.0.1", taken.getsockname()[1])
    for host, port in (("no such host.invalid", 1), ("127.0.0.1", 10**6)):
        with pytest.raises(SettingsError, match="name another"):
            _listen(host, port)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run in this folder"):
        RunFolder(tmp_path)
    with pytest.raises(SettingsError, match="no such folder"):
        RunFolder(tmp_path / "none")
