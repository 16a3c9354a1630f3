import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from medprov_coordinator.deployment import superlink_process
from medprov_coordinator.deployment.control import SECRET_HEADER
from medprov_coordinator.deployment.superlink_process import Guard

SECRET = b"s" * 64


async def inner(request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


@pytest.fixture
def client() -> TestClient:
    return TestClient(Guard(Starlette(routes=[Route("/{path:path}", inner, methods=["GET", "POST"])]), SECRET))


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/runtime/acquire-task", "/health"])
def test_calls_that_are_authenticated_elsewhere_pass(client: TestClient, path: str) -> None:
    assert client.post(path).text == "reached"


@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/docs", "/openapi.json", "/", "/health/", "/v1/fleet", "//v1/fleet/x", "/V1/FLEET/x"],
)
def test_all_others_need_the_secret(client: TestClient, path: str) -> None:
    for headers in ({}, {SECRET_HEADER: ""}, {SECRET_HEADER: "t" * 64}, {SECRET_HEADER: "s" * 63}):
        assert client.post(path, headers=headers).status_code == 403
    assert client.post(path, headers={SECRET_HEADER: SECRET.decode()}).text == "reached"


def test_flower_s_own_program_is_started_behind_the_guard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    seen: dict[str, object] = {}
    monkeypatch.setattr(superlink_process, "end_with", lambda pid: seen.update(pid=pid))
    monkeypatch.setattr(superlink_process.extensions, "get_middleware", superlink_process.extensions.get_middleware)
    monkeypatch.setattr(superlink_process.sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS", 180)

    def program() -> None:
        (found,) = superlink_process.extensions.get_middleware()
        seen.update(guard=found.cls, secret=found.kwargs["secret"], argv=list(sys.argv))

    monkeypatch.setattr(superlink_process, "flower_superlink", program)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "secret"), "7", "--port", "1"])
    try:
        superlink_process.main()
        with create_engine(f"sqlite:///{tmp_path / 'state.db'}").connect() as connection:
            assert connection.execute(text("PRAGMA busy_timeout")).scalar() == superlink_process.BUSY
    finally:
        event.remove(Engine, "connect", superlink_process.be_patient)
    assert seen == {"pid": 7, "guard": Guard, "secret": SECRET, "argv": ["flower-superlink", "--port", "1"]}
    assert superlink_process.sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS == superlink_process.STALLED


def test_flower_asks_this_place_for_the_guard() -> None:
    # the guard hangs on these two names of Flower 1.41
    from flwr.superlink import main

    assert main.extensions is superlink_process.extensions
    assert "extensions.get_middleware()" in Path(main.__file__).read_text()
