import io
import json
import logging
import socket
import struct
import tempfile
import threading
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from medprov_sdk import Verification
from medprov_sdk.errors import SdkError, UnreadableError
from medprov_sdk.server import ENVELOPE, LIMIT, PIXELS, create_app, serve
from medprov_watermark.pixels import Pixels

JSON = {"Accept": "application/json"}
FORM = "multipart/form-data; boundary=a"


class Tags(HTMLParser):
    """Collects tags, and sees that what opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class Fake:
    """Stands for the verifier: gives what it was given, and sees who asks, with what, and how many at once."""

    def __init__(self, result: Verification) -> None:
        self.result = result
        self.seen: list[tuple[Pixels, str | None]] = []
        self.error: BaseException | None = None
        self.inside = self.most = 0
        self.gate = threading.Event()
        self.gate.set()

    def verify(self, image: Pixels, *, source: str | None = None) -> Verification:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            self.gate.wait(10)
            if self.error is not None:
                raise self.error
            self.seen.append((image, source))
            return replace(self.result, source=source or "")
        finally:
            self.inside -= 1


def png(array: np.ndarray | None = None) -> bytes:
    out = io.BytesIO()
    picture = np.arange(32 * 40, dtype=np.uint8).reshape(32, 40) if array is None else array
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def fake(world: Any) -> Fake:
    image = world.phantom()
    world.release(image, world.alice)
    return Fake(world.verifier.verify(image))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files; empty again when a request is done."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def client(fake: Fake, temporary: Path) -> TestClient:
    return TestClient(create_app(fake))


def post(client: TestClient, data: bytes, name: str = "scan.png", field: str = "file", **more: Any) -> Any:
    return client.post("/verify", files={field: (name, data)}, **more)


def error_of(answer: Any, status: int) -> str:
    assert answer.status_code == status
    text: str = answer.json()["error"]
    assert text and "\n" not in text and "Traceback" not in text
    return text


def test_the_form_is_a_whole_page_without_scripts(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    html = answer.text
    tags = Tags(html).tags
    assert {"form", "label", "button", "main", "h1"} <= tags and "script" not in tags
    for part in ('<html lang="en">', '<label for="file">', 'enctype="multipart/form-data"', 'action="/verify"'):
        assert part in html
    assert "http://" not in html and "https://" not in html
    assert "at most 64 MiB and 16 million pixels" in html


def test_health_answers_while_a_picture_is_verified(client: TestClient, fake: Fake) -> None:
    fake.gate.clear()
    with client:
        waiting = threading.Thread(target=post, args=(client, png()))
        waiting.start()
        try:
            answer = client.get("/health")
        finally:
            fake.gate.set()
            waiting.join()
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_picture_gets_a_page(client: TestClient, fake: Fake, temporary: Path) -> None:
    picture = np.arange(32 * 40, dtype=np.uint8).reshape(32, 40)
    answer = post(client, png(picture))
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    Tags(answer.text)
    assert "authentic" in answer.text and "scan.png" in answer.text and "data:image/png;base64," in answer.text
    ((pixels, source),) = fake.seen
    assert np.array_equal(pixels.array, picture) and source == "scan.png"
    assert list(temporary.iterdir()) == []


def test_json_by_header_and_by_query(client: TestClient, fake: Fake) -> None:
    expected = replace(fake.result, source="scan.png").to_json()
    assert post(client, png(), headers=JSON).json() == json.loads(json.dumps(expected))
    answer = client.post("/verify?format=json", files={"file": ("scan.png", png())})
    assert answer.json() == json.loads(json.dumps(expected))
    answer = client.post("/verify?format=html", files={"file": ("scan.png", png())}, headers=JSON)
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/", "/health", "/nothing"])
def test_every_answer_is_private_and_runs_no_script(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("data", [b"", b"no picture", png()[:60], b"\x89PNG\r\n\x1a\n", b"DICM" * 100, bytes(4096)])
def test_what_is_no_picture_is_one_line(client: TestClient, data: bytes, temporary: Path) -> None:
    text = error_of(post(client, data, headers=JSON), 400)
    assert text.startswith("scan.png: ") and str(temporary) not in text
    assert list(temporary.iterdir()) == []
    page = post(client, data)
    assert page.status_code == 400 and 'role="alert"' in page.text and "scan.png: " in page.text
    Tags(page.text)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/octet-stream"),
        (png(), "image/png"),
        (b"file=x", "application/x-www-form-urlencoded"),
        (b"", "multipart/form-data"),
        (b"x", "multipart/form-data"),
        (b"", FORM),
        (b"nonsense", FORM),
        (b"--a\r\n\r\n", FORM),
        (b"--a\r\nContent-Disposition: form-data\r\n\r\nx\r\n--a--\r\n", FORM),
        (b"--a\r\n\xff\xfe: \xff\r\n\r\nx\r\n--a--\r\n", FORM),
        (b'--a\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--a--\r\n', FORM),
        (b'--a\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n', FORM),
        (b"--" + b"a" * 300 + b"\r\n", "multipart/form-data; boundary=" + "a" * 300),
        (b"x", "multipart/form-data; boundary=\xff"),
    ],
)
def test_what_is_no_form_is_one_line(client: TestClient, fake: Fake, content: bytes, kind: str) -> None:
    error_of(client.post("/verify", content=content, headers={**JSON, "Content-Type": kind.encode("latin-1")}), 400)
    assert fake.seen == []


def test_another_field_or_no_name_is_one_line(client: TestClient) -> None:
    assert "no picture in the field 'file'" in error_of(post(client, png(), field="image", headers=JSON), 400)
    # what a browser sends when no file was chosen
    empty = b'--a\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--a--\r\n'
    headers = {**JSON, "Content-Type": FORM}
    assert "choose a file" in error_of(client.post("/verify", content=empty, headers=headers), 400)


def test_many_files_and_fields_are_one_line(client: TestClient) -> None:
    two = [("file", ("a.png", png())), ("file", ("b.png", png()))]
    error_of(client.post("/verify", files=two, headers=JSON), 400)
    fields = {f"f{i}": "x" for i in range(9)}
    error_of(client.post("/verify", files={"file": ("a.png", png())}, data=fields, headers=JSON), 400)
    long = {"note": "x" * (ENVELOPE + 1)}
    error_of(client.post("/verify", files={"file": ("a.png", png())}, data=long, headers=JSON), 400)


def test_a_picture_of_the_limit_is_taken_and_one_byte_more_is_not(fake: Fake, temporary: Path) -> None:
    client = TestClient(create_app(fake, limit=len(png())))
    assert post(client, png()).status_code == 200
    assert "larger than" in error_of(post(client, png() + b"\0", headers=JSON), 413)
    assert "larger than" in error_of(post(client, bytes(ENVELOPE + 2 * len(png())), headers=JSON), 413)
    assert len(fake.seen) == 1 and list(temporary.iterdir()) == []


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises so many pixels, and none of them."""
    kind = b"IHDR" + struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + kind + struct.pack(">I", zlib.crc32(kind))


def test_a_small_file_with_too_many_pixels_is_refused_before_it_is_decoded(
    client: TestClient, fake: Fake, temporary: Path
) -> None:
    text = error_of(post(client, bomb(8192, 8192), headers=JSON), 413)
    assert (
        text == f"scan.png: more than {PIXELS} pixels, which this page does not take; verify it with 'medprov verify'"
    )
    page = post(client, bomb(8192, 8192))
    assert page.status_code == 413 and 'role="alert"' in page.text
    assert fake.seen == [] and list(temporary.iterdir()) == []
    # as many as are taken: what is wrong with this file is something else
    assert "cut off" in error_of(post(client, bomb(4096, 4096), headers=JSON), 400)


def test_the_limit_of_pixels_can_be_set(fake: Fake) -> None:
    assert post(TestClient(create_app(fake, pixels=32 * 40)), png()).status_code == 200
    assert "more than 1279 pixels" in error_of(
        post(TestClient(create_app(fake, pixels=1279)), png(), headers=JSON), 413
    )


def test_a_body_without_a_length_is_cut_off_at_the_limit(fake: Fake) -> None:
    client = TestClient(create_app(fake, limit=1000))
    sent = 0

    def pieces() -> Any:
        nonlocal sent
        yield b'--a\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n\r\n'
        for _ in range(40):
            sent += ENVELOPE
            yield bytes(ENVELOPE)

    headers = {**JSON, "Content-Type": FORM}
    error_of(client.post("/verify", content=pieces(), headers=headers), 413)
    assert fake.seen == []


def test_a_declared_length_that_is_too_large_is_refused_at_once(client: TestClient) -> None:
    headers = {**JSON, "Content-Type": FORM, "Content-Length": str(LIMIT + ENVELOPE + 1)}
    assert "64 MiB" in error_of(client.post("/verify", content=b"x", headers=headers), 413)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a.png", "a.png"),
        ("a\x1b[2Jb.png", "a?[2Jb.png"),
        ("<script>alert(1)<script>.png", "<script>alert(1)<script>.png"),
        ("é" * 300, "é" * 120),
        ("folder/", "picture"),
    ],
)
def test_the_name_is_only_shown(client: TestClient, fake: Fake, given: str, shown: str) -> None:
    answer = post(client, png(), name=given)
    assert answer.status_code == 200
    assert fake.seen[0][1] == shown
    assert "script" not in Tags(answer.text).tags
    assert "script" not in Tags(post(client, b"x", name=given).text).tags


def test_what_the_verifier_cannot_read_is_one_line(client: TestClient, fake: Fake) -> None:
    fake.error = UnreadableError("array of shape (0,): give another")
    assert error_of(post(client, png(), headers=JSON), 400) == "array of shape (0,): give another"
    fake.error = MemoryError()
    assert "memory" in error_of(post(client, png(), headers=JSON), 413)


def test_a_failing_verifier_is_one_line_and_the_log_has_the_rest(
    client: TestClient, fake: Fake, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.error = RuntimeError("secret detail")
    with caplog.at_level(logging.ERROR):
        text = error_of(post(client, png(), headers=JSON), 500)
    assert "secret" not in text and "secret detail" in caplog.text
    page = post(client, png())
    assert page.status_code == 500 and "secret" not in page.text
    assert list(temporary.iterdir()) == []
    fake.error = None
    assert post(client, png()).status_code == 200, "the lock is free again"


def test_one_picture_at_a_time(client: TestClient, fake: Fake) -> None:
    fake.gate.clear()
    with client:
        threads = [threading.Thread(target=post, args=(client, png())) for _ in range(4)]
        for thread in threads:
            thread.start()
        fake.gate.set()
        for thread in threads:
            thread.join()
    assert (len(fake.seen), fake.most) == (4, 1)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/verify", 405), ("POST", "/", 405), ("GET", "/docs", 404), ("GET", "/openapi.json", 404)],
)
def test_other_paths_and_methods(client: TestClient, method: str, path: str, status: int) -> None:
    assert "the form is at /" in error_of(client.request(method, path, headers=JSON), status)


def test_an_address_that_is_taken_is_one_line(fake: Fake) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SdkError, match=rf"127\.0\.0\.1:{port}: cannot be taken \(.*\); name another"):
            serve(fake, port=port)
    with pytest.raises(SdkError, match=r"192\.0\.2\.1:0: cannot be taken"):
        serve(fake, host="192.0.2.1", port=0)
    with pytest.raises(SdkError, match="not an address of this machine"):
        serve(fake, host="no such host", port=0)
