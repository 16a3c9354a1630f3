import json
import stat
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse, RegisterNodeResponse, StartRunResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run as RunMessage
from flwr.proto.run_pb2 import RunStatus
from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.supercore.error import ApiErrorCode

from medprov_coordinator.deployment import certificates, control
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.deployment.control import SECRET_HEADER, SuperLink, pem, secret_file
from medprov_coordinator.errors import EnrolmentError, SuperLinkError
from medprov_node.joining import node_key
from tests.unit.coordinator.deployment.conftest import MakeConsortium

KEY = node_key.public(ec.generate_private_key(ec.SECP384R1()))


@pytest.fixture
def deployment(make_consortium: MakeConsortium) -> Deployment:
    made = make_consortium().deployment
    certificates.ensure(made.ca, made.certificate, made.key, made.hosts)
    return made


class Answers:
    """Stands for the SuperLink behind the HTTP client: the real requests, answers from here."""

    def __init__(self, link: SuperLink) -> None:
        self.seen: list[httpx.Request] = []
        self.next: list[httpx.Response | Exception] = []
        for client in (link._control, link._runtime):
            client._client = httpx.Client(transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        found = self.next.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def add(self, message: object) -> None:
        headers = {"content-type": "application/x-protobuf"}
        self.next.append(httpx.Response(200, content=message.SerializeToString(), headers=headers))


@pytest.fixture
def link(deployment: Deployment) -> SuperLink:
    return SuperLink(deployment)


@pytest.fixture
def answers(link: SuperLink) -> Answers:
    return Answers(link)


def test_the_secret_is_made_once_and_read_by_its_owner_only(deployment: Deployment) -> None:
    file = secret_file(deployment)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert secret_file(deployment).read_bytes() == before
    assert len(before) == 64
    file.write_bytes(b"short")
    with pytest.raises(SuperLinkError, match=r"control\.secret: is damaged"):
        secret_file(deployment)


def test_a_key_is_registered_once(link: SuperLink, answers: Answers, deployment: Deployment) -> None:
    answers.add(ListNodesResponse())
    answers.add(RegisterNodeResponse(node_id=5))
    assert link.register("hospital-d", KEY) == 5
    secret = secret_file(deployment).read_text()
    assert [request.headers[SECRET_HEADER] for request in answers.seen] == [secret, secret]
    answers.add(ListNodesResponse(nodes_info=[NodeInfo(node_id=5, name="d", status="online", public_key=pem(KEY))]))
    assert link.register("hospital-d", KEY) == 5
    # a key that was revoked is not simply let in again under its former number
    gone = NodeInfo(node_id=5, name="d", status="unregistered", public_key=pem(KEY))
    answers.add(ListNodesResponse(nodes_info=[gone]))
    answers.add(RegisterNodeResponse(node_id=6))
    assert link.register("hospital-d", KEY) == 6


def test_runs_and_tasks(link: SuperLink, answers: Answers) -> None:
    answers.add(StartRunResponse(run_id=9))
    assert link.start(b"bundle", bytes(32), {"rounds": 2, "rate": 0.5, "evaluate": True, "rule": "median"}) == 9
    status = RunStatus(status="finished", sub_status="failed", details="why")
    answers.add(ListRunsResponse(run_dict={9: RunMessage(run_id=9, status=status)}))
    assert link.runs() == [control.Run(9, "finished", "failed", "why")]
    answers.add(AcquireTaskResponse())
    assert link.task() is None
    assert any("superexec" in name for name in answers.seen[-1].headers)
    # the secret itself is for the control interface only
    assert SECRET_HEADER not in answers.seen[-1].headers
    answers.add(StartRunResponse())
    with pytest.raises(SuperLinkError, match="does not take the run"):
        link.start(b"bundle", bytes(32), {})


def test_a_run_that_has_ended_may_be_stopped_again(link: SuperLink, answers: Answers) -> None:
    over = {"code": ApiErrorCode.RUN_ALREADY_FINISHED, "public_message": "finished"}
    answers.next.append(httpx.Response(400, content=json.dumps(over)))
    link.stop(9)
    other = {"code": ApiErrorCode.RUN_ID_NOT_FOUND, "public_message": "Run not\nfound"}
    answers.next.append(httpx.Response(404, content=json.dumps(other)))
    with pytest.raises(SuperLinkError, match=r"the SuperLink says no \(Run not found\)"):
        link.stop(9)


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (httpx.ConnectError("refused"), "no SuperLink answers there; start it with 'medprov-coordinator up'"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), r"has no certificate of .*ca\.pem"),
        (httpx.Response(403, text="not allowed"), "refuses this coordinator's secret"),
        (httpx.Response(500, text="<html>"), "HTTP status 500"),
    ],
)
def test_failures_are_one_line(link: SuperLink, answers: Answers, failure: object, why: str) -> None:
    answers.next.append(failure)  # type: ignore[arg-type]
    with pytest.raises(SuperLinkError, match=why):
        link.nodes()


def test_a_superlink_that_is_not_there(link: SuperLink) -> None:
    assert not link.healthy()
    with pytest.raises(SuperLinkError, match=r"127\.0\.0\.1:29999: no SuperLink answers there"):
        link.nodes()
    link.close()


def test_before_the_first_start_there_is_no_authority(make_consortium: MakeConsortium) -> None:
    deployment = make_consortium().deployment
    deployment.state.mkdir()
    with pytest.raises(SuperLinkError, match=r"ca\.pem: cannot be read .*'medprov-coordinator up' makes it"):
        SuperLink(deployment)


def test_the_state_folder_may_not_be_there(make_consortium: MakeConsortium) -> None:
    with pytest.raises(SuperLinkError, match=r"control\.secret: cannot be used"):
        secret_file(make_consortium().deployment)


def test_a_damaged_key(tmp_path: Path) -> None:
    assert pem(KEY).startswith(b"-----BEGIN PUBLIC KEY-----")
    with pytest.raises(EnrolmentError, match="the node's public key is damaged"):
        pem("ecdsa-sha2-nistp384 AAAA")
