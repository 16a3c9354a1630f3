"""The demo as a newcomer runs it, on a machine without Node."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medprov_ledger import embedded

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_as_it_must(tmp_path: Path) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [f for f in folders if not (Path(f) / "node").exists() and not (Path(f) / "anvil").exists()]
    env = {**os.environ, "PATH": os.pathsep.join(kept), "COLUMNS": "160"}
    env.pop(embedded.CHAIN, None)
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--dir", str(tmp_path / "demo")],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert shutil.which("node", path=env["PATH"]) is None
    assert "all as it must be" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    for verdict in ("authentic", "authentic_derived", "tampered", "unknown", "copied_mark"):
        assert f">{verdict}<" in page
    assert page.count("data:image/png;base64,") >= 12


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--dir", str(tmp_path / "file" / "demo")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert "Traceback" not in done.stderr
