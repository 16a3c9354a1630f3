"""Asks the SuperLink: nodes, runs, tasks. Flower's Control interface has no accounts of its own, hence the secret.

Everything that may change the SuperLink carries the coordinator's secret, a file that only the coordinator's account
can read (:mod:`medprov_coordinator.deployment.superlink_process` refuses the rest).
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient

from medprov_coordinator.deployment import files
from medprov_coordinator.deployment.config import Deployment
from medprov_coordinator.errors import EnrolmentError, SuperLinkError
from medprov_coordinator.run_config import Scalar

SECRET_HEADER = "medprov-control"
SECRET = "control.secret"
_TASK = "flwr-serverapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


@dataclass(frozen=True)
class Node:
    """A node as the SuperLink knows it.

    Parameters
    ----------
    number : int
    name : str
    status : str
        ``registered``, ``online``, ``offline`` or ``unregistered``.
    public_key : bytes
        PEM.
    """

    number: int
    name: str
    status: str
    public_key: bytes


@dataclass(frozen=True)
class Run:
    """A run as the SuperLink knows it.

    Parameters
    ----------
    number : int
    status, outcome, details : str
        ``pending``, ``starting``, ``running``, ``finished``; then ``completed``, ``failed``, ``stopped``, and why.
    """

    number: int
    status: str
    outcome: str
    details: str


def secret_file(deployment: Deployment) -> Path:
    """The file with the secret, made if it is absent.

    Raises
    ------
    SuperLinkError
        It cannot be read or made.
    """
    file = deployment.state / SECRET
    try:
        if not file.exists():
            files.write(file, secrets.token_hex(32).encode(), 0o600)
        if len(file.read_bytes()) < 64:
            raise SuperLinkError(f"{file}: is damaged; stop the coordinator, remove the file, start again")
    except OSError as error:
        raise SuperLinkError(f"{file}: cannot be used ({error.strerror}); run this as the coordinator's user") from None
    return file


class SuperLink:
    """A connection to the coordinator's SuperLink.

    Parameters
    ----------
    deployment : Deployment

    Raises
    ------
    SuperLinkError
        See :func:`secret_file`.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.address = deployment.local
        secret = secret_file(deployment).read_bytes()
        self._ca = deployment.ca
        try:
            self._trust = ssl.create_default_context(cafile=str(deployment.ca))
            certificate = deployment.ca.read_bytes()
        except OSError as error:
            raise SuperLinkError(
                f"{deployment.ca}: cannot be read ({error.strerror}); 'medprov-coordinator up' makes it"
            ) from None
        version: ProtobufClientInterceptor = RuntimeVersionHttpInterceptor(component_name="medprov")
        self._control = ControlHttpClient.from_server_address(
            self.address, False, certificate, [_Secret(secret.decode()), version]
        )
        self._runtime = RuntimeHttpClient.from_server_address(
            self.address,
            False,
            certificate,
            [version, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))],
        )

    def close(self) -> None:
        """Close the connections."""
        self._control.close()
        self._runtime.close()

    def healthy(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"https://{self.address}/health", verify=self._trust, timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def nodes(self) -> list[Node]:
        """All nodes that are registered now."""
        with self._errors():
            found = self._control.ListNodes(ListNodesRequest()).nodes_info
        nodes = [Node(node.node_id, node.name, node.status, node.public_key) for node in found]
        return [node for node in nodes if node.status != "unregistered"]

    def register(self, name: str, key: str) -> int:
        """Let a node in; the same key gives the same number again.

        Parameters
        ----------
        name : str
        key : str
            Public key as OpenSSH writes it.

        Returns
        -------
        int
            The node's number.
        """
        public = pem(key)
        for node in self.nodes():
            if node.public_key == public:
                return node.number
        with self._errors():
            return int(self._control.RegisterNode(RegisterNodeRequest(public_key=public, name=name)).node_id)

    def unregister(self, number: int) -> None:
        """Let a node in no more; one that is connected is cut off with its next call."""
        with self._errors():
            self._control.UnregisterNode(UnregisterNodeRequest(node_id=number))

    def runs(self) -> list[Run]:
        """The newest runs."""
        with self._errors():
            found = self._control.ListRuns(ListRunsRequest()).run_dict
        return [
            Run(number, run.status.status, run.status.sub_status, run.status.details) for number, run in found.items()
        ]

    def start(self, bundle: bytes, bundle_hash: bytes, settings: Mapping[str, Scalar]) -> int:
        """Submit a run; gives its number."""
        order = StartRunRequest(
            fab=fab_to_proto(Fab(bundle_hash.hex(), bundle, {})), override_config=user_config_to_proto(dict(settings))
        )
        with self._errors():
            answer = self._control.StartRun(order)
        if not answer.HasField("run_id"):
            raise SuperLinkError(f"{self.address}: the SuperLink does not take the run; its log says why")
        return int(answer.run_id)

    def stop(self, number: int) -> None:
        """Stop a run; one that has ended is left alone."""
        with self._errors(ApiErrorCode.RUN_ALREADY_FINISHED):
            self._control.StopRun(StopRunRequest(run_id=number))

    def task(self) -> str | None:
        """The token of the ServerApp's next task, if one waits. It is given to nobody else."""
        with self._errors():
            found = self._runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[_TASK]))
        return found.token if found.HasField("task") and found.token else None

    @contextlib.contextmanager
    def _errors(self, *passed: int) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 403:
                raise SuperLinkError(
                    f"{self.address}: the SuperLink refuses this coordinator's secret; is it another one's?"
                ) from None
            found = FlowerError.from_json(error.response.text)
            if found is not None and found.code in passed:
                return
            why = found.message if found is not None else f"HTTP status {error.response.status_code}"
            raise SuperLinkError(f"{self.address}: the SuperLink says no ({' '.join(why.split())[:300]})") from None
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SuperLinkError(
                    f"{self.address}: who answers there has no certificate of {self._ca}; is it another coordinator?"
                ) from None
            raise SuperLinkError(
                f"{self.address}: no SuperLink answers there; start it with 'medprov-coordinator up'"
            ) from None


def pem(key: str) -> bytes:
    """A node's public key in the form that the SuperLink keeps.

    Raises
    ------
    EnrolmentError
        No elliptic-curve key.
    """
    try:
        found = load_ssh_public_key(key.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, ec.EllipticCurvePublicKey):
        raise EnrolmentError("the node's public key is damaged; ask the hospital for its request again")
    return public_key_to_bytes(found)


class _Secret:
    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[SECRET_HEADER] = self._secret
        return call_next(context)
