"""The connections to one federation's contracts, and what is needed of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from medprov_ledger.config import Config

if TYPE_CHECKING:
    from medprov_ledger.chain import Chain
    from medprov_ledger.federation import ReleasedModel
    from medprov_ledger.registry import Anchor, Registration
    from medprov_ledger.titles import Title


class Registry(Protocol):
    """What is needed of :class:`medprov_ledger.registry.Registry`."""

    def anchor(self, owner: str, root: bytes) -> Anchor | None:
        """A member's confirmed anchor of a root."""

    def anchors(self, from_block: int = 0, to_block: int | None = None) -> list[Anchor]:
        """All confirmed anchors."""

    def confirmed_head(self) -> int:
        """Number of the newest confirmed block; negative while there is none."""

    def block_hash(self, block: int) -> bytes | None:
        """Hash of a block, 32 bytes; None where there is none."""

    def registrations(self, from_block: int = 0, to_block: int | None = None) -> list[Registration]:
        """All confirmed records that were registered by themselves."""

    def verify(self, owner: str, root: bytes, leaf: bytes, proof: list[bytes]) -> bool:
        """Whether the contract accepts the proof against that member's anchor."""


class Federation(Protocol):
    """What is needed of :class:`medprov_ledger.federation.Federation`."""

    def is_member(self, address: str, block: int | None = None) -> bool:
        """Whether `address` is an active member, now or at the end of `block`."""

    def current_of(self, address: str) -> str:
        """The account with which a member goes on; `address` itself where it was never rotated."""

    def released_models(self, from_block: int = 0) -> list[ReleasedModel]:
        """All confirmed released models, oldest first, the withdrawn ones too."""


class Titles(Protocol):
    """What is needed of :class:`medprov_ledger.titles.Titles`."""

    def title(self, record_id: bytes, owner: str) -> Title:
        """What has become of a record."""


@dataclass(frozen=True)
class Block:
    """A block of the chain.

    Parameters
    ----------
    number : int
    hash : bytes
        32 bytes.
    time : int
        Seconds since 1970.
    """

    number: int
    hash: bytes
    time: int


class Chronicle(Protocol):
    """What exports need besides; :class:`ChainChronicle` asks the chain."""

    def block(self, number: int | None = None) -> Block:
        """A block; None is the newest confirmed one."""

    def members_at(self, number: int) -> tuple[str, ...]:
        """Accounts of the members that were active at the end of a block, ascending."""

    def revoked(self, last: int) -> tuple[bytes, ...]:
        """Ids of the records that were revoked up to a block, ascending."""


@dataclass(frozen=True)
class Links:
    """The connections to one federation's contracts."""

    registry: Registry
    federation: Federation
    titles: Titles
    chronicle: Chronicle


class ChainChronicle:
    """Asks the chain; see :class:`Chronicle`.

    Parameters
    ----------
    chain : Chain
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def block(self, number: int | None = None) -> Block:
        """A block; None is the newest confirmed one."""
        wanted = max(0, self._chain.confirmed_head()) if number is None else number
        with self._chain.errors():
            found = self._chain.w3.eth.get_block(wanted)
            return Block(int(found["number"]), bytes(found["hash"]), int(found["timestamp"]))

    def members_at(self, number: int) -> tuple[str, ...]:
        """Accounts of the members that were active at the end of a block, ascending."""
        from medprov_ledger.federation import Federation as ChainFederation

        federation = ChainFederation(self._chain)
        known = (member.address for member in federation.members(former=True) if member.joined_block <= number)
        return tuple(sorted(address for address in known if federation.is_member(address, number)))

    def revoked(self, last: int) -> tuple[bytes, ...]:
        """Ids of the records that were revoked up to a block, ascending."""
        logs = self._chain.events(self._chain.registry.events.RecordRevoked, 0, last)
        return tuple(sorted(bytes(log["args"]["recordId"]) for log in logs))


def connect(config: Config) -> Links:
    """Connect to the configured chain.

    Raises
    ------
    ChainError
        See :class:`medprov_ledger.chain.Chain`.
    """
    # web3 takes most of a second to import; a picture without any mark does not need it
    from medprov_ledger.chain import Chain
    from medprov_ledger.federation import Federation as ChainFederation
    from medprov_ledger.registry import Registry as ChainRegistry
    from medprov_ledger.titles import Titles as ChainTitles

    chain = Chain.connect(config)
    return Links(ChainRegistry(chain), ChainFederation(chain), ChainTitles(chain), ChainChronicle(chain))
