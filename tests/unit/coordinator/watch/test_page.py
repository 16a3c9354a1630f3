"""The page of a run: what it shows, and what it does with foreign and damaged files."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from medprov_coordinator.audit_log import AuditLog
from medprov_coordinator.errors import SettingsError
from medprov_coordinator.watch.chain_view import ChainState
from medprov_coordinator.watch.page import ROUNDS, _listen, create_app
from medprov_coordinator.watch.run_folder import Run, RunFolder
from medprov_ledger.federation import Round

CONTROL = "\x1b]0;title\x07\x9b2J\u202e\ud800\n"
MARKUP = """"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}</svg></code>"""
ADDRESSES = ("/", "/round/3", "/api/rounds", "/metrics")


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {str(value) for name, value in attrs if name in ("href", "src")}


def change(folder: Path, number: int, **fields: Any) -> None:
    file = folder / "rounds" / f"{number:06d}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def client_of(folder: Path, chain: ChainState | None = None, explorer: str = "") -> TestClient:
    return TestClient(create_app(RunFolder(folder), lambda: chain or ChainState(), explorer))


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


@pytest.mark.parametrize("name", ["rounds", "audit.jsonl"])
def test_a_run_that_has_only_begun(tmp_path: Path, name: str) -> None:
    if name == "rounds":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    client = client_of(tmp_path)
    text = client.get("/").text
    assert "No round yet." in text and text.count("nothing yet") == 7 and "None in the accepted rounds." in text
    assert ("none in this folder" in text) is (name == "rounds")
    assert client.get("/api/rounds").json() == [] and client.get("/metrics").status_code == 200


@pytest.mark.parametrize("text", [CONTROL, MARKUP, MARKUP + CONTROL])
def test_hostile_texts_in_every_place_that_others_write(folder: Path, text: str) -> None:
    honest = Elements(client_of(folder).get("/").text + client_of(folder).get("/round/2").text)
    rows = json.loads((folder / "rounds" / "000003.json").read_text())["updates"]
    rows[0].update(signer="0xAB", figures={text: 1.0, "loss": 0.5}, signature=text)
    rows[1].update(signer=text, update=text, digest=text, leaf=text)
    fields = {name: text for name in ("rule", "note", "cid", "task", "encoding", "audit", "base", "model", "root")}
    gone = [{"node": 103, "code": text, "detail": text}]
    change(folder, 3, updates=rows, rejected=gone, sites={"102": {text: 2.0}}, **fields)
    (folder / "rounds" / "000008.json").write_text(json.dumps({"round": 8, "version": text}))
    log = AuditLog(folder / "audit.jsonl")
    for kind, figures in (("screened", {"rejected": [[102, text]]}), ("refused", {}), ("anchored", {}), (text, {})):
        log.append(kind, {"number": 3, "attempt": 5, "text": text, "figures": {"transaction": text, **figures}})
    held = Round(3, bytes(32), text, bytes(32), bytes(32), text, 9, 0)
    chain = ChainState(True, {3: held}, {"0xab": "active"}, {"0xab": text}, trouble=text)
    client = client_of(folder, chain, "https://explorer.example/{transaction}")
    for address in ADDRESSES:
        answer = client.get(address)
        assert answer.status_code == 200
        assert all(line.isprintable() for line in answer.text.split("\n")), address
    for address in ("/", "/round/3"):
        page = client.get(address).text
        found = Elements(page)
        # no element, attribute or link that a page with harmless texts lacks
        assert found.tags <= honest.tags | {"ul", "li", "b", "br"} and found.attributes <= honest.attributes | {"role"}
        assert found.links <= honest.links | {"/round/1", "/round/2", "/round/3"}
        assert ("{{ 7 * 7 }}" in page) is (text != CONTROL)
    assert client.get("/api/rounds").json()[2]["rejected"] == gone


def test_rounds_as_json_are_plain_ascii_and_give_the_text_back(folder: Path) -> None:
    change(folder, 3, rejected=[{"node": 103, "code": "norm", "detail": CONTROL}])
    answer = client_of(folder).get("/api/rounds")
    assert answer.headers["content-type"] == "application/json" and answer.content.isascii()
    assert b"\x1b" not in answer.content and answer.json()[2]["rejected"][0]["detail"] == CONTROL


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" + "0" * 400, "1e-323"])
def test_what_is_no_usable_number_keeps_no_page_from_being_shown(folder: Path, value: str) -> None:
    file = folder / "rounds" / "000003.json"
    body = {**json.loads(file.read_text()), "probe": {"score": "?"}, "train": {"loss": "?"}, "bytes_up": 5}
    body.update(sites=[{"node": 101, "loss": "?"}, {"node": 102, "loss": 0.0}])
    file.write_text(json.dumps(body).replace('"?"', value))
    client = client_of(folder)
    shown = client.get("/").text
    assert ("rounds/000003.json: damaged: is not JSON" in shown) is (value in ("NaN", "Infinity"))
    figures = shown.partition("<h2>Rounds</h2>")[2]
    assert not re.search(r"\b(nan|inf)\b", figures) and figures.count("<svg") == 7
    for address in ADDRESSES:
        assert client.get(address).status_code == (404 if "damaged" in shown and "round/" in address else 200)


@pytest.mark.parametrize("name", ["bytes_up", "bytes_down", "attempt"])
def test_a_number_without_end_makes_its_record_a_damaged_one(folder: Path, name: str) -> None:
    change(folder, 2, **{name: 10**400})
    client = client_of(folder)
    assert f"rounds/000002.json: damaged: {name} is not a whole number" in client.get("/").text
    assert [one["number"] for one in client.get("/api/rounds").json()] == [1, 3]


def test_a_chain_that_is_away_is_said_and_what_was_known_is_shown(folder: Path) -> None:
    record = RunFolder(folder).refresh().rounds[0]
    held = {
        1: Round(1, bytes(32), "", bytes(32), bytes.fromhex(record.hash), "", 70, 0),
        2: Round(2, bytes(32), "", bytes(32), bytes(32), "", 71, 0),
    }
    there = ChainState(True, held)
    states = [one["anchor"] for one in client_of(folder, there).get("/api/rounds").json()]
    assert [(one["state"], one["block"]) for one in states] == [("anchored", 70), ("differs", 71), ("waiting", None)]
    page = client_of(folder, there).get("/").text
    assert "2 rounds anchored" in page and '<td class="bad">differs</td>' in page
    assert "1 waiting for the anchor</b> (round 3)" in page
    away = replace(there, trouble="http://chain: no chain answers there")
    page = client_of(folder, away).get("/").text
    assert '<b class="warn">http://chain: no chain answers there</b>' in page and "rounds anchored" not in page
    assert '<td class="bad">differs</td>' in page and "waiting" not in page


def test_a_transaction_is_linked_where_it_is_one(folder: Path) -> None:
    log = AuditLog(folder / "audit.jsonl")
    good = "0x" + "ab" * 32
    for number, transaction in ((1, good), (2, "0xab/../../evil"), (3, "javascript:alert(1)")):
        figures = {"transaction": transaction}
        log.append("anchored", {"number": number, "attempt": number, "text": "", "figures": figures})
    client = client_of(folder, explorer="https://explorer.example/tx/{transaction}")
    for address in ("/", "/round/1", "/round/2", "/round/3"):
        links = {link for link in Elements(client.get(address).text).links if "round" not in link}
        known = {"/", "/style.css", "/api/rounds", "/metrics", "/health"}
        assert links - known == ({f"https://explorer.example/tx/{good}"} if address in ("/", "/round/1") else set())
    assert Elements(client_of(folder).get("/round/1").text).links == {"/", "/style.css", "/round/2"}


def test_a_record_that_disagrees_with_log_and_root_is_shown_as_such(folder: Path) -> None:
    change(folder, 3, root="11" * 32)
    text = client_of(folder).get("/round/3").text
    assert '<b class="bad">the root is not that of the updates&#39; leaves</b>' in text
    assert "the same</span>" in client_of(folder).get("/round/2").text


def test_a_log_that_is_cut_is_shown_up_to_there(folder: Path) -> None:
    file = folder / "audit.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    text = client_of(folder).get("/").text
    assert "7 lines, chain of hashes whole" in text and "0 attempts refused" in text
    AuditLog(file)
    assert "8 lines, chain of hashes whole" in (text := client_of(folder).get("/").text)
    assert "1 lines cut short by a crash" in text


def test_the_tables_hold_the_newest_rounds_only(folder: Path) -> None:
    body = json.loads((folder / "rounds" / "000003.json").read_text())
    for number in range(4, ROUNDS + 11):
        (folder / "rounds" / f"{number:06d}.json").write_text(json.dumps({**body, "round": number}))
    text = client_of(folder).get("/").text
    assert "10 earlier rounds are at" in text
    assert 'href="/round/11"' in text and 'href="/round/10"' not in text


def test_a_page_that_fails_says_one_line_and_keeps_the_reason_to_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(reader: RunFolder) -> Run:
        raise RuntimeError("/secret/path")

    client = client_of(folder)
    monkeypatch.setattr(RunFolder, "refresh", fail)
    answer = client.get("/")
    assert answer.status_code == 500 and "the page failed" in answer.text and "/secret" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/secret/path" in caplog.text
