"""Stands for chain, membership and store; the index reads from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from eth_account import Account
from eth_account.signers.local import LocalAccount

from medprov_ledger import cid, eip712, manifest
from medprov_ledger.errors import ChainError
from medprov_ledger.manifest import Manifest, SignedRecord
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, Registration
from medprov_ledger.store import BlockStore

A, B, STRANGER = (Account.from_key(bytes([n]) * 32) for n in (1, 2, 3))
REGISTRY = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = eip712.domain(31337, REGISTRY)
KEY = b"\x31" * 32
_Item = TypeVar("_Item", Anchor, Registration)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def payload(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"\xaa\xbb\xcc\xdd"


def signed(number: int, account: LocalAccount, domain: eip712.Domain = DOMAIN) -> SignedRecord:
    hashes = [digest(f"{name} {number}") for name in ("key", "cover", "marked", "released")]
    evidence = cid.of(b"e%d" % number)
    record = Record(*hashes, evidence, "", account.address, digest("model"), number)  # type: ignore[call-arg,arg-type]
    return SignedRecord(record, eip712.sign_record(record, domain, account))


def registration(number: int, account: LocalAccount, block: int) -> Registration:
    record = signed(number, account).record
    return Registration(record.leaf(DOMAIN), record, block, 1000 + block, f"0x{number:x}")


@dataclass
class World:
    """A chain of anchors, a membership list and a store, all in memory but the blocks."""

    store: BlockStore
    chain: list[Anchor] = field(default_factory=list)
    registered: list[Registration] = field(default_factory=list)
    head: int = 100
    fork: int = 0
    """Another number is another chain from the first block on, whatever stands in it."""
    read: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of blocks that were asked for."""
    members: dict[str, int] = field(default_factory=lambda: {A.address: 0, B.address: 0})
    fetched: int = 0
    limit: int = 0
    down: bool = False

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        self.read.append((from_block, self.head if to_block is None else to_block))
        return sorted(_between(self._standing(), self.read[-1]), key=lambda anchor: anchor.block)

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        return _between(self.registered, (from_block, self.head if to_block is None else to_block))

    def confirmed_head(self) -> int:
        self._standing()
        return self.head

    def block_hash(self, block: int) -> bytes | None:
        """Covers all that stands up to this block, as a chain's does."""
        if block > self.head:
            return None
        standing = (self.fork, *_between(self._standing(), (0, block)), *_between(self.registered, (0, block)))
        return digest(repr((block, standing)))

    def _standing(self) -> list[Anchor]:
        if self.down:
            raise ChainError("http://127.0.0.1:1: does not answer")
        return self.chain

    def is_member(self, address: str, block: int | None = None) -> bool:
        assert block is not None
        return address in self.members and self.members[address] <= block

    def put(self, data: bytes) -> str:
        return self.store.put(data)

    def has(self, name: str) -> bool:
        return self.store.has(name)

    def get(self, name: str, limit: int = 0) -> bytes:
        self.fetched += 1
        self.limit = limit
        return self.store.get(name, limit)

    def add(self, made: Manifest | bytes, account: LocalAccount = A, **changes: object) -> Anchor:
        data = made if isinstance(made, bytes) else made.to_bytes()
        block = len(self.chain) + 1
        values = {"root": digest(f"root {block}"), "count": 1}
        if isinstance(made, Manifest):
            values = {"root": made.root, "count": len(made.records)}
        values |= {
            "owner": account.address,
            "block": block,
            "time": 1000 + block,
            "cid": self.put(data),
            "tx_hash": "0x1",
        }
        self.chain.append(Anchor(**(values | changes)))  # type: ignore[arg-type]
        return self.chain[-1]


def batch(*numbers: int, account: LocalAccount = A, key: bytes | None = KEY) -> Manifest:
    return manifest.build([signed(n, account) for n in numbers], DOMAIN, [payload(n) for n in numbers], key)


def _between(items: Sequence[_Item], bounds: tuple[int, int]) -> list[_Item]:
    return [item for item in items if bounds[0] <= item.block <= bounds[1]]


@dataclass
class Clock:
    """Stands for the module `time`."""

    now: float = 1e9

    def time(self) -> float:
        return self.now

    monotonic = time
