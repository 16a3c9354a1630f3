"""medprov_ledger.checkpoint: the codec, and whose signatures count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import checkpoint, eip712
from medprov_ledger.checkpoint import Anchored, Checkpoint
from medprov_ledger.errors import RecordError

A, B, C = (Account.from_key(bytes([n]) * 32) for n in (1, 2, 3))
MEMBERS = (A.address, B.address, C.address)
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
ANCHORS = (Anchored(3, A.address, b"a" * 32, 103), Anchored(7, B.address, b"b" * 32, 107))


def made(*signers: Any) -> Checkpoint:
    plain = Checkpoint(DOMAIN, b"f" * 32, 9, b"h" * 32, 109, ANCHORS, (b"r" * 32,))
    for account in signers:
        plain = plain.sign(account)
    return plain


@pytest.mark.parametrize("signers", [(), (A,), (B, A, C)])
def test_what_is_written_is_read(signers: tuple[Any, ...], tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(made(*signers).to_bytes())
    assert checkpoint.read(file) == made(*signers)
    assert checkpoint.read(file).signers() == {one.address for one in signers}


def test_an_anchor_is_found_by_owner_and_root() -> None:
    assert made().anchor(B.address, b"b" * 32) == ANCHORS[1]
    assert made().anchor(A.address, b"b" * 32) is None


def test_signing_twice_is_signing_once() -> None:
    assert made(A, A) == made(A)


def test_enough_of_the_known_members_must_have_signed() -> None:
    made(A, B).accept(MEMBERS, 2)
    for signers, members, k in [((A,), MEMBERS, 2), ((A, B), (A.address,), 2), ((), MEMBERS, 1), ((A, B), MEMBERS, 0)]:
        with pytest.raises(RecordError, match="signed by"):
            made(*signers).accept(members, k)


@pytest.mark.parametrize(
    "changes",
    [
        {"federation_id": b"g" * 32},
        {"block": 10},
        {"block_hash": b"i" * 32},
        {"time": 110},
        {"anchors": ANCHORS[:1]},
        {"anchors": (*ANCHORS, Anchored(8, A.address, b"c" * 32, 108))},
        {"anchors": (replace(ANCHORS[0], time=104), ANCHORS[1])},
        {"revoked": ()},
        {"domain": eip712.domain(1, DOMAIN.registry)},
        {"domain": eip712.domain(31337, "0x" + "11" * 20)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_signatures_cover_everything(changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        replace(made(A, B), **changes).accept(MEMBERS, 1)


def changed(**values: Any) -> bytes:
    return json.dumps(json.loads(made(A).to_bytes()) | values, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b"{}", "is not a checkpoint file"),
        (b"[" * 100_000, "not written by this format"),
        (made(A).to_bytes()[:-2], "is not JSON"),
        (changed(version=7), "version 7 is unknown, this release reads version 1"),
        (changed(kind="medprov proof"), "is not a checkpoint file"),
        (changed(more=1), "unknown: 'more'"),
        (changed(anchors={}), "must be a list"),
        (changed(anchors=[[1, 2, 3]]), "list of block, owner, root and time"),
        (changed(anchors=[[10, A.address, "0x" + "aa" * 32, 1]]), "block of an anchor"),
        (changed(anchors=[[1, A.address.lower(), "0x" + "aa" * 32, 1]]), "checksummed"),
        (changed(revoked=["0x" + "bb" * 32, "0x" + "aa" * 32]), "ascending order"),
        (changed(revoked=["0x" + "aa" * 32, "0x" + "aa" * 32]), "ascending order"),
        (changed(signatures=["0x" + "00" * 64]), "must be 65 bytes"),
        (changed(signatures=0), "must be a list"),
        (changed(registry=DOMAIN.registry.lower()), "checksummed"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(data)
    with pytest.raises(RecordError, match=why) as caught:
        checkpoint.read(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordError, match=r"none\.json: cannot be read"):
        checkpoint.read(tmp_path / "none.json")
    monkeypatch.setattr(checkpoint, "MAX_SIZE", 100)
    with pytest.raises(RecordError, match="more than 100 bytes"):
        checkpoint.parse(made().to_bytes())


def test_thousands_of_anchors_are_read() -> None:
    many = tuple(Anchored(n, A.address, n.to_bytes(32, "big"), n) for n in range(5000))
    assert len(checkpoint.parse(replace(made(A), block=5000, anchors=many).to_bytes()).anchors) == 5000


@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_no_single_byte_passes_the_signatures(place: int, value: int) -> None:
    data = bytearray(made(A, B).to_bytes())
    data[place % len(data)] = value
    try:
        found = checkpoint.parse(bytes(data))
        found.accept(MEMBERS, 2)
    except RecordError as error:
        assert "\n" not in str(error)
        return
    assert found == made(A, B)
