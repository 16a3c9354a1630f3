"""The page of a run in a browser: a real federation, the real server, a real Chromium."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, Message
from PIL import Image

from medprov_coordinator.audit_log import FILE, verify
from medprov_coordinator.run import FederationResult, run_federation
from medprov_coordinator.run_config import RunConfig
from medprov_coordinator.watch import words
from medprov_node.client_app import app
from medprov_watermark.training import exchange as ex
from medprov_watermark.training.loop import Settings
from medprov_watermark.training.phantoms import phantom

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")]
HOSTILE = "<script>document.title='taken'</script><img src=x>"
FIRST_SERIES = (0x1F, 0x5F, 0xBF)
"""Colour of a chart's first series in the light scheme."""
CONFIG = RunConfig(
    rounds=2,
    local_steps=1,
    settings=Settings(steps=0, batch=2, channels=8, blocks=1, extractor_blocks=1, seed=11),
    quorum=1,
    probe_pictures=1,
    max_refused=1,
)


@dataclass
class Section:
    """What stands below one heading."""

    rows: list[list[str]] = field(default_factory=list)
    text: str = ""
    charts: list[dict[str, int]] = field(default_factory=list)


class Shown(HTMLParser):
    """The document that the browser has made of the page: its elements, and tables and charts by heading."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.title = ""
        self.sections: dict[str, Section] = {}
        self._heading = ""
        self._within = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        section = self.sections.setdefault(self._heading, Section())
        if tag in ("h2", "h3"):
            self._within, self._heading = tag, ""
        elif tag == "title":
            # a chart has one too
            self._within = "chart's" if section.charts else tag
        elif tag == "tr":
            section.rows.append([])
        elif tag in ("td", "th"):
            section.rows[-1].append("")
            self._within = "cell"
        elif tag == "svg":
            section.charts.append({})
        elif section.charts and tag in ("polyline", "circle", "rect"):
            section.charts[-1][tag] = section.charts[-1].get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3", "title", "td", "th"):
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
            return
        if self._within in ("h2", "h3"):
            self._heading += data
            return
        section = self.sections.setdefault(self._heading, Section())
        section.text += data
        if self._within == "cell":
            section.rows[-1][-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FederationResult]:
    """Two hospitals and two rounds; in the second one the second hospital sends what nobody asked for."""
    place = tmp_path_factory.mktemp("page")
    nodes = []
    for hospital in range(2):
        folder = place / f"hospital-{hospital}"
        folder.mkdir()
        for i in range(2):
            Image.fromarray(phantom(700 + 10 * hospital + i)).save(folder / f"p{i}.png")
        nodes.append({"images": str(folder)})
    trained: list[Message] = []

    def fault(reply: Message) -> Message:
        if ex.ARRAYS in reply.content:
            trained.append(reply)
            if len(trained) == 2:
                reply.content.array_records[ex.ARRAYS][HOSTILE] = Array(np.zeros(1, np.float32))
        return reply

    return place / "run", run_federation(app, nodes, CONFIG, folder=place / "run", faults={1: fault})


@pytest.fixture(scope="module")
def address(run: tuple[Path, FederationResult]) -> Iterator[str]:
    """Where the run is served; the server must end on SIGTERM and have nothing to complain of."""
    command = [sys.executable, "-m", "medprov_coordinator.cli", "serve", "--dir", str(run[0]), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.fullmatch(r"watching at (http://127\.0\.0\.1:\d+)/\n", line)
        if found is None:
            server.terminate()
            pytest.fail(f"{line!r}: {server.communicate(timeout=60)[1]}")
        yield found[1]
    finally:
        server.terminate()
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (-signal.SIGTERM, "", "")


def browse(profile: Path, *arguments: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def overview(address: str, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(browse(tmp_path_factory.mktemp("profile"), "--dump-dom", f"{address}/"))


def test_rounds_and_members(run: tuple[Path, FederationResult], overview: Shown) -> None:
    folder, result = run
    first, second = result.rounds
    rows = overview.sections["Rounds"].rows
    assert rows[0][:6] == ["Round", "Accepted", "Rejected", "Rule", "Score", "Loss"]
    assert [row[:6] for row in rows[1:]] == [
        [
            str(one.number),
            accepted,
            rejected,
            one.rule,
            words.number(one.probe["score"]),
            words.number(one.probe["loss"]),
        ]
        for one, accepted, rejected in ((second, "1", "1"), (first, "2", "0"))
    ]
    assert [row[6:8] for row in rows[1:]] == [
        [words.size(r.bytes_down), words.size(r.bytes_up)] for r in (second, first)
    ]
    # the log has told how long each took
    assert all(re.fullmatch(r"[0-9.]+ s", row[8]) and row[9] == "no chain" for row in rows[1:])
    members = {row[2]: row for row in overview.sections["Members"].rows[1:]}
    assert {node: row[3:6] for node, row in members.items()} == {"101": ["2", "0", "2"], "102": ["1", "1", "1"]}
    loss = words.number(second.sites[101]["loss"])
    assert members["101"][6].startswith(f"loss {loss}, bit accuracy ") and members["102"][8].startswith("malformed: ")
    log = verify(folder / FILE)
    assert f"{log.entries} lines, chain of hashes whole, head {log.head.hex()[:16]}" in overview.sections[""].text
    assert overview.sections["Audit log"].rows[1][0] == str(log.entries)


def test_the_rejected_update_is_shown_with_its_reason_and_does_nothing(overview: Shown) -> None:
    (row,) = overview.sections["Rejected updates"].rows[1:]
    assert row[:3] == ["2", "node 102", "malformed"] and HOSTILE in row[3]
    assert overview.title == "Federated training"
    assert not overview.tags & {"script", "img", "iframe", "object", "form"}
    assert "None." in overview.sections["Refused rounds"].text


def test_charts_are_drawn(run: tuple[Path, FederationResult], overview: Shown) -> None:
    first, second = run[1].rounds
    drawn = {title: section for title, section in overview.sections.items() if section.charts}
    assert list(drawn) == [
        "Score on the public pictures",
        "Loss",
        "Loss of each site",
        "Bit accuracy of each site",
        "Updates of each round",
        "Bytes of each round",
        "Time of each round",
    ]
    score = drawn["Score on the public pictures"]
    assert score.charts[0]["polyline"] == 1 and score.charts[0]["circle"] == 2
    assert score.rows[1:] == [[str(one.number), words.number(one.probe["score"])] for one in (second, first)]
    # a hospital whose update was not used has a point for the first round only
    sites = drawn["Loss of each site"].charts[0]
    assert [sorted(one.sites) for one in (first, second)] == [[101, 102], [101]]
    assert (sites["polyline"], sites["circle"]) == (1, 3)
    # bars for what was accepted, twice, and for what was rejected, once
    assert drawn["Updates of each round"].rows == [["Round", "accepted", "rejected"], ["2", "1", "1"], ["1", "2", "0"]]
    named = 2
    assert drawn["Updates of each round"].charts[0]["rect"] == named + 3


def test_one_round(run: tuple[Path, FederationResult], address: str, tmp_path: Path) -> None:
    second = run[1].rounds[1]
    shown = Shown(browse(tmp_path, "--dump-dom", f"{address}/round/2"))
    text = shown.sections[""].text
    for digest in (second.base, second.model, second.root, second.metrics_hash().hex(), second.audit):
        assert digest in text
    assert "computed again from the updates' digests and signatures: the same" in text
    assert second.updates[0].digest in shown.sections["node 101"].text and "node 102" not in shown.sections
    (row,) = shown.sections["Rejected updates"].rows[1:]
    assert row[:3] == ["node 102", "102", "malformed"] and HOSTILE in row[3] and shown.title == "Round 2"


@pytest.mark.parametrize("width", [1280, 400])
def test_a_picture_of_the_page(address: str, tmp_path: Path, width: int) -> None:
    file = tmp_path / "page.png"
    height = 2400
    browse(tmp_path / "profile", f"--screenshot={file}", f"--window-size={width},{height}", f"{address}/")
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert picture.shape == (height, width, 3)
    paper = picture[0, 0]
    assert tuple(paper) == (255, 255, 255)
    written = (picture != paper).any(axis=2)
    # text and drawings from top to bottom, and a chart in the colours of the style sheet
    assert all(band.mean() > 0.005 for band in np.array_split(written, 8))
    assert (picture == np.asarray(FIRST_SERIES)).all(axis=2).sum() > 50
    # nothing is wider than the page: its margins are empty
    assert not written[:, :8].any() and not written[:, -8:].any()
