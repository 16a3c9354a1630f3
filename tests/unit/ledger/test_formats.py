"""The test vectors of docs/formats.md, recomputed; a version that nobody knows is refused by name in every format."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from Crypto.PublicKey import ECC
from eth_account import Account

from medprov_ledger import (
    bundle,
    checkpoint,
    cid,
    directory_key,
    eip712,
    evidence,
    manifest,
    merkle,
    proof_file,
    sealing,
)
from medprov_ledger.bundle import Bundle, ReaderWrap, Wraps
from medprov_ledger.directory_key import DirectoryKey
from medprov_ledger.errors import LedgerError
from medprov_ledger.evidence import Evidence
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record

DOCUMENT = Path(__file__).parents[3] / "docs" / "formats.md"
VECTORS = Path(__file__).parents[2] / "vectors"


@dataclass(frozen=True)
class Mark:
    format: int
    model: bytes
    payload_commitment: bytes
    marked_hash: bytes
    cover_hash: bytes
    rest_hash: bytes


class Vectors:
    """The file of vectors; `v.name` gives bytes, `v["name"]` the value as it stands."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __getattr__(self, name: str) -> bytes:
        return bytes.fromhex(self.values[name].removeprefix("0x"))


@pytest.fixture(scope="module")
def v() -> Vectors:
    return Vectors(json.loads((VECTORS / "formats.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def keys(v: Vectors) -> sealing.PayloadKeys:
    return sealing.payload_keys(v.payload, v.federation_id)


@pytest.fixture(scope="module")
def domain(v: Vectors) -> eip712.Domain:
    return eip712.domain(v["chain_id"], v["registry"])


def test_the_script_makes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
    assert spec is not None and spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, make)
    spec.loader.exec_module(make)
    text = (VECTORS / "formats.json").read_text(encoding="utf-8")
    assert json.dumps(make.vectors(), indent=1) + "\n" == text, (
        "run python tests/vectors/make.py, and say why it changed"
    )


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
    assert Wraps.from_bytes(v["wraps"].encode()) == wraps and wraps.to_bytes().decode() == v["wraps"]
    handed = ReaderWrap.from_bytes(v["wrap"].encode())
    assert handed == ReaderWrap(v["bundle_cid"], v.record_key, v["reader_fingerprint"], v.wrapped_bundle_key)
    assert handed.to_bytes().decode() == v["wrap"] and bundle.open_handed(v.sealed_bundle, handed, reader) == made


def test_the_wrap_is_rfc_9180_to_another_implementation(v: Vectors) -> None:
    hpke = pytest.importorskip("cryptography.hazmat.primitives.hpke")
    x25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.x25519")
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    reader = x25519.X25519PrivateKey.from_private_bytes(v.reader_private)
    assert reader.public_key().public_bytes_raw() == v.reader_public
    ephemeral = x25519.X25519PrivateKey.from_private_bytes(v.ephemeral_private)
    assert ephemeral.public_key().public_bytes_raw() == v.wrapped_bundle_key[:32]
    info = b"medprov 1 bundle key" + v.record_key
    assert suite.decrypt(v.wrapped_bundle_key, reader, info=info) == v.bundle_key


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


def test_a_directory_key_of_another_epoch(v: Vectors) -> None:
    assert sealing.key_id(v.former_directory_key) == v.former_directory_key_id != v.directory_key_id
    found = manifest.parse(v["manifest"].encode())
    assert manifest.open_directory(found, v.former_directory_key) is None
    assert manifest.open_directory(found, v.former_directory_key, v.directory_key) is not None


def test_a_directory_key_on_its_way(v: Vectors, domain: eip712.Domain) -> None:
    found = DirectoryKey.from_bytes(v["directory_key_file"].encode())
    assert found.to_bytes().decode() == v["directory_key_file"]
    reader = ECC.construct(curve="Curve25519", seed=v.reader_private)  # type: ignore[arg-type]
    assert directory_key.open(found, reader) == v.directory_key
    assert found.signer(domain) == Account.from_key(v.signing_key).address


def test_a_tree_of_five(v: Vectors) -> None:
    leaves = [bytes.fromhex(leaf[2:]) for leaf in v["tree_leaves"]]
    proofs = [[bytes.fromhex(node[2:]) for node in proof] for proof in v["tree_proofs"]]
    # two equal levels and one node that stands alone: nothing is doubled, nothing is padded
    hashed = sorted(merkle.keccak256(merkle.keccak256(leaf)) for leaf in leaves)

    def pair(a: bytes, b: bytes) -> bytes:
        return merkle.keccak256(min(a, b) + max(a, b))

    nodes = [b""] * 4 + hashed[::-1]
    for place in (3, 2, 1, 0):
        nodes[place] = pair(nodes[2 * place + 1], nodes[2 * place + 2])
    assert nodes[0] == v.tree_root == merkle.root(leaves)
    for leaf, proof in zip(leaves, proofs, strict=True):
        assert merkle.verify(v.tree_root, leaf, proof)
        assert not merkle.verify(v.tree_root, proof[0], proof)


def test_proof_file_and_checkpoint(v: Vectors) -> None:
    proof = proof_file.parse(v["proof_file"].encode())
    assert proof.record == Record.from_json(v["record"]) and proof.to_bytes().decode() == v["proof_file"]
    known = checkpoint.parse(v["checkpoint"].encode())
    assert known.to_bytes().decode() == v["checkpoint"] and known.signers() == {proof.record.owner}


READERS: dict[str, Callable[[Vectors, Any], object]] = {
    "sealed object": lambda v, data: sealing.open(v.evidence_key, data, sealing.aad("evidence", v.record_key)),
    "evidence": lambda _, data: Evidence.from_bytes(data),
    "bundle": lambda _, data: Bundle.from_bytes(data),
    "wraps": lambda _, text: Wraps.from_bytes(text.encode()),
    "wrap": lambda _, text: ReaderWrap.from_bytes(text.encode()),
    "record": lambda _, text: Record.from_json(json.loads(text)),
    "manifest": lambda _, text: manifest.parse(text.encode()),
    "directory": lambda v, data: manifest.unseal_directory(
        manifest.SealedDirectory(v.directory_key_id, data), v.directory_key, v.root, 2
    ),
    "proof": lambda _, text: proof_file.parse(text.encode()),
    "checkpoint": lambda _, text: checkpoint.parse(text.encode()),
    "directory key": lambda _, text: DirectoryKey.from_bytes(text.encode()),
}


@pytest.mark.parametrize("name", READERS)
def test_an_unknown_version_is_refused_by_name(v: Vectors, name: str) -> None:
    given = v["unknown_versions"][name]
    data = bytes.fromhex(given[2:]) if given.startswith("0x") else given
    with pytest.raises(LedgerError, match=f"{name}: version 9 is unknown, this release reads version 1; update"):
        READERS[name](v, data)


def test_every_format_with_a_version_has_its_refusal(v: Vectors) -> None:
    assert set(v["unknown_versions"]) == set(READERS)


def test_the_document_names_what_the_code_does() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert directory_key.TYPE in text and checkpoint.TYPE in text
    assert eip712.RECORD_TYPE in text and eip712.IMAGE_MARK_TYPE in text
    for name in READERS:
        assert name in text.lower()
    for figure in (cid.CHUNK, cid.WIDTH, manifest.MAX_RECORDS):
        assert str(figure) in text
