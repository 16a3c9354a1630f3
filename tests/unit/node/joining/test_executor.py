import hashlib
import logging
import sys
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from medprov_coordinator.deployment import bundle
from medprov_coordinator.grid import task_identity
from medprov_node import client_app
from medprov_node.joining import executor
from medprov_node.joining.bundle_gate import Gate
from medprov_node.joining.config import Site
from tests.unit.node.joining.conftest import MakeSite

CONTENT = bundle.build()
HASH = hashlib.sha256(CONTENT).digest()


def make_app(act: object) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return act(message, context)

    return app


def reply_with_config(message: Message, context: Context) -> Message:
    return Message(RecordDict({"seen": ConfigRecord(dict(context.node_config))}), reply_to=message)


def ask(site: Site, content: bytes, app: ClientApp, **node_config: str) -> tuple[Message, str]:
    with task_identity():
        message = Message(RecordDict(), dst_node_id=7, message_type="train")
        # what a message has once it was sent
        message.metadata.__dict__["_message_id"] = "1"
        context = Context(run_id=1, node_id=7, node_config=dict(node_config), state=RecordDict(), run_config={})
        return executor.answer(site, message, context, content, Gate(site.ledger, lambda found: found == HASH), app)


def test_a_released_bundle_s_round_is_done_with_the_site_s_own_settings(make_site: MakeSite) -> None:
    site = make_site()
    reply, why = ask(site, CONTENT, make_app(reply_with_config), images="/etc", hospital="other")
    assert (why, reply.has_error()) == ("", False)
    assert dict(reply.content.config_records["seen"]) == site.node_config()


def test_another_bundle_s_round_is_not(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def never(message: Message, context: Context) -> Message:
        raise AssertionError("it ran")

    path = list(sys.path)
    with caplog.at_level(logging.ERROR, "medprov.node"):
        reply, why = ask(make_site(), CONTENT + b" ", make_app(never))
    assert reply.error.code == ErrorCode.INVALID_FAB
    assert why == reply.error.reason == "this site runs only app bundles that the federation has released"
    assert "refused, the federation has not released it" in caplog.text
    assert sys.path == path


def test_an_error_s_text_stays_here(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def fail(message: Message, context: Context) -> Message:
        raise OSError("/images/Doe^John.dcm: damaged")

    with caplog.at_level(logging.ERROR, "medprov.node"):
        reply, why = ask(make_site(), CONTENT, make_app(fail))
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert why == reply.error.reason == "the app failed at this site"
    assert "train: failed (OSError)" in caplog.text


def test_what_the_app_itself_lets_out_is_passed_on(make_site: MakeSite) -> None:
    def fail(message: Message, context: Context) -> Message:
        raise client_app.RefusedError("this hospital could not do the round; its own log says why")

    assert ask(make_site(), CONTENT, make_app(fail))[1] == "this hospital could not do the round; its own log says why"


class FakeRuntime:
    """Stands for the SuperNode's Runtime interface where only the order of things is tested."""

    def __enter__(self) -> "FakeRuntime":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_task_that_cannot_be_taken_ends_as_failed(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[object, str, str]] = []

    def refuse(client: object) -> None:
        raise RuntimeError("No messages received from Runtime API")

    monkeypatch.setattr(executor, "_client", lambda *_: FakeRuntime())
    monkeypatch.setattr(executor, "pull_task_input", refuse)
    monkeypatch.setattr(executor, "push_task_output", lambda _, *rest: told.append(rest))
    monkeypatch.setattr(executor, "make_task_heartbeat_fn_http", lambda _: lambda: True)
    executor.do(make_site(), "127.0.0.1:1", "token", Gate(make_site.__globals__.get("x")), ClientApp())
    assert told == [(None, "failed", "the task could not be taken")]
    assert "a task failed" in caplog.text


def test_the_mark_is_what_the_watching_side_looks_for() -> None:
    from medprov_node.joining import executor_mark, join

    assert join.MARK is executor_mark.MARK is executor.MARK
    assert "torch" not in Path(executor_mark.__file__).read_text()
