"""The web page of a run: made on the server, without any script, and nothing is fetched from elsewhere.

It shows and changes nothing, has no login and no encryption on the wire: beyond the own machine it belongs behind a
reverse proxy that has both.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from threading import Event, Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.watch import charts, words
from medprov_coordinator.watch.chain_view import ChainState, ChainView
from medprov_coordinator.watch.metrics import exposition, quality
from medprov_coordinator.watch.records import RoundRecord
from medprov_coordinator.watch.run_folder import Run, RunFolder
from medprov_ledger import terminal

REFRESH = 10
"""Seconds after which the page asks for itself again, and between two questions to the chain."""
ROUNDS = 50
"""Newest rounds in the tables."""
DRAWN = 500
"""Newest rounds in the charts."""
CONNECTIONS = 64
"""Requests at the same time; further ones are told to come again."""
PLACE = "{transaction}"
"""What stands for the transaction in an explorer's address."""

_log = logging.getLogger(__name__)
_TRANSACTION = re.compile(r"0x[0-9a-fA-F]{64}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MARKS = {"anchored": "good", "waiting": "warn", "differs": "bad"}


def create_app(folder: RunFolder, chain: Callable[[], ChainState] = ChainState, explorer: str = "") -> FastAPI:
    """The web application of one run.

    Parameters
    ----------
    folder : RunFolder
    chain : callable
        Gives what is known of the chain, without asking it.
    explorer : str
        Address of a transaction in a block explorer, with ``{transaction}``; empty links nothing.

    Raises
    ------
    SettingsError
        `explorer` is no such address.
    """
    if explorer and (not explorer.startswith(("http://", "https://")) or PLACE not in explorer):
        raise SettingsError(f"{words.clean(explorer, 120)}: no http address with {PLACE} in it; correct --explorer")
    pages = _environment()
    app = FastAPI(title="medprov", docs_url=None, redoc_url=None, openapi_url=None)
    lock = Lock()

    def look() -> Run:
        # the reader follows the log from where it stood: one at a time
        with lock:
            return folder.refresh()

    def show(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(pages.get_template(template).render(**values), status)

    @app.middleware("http")
    async def headers(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await proceed(request)
        # whatever it is, the visitor gets one line and the log gets the rest
        except Exception:
            _log.exception("%s %s failed", request.method, request.url.path)
            response = show("base.html", 500, title="Not shown", text="the page failed; the server's log says why")
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response

    @app.exception_handler(HTTPException)
    async def no_such_page(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        text = error.detail if error.detail != status.phrase else f"{request.url.path}: {status.phrase.lower()}"
        return show("base.html", status, title="Not shown", text=words.clean(text))

    @app.get("/")
    def overview() -> HTMLResponse:
        return show("run.html", **_overview(look(), chain(), explorer))

    @app.get("/round/{number}")
    def one_round(number: str) -> HTMLResponse:
        run = look()
        found = {str(record.number): record for record in run.rounds}.get(number)
        if found is None:
            raise HTTPException(404, f"round {words.clean(number, 20)}: no good record of it in this folder")
        return show("round.html", **_one(found, run, chain(), explorer))

    @app.get("/style.css")
    def style() -> Response:
        return Response(pages.get_template("style.css").render(), media_type="text/css")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/api/rounds")
    def rounds() -> Response:
        run, state = look(), chain()
        # ASCII only: a foreign text neither steers the terminal of who fetches it nor fails where it is no UTF-8
        text = json.dumps([_plain(record, run, state) for record in run.rounds], allow_nan=False)
        return Response(text, media_type="application/json")

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(exposition(look(), chain()), media_type=CONTENT_TYPE_LATEST)

    return app


def serve(folder: RunFolder, chain: ChainView | None, host: str, port: int, explorer: str = "") -> None:
    """Serve until SIGINT or SIGTERM; says on standard output where, once it listens.

    Parameters
    ----------
    folder : RunFolder
    chain : ChainView or None
        Asked in a thread of its own, so that a chain that is away holds no page up.
    host : str
    port : int
        0 takes a free one.
    explorer : str

    Raises
    ------
    SettingsError
        The address cannot be taken, or `explorer` is none.
    """
    app = create_app(folder, (lambda: chain.state) if chain else ChainState, explorer)
    with _listen(host, port) as listening:
        stop = Event()
        if chain:
            chain.follow(REFRESH, stop)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=10,
        )
        shown = f"[{host}]" if ":" in host else host
        terminal.say(f"watching at http://{shown}:{listening.getsockname()[1]}/")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            stop.set()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        # the system's resolver takes larger ones modulo 65536
        raise SettingsError(f"{host}:{port}: not a port; name another with --port, 0 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
    except (OSError, UnicodeError, OverflowError) as error:
        why = f"{host}:{port}: not an address of this machine ({error}); name another with --host"
        raise SettingsError(why) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        why = f"{host}:{port}: cannot be taken ({reason}); name another with --host and --port"
        raise SettingsError(why) from None
    return listening


def _environment() -> Environment:
    pages = Environment(
        loader=PackageLoader("medprov_coordinator.watch"),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    pages.filters.update(
        foreign=words.clean, number=words.number, size=words.size, seconds=words.seconds, moment=words.moment,
        short=words.short,
    )  # fmt: skip
    return pages


def _overview(run: Run, chain: ChainState, explorer: str) -> dict[str, Any]:
    names = words.Names(run, chain)
    newest = run.rounds[-ROUNDS:]
    anchors = {record.number: _anchor(record, run, chain, explorer) for record in run.rounds}
    return {
        "title": "Federated training",
        "refresh": REFRESH,
        "run": run,
        "chain": chain,
        "number": max(run.rounds[-1].number if run.rounds else 0, run.stands_at or 0),
        "waiting": [number for number, anchor in anchors.items() if anchor["state"] == "waiting"],
        "last": run.history.last,
        "rounds": [
            {"record": record, "seconds": run.history.seconds.get(record.number), **anchors[record.number]}
            for record in reversed(newest)
        ],
        "left_out": len(run.rounds) - len(newest),
        "charts": [_drawn(chart) for chart in charts_of(run, names)],
        "members": [
            {
                "row": member,
                "name": names.of(member.node, member.signer),
                "figures": words.figures(member.figures),
                "standing": words.clean(chain.members.get(member.signer.lower(), "–")),
            }
            for member in run.members
        ],
        "rejected": [
            (record.number, names.of(row.node), row) for record in reversed(newest) for row in record.rejected
        ][:200],
        "refusals": [
            (refusal, [(names.of(node), code) for node, code in refusal.rejected])
            for refusal in list(run.history.refusals)[: -ROUNDS - 1 : -1]
        ],
        "tail": list(run.history.tail)[::-1],
    }


def charts_of(run: Run, names: words.Names) -> list[charts.Chart]:
    """The charts of a run, for its newest rounds."""
    rounds = run.rounds[-DRAWN:]
    loss: dict[str, dict[int, float]] = {}
    good: dict[str, dict[int, float]] = {}
    what = set()
    for record in rounds:
        for node, figures in record.site_figures().items():
            if "loss" in figures:
                loss.setdefault(names.of(node), {})[record.number] = figures["loss"]
            if (found := quality(figures)) is not None:
                what.add(found[0])
                good.setdefault(names.of(node), {})[record.number] = found[1]
    label = words.label(next(iter(what))) if len(what) == 1 else "quality"
    mib = 2**20
    return [
        charts.Chart(
            "Score on the public pictures",
            "score",
            {"score": {record.number: record.score for record in rounds if record.score is not None}},
        ),
        charts.Chart(
            "Loss", "loss", {"loss": {record.number: record.loss for record in rounds if record.loss is not None}}
        ),
        charts.Chart("Loss of each site", "loss", dict(sorted(loss.items()))),
        charts.Chart(f"{label.capitalize()} of each site", label, dict(sorted(good.items()))),
        charts.Chart(
            "Updates of each round",
            "updates",
            {
                "accepted": {record.number: float(len(record.updates)) for record in rounds},
                "rejected": {record.number: float(len(record.rejected)) for record in rounds},
            },
            bars=True,
        ),
        charts.Chart(
            "Bytes of each round",
            "MiB",
            {
                "down": {r.number: r.bytes_down / mib for r in rounds if r.bytes_down is not None},
                "up": {r.number: r.bytes_up / mib for r in rounds if r.bytes_up is not None},
            },
            bars=True,
        ),
        charts.Chart(
            "Time of each round",
            "seconds",
            {"seconds": {r.number: run.history.seconds[r.number] for r in rounds if r.number in run.history.seconds}},
            bars=True,
        ),
    ]


def _drawn(chart: charts.Chart) -> dict[str, Any]:
    whole = all(value == int(value) for values in chart.series.values() for value in values.values())
    return {
        "title": chart.title,
        # every text in it was escaped where it was put in
        "svg": Markup(charts.svg(chart)),
        "names": list(chart.series),
        "rows": [
            (number, [words.number(values.get(number), 0 if whole else 4) for values in chart.series.values()])
            for number in reversed(chart.rounds)
        ],
    }


def _one(record: RoundRecord, run: Run, chain: ChainState, explorer: str) -> dict[str, Any]:
    names = words.Names(run, chain)
    figures = record.site_figures()
    known = {other.number for other in run.rounds}
    shown: list[tuple[str, Mapping[str, float]]] = [
        ("Public pictures", record.probe),
        ("Training", record.train),
        ("Evaluation", record.evaluate),
    ]
    found = chain.rounds.get(record.number)
    return {
        "title": f"Round {record.number}",
        "record": record,
        "before": record.number - 1 if record.number - 1 in known else 0,
        "after": record.number + 1 if record.number + 1 in known else 0,
        "accepted": run.history.accepted_at.get(record.number, ""),
        "took": run.history.seconds.get(record.number),
        "digests": [
            ("Base model", record.base),
            ("New model", record.model),
            ("Weights (CID)", record.cid),
            ("Root of the updates", record.root),
            ("Record", record.hash),
            ("Record on the chain", found.metrics_hash.hex() if found else ""),
            ("Line of the audit log", record.audit),
        ],
        "complaint": record.complaint(),
        "anchor": _anchor(record, run, chain, explorer),
        "figures": [(name, words.figures(values)) for name, values in shown if values],
        "updates": [
            (names.of(row.node, row.signer), row, words.figures(figures.get(row.node, {}))) for row in record.updates
        ],
        "rejected": [(names.of(row.node), row) for row in record.rejected],
    }


def _anchor(record: RoundRecord, run: Run, chain: ChainState, explorer: str) -> dict[str, Any]:
    state, transaction, block = words.anchor_of(record, run, chain)
    linked = explorer and _TRANSACTION.fullmatch(transaction)
    return {
        "state": state,
        "mark": _MARKS.get(state, ""),
        "transaction": transaction,
        "block": block,
        "link": explorer.replace(PLACE, transaction) if linked else "",
    }


def _plain(record: RoundRecord, run: Run, chain: ChainState) -> dict[str, Any]:
    state, transaction, block = words.anchor_of(record, run, chain)
    anchor = {"state": state, "transaction": transaction, "block": block}
    return {**asdict(record), "seconds": run.history.seconds.get(record.number), "anchor": anchor}
