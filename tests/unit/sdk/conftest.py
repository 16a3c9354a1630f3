"""A small ledger without a chain: real records, signatures, manifests, evidence and index; anchors from a list."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from numpy.typing import NDArray
from PIL import Image

from medprov_ledger import eip712, evidence, manifest, sealing
from medprov_ledger.config import Config, HospitalConfig, StoreConfig
from medprov_ledger.errors import ChainError
from medprov_ledger.federation import ReleasedModel
from medprov_ledger.record import Record
from medprov_ledger.registry import Anchor, Registration
from medprov_ledger.store import BlockStore
from medprov_ledger.titles import Reason as Revocation
from medprov_ledger.titles import Title
from medprov_sdk.ledger_view import LedgerView
from medprov_sdk.links import Block, Links
from medprov_sdk.verifier import Verifier
from medprov_watermark import features
from medprov_watermark.detection import Detection
from medprov_watermark.geometry import ALL, Geometry
from medprov_watermark.hashing import content_hash
from medprov_watermark.image_mark import ImageMark
from medprov_watermark.payload import CODE_BITS, Payload, commitment
from medprov_watermark.watermarker import Extraction, Integrity

REGISTRY = "0x" + "11" * 20
MODEL = b"m" * 32
PAYLOAD = Payload(b"hashhash", b"seri")
NOTHING = Integrity("absent", reason="no integrity mark")


def phantom(seed: int = 1, height: int = 192, width: int = 224) -> NDArray[np.uint8]:
    """Smooth blobs with a little noise: texture everywhere, contrast at every scale."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    total = np.zeros((height, width))
    for _ in range(30):
        cy, cx, size = rng.uniform(0, 1, 3)
        total += rng.uniform(-1, 1) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (0.02 + 0.05 * size) ** 1.5)
    total = (total - total.min()) / np.ptp(total)
    return np.clip(30 + 190 * total + rng.normal(0, 2, total.shape), 0, 255).round().astype(np.uint8)


def jpeg(image: Any, quality: int = 60) -> Any:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


@dataclass
class Contracts:
    """Stands for both contracts."""

    members: set[str]
    anchored: list[Anchor] = field(default_factory=list)
    registered: list[Registration] = field(default_factory=list)
    away: bool = False
    forged: bool = False
    """Makes the contract refuse every proof."""
    following: dict[str, str] = field(default_factory=dict)
    """With which account members go on, by their former ones."""
    titles: dict[bytes, Title] = field(default_factory=dict)
    """What has become of records, by their ids; the others are as they were anchored."""
    released: list[bytes] = field(default_factory=list)
    """Models, oldest first."""

    def _ask(self) -> None:
        if self.away:
            raise ChainError("http://127.0.0.1:8545: no chain answers there")

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        self._ask()
        return [one for one in self.anchored if from_block <= one.block and (to_block is None or one.block <= to_block)]

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        self._ask()
        last = to_block if to_block is not None else self.confirmed_head()
        return [one for one in self.registered if from_block <= one.block <= last]

    def confirmed_head(self) -> int:
        self._ask()
        return max([50, *(one.block for one in (*self.anchored, *self.registered))])

    def block_hash(self, block: int) -> bytes | None:
        """Covers all that stands up to this block, as a chain's does."""
        self._ask()
        standing = [one for one in (*self.anchored, *self.registered) if one.block <= block]
        return hashlib.sha256(repr((block, standing)).encode()).digest()

    def block(self, number: int | None = None) -> Block:
        self._ask()
        wanted = 50 if number is None else number
        return Block(wanted, bytes([wanted]) * 32, 1_700_000_000 + wanted)

    def members_at(self, number: int) -> tuple[str, ...]:
        self._ask()
        return tuple(sorted(self.members))

    def revoked(self, last: int) -> tuple[bytes, ...]:
        self._ask()
        return tuple(sorted(one for one, title in self.titles.items() if title.revoked is not None))

    def anchor(self, owner: str, root: bytes) -> Anchor | None:
        self._ask()
        return next((anchor for anchor in self.anchored if (anchor.owner, anchor.root) == (owner, root)), None)

    def verify(self, owner: str, root: bytes, leaf: bytes, proof: list[bytes]) -> bool:
        self._ask()
        return not self.forged

    def is_member(self, address: str, block: int | None = None) -> bool:
        self._ask()
        return address in self.members

    def current_of(self, address: str) -> str:
        self._ask()
        while address in self.following:
            address = self.following[address]
        return address

    def released_models(self, from_block: int = 0) -> list[ReleasedModel]:
        self._ask()
        return [ReleasedModel(model, "", 1, 1_700_000_000) for model in self.released]

    def title(self, record_id: bytes, owner: str) -> Title:
        self._ask()
        return self.titles.get(record_id, Title(owner, None, None, Revocation.NONE, None))


@dataclass
class Reader:
    """Stands for the watermarker: says about a picture what it was told."""

    said: dict[bytes, Extraction] = field(default_factory=dict)
    searched: int = 0
    """Pictures that were searched at all angles and for windows."""
    ways: dict[Geometry, NDArray[np.float32]] = field(default_factory=dict)
    """Soft bits in some of the eight orientations; noise in the others."""
    model: bytes = MODEL

    def extract(self, image: NDArray[Any], search: bool = True) -> Extraction:
        self.searched += search
        known = self.said.get(content_hash(image))
        if known is None or (known.geometry.warp is not None and not search):
            integrity = known.integrity if known else NOTHING
            return Extraction(None, np.zeros(CODE_BITS, np.float32), 0.7, False, 2.0, Geometry(), 0, integrity)
        return known

    def integrity(self, image: NDArray[Any]) -> Integrity:
        return self.extract(image).integrity

    def each_way(self, image: NDArray[Any]) -> list[Detection]:
        noise = np.random.default_rng(5).normal(size=(len(ALL), CODE_BITS)).astype(np.float32)
        return [Detection(0.5, one, self.ways.get(one, bits)) for one, bits in zip(ALL, noise, strict=True)]

    def say(
        self,
        image: NDArray[Any],
        payload: Payload | None,
        integrity: Integrity = NOTHING,
        presence: float = 30.0,
        geometry: Geometry | None = None,
        soft_bits: NDArray[np.float32] | None = None,
        present: bool = True,
        false_alarm: float = 1e-40,
    ) -> None:
        soft = np.zeros(CODE_BITS, np.float32) if soft_bits is None else soft_bits
        self.said[content_hash(image)] = Extraction(
            payload, soft, presence, present, false_alarm, geometry or Geometry(), 1, integrity
        )


@dataclass
class World:
    """Two hospitals, a stranger, and a verifier."""

    config: Config
    contracts: Contracts
    store: BlockStore
    reader: Reader
    verifier: Verifier
    alice: LocalAccount
    bob: LocalAccount
    mallory: LocalAccount
    domain: eip712.Domain
    payload: Payload = PAYLOAD

    phantom = staticmethod(phantom)
    jpeg = staticmethod(jpeg)

    def seal(self, image: NDArray[Any], account: LocalAccount | None, payload: Payload = PAYLOAD) -> Integrity:
        """An intact integrity mark of `image`, signed by `account`."""
        mark = ImageMark(1, MODEL, commitment(payload), content_hash(image)[::-1], b"c" * 32, b"r" * 32)
        signature = eip712.sign_image_mark(mark, self.domain, account) if account else None
        return Integrity("intact", mark if account else None, signature, payload)

    def record(
        self,
        image: NDArray[Any],
        account: LocalAccount,
        payload: Payload = PAYLOAD,
        attributes: Mapping[str, str] | None = None,
        **changes: Any,
    ) -> Record:
        """A record with its evidence in the store."""
        keys = sealing.payload_keys(payload.data, self.config.federation_id)
        proof = evidence.Evidence(
            height=image.shape[0],
            width=image.shape[1],
            channels=1 if image.ndim == 2 else 3,
            bits=8,
            block=features.BLOCK,
            grid=features.exact_grid(image),
            features=features.ordinal_features(image),
            feature_version=features.VERSION,
            attribute_macs=evidence.attribute_macs(keys.evidence_key, attributes or {}),
        )
        cid = self.store.put(evidence.seal(proof, keys, b"n" * 12))
        record = Record(
            key=keys.record_key,
            cover_hash=b"c" * 32,
            marked_hash=content_hash(image)[::-1],
            released_hash=content_hash(image),
            evidence_cid=cid,
            bundle_cid="",
            owner=account.address,
            model=MODEL,
            time=1_700_000_000,
        )
        return replace(record, **changes)

    def anchor(self, account: LocalAccount, *records: Record) -> Anchor:
        """Anchor a batch of records."""
        signed = [manifest.SignedRecord(r, eip712.sign_record(r, self.domain, account)) for r in records]
        batch = manifest.build(signed, self.domain)
        block = 10 + len(self.contracts.anchored)
        cid = self.store.put(batch.to_bytes())
        anchor = Anchor(batch.root, account.address, block, 1_700_000_100, len(records), cid, "0x" + "ab" * 32)
        self.contracts.anchored.append(anchor)
        return anchor

    def release(self, image: NDArray[Any], account: LocalAccount, attributes: Mapping[str, str] | None = None) -> None:
        """What a hospital does: seal, record, anchor."""
        self.reader.say(image, PAYLOAD, self.seal(image, account))
        self.anchor(account, self.record(image, account, attributes=attributes))


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """A factory; the argument is the file of the index."""

    def make(cache: Path | str | None = ":memory:") -> World:
        alice, bob, mallory = (Account.from_key(bytes([n]) * 32) for n in (1, 2, 3))
        config = Config(
            path=tmp_path / "medprov.toml",
            federation_id=b"f" * 32,
            federation_name="test",
            rpc="http://127.0.0.1:8545",
            chain_id=31337,
            federation_address="0x" + "22" * 20,
            registry_address=REGISTRY,
            confirmations=1,
            timeout=1.0,
            store=StoreConfig("blocks", path=tmp_path / "blocks"),
            discoverable=False,
            directory_key=None,
            hospitals={
                "alice": HospitalConfig("alice", alice.address, *[tmp_path] * 4),
            },
        )
        contracts = Contracts({alice.address, bob.address})

        def connect(_: Config) -> Links:
            contracts.anchors()
            return Links(contracts, contracts, contracts, contracts)

        reader = Reader()
        verifier = Verifier(reader, LedgerView(config, cache, connect))
        store = BlockStore(tmp_path / "blocks")
        domain = eip712.domain(config.chain_id, REGISTRY)
        return World(config, contracts, store, reader, verifier, alice, bob, mallory, domain)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world whose index lies in memory."""
    return make_world()
