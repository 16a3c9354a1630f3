"""What the verifier asks chain and store, and what it makes of the answers.

A chain or store that does not answer is a finding here and no error: the picture may still say much by itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from medprov_ledger import eip712, model_package
from medprov_ledger.config import Config
from medprov_ledger.errors import (
    ChainError,
    ContractAbsentError,
    LedgerError,
    RecordError,
    StoreError,
    WrongChainError,
)
from medprov_ledger.record import Record
from medprov_sdk.links import Links, connect
from medprov_sdk.standing import still_standing
from medprov_sdk.verdict import Ledger, Verdict
from medprov_sdk.verification import Check, Claim, Offline
from medprov_sdk.view import Found, Saying

if TYPE_CHECKING:
    from medprov_ledger.index import Entry, RecordIndex
    from medprov_ledger.registry import Anchor, Registration
    from medprov_ledger.store import Store
    from medprov_ledger.titles import Title


MOST_PROVED = 8
"""Records of one owner that the chain is asked about; a batch full of copies must not stop anybody's verification."""
_One = TypeVar("_One")


@dataclass(frozen=True)
class _Asked:
    """Questions to the chain within one look-up; the same one is asked once."""

    anchor: Callable[[str, bytes], Anchor | None]
    verify: Callable[[str, bytes, bytes, list[bytes]], bool]
    is_member: Callable[[str, int], bool]
    current_of: Callable[[str], str]
    registrations: Callable[[int], list[Registration]]

    @classmethod
    def of(cls, links: Links) -> _Asked:
        """With the chain's answers."""
        return cls(
            cache(links.registry.anchor),
            links.registry.verify,
            cache(links.federation.is_member),
            cache(links.federation.current_of),
            cache(lambda block: links.registry.registrations(block, block)),
        )


def cache_file(config: Config) -> Path:
    """Where the index of this registry is kept between runs, in the user's cache folder."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{config.chain_id} {config.registry_address.lower()}".encode()).hexdigest()[:16]
    return base / "medprov" / f"index-{name}.sqlite"


class LedgerView:
    """One federation's ledger as a verifier sees it; connects at the first question.

    Parameters
    ----------
    config : Config
    cache : Path, str or None
        File of the index, or ``":memory:"``; None takes :func:`cache_file`.
    connect : callable
        Config -> Links.
    """

    def __init__(
        self, config: Config, cache: Path | str | None = None, connect: Callable[[Config], Links] = connect
    ) -> None:
        self.config = config
        self.domain = eip712.domain(config.chain_id, config.registry_address)
        self.federation_id = config.federation_id
        self._cache, self._connect = cache, connect
        self._links: Links | None = None
        self._index: RecordIndex | None = None
        self._store: Store | None = None
        self.chain_trouble = ""
        """Why the chain did not answer at the last question; empty where it did."""
        self.store_trouble = ""
        """Why manifests are missing from the index; empty where none is."""
        self.left_out = 0
        """Records that the last look-up did not prove, because their owner has more than `MOST_PROVED`."""

    @property
    def store(self) -> Store:
        """The configured store.

        Raises
        ------
        StoreError
        """
        if self._store is None:
            from medprov_ledger.store import open_store

            self._store = open_store(self.config)
        return self._store

    def refresh(self) -> None:
        """Bring the index up to date; what goes wrong is in `chain_trouble` and `store_trouble`.

        Raises
        ------
        WrongChainError, ContractAbsentError
            The configuration is of another chain or federation; asking again cannot help.
        """
        self.chain_trouble, self.store_trouble = "", ""
        try:
            links, keys = self.links(), self.config.directory_keys
            report = self._records().sync(links.registry, links.federation, self.store, *keys)
            missing = [problem.reason for problem in report.problems if problem.state == "missing"]
            self.store_trouble = missing[0] if missing else ""
        except (WrongChainError, ContractAbsentError):
            raise
        except ChainError as error:
            # the next question connects anew: the node may be back by then
            self._links, self.chain_trouble = None, str(error)
        except StoreError as error:
            self.store_trouble = str(error)

    def find(self, record_key: bytes | None, released_hash: bytes) -> list[Found]:
        """Records of a record key or of a released picture that the chain proves, earliest anchor first.

        Empty where the chain does not answer. Of one owner at most `MOST_PROVED` records of batches and as many that
        were registered by themselves, those of exactly this picture first; `left_out` counts the others.
        """
        links, self.left_out = self._links, 0
        if links is None:
            return []
        try:
            index = self._records()
            entries = index.by_released_hash(released_hash)
            single = index.registered_by_released_hash(released_hash)
            if record_key is not None:
                entries += index.by_key(record_key)
                single += index.registered_by_key(record_key)
            batched: dict[bytes, tuple[Record, Entry]] = {}
            for entry in entries:
                batched.setdefault(entry.leaf, (entry.record, entry))
            asked = _Asked.of(links)
            found = {one.leaf: self._prove(one, asked) for one in self._bounded(batched.values(), released_hash)}
            registered = {one.record_id: (one.record, one) for one in single}
            for one in self._bounded(registered.values(), released_hash):
                found[one.record_id] = found.get(one.record_id) or self._registered(one, asked)
        except ChainError as error:
            self._links, self.chain_trouble = None, str(error)
            return []
        return sorted((one for one in found.values() if one is not None), key=lambda one: one.claim.block)

    def _bounded(self, candidates: Iterable[tuple[Record, _One]], released_hash: bytes) -> list[_One]:
        """At most `MOST_PROVED` of each owner: of this very picture first, then as they come."""
        kept, seen = [], Counter[str]()
        for record, one in sorted(candidates, key=lambda pair: pair[0].released_hash != released_hash):
            seen[record.owner] += 1
            if seen[record.owner] <= MOST_PROVED:
                kept.append(one)
            else:
                self.left_out += 1
        return kept

    def by_id(self, record_id: bytes) -> Found | None:
        """The record with this id (32 bytes), if the chain proves it; that of its earliest anchor.

        Raises
        ------
        ChainError
            The chain does not answer.
        """
        links = self.links()
        asked = _Asked.of(links)
        proved = [self._prove(entry, asked) for entry in self._records().by_leaf(record_id)]
        proved += [self._registered(one, asked) for one in self._records().registered_by_leaf(record_id)]
        return min((one for one in proved if one is not None), key=lambda one: one.claim.block, default=None)

    def links(self) -> Links:
        """The connections, made where there are none.

        Raises
        ------
        ChainError
        """
        if self._links is None:
            self._links = self._connect(self.config)
        return self._links

    def standing(self, found: Sequence[Found], released_hash: bytes, check: Saying) -> tuple[list[Found], Found | None]:
        """What has become of records; see :func:`medprov_sdk.standing.still_standing`."""
        return still_standing(self, found, released_hash, check)

    def absence(self, read: bool) -> tuple[Ledger, Check]:
        """What it means that nothing was found; `read` tells whether there was a payload to look for."""
        if self.chain_trouble:
            return Ledger.CHAIN_AWAY, Check("chain asked", None, self.chain_trouble)
        if self.store_trouble:
            return Ledger.STORE_AWAY, Check("manifests fetched", None, self.store_trouble)
        detail = "no confirmed record of this payload or picture"
        return Ledger.NONE, Check("record found", False if read else None, detail)

    def describe(self, found: Found) -> Check:
        """The check that a proved record stands for."""
        claim = found.claim
        where = f"block {claim.block}, transaction {claim.transaction or 'unknown'}"
        how = "in a batch whose root the contract holds" if claim.manifest else "registered by itself"
        there = f"{how} ({where}, chain {self.domain.chain_id}), owner a member at that block"
        return Check("record anchored", True, there)

    def conclude(self, found: Found | None, if_anchored: Verdict) -> Offline | None:
        """Nothing: what the chain proves rests on nobody's word."""
        return None

    def payloads(self) -> list[bytes]:
        """Payloads (12 bytes each) of all records whose directory may be read here, for list decoding."""
        return self._records().payloads()

    def remembered(self, record_key: bytes | None, released_hash: bytes) -> list[Record]:
        """Records that an earlier run took into the index; the chain is not asked."""
        try:
            entries = self._records().by_released_hash(released_hash)
            entries += self._records().by_key(record_key) if record_key is not None else []
        except LedgerError:
            return []
        return list({entry.leaf: entry.record for entry in entries}.values())

    def is_member(self, address: str, block: int | None = None) -> bool | None:
        """Whether `address` is a member (at `block`); None where the chain does not answer."""
        if self._links is None:
            return None
        try:
            return self._links.federation.is_member(address, block)
        except ChainError as error:
            self._links, self.chain_trouble = None, str(error)
            return None

    def current_of(self, address: str) -> str:
        """Present account of the member that `address` is or was; `address` itself where the chain does not answer."""
        if self._links is None:
            return address
        try:
            return self._links.federation.current_of(address)
        except ChainError as error:
            self._links, self.chain_trouble = None, str(error)
            return address

    def title(self, found: Found) -> Title | None:
        """What has become of a record since it was anchored; None where the chain does not answer."""
        if self._links is None:
            return None
        try:
            return self._links.titles.title(bytes.fromhex(found.claim.record_id[2:]), found.record.owner)
        except ChainError as error:
            self._links, self.chain_trouble = None, str(error)
            return None

    def model_file(self, prefix: bytes) -> Path:
        """Weights file of a released model: as it was fetched before, else from chain and store.

        Raises
        ------
        LedgerError
            It cannot be had.
        """
        place = model_package.folder()
        kept = model_package.kept(prefix, place)
        if kept is not None:
            return kept
        if self._links is None:
            self._links = self._connect(self.config)
        return model_package.fetch(prefix, self._links.federation, self.store, place)

    def versions(self) -> list[bytes]:
        """Hashes of all models that the federation has released, newest first; none where the chain does not answer."""
        if self._links is None:
            return []
        try:
            released = self._links.federation.released_models()
        except ChainError as error:
            self._links, self.chain_trouble = None, str(error)
            return []
        return [one.model_hash for one in reversed(released)]

    def name(self, address: str) -> str | None:
        """The member's name, where the configuration has it."""
        hospitals = self.config.hospitals.values()
        return next((one.name for one in hospitals if one.address.lower() == address.lower()), None)

    def _records(self) -> RecordIndex:
        if self._index is None:
            from medprov_ledger.index import RecordIndex

            self._index = self._open(RecordIndex)
        return self._index

    def _open(self, index: type[RecordIndex]) -> RecordIndex:
        if self._cache is not None:
            return index(self._cache, self.domain)
        file = cache_file(self.config)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return index(file, self.domain)
        except (OSError, RecordError):
            # the index only saves time: a read-only home or a damaged file must not stop a verification
            return index(":memory:", self.domain)

    def _prove(self, entry: Entry, asked: _Asked) -> Found | None:
        """The entry, if signature, proof, anchor and membership hold now; the index file is not trusted."""
        record = entry.record
        try:
            signer = eip712.recover_record(record, entry.signature, self.domain)
        except RecordError:
            return None
        anchor = asked.anchor(record.owner, entry.root)
        if record.leaf(self.domain) != entry.leaf or signer != record.owner:
            return None
        if anchor is None or anchor.owner.lower() != record.owner.lower():
            return None
        if not asked.verify(record.owner, entry.root, entry.leaf, list(entry.proof)):
            return None
        if not asked.is_member(record.owner, anchor.block):
            return None
        claim = Claim(
            owner=record.owner,
            member=self.name(record.owner),
            record_id="0x" + entry.leaf.hex(),
            record=record.to_json(),
            transaction=anchor.tx_hash or entry.anchor.tx_hash,
            block=anchor.block,
            time=anchor.time,
            manifest=anchor.cid,
        )
        return Found(record, claim, asked.current_of(record.owner), source=entry)

    def _registered(self, one: Registration, asked: _Asked) -> Found | None:
        """A record that a member registered by itself: the contract has checked owner and membership.

        The index file is not trusted: the chain must have this very registration in this block.
        """
        record = one.record
        if record.leaf(self.domain) != one.record_id or one not in asked.registrations(one.block):
            return None
        claim = Claim(
            owner=record.owner,
            member=self.name(record.owner),
            record_id="0x" + one.record_id.hex(),
            record=record.to_json(),
            transaction=one.tx_hash,
            block=one.block,
            time=one.time,
            manifest="",
        )
        return Found(record, claim, asked.current_of(record.owner), source=one)
