"""Every benchmark runs in its quick form and writes what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medprov_watermark.detection import DEGREES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("restore", lambda d: d["1 threads"]["failed"] == d["2 threads"]["failed"] == 0 < d["1 threads"]["restored"]),
        (
            "false_alarm",
            lambda d: d["payloads"] == d["integrity_marks"] == 0 and d["degrees_of_freedom_least"] > DEGREES,
        ),
        (
            "robustness",
            lambda d: (
                d["methods"]["medprov"]["summary"]["restored"]["hits"] == 2
                and d["methods"]["medprov"]["summary"]["exact"]["all"]["none"]["percent"] == 100
            ),
        ),
        (
            "speed",
            lambda d: (
                set(d["seconds_per_megapixel"]["medprov"]["256"]) == {"mark", "read", "restore", "verify"}
                and d["large"]["peak_mib"] > d["large"]["loaded_mib"] > 0 < d["batch"]["marked_per_second"]
            ),
        ),
        (
            "amplitudes",
            lambda d: (
                d["summary"]["attacks_survived_mean"] > 0.5
                and all(38 < r[kind] < 60 for r in d["rows"] for kind in ("tuned", "uniform"))
            ),
        ),
        (
            "roi",
            lambda d: (
                [r["mode"] for r in d["rows"]] == ["off", "attenuate", "strict"]
                and d["dice"]["drawn"]["mean"] > 0.6
                and all(r["restored"] for r in d["rows"])
                and d["rows"][2]["changed inside"] == 0 < d["rows"][0]["changed inside"]
                and d["rows"][1]["inside"] > d["rows"][1]["outside"]
            ),
        ),
        (
            "tradeoff",
            lambda d: (
                [e["floor"] for e in d["summary"]] == [43, 47]
                and d["summary"][0]["psnr"]["mean"] < d["summary"][1]["psnr"]["mean"]
                and d["summary"][0]["exact"]["all"]["jpeg30"]["n"] == 1
            ),
        ),
        (
            "search",
            lambda d: (
                d["summary"]["read"]["window of 90 %"]["search"]["hits"] == 1
                and d["summary"]["read"]["turned by 15 degrees"]["map"]["hits"] == 1
                and d["summary"]["seconds"]["windows"]["min"] > 0
            ),
        ),
        ("drift", lambda d: len(d["ways"]) == 6 and all(0 <= w["38"]["exact"] <= 1 for w in d["ways"].values())),
        ("verify_time", lambda d: d["warm_seconds_median"] > 0),
        ("crash", lambda d: d["good"] == d["runs"] == 2 and sum(d["kills"].values()) > 0),
    ],
)
def test_quick_form(name: str, check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert check(json.loads(out.read_text()))


@pytest.mark.slow
def test_plots_without_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.plots", "--quick", "--json", "no such file", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    assert done.stderr.startswith("no curves: ")


@pytest.mark.parametrize("name", ["robustness", "speed"])
def test_an_unknown_peer_is_one_line(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--peer", "nobody"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: peer nobody: unknown; there are ") and done.stderr.count("\n") == 1
