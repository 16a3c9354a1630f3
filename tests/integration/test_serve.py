"""A visitor's browser, a verification page, a chain: all of them real."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")


def run(folder: Path, module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A federation, and a picture that its first hospital has marked."""
    place = tmp_path_factory.mktemp("serve")
    low = (np.random.default_rng(5).random((9, 9)) * 200 + 20).astype(np.uint8)
    Image.fromarray(low).resize((160, 128), Image.Resampling.BICUBIC).save(place / "cover.png")
    run(place, "medprov_ledger", "up")
    try:
        run(place, "medprov_node.cli", "mark", "cover.png", "marked.png")
        yield place
    finally:
        run(place, "medprov_ledger", "down")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where a verifier without any keys serves; it must end within a few seconds of SIGTERM."""
    command = [sys.executable, "-m", "medprov_sdk", "serve", "--config", ".medprov/verifier.toml", "--port", "0"]
    # ONNX Runtime's telemetry would leave a file of its own among the temporary ones
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "temporary"), "ORT_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **own}
    (folder / "temporary").mkdir()
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.fullmatch(r"verifying at (http://127\.0\.0\.1:\d+)/\n", line)
        if found is None:
            pytest.fail(f"{line!r}: {server.communicate(timeout=30)[1]}")
        yield found[1]
    finally:
        server.terminate()
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (-signal.SIGTERM, "", "")
    assert list((folder / "temporary").iterdir()) == []


def post(address: str, file: Path, accept: str) -> tuple[int, str]:
    boundary = "picture-boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
    body = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": accept}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}/verify", body, headers), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health(address: str) -> None:
    with urllib.request.urlopen(f"{address}/health", timeout=30) as answer:
        assert json.load(answer) == {"status": "ok"}


def test_a_marked_picture_a_changed_one_and_none(folder: Path, address: str) -> None:
    status, text = post(address, folder / "marked.png", "application/json")
    found = json.loads(text)
    assert (status, found["verdict"], found["source"]) == (200, "authentic", "marked.png")
    assert found["transaction"].startswith("0x")
    assert found["metadata"]["state"] == "matches"

    picture = np.asarray(Image.open(folder / "marked.png")).copy()
    picture[40:60, 40:60] = 255 - picture[40:60, 40:60]
    Image.fromarray(picture).save(folder / "changed.png")
    status, text = post(address, folder / "changed.png", "text/html")
    assert status == 200 and "<b>tampered</b>" in text and "Metadata: <b>matches</b>" in text
    assert "data:image/png;base64," in text

    assert json.loads(post(address, folder / "cover.png", "application/json")[1])["verdict"] == "unknown"
    (folder / "no.png").write_bytes(b"no picture")
    status, text = post(address, folder / "no.png", "application/json")
    assert status == 400 and json.loads(text)["error"].startswith("no.png: ")


def test_an_upload_that_is_too_large(folder: Path, address: str) -> None:
    with (folder / "large.png").open("wb") as file:
        file.truncate(65 * 2**20)
    status, text = post(address, folder / "large.png", "application/json")
    assert (status, json.loads(text)) == (413, {"error": "larger than 64 MiB; verify it with 'medprov verify'"})


def test_a_small_file_with_very_many_pixels(folder: Path, address: str) -> None:
    row = b"\0" + bytes(8192 * 6)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(8192)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">2I5B", 8192, 8192, 16, 2, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b""))
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert (folder / "bomb.png").stat().st_size < 2**19
    status, text = post(address, folder / "bomb.png", "application/json")
    assert status == 413 and "more than 16777216 pixels" in json.loads(text)["error"]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")
def test_the_form_in_a_browser(folder: Path, address: str) -> None:
    profile = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    shown = subprocess.run(
        [str(CHROMIUM), *profile, "--dump-dom", f"{address}/"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Verify a medical picture" in shown.stdout and 'type="file"' in shown.stdout
    page = folder / "form.pdf"
    subprocess.run(
        [str(CHROMIUM), *profile, f"--print-to-pdf={page}", f"{address}/"], capture_output=True, timeout=120, check=True
    )
    assert page.read_bytes().startswith(b"%PDF")
