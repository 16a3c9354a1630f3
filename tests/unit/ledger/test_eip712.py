"""Typed signatures, against eth-account's own EIP-712 encoder."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from medprov_ledger import cid, eip712
from medprov_ledger.errors import RecordError
from medprov_ledger.merkle import keccak256
from medprov_ledger.record import Record

ACCOUNT = Account.from_key(b"\x01" * 32)
OTHER = Account.from_key(b"\x02" * 32)
REGISTRY = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = eip712.domain(31337, REGISTRY)
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


@dataclass(frozen=True)
class Mark:
    format: int = 1
    model: bytes = b"\x0a" * 32
    payload_commitment: bytes = b"\x0b" * 32
    marked_hash: bytes = b"\x0c" * 32
    cover_hash: bytes = b"\x0d" * 32
    rest_hash: bytes = b"\x0e" * 32


def record(**changes: object) -> Record:
    values = {
        "key": b"\1" * 32,
        "cover_hash": b"\2" * 32,
        "marked_hash": b"\3" * 32,
        "released_hash": b"\4" * 32,
        "evidence_cid": cid.of(b"evidence"),
        "bundle_cid": cid.of(b"bundle"),
        "owner": ACCOUNT.address,
        "model": b"\5" * 32,
        "time": 1_790_000_000,
    }
    return Record(**(values | changes))


def members(kind: str) -> list[dict[str, str]]:
    fields = kind[kind.index("(") + 1 : -1].split(",")
    return [dict(zip(("type", "name"), item.split(" "), strict=True)) for item in fields]


def oracle(kind: str, message: dict[str, object], chain_id: int = 31337, registry: str = REGISTRY) -> bytes:
    name = kind[: kind.index("(")]
    signable = encode_typed_data(
        {"name": "medprov", "version": "1", "chainId": chain_id, "verifyingContract": registry},
        {name: members(kind)},
        message,
    )
    return keccak256(b"\x19" + signable.version + signable.header + signable.body)


hashes = st.binary(min_size=32, max_size=32)


@given(st.integers(0, 65535), hashes, hashes, hashes, hashes, hashes, st.integers(1, 2**256 - 1))
def test_image_mark_digest_is_eip712(
    version: int, model: bytes, payload: bytes, marked: bytes, cover: bytes, rest: bytes, chain_id: int
) -> None:
    mark = Mark(version, model, payload, marked, cover, rest)
    message = {
        "format": version,
        "model": model,
        "payloadCommitment": payload,
        "markedHash": marked,
        "coverHash": cover,
        "restHash": rest,
    }
    domain = eip712.domain(chain_id, REGISTRY)
    assert eip712.image_mark_digest(mark, domain) == oracle(eip712.IMAGE_MARK_TYPE, message, chain_id)


@given(hashes, st.binary(max_size=50), st.booleans(), st.integers(0, 2**63 - 1))
def test_record_digest_is_eip712(value: bytes, content: bytes, bundle: bool, time: int) -> None:
    made = record(key=value, evidence_cid=cid.of(content), bundle_cid=cid.of(value) if bundle else "", time=time)
    message = {
        "format": 1,
        "key": made.key,
        "coverHash": made.cover_hash,
        "markedHash": made.marked_hash,
        "releasedHash": made.released_hash,
        "evidenceCid": made.evidence_cid,
        "bundleCid": made.bundle_cid,
        "owner": made.owner,
        "model": made.model,
        "time": time,
    }
    assert eip712.record_digest(made, DOMAIN) == oracle(eip712.RECORD_TYPE, message) == made.leaf(DOMAIN)


def test_sign_and_recover() -> None:
    signature = eip712.sign_image_mark(Mark(), DOMAIN, ACCOUNT)
    assert len(signature) == 65
    assert eip712.recover_image_mark(Mark(), signature, DOMAIN) == ACCOUNT.address
    assert eip712.sign_image_mark(Mark(), DOMAIN, ACCOUNT) == signature
    signed = eip712.sign_record(record(), DOMAIN, ACCOUNT)
    assert eip712.recover_record(record(), signed, DOMAIN) == ACCOUNT.address


@pytest.mark.parametrize(
    "changed",
    [Mark(format=2)] + [replace(Mark(), **{name: b"\xff" * 32}) for name in list(Mark.__dataclass_fields__)[1:]],  # type: ignore[arg-type]
)
def test_a_signature_covers_every_field(changed: Mark) -> None:
    signature = eip712.sign_image_mark(Mark(), DOMAIN, ACCOUNT)
    assert eip712.recover_image_mark(changed, signature, DOMAIN) != ACCOUNT.address


@pytest.mark.parametrize("chain_id, registry", [(1, REGISTRY), (31337, OTHER.address)])
def test_a_signature_is_for_one_chain_and_registry(chain_id: int, registry: str) -> None:
    signature = eip712.sign_record(record(), DOMAIN, ACCOUNT)
    assert eip712.recover_record(record(), signature, eip712.domain(chain_id, registry)) != ACCOUNT.address


def test_a_record_and_an_image_mark_never_share_a_digest() -> None:
    assert eip712.image_mark_digest(Mark(), DOMAIN) != eip712.record_digest(record(), DOMAIN)


def test_only_the_owner_signs_a_record() -> None:
    with pytest.raises(RecordError, match="owner's key"):
        eip712.sign_record(record(), DOMAIN, OTHER)


@given(st.binary(min_size=65, max_size=65))
def test_noise_recovers_to_a_stranger_or_is_refused(signature: bytes) -> None:
    with contextlib.suppress(RecordError):
        assert eip712.recover(b"\7" * 32, signature) != ACCOUNT.address


def test_the_second_form_of_a_signature_is_refused() -> None:
    signature = eip712.sign(b"\7" * 32, ACCOUNT)
    order = 2 * HALF_ORDER + 1
    s = order - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    with pytest.raises(RecordError, match="EIP-2"):
        eip712.recover(b"\7" * 32, twin)


@pytest.mark.parametrize("spoil", [lambda s: b"", lambda s: s[:64], lambda s: s + b"\0", lambda s: s[:64] + b"\0"])
def test_malformed_signatures_are_refused(spoil: object) -> None:
    signature = eip712.sign(b"\7" * 32, ACCOUNT)
    with pytest.raises(RecordError, match="65 bytes"):
        eip712.recover(b"\7" * 32, spoil(signature))  # type: ignore[operator]


def test_zero_signature_is_refused() -> None:
    with pytest.raises(RecordError, match="damaged"):
        eip712.recover(b"\7" * 32, b"\0" * 64 + b"\x1b")


@pytest.mark.parametrize("address", ["", "0x12", "5FbDB2315678afecb367f032d93F642f64180aa3", None, "0x" + "g" * 40])
def test_malformed_registry_is_refused(address: object) -> None:
    with pytest.raises(RecordError, match="address"):
        eip712.domain(1, address)  # type: ignore[arg-type]


@pytest.mark.parametrize("chain_id", [0, -1, True, 2**256])
def test_malformed_chain_id_is_refused(chain_id: int) -> None:
    with pytest.raises(RecordError, match="chain id"):
        eip712.domain(chain_id, REGISTRY)


def test_malformed_mark_is_refused() -> None:
    with pytest.raises(RecordError, match="32 bytes"):
        eip712.image_mark_digest(Mark(model=b"\0" * 31), DOMAIN)


@given(hashes, st.integers(0, 2**32 - 1), st.text(), st.integers(0, 2**256 - 1), st.integers(1, 2**256 - 1))
def test_a_message_as_services_take_it(root: bytes, count: int, text: str, deadline: int, chain_id: int) -> None:
    """What is shown as JSON hashes to what is signed: one that hashes the JSON signs the same."""
    domain = eip712.domain(chain_id, REGISTRY)
    message = eip712.TypedMessage(eip712.BATCH_TYPE, (ACCOUNT.address, root, count, text, deadline), domain)
    document = json.loads(json.dumps(message.to_json()))
    signable = encode_typed_data(full_message=document)
    assert message.digest == keccak256(b"\x19" + signable.version + signable.header + signable.body)
