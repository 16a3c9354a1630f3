"""medprov_ledger.rpc_address"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger.rpc_address import problem, shown, without_secrets


@pytest.mark.parametrize(
    "rpc",
    [
        "http://127.0.0.1:8545",
        "https://node.example.org",
        "http://geth_1:8545/rpc?x=1",
        "http://me:pw@h:1",
        "http://[::1]:8545",
        "http://[fe80::1%eth0]:8545/",
    ],
)
def test_what_may_be_an_address(rpc: str) -> None:
    assert problem(rpc) == ""


@pytest.mark.parametrize(
    ("rpc", "reason"),
    [
        ("", "must be an http"),
        ("127.0.0.1:8545", "must be an http"),
        ("ws://127.0.0.1:8545", "must be an http"),
        ("http://", "names no host"),
        ("http:///", "names no host"),
        ("http://:8545", "names no host"),
        ("http://me@/", "names no host"),
        ("http://*:80", "names no host"),
        ("http://x y", "holds a blank"),
        (" http://x", "must be an http"),
        ("http://x ", "holds a blank"),
        ("http://x/\x7f", "holds a blank or a control character"),
        ("http://x\n", "holds a blank"),
        ("http://[::1", "malformed IPv6"),
        ("http://[zz]:1", "malformed IPv6"),
        ("http://[1.2.3.4]", "names no host|malformed IPv6"),
        ("http://127.0.0.1:abc", "port"),
        ("http://127.0.0.1:99999", "port"),
        ("http://127.0.0.1:0", "port"),
        ("http://127.0.0.1:-1", "port"),
    ],
)
def test_what_cannot_be_one(rpc: str, reason: str) -> None:
    assert any(part in problem(rpc) for part in reason.split("|")), problem(rpc)


@given(st.text(max_size=30))
def test_any_text_has_an_answer(text: str) -> None:
    for rpc in (text, "http://" + text, "http://[" + text):
        assert "\n" not in problem(rpc)


@pytest.mark.parametrize(
    ("rpc", "as_shown"),
    [
        ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
        ("http://127.0.0.1:8545/", "http://127.0.0.1:8545"),
        ("http://me:secret@h:1", "http://h:1"),
        ("http://me:sec@ret@h:1", "http://h:1"),
        ("HTTPS://secret@h", "HTTPS://h"),
        ("https://h/v3/secret", "https://h/..."),
        ("https://h?key=secret", "https://h/..."),
        ("https://h/#secret", "https://h/..."),
        ("http://[::1]:8545/secret", "http://[::1]:8545/..."),
        ("http://it's:secret@h", "http://h"),
        ("the test chain", "the test chain"),
    ],
)
def test_what_is_shown(rpc: str, as_shown: str) -> None:
    assert shown(rpc) == as_shown


def test_secrets_in_the_words_of_a_library() -> None:
    rpc = "https://me:secret@h:1/v3/hidden?key=covered"
    text = (
        f"401 for url: {rpc} and HTTPConnectionPool(host='h', port=1): with url: /v3/hidden?key=covered (Caused by x)"
    )
    said = without_secrets(text, rpc)
    assert said == "401 for url: https://h:1/... and HTTPConnectionPool(host='h', port=1): with url: /... (Caused by x)"
    assert without_secrets("a / b", "http://h/") == "a / b"
