"""A directory key on its way: the codec, and who can neither read nor make one."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from Crypto.PublicKey import ECC
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import directory_key, eip712, sealing
from medprov_ledger.directory_key import DirectoryKey
from medprov_ledger.errors import RecordError, SealError

DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
FEDERATION, KEY = b"\x11" * 32, b"\xa5" * 32
MEMBER = Account.from_key(b"\x01" * 32)


def reader(number: int) -> ECC.EccKey:
    seed: Any = bytes([number]) * 32  # the annotation of `seed` knows no bytes, the function takes them
    return ECC.construct(curve="Curve25519", seed=seed)


def public(key: ECC.EccKey) -> bytes:
    return bytes(key.public_key().export_key(format="raw"))


A, B, LEFT = (reader(number) for number in (1, 2, 3))
MADE = directory_key.seal(KEY, FEDERATION, [public(A), public(B)], DOMAIN, MEMBER)
DATA = MADE.to_bytes()


def test_members_open_it_and_see_who_made_it() -> None:
    found = DirectoryKey.from_bytes(DATA)
    assert found == MADE and found.to_bytes() == DATA
    assert directory_key.open(found, A) == directory_key.open(found, B) == KEY
    assert found.signer(DOMAIN) == MEMBER.address and found.key_id == sealing.key_id(KEY)
    assert KEY not in DATA and KEY.hex().encode() not in DATA and "keys" not in repr(found)


def test_who_left_cannot_open_it() -> None:
    with pytest.raises(SealError, match="has no wrap for reader"):
        directory_key.open(MADE, LEFT)
    for wrapped in MADE.keys.values():
        stolen = replace(MADE, keys={sealing.fingerprint(public(LEFT)): wrapped})
        with pytest.raises(SealError):
            directory_key.open(stolen, LEFT)


def test_a_wrap_of_another_federation_or_use_does_not_open() -> None:
    with pytest.raises(SealError, match="not for this reader or this use"):
        directory_key.open(replace(MADE, federation_id=b"\x12" * 32), A)
    with pytest.raises(SealError, match="another key than the file names"):
        directory_key.open(replace(MADE, key_id=bytes(8)), A)


def test_a_change_changes_the_signer() -> None:
    forged = directory_key.seal(b"\x32" * 32, FEDERATION, [public(A)], DOMAIN, Account.from_key(b"\x02" * 32))
    for changed in (
        replace(MADE, keys=forged.keys),
        replace(MADE, key_id=forged.key_id),
        replace(MADE, federation_id=b"\x12" * 32),
        replace(MADE, keys={}),
    ):
        assert changed.signer(DOMAIN) != MEMBER.address
    assert MADE.signer(eip712.domain(1, DOMAIN.registry)) != MEMBER.address
    with pytest.raises(RecordError, match="signature"):
        replace(MADE, signature=b"").signer(DOMAIN)


def test_a_member_s_unusable_key_is_refused() -> None:
    with pytest.raises(SealError, match="not a usable X25519 public key"):
        directory_key.seal(KEY, FEDERATION, [public(A), bytes(32)], DOMAIN, MEMBER)


@given(st.data())
def test_damaged_bytes_never_pass_for_the_same(data: st.DataObject) -> None:
    with pytest.raises(RecordError):
        DirectoryKey.from_bytes(DATA[: data.draw(st.integers(0, len(DATA) - 1))])
    spoiled = bytearray(DATA)
    spoiled[data.draw(st.integers(0, len(DATA) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RecordError):
        found = DirectoryKey.from_bytes(bytes(spoiled))
        assert found.to_bytes() == bytes(spoiled)
        assert found.signer(DOMAIN) != MEMBER.address


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"kind": "medprov wrap"}, "is not the file of a directory key"),
        ({"version": 2, "news": 1}, "directory key: version 2 is unknown, this release reads version 1"),
        ({"news": 1}, "unknown: 'news'"),
        ({"keys": []}, "must be a JSON object"),
        ({"keys": {"a": "AAAA"}}, "32 lower-case hexadecimal digits"),
        ({"keys": {"ab" * 16: "AAAA"}}, "must be 80 bytes"),
        ({"key_id": "0x00"}, "must be 8 bytes"),
        ({"signature": "0x00"}, "must be 65 bytes"),
    ],
)
def test_hostile_fields_are_refused(changes: dict[str, object], why: str) -> None:
    values = json.loads(DATA) | changes
    with pytest.raises(RecordError, match=why):
        DirectoryKey.from_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(RecordError, match="more than"):
        DirectoryKey.from_bytes(b"{" + b" " * directory_key.MAX_SIZE)
