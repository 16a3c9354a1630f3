"""Hostile bytes into every parser of the formats: only the packages' own errors may come out.

    python -m benchmarks.fuzz [--inputs 1000000] [--seed 0] [--targets NAME ...] [--json FILE] [--quick]
    python -m benchmarks.fuzz --only TARGET:NUMBER

Inputs are valid objects that were changed with knowledge of their structure (a JSON value of another type, a length
that lies, a version, two objects spliced), or random bytes. Every input follows from seed, target and number alone, so
`--only` makes a single one again and lets its error through. What a parser accepts must be written back to the same
bytes: no object has two spellings. `slowest_ms` is the longest that one input took.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from Crypto.PublicKey import ECC
from eth_account import Account

from benchmarks import fuzz_federation
from medprov_ledger import bundle, checkpoint, cid, directory_key, eip712, manifest, merkle, proof_file, sealing
from medprov_ledger.bundle import Bundle, ReaderWrap, Wraps
from medprov_ledger.config import Config
from medprov_ledger.directory_key import DirectoryKey
from medprov_ledger.errors import LedgerError, StoreError
from medprov_ledger.evidence import Evidence
from medprov_ledger.manifest import SignedRecord
from medprov_ledger.record import Record
from medprov_watermark import body
from medprov_watermark.body import Body, BodyError
from medprov_watermark.integrity import blocks, header
from medprov_watermark.integrity.header import Header
from medprov_watermark.payload import Payload

TYPED = (LedgerError, BodyError, *fuzz_federation.TYPED)
"""What may come out of a parser; :class:`BodyError` says that a picture has no mark of ours."""
QUICK = 40_000
FEDERATION, KEY, NONCE, RECORD_KEY = b"\x11" * 32, b"\x21" * 32, b"\x22" * 12, b"\x23" * 32

Parse = Callable[[bytes], bytes | None]
"""Decodes, and gives the bytes that the result is written to; None where there is no one encoding."""


@dataclass(frozen=True)
class Target:
    """A parser and valid input for it.

    Parameters
    ----------
    name : str
    parse : callable
    seeds : sequence of bytes
    share : int
        How many of the inputs it gets, in relation to the others'.
    """

    name: str
    parse: Parse
    seeds: Sequence[bytes]
    share: int


@dataclass
class Outcome:
    """What became of one target's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest_ms: float = 0.0
    seconds: float = 0.0


# --- inputs -----------------------------------------------------------------------------------------------------------

_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 9, 255, 256, 65535, 65536, 2**31, 2**32, 2**53, 2**63, 2**64, 2**256, -(2**63)),
    *(0.0, -0.0, 0.1, 1.5, 1e308, 5e-324, [], {}, [[]], [None], {"": None}, "", " ", "\0", "\u2028", "\ud83d\ude00"),
    *("0x", "0X00", "0x0", "0x" + "00" * 32, "0x" + "FF" * 32, "0x" + "ff" * 65, "0xgg", "=", "AA==", "AB==", "A" * 80),
    *(
        "../../etc/passwd",
        "b" * 59,
        "bafkrei" + "a" * 52,
        "medprov manifest",
        "medprov wrap",
        "medprov proof",
        "medprov directory key",
    ),
)
_TAGS = (b"MPSE", b"MPEV", b"MPBU", b"MPDI", b"\0\1", b"\0\2", b"\xff" * 4, b"\xff" * 8, b"{", b"}", b"[", b'"', b"\\u")


def make(target: Target, seed: int, number: int) -> bytes:
    """One target's input of a number."""
    rng = random.Random(f"{seed}:{target.name}:{number}")
    if rng.random() < 0.1:
        head = rng.choice(target.seeds)[: rng.choice((0, 0, 4, 6, 10))]
        return head + rng.randbytes(rng.choice((0, 1, 5, 20, 80, 300)))
    data: bytes = rng.choice(target.seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice((_in_json, _in_json, _in_bytes))(data, rng, target.seeds)
    return data


def _in_bytes(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) + 1)
    size = rng.choice((1, 1, 2, 4, 8, 32, 80))
    way = rng.randrange(8)
    if way == 0 and data:
        changed = bytearray(data)
        changed[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if way == 1:
        return data[:place] + rng.randbytes(size) + data[place + size :]
    if way == 2:
        return data[:place]
    if way == 3:
        return data[:place] + data[place + size :]
    if way == 4:
        return data[:place] + data[place : place + size] * rng.choice((2, 3, 50)) + data[place + size :]
    if way == 5:
        other = rng.choice(seeds)
        return data[:place] + other[rng.randrange(len(other) + 1) :]
    if way == 6:
        return data[:place] + rng.choice(_TAGS) + data[place + rng.choice((0, 2, 4)) :]
    # a number of two or four bytes near the front: versions, lengths, counts
    at, width = rng.choice(((4, 2), (6, 4), (4, 4), (0, 2)))
    value = rng.choice((0, 1, 2, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1, len(data), max(0, len(data) - 10)))
    return data[:at] + (value & ((1 << 8 * width) - 1)).to_bytes(width, "big") + data[at + width :]


def _in_json(data: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Change a value of the JSON that the data holds, and the length before it where there is one."""
    start = data.find(b"{")
    try:
        value, length = json.JSONDecoder().raw_decode(data[start:].decode("latin-1")) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        value, length = None, 0
    if not isinstance(value, dict):
        return _in_bytes(data, rng, seeds)
    changed = json.loads(json.dumps(value))
    _change(changed, rng)
    text = _written(changed, rng)
    front = data[:start]
    if front[:4] == b"MPEV" and len(front) == 10 and rng.random() < 0.9:
        front = front[:6] + len(text).to_bytes(4, "big")
    return front + text + data[start + length :]


def _change(value: dict[str, Any] | list[Any], rng: random.Random) -> None:
    """Change one thing somewhere below `value`."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            break
        key = rng.choice(keys)
        below = value[key]
        if isinstance(below, dict | list) and below and rng.random() < 0.75:
            value = below
            continue
        way = rng.randrange(7)
        if way == 0:
            del value[key]
        elif way == 1 and isinstance(value, dict):
            value[rng.choice(("", "news", "version", "\u00e9", key * 3))] = below
        elif way == 2 and isinstance(value, list):
            value += value[: rng.choice((1, 3))] * rng.choice((1, 20))
        elif way == 3 and isinstance(below, str) and below:
            place = rng.randrange(len(below))
            value[key] = below[:place] + rng.choice(("", "0", "A", "=", "z", "\u00fc", below)) + below[place + 1 :]
        elif way == 4 and isinstance(below, int):
            value[key] = below + rng.choice((-1, 1, 2**16, -(2**40)))
        elif way == 5:
            nested: Any = below
            for _ in range(rng.choice((1, 5, 126, 200))):
                nested = [nested] if rng.random() < 0.5 else {"a": nested}
            value[key] = nested
        else:
            value[key] = rng.choice(_STRANGE)
        return
    if isinstance(value, dict):
        value["a"] = rng.choice(_STRANGE)
    else:
        value.append(rng.choice(_STRANGE))


def _written(value: Any, rng: random.Random) -> bytes:
    """Mostly in canonical form, so that more than the first check is met."""
    way = rng.randrange(12)
    if way == 0:
        return json.dumps(value).encode("utf-8")
    if way == 1:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("utf-8")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if way == 2:
        text = text.replace('":', '":NaN,"', 1) if rng.random() < 0.3 else text.replace("1", "1e999", 1)
    elif way == 3:
        text = text.replace("{", '{"a":1,"a":2,', 1)
    return text.encode("utf-8", "surrogatepass")


# --- targets ----------------------------------------------------------------------------------------------------------


def targets(folder: Path) -> list[Target]:
    """All parsers; `folder` takes the configuration file."""
    reader = ECC.generate(curve="Curve25519")
    public = bytes(reader.public_key().export_key(format="raw"))
    macs = {"PatientID": "ab" * 32, "Laterality": "cd" * 32}
    proofs = [
        Evidence(33, 40, 1, 12, 32, bytes(range(32)), b"\xaa\xbb", 1, macs, {"roi": "strict", "x": [1.5, {"y": None}]}),
        Evidence(8, 8, 3, 8, 32, bytes(8), b"", 65535),
    ]
    bundles = [
        Bundle(b"\5" * 16, {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}, {"reason": "study 7"}),
        Bundle(bytes(16), {"n": [0.1, -1, 1e300, True, None], "t": "\u00fc\u4e2d"}),
    ]
    sealed, wraps = bundle.seal(bundles[0], RECORD_KEY, [public, bytes([9]) + bytes(31)])
    fingerprint, wrapped = sealing.fingerprint(public), wraps.keys[sealing.fingerprint(public)]
    handed = ReaderWrap(cid.of(sealed), RECORD_KEY, fingerprint, wrapped)
    batch, directory, payloads = _batch(cid.of(sealed))
    proof, known = _proof(batch)
    letter = directory_key.seal(KEY, FEDERATION, [public], batch.domain, Account.from_key(b"\1" * 32))
    aad = sealing.aad("directory", batch.root)

    def opened_directory(data: bytes) -> bytes:
        shut = manifest.SealedDirectory(sealing.key_id(KEY), sealing.seal(KEY, data, NONCE, aad))
        found = manifest.unseal_directory(shut, KEY, batch.root, len(payloads))
        return b"MPDI\0\1" + len(found).to_bytes(4, "big") + b"".join(found)

    def unwrapped(data: bytes) -> bytes:
        sealing.unwrap(data, reader, bundle.wrap_info(RECORD_KEY))
        return wrapped

    def sealed_again(data: bytes) -> bytes:
        plain = sealing.open(KEY, data, sealing.aad("evidence", RECORD_KEY))
        return sealing.seal(KEY, plain, data[6:18], sealing.aad("evidence", RECORD_KEY))

    evidences = [one.to_bytes() for one in proofs]
    objects = [sealing.seal(KEY, one, NONCE, sealing.aad("evidence", RECORD_KEY)) for one in evidences]
    return [
        Target("evidence", lambda data: Evidence.from_bytes(data).to_bytes(), evidences, 14),
        Target("bundle", lambda data: Bundle.from_bytes(data).to_bytes(), [one.to_bytes() for one in bundles], 14),
        Target("wraps", lambda data: Wraps.from_bytes(data).to_bytes(), [wraps.to_bytes()], 10),
        Target("wrap", lambda data: ReaderWrap.from_bytes(data).to_bytes(), [handed.to_bytes()], 8),
        Target(
            "manifest", lambda data: manifest.parse(data).to_bytes(), [one.to_bytes() for one in batches(batch)], 14
        ),
        Target("directory", opened_directory, [directory], 6),
        Target("proof", lambda data: proof_file.parse(data).to_bytes(), [proof.to_bytes()], 8),
        Target("checkpoint", lambda data: checkpoint.parse(data).to_bytes(), [known.to_bytes()], 5),
        Target("directory key", lambda data: DirectoryKey.from_bytes(data).to_bytes(), [letter.to_bytes()], 5),
        Target("merkle", _merkle, [b"".join(batch.leaves), b"".join(batch.tree.proofs[0])], 4),
        Target("sealed object", sealed_again, objects, 5),
        Target("wrapped key", unwrapped, [wrapped], 1),
        Target("cid", _cid, [cid.of(b"x").encode(), str(_dag().cid).encode()], 5),
        Target("blocks", _blocks, [_dag().data, b"x" * 40], 4),
        Target("mark body", _body, _bodies(), 6),
        Target("mark header", _header, _headers(), 3),
        Target("config", _Configs(folder), [_CONFIG.encode(), b"a = " + fuzz_federation.DIGITS], 3),
        *(Target(*row) for row in fuzz_federation.rows(folder, _CONFIG)),
    ]


def _batch(bundle_cid: str) -> tuple[manifest.Manifest, bytes, list[bytes]]:
    domain = eip712.domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")
    account = Account.from_key(b"\1" * 32)
    signed, payloads = [], []
    for number in range(3):
        key, cover, marked, released, model = (bytes([16 * number + place]) * 32 for place in range(5))
        named = bundle_cid if number else ""
        record = Record(key, cover, marked, released, bundle_cid, named, account.address, model, number)
        signed.append(SignedRecord(record, eip712.sign_record(record, domain, account)))
        payloads.append(bytes([number]) * 12)
    made = manifest.build(signed, domain, payloads, KEY, NONCE)
    return made, b"MPDI\0\1\0\0\0\3" + b"".join(payloads), payloads


def batches(batch: manifest.Manifest) -> Iterator[manifest.Manifest]:
    """The same batch with and without its directory, and with one of its records."""
    yield batch
    yield replace(batch, directory=None)
    yield replace(batch, records=batch.records[:1])


def _proof(batch: manifest.Manifest) -> tuple[proof_file.Proof, checkpoint.Checkpoint]:
    signed, account = batch.records[0], Account.from_key(b"\1" * 32)
    place = proof_file.Batch(batch.root, batch.tree.proofs[0], 3, signed.record.evidence_cid)
    anchor = proof_file.StatedAnchor(account.address, 7, b"\7" * 32, 8, b"\6" * 32, (account.address,))
    proof = proof_file.Proof(batch.domain, FEDERATION, signed.record, signed.signature, place, anchor)
    anchors = (checkpoint.Anchored(7, account.address, batch.root, 8),)
    known = checkpoint.Checkpoint(batch.domain, FEDERATION, 9, b"\7" * 32, 10, anchors, (b"\1" * 32,))
    return proof, known.sign(account)


def _merkle(data: bytes) -> None:
    """Bytes as leaves, and as a proof of the first of them; a leaf may have any length."""
    parts = [data[start : start + 32] for start in range(0, len(data), 32)] or [b""]
    assert merkle.verify(parts[0], parts[-1], parts) is False, "a proof was made by chance"
    made = merkle.tree(parts)
    assert all(merkle.verify(made.root, leaf, proof) for leaf, proof in zip(parts, made.proofs, strict=True))


def _cid(data: bytes) -> bytes:
    return str(cid.parse(data.decode("latin-1"))).encode()


def _dag() -> cid.Block:
    *_, root = cid.blocks(bytes(cid.CHUNK + 1))
    return root


def _blocks(data: bytes) -> None:
    """A node as a hostile store would give it, with the CID that belongs to it and children that are empty."""
    (own,) = cid.blocks(data[: cid.CHUNK])
    node = cid.Cid(cid.DAG_PB, own.cid.digest)

    def fetch(wanted: cid.Cid) -> bytes:
        if wanted == node:
            return data[: cid.CHUNK]
        raise StoreError("no such block")

    cid.assemble(str(node), fetch, 1 << 20)


def _bodies() -> list[bytes]:
    codes = np.arange(416, dtype=np.uint8) % 4
    positions = np.array([0, 1, 7, 300, 301, 5000], np.int64)
    plain = Body(Payload(bytes(8), bytes(4)), 3, 500, codes, b"\1" * 4, positions, b"\2" * 32, b"\3" * 65)
    area = np.zeros((16, 16), bool)
    area[3:6, 4:9] = True
    others = (replace(plain, region=area), replace(plain, cover_hash=None, signature=None, exceptions=positions[:0]))
    return [one.pack(b"settings", b"\4" * 32) for one in (plain, *others)]


def _body(data: bytes) -> bytes:
    found, raw, check = body.parse(data)
    assert found.unsigned() + (found.signature or b"") == raw
    return raw + check


def _headers() -> list[bytes]:
    area = np.zeros((64, 64), bool)
    area[12:20, 16:36] = True
    made = Header(16, 1, 0, (0, 255), None, 0, 40, 200, bytes(8))
    others = (replace(made, legal=(3, 4000), padding=0, short=True), replace(made, roi=blocks.from_mask(area)))
    return [np.packbits(one.pack()).tobytes() for one in (made, *others)]


def _header(data: bytes) -> None:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    for read in (header.parse, header.repair):
        found = read(bits)
        if found is not None:
            assert found.problem() is None


_CONFIG = f"""[federation]
id = "0x{"ab" * 32}"
name = "Nord"
[chain]
rpc = "http://me:secret@127.0.0.1:8545/key"
chain_id = 31337
federation = "0x{"11" * 20}"
registry = "0x{"22" * 20}"
confirmations = 3
timeout = 5.5
[store]
kind = "blocks"
path = "blocks"
[directory]
discoverable = true
key = "0x{"cd" * 32}"
former = ["0x{"ce" * 32}"]
[watermark]
key_file = "k"
[hospitals.hospital-a]
address = "0x{"33" * 20}"
keystore = "a/keystore.json"
password_file = "a/password"
reader_key = "a/reader.pem"
state = "a"
"""


class _Configs:
    """Reads a configuration file; what an error says must be one line without the node's password."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "medprov.toml"

    def __call__(self, data: bytes) -> None:
        fuzz_federation.write(self.file, data)
        try:
            Config.load(self.file)
        except LedgerError as error:
            assert "\n" not in str(error) and str(self.file) in str(error)
            raise


# --- running ----------------------------------------------------------------------------------------------------------


def attack(target: Target, seed: int, count: int, most_findings: int = 20) -> Outcome:
    """Feed one target its inputs."""
    outcome, started = Outcome(), time.perf_counter()
    for number in range(count):
        data = make(target, seed, number)
        begun = time.perf_counter()
        problem = ""
        try:
            again = target.parse(data)
            outcome.accepted += 1
            if again is not None and again != data:
                problem = "accepted, but it is written back in other bytes"
        except TYPED as error:
            outcome.refused[type(error).__name__] += 1
        except Exception as error:  # what nobody may see is what this looks for
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        outcome.slowest_ms = max(outcome.slowest_ms, 1000 * (time.perf_counter() - begun))
        outcome.inputs += 1
        if problem and len(outcome.findings) < most_findings:
            outcome.findings.append({"number": number, "problem": problem, "input": data[:400].hex()})
    outcome.seconds = time.perf_counter() - started
    return outcome


def shares(chosen: Sequence[Target], inputs: int) -> dict[str, int]:
    """How many inputs each target gets; `inputs` in all."""
    whole = sum(target.share for target in chosen)
    counts = {target.name: inputs * target.share // whole for target in chosen}
    counts[chosen[0].name] += inputs - sum(counts.values())
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", metavar="NAME")
    parser.add_argument("--only", metavar="TARGET:NUMBER")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        known = targets(Path(folder))
        names = [target.name for target in known]
        if options.only:
            name, _, number = options.only.rpartition(":")
            (target,) = [one for one in known if one.name == name]
            data = make(target, options.seed, int(number))
            print(data)
            print(target.parse(data))
            return 0
        wanted = options.targets or names
        if unknown := sorted(set(wanted) - set(names)):
            parser.error(f"no target {', '.join(unknown)}; known are {', '.join(names)}")
        chosen = [target for target in known if target.name in wanted]
        found = {}
        for target in chosen:
            count = shares(chosen, QUICK if options.quick else options.inputs)[target.name]
            outcome = found[target.name] = attack(target, options.seed, count)
            print(
                f"{target.name:16} {outcome.inputs:8} inputs, {outcome.accepted:7} accepted, "
                f"{outcome.seconds:6.1f} s, slowest {outcome.slowest_ms:6.1f} ms, {len(outcome.findings)} findings",
                flush=True,
            )
    findings = [{"target": name, **one} for name, outcome in found.items() for one in outcome.findings]
    for one in findings:
        print(f"{one['target']}:{one['number']}: {one['problem']}")
    figures = {
        "seed": options.seed,
        "inputs": sum(outcome.inputs for outcome in found.values()),
        "findings": findings,
        "targets": {
            name: {
                "inputs": outcome.inputs,
                "accepted": outcome.accepted,
                "refused": dict(sorted(outcome.refused.items())),
                "slowest_ms": round(outcome.slowest_ms, 2),
                "seconds": round(outcome.seconds, 1),
            }
            for name, outcome in found.items()
        },
    }
    print(f"{figures['inputs']} inputs, {len(findings)} findings")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
