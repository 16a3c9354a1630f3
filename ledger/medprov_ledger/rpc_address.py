"""The address of a chain's node: whether it can be one, and how it may be shown.

Hosted nodes take a password, a key in the path or a key in the query. None of them belongs in a message, a report or a
log.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_URL = re.compile(r"(https?://)(?:[^\s/?#]*@)?([^\s/?#]*)(\S*)", re.IGNORECASE)


def problem(rpc: str) -> str:
    """Why this is no address of a node; empty where it may be one."""
    if not re.match(r"https?://", rpc):
        return "must be an http:// or https:// address"
    if not all(sign.isprintable() and not sign.isspace() for sign in rpc):
        return "holds a blank or a control character"
    try:
        parts = urlsplit(rpc)
        host = parts.hostname or ""
        if ":" in host:
            ipaddress.IPv6Address(host)
        elif not re.fullmatch(r"[\w.-]+", host):
            return "names no host"
    except ValueError:
        return "names a malformed IPv6 address; write http://[::1]:8545"
    try:
        valid = parts.port != 0
    except ValueError:
        valid = False
    return "" if valid else "has a port that is no number from 1 to 65535"


def shown(text: str) -> str:
    """An address, or all addresses in a text, without user and password; path and query become ``/...``."""
    return _URL.sub(lambda url: url[1] + url[2] + ("/..." if url[3].strip("/") else ""), text)


def without_secrets(text: str, rpc: str) -> str:
    """What a library says about a request to `rpc`, fit to be shown.

    Parameters
    ----------
    text : str
        May name the whole address, or its path and query alone.
    rpc : str
    """
    found = _URL.match(rpc)
    rest = found[3] if found else ""
    text = shown(text)
    return text.replace(rest, "/...") if rest.strip("/") else text
