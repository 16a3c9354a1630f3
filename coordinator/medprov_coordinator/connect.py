"""From ``medprov.toml`` to what a run is connected to: chain, store, members."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medprov_coordinator.errors import SettingsError
from medprov_coordinator.round import Anchored, Services
from medprov_ledger.chain import Chain
from medprov_ledger.config import Config
from medprov_ledger.federation import Federation, Round
from medprov_ledger.keys import load_signer
from medprov_ledger.signer import Signer
from medprov_ledger.store import open_store


@dataclass(frozen=True)
class ChainAnchor:
    """Anchors rounds in the federation's contract with a member's account."""

    federation: Federation
    account: Signer

    def anchor(self, number: int, model_hash: bytes, cid: str, updates_root: bytes, metrics_hash: bytes) -> str | None:
        """Anchor a round; see `Federation.anchor_round`."""
        return self.federation.anchor_round(number, model_hash, cid, updates_root, metrics_hash, self.account).tx_hash

    def last(self) -> Anchored | None:
        """The chain's last round."""
        return _anchored(self.federation.last_round())

    def round(self, number: int) -> Anchored | None:
        """One round of the chain."""
        return _anchored(self.federation.round(number))


def _anchored(found: Round | None) -> Anchored | None:
    if found is None:
        return None
    hashes = (bytes(found.updates_root), bytes(found.metrics_hash))
    return Anchored(found.number, bytes(found.model_hash), found.cid, *hashes)


def connect(path: str, anchor_as: str = "") -> Services:
    """Services of a configuration file; without a path a run stays local.

    Parameters
    ----------
    path : str
        ``medprov.toml``, or empty.
    anchor_as : str
        Hospital whose account anchors; empty takes the first one in the file.

    Raises
    ------
    SettingsError
        No such hospital in the file.
    LedgerError
        The file, the chain or the store is not usable.
    """
    if not path:
        return Services()
    config = Config.load(Path(path))
    names = sorted(config.hospitals)
    name = anchor_as or (names[0] if names else "")
    if name not in config.hospitals:
        raise SettingsError(f"{path}: hospital '{name}' has no keys here: name one of [{', '.join(names)}]")
    federation = Federation(Chain.connect(config))

    def members() -> frozenset[str]:
        return frozenset(member.address for member in federation.members())

    return Services(
        federation=config.federation_id,
        anchor=ChainAnchor(federation, load_signer(config.hospitals[name])),
        store=open_store(config),
        members=members,
    )
