"""The way to the coordinator's SuperLink: is it there, is it the right one, does it know this node?

Flower's node tries for ever where a certificate is wrong, and says the same for an unknown key as for a session that
its former process has left. So this is asked before every start of it.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
import time

import httpx
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from medprov_node.errors import AwayError, JoinError
from medprov_node.joining import node_key
from medprov_node.joining.config import Site

TIMEOUT = 10.0
CLOCK = 60.0
"""Seconds that the two clocks may differ before that is given as the reason."""
_EXPIRED, _EARLY, _OTHER_NAME = {10}, {9}, {62, 64}


def check_certificate(site: Site) -> None:
    """Check that the SuperLink answers and has a certificate of the coordinator's authority.

    Raises
    ------
    AwayError
        Nobody answers.
    JoinError
        Another authority, an expired certificate, another name, or no TLS.
    """
    try:
        trust = ssl.create_default_context(cafile=str(site.ca))
    except ssl.SSLError:
        raise JoinError(f"{site.ca}: is no certificate in PEM form; take it from the start kit again") from None
    except OSError as error:
        raise JoinError(f"{site.ca}: cannot be read ({error.strerror}); take it from the start kit again") from None
    try:
        with (
            socket.create_connection((site.host, site.port), TIMEOUT) as plain,
            trust.wrap_socket(plain, server_hostname=site.host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        raise JoinError(f"{site.address}: {_why(error, site)}") from None
    except ssl.SSLError as error:
        raise JoinError(
            f"{site.address}: who answers there speaks no TLS ({error.reason}); correct the address"
        ) from None
    except OSError as error:
        raise AwayError(f"{site.address}: the SuperLink does not answer ({error.strerror or error})") from None


def leave(site: Site) -> bool:
    """End the session that a former process of this node may have left.

    Returns
    -------
    bool
        Whether there was one.

    Raises
    ------
    AwayError
        The SuperLink does not answer.
    JoinError
        It does not know the node's key (any more), or the clocks differ.
    """
    key = node_key.load(site.key)
    client = FleetHttpClient.from_server_address(
        site.address,
        False,
        site.ca.read_bytes(),
        [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())],
    )
    try:
        client.DeactivateNode(DeactivateNodeRequest(node_id=site.node))
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise JoinError(_unknown(site, error.response)) from None
        found = FlowerError.from_json(error.response.text)
        if found is None or found.code != ApiErrorCode.FLEET_NODE_DEACTIVATION_FAILED:
            raise AwayError(f"{site.address}: the SuperLink answers {error.response.status_code}") from None
        return False
    except httpx.HTTPError as error:
        raise AwayError(f"{site.address}: the SuperLink does not answer ({error})") from None
    finally:
        client.close()
    return True


def _why(error: ssl.SSLCertVerificationError, site: Site) -> str:
    if error.verify_code in _EXPIRED:
        return "the coordinator's certificate has expired; the coordinator must renew it"
    if error.verify_code in _EARLY:
        return "the coordinator's certificate is not valid yet; is this machine's clock right?"
    if error.verify_code in _OTHER_NAME:
        return f"the coordinator's certificate is not for {site.host}; the coordinator must add the name"
    return (
        f"has a certificate that {site.ca} has not issued ({error.verify_message}); this is another coordinator, or "
        "the start kit is an old one"
    )


def _unknown(site: Site, response: httpx.Response) -> str:
    sent = email.utils.parsedate_to_datetime(response.headers["date"]) if "date" in response.headers else None
    apart = abs(sent.timestamp() - time.time()) if sent else 0.0
    if apart > CLOCK:
        return f"{site.address}: this machine's clock and the coordinator's differ by {apart:.0f} s; set them right"
    return (
        f"{site.address}: the coordinator does not know the key {site.key}, or has revoked it; ask to be enrolled "
        "('medprov-node request')"
    )
