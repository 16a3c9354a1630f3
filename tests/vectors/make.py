"""The test vectors of docs/formats.md, from fixed inputs: `python tests/vectors/make.py` writes formats.json.

All keys and nonces are one byte repeated, so nobody can take them for real ones. The only random value of the formats,
HPKE's ephemeral key, is fixed as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from Crypto.Protocol import HPKE
from Crypto.PublicKey import ECC
from eth_account import Account

from medprov_ledger import bundle, cid, directory_key, eip712, evidence, manifest, merkle, proof_file, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap, Wraps
from medprov_ledger.checkpoint import Anchored, Checkpoint
from medprov_ledger.evidence import Evidence
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record

FILE = Path(__file__).with_name("formats.json")
FEDERATION, NONCE, SALT = b"\x11" * 32, b"\x33" * 12, b"\x55" * 16
BUNDLE_KEY, READER, EPHEMERAL = b"\x44" * 32, b"\x66" * 32, b"\x67" * 32
SIGNING_KEY, DIRECTORY_KEY, FORMER_DIRECTORY_KEY = b"\x01" * 32, b"\x77" * 32, b"\x79" * 32
PAYLOAD = bytes(range(12))
ATTRIBUTES = {"Laterality": "L", "StudyInstanceUID": "1.2.3"}
CHAIN_ID, REGISTRY = 31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3"


@dataclass(frozen=True)
class Mark:
    """What the integrity mark's signature is over."""

    format: int
    model: bytes
    payload_commitment: bytes
    marked_hash: bytes
    cover_hash: bytes
    rest_hash: bytes


def private_key(seed: bytes) -> ECC.EccKey:
    """An X25519 key."""
    return ECC.construct(curve="Curve25519", seed=seed)  # type: ignore[arg-type]


@contextmanager
def fixed_ephemeral() -> Iterator[None]:
    """HPKE with an ephemeral key that is always the same."""
    with mock.patch.object(HPKE.ECC, "generate", lambda **_: private_key(EPHEMERAL)):
        yield


def shown(value: Any) -> Any:
    """Bytes as 0x and hexadecimal digits, at any depth."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    return value


def sealed_objects() -> dict[str, Any]:
    """Keys, evidence, bundle, wraps."""
    keys = sealing.payload_keys(PAYLOAD, FEDERATION)
    macs = evidence.attribute_macs(keys.evidence_key, ATTRIBUTES)
    proof = Evidence(33, 40, 1, 12, 32, bytes(range(32)), b"\xaa\xbb\xcc", 1, macs, {"roi": "strict"})
    sealed_evidence = evidence.seal(proof, keys, NONCE)
    private = Bundle(SALT, {"00080060": {"vr": "CS", "Value": ["CT"]}}, {"reason": "study 7"})
    sealed_bundle = sealing.seal(BUNDLE_KEY, private.to_bytes(), NONCE, sealing.aad("bundle", keys.record_key))
    public = bytes(private_key(READER).public_key().export_key(format="raw"))
    info = bundle.wrap_info(keys.record_key)
    with fixed_ephemeral():
        wrapped = sealing.wrap(BUNDLE_KEY, public, info)
    name = sealing.fingerprint(public)
    return {
        "federation_id": FEDERATION,
        "payload": PAYLOAD,
        "record_key": keys.record_key,
        "evidence_key": keys.evidence_key,
        "nonce": NONCE,
        "attributes": ATTRIBUTES,
        "attribute_macs": macs,
        "evidence": proof.to_bytes(),
        "sealed_evidence": sealed_evidence,
        "evidence_cid": cid.of(sealed_evidence),
        "bundle_key": BUNDLE_KEY,
        "bundle": private.to_bytes(),
        "sealed_bundle": sealed_bundle,
        "bundle_cid": cid.of(sealed_bundle),
        "reader_private": READER,
        "reader_public": public,
        "reader_fingerprint": name,
        "ephemeral_private": EPHEMERAL,
        "wrapped_bundle_key": wrapped,
        "wraps": Wraps(keys.record_key, {name: wrapped}).to_bytes().decode(),
        "wrap": ReaderWrap(cid.of(sealed_bundle), keys.record_key, name, wrapped).to_bytes().decode(),
    }


def records(made: dict[str, Any]) -> dict[str, Any]:
    """Record, integrity mark, manifest, directory, proofs."""
    domain, account = eip712.domain(CHAIN_ID, REGISTRY), Account.from_key(SIGNING_KEY)
    first = Record(
        made["record_key"],
        b"\x71" * 32,
        b"\x72" * 32,
        b"\x73" * 32,
        made["evidence_cid"],
        made["bundle_cid"],
        account.address,
        b"\x74" * 32,
        1_790_000_000,
    )
    second = replace(first, released_hash=b"\x78" * 32, bundle_cid="", time=first.time + 1)
    signed = [SignedRecord(one, eip712.sign_record(one, domain, account)) for one in (first, second)]
    payloads = [PAYLOAD, PAYLOAD[:8] + b"\xff" * 4]
    batch = manifest.build(signed, domain, payloads, DIRECTORY_KEY, NONCE)
    assert batch.directory is not None
    mark = Mark(1, b"\x74" * 32, b"\x75" * 32, b"\x72" * 32, b"\x71" * 32, b"\x76" * 32)
    leaves = [bytes([number]) * 32 for number in range(1, 6)]
    data = batch.to_bytes()
    anchor = proof_file.StatedAnchor(account.address, 7, b"\x7a" * 32, 1_790_000_100, b"\x7b" * 32, (account.address,))
    place = proof_file.Batch(batch.root, batch.tree.proofs[0], 2, cid.of(data))
    proof = proof_file.Proof(domain, FEDERATION, first, signed[0].signature, place, anchor, made["sealed_evidence"])
    anchored = (Anchored(7, account.address, batch.root, 1_790_000_100),)
    checkpoint = Checkpoint(domain, FEDERATION, 9, b"\x7c" * 32, 1_790_000_200, anchored, ()).sign(account)
    with fixed_ephemeral():
        letter = directory_key.seal(DIRECTORY_KEY, FEDERATION, [made["reader_public"]], domain, account)
    return {
        "signing_key": SIGNING_KEY,
        "chain_id": CHAIN_ID,
        "registry": REGISTRY,
        "domain_separator": domain.separator,
        "record": first.to_json(),
        "record_leaf": first.leaf(domain),
        "record_signature": signed[0].signature,
        "image_mark": vars(mark),
        "image_mark_digest": eip712.image_mark_digest(mark, domain),
        "image_mark_signature": eip712.sign_image_mark(mark, domain, account),
        "second_leaf": batch.leaves[1],
        "root": batch.root,
        "first_proof": batch.tree.proofs[0],
        "tree_leaves": leaves,
        "tree_root": merkle.root(leaves),
        "tree_proofs": merkle.tree(leaves).proofs,
        "directory_key": DIRECTORY_KEY,
        "directory_key_id": batch.directory.key_id,
        "former_directory_key": FORMER_DIRECTORY_KEY,
        "former_directory_key_id": sealing.key_id(FORMER_DIRECTORY_KEY),
        "directory": sealing.open(DIRECTORY_KEY, batch.directory.sealed, sealing.aad("directory", batch.root)),
        "manifest": data.decode(),
        "manifest_cid": cid.of(data),
        "proof_file": proof.to_bytes().decode(),
        "checkpoint": checkpoint.to_bytes().decode(),
        "directory_key_file": letter.to_bytes().decode(),
    }


def unknown_versions(made: dict[str, Any]) -> dict[str, Any]:
    """One object of each format that states version 9, otherwise as above."""

    def later(data: bytes) -> bytes:
        return data[:4] + (9).to_bytes(2, "big") + data[6:]

    def later_json(text: str, field: str = "version") -> str:
        return json.dumps(json.loads(text) | {field: 9}, sort_keys=True, separators=(",", ":"))

    directory = later(made["directory"])
    return {
        "sealed object": later(made["sealed_evidence"]),
        "evidence": later(made["evidence"]),
        "bundle": later(made["bundle"]),
        "wraps": later_json(made["wraps"]),
        "wrap": later_json(made["wrap"]),
        "record": later_json(json.dumps(shown(made["record"])), "format"),
        "manifest": later_json(made["manifest"]),
        "directory": sealing.seal(DIRECTORY_KEY, directory, NONCE, sealing.aad("directory", made["root"])),
        "proof": later_json(made["proof_file"]),
        "checkpoint": later_json(made["checkpoint"]),
        "directory key": later_json(made["directory_key_file"]),
    }


def vectors() -> dict[str, Any]:
    """All of them, as they stand in the file."""
    made = sealed_objects()
    made |= records(made)
    made["unknown_versions"] = unknown_versions(made)
    found: dict[str, Any] = shown(made)
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
    print(FILE)
