"""The process that does the site's rounds: takes a task from the SuperNode, asks the gate, runs the ClientApp.

Flower's own executor would unpack each bundle, put it onto Python's path and run its code in a new process. This one
hashes the bundle, asks the gate and runs the ClientApp that is installed here; one process serves all rounds, so that
the networks' libraries load once. A round that fails is answered with an error, and the next one is taken.
"""

from __future__ import annotations

import logging
import os
import sys
import time

# Before Flower is imported: it calls out to the internet unless it is told not to.
os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1")

from pathlib import Path

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from medprov_ledger.supervised import end_with
from medprov_node.errors import BundleRefusedError
from medprov_node.joining.bundle_gate import Gate
from medprov_node.joining.config import Site
from medprov_node.joining.executor_mark import MARK

PAUSE = 0.2
"""Seconds between two questions for a task."""
_TASK, _ACQUIRE = "flwr-clientapp", "/flwr.proto.Runtime/AcquireTask"
_ENTITY = "flwr-clientapp"

log = logging.getLogger("medprov.node")


def serve(site: Site, address: str, secret: bytes, app: ClientApp) -> None:
    """Do tasks until the process ends.

    Parameters
    ----------
    site : Site
    address : str
        ``host:port`` of the SuperNode's Runtime interface, on this machine.
    secret : bytes
        What this executor shows to be given tasks.
    app : ClientApp
    """
    gate = Gate(site.ledger)
    proof = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
    with _client(address, proof) as client:
        while True:
            try:
                found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[_TASK]))
            except httpx.HTTPError:
                # the SuperNode starts or has gone; who watches both decides
                time.sleep(PAUSE)
                continue
            if found.HasField("task") and found.token:
                do(site, address, found.token, gate, app)
            else:
                time.sleep(PAUSE)


def do(site: Site, address: str, token: str, gate: Gate, app: ClientApp) -> None:
    """Do one task, whatever comes of it."""
    with _client(address, RuntimeTokenHttpInterceptor(token)) as client:
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        context: Context | None = None
        outcome, details = SubStatus.FAILED, "the task could not be taken"
        try:
            message, context, _, bundle = pull_task_input(client)
            reply, details = answer(site, message, context, bundle.content, gate, app)
            outcome = SubStatus.FAILED if details else SubStatus.COMPLETED
            push_message(client, reply, context)
        except Exception:
            # whatever it is, the next round must find an executor
            log.exception("a task failed")
        finally:
            push_task_output(client, context, outcome, details)
            heartbeat.stop()


def answer(
    site: Site, message: Message, context: Context, bundle: bytes, gate: Gate, app: ClientApp
) -> tuple[Message, str]:
    """The reply to a message, and why it is an error (empty where it is none)."""
    try:
        gate.check(bundle)
    except BundleRefusedError as error:
        log.error("%s", error)
        why = "this site runs only app bundles that the federation has released"
        return Message(Error(code=ErrorCode.INVALID_FAB, reason=why), reply_to=message), why
    # the site's own file says what the app may use here, not the SuperLink
    context.node_config = site.node_config()
    began = time.monotonic()
    try:
        reply = app(message, context)
    except Exception as error:
        log.error("%s: failed (%s)", message.metadata.message_type, type(error).__name__)
        why = str(error) if type(error).__module__.startswith("medprov_node") else "the app failed at this site"
        return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=why), reply_to=message), why
    log.info("%s: done in %.1f s", message.metadata.message_type, time.monotonic() - began)
    return reply, ""


def main() -> None:
    """Command line: ``node.toml``, the Runtime interface's address, the secret's file, the parent's number."""
    path, address, secret, parent = sys.argv[1:]
    end_with(int(parent))
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(f"{MARK}%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    # imported here and not above: it loads torch
    from medprov_node.client_app import app

    log.info("executor is ready")
    serve(Site.load(Path(path)), address, Path(secret).read_bytes(), app)


def _client(address: str, proof: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=_ENTITY), proof],
        retry_invoker=make_simple_http_retry_invoker() if isinstance(proof, RuntimeTokenHttpInterceptor) else None,
    )


if __name__ == "__main__":
    main()
