"""The test vectors in docs/formats.md, recomputed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import ECC
from eth_account import Account

from medprov_ledger import bundle, cid, eip712, evidence, manifest, merkle, sealing
from medprov_ledger.bundle import Bundle, Wraps
from medprov_ledger.evidence import Evidence
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record

DOCUMENT = Path(__file__).parents[3] / "docs" / "formats.md"


@dataclass(frozen=True)
class Mark:
    format: int
    model: bytes
    payload_commitment: bytes
    marked_hash: bytes
    cover_hash: bytes
    rest_hash: bytes


class Vectors:
    """The JSON block of the document; `v.name` gives bytes, `v["name"]` the value as it stands."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __getattr__(self, name: str) -> bytes:
        return bytes.fromhex(self.values[name].removeprefix("0x"))


@pytest.fixture(scope="module")
def v() -> Vectors:
    (block,) = re.findall(r"```json\n(.*?)\n```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return Vectors(json.loads(block))


@pytest.fixture(scope="module")
def keys(v: Vectors) -> sealing.PayloadKeys:
    return sealing.payload_keys(v.payload, v.federation_id)


@pytest.fixture(scope="module")
def domain(v: Vectors) -> eip712.Domain:
    return eip712.domain(v["chain_id"], v["registry"])


def test_keys(v: Vectors, keys: sealing.PayloadKeys) -> None:
    assert (keys.record_key, keys.evidence_key) == (v.record_key, v.evidence_key)
    assert sealing.key_id(v.directory_key) == v.directory_key_id


def test_evidence(v: Vectors, keys: sealing.PayloadKeys) -> None:
    assert evidence.attribute_macs(keys.evidence_key, v["attributes"]) == v["attribute_macs"]
    made = Evidence(
        height=33,
        width=40,
        channels=1,
        bits=12,
        block=32,
        grid=bytes(range(32)),
        features=b"\xaa\xbb\xcc",
        feature_version=1,
        attribute_macs=v["attribute_macs"],
        policy={"roi": "strict"},
    )
    assert made.to_bytes() == v.evidence
    assert evidence.seal(made, keys, v.nonce) == v.sealed_evidence
    assert evidence.open(v.sealed_evidence, keys) == made
    assert cid.of(v.sealed_evidence) == v["evidence_cid"]


def test_bundle(v: Vectors) -> None:
    made = Bundle(b"\x55" * 16, {"00080060": {"vr": "CS", "Value": ["CT"]}}, {"reason": "study 7"})
    assert made.to_bytes() == v.bundle
    aad = sealing.aad("bundle", v.record_key)
    assert sealing.seal(v.bundle_key, v.bundle, v.nonce, aad) == v.sealed_bundle
    assert cid.of(v.sealed_bundle) == v["bundle_cid"]
    reader = ECC.construct(curve="Curve25519", seed=v.reader_private)  # type: ignore[arg-type]
    assert sealing.unwrap(v.wrapped_bundle_key, reader, bundle.wrap_info(v.record_key)) == v.bundle_key
    wraps = Wraps(v.record_key, {v["reader_fingerprint"]: v.wrapped_bundle_key})
    assert bundle.open(v.sealed_bundle, wraps, reader) == made


def test_record(v: Vectors, domain: eip712.Domain) -> None:
    record = Record.from_json(v["record"])
    assert record.to_json() == v["record"]
    assert record.leaf(domain) == v.record_leaf
    assert eip712.sign_record(record, domain, Account.from_key(v.signing_key)) == v.record_signature
    assert eip712.recover_record(record, v.record_signature, domain) == record.owner


def test_image_mark(v: Vectors, domain: eip712.Domain) -> None:
    values = {name: value if name == "format" else bytes.fromhex(value[2:]) for name, value in v["image_mark"].items()}
    mark = Mark(**values)  # type: ignore[arg-type]
    assert eip712.image_mark_digest(mark, domain) == v.image_mark_digest
    assert eip712.sign_image_mark(mark, domain, Account.from_key(v.signing_key)) == v.image_mark_signature


def test_manifest(v: Vectors, domain: eip712.Domain) -> None:
    account = Account.from_key(v.signing_key)
    first = Record.from_json(v["record"])
    second = replace(first, released_hash=b"\x78" * 32, bundle_cid="", time=first.time + 1)
    payloads = [v.payload, v.payload[:8] + b"\xff" * 4]
    signed = [SignedRecord(record, eip712.sign_record(record, domain, account)) for record in (first, second)]
    made = manifest.build(signed, domain, payloads, v.directory_key, v.nonce)
    assert made.to_bytes().decode() == v["manifest"] and cid.of(made.to_bytes()) == v["manifest_cid"]
    assert made.leaves == (v.record_leaf, v.second_leaf) and made.root == v.root
    assert [f"0x{node.hex()}" for node in made.tree.proofs[0]] == v["first_proof"]
    assert merkle.verify(v.root, v.record_leaf, made.tree.proofs[0])
    found = manifest.parse(v["manifest"].encode())
    assert found == made and manifest.open_directory(found, v.directory_key) == tuple(payloads)
    assert made.directory is not None
    aad = sealing.aad("directory", v.root)
    assert sealing.open(v.directory_key, made.directory.sealed, aad) == v.directory


def test_the_document_names_what_the_code_does() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert eip712.RECORD_TYPE in text and eip712.IMAGE_MARK_TYPE in text
    for figure in (cid.CHUNK, cid.WIDTH, manifest.MAX_RECORDS):
        assert str(figure) in text
