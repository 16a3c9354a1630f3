"""The verification page: one form, one verdict, for people and for programs.

The picture lies on the disk while it is read, in a folder of its own that goes with the request, and nothing else of
it is kept. There is no login and no encryption on the wire: beyond the own machine it belongs behind a reverse proxy
that has both.
"""

from __future__ import annotations

import logging
import socket
import string
import tempfile
from collections.abc import Awaitable, Callable
from html import escape
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Protocol

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from medprov_ledger import terminal
from medprov_sdk.errors import SdkError
from medprov_sdk.report import page
from medprov_sdk.verification import Verification
from medprov_watermark import media
from medprov_watermark.errors import MediaError
from medprov_watermark.pixels import Pixels

LIMIT = 64 * 2**20
"""Largest picture that is taken, bytes."""
PIXELS = 2**24
"""Most pixels of a picture that is taken, for example 4096 x 4096; a small file can hold very many of them."""
ENVELOPE = 2**16
"""What the form around the picture may add, bytes."""
CONNECTIONS = 16
"""Requests at the same time; further ones are told to come again. Each may have `LIMIT` bytes on the disk."""
FIELD = "file"

_log = logging.getLogger(__name__)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # a report may show a patient's picture
    "Cache-Control": "no-store",
}
_PAGE = string.Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 12pt/1.5 Georgia, serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; color: #111;
  background: #fff }
h1 { font-size: 1.5rem }
form { border: 2px solid #555; padding: 1rem }
label { display: block; font-weight: bold }
input, button { font: inherit; margin-top: .5rem }
button { padding: .3rem 1.2rem }
:focus-visible { outline: 3px solid #0b57d0; outline-offset: 2px }
.error { border: 3px solid #a31515; padding: .6rem 1rem }
@media print { form { display: none } body { margin: 0 } }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
"""
)
_FORM = f"""<p>Find out who has released a medical picture, and whether it is still as it was released.</p>
<form action="/verify" method="post" enctype="multipart/form-data">
<label for="{FIELD}">Picture</label>
<input type="file" id="{FIELD}" name="{FIELD}" required aria-describedby="what">
<p id="what">PNG, TIFF, JPEG or DICOM, at most {LIMIT // 2**20} MiB and {PIXELS // 2**20} million pixels.
It is not kept.</p>
<button type="submit">Verify</button>
</form>
<p>Programs post the same form with <code>Accept: application/json</code>.</p>"""


class Judge(Protocol):
    """What is needed of :class:`medprov_sdk.verifier.Verifier`."""

    def verify(self, image: Pixels, *, source: str | None = None) -> Verification:
        """Verify one picture."""


class _Refused(Exception):  # noqa: N818 - an answer, not an error of this program
    """A request that gets one line instead of a verdict."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def create_app(verifier: Judge, limit: int = LIMIT, pixels: int = PIXELS) -> FastAPI:
    """The web application around one verifier.

    Parameters
    ----------
    verifier : Judge
        Used by one request at a time.
    limit : int
        Largest picture, bytes.
    pixels : int
        Largest picture, pixels; looked up in its header before anything is decoded.
    """
    app = FastAPI(title="medprov", docs_url=None, redoc_url=None, openapi_url=None)
    lock = Lock()

    @app.middleware("http")
    async def headers(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await proceed(request)
        # whatever it is, the visitor gets one line and the log gets the rest
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            response = _say(request, HTTPStatus.INTERNAL_SERVER_ERROR, "the verifier failed; its log says why")
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        text = f"{request.method} {request.url.path}: {status.phrase.lower()}; the form is at /"
        return _say(request, status, text, error.headers)

    @app.get("/", response_class=HTMLResponse)
    async def form() -> str:
        return _PAGE.substitute(title="Verify a medical picture", body=_FORM)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/verify")
    async def verify(request: Request) -> Response:
        try:
            upload = await _upload(request, limit)
            try:
                return await run_in_threadpool(_judge, verifier, lock, upload, pixels, _wants_json(request))
            finally:
                await upload.close()
        except _Refused as refused:
            return _say(request, refused.status, refused.text)

    return app


def serve(verifier: Judge, host: str = "127.0.0.1", port: int = 8080, limit: int = LIMIT) -> None:
    """Serve until SIGINT or SIGTERM; says on standard output where, once it listens.

    Parameters
    ----------
    verifier : Judge
    host : str
    port : int
        0 takes a free one.
    limit : int
        Largest picture, bytes.

    Raises
    ------
    SdkError
        The address cannot be taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
    except (OSError, UnicodeError, OverflowError) as error:
        raise SdkError(f"{host}:{port}: not an address of this machine ({error}); name another with --host") from None
    with listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SdkError(f"{host}:{port}: cannot be taken ({reason}); name another with --host and --port") from None
        shown = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(
            create_app(verifier, limit),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=10,
        )
        terminal.say(f"verifying at http://{shown}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])


async def _upload(request: Request, limit: int) -> UploadFile:
    """The file of the form, of at most `limit` bytes."""
    bound = limit + ENVELOPE
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > bound:
        await _throw_away(request, limit)
        raise _limit(limit)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise _Refused(HTTPStatus.BAD_REQUEST, f"no form; post multipart/form-data with a field '{FIELD}'")
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > bound:
            # a body without a declared length is cut off here
            if message.get("more_body"):
                await _throw_away(request, limit)
            raise _limit(limit)
        return message

    # the declared length is checked above and the true one here, before the parser writes to the disk
    counted = Request(request.scope, receive)
    try:
        fields = await counted.form(max_files=1, max_fields=4, max_part_size=ENVELOPE)
    except (HTTPException, FormParserError) as error:
        why = " ".join(str(getattr(error, "detail", error)).split())[:200]
        raise _Refused(HTTPStatus.BAD_REQUEST, f"the form cannot be read ({why}); send it again") from None
    except ClientDisconnect:
        raise _Refused(HTTPStatus.BAD_REQUEST, "the picture did not come to its end; send it again") from None
    upload = fields.get(FIELD)
    if not isinstance(upload, UploadFile) or not upload.filename:
        await fields.close()
        raise _Refused(HTTPStatus.BAD_REQUEST, f"no picture in the field '{FIELD}'; choose a file")
    if (upload.size or 0) > limit:
        await fields.close()
        raise _limit(limit)
    return upload


async def _throw_away(request: Request, limit: int) -> None:
    """Read a little on, so that a browser shows the answer and not a broken connection."""
    thrown = 0
    while thrown <= limit:
        message = await request.receive()
        thrown += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            break


def _limit(limit: int) -> _Refused:
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit} bytes"
    return _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"larger than {size}; verify it with 'medprov verify'")


def _judge(verifier: Judge, lock: Lock, upload: UploadFile, limit: int, as_json: bool) -> Response:
    """Read, verify and answer, in a worker thread and one at a time: pictures and networks take much memory."""
    name = _name(upload.filename)
    with lock, tempfile.TemporaryDirectory(prefix="medprov-") as folder:
        file = Path(folder) / "picture"
        try:
            with file.open("wb") as copy:
                while piece := upload.file.read(2**20):
                    copy.write(piece)
            picture = media.read(file, max_pixels=limit)
            file.unlink()
            result = verifier.verify(picture, source=name)
            return JSONResponse(result.to_json()) if as_json else HTMLResponse(page(result, picture.array))
        except media.TooManyPixelsError:
            text = f"{name}: more than {limit} pixels, which this page does not take; verify it with 'medprov verify'"
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text) from None
        except (MediaError, SdkError) as error:
            text = " ".join(str(error).replace(str(file), name).split())
            raise _Refused(HTTPStatus.BAD_REQUEST, text) from None
        except MemoryError:
            text = f"{name}: the memory does not suffice; verify a smaller picture"
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text) from None


def _name(given: str | None) -> str:
    """The visitor's name of the file, fit to be shown."""
    last = (given or "").replace("\\", "/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in last)[:120] or "picture"


def _wants_json(request: Request) -> bool:
    chosen = request.query_params.get("format")
    if chosen is not None:
        return chosen == "json"
    return "application/json" in request.headers.get("accept", "")


def _say(request: Request, status: HTTPStatus, text: str, headers: object = None) -> Response:
    """One line, as JSON or as a page."""
    more = dict(headers) if isinstance(headers, dict) else None
    if _wants_json(request):
        return JSONResponse({"error": text}, status, more)
    body = f'<p class="error" role="alert">{escape(text)}</p>\n<p><a href="/">Verify a picture</a></p>'
    return HTMLResponse(_PAGE.substitute(title="Not verified", body=body), status, more)
