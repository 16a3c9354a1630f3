"""What a verifier needs to know of the ledger, whoever tells it: the chain, or a proof file in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medprov_ledger import eip712
from medprov_ledger.record import Record
from medprov_sdk.content import Source
from medprov_sdk.verdict import Basis, Ledger, Verdict
from medprov_sdk.verification import Check, Claim, Offline

if TYPE_CHECKING:
    from medprov_ledger.index import Entry
    from medprov_ledger.registry import Registration

Saying = Callable[[str, bool | None, str], None]
"""Takes the name of a check, whether it passed (None: neither way), and the detail."""


@dataclass(frozen=True)
class Found:
    """One record that is anchored, as far as `basis` goes.

    Parameters
    ----------
    record : Record
    claim : Claim
    member : str
        Present account of the member that the record's owner is or was: records that it signed with a former key and
        with the present one are one owner's.
    basis : Basis
        What says that it is anchored.
    source : Entry, Registration or None
        Where the chain proves it: from which batch, or that it was registered by itself.
    """

    record: Record
    claim: Claim
    member: str
    basis: Basis = Basis.CHAIN
    source: Entry | Registration | None = None


class View(Protocol):
    """The ledger as a verifier sees it."""

    @property
    def domain(self) -> eip712.Domain:
        """Chain and registry."""

    @property
    def federation_id(self) -> bytes:
        """32 bytes."""

    @property
    def store(self) -> Source:
        """Where the evidence is.

        Raises
        ------
        StoreError
        """

    @property
    def chain_trouble(self) -> str:
        """Why the chain did not answer at the last question; empty where it did."""

    @property
    def left_out(self) -> int:
        """Records that the last look-up left out."""

    def refresh(self) -> None:
        """Learn what is new."""

    def find(self, record_key: bytes | None, released_hash: bytes) -> list[Found]:
        """Records of a record key or of a released picture, earliest anchor first."""

    def absence(self, read: bool) -> tuple[Ledger, Check]:
        """What it means that nothing was found; `read` tells whether there was a payload to look for."""

    def payloads(self) -> list[bytes]:
        """Payloads for list decoding, 12 bytes each."""

    def remembered(self, record_key: bytes | None, released_hash: bytes) -> list[Record]:
        """Records that an earlier run saw."""

    def is_member(self, address: str) -> bool | None:
        """Whether `address` is a member; None where nobody can be asked."""

    def current_of(self, address: str) -> str:
        """Present account of the member that `address` is or was."""

    def standing(self, found: Sequence[Found], released_hash: bytes, check: Saying) -> tuple[list[Found], Found | None]:
        """What has become of records; see :func:`medprov_sdk.standing.still_standing`."""

    def model_file(self, prefix: bytes) -> Path:
        """Weights file of a released model whose hash begins with `prefix`.

        Raises
        ------
        LedgerError
            It cannot be had here.
        """

    def versions(self) -> list[bytes]:
        """Hashes of the models that may have marked a picture, newest first, withdrawn ones too, 32 bytes each."""

    def describe(self, found: Found) -> Check:
        """The check that a record stands for."""

    def conclude(self, found: Found | None, if_anchored: Verdict) -> Offline | None:
        """What the verdict rests on, where it is not the chain."""
