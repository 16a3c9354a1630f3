"""Bounded exchanges with an IPFS daemon's RPC interface (``/api/v0``), over the standard library's HTTP client.

The daemon is not trusted: an answer is read up to a stated size and no further, the whole ends by a deadline whatever
comes how slowly, and nothing leads elsewhere: no redirect, no proxy from the environment, no compression.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from . import nesting
from .errors import StoreError, UnreachableError

ATTEMPTS = 3
"""How often a request is sent where the daemon is away or says that it is busy."""
PAUSE = 0.1
"""Seconds before the second attempt; each further pause is twice as long."""
MAX_ANSWER = 1 << 16
"""Largest answer other than a block, bytes."""
DEEPEST = 32
"""Levels of lists and objects in such an answer."""

_MULTIADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/([0-9]{1,5})(/http|/https|/tls/http)?/?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_BUSY = (429, 502, 503, 504)
_PIECE = 1 << 16


@dataclass(frozen=True)
class Address:
    """Where a daemon listens.

    Parameters
    ----------
    host : str
    port : int
    tls : bool
    """

    host: str
    port: int
    tls: bool


def address(text: str) -> Address:
    """Read a multiaddress (``/ip4/127.0.0.1/tcp/5001/http``) or a URL (``http://127.0.0.1:5001``).

    Raises
    ------
    StoreError
    """
    found = _MULTIADDRESS.fullmatch(text)
    if found:
        kind, host, port, protocol = found.groups()
        if _is_host(host, kind) and 0 < int(port) < 65536:
            return Address(host, int(port), protocol in ("/https", "/tls/http"))
    elif text.startswith(("http://", "https://")):
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", url.port
        except ValueError:
            host, port = "", None
        # a user and password would be shown in every message that names the daemon
        named = _NAME.fullmatch(host) or _is_host(host, "ip6")
        if named and port and "@" not in url.netloc and url.path in ("", "/") and not url.query and not url.fragment:
            return Address(host, port, url.scheme == "https")
    raise StoreError(f"{text[:300]!r}: not a daemon's multiaddress; write /ip4/HOST/tcp/PORT/http or http://HOST:PORT")


def _is_host(host: str, kind: str) -> bool:
    if kind not in ("ip4", "ip6"):
        return _NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == int(kind[2])
    except ValueError:
        return False


class RefusedError(StoreError):
    """The daemon understood and says no.

    Parameters
    ----------
    message : str
    reason : str
        In the daemon's words.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Stop:
    """Ends the sessions that were given it, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._over = False

    def add(self, session: Session) -> None:
        """End `session` too, at once if the others were ended already."""
        with self._lock:
            self._sessions.append(session)
            over = self._over
        if over:
            session.end()

    def now(self) -> None:
        """End all."""
        with self._lock:
            self._over = True
            sessions = list(self._sessions)
        for session in sessions:
            session.end()


class Session:
    """Exchanges over one connection that serve one purpose and end together; a context manager.

    Parameters
    ----------
    api : str
        See :func:`address`.
    purpose : str
        What the daemon failed to do, for messages: ``did not store an object``.
    timeout : float
        Seconds that the daemon may be silent.
    total : float
        Seconds that everything may take.
    stop : Stop or None

    Raises
    ------
    StoreError
        `api` cannot be read.
    """

    def __init__(self, api: str, purpose: str, timeout: float, total: float, stop: Stop | None = None) -> None:
        self.api, self.purpose, self.total = api, purpose, total
        place = address(api)
        kind = http.client.HTTPSConnection if place.tls else http.client.HTTPConnection
        self._connection = kind(place.host, place.port, timeout=min(timeout, total))
        self._timeout = min(timeout, total)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._over = threading.Event()
        self._timer = threading.Timer(total, self.end)
        self._timer.daemon = True
        self._stop = stop

    def __enter__(self) -> Session:
        self._timer.start()
        if self._stop is not None:
            self._stop.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._socket = None
        self._connection.close()

    def end(self) -> None:
        """Cut the connection, from any thread: whoever waits for the daemon fails at once."""
        self._over.set()
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    self._socket = None  # the other side was faster

    def post(
        self, command: str, arguments: Mapping[str, str], limit: int = MAX_ANSWER, upload: bytes | None = None
    ) -> bytes:
        """Call `command`; where the daemon is away or busy, again after a pause, :data:`ATTEMPTS` times in all.

        Parameters
        ----------
        command : str
            Such as ``block/get``.
        arguments : mapping of str to str
        limit : int
            Largest answer, bytes.
        upload : bytes or None
            A file to send along.

        Raises
        ------
        UnreachableError
            Nobody answers.
        RefusedError
        StoreError
            Too slow, too much, cut off, a redirect, a status or protocol that is none of the interface's.
        """
        path = f"/api/v0/{command}?{urlencode(arguments)}"
        attempt = 1
        while True:
            try:
                status, answer = self._exchange(path, upload, limit)
                problem: Exception | None = None
            except TimeoutError:
                raise self._late(self._timeout) from None
            except (ConnectionError, socket.gaierror, UnicodeError) as error:  # the last: no name that DNS takes
                status, answer, problem = 0, b"", error
            except (OSError, http.client.HTTPException) as error:
                if self._over.is_set():
                    raise self._late(self.total) from None
                if isinstance(error, http.client.HTTPException) or self._socket is not None:
                    raise self._failed(_line(error)) from None
                # no route, no such host: nobody was spoken to
                status, answer, problem = 0, b"", error
            if self._over.is_set():
                raise self._late(self.total) from None
            if problem is None and status not in _BUSY:
                return self._judged(status, answer)
            if attempt == ATTEMPTS:
                break
            self._over.wait(PAUSE * 2 ** (attempt - 1))
            attempt += 1
        if problem is None:
            return self._judged(status, answer)
        raise UnreachableError(f"{self.api}: no IPFS daemon answers ({_line(problem)}); start it or correct store.api")

    def _exchange(self, path: str, upload: bytes | None, limit: int) -> tuple[int, bytes]:
        try:
            if self._connection.sock is None:
                self._connection.connect()
                with self._lock:
                    self._socket = self._connection.sock
                if self._over.is_set():
                    raise TimeoutError
            headers, body = {"Content-Length": "0"}, None
            if upload is not None:
                headers, body = _form(upload)
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            answer = b""
            # more is asked for than may come, so that too much shows; twice, so that an early end shows
            while len(answer) <= limit and (piece := response.read(limit + 1 - len(answer))):
                answer += piece
            if len(answer) > limit:
                raise http.client.HTTPException(f"answered more than {limit} bytes")
            if response.length:
                raise http.client.HTTPException(f"the answer was cut off, {response.length} bytes are missing")
            return response.status, answer
        except BaseException:
            self._connection.close()
            raise

    def _judged(self, status: int, answer: bytes) -> bytes:
        if status == 200:
            return answer
        if 300 <= status < 400:
            raise self._failed(f"it redirects (HTTP {status}), which is never followed; correct store.api")
        try:
            said = nesting.decode(answer, DEEPEST)
            reason = _shown(said["Message"]) if isinstance(said["Message"], str) else ""
        except (ValueError, KeyError, TypeError, RecursionError):
            reason = ""
        if not reason:
            raise self._failed(f"HTTP {status}")
        raise RefusedError(f"{self.api}: {self.purpose} ({reason}); look into the daemon's log", reason)

    def json(self, command: str, arguments: Mapping[str, str], upload: bytes | None = None) -> dict[str, Any]:
        """As :meth:`post`, of a command that answers one JSON object.

        Raises
        ------
        StoreError
        """
        answer = self.post(command, arguments, upload=upload)
        try:
            said = nesting.decode(answer, DEEPEST)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise self._failed(f"not a JSON object: {_shown(repr(answer[:80]))}")
        return said

    def _late(self, seconds: float) -> StoreError:
        return StoreError(
            f"{self.api}: {self.purpose} within {seconds:g} s; try again, ask another daemon or raise chain.timeout"
        )

    def _failed(self, why: str) -> StoreError:
        return StoreError(f"{self.api}: {self.purpose} ({why}); look into the daemon's log")


def _form(upload: bytes) -> tuple[dict[str, str], Iterator[bytes]]:
    """A form with one file, in pieces: each may take the whole time-out, not all together."""
    boundary = secrets.token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="object"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/form-data; boundary="{boundary}"',
        "Content-Length": str(len(head) + len(upload) + len(tail)),
    }

    def pieces() -> Iterator[bytes]:
        yield head
        for start in range(0, len(upload), _PIECE):
            yield upload[start : start + _PIECE]
        yield tail

    return headers, pieces()


def _shown(text: str) -> str:
    """A daemon's words on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))[:200]


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _shown(str(error)) or type(error).__name__
