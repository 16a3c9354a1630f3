import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import enrolment
from medprov_ledger.enrolment import JoinRequest, StartKit, endpoint, request, sign
from medprov_ledger.errors import RecordError

ACCOUNT = Account.from_key((7).to_bytes(32, "big"))
MEMBER = Account.from_key((8).to_bytes(32, "big"))
NODE_KEY = "ecdsa-sha2-nistp384 " + "A" * 180
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
KIT = StartKit(
    federation_id=bytes(range(32)),
    federation_name="north",
    name="hospital-d",
    address=ACCOUNT.address,
    node_id=2**64 - 1,
    superlink="coordinator.example:9092",
    ca=CA,
    rpc="http://127.0.0.1:8545",
    chain_id=31337,
    federation="0x" + "00" * 19 + "01",
    registry="0x" + "00" * 19 + "02",
    confirmations=2,
    store={"kind": "ipfs", "apis": ["/ip4/127.0.0.1/tcp/5001/http"], "copies": 1},
    directory_key=None,
    app=bytes(32),
)


def made() -> JoinRequest:
    return request("hospital-d", ACCOUNT, bytes(32), NODE_KEY)


@settings(max_examples=30, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), st.binary(min_size=32, max_size=32))
def test_a_request_reads_as_it_was_written(name: str, reader: bytes) -> None:
    one = request(name, ACCOUNT, reader, NODE_KEY)
    assert JoinRequest.from_bytes(one.to_bytes()) == one
    assert (one.name, one.address, one.reader_key) == (name, ACCOUNT.address, reader)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_request_with_a_changed_byte_is_refused(data: st.DataObject) -> None:
    content = bytearray(made().to_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RecordError):
        JoinRequest.from_bytes(bytes(content))


def test_a_request_that_another_account_has_signed_is_refused() -> None:
    other = request("hospital-d", MEMBER, bytes(32), NODE_KEY)
    with pytest.raises(RecordError, match=f"not signed by {ACCOUNT.address}, or changed since"):
        JoinRequest.from_bytes(replace(other, address=ACCOUNT.address).to_bytes())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 2**64 - 1),
    st.text(max_size=30).filter(lambda text: max(text, default="a") < "\ud800" or text.isascii()),
    st.none() | st.binary(min_size=32, max_size=32),
)
def test_a_kit_reads_as_it_was_written(node: int, name: str, key: bytes | None) -> None:
    kit = sign(replace(KIT, node_id=node, federation_name=name, directory_key=key), MEMBER)
    again = StartKit.from_bytes(kit.to_bytes())
    assert again == kit
    assert again.signer == MEMBER.address


def test_addresses_are_signed_as_they_are_read() -> None:
    # a configuration may have them without capital letters
    kit = sign(replace(KIT, federation="0x" + "ab" * 20, registry="0x" + "cd" * 20), MEMBER)
    assert StartKit.from_bytes(kit.to_bytes()).signer == kit.signer == MEMBER.address
    values = json.loads(made().to_bytes())
    values["address"] = values["address"].lower()
    with pytest.raises(RecordError, match="join request: an address is not in checksummed form"):
        JoinRequest.from_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_kit_with_a_changed_byte_is_refused_or_signed_by_another(data: st.DataObject) -> None:
    content = bytearray(sign(KIT, MEMBER).to_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        assert StartKit.from_bytes(bytes(content)).signer != MEMBER.address


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v.update(kind="medprov directory key"), "is no medprov start kit"),
        (lambda v: v.update(version=9), "version 9 is unknown, this release reads version 1"),
        (lambda v: v.pop("ca"), "fields missing: ca"),
        (lambda v: v.update(extra=1), "unknown: 'extra'"),
        (lambda v: v.update(node_id="0"), "node_id must be a number of at most 64 bits"),
        (lambda v: v.update(node_id=str(2**64)), "node_id must be a number of at most 64 bits"),
        (lambda v: v.update(superlink="host"), "superlink: host:port is needed"),
        (lambda v: v.update(superlink="host:99999"), "superlink: host:port is needed"),
        (lambda v: v.update(ca="no"), "ca must be one certificate in PEM form"),
        (lambda v: v.update(store={"password": "x"}), "store must be an object with names from"),
        (lambda v: v.update(store={"path": None}), "store.path: must be text of 1 to 2000 characters"),
        (lambda v: v.update(store={"path": "x" * 2001}), "store.path: must be text of 1 to 2000 characters"),
        (lambda v: v.update(store={"apis": [["x"]]}), "store.apis: must be text of 1 to 2000 characters"),
        (lambda v: v.update(store={"copies": True}), "store.copies: must be an integer"),
        (lambda v: v.update(address=v["address"].lower()), "start kit: an address is not in checksummed form"),
        (lambda v: v.update(chain_id=True), "chain_id: must be an integer"),
        (lambda v: v.update(name="../x"), "name: 1 to 64 letters"),
    ],
)
def test_a_malformed_kit_is_refused_by_name(change: Callable[[dict[str, object]], None], why: str) -> None:
    values = json.loads(sign(KIT, MEMBER).to_bytes())
    change(values)
    content = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(RecordError, match=why):
        StartKit.from_bytes(content)


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"absent: cannot be read .*; name the start kit"):
        StartKit.read(tmp_path / "absent")
    (tmp_path / "large").write_bytes(b"{" * (enrolment.MAX_SIZE + 2))
    with pytest.raises(RecordError, match=rf"large: start kit: more than {enrolment.MAX_SIZE} bytes"):
        StartKit.read(tmp_path / "large")
    (tmp_path / "empty").touch()
    with pytest.raises(RecordError, match="empty: join request: is not JSON"):
        JoinRequest.read(tmp_path / "empty")


@pytest.mark.parametrize("text", ["a:1", "10.0.0.1:65535", "[::1]:9092", "host.example:9092"])
def test_endpoints(text: str) -> None:
    assert endpoint(text, "x") == text


@pytest.mark.parametrize("text", ["", ":1", "a:0", "a:65536", "a b:1", "::1:9092", 5, "a:1\n"])
def test_no_endpoints(text: object) -> None:
    with pytest.raises(RecordError, match="x: host:port is needed"):
        endpoint(text, "x")


def test_a_key_that_is_no_ecdsa_key_is_refused() -> None:
    with pytest.raises(RecordError, match="node_key must be ECDSA as OpenSSH writes it"):
        request("hospital-d", ACCOUNT, bytes(32), "ssh-ed25519 " + "A" * 120)


def test_no_secret_is_in_them() -> None:
    key = ACCOUNT.key.hex().removeprefix("0x").encode()
    assert key not in made().to_bytes() + sign(KIT, ACCOUNT).to_bytes()
