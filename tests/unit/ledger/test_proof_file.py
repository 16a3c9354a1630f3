"""medprov_ledger.proof_file: the codec, and that no part can be exchanged for another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from medprov_ledger import cid, eip712, merkle, proof_file
from medprov_ledger.errors import RecordError
from medprov_ledger.proof_file import Batch, Proof, StatedAnchor
from medprov_ledger.record import Record

OWNER, OTHER = Account.from_key(b"\x01" * 32), Account.from_key(b"\x02" * 32)
DOMAIN = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
EVIDENCE = b"sealed evidence, as long as it may be"


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def record(number: int = 0, account: Any = OWNER) -> Record:
    hashes = [digest(f"{name} {number}") for name in ("key", "cover", "marked", "released")]
    return Record(*hashes, cid.of(EVIDENCE), "", account.address, digest("model"), 1_790_000_000)


def anchor(account: Any = OWNER) -> StatedAnchor:
    members = tuple(sorted((OWNER.address, OTHER.address)))
    return StatedAnchor(account.address, 12, digest("block"), 1_790_000_100, digest("transaction"), members)


def made(number: int = 0, account: Any = OWNER, evidence: bytes | None = EVIDENCE) -> Proof:
    records = [record(n, account) for n in range(3)]
    tree = merkle.tree([one.leaf(DOMAIN) for one in records])
    batch = Batch(tree.root, tree.proofs[number], 3, cid.of(b"manifest"))
    signature = eip712.sign_record(records[number], DOMAIN, account)
    return Proof(DOMAIN, b"f" * 32, records[number], signature, batch, anchor(account), evidence)


def single() -> Proof:
    return Proof(DOMAIN, b"f" * 32, record(), None, None, anchor(), EVIDENCE)


@pytest.mark.parametrize("proof", [made(), made(2), made(evidence=None), single()], ids=str)
def test_what_is_written_is_read(proof: Proof, tmp_path: Path) -> None:
    (tmp_path / "proof.json").write_bytes(proof.to_bytes())
    assert proof_file.read(tmp_path / "proof.json") == proof
    assert proof_file.parse(proof.to_bytes()).evidence == proof.evidence
    assert proof.anchored == (proof.batch.root if proof.batch else proof.record_id)


def test_the_file_is_readable_json_with_its_kind_and_version() -> None:
    values = json.loads(made().to_bytes())
    assert (values["kind"], values["version"]) == ("medprov proof", 1)
    assert values["record_id"] == "0x" + made().record_id.hex()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"record": record(1)}, "signed by 0x"),
        ({"record": record(1), "signature": made(1).signature}, "does not lead from the record to the root"),
        ({"batch": made(1).batch}, "does not lead from the record to the root"),
        ({"batch": replace(made().batch, root=b"r" * 32)}, "does not lead from the record to the root"),
        ({"signature": made(1).signature}, "signed by 0x"),
        ({"signature": None}, "needs its owner's signature"),
        ({"batch": None}, "needs its owner's signature"),
        ({"anchor": anchor(OTHER)}, "only the owner's proves"),
        ({"anchor": replace(anchor(), members=(OTHER.address,))}, "not among the members"),
        ({"evidence": EVIDENCE + b"."}, "its evidence is not bafkrei"),
        ({"domain": eip712.domain(1, DOMAIN.registry)}, "signed by 0x"),
        ({"domain": eip712.domain(31337, "0x" + "11" * 20)}, "signed by 0x"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_parts_that_do_not_belong_together_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordError, match=why):
        replace(made(), **changes)


def test_another_owners_record_with_that_owners_anchor_is_refused() -> None:
    theirs = made(0, OTHER)
    with pytest.raises(RecordError, match="only the owner's proves"):
        replace(made(), record=theirs.record, signature=theirs.signature, batch=theirs.batch)


def changed(data: bytes, **values: Any) -> bytes:
    whole = json.loads(data) | values
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not JSON"),
        (b"null", "is not a proof file"),
        (b"{}", "is not a proof file"),
        (b"[" * 200, "nested deeper"),
        (b"[" * 100_000, "not written by this format"),
        (made().to_bytes()[:-1], "is not JSON"),
        (made().to_bytes()[: len(made().to_bytes()) // 2], "is not JSON"),
        (made().to_bytes() + b"\n", "not in canonical form"),
        (made().to_bytes().replace(b'{"anchor"', b'{"version":1,"anchor"'), "not in canonical form"),
        (json.dumps(json.loads(made().to_bytes()), indent=2).encode(), "not in canonical form"),
        ("{\u00e9}".encode(), "not written by this format"),
        (changed(made().to_bytes(), version=2), "version 2 is unknown, this release reads version 1"),
        (changed(made().to_bytes(), version=True), "version True is unknown"),
        (changed(made().to_bytes(), kind="medprov manifest"), "is not a proof file"),
        (changed(made().to_bytes(), more=1), "unknown: 'more'"),
        (changed(made().to_bytes(), record_id="0x" + "00" * 32), "record_id is not that of its record"),
        (changed(made().to_bytes(), chain_id=0), "chain_id"),
        (changed(made().to_bytes(), chain_id=10**300), "chain_id"),
        (changed(made().to_bytes(), registry=DOMAIN.registry.lower()), "checksummed form"),
        (changed(made().to_bytes(), batch=[]), "is not a JSON object"),
        (changed(made().to_bytes(), batch=0), "is not a JSON object"),
        (changed(made().to_bytes(), anchor=None), "is not a JSON object"),
        (changed(made().to_bytes(), evidence=0), "is not base64"),
        (changed(made().to_bytes(), evidence=""), "its evidence is not"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_in_one_line(data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    file.write_bytes(data)
    with pytest.raises(RecordError, match=why) as caught:
        proof_file.read(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("members", [[], [OTHER.address, OWNER.address][:1] * 2, "0x", [OWNER.address.lower()], [0]])
def test_members_are_written_in_one_way(members: Any) -> None:
    values = json.loads(made().to_bytes())
    with pytest.raises(RecordError, match="member"):
        proof_file.parse(changed(made().to_bytes(), anchor=values["anchor"] | {"members": members}))


def test_a_file_that_is_not_there_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordError, match=r"none\.json: cannot be read"):
        proof_file.read(tmp_path / "none.json")
    with pytest.raises(RecordError, match="cannot be read"):
        proof_file.read(tmp_path)
    monkeypatch.setattr(proof_file, "MAX_SIZE", 100)
    (tmp_path / "proof.json").write_bytes(made().to_bytes())
    with pytest.raises(RecordError, match="more than 100 bytes"):
        proof_file.read(tmp_path / "proof.json")


@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
@settings(max_examples=400, deadline=None)
def test_no_single_byte_changes_what_is_proved(place: int, value: int) -> None:
    """Only what the file states of the chain can differ, and the federation's id, which the verifier has by itself."""
    proof = made()
    data = bytearray(proof.to_bytes())
    data[place % len(data)] = value
    try:
        found = proof_file.parse(bytes(data))
    except RecordError as error:
        assert "\n" not in str(error)
        return
    assert found.batch is not None and proof.batch is not None
    same = replace(
        found,
        federation_id=proof.federation_id,
        anchor=proof.anchor,
        batch=replace(found.batch, count=proof.batch.count, manifest=proof.batch.manifest),
    )
    assert same == proof


@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_typed_error(data: bytes) -> None:
    with pytest.raises(RecordError):
        proof_file.parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just("0x" + "11" * 32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_field_replaced_by_anything_is_refused_or_proves_the_same(data: st.DataObject) -> None:
    proof = made()
    values = json.loads(proof.to_bytes())
    place = values
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [name for name, value in sorted(place.items()) if isinstance(value, dict)]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        found = proof_file.parse(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
    except RecordError as error:
        assert "\n" not in str(error)
        return
    assert (found.domain, found.record, found.signature) == (proof.domain, proof.record, proof.signature)
    assert found.anchored == proof.anchored and found.evidence in (proof.evidence, None)
